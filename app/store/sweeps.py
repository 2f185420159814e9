"""What has to be done again and again: taking over from the dead, closing, rolling up, comparing.

Guarantee: each function is one transaction (or a bounded number) that may be repeated, run by two at once or
be interrupted, without counting or closing anything twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import asyncpg
import msgspec
from asyncpg.pgproto.pgproto import UUID as PgUUID

from app.domain import ids
from app.domain.message import State
from app.domain.pack import Parcel, indexes_of
from app.store import locks
from app.store.dispatch import Tally, write_finals, write_tallies
from app.store.intake import at
from app.store.parcels import parcel_of
from app.store.settlement import Estate, Settlement
from app.store.webhooks import Change, Publisher

RETAKE_PAGE = 50
CLOSE_PAGE = 200
ROLLUP_PAGE = 20_000
UNCONFIRMED_PAGE = 5_000
_SUBMITTING = int(State.submitting)


class Retaken(msgspec.Struct):
    """What was found under a dead lease: of these parcels (lane, id) nothing is left in PostgreSQL."""

    unknown: int
    back: list[Parcel]
    parcels: list[tuple[str, bytes]]


async def retake_page(
    driver: asyncpg.Connection,
    lease_id: int,
    now_s: float,
    to_check: Callable[[str], int],
    publisher: Publisher,
) -> Retaken:
    """Settle up to RETAKE_PAGE parcels of a lease that was ended: attempt without outcome is `unknown`,
    no attempt goes on. No `parcels`: there are none left."""
    async with driver.transaction():
        rows = await driver.fetch(
            "SELECT p.id, p.pack_id, p.generation, p.attempt, p.priority, p.due_at, p.members, p.masks,"
            " k.payload FROM parcels p JOIN packs k ON k.id = p.pack_id"
            " WHERE p.lease_id = $1 ORDER BY p.id LIMIT $2 FOR UPDATE OF p SKIP LOCKED",
            lease_id,
            RETAKE_PAGE,
        )
        parcels = [parcel_of(row) for row in rows]
        await driver.execute("SELECT pg_advisory_xact_lock($1)", locks.SEGMENTS)  # receipts end messages, too
        estate = await Estate.read(driver, parcels)
        work = Settlement(now_s, to_check, "dispatcher_lost")
        for parcel in parcels:
            work.settle(parcel, estate)
        await work.write(driver, publisher, "retaken")
        await driver.execute("DELETE FROM parcels WHERE id = ANY($1)", [row["id"] for row in rows])
    return Retaken(work.unknown, work.back, [(p.lane, p.id) for p in parcels])


_TO_CLOSE = """
SELECT p.id, p.pack_id, p.generation, p.attempt, p.priority, p.due_at, p.members, p.masks, k.payload
FROM parcels p JOIN packs k ON k.id = p.pack_id {join}
WHERE p.lease_id IS NULL AND {where}
ORDER BY p.id LIMIT $1 FOR UPDATE OF p SKIP LOCKED
"""
_EXPIRED = _TO_CLOSE.format(join="", where="p.expires_at <= $2")
_CANCELLED = _TO_CLOSE.format(
    join="JOIN batches b ON b.id = p.batch_id", where="b.state = 4 AND $2::timestamptz IS NOT NULL"
)


async def close_expired(driver: asyncpg.Connection, now_s: float, publisher: Publisher) -> list[Parcel]:
    """Parcels whose validity is over end as `expired`; gives them, to be forgotten in Redis."""
    return await _close(driver, _EXPIRED, State.expired, "expired", now_s, publisher)


async def close_cancelled(driver: asyncpg.Connection, now_s: float, publisher: Publisher) -> list[Parcel]:
    """Parcels of cancelled batches end as `cancelled`."""
    return await _close(driver, _CANCELLED, State.cancelled, "batch_cancelled", now_s, publisher)


async def _close(
    driver: asyncpg.Connection, query: str, state: State, reason: str, now_s: float, publisher: Publisher
) -> list[Parcel]:
    now = at(now_s)
    assert now is not None
    async with driver.transaction():
        rows = await driver.fetch(query, CLOSE_PAGE, now)
        parcels = [parcel_of(row) for row in rows]
        members = [(PgUUID(ids.message_id(p.pack_id, e.index)), p) for p in parcels for e in p.pack.entries]
        if not members:
            return parcels
        won = await driver.fetch(
            "INSERT INTO attempts (message_id, attempt, kind, mask, lease_id, at)"
            " SELECT u.m, u.a, $3, 0, 0, $4 FROM unnest($1::uuid[], $2::smallint[]) u(m, a)"
            " ON CONFLICT DO NOTHING RETURNING message_id",
            [m for m, _ in members],
            [p.attempt for _, p in members],
            int(state),
            now,
        )
        ended = {r[0].bytes for r in won}
        await write_finals(driver, [(m, int(state), reason, None) for m in ended], now)
        tallies: dict[Tally, int] = {}
        changes = []
        for message, parcel in members:
            if message.bytes in ended:
                pack = parcel.pack
                changes.append(Change(pack.tenant_id, message.bytes, state, reason))
                key = (
                    pack.tenant_id, pack.batch_id, pack.region, pack.category,
                    None, int(State.queued), int(state),
                )  # fmt: skip
                tallies[key] = tallies.get(key, 0) + 1
        await write_tallies(driver, tallies, now)
        await publisher.publish(driver, changes, now_s)
        await driver.execute("DELETE FROM parcels WHERE id = ANY($1)", [r["id"] for r in rows])
    return parcels


_ROLL_UP = """
WITH gone AS (
    DELETE FROM tallies WHERE id IN (SELECT id FROM tallies ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING *
), moves AS (
    SELECT batch_id, region, to_state AS state, n FROM gone WHERE batch_id IS NOT NULL
    UNION ALL
    SELECT batch_id, region, from_state, -n FROM gone WHERE batch_id IS NOT NULL AND from_state IS NOT NULL
), batch AS (
    INSERT INTO batch_states (batch_id, region, state, n)
    SELECT batch_id, region, state, sum(n) FROM moves GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (batch_id, region, state) DO UPDATE SET n = batch_states.n + EXCLUDED.n
), total AS (
    INSERT INTO move_totals (from_state, to_state, n)
    SELECT coalesce(from_state, 0), to_state, sum(n) FROM gone GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (from_state, to_state) DO UPDATE SET n = move_totals.n + EXCLUDED.n
), hourly AS (
    INSERT INTO rollups (hour, tenant_id, region, category, gateway_id, campaign, state, n, latency_ms)
    SELECT date_trunc('hour', g.at), g.tenant_id, g.region, g.category, coalesce(g.gateway_id, 0),
           coalesce(b.campaign, ''), CASE WHEN g.from_state IS NULL THEN 1 ELSE g.to_state END,
           sum(g.n), sum(g.latency_ms)
    FROM gone g LEFT JOIN batches b ON b.id = g.batch_id
    GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7
    ON CONFLICT (hour, tenant_id, region, category, gateway_id, campaign, state)
    DO UPDATE SET n = rollups.n + EXCLUDED.n, latency_ms = rollups.latency_ms + EXCLUDED.latency_ms
)
SELECT count(*) FROM gone
"""


async def roll_up(driver: asyncpg.Connection) -> int:
    """Fold a page of tallies into the counts of batches, hours and all time; gives the rows folded."""
    return await driver.fetchval(_ROLL_UP, ROLLUP_PAGE)


_UNCONFIRMED = """
SELECT a.message_id, max(a.gateway_id) AS gateway_id,
       bool_or(o.kind = 4) AS doubtful, bool_and(o.kind IS NOT NULL) AS answered
FROM attempts a LEFT JOIN outcomes o ON o.message_id = a.message_id AND o.attempt = a.attempt
WHERE a.kind = 4 AND a.at < $1 AND a.at >= $4 AND a.message_id > $2
  AND NOT EXISTS (SELECT FROM finals f WHERE f.message_id = a.message_id)
  AND NOT EXISTS (SELECT FROM attempts n WHERE n.message_id = a.message_id AND n.attempt > a.attempt)
GROUP BY a.message_id ORDER BY a.message_id LIMIT $3
"""


async def close_unconfirmed(
    driver: asyncpg.Connection,
    now_s: float,
    horizon_s: float,
    publisher: Publisher,
    after: bytes = bytes(16),
    since_s: float = 0.0,
) -> tuple[int, bytes | None]:
    """Handed-over messages without a final word by the horizon; (how many, where to go on or None).

    `since_s` (Unix) leaves out those handed over before: an earlier call has closed them.
    """
    now = at(now_s)
    assert now is not None
    async with driver.transaction():
        rows = await driver.fetch(
            _UNCONFIRMED, now - timedelta(seconds=horizon_s), PgUUID(after), UNCONFIRMED_PAGE, at(since_s)
        )
        if not rows:
            return 0, None
        packs = await driver.fetch(
            "SELECT id, tenant_id, batch_id, region, category FROM packs WHERE id = ANY($1)",
            list({PgUUID(ids.pack_of(r[0].bytes)) for r in rows}),
        )
        origin = {p["id"].bytes: p for p in packs}
        waiting = await _waiting(driver, list(origin))
        ended = await write_finals(
            driver,
            [
                (r[0].bytes, int(State.unconfirmed), "no_receipt", None)
                for r in rows
                if r["answered"] and r[0].bytes not in waiting
            ],
            now,
        )
        tallies: dict[Tally, int] = {}
        changes = []
        for row in rows:
            if row[0].bytes not in ended:
                continue
            pack = origin[ids.pack_of(row[0].bytes)]
            changes.append(Change(pack["tenant_id"], row[0].bytes, State.unconfirmed, "no_receipt"))
            before = State.unknown if row["doubtful"] else State.submitted
            key = (
                pack["tenant_id"], pack["batch_id"].bytes if pack["batch_id"] else None, pack["region"],
                pack["category"], row["gateway_id"], int(before), int(State.unconfirmed),
            )  # fmt: skip
            tallies[key] = tallies.get(key, 0) + 1
        await write_tallies(driver, tallies, now)
        await publisher.publish(driver, changes, now_s)
    return len(ended), rows[-1][0].bytes if len(rows) == UNCONFIRMED_PAGE else None


async def _waiting(driver: asyncpg.Connection, pack_ids: Sequence[bytes]) -> set[bytes]:
    """Messages of these packs that are still in a parcel: they will be handed over again."""
    rows = await driver.fetch(
        "SELECT p.pack_id, p.members, k.n FROM parcels p JOIN packs k ON k.id = p.pack_id"
        " WHERE p.pack_id = ANY($1)",
        [PgUUID(one) for one in pack_ids],
    )
    return {
        ids.message_id(row[0].bytes, index)
        for row in rows
        for index in (range(row[2]) if row[1] is None else indexes_of(row[1]))
    }


async def accounting(driver: asyncpg.Connection) -> dict[str, float]:
    """Promise 1's sides: accepted and final by tallies; what is queued, and what is being handed over, by tallies
    and by parcels; how far states are below nothing.

    The sides by parcels come from other rows than the tallies, so each pair can differ. `queued` must be equal;
    a message that is `submitting` must be in a parcel under way (there it stays until the parcel is settled, so
    there may be more of those); `negative` is 0 unless a move was counted twice, or out of a state that the
    message was not in, which sums over all states hide.

    To be read in one snapshot (REPEATABLE READ): the sides move all the time.
    """
    moves = await driver.fetch(
        "SELECT from_state, to_state, n FROM move_totals UNION ALL"
        " SELECT coalesce(from_state, 0), to_state, sum(n) FROM tallies GROUP BY 1, 2"
    )
    queued = int(State.queued)
    accepted = sum(r[2] for r in moves if r[0] == 0)
    into = sum(r[2] for r in moves if State(r[1]).final and not (r[0] and State(r[0]).final))
    in_queue = sum(r[2] for r in moves if r[1] == queued) - sum(r[2] for r in moves if r[0] == queued)
    net: dict[int, int] = {}
    for before, after, n in moves:
        net[after] = net.get(after, 0) + n
        if before:
            net[before] = net.get(before, 0) - n
    row = await driver.fetchrow(
        "SELECT coalesce(sum(n), 0) AS n, coalesce(sum(in_flight), 0) AS in_flight,"
        " count(*) FILTER (WHERE lease_id IS NULL) AS open FROM parcels"
    )
    return {
        "accepted": float(accepted),
        "final": float(into),
        "open_by_tallies": float(accepted - into),
        "queued_by_tallies": float(in_queue),
        "queued_by_parcels": float(row["n"]),
        "submitting_by_tallies": float(net.get(_SUBMITTING, 0)),
        "submitting_by_parcels": float(row["in_flight"]),
        "negative": float(-sum(n for n in net.values() if n < 0)),
        "open_parcels": float(row["open"]),
    }
