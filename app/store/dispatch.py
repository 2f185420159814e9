"""The journal, the record of outcomes, and leases: what stands between a claim and its settling.

Guarantees (ADR 1): bytes may leave only for what `journal` returned; everything one call writes is one
transaction; a lease that was ended can write nothing more (`LeaseLost`); a parcel is journalled by one
owner, under the Redis epoch in which it was decided, and only while its batch is running.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
from asyncpg.pgproto.pgproto import UUID as PgUUID

from app.domain import ids
from app.domain.message import State
from app.domain.pack import Parcel, bitmap, indexes_of
from app.store import locks, timelines
from app.store.intake import PARCEL_COLUMNS, as_uuid, at, parcel_row
from app.store.webhooks import Change, Publisher

SUBMIT = int(State.submitting)
OUTCOME_UNKNOWN = 4


class LeaseLost(Exception):
    """This incarnation was declared dead: it must stop, its work is in other hands."""


class FailedOver(LeaseLost):
    """PostgreSQL is on another timeline: our lease is none there."""


class EpochStale(Exception):
    """PostgreSQL no longer stands behind the Redis epoch of these decisions."""


class Stop(msgspec.Struct, gc=False):
    """A message that ends here without bytes."""

    message_id: bytes
    state: State
    reason: str


class Contact(msgspec.Struct, gc=False):
    """A hand-over that counts against caps (`contact`), or is only remembered for its text."""

    tenant_id: int
    recipient: int
    message_id: bytes
    contact: bool
    campaign: bytes
    content: bytes | None
    organisation_id: int | None
    organisation_recipient: int | None


class Intent(msgspec.Struct, gc=False):
    """What the dispatcher decided about one claimed parcel.

    `sends` are (message id, segment mask); `held` are the new parcels that carry the part that waits, with
    the reason; `decisions` are (pack indexes, trace id, held until or None); `contacts` are those of the sends that
    are counted.
    """

    parcel: Parcel
    gateway_id: int | None
    sends: list[tuple[bytes, int]]
    stops: list[Stop]
    held: list[tuple[Parcel, str]]
    decisions: list[tuple[list[int], int, float | None]]
    contacts: list[Contact] = []


class Journalled(msgspec.Struct, gc=False):
    """What may leave now. `refused` parcels are no longer ours to work on: forget them in Redis."""

    sends: set[bytes]
    owned: set[bytes]  # parcels that are under our lease now
    held: list[Parcel]
    refused: list[Parcel]
    stopped: list[Stop]


Tally = tuple[int, bytes | None, str, int, int | None, int | None, int]
"""(tenant, batch, region, category, gateway, from state, to state): the key of a delta."""


async def write_tallies(
    driver: asyncpg.Connection,
    tallies: dict[Tally, int],
    now: datetime,
    latency: dict[Tally, int] | None = None,
) -> None:
    """Deltas of the transaction that makes the moves."""
    rows = [(k, n) for k, n in tallies.items() if n]
    if rows:
        await driver.execute(
            "INSERT INTO tallies (tenant_id, batch_id, region, category, gateway_id, from_state, to_state, n,"
            " latency_ms, at) SELECT u.*, $10 FROM unnest($1::int[], $2::uuid[], $3::text[], $4::smallint[],"
            " $5::smallint[], $6::smallint[], $7::smallint[], $8::int[], $9::bigint[]) u",
            [k[0] for k, _ in rows],
            [as_uuid(k[1]) for k, _ in rows],
            [k[2] for k, _ in rows],
            [k[3] for k, _ in rows],
            [k[4] for k, _ in rows],
            [k[5] for k, _ in rows],
            [k[6] for k, _ in rows],
            [n for _, n in rows],
            [(latency or {}).get(k, 0) for k, _ in rows],
            now,
        )


_FENCE = """
UPDATE parcels p SET lease_id = $1, generation = p.generation + 1, n = 0, in_flight = u.in_flight
FROM unnest($2::uuid[], $3::int[], $4::smallint[]) u(id, generation, in_flight)
WHERE p.id = u.id AND p.generation = u.generation AND p.lease_id IS NULL
  AND (p.batch_id IS NULL OR EXISTS (SELECT FROM batches b WHERE b.id = p.batch_id AND b.state = 2))
RETURNING p.id, p.members
"""
_GUARD = """
WITH here AS MATERIALIZED (SELECT volley_timeline() AS timeline)
SELECT (SELECT epoch FROM redis_epoch
        WHERE ready AND EXISTS (SELECT FROM timelines JOIN here USING (timeline) WHERE in_order)) AS epoch,
       EXISTS (SELECT FROM leases l JOIN here USING (timeline) WHERE id = $1 AND ended_at IS NULL
               FOR SHARE OF l) AS alive
"""
_ATTEMPTS = """
INSERT INTO attempts (message_id, attempt, kind, gateway_id, mask, lease_id, at)
SELECT u.message_id, u.attempt, u.kind, u.gateway_id, u.mask, $6, $7
FROM unnest($1::uuid[], $2::smallint[], $3::smallint[], $4::smallint[], $5::bigint[])
     u(message_id, attempt, kind, gateway_id, mask)
ON CONFLICT DO NOTHING RETURNING message_id
"""
_FINALS = """
INSERT INTO finals (message_id, state, reason, raw, at)
SELECT u.*, $5 FROM unnest($1::uuid[], $2::smallint[], $3::text[], $4::text[]) u
ON CONFLICT DO NOTHING RETURNING message_id
"""


async def write_finals(
    driver: asyncpg.Connection, rows: Sequence[tuple[bytes, int, str | None, str | None]], now: datetime
) -> set[bytes]:
    """(message id, state, reason, raw); gives the messages that became final by this call."""
    if not rows:
        return set()
    written = await driver.fetch(
        _FINALS,
        [PgUUID(r[0]) for r in rows],
        [r[1] for r in rows],
        [r[2] for r in rows],
        [r[3] for r in rows],
        now,
    )
    return {row[0].bytes for row in written}


async def guard(driver: asyncpg.Connection, lease_id: int, epoch: int | None) -> None:
    """First statement of a dispatcher's transaction: our lease lives, and (if given) the epoch stands."""
    row = await driver.fetchrow(_GUARD, lease_id)
    if not row["alive"]:
        raise LeaseLost
    if epoch is not None and row["epoch"] != epoch:
        raise EpochStale


async def journal(
    driver: asyncpg.Connection,
    intents: Sequence[Intent],
    lease_id: int,
    epoch: int,
    now_s: float,
    publisher: Publisher,
) -> Journalled:
    """Commit what is about to be handed over, and what is not. Raises LeaseLost, EpochStale."""
    now = at(now_s)
    assert now is not None
    async with driver.transaction():
        await guard(driver, lease_id, epoch)
        intents, doubled = _apart(intents)
        fenced = {
            row[0].bytes: row[1]
            for row in await driver.fetch(
                _FENCE,
                lease_id,
                [PgUUID(i.parcel.id) for i in intents],
                [i.parcel.generation for i in intents],
                [len(i.sends) for i in intents],
            )
        }
        mine = [i for i in intents if i.parcel.id in fenced]
        await _drop_ended(driver, mine)
        refused = [i.parcel for i in intents if i.parcel.id not in fenced] + doubled
        won = await _insert_attempts(driver, mine, lease_id, now)
        stops = [(i.parcel.pack.tenant_id, s) for i in mine for s in i.stops if s.message_id in won]
        stopped = [s for _, s in stops]
        await publisher.publish(driver, [Change(t, s.message_id, s.state, s.reason) for t, s in stops], now_s)
        await write_finals(driver, [(s.message_id, int(s.state), s.reason, None) for s in stopped], now)
        held = _still_members(mine, fenced)
        await insert_parcels(driver, held)
        await _insert_decisions(driver, mine, now)
        await remember_contacts(
            driver, [one for i in mine for one in i.contacts if one.message_id in won], now
        )
        await write_tallies(driver, _journal_tallies(mine, won), now)
        await _keep_only_sent(driver, mine)
        finished = [PgUUID(i.parcel.id) for i in mine if not i.sends]
        if finished:
            await driver.execute("DELETE FROM parcels WHERE id = ANY($1)", finished)
    return Journalled(won, {i.parcel.id for i in mine if i.sends}, [p for p, _ in held], refused, stopped)


def _apart(intents: Sequence[Intent]) -> tuple[list[Intent], list[Parcel]]:
    """Intents that share no message, and the parcels of the others: a message is never in two parcels, and if
    it were, one transaction must not send it twice."""
    seen: set[bytes] = set()
    kept, doubled = [], []
    for intent in intents:
        sends = {message_id for message_id, _ in intent.sends}
        if seen.isdisjoint(sends):
            seen |= sends
            kept.append(intent)
        else:
            doubled.append(intent.parcel)
    return kept, doubled


async def _keep_only_sent(driver: asyncpg.Connection, intents: Sequence[Intent]) -> None:
    """A parcel under way has the members that were journalled, and no others: what is held has a parcel of its own,
    and who takes over from a dead lease must not find it in both."""
    split = [i for i in intents if i.sends and len(i.sends) < len(i.parcel.pack.entries)]
    if split:
        await driver.execute(
            "UPDATE parcels p SET members = u.members FROM unnest($1::uuid[], $2::bytea[]) u(id, members)"
            " WHERE p.id = u.id",
            [PgUUID(i.parcel.id) for i in split],
            [bitmap(ids.index_of(message_id) for message_id, _ in i.sends) for i in split],
        )


async def _drop_ended(driver: asyncpg.Connection, intents: Sequence[Intent]) -> None:
    """What is to be repeated may have ended by a receipt meanwhile: then it goes nowhere."""
    repeated = [intent for intent in intents if intent.parcel.attempt > 1]
    if not repeated:
        return
    members = [
        ids.message_id(i.parcel.pack_id, entry.index) for i in repeated for entry in i.parcel.pack.entries
    ]
    ended = await are_final(driver, members)
    for intent in repeated if ended else ():
        intent.sends = [send for send in intent.sends if send[0] not in ended]
        intent.stops = [stop for stop in intent.stops if stop.message_id not in ended]
        held = [(_without(parcel, ended), reason) for parcel, reason in intent.held]
        intent.held = [(parcel, reason) for parcel, reason in held if parcel.pack.entries]


async def _insert_attempts(
    driver: asyncpg.Connection, intents: Sequence[Intent], lease_id: int, now: datetime
) -> set[bytes]:
    message_ids: list[PgUUID] = []
    attempts: list[int] = []
    kinds: list[int] = []
    gateways: list[int | None] = []
    masks: list[int] = []
    for intent in intents:
        for message_id, mask in intent.sends:
            message_ids.append(PgUUID(message_id))
            masks.append(mask)
        count = len(intent.sends)
        kinds += [SUBMIT] * count
        gateways += [intent.gateway_id] * count
        for stop in intent.stops:
            message_ids.append(PgUUID(stop.message_id))
            masks.append(0)
            kinds.append(int(stop.state))
            gateways.append(None)
        attempts += [intent.parcel.attempt] * (count + len(intent.stops))
    if not message_ids:
        return set()
    rows = await driver.fetch(_ATTEMPTS, message_ids, attempts, kinds, gateways, masks, lease_id, now)
    return {row[0].bytes for row in rows}


def _still_members(intents: Sequence[Intent], fenced: dict[bytes, Any]) -> list[tuple[Parcel, str]]:
    """The held parcels without what was cancelled since Redis' copy was made."""
    out = []
    for intent in intents:
        members = fenced[intent.parcel.id]
        for parcel, reason in intent.held:
            if members is not None:
                alive = set(indexes_of(members))
                entries = [e for e in parcel.pack.entries if e.index in alive]
                if not entries:
                    continue
                if len(entries) < len(parcel.pack.entries):
                    parcel.pack = msgspec.structs.replace(parcel.pack, entries=entries)
            out.append((parcel, reason))
    return out


async def insert_parcels(driver: asyncpg.Connection, parcels: Iterable[tuple[Parcel, str]]) -> None:
    """New parcels with the reason why they wait."""
    rows = [
        parcel_row(parcel, members=bitmap(e.index for e in parcel.pack.entries), reason=reason)
        for parcel, reason in parcels
    ]
    if rows:
        await driver.copy_records_to_table("parcels", records=rows, columns=PARCEL_COLUMNS)


async def _insert_decisions(driver: asyncpg.Connection, intents: Sequence[Intent], now: datetime) -> None:
    rows = [
        (PgUUID(i.parcel.pack_id), bitmap(indexes), i.parcel.attempt, trace_id, now, at(until))
        for i in intents
        for indexes, trace_id, until in i.decisions
    ]
    if rows:
        await driver.execute(
            "INSERT INTO decisions (pack_id, members, attempt, trace_id, at, until) SELECT * FROM"
            " unnest($1::uuid[], $2::bytea[], $3::smallint[], $4::bigint[], $5::timestamptz[], $6::timestamptz[])",
            *(list(column) for column in zip(*rows, strict=True)),
        )


def _journal_tallies(intents: Sequence[Intent], won: set[bytes]) -> dict[Tally, int]:
    tallies: dict[Tally, int] = {}
    for intent in intents:
        pack = intent.parcel.pack
        key = (pack.tenant_id, pack.batch_id, pack.region, pack.category)
        sent = sum(1 for message_id, _ in intent.sends if message_id in won)
        if sent:
            full = (*key, intent.gateway_id, int(State.queued), SUBMIT)
            tallies[full] = tallies.get(full, 0) + sent
        for stop in intent.stops:
            if stop.message_id in won:
                full = (*key, None, int(State.queued), int(stop.state))
                tallies[full] = tallies.get(full, 0) + 1
    return tallies


async def under_lease(driver: asyncpg.Connection, parcel_ids: Sequence[bytes], lease_id: int) -> set[bytes]:
    """Which of these parcels a lease has journalled and not settled. Waits for a journal that is still under way."""
    rows = await driver.fetch(
        "SELECT id, lease_id FROM parcels WHERE id = ANY($1) ORDER BY id FOR UPDATE",
        [PgUUID(p) for p in parcel_ids],
    )
    return {row[0].bytes for row in rows if row[1] == lease_id}


OUTCOME_COLUMNS = [
    "message_id",
    "attempt",
    "segment",
    "segments",
    "gateway_id",
    "kind",
    "to_check",
    "gateway_message_id",
    "reason",
    "raw",
    "at",
]


class Again(msgspec.Struct, gc=False):
    """What is to be repeated: the new parcel, why, and each member's move back to the queue."""

    parcel: Parcel
    reason: str
    move: Tally


class Record(msgspec.Struct, gc=False):
    """What became of handed-over messages since the last flush.

    `outcomes` are rows of OUTCOME_COLUMNS; `finals` are (message id, state, reason, raw); `settled` are the
    ids of parcels with every answer in; `again` the new parcels for what is to be repeated. `later` are the moves
    of messages in their second or a later attempt: a receipt for an earlier one may have ended them meanwhile.
    """

    outcomes: list[tuple]
    finals: list[tuple[bytes, int, str | None, str | None]]
    tallies: dict[Tally, int]
    settled: list[bytes]
    again: list[Again]
    changes: list[Change]
    later: list[tuple[bytes, list[Tally]]]
    written: dict[Tally, int] = {}  # the moves that were made: set by `record`


async def record(
    driver: asyncpg.Connection,
    batch: Record,
    lease_id: int,
    now_s: float,
    publisher: Publisher,
    also: Callable[[asyncpg.Connection], Awaitable[None]] | None = None,
) -> None:
    """Commit outcomes and settle parcels, and what `also` writes. Raises LeaseLost: then nothing was written."""
    now = at(now_s)
    assert now is not None
    async with driver.transaction():
        await guard(driver, lease_id, None)
        if batch.outcomes:
            await driver.copy_records_to_table("outcomes", records=batch.outcomes, columns=OUTCOME_COLUMNS)
        tallies = await _without_ended(driver, batch)
        await write_finals(driver, batch.finals, now)
        await publisher.publish(driver, batch.changes, now_s)
        await insert_parcels(driver, [(again.parcel, again.reason) for again in batch.again])
        await write_tallies(driver, tallies, now)
        await _wake_parked(driver, batch, now)
        if batch.settled:
            await driver.execute(
                "DELETE FROM parcels WHERE id = ANY($1) AND lease_id = $2",
                [PgUUID(one) for one in batch.settled],
                lease_id,
            )
        if also is not None:
            await also(driver)
    batch.written = tallies


async def _without_ended(driver: asyncpg.Connection, batch: Record) -> dict[Tally, int]:
    """Drop from the batch what a receipt has ended meanwhile: its finals, moves and repetitions. Gives the tallies."""
    tallies = dict(batch.tallies)
    waiting = [
        ids.message_id(again.parcel.pack_id, entry.index)
        for again in batch.again
        for entry in again.parcel.pack.entries
    ]
    touched = [message_id for message_id, _ in batch.later] + waiting
    ended: set[bytes] = set()
    if touched:
        await driver.execute("SELECT pg_advisory_xact_lock($1)", locks.SEGMENTS)
        ended = await are_final(driver, touched)
    for message_id, moves in batch.later:
        if message_id not in ended:
            for key in moves:
                tallies[key] = tallies.get(key, 0) + 1
    batch.finals = [row for row in batch.finals if row[0] not in ended]
    batch.changes = [change for change in batch.changes if change.message_id not in ended]
    for again in batch.again:
        again.parcel = _without(again.parcel, ended)
        tallies[again.move] = tallies.get(again.move, 0) + len(again.parcel.pack.entries)
    batch.again = [again for again in batch.again if again.parcel.pack.entries]
    return tallies


async def are_final(driver: asyncpg.Connection, message_ids: Sequence[bytes]) -> set[bytes]:
    """Those of these messages that have ended."""
    rows = await driver.fetch(
        "SELECT message_id FROM finals WHERE message_id = ANY($1)", [PgUUID(m) for m in message_ids]
    )
    return {row[0].bytes for row in rows}


def _without(parcel: Parcel, ended: set[bytes]) -> Parcel:
    """The parcel without members that have ended."""
    alive = [e for e in parcel.pack.entries if ids.message_id(parcel.pack_id, e.index) not in ended]
    if len(alive) == len(parcel.pack.entries):
        return parcel
    return msgspec.structs.replace(parcel, pack=msgspec.structs.replace(parcel.pack, entries=alive))


async def _wake_parked(driver: asyncpg.Connection, batch: Record, now: datetime) -> None:
    """An attempt has become `unknown`: a receipt that fits nothing yet may be its own. Look before it is repeated."""
    gateways = {row[4] for row in batch.outcomes if row[5] == OUTCOME_UNKNOWN}
    if gateways:
        await driver.execute(
            "UPDATE parked_receipts SET next_at = $2 WHERE gateway_id = ANY($1::smallint[]) AND next_at > $2",
            list(gateways),
            now,
        )


async def recorded(driver: asyncpg.Connection, batch: Record, lease_id: int) -> bool:
    """Whether a `record` of this batch whose commit got no answer was committed after all. Waits for one that is
    still under way: it holds a share of the lease's row."""
    async with driver.transaction():
        await driver.execute("SELECT FROM leases WHERE id = $1 FOR UPDATE", lease_id)
        if not batch.outcomes:
            return False  # parcels of which nothing was left to send: settling them twice does nothing
        message_id, attempt, segment = batch.outcomes[0][:3]
        return await driver.fetchval(
            "SELECT EXISTS (SELECT FROM outcomes WHERE message_id = $1 AND attempt = $2 AND segment = $3)",
            message_id,
            attempt,
            segment,
        )


async def intern_traces(driver: asyncpg.Connection, traces: dict[int, list]) -> None:
    """Decision vectors by their hash; writing one again does nothing."""
    await driver.execute(
        "INSERT INTO traces (id, vector) SELECT * FROM unnest($1::bigint[], $2::jsonb[]) ON CONFLICT DO NOTHING",
        list(traces),
        [msgspec.json.encode(vector).decode() for vector in traces.values()],
    )


async def remember_contacts(driver: asyncpg.Connection, contacts: Sequence[Contact], now: datetime) -> None:
    """What was counted, for the rebuilding of the counters."""
    if contacts:
        await driver.copy_records_to_table(
            "cap_events",
            records=[
                (
                    c.tenant_id, c.recipient, PgUUID(c.message_id), now, c.contact, c.campaign, c.content,
                    c.organisation_id, c.organisation_recipient,
                )
                for c in contacts
            ],
            columns=[
                "tenant_id", "recipient", "message_id", "at", "contact", "campaign", "content",
                "organisation_id", "organisation_recipient",
            ],
        )  # fmt: skip


async def forget_contacts(driver: asyncpg.Connection, before: datetime) -> int:
    """Drop what no cap looks at any more; gives how many."""
    done = await driver.execute("DELETE FROM cap_events WHERE at < $1", before)
    return int(done.rpartition(" ")[2])


# Leases


class Sighting(msgspec.Struct, frozen=True):
    """A lease that has not ended: its last heartbeat, and whether a connection holds its lock."""

    lease_id: int
    seen_at: datetime
    held: bool


async def open_lease(driver: asyncpg.Connection, name: str) -> int:
    """A new incarnation."""
    return await driver.fetchval(
        "INSERT INTO leases (name, timeline) VALUES ($1, volley_timeline()) RETURNING id", name
    )


async def hold_lease(driver: asyncpg.Connection, lease_id: int) -> None:
    """Take the lease's lock for as long as this connection lives: it is free when our process or its machine is
    gone. Waits for an earlier connection of ours that PostgreSQL still believes in."""
    # A machine that vanished sends no FIN. Over a Unix socket these do nothing.
    await driver.execute(
        "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3"
    )
    await driver.execute("SELECT pg_advisory_lock($1::int, $2::int)", locks.LEASE_CLASS, lease_id)


async def beat(driver: asyncpg.Connection, lease_id: int, timeline: str) -> None:
    """Still alive, on the timeline that we began on. Raises LeaseLost, FailedOver."""
    if await timelines.current(driver) != timeline:
        raise FailedOver
    if (
        await driver.execute(
            "UPDATE leases SET seen_at = now() WHERE id = $1 AND ended_at IS NULL AND timeline = volley_timeline()",
            lease_id,
        )
        != "UPDATE 1"
    ):
        raise LeaseLost
    await timelines.beat(driver)


async def end_lease(driver: asyncpg.Connection, lease_id: int) -> bool:
    """Declare a lease over; False when it was already."""
    return (
        await driver.execute(
            "UPDATE leases SET ended_at = now() WHERE id = $1 AND ended_at IS NULL", lease_id
        )
        == "UPDATE 1"
    )


async def live_leases(driver: asyncpg.Connection) -> list[int]:
    """Incarnations that are alive, oldest first."""
    return [r[0] for r in await driver.fetch("SELECT id FROM leases WHERE ended_at IS NULL ORDER BY id")]


_SIGHTINGS = """
SELECT l.id, l.seen_at, EXISTS (
    SELECT FROM pg_locks k WHERE k.locktype = 'advisory' AND k.granted AND k.objsubid = 2
      AND k.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
      AND k.classid = $1::bigint::oid AND k.objid = l.id::oid)
FROM leases l WHERE l.ended_at IS NULL
"""


async def sightings(driver: asyncpg.Connection) -> list[Sighting]:
    """Every lease that has not ended."""
    return [Sighting(*row) for row in await driver.fetch(_SIGHTINGS, locks.LEASE_CLASS)]


async def end_silent(driver: asyncpg.Connection, silent: Sighting) -> bool:
    """Declare a lease over, unless it was heard of since it was seen so; False: it was, or it is over already."""
    return (
        await driver.execute(
            "UPDATE leases SET ended_at = now() WHERE id = $1 AND ended_at IS NULL AND seen_at = $2",
            silent.lease_id,
            silent.seen_at,
        )
        == "UPDATE 1"
    )


async def ended_with_work(driver: asyncpg.Connection) -> list[int]:
    """Leases that are over and not yet closed: their work is still to be taken over."""
    rows = await driver.fetch("SELECT id FROM leases WHERE ended_at IS NOT NULL AND NOT closed ORDER BY id")
    return [r[0] for r in rows]


async def close_lease(driver: asyncpg.Connection, lease_id: int) -> bool:
    """Nothing is left under this lease. False: a parcel is, somebody had it locked when it was to be retaken."""
    return (
        await driver.execute(
            "UPDATE leases SET closed = true WHERE id = $1"
            " AND NOT EXISTS (SELECT FROM parcels WHERE lease_id = $1)",
            lease_id,
        )
        == "UPDATE 1"
    )


async def forget_leases(driver: asyncpg.Connection) -> None:
    """Leases closed long ago."""
    await driver.execute("DELETE FROM leases WHERE closed AND ended_at < now() - interval '7 days'")
