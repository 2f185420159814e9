"""Accepting a group of single messages in one statement.

Guarantee: writes exactly the rows that `app.store.intake.accept` writes (`tests/api/test_singles.py`). COPY is the
cheaper one a row, but costs two round trips a table; a group of single messages has few rows, and its
round trips are what its messages wait for and what the API's CPU goes into.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import asyncpg
from asyncpg.pgproto.pgproto import UUID as PgUUID

from app.domain import ids
from app.domain.message import State
from app.domain.pack import Parcel, encode, lane_of
from app.store.intake import Draft, at, segments_of, signed

# Outside a transaction it is one of its own: an acceptance is then a single round trip.
_ACCEPT = f"""
WITH packed AS (
    INSERT INTO packs (id, tenant_id, region, category, n, payload, segments)
    SELECT * FROM unnest($1::uuid[], $2::int[], $3::text[], $4::smallint[], $5::smallint[], $6::bytea[], $21::int[])
), looked AS (
    INSERT INTO lookups (message_id, tenant_id, recipient, reference)
    SELECT * FROM unnest($7::uuid[], $8::int[], $9::bigint[], $10::text[])
), parcelled AS (
    INSERT INTO parcels (id, pack_id, tenant_id, lane, priority, n, attempt, due_at, expires_at, generation)
    SELECT i, p, t, l, o, n, 1, d, e, 1
    FROM unnest($11::uuid[], $1::uuid[], $2::int[], $12::text[], $13::smallint[], $5::smallint[],
                $14::timestamptz[], $15::timestamptz[]) AS x (i, p, t, l, o, n, d, e)
)
INSERT INTO tallies (tenant_id, region, category, to_state, n, at)
SELECT t, r, c, {int(State.queued)}, n, $20
FROM unnest($16::int[], $17::text[], $18::smallint[], $19::int[]) AS x (t, r, c, n)
"""  # noqa: S608  a constant


async def accept(driver: asyncpg.Connection, drafts: Sequence[Draft], now_s: float) -> list[Parcel]:
    """Write the drafts, which belong to no batch; they are committed with the caller's transaction, or at once."""
    packs = [draft.pack for draft in drafts]
    parcels = [
        Parcel(ids.new_id(now_s), draft.pack_id, 1, 1, draft.priority, draft.due_at, draft.pack)
        for draft in drafts
    ]
    messages, tenants, recipients, references = [], [], [], []
    tally: Counter[tuple[int, str, int]] = Counter()
    for draft in drafts:
        pack = draft.pack
        tally[(pack.tenant_id, pack.region, pack.category)] += len(pack.entries)
        for entry in pack.entries:
            messages.append(PgUUID(ids.message_id(draft.pack_id, entry.index)))
            tenants.append(pack.tenant_id)
            recipients.append(signed(entry.recipient))
            references.append(entry.reference)
    await driver.execute(
        _ACCEPT,
        [PgUUID(draft.pack_id) for draft in drafts],
        [pack.tenant_id for pack in packs],
        [pack.region for pack in packs],
        [pack.category for pack in packs],
        [len(pack.entries) for pack in packs],
        [encode(pack) for pack in packs],
        messages,
        tenants,
        recipients,
        references,
        [PgUUID(parcel.id) for parcel in parcels],
        [lane_of(pack.region, pack.category) for pack in packs],
        [draft.priority for draft in drafts],
        [at(draft.due_at) for draft in drafts],
        [at(pack.expires_at) for pack in packs],
        [key[0] for key in tally],
        [key[1] for key in tally],
        [key[2] for key in tally],
        list(tally.values()),
        at(now_s),
        [segments_of(pack) for pack in packs],
    )
    return parcels
