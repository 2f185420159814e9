"""Attempts as the journal wrote them.

Guarantee: reads only, and what is committed.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
from asyncpg.pgproto.pgproto import UUID as PgUUID

from app.domain.message import State


async def under_lease(
    driver: asyncpg.Connection, tried: Sequence[tuple[bytes, int]], lease_id: int
) -> set[bytes]:
    """Which of these (message id, attempt) a lease has journalled for handing over."""
    rows = await driver.fetch(
        "SELECT a.message_id FROM unnest($1::uuid[], $2::smallint[]) u(message_id, attempt)"
        " JOIN attempts a USING (message_id, attempt) WHERE a.lease_id = $3 AND a.kind = $4",
        [PgUUID(message_id) for message_id, _ in tried],
        [attempt for _, attempt in tried],
        lease_id,
        int(State.submitting),
    )
    return {row[0].bytes for row in rows}
