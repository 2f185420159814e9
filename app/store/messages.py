"""Reading messages: their content from packs, their state folded from what was appended since.

Guarantees: every query asks for the tenant; a page costs a fixed number of statements, however many
messages it has; a committed message is found from its commit on.

How a state is folded: a final row decides; else the newest attempt's outcomes; else the open parcel that
holds the message. See `fold`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
from asyncpg.pgproto.pgproto import UUID as PgUUID

from app.domain import ids
from app.domain.message import State
from app.domain.pack import Entry, Pack, decode_pack, indexes_of
from app.store.batches import BatchState
from app.store.intake import TALLY_COLUMNS, as_uuid, at, signed
from app.store.webhooks import Change, Publisher

HANDED_OVER = int(State.submitting)  # the kind of an attempt that went to a gateway
ACCEPTED, REJECTED, REPEAT, UNKNOWN = 1, 2, 3, 4  # kinds of outcomes
OUTCOMES = {ACCEPTED: "accepted", REJECTED: "rejected", REPEAT: "to_repeat", UNKNOWN: "unknown"}


class Stored(msgspec.Struct, frozen=True):
    """A message with its pack."""

    id: bytes
    pack_id: bytes
    pack: Pack
    entry: Entry


class Outcome(msgspec.Struct, frozen=True):
    """What a gateway answered to one segment."""

    segment: int
    segments: int
    kind: int
    gateway_id: int
    gateway_message_id: str | None
    reason: str | None
    raw: str | None
    at: datetime


class Attempt(msgspec.Struct, frozen=True):
    """A hand-over, or what took its place."""

    attempt: int
    kind: int
    gateway_id: int | None
    mask: int
    at: datetime
    outcomes: tuple[Outcome, ...]


class Standing(msgspec.Struct, frozen=True):
    """Where a message stands. `until`: held till then. `at`: since when, where that is known."""

    state: State
    reason: str | None = None
    raw: str | None = None
    at: datetime | None = None
    until: datetime | None = None
    attempts: tuple[Attempt, ...] = ()


class Check(msgspec.Struct, frozen=True):
    """One line of a decision trace."""

    check: str
    rule: str
    version: str
    verdict: str
    attempt: int
    at: datetime
    until: datetime | None


class Waiting(msgspec.Struct, frozen=True):
    """A parcel as far as reading needs it."""

    members: frozenset[int] | None  # None: all of the pack
    attempt: int
    due_at: datetime
    reason: str | None


class Facts(msgspec.Struct):
    """What was appended about some messages."""

    finals: dict[bytes, asyncpg.Record]
    attempts: dict[bytes, list[Attempt]]
    parcels: dict[bytes, list[Waiting]]
    batches: dict[bytes, BatchState]


async def find(driver: asyncpg.Connection, tenant_id: int, message_id: bytes) -> Stored | None:
    """One message of the tenant."""
    index = ids.index_of(message_id)
    if index < 0:
        return None
    pack_id = ids.pack_of(message_id)
    payload = await driver.fetchval(
        "SELECT payload FROM packs WHERE id = $1 AND tenant_id = $2", as_uuid(pack_id), tenant_id
    )
    if payload is None:
        return None
    pack = decode_pack(payload)
    entry = next((one for one in pack.entries if one.index == index), None)
    return None if entry is None else Stored(message_id, pack_id, pack, entry)


async def by_recipient(
    driver: asyncpg.Connection,
    tenant_id: int,
    recipient: bytes,
    *,
    low: bytes,
    high: bytes,
    limit: int,
) -> list[bytes]:
    """Ids of messages to that recipient (its hash) with low <= id < high, newest first."""
    rows = await driver.fetch(
        "SELECT message_id FROM lookups WHERE recipient = $1 AND tenant_id = $2 "
        "AND message_id >= $3 AND message_id < $4 ORDER BY message_id DESC LIMIT $5",
        signed(recipient),
        tenant_id,
        as_uuid(low),
        as_uuid(high),
        limit,
    )
    return [row[0].bytes for row in rows]


async def by_reference(
    driver: asyncpg.Connection,
    tenant_id: int,
    reference: str,
    *,
    low: bytes,
    high: bytes,
    limit: int,
) -> list[bytes]:
    """Ids of messages with that client reference and low <= id < high, newest first."""
    rows = await driver.fetch(
        "SELECT message_id FROM lookups WHERE tenant_id = $1 AND reference = $2 "
        "AND message_id >= $3 AND message_id < $4 ORDER BY message_id DESC LIMIT $5",
        tenant_id,
        reference,
        as_uuid(low),
        as_uuid(high),
        limit,
    )
    return [row[0].bytes for row in rows]


async def stored(driver: asyncpg.Connection, tenant_id: int, message_ids: Sequence[bytes]) -> list[Stored]:
    """Those messages with their content, in the order asked for."""
    packs = {
        row["id"].bytes: decode_pack(row["payload"])
        for row in await driver.fetch(
            "SELECT id, payload FROM packs WHERE id = ANY($1) AND tenant_id = $2",
            [PgUUID(one) for one in {ids.pack_of(message) for message in message_ids}],
            tenant_id,
        )
    }
    entries = {pack_id: {entry.index: entry for entry in pack.entries} for pack_id, pack in packs.items()}
    found = []
    for message in message_ids:
        pack_id = ids.pack_of(message)
        entry = entries.get(pack_id, {}).get(ids.index_of(message))
        if entry is not None:
            found.append(Stored(message, pack_id, packs[pack_id], entry))
    return found


_NEWEST = """
SELECT id, payload FROM packs WHERE tenant_id = $1 AND $5::uuid IS NULL AND id >= $2 AND id < $3
ORDER BY id DESC LIMIT $4
"""
_NEWEST_OF_BATCH = """
SELECT id, payload FROM packs WHERE batch_id = $5 AND tenant_id = $1 AND id >= $2 AND id < $3
ORDER BY id DESC LIMIT $4
"""


async def newest(
    driver: asyncpg.Connection,
    tenant_id: int,
    *,
    batch_id: bytes | None,
    low: bytes,
    high: bytes,
    packs: int,
) -> tuple[list[Stored], bytes | None]:
    """Messages with low <= id < high, newest first, of up to that many packs; and the `high` to go on with.

    Of a batch, or of the whole tenant. None: there is nothing more.
    """
    rows = await driver.fetch(
        _NEWEST_OF_BATCH if batch_id else _NEWEST,
        tenant_id,
        as_uuid(ids.pack_of(low)),
        as_uuid(high),
        packs,
        as_uuid(batch_id),
    )
    found: list[Stored] = []
    for row in rows:
        pack_id, pack = row["id"].bytes, decode_pack(row["payload"])
        for entry in reversed(pack.entries):
            message = ids.message_id(pack_id, entry.index)
            if low <= message < high:
                found.append(Stored(message, pack_id, pack, entry))
    return found, rows[-1]["id"].bytes if len(rows) == packs else None


async def facts(driver: asyncpg.Connection, messages: Sequence[Stored]) -> Facts:
    """What was appended about these messages: five statements."""
    message_ids = [PgUUID(one.id) for one in messages]
    pack_ids = [PgUUID(one) for one in {one.pack_id for one in messages}]
    batch_ids = [PgUUID(one) for one in {m.pack.batch_id for m in messages if m.pack.batch_id}]
    # parcels before the rest: what moves on between two statements is then found where it went
    parcels: dict[bytes, list[Waiting]] = defaultdict(list)
    for row in await driver.fetch(
        "SELECT pack_id, members, attempt, due_at, reason FROM parcels WHERE pack_id = ANY($1) AND n > 0",
        pack_ids,
    ):
        members = None if row["members"] is None else frozenset(indexes_of(row["members"]))
        parcels[row["pack_id"].bytes].append(Waiting(members, row["attempt"], row["due_at"], row["reason"]))
    batches = {
        row["id"].bytes: BatchState(row["state"])
        for row in await driver.fetch("SELECT id, state FROM batches WHERE id = ANY($1)", batch_ids)
    }
    outcomes: dict[tuple[bytes, int], list[Outcome]] = defaultdict(list)
    for row in await driver.fetch(_OUTCOMES, message_ids):
        message, attempt, *rest = row
        outcomes[(message.bytes, attempt)].append(Outcome(*rest))
    attempts: dict[bytes, list[Attempt]] = defaultdict(list)
    for row in await driver.fetch(_ATTEMPTS, message_ids):
        one, number = row["message_id"].bytes, row["attempt"]
        attempts[one].append(
            Attempt(
                number,
                row["kind"],
                row["gateway_id"],
                row["mask"],
                row["at"],
                tuple(outcomes.get((one, number), ())),
            )
        )
    finals = {row["message_id"].bytes: row for row in await driver.fetch(_FINALS, message_ids)}
    return Facts(finals, attempts, parcels, batches)


_OUTCOMES = """
SELECT message_id, attempt, segment, segments, kind, gateway_id, gateway_message_id, reason, raw, at
FROM outcomes WHERE message_id = ANY($1) ORDER BY message_id, attempt, segment, at
"""
_ATTEMPTS = """
SELECT message_id, attempt, kind, gateway_id, mask, at
FROM attempts WHERE message_id = ANY($1) ORDER BY message_id, attempt
"""
_FINALS = "SELECT message_id, state, reason, raw, at FROM finals WHERE message_id = ANY($1)"


def fold(message: Stored, known: Facts, now: datetime) -> Standing:
    """The message's state."""
    attempts = tuple(known.attempts.get(message.id, ()))
    final = known.finals.get(message.id)
    if final is not None:
        return Standing(State(final["state"]), final["reason"], final["raw"], final["at"], attempts=attempts)
    index = message.entry.index
    handed_over = [one for one in attempts if one.kind == HANDED_OVER]
    last = handed_over[-1] if handed_over else None
    for parcel in known.parcels.get(message.pack_id, ()):
        if parcel.members is not None and index not in parcel.members:
            continue
        if last is not None and parcel.attempt <= last.attempt:
            continue  # the parcel of that attempt, not yet settled
        return _waiting(message, parcel, known, now, attempts)
    if last is None:
        # a stop that took the attempt's place and whose final row is a moment behind, or a settled pack
        return Standing(State.queued, attempts=attempts)
    return _submitted(last, attempts)


def _waiting(
    message: Stored, parcel: Waiting, known: Facts, now: datetime, attempts: tuple[Attempt, ...]
) -> Standing:
    batch = known.batches.get(message.pack.batch_id) if message.pack.batch_id else None
    if batch is BatchState.loading:
        return Standing(State.accepted, "loading", attempts=attempts)
    if parcel.due_at > now:
        return Standing(State.deferred, parcel.reason or "scheduled", until=parcel.due_at, attempts=attempts)
    held = {BatchState.paused: "paused", BatchState.cancelled: "batch_cancelled"}
    reason = held.get(batch, parcel.reason) if batch else parcel.reason
    return Standing(State.queued, reason, attempts=attempts)


def _submitted(last: Attempt, attempts: tuple[Attempt, ...]) -> Standing:
    """The state that the outcomes make: of the newest outcome of each segment, over all attempts."""
    if not last.outcomes:
        return Standing(State.submitting, at=last.at, attempts=attempts)
    newest_of: dict[int, Outcome] = {}
    segments = last.outcomes[0].segments
    for attempt in attempts:
        for outcome in attempt.outcomes:
            if outcome.segments == segments:  # not what another gateway had cut otherwise, and sent in vain
                newest_of[outcome.segment] = outcome
    unknown = next((one for one in newest_of.values() if one.kind == UNKNOWN), None)
    at_ = max(one.at for one in newest_of.values())
    if unknown is not None:
        return Standing(State.unknown, unknown.reason, unknown.raw, at_, attempts=attempts)
    if len(newest_of) == segments and all(one.kind == ACCEPTED for one in newest_of.values()):
        return Standing(State.submitted, at=at_, attempts=attempts)
    return Standing(State.submitting, at=at_, attempts=attempts)


async def trace(driver: asyncpg.Connection, message: Stored) -> list[Check]:
    """The decisions about a message, oldest first, each with its checks."""
    index = message.entry.index
    rows = await driver.fetch(
        "SELECT d.members, d.attempt, d.at, d.until, t.vector FROM decisions d "
        "JOIN traces t ON t.id = d.trace_id WHERE d.pack_id = $1 ORDER BY d.at, d.attempt",
        as_uuid(message.pack_id),
    )
    found = []
    for row in rows:
        if index not in indexes_of(row["members"]):
            continue
        vector = row["vector"]
        for check, rule, version, verdict in (
            msgspec.json.decode(vector) if isinstance(vector, str | bytes) else vector
        ):
            found.append(Check(check, rule, str(version), verdict, row["attempt"], row["at"], row["until"]))
    return found


async def segment_states(
    driver: asyncpg.Connection, message_id: bytes
) -> dict[int, tuple[State, str | None]]:
    """The receipts' word on each segment of a text of several: (state, raw)."""
    rows = await driver.fetch(
        "SELECT segment, state, raw FROM segment_states WHERE message_id = $1", as_uuid(message_id)
    )
    return {row["segment"]: (State(row["state"]), row["raw"]) for row in rows}


async def gateway_names(driver: asyncpg.Connection) -> dict[int, str]:
    """Gateways' names by id."""
    return {row["id"]: row["name"] for row in await driver.fetch("SELECT id, name FROM gateways")}


async def cancel(driver: asyncpg.Connection, message: Stored, reason: str, now_s: float) -> bool:
    """Stop one message that waits, and tell of it; False when it is too late (handed over, or about to be). In
    the caller's transaction. The stop takes the attempt's key, so either it or the text wins."""
    index = message.entry.index
    row = await _open_parcel(driver, message.pack_id, index)
    if row is None or row["lease_id"] is not None:
        return False
    now = at(now_s)
    won = await driver.fetchval(
        "INSERT INTO attempts (message_id, attempt, kind, gateway_id, mask, lease_id, at) "
        "VALUES ($1, $2, $3, NULL, 0, 0, $4) ON CONFLICT DO NOTHING RETURNING attempt",
        as_uuid(message.id),
        row["attempt"],
        int(State.cancelled),
        now,
    )
    if won is None:
        return False
    await driver.execute(
        "INSERT INTO finals (message_id, state, reason, at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        as_uuid(message.id),
        int(State.cancelled),
        reason,
        now,
    )
    await _leave(driver, row, message, index)
    await driver.copy_records_to_table(
        "tallies",
        records=[_cancelled_tally(message.pack, now)],
        columns=TALLY_COLUMNS,
    )
    change = Change(message.pack.tenant_id, message.id, State.cancelled, reason)
    await Publisher().publish(driver, [change], now_s)
    return True


def _cancelled_tally(pack: Pack, now: datetime | None) -> tuple[Any, ...]:
    batch = as_uuid(pack.batch_id)
    moved = (int(State.queued), int(State.cancelled), 1, now)
    return (pack.tenant_id, batch, pack.region, pack.category, None, *moved)


async def _open_parcel(driver: asyncpg.Connection, pack_id: bytes, index: int) -> asyncpg.Record | None:
    """The parcel that holds the message, locked."""
    rows = await driver.fetch(
        "SELECT id, members, n, attempt, lease_id FROM parcels WHERE pack_id = $1 AND n > 0 FOR UPDATE",
        as_uuid(pack_id),
    )
    for row in rows:
        if row["members"] is None or index in indexes_of(row["members"]):
            return row
    return None


async def _leave(driver: asyncpg.Connection, parcel: asyncpg.Record, message: Stored, index: int) -> None:
    """Take the message out of its parcel; an empty parcel goes."""
    if parcel["n"] == 1:
        await driver.execute("DELETE FROM parcels WHERE id = $1", parcel["id"])
        return
    if parcel["members"] is None:
        present: Iterable[int] = [entry.index for entry in message.pack.entries]
    else:
        present = indexes_of(parcel["members"])
    bits = 0
    for one in present:
        if one != index:
            bits |= 1 << one
    await driver.execute(
        "UPDATE parcels SET n = n - 1, members = $2 WHERE id = $1",
        parcel["id"],
        bits.to_bytes((bits.bit_length() + 7) // 8 or 1, "little"),
    )
