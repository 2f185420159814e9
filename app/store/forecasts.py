"""What a forecast asks: how much is queued in a batch's lanes, and what limits them."""

from __future__ import annotations

from uuid import UUID

import asyncpg
import msgspec

from app.store.batches import BatchState


class Backlog(msgspec.Struct, frozen=True):
    """One lane of a batch: `own` messages of it are queued, `ahead` with all that may go before its last one.

    Other batches that are paused, loading or cancelled are not ahead.
    """

    region: str
    category: int
    own: int
    ahead: int
    due_s: float


class Limit(msgspec.Struct, frozen=True):
    """A region's rate in segments a second (None: no limit), delay and pause."""

    rate: int | None
    lead_s: int | None
    paused: bool


_BACKLOGS = """
WITH mine AS (
    SELECT lane, sum(n) AS own, extract(epoch FROM min(due_at)) AS due, max(priority) AS priority
    FROM parcels WHERE batch_id = $1 GROUP BY lane
)
SELECT m.lane, m.own, m.due, (
    SELECT coalesce(sum(p.n), 0) FROM parcels p
    WHERE p.lane = m.lane AND (p.batch_id = $1 OR (p.priority <= m.priority AND p.due_at <= now()
        AND NOT EXISTS (SELECT FROM batches b WHERE b.id = p.batch_id AND b.state <> $2)))
) AS ahead
FROM mine m ORDER BY m.lane
"""


async def backlogs(driver: asyncpg.Connection, batch_id: UUID) -> list[Backlog]:
    """The lanes in which something of the batch is queued."""
    found = []
    for row in await driver.fetch(_BACKLOGS, batch_id, BatchState.running):
        region, _, category = row["lane"].rpartition(":")
        found.append(Backlog(region, int(category), int(row["own"]), int(row["ahead"]), float(row["due"])))
    return found


async def limits(driver: asyncpg.Connection) -> dict[str, Limit]:
    """By region, of those that have an entry."""
    rows = await driver.fetch("SELECT code, rate, lead_s, paused FROM regions")
    return {row["code"]: Limit(row["rate"], row["lead_s"], row["paused"]) for row in rows}
