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

from app.domain import ids, retry
from app.domain.message import State
from app.domain.pack import Entry, Parcel, Rest, indexes_of, narrowed
from app.store import locks
from app.store.dispatch import OUTCOME_COLUMNS, Tally, are_final, insert_parcels, write_finals, write_tallies
from app.store.intake import at
from app.store.parcels import parcel_of
from app.store.webhooks import Change, Publisher

RETAKE_PAGE = 50
CLOSE_PAGE = 200
ROLLUP_PAGE = 20_000
UNCONFIRMED_PAGE = 5_000
_PARTS: dict[int, retry.Kind] = {1: "accepted", 2: "rejected", 3: "again", 4: "unknown"}
_SUBMITTING = int(State.submitting)


class Retaken(msgspec.Struct):
    """What was found under a dead lease."""

    unknown: int
    back: list[Parcel]
    parcels: int


async def retake_page(
    driver: asyncpg.Connection,
    lease_id: int,
    now_s: float,
    to_check: Callable[[str], int],
    publisher: Publisher,
) -> Retaken:
    """Settle up to RETAKE_PAGE parcels of a lease that was ended: attempt without outcome is `unknown`,
    no attempt goes on. `parcels` 0: there are none left."""
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
        estate = await _Estate.read(driver, parcels)
        work = _Settlement(now_s, to_check)
        for parcel in parcels:
            work.settle(parcel, estate)
        await driver.copy_records_to_table("outcomes", records=work.outcomes, columns=OUTCOME_COLUMNS)
        now = at(now_s)
        assert now is not None
        await write_finals(driver, work.finals, now)
        await publisher.publish(driver, work.changes, now_s)
        await write_tallies(driver, work.tallies, now)
        await insert_parcels(driver, [(p, "retaken") for p in work.back])
        await driver.execute("DELETE FROM parcels WHERE id = ANY($1)", [row["id"] for row in rows])
    return Retaken(work.unknown, work.back, len(parcels))


class _Estate(msgspec.Struct):
    """What the journal says about the messages of some parcels."""

    attempts: dict[tuple[bytes, int], tuple[int, int, int]]  # (message, attempt) -> kind, gateway, mask
    outcomes: dict[tuple[bytes, int], dict[int, tuple[int, str, float]]]  # -> segment -> kind, reason, at
    totals: dict[
        tuple[bytes, int], int
    ]  # (message, attempt) -> segments of the whole text, as its outcomes say
    final: set[bytes]

    @classmethod
    async def read(cls, driver: asyncpg.Connection, parcels: Sequence[Parcel]) -> _Estate:
        messages = [ids.message_id(p.pack_id, e.index) for p in parcels for e in p.pack.entries]
        members = [PgUUID(one) for one in messages]
        attempts = await driver.fetch(
            "SELECT message_id, attempt, kind, gateway_id, mask FROM attempts WHERE message_id = ANY($1)",
            members,
        )
        outcomes = await driver.fetch(
            "SELECT message_id, attempt, segment, kind, reason, at, segments FROM outcomes"
            " WHERE message_id = ANY($1)",
            members,
        )
        by_attempt: dict[tuple[bytes, int], dict[int, tuple[int, str, float]]] = {}
        for r in outcomes:
            by_attempt.setdefault((r[0].bytes, r[1]), {})[r[2]] = (r[3], r[4] or "", r[5].timestamp())
        return cls(
            {(r[0].bytes, r[1]): (r[2], r[3] or 0, r[4]) for r in attempts},
            by_attempt,
            {(r[0].bytes, r[1]): r[6] for r in outcomes},
            await are_final(driver, messages),
        )


class _Settlement:
    """Collects what has to be written for parcels of a dead lease."""

    def __init__(self, now_s: float, to_check: Callable[[str], int]) -> None:
        self.now_s = now_s
        self.to_check = to_check
        self.outcomes: list[tuple] = []
        self.finals: list[tuple[bytes, int, str | None, str | None]] = []
        self.changes: list[Change] = []
        self.tallies: dict[Tally, int] = {}
        self.back: list[Parcel] = []
        self.unknown = 0

    def settle(self, parcel: Parcel, estate: _Estate) -> None:
        never: list[Entry] = []
        again: list[tuple[Entry, Rest | None]] = []
        for entry in parcel.pack.entries:
            key = (ids.message_id(parcel.pack_id, entry.index), parcel.attempt)
            attempt = estate.attempts.get(key)
            if attempt is None:
                never.append(entry)
            elif attempt[0] == _SUBMITTING:
                known = estate.outcomes.get(key, {})
                total = _total(parcel, entry, attempt[2], key, estate)
                final = key[0] in estate.final
                end = self._conclude(parcel, entry, key[0], attempt, known, total=total, final=final)
                if end is not None and end.again_s is not None:
                    # how that gateway cuts texts is not known here
                    again.append((entry, Rest(end.mask, -attempt[1]) if end.mask else None))
        if never:
            self.back.append(self._parcel(parcel, [(e, parcel.masks.get(e.index)) for e in never], 0))
        if again:
            self.back.append(self._parcel(parcel, again, 1))

    def _parcel(self, old: Parcel, items: Sequence[tuple[Entry, Rest | None]], more: int) -> Parcel:
        due = self.now_s + (retry.UNKNOWN_DELAY_S if more else 0)
        return Parcel(
            ids.new_id(self.now_s),
            old.pack_id,
            1,
            old.attempt + more,
            old.priority,
            due,
            narrowed(old.pack, [e.index for e, _ in items]),
            {e.index: rest for e, rest in items if rest is not None},
        )

    def _conclude(
        self,
        parcel: Parcel,
        entry: Entry,
        message_id: bytes,
        attempt: tuple[int, int, int],
        known: dict[int, tuple[int, str, float]],
        *,
        total: int,
        final: bool,
    ) -> retry.Conclusion | None:
        """What one attempt came to. What the dead one had concluded itself is counted already: only the text that
        it was to repeat is still to be put into a parcel (None: there is nothing to do)."""
        _, gateway_id, mask = attempt
        pack = parcel.pack
        parts: list[retry.Part | None] = [None] * total
        lost = []
        for segment in range(total):
            if mask >> segment & 1:
                kind, reason, _ = known.get(segment, (4, "dispatcher_lost", 0.0))
                parts[segment] = retry.Part(_PARTS[kind], reason)
                if segment not in known:
                    lost.append(segment)
        if final:  # by what was recorded, or by a receipt for an earlier attempt
            return None
        end = retry.conclude(
            parts,
            category=pack.category,
            allowed=pack.retry_unknown,
            attempt=parcel.attempt,
            now_s=self.now_s if lost else max(at_s for _, _, at_s in known.values()),
            expires_s=pack.expires_at,
            jitter=0.5,
        )
        if lost:
            self._count(parcel, entry, message_id, gateway_id, lost, total, end)
        elif end.state.final:  # by a hair: it had drawn another delay, and did not end the text
            end = msgspec.structs.replace(end, again_s=0.0, mask=retry.repeated(parts, ("again",)))
        if not lost and end.again_s is not None:  # the move back to the queue goes with the new parcel
            doubtful = any(part is not None and part.kind == "unknown" for part in parts)
            before = State.unknown if doubtful else State.submitting
            key = (
                pack.tenant_id, pack.batch_id, pack.region, pack.category,
                gateway_id, int(before), int(State.queued),
            )  # fmt: skip
            self.tallies[key] = self.tallies.get(key, 0) + 1
        return end

    def _count(
        self,
        parcel: Parcel,
        entry: Entry,
        message_id: bytes,
        gateway_id: int,
        lost: Sequence[int],
        total: int,
        end: retry.Conclusion,
    ) -> None:
        pack = parcel.pack
        check, now = self.to_check(entry.to), at(self.now_s)
        for segment in lost:
            self.outcomes.append(
                (
                    PgUUID(message_id), parcel.attempt, segment, total, gateway_id, 4, check,
                    None, "dispatcher_lost", None, now,
                )
            )  # fmt: skip
        self.unknown += 1
        for before, after in end.moves:
            key = (
                pack.tenant_id, pack.batch_id, pack.region, pack.category,
                gateway_id, int(before), int(after),
            )  # fmt: skip
            self.tallies[key] = self.tallies.get(key, 0) + 1
        if end.state.final:
            self.finals.append((message_id, int(end.state), end.reason, end.raw))
            self.changes.append(Change(pack.tenant_id, message_id, end.state, end.reason))


def _total(parcel: Parcel, entry: Entry, mask: int, key: tuple[bytes, int], estate: _Estate) -> int:
    """Segments of a text as it was cut for an attempt; another gateway may have cut it otherwise than intake did."""
    message_id, attempt = key
    if key in estate.totals:
        return estate.totals[key]
    if entry.index not in parcel.masks:  # all of it went
        return mask.bit_length() or entry.segments
    return estate.totals.get((message_id, attempt - 1)) or max(entry.segments, mask.bit_length())


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
        "open": float(accepted - into),
        "queued_by_tallies": float(in_queue),
        "queued_by_parcels": float(row["n"]),
        "submitting_by_tallies": float(net.get(_SUBMITTING, 0)),
        "submitting_by_parcels": float(row["in_flight"]),
        "negative": float(-sum(n for n in net.values() if n < 0)),
        "open_parcels": float(row["open"]),
    }
