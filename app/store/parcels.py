"""Open parcels as PostgreSQL holds them: what is still to be handed over.

Guarantee: a parcel under a lease, of a batch that is loading, paused or cancelled, due after the horizon, or on
a timeline whose books are not in order is never given out here, so whatever comes from here may be offered to
Redis at any time.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
import msgspec

from app.domain.pack import Parcel, Rest, decode_pack, indexes_of, narrowed
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
