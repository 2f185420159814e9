"""What the console shows: figures of a tenant, lanes, dispatchers. Read only.

Guarantees: figures are sums of the deltas that the moving transactions wrote, never a count over messages;
each query is one snapshot; what belongs to a tenant is asked for by tenant.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import asyncpg
import msgspec

from app.domain.message import State

ACCEPTED = int(State.accepted)

# Tallies wait for their roll-up for about a second; both together are every move since `$2`.
_ENTERED = """
SELECT state, sum(n)::bigint AS n FROM (
    SELECT state, n FROM rollups WHERE tenant_id = $1 AND hour >= $2
    UNION ALL
    SELECT CASE WHEN from_state IS NULL THEN 1 ELSE to_state END, n FROM tallies
    WHERE tenant_id = $1 AND at >= $2
) moves GROUP BY state
"""

_LANES = """
SELECT lane, count(*) AS parcels, coalesce(sum(n), 0)::bigint AS messages,
       coalesce(sum(n) FILTER (WHERE due_at > $1), 0)::bigint AS deferred,
       coalesce(sum(in_flight), 0)::bigint AS in_flight,
       min(due_at) FILTER (WHERE due_at > $1) AS next_at,
       (array_agg(reason ORDER BY due_at) FILTER (WHERE due_at > $1))[1] AS reason
FROM parcels GROUP BY lane ORDER BY lane
"""


class Lane(msgspec.Struct, frozen=True):
    """Messages that are still to be handed over, by lane. `next_at`: when the first deferred ones are due."""

    name: str
    parcels: int
    messages: int
    deferred: int
    in_flight: int
    next_at: datetime | None
    reason: str | None


class Dispatcher(msgspec.Struct, frozen=True):
    """A lease that was not ended. `silent_s`: since its last heartbeat, by PostgreSQL's clock."""

    lease: int
    name: str
    started_at: datetime
    silent_s: float


async def entered(driver: asyncpg.Connection, tenant_id: int, since: datetime) -> Mapping[State, int]:
    """How many of the tenant's messages entered each state since that full hour; `accepted`: were accepted."""
    rows = await driver.fetch(_ENTERED, tenant_id, since)
    return {State(row["state"]): row["n"] for row in rows}


async def lanes(driver: asyncpg.Connection, now: datetime) -> list[Lane]:
    """Every lane with open parcels, of all tenants."""
    return [Lane(*row) for row in await driver.fetch(_LANES, now)]


async def dispatchers(driver: asyncpg.Connection) -> list[Dispatcher]:
    """Those that live, oldest first."""
    rows = await driver.fetch(
        "SELECT id, name, started_at, extract(epoch FROM clock_timestamp() - seen_at)::float FROM leases "
        "WHERE ended_at IS NULL ORDER BY id"
    )
    return [Dispatcher(*row) for row in rows]


async def gateways(driver: asyncpg.Connection) -> list[tuple[str, str, bool, int | None]]:
    """(name, URL with its secrets, enabled, segments a second) by name. Show no URL but through `masking`."""
    rows = await driver.fetch("SELECT name, url, enabled, rate FROM gateways ORDER BY name")
    return [tuple(row) for row in rows]
