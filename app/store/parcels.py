"""Open parcels as PostgreSQL holds them: what is still to be handed over.

Guarantee: a parcel under a lease, of a batch that is loading, paused or cancelled, due after the horizon, or on
a timeline whose books are not in order is never given out here, so whatever comes from here may be offered to
Redis at any time.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
import msgspec

from app.domain.pack import Parcel, Rest, bitmap, decode_pack, indexes_of, narrowed
from app.store.intake import as_uuid, at

PAGE = 500
HORIZON_S = 900  # what is due later waits in PostgreSQL alone
_MASKS = msgspec.msgpack.Decoder(dict[int, Rest])

_OPEN = """
SELECT p.id, p.pack_id, p.generation, p.attempt, p.priority, p.due_at, p.members, p.masks, k.payload
FROM parcels p JOIN packs k ON k.id = p.pack_id LEFT JOIN batches b ON b.id = p.batch_id
WHERE p.lease_id IS NULL AND p.id > $1 AND p.due_at <= $2 AND ($3::uuid IS NULL OR p.batch_id = $3)
  AND (b.id IS NULL OR b.state = 2) AND volley_in_order()
ORDER BY p.id LIMIT $4
"""
_OPEN_BY_ID = """
SELECT p.id, p.pack_id, p.generation, p.attempt, p.priority, p.due_at, p.members, p.masks, k.payload
FROM parcels p JOIN packs k ON k.id = p.pack_id LEFT JOIN batches b ON b.id = p.batch_id
WHERE p.lease_id IS NULL AND p.id = ANY($1) AND (b.id IS NULL OR b.state = 2) AND volley_in_order()
"""


def parcel_of(row: asyncpg.Record) -> Parcel:
    """A row of parcels joined with its pack, as Redis keeps it: only the open entries."""
    pack = decode_pack(row["payload"])
    if row["members"] is not None:
        pack = narrowed(pack, indexes_of(row["members"]))
    masks = decode_masks(row["masks"]) if row["masks"] else {}
    return Parcel(
        row["id"].bytes,
        row["pack_id"].bytes,
        row["generation"],
        row["attempt"],
        row["priority"],
        row["due_at"].timestamp(),
        pack,
        masks,
    )


def decode_masks(raw: bytes) -> dict[int, Rest]:
    """{pack index: what is left of the text}, as the column keeps it."""
    return _MASKS.decode(raw)


async def open_page(
    driver: asyncpg.Connection,
    *,
    after: bytes = bytes(16),
    due_before_s: float,
    batch_id: bytes | None = None,
    limit: int = PAGE,
) -> list[Parcel]:
    """The next open parcels by id, with their content."""
    rows = await driver.fetch(_OPEN, as_uuid(after), at(due_before_s), as_uuid(batch_id), limit)
    return [parcel_of(row) for row in rows]


async def open_ids(
    driver: asyncpg.Connection, *, after: bytes = bytes(16), due_before_s: float, limit: int = 10_000
) -> list[tuple[bytes, str]]:
    """The next open parcels by id: (id, lane), without content."""
    rows = await driver.fetch(
        "SELECT p.id, p.lane FROM parcels p LEFT JOIN batches b ON b.id = p.batch_id "
        "WHERE p.lease_id IS NULL AND p.id > $1 AND p.due_at <= $2 AND (b.id IS NULL OR b.state = 2) "
        "AND volley_in_order() "
        "ORDER BY p.id LIMIT $3",
        as_uuid(after),
        at(due_before_s),
        limit,
    )
    return [(row["id"].bytes, row["lane"]) for row in rows]


async def open_by_id(driver: asyncpg.Connection, parcel_ids: Sequence[bytes]) -> list[Parcel]:
    """These parcels, those that are open."""
    rows = await driver.fetch(_OPEN_BY_ID, [as_uuid(one) for one in parcel_ids])
    return [parcel_of(row) for row in rows]


_DEFER = """
WITH open AS (
    SELECT p.id, u.due FROM parcels p JOIN unnest($1::uuid[], $2::int[], $3::timestamptz[]) u(id, generation, due)
        ON p.id = u.id AND p.generation = u.generation
    WHERE p.lease_id IS NULL AND p.n > 0 AND volley_in_order()
    ORDER BY p.id FOR UPDATE OF p SKIP LOCKED
)
UPDATE parcels p SET due_at = open.due, generation = p.generation + 1, reason = $4
FROM open WHERE p.id = open.id RETURNING p.id, p.pack_id, p.attempt, p.members, p.due_at
"""
_DEFERRED = """
INSERT INTO decisions (pack_id, members, attempt, trace_id, at, until)
SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::smallint[], $4::bigint[], $5::timestamptz[], $6::timestamptz[])
"""


class Deferral(msgspec.Struct, frozen=True):
    """A parcel that is to wait until `due_s` (Unix), and the trace that says why."""

    parcel: Parcel
    due_s: float
    trace_id: int


async def defer(
    driver: asyncpg.Connection, deferrals: Sequence[Deferral], reason: str, now_s: float
) -> set[bytes]:
    """Put open parcels off, each in a new generation, so that no copy of them counts; gives those that were."""
    by_id = {one.parcel.id: one for one in deferrals}
    async with driver.transaction():
        rows = await driver.fetch(
            _DEFER,
            [as_uuid(one.parcel.id) for one in deferrals],
            [one.parcel.generation for one in deferrals],
            [at(one.due_s) for one in deferrals],
            reason,
        )
        told = []
        for row in rows:
            one = by_id[row["id"].bytes]
            members = row["members"] or bitmap(entry.index for entry in one.parcel.pack.entries)
            told.append((row["pack_id"], members, row["attempt"], one.trace_id, at(now_s), row["due_at"]))
        if told:
            await driver.execute(_DEFERRED, *(list(column) for column in zip(*told, strict=True)))
    return {row["id"].bytes for row in rows}
