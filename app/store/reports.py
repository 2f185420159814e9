"""Delivery figures from the hourly rollups: what became of what was accepted, and how long receipts took."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import asyncpg
import msgspec

GROUPS = {
    "hour": "date_trunc('hour', r.hour)",
    "day": "date_trunc('day', r.hour)",
    "region": "r.region",
    "category": "r.category",
    "gateway": "coalesce(g.name, '')",
    "campaign": "r.campaign",
}
MAX_ROWS = 10_000


class Figure(msgspec.Struct, frozen=True):
    """One group: its key, and messages by the state that they entered (1: accepted)."""

    key: tuple[object, ...]
    states: dict[int, int]
    receipt_latency_ms: int  # summed over the messages that a receipt made final


async def delivery(
    driver: asyncpg.Connection,
    *,
    tenant_id: int,
    start: datetime,
    end: datetime,
    group_by: Sequence[str],
    campaign: str | None = None,
    region: str | None = None,
) -> list[Figure]:
    """Figures of one tenant, hours in [start, end), grouped by names of GROUPS. At most MAX_ROWS groups."""
    keys = [GROUPS[name] for name in group_by]
    columns = "".join(f"{key} AS k{i}, " for i, key in enumerate(keys))
    grouping = ", ".join([*(f"k{i}" for i in range(len(keys))), "r.state"])
    rows = await driver.fetch(
        f"SELECT {columns} r.state, sum(r.n)::bigint AS n, sum(r.latency_ms)::bigint AS latency_ms"  # noqa: S608 - names of GROUPS
        " FROM rollups r LEFT JOIN gateways g ON g.id = r.gateway_id"
        " WHERE r.tenant_id = $1 AND r.hour >= $2 AND r.hour < $3"
        " AND ($4::text IS NULL OR r.campaign = $4) AND ($5::text IS NULL OR r.region = $5)"
        f" GROUP BY {grouping} ORDER BY {grouping} LIMIT $6",
        tenant_id,
        start,
        end,
        campaign,
        region,
        MAX_ROWS * 20,
    )
    found: dict[tuple[object, ...], tuple[dict[int, int], int]] = {}
    for row in rows:
        key = tuple(row[f"k{i}"] for i in range(len(keys)))
        states, latency = found.get(key, ({}, 0))
        states[row["state"]] = states.get(row["state"], 0) + row["n"]
        found[key] = (states, latency + row["latency_ms"])
    return [Figure(key, states, latency) for key, (states, latency) in list(found.items())[:MAX_ROWS]]
