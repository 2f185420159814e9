"""Accepting messages: everything that a 202 promises, in the caller's transaction.

Guarantee: packs, parcels, lookups and the tally are committed together or not at all; the parcels that
come back are exactly what was written, ready to be offered to Redis after the commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import msgspec
from asyncpg.pgproto.pgproto import UUID as PgUUID

from app.domain import ids
from app.domain.message import State
from app.domain.pack import Pack, Parcel, encode, lane_of


class Draft(msgspec.Struct, gc=False):
    """A pack to be accepted: when it is due (Unix seconds) and how urgent it is (0 is first)."""

    pack_id: bytes
    pack: Pack
    due_at: float
    priority: int


def at(instant_s: float | None) -> datetime | None:
    """Unix seconds as PostgreSQL takes them."""
    return None if instant_s is None else datetime.fromtimestamp(instant_s, UTC)


def signed(recipient: bytes) -> int:
    """A recipient hash as the bigint that PostgreSQL keeps."""
    return int.from_bytes(recipient, "big", signed=True)


def as_uuid(identifier: bytes | None) -> UUID | None:
    """16 bytes as asyncpg sends them."""
    return None if identifier is None else PgUUID(identifier)


def segments_of(pack: Pack) -> int:
    """What a pack's texts take, as they were counted."""
    return sum([entry.segments for entry in pack.entries])


async def accept(driver: asyncpg.Connection, drafts: Sequence[Draft], now_s: float) -> list[Parcel]:
    """Write the drafts; the caller holds the transaction and commits it. About 4 statements, however many rows."""
    packs, lookups, rows, parcels = [], [], [], []
    tally: Counter[tuple[int, bytes | None, str, int]] = Counter()
    for draft in drafts:
        pack, count = draft.pack, len(draft.pack.entries)
        pack_uuid, batch_uuid = PgUUID(draft.pack_id), as_uuid(pack.batch_id)
        packs.append(
            (
                pack_uuid, pack.tenant_id, batch_uuid, pack.region, pack.category, count, encode(pack),
                segments_of(pack),
            )
        )  # fmt: skip
        head, base, tenant = draft.pack_id[:14], draft.pack_id[14], pack.tenant_id
        for entry in pack.entries:
            place = entry.index + 1
            lookups.append(
                (
                    PgUUID(head + bytes((base | place >> 8, place & 0xFF))),
                    tenant,
                    signed(entry.recipient),
                    entry.reference,
                )
            )
        parcel = Parcel(ids.new_id(now_s), draft.pack_id, 1, 1, draft.priority, draft.due_at, pack)
        parcels.append(parcel)
        rows.append(parcel_row(parcel, members=None, reason=None))
        tally[(tenant, pack.batch_id, pack.region, pack.category)] += count
    await driver.copy_records_to_table(
        "packs",
        records=packs,
        columns=["id", "tenant_id", "batch_id", "region", "category", "n", "payload", "segments"],
    )
    await driver.copy_records_to_table(
        "lookups", records=lookups, columns=["message_id", "tenant_id", "recipient", "reference"]
    )
    await driver.copy_records_to_table("parcels", records=rows, columns=PARCEL_COLUMNS)
    now = at(now_s)
    await driver.copy_records_to_table(
        "tallies",
        records=[
            (tenant, as_uuid(batch), region, category, None, None, int(State.queued), n, now)
            for (tenant, batch, region, category), n in tally.items()
        ],
        columns=TALLY_COLUMNS,
    )
    return parcels


PARCEL_COLUMNS = [
    "id",
    "pack_id",
    "tenant_id",
    "batch_id",
    "lane",
    "priority",
    "members",
    "n",
    "attempt",
    "masks",
    "due_at",
    "expires_at",
    "generation",
    "reason",
]
TALLY_COLUMNS = [
    "tenant_id",
    "batch_id",
    "region",
    "category",
    "gateway_id",
    "from_state",
    "to_state",
    "n",
    "at",
]


def parcel_row(parcel: Parcel, *, members: bytes | None, reason: str | None) -> tuple:
    """A parcel as a row of PARCEL_COLUMNS; `members` None means all of its pack."""
    pack = parcel.pack
    return (
        PgUUID(parcel.id),
        PgUUID(parcel.pack_id),
        pack.tenant_id,
        as_uuid(pack.batch_id),
        lane_of(pack.region, pack.category),
        parcel.priority,
        members,
        len(pack.entries),
        parcel.attempt,
        encode(parcel.masks) if parcel.masks else None,
        at(parcel.due_at),
        at(pack.expires_at),
        parcel.generation,
        reason,
    )
