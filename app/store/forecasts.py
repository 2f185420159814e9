"""What a forecast asks: how much is queued in a batch's lanes, and what limits them."""

from __future__ import annotations

import math
from uuid import UUID

import asyncpg
import msgspec

from app.domain.routing import reached
from app.store.batches import BatchState


class Backlog(msgspec.Struct, frozen=True):
    """One lane of a batch: `own` messages of it are queued, of `own_segments`; `ahead` segments with all that may go
    before its last one, `by_sender` those of them by the batch's own sender. `due_s` is when the first is due.

    Other batches that are paused, loading or cancelled are not ahead.
    """

    region: str
    category: int
    own: int
    own_segments: float
    ahead: float
    by_sender: float
    due_s: float


class Limit(msgspec.Struct, frozen=True):
    """A region's rate in segments a second (None: no limit), delay and pause."""

    rate: int | None
    lead_s: int | None
    paused: bool


class Limits(msgspec.Struct, frozen=True):
    """What is configured: regions by code, gateways that are enabled with their rates, routes, the sender's rate."""

    regions: dict[str, Limit]
    gateways: dict[str, int | None]
    routes: list[Way]
    sender: int | None

    def rate(self, region: str, category: int) -> float | None:
        """What the lane can get at most, in segments a second: of its region and of all gateways that a route may lead
        it to. None: no bound is set; 0: no gateway is enabled."""
        own = self.regions[region].rate if region in self.regions else None
        rates = [math.inf if own is None else own]
        names = reached(self.routes, region, category)
        if names:
            enabled = [self.gateways[name] for name in names if name in self.gateways]
            rates.append(sum(math.inf if rate is None else rate for rate in enabled))
        least = min(rates)
        return None if least == math.inf else least


class Way(msgspec.Struct, frozen=True):
    """A route, as far as it says where it may lead."""

    to: str
    category: int | None
    gateways: list[str]


# A parcel holds a part of its pack, one that is just being handed over nothing; of a pack from before they were counted
# one segment a message.
_BACKLOGS = """
WITH mine AS (
    SELECT lane, extract(epoch FROM min(due_at)) AS due, max(priority) AS priority
    FROM parcels WHERE batch_id = $1 AND n > 0 GROUP BY lane
), waiting AS (
    SELECT m.lane, m.due, p.n, p.batch_id, p.n * greatest(k.segments, k.n)::float8 / k.n AS segments
    FROM mine m JOIN parcels p ON p.lane = m.lane JOIN packs k ON k.id = p.pack_id
    LEFT JOIN batches b ON b.id = p.batch_id
    WHERE p.n > 0 AND (
        p.batch_id = $1 OR (p.priority <= m.priority AND p.due_at <= now() AND (b.id IS NULL OR b.state = $2))
    )
)
SELECT w.lane, w.due, sum(w.segments) AS ahead,
    sum(w.n) FILTER (WHERE w.batch_id = $1) AS own,
    sum(w.segments) FILTER (WHERE w.batch_id = $1) AS own_segments,
    sum(w.segments) FILTER (WHERE w.batch_id IN (
        SELECT o.id FROM batches o JOIN batches t ON o.tenant_id = t.tenant_id AND o.sender = t.sender WHERE t.id = $1
    )) AS by_sender
FROM waiting w GROUP BY w.lane, w.due ORDER BY w.lane
"""


async def backlogs(driver: asyncpg.Connection, batch_id: UUID) -> list[Backlog]:
    """The lanes in which something of the batch is queued."""
    found = []
    for row in await driver.fetch(_BACKLOGS, batch_id, BatchState.running):
        region, _, category = row["lane"].rpartition(":")
        found.append(
            Backlog(
                region, int(category), int(row["own"]), row["own_segments"], row["ahead"], row["by_sender"],
                float(row["due"]),
            )
        )  # fmt: skip
    return found


async def limits(driver: asyncpg.Connection, tenant_id: int, sender: str) -> Limits:
    """What is configured of regions, gateways and routes, and for that sender."""
    regions = await driver.fetch("SELECT code, rate, lead_s, paused FROM regions")
    gateways = await driver.fetch("SELECT name, rate FROM gateways WHERE enabled")
    routes = await driver.fetch('SELECT "to", category, gateways FROM routes')
    own = await driver.fetchval(
        "SELECT rate FROM senders WHERE tenant_id = $1 AND address = $2", tenant_id, sender
    )
    return Limits(
        {row["code"]: Limit(row["rate"], row["lead_s"], row["paused"]) for row in regions},
        {row["name"]: row["rate"] for row in gateways},
        [Way(row["to"], row["category"], row["gateways"]) for row in routes],
        own,
    )
