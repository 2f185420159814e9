"""Receipts: stored, matched, and moved into states, in one transaction.

Guarantees: a message becomes final once, whatever the order and number of its receipts; a carrier's id is
matched to the newest attempt of that gateway within the horizon whose recipient agrees; what matches
nothing is parked and tried again, never dropped; a text that turns out to have arrived is taken out of the
parcel that would have sent it again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

import asyncpg
import msgspec
from asyncpg.pgproto.pgproto import UUID as PgUUID

from app.domain import ids, mentions
from app.domain.message import State
from app.domain.pack import Entry, Pack, bitmap, decode_pack, indexes_of
from app.domain.storable import moment, word
from app.store import locks, recalls
from app.store.dispatch import Tally, write_finals, write_tallies
from app.store.intake import as_uuid, at

HORIZON_S = 72 * 3600  # no receipt by then: unconfirmed
OLDEST_MESSAGE_S = (
    40 * 86_400
)  # how long before its attempt a message may have been accepted, at the fast look
SUBMIT_DATE_SLACK_S = 15 * 60  # a carrier's submit date is in its own time, to the minute
PARK_FIRST_S = 2
ANY_GATEWAY = 0  # of an attempt that only a failover speaks of
UNKNOWN_CANDIDATES = 64  # segments looked at; a text has no more
PARK_LIMIT_S = 3600
MAX_WORD_CHARACTERS = 255  # of an id, status or code of the carrier's

FINAL_OF = {
    "delivered": State.delivered,
    "undelivered": State.undelivered,
    "expired": State.undelivered,
    "deleted": State.undelivered,
    "rejected": State.rejected,
    "cancelled": State.cancelled,  # `deleted`, and we had asked for it
}


_REASONS = {
    "delivered": None,
    "expired": "carrier_expired",
    "deleted": "carrier_deleted",
    "cancelled": "taken_back",
}


class Slip(msgspec.Struct, gc=False):
    """A receipt on its way in. `to_check` is None when the carrier names no recipient."""

    gateway_id: int
    gateway_message_id: str
    state: str
    raw: str
    error: str
    done_at: float | None
    submitted_at: float | None
    to_check: int | None
    received_at: float
    whole: bool = False  # it speaks of all segments
    opted_out: bool = False  # the person had said stop to the carrier


Siblings = Callable[[int], Sequence[int]]
"""The gateways that share a gateway's account at the carrier, itself among them: each may get the others' receipts."""


def alone(gateway_id: int) -> Sequence[int]:
    """A gateway whose account is its own."""
    return (gateway_id,)


class Match(msgspec.Struct, gc=False):
    """The attempt that a receipt speaks of. `others` are segments that the carrier knows by the same id."""

    message_id: bytes
    segment: int
    segments: int
    answered_at: datetime
    from_state: State
    gateway_id: int  # that it left by
    others: list[int] = []


class Origin(msgspec.Struct, gc=False, frozen=True):
    """What a pack says of its messages; kept by the caller, since packs never change."""

    tenant_id: int
    batch_id: bytes | None
    region: str
    category: int


class Moved(msgspec.Struct, gc=False):
    """A message that became final."""

    message_id: bytes
    gateway_id: int
    state: State
    reason: str | None
    origin: Origin
    latency_s: float


_MATCH = """
SELECT o.gateway_message_id, o.message_id, o.segment, o.segments, o.to_check, o.at, o.gateway_id
FROM outcomes o
WHERE o.gateway_message_id = ANY($1) AND o.gateway_id = $2 AND o.at > $3
  AND o.message_id >= $4 AND o.message_id < $5
"""
_UNKNOWN = """
SELECT o.message_id, o.segment, o.segments, o.at, o.gateway_id FROM outcomes o
WHERE o.kind = 4 AND o.gateway_id = ANY($1) AND o.to_check = $2 AND o.at BETWEEN $3 AND $4
  AND NOT EXISTS (SELECT FROM finals f WHERE f.message_id = o.message_id)
  AND NOT EXISTS (SELECT FROM segment_states s WHERE s.message_id = o.message_id AND s.segment = o.segment)
ORDER BY o.segment LIMIT $5
"""


async def match(
    driver: asyncpg.Connection,
    slips: Sequence[Slip],
    now_s: float,
    siblings: Siblings = alone,
    *,
    thorough: bool = False,
) -> list[Match | None]:
    """For each receipt its attempt. `thorough` also looks at messages accepted long before they were sent."""
    wanted: dict[int, set[str]] = {}
    for slip in slips:
        for gateway_id in siblings(slip.gateway_id):
            wanted.setdefault(gateway_id, set()).add(slip.gateway_message_id)
    oldest = bytes(16) if thorough else ids.first_id_at(now_s - OLDEST_MESSAGE_S)
    found: dict[tuple[int, str], list[asyncpg.Record]] = {}
    for gateway_id, names in wanted.items():
        rows = await driver.fetch(
            _MATCH,
            list(names),
            gateway_id,
            at(now_s - HORIZON_S),
            as_uuid(oldest),
            as_uuid(ids.first_id_at(now_s + 3600)),
        )
        for row in rows:
            found.setdefault((gateway_id, row[0]), []).append(row)
    return [
        _newest([row for g in siblings(s.gateway_id) for row in found.get((g, s.gateway_message_id), ())], s)
        for s in slips
    ]


def _newest(rows: Sequence[asyncpg.Record], slip: Slip) -> Match | None:
    best = None
    for row in rows:
        if slip.to_check is not None and row[4] != slip.to_check:
            continue
        if best is None or row[5] > best[5]:
            best = row
    if best is None:
        return None
    others: list[int] = []
    if best[3] > 1:
        same = (row[2] for row in rows if row[1] == best[1])
        others = [segment for segment in (range(best[3]) if slip.whole else same) if segment != best[2]]
    return Match(best[1].bytes, best[2], best[3], best[5], State.submitted, best[6], others)


async def match_unknown(
    driver: asyncpg.Connection,
    slip: Slip,
    gateway_ids: Sequence[int],
    taken: Collection[tuple[bytes, int]] = (),
) -> Match | None:
    """The only open `unknown` message to that recipient by those gateways around the receipt's submit date; of a
    text of several segments the first that is open and not `taken` (message, segment) by another receipt."""
    if slip.to_check is None:
        return None
    if slip.submitted_at is not None:
        start = slip.submitted_at - SUBMIT_DATE_SLACK_S
        end = slip.submitted_at + SUBMIT_DATE_SLACK_S
    else:
        start, end = slip.received_at - HORIZON_S, slip.received_at
    rows = await driver.fetch(
        _UNKNOWN, [*gateway_ids, ANY_GATEWAY], slip.to_check, at(start), at(end), UNKNOWN_CANDIDATES
    )
    if len({row[0] for row in rows}) != 1:
        return None
    for row in rows:
        if (row[0].bytes, row[1]) not in taken:
            others = [segment for segment in range(row[2]) if segment != row[1]] if slip.whole else []
            return Match(
                row[0].bytes, row[1], row[2], row[3], State.unknown, row[4] or slip.gateway_id, others
            )
    return None


async def origins(driver: asyncpg.Connection, pack_ids: Sequence[bytes]) -> dict[bytes, Origin]:
    """Tenant, batch, region and category of packs."""
    rows = await driver.fetch(
        "SELECT id, tenant_id, batch_id, region, category FROM packs WHERE id = ANY($1)",
        [PgUUID(p) for p in pack_ids],
    )
    return {
        r["id"].bytes: Origin(
            r["tenant_id"], r["batch_id"].bytes if r["batch_id"] else None, r["region"], r["category"]
        )
        for r in rows
    }


async def people_of(
    driver: asyncpg.Connection, message_ids: Sequence[bytes]
) -> list[tuple[bytes, Pack, Entry]]:
    """To whom these messages went; what is of a test key, or was erased, is left out."""
    rows = await driver.fetch(
        "SELECT id, payload FROM packs WHERE id = ANY($1)",
        [PgUUID(one) for one in {ids.pack_of(message_id) for message_id in message_ids}],
    )
    packs = {row["id"].bytes: decode_pack(row["payload"]) for row in rows}
    people: list[tuple[bytes, Pack, Entry]] = []
    for message_id in message_ids:
        pack, index = packs.get(ids.pack_of(message_id)), ids.index_of(message_id)
        if pack is not None and not pack.test:
            people += [(message_id, pack, one) for one in pack.entries if one.index == index and one.to]
    return people


async def store(
    driver: asyncpg.Connection,
    matched: Sequence[tuple[Slip, Match]],
    known: dict[bytes, Origin],
    now_s: float,
) -> list[Moved]:
    """Write receipts and what follows from them, in the caller's transaction. `known` has the packs of all."""
    now = at(now_s)
    assert now is not None
    await _name_recalled(driver, matched)
    await _write_receipts(driver, matched, now)
    if any(found.segments > 1 or found.from_state is not State.submitted for _, found in matched):
        # Whoever records a later attempt, or another segment, must see what is ended here, or be seen.
        await driver.execute("SELECT pg_advisory_xact_lock($1)", locks.SEGMENTS)
    candidates: dict[bytes, tuple[Slip, Match, State]] = {}
    several = []
    for slip, found in matched:
        state = FINAL_OF.get(slip.state)
        if state is None:
            continue
        if found.segments == 1:
            candidates.setdefault(found.message_id, (slip, found, state))
        else:
            several.append((slip, found, state))
    for slip, found, state in await _whole_messages(driver, several, now):
        candidates.setdefault(found.message_id, (slip, found, state))
    rows: list[tuple[bytes, int, str | None, str | None]] = [
        (message_id, int(state), _reason(slip), slip.raw + (f" {slip.error}" if slip.error else ""))
        for message_id, (slip, _, state) in candidates.items()
    ]
    fresh = await write_finals(driver, rows, now)
    doubtful = {
        message_id: candidates[message_id][2]
        for message_id in fresh
        if candidates[message_id][1].segments > 1 or candidates[message_id][1].from_state == State.unknown
    }
    for message_id, before in (await _left(driver, doubtful, now)).items():
        candidates[message_id][1].from_state = before
    corrected = await _correct(driver, [r for r in rows if r[0] not in fresh], now)
    return await _moved(driver, candidates, fresh, corrected, known, now)


async def _name_recalled(driver: asyncpg.Connection, matched: Sequence[tuple[Slip, Match]]) -> None:
    """What a carrier deleted because we asked it to is cancelled."""
    deleted = [(slip, found.message_id) for slip, found in matched if slip.state == "deleted"]
    if deleted:
        asked = await recalls.recalled(driver, {message_id for _, message_id in deleted})
        for slip, message_id in deleted:
            if message_id in asked:
                slip.state = "cancelled"


async def _left(driver: asyncpg.Connection, ending: dict[bytes, State], now: datetime) -> dict[bytes, State]:
    """The state that each of these messages leaves for its final one, where it need not be `submitted`.

    One that waits to be repeated leaves its parcel: the final state takes the next attempt's key.
    """
    if not ending:
        return {}
    waiting = await _take_out(driver, ending, now)
    rows = await driver.fetch(
        "SELECT a.message_id, a.attempt, bool_or(o.kind = 4) AS unknown, count(o.kind) AS answers,"
        " bool_or(o.kind = 3) AS again"
        " FROM attempts a LEFT JOIN outcomes o ON o.message_id = a.message_id AND o.attempt = a.attempt"
        " WHERE a.message_id = ANY($1) AND a.kind = 4 GROUP BY 1, 2 ORDER BY 1, 2",
        [PgUUID(one) for one in ending],
    )
    found = {}
    for row in rows:  # the last attempt's row stays
        # What is to be repeated is still `submitting` until its new parcel stands.
        answered = row["answers"] and not row["again"]
        state = State.unknown if row["unknown"] else State.submitted if answered else State.submitting
        found[row["message_id"].bytes] = state
    return found | dict.fromkeys(waiting, State.queued)


async def _take_out(driver: asyncpg.Connection, ending: dict[bytes, State], now: datetime) -> set[bytes]:
    """Those of the messages that waited in a parcel without a lease; they are out of it then."""
    rows = await driver.fetch(
        "SELECT p.id, p.pack_id, p.members, p.n, p.attempt, k.n AS whole FROM parcels p"
        " JOIN packs k ON k.id = p.pack_id WHERE p.pack_id = ANY($1) AND p.lease_id IS NULL"
        " ORDER BY p.id FOR UPDATE OF p",
        list({PgUUID(ids.pack_of(one)) for one in ending}),
    )
    out = set()
    for row in rows:
        held = range(row["whole"]) if row["members"] is None else indexes_of(row["members"])
        members = {ids.message_id(row["pack_id"].bytes, index): index for index in held}
        leaving = members.keys() & ending.keys()
        if not leaving:
            continue
        won = await driver.fetch(
            "INSERT INTO attempts (message_id, attempt, kind, mask, lease_id, at)"
            " SELECT u.m, $3, u.kind, 0, 0, $4 FROM unnest($1::uuid[], $2::smallint[]) u(m, kind)"
            " ON CONFLICT DO NOTHING RETURNING message_id",
            [PgUUID(one) for one in leaving],
            [int(ending[one]) for one in leaving],
            row["attempt"],
            now,
        )
        gone = {r[0].bytes for r in won}
        rest = [index for one, index in members.items() if one not in gone]
        if rest:
            await driver.execute(
                "UPDATE parcels SET members = $2, n = $3 WHERE id = $1", row["id"], bitmap(rest), len(rest)
            )
        else:
            await driver.execute("DELETE FROM parcels WHERE id = $1", row["id"])
        out |= gone
    return out


async def _moved(
    driver: asyncpg.Connection,
    candidates: dict[bytes, tuple[Slip, Match, State]],
    fresh: set[bytes],
    corrected: set[bytes],
    known: dict[bytes, Origin],
    now: datetime,
) -> list[Moved]:
    moved, tallies, latency = [], dict[Tally, int](), dict[Tally, int]()
    for message_id in fresh | corrected:
        slip, found, state = candidates[message_id]
        origin = known[ids.pack_of(message_id)]
        before = State.unconfirmed if message_id in corrected else found.from_state
        waited = max(0.0, (now - found.answered_at).total_seconds())
        key = (
            origin.tenant_id, origin.batch_id, origin.region, origin.category,
            found.gateway_id, int(before), int(state),
        )  # fmt: skip
        tallies[key] = tallies.get(key, 0) + 1
        latency[key] = latency.get(key, 0) + int(waited * 1000)
        moved.append(Moved(message_id, found.gateway_id, state, _reason(slip), origin, waited))
    await write_tallies(driver, tallies, now, latency)
    return moved


def _reason(slip: Slip) -> str | None:
    """Why it ended so; a delivery needs no reason."""
    return _REASONS.get(slip.state, slip.state)


async def _write_receipts(
    driver: asyncpg.Connection, matched: Sequence[tuple[Slip, Match]], now: datetime
) -> None:
    await driver.copy_records_to_table(
        "receipts",
        records=[
            (
                s.gateway_id, s.gateway_message_id, PgUUID(m.message_id), m.segment,
                s.state, s.raw, s.error, at(s.done_at), now,
            )
            for s, m in matched
        ],
        columns=[
            "gateway_id", "gateway_message_id", "message_id", "segment", "state", "raw", "error", "done_at", "at",
        ],
    )  # fmt: skip


async def _whole_messages(
    driver: asyncpg.Connection, parts: Sequence[tuple[Slip, Match, State]], now: datetime
) -> list[tuple[Slip, Match, State]]:
    """Texts of several segments that now have a final state for each; the worst one is the message's.

    The receipts of one text may come by two dispatchers at once: whoever stores second must see the first
    (`store` has taken the lock).
    """
    if not parts:
        return []
    rows_of = [(s, m, state, segment) for s, m, state in parts for segment in (m.segment, *m.others)]
    await driver.execute(
        "INSERT INTO segment_states SELECT u.*, $5 FROM"
        " unnest($1::uuid[], $2::smallint[], $3::smallint[], $4::text[]) u ON CONFLICT DO NOTHING",
        [PgUUID(m.message_id) for _, m, _, _ in rows_of],
        [segment for _, _, _, segment in rows_of],
        [int(state) for _, _, state, _ in rows_of],
        [s.raw for s, _, _, _ in rows_of],
        now,
    )
    by_id = {m.message_id: (s, m) for s, m, _ in parts}
    rows = await driver.fetch(
        "SELECT message_id, count(*) AS n, max(state) AS worst, min(state) AS best FROM segment_states"
        " WHERE message_id = ANY($1) GROUP BY message_id",
        [PgUUID(one) for one in by_id],
    )
    return [
        (*by_id[r["message_id"].bytes], _worst(State(r["worst"]), State(r["best"])))
        for r in rows
        if r["n"] >= by_id[r["message_id"].bytes][1].segments
    ]


def _worst(worst: State, best: State) -> State:
    """A text of which the carrier took back a part, and another part not, did not arrive; nor was it cancelled."""
    return State.undelivered if worst is State.cancelled and best is not State.cancelled else worst


async def _correct(
    driver: asyncpg.Connection, rows: Sequence[tuple[bytes, int, str | None, str | None]], now: datetime
) -> set[bytes]:
    """A late receipt may still correct `unconfirmed`, nothing else."""
    if not rows:
        return set()
    changed = await driver.fetch(
        "UPDATE finals f SET state = u.state, reason = u.reason, raw = u.raw, at = $5"
        " FROM unnest($1::uuid[], $2::smallint[], $3::text[], $4::text[]) u(id, state, reason, raw)"
        " WHERE f.message_id = u.id AND f.state = 17 RETURNING f.message_id",
        [PgUUID(r[0]) for r in rows],
        [r[1] for r in rows],
        [r[2] for r in rows],
        [r[3] for r in rows],
        now,
    )
    return {r[0].bytes for r in changed}


async def park(
    driver: asyncpg.Connection, slips: Sequence[Slip], now_s: float, *, first_s: float = PARK_FIRST_S
) -> None:
    """Keep receipts that match nothing yet: early ones, strays, other people's."""
    await driver.copy_records_to_table(
        "parked_receipts",
        records=[(s.gateway_id, msgspec.msgpack.encode(s), 0, at(now_s + first_s), at(now_s)) for s in slips],
        columns=["gateway_id", "receipt", "tries", "next_at", "at"],
    )


async def unpark(driver: asyncpg.Connection, now_s: float, limit: int) -> list[tuple[int, Slip]]:
    """Parked receipts whose time has come: (row id, receipt). They stay, with a later time, until `forget`; so
    does one that can't be read, which is not given out."""
    rows = await driver.fetch(
        "UPDATE parked_receipts p SET tries = LEAST(tries + 1, 1000), next_at = $1::timestamptz"
        " + make_interval(secs => LEAST($2::float8, $3::float8 * 2 ^ LEAST(tries, 12)))"
        " FROM (SELECT id FROM parked_receipts WHERE next_at <= $1 ORDER BY next_at LIMIT $4"
        " FOR UPDATE SKIP LOCKED) due WHERE p.id = due.id RETURNING p.id, p.receipt",
        at(now_s),
        float(PARK_LIMIT_S),
        float(PARK_FIRST_S),
        limit,
    )
    read = [(r["id"], _slip(r["receipt"])) for r in rows]
    return [(row_id, slip) for row_id, slip in read if slip is not None]


def _slip(parked: bytes) -> Slip | None:
    """A parked receipt, such that it can be stored; None for what can't be read."""
    try:
        slip = msgspec.msgpack.decode(parked, type=Slip)
    except ValueError:
        return None
    slip.gateway_message_id = word(slip.gateway_message_id, MAX_WORD_CHARACTERS)
    slip.state = word(slip.state, MAX_WORD_CHARACTERS)
    slip.raw, slip.error = word(slip.raw, MAX_WORD_CHARACTERS), word(slip.error, MAX_WORD_CHARACTERS)
    slip.done_at, slip.submitted_at = moment(slip.done_at), moment(slip.submitted_at)
    return slip


def without_mentions(parked: bytes, number: str) -> bytes | None:
    """A parked receipt whose words don't have that number; None if they had not."""
    slip = _slip(parked)
    if slip is None:
        return None
    raw, error = mentions.without(slip.raw, number), mentions.without(slip.error, number)
    if (raw, error) == (slip.raw, slip.error):
        return None
    slip.raw, slip.error = raw, error
    return msgspec.msgpack.encode(slip)


async def forget(driver: asyncpg.Connection, row_ids: Sequence[int]) -> None:
    """Parked receipts that found their attempt."""
    await driver.execute("DELETE FROM parked_receipts WHERE id = ANY($1)", row_ids)


async def drop_strays(driver: asyncpg.Connection, now_s: float) -> int:
    """Parked receipts past the horizon are stored as receipts of no message of ours; gives how many."""
    cut = at(now_s) - timedelta(seconds=HORIZON_S)  # type: ignore[operator]
    async with driver.transaction():
        rows = await driver.fetch(
            "DELETE FROM parked_receipts WHERE at < $1 RETURNING receipt, gateway_id, at", cut
        )
        await driver.executemany(
            "INSERT INTO receipts (gateway_id, gateway_message_id, state, raw, error, at)"
            " VALUES ($1, $2, $3, $4, $5, $6)",
            [_stray(r["gateway_id"], _slip(r["receipt"]), r["at"]) for r in rows],
        )
    return len(rows)


def _stray(
    gateway_id: int, slip: Slip | None, parked_at: datetime
) -> tuple[int, str, str, str, str, datetime]:
    """A row of a receipt of no message of ours; of one that can't be read, the trace that it came."""
    if slip is None:
        return gateway_id, "", "unknown", "unreadable", "", parked_at
    return gateway_id, slip.gateway_message_id, slip.state, slip.raw, slip.error, parked_at
