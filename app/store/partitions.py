"""Partitions of the hot tables: a week each, by the time inside the UUIDv7 key.

Guarantee: after `ensure`, each hot table has a partition for now and for the next WEEKS_AHEAD weeks.
Making one that exists does nothing; two processes may do it at once.
"""

from __future__ import annotations

import asyncpg

from app.domain import ids
from app.store import locks

WEEK_S = 7 * 86_400
WEEKS_AHEAD = 8
PARTITIONED = ("packs", "lookups", "decisions", "attempts", "outcomes", "finals", "segment_states")
_LOCK = locks.PARTITIONS


def _bound(week: int) -> str:
    return ids.text(ids.first_id_at(week * WEEK_S)[:6] + bytes(10))


async def ensure(connection: asyncpg.Connection, now_s: float) -> None:
    """Create what is missing, one week back (clocks differ) to WEEKS_AHEAD ahead."""
    this_week = int(now_s // WEEK_S)
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        present = {
            row["relname"]
            for row in await connection.fetch(
                "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' "
                "AND relnamespace = current_schema()::regnamespace"
            )
        }
        for table in PARTITIONED:
            for week in range(this_week - 1, this_week + WEEKS_AHEAD + 1):
                name = f"{table}_w{week}"
                if name not in present:
                    await connection.execute(
                        f"CREATE TABLE {name} PARTITION OF {table} "
                        f"FOR VALUES FROM ('{_bound(week)}') TO ('{_bound(week + 1)}')"
                    )
