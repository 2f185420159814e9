"""PostgreSQL's timelines. A failover, or a backup that was restored, begins a new one, on which commits that Volley
relied on may be missing.

Guarantee: on a timeline whose books were not put in order the journal takes nothing, and no open parcel is given
out (`volley_in_order()` stands in those statements). A lease holds on the timeline it was opened on, and on no other.
"""

from __future__ import annotations

from datetime import datetime

import asyncpg

LEASES_MADE_MEANWHILE = 1_000  # on the old timeline, unknown here: their numbers are not given out again


async def current(driver: asyncpg.Connection) -> str:
    """System identifier and timeline, `7712994796324291647/00000001`; '' where the server does not tell."""
    return await driver.fetchval("SELECT volley_timeline()")


async def in_order(driver: asyncpg.Connection) -> bool:
    """Whether the books hold on this timeline. False until `put_in_order` when it is a new one."""
    if await driver.fetchval("SELECT volley_in_order()"):
        return True
    async with driver.transaction():
        made = await driver.fetchval(
            "INSERT INTO timelines (timeline, in_order) VALUES (volley_timeline(), false)"
            " ON CONFLICT DO NOTHING RETURNING true"
        )
        if made:  # a sequence may fall back behind what it gave out on the old timeline
            await driver.execute(
                "SELECT setval(pg_get_serial_sequence('leases', 'id'),"
                " greatest((SELECT max(id) FROM leases), 1) + $1)",
                LEASES_MADE_MEANWHILE,
            )
    return False


def precedes(timeline: str, other: str) -> bool:
    """Whether it is an earlier timeline of the same system: what was promoted on the other one left it behind."""
    system, _, number = timeline.partition("/")
    other_system, _, other_number = other.partition("/")
    return system == other_system and number < other_number  # of equal length, in hexadecimal


async def beat(driver: asyncpg.Connection) -> None:
    """A dispatcher is at work on this timeline now."""
    await driver.execute(
        "UPDATE timelines SET seen_at = now() WHERE timeline = volley_timeline() AND in_order"
    )


async def last_work(driver: asyncpg.Connection) -> datetime:
    """When a dispatcher was last at work on an earlier timeline, as far as this one knows: to the second, what was
    committed before is here."""
    return await driver.fetchval("SELECT max(seen_at) FROM timelines WHERE in_order")


async def noticed(driver: asyncpg.Connection) -> datetime:
    """When this timeline, whose books are not in order, was seen first."""
    return await driver.fetchval("SELECT seen_at FROM timelines WHERE timeline = volley_timeline()")


async def put_in_order(driver: asyncpg.Connection) -> None:
    """The books hold on this timeline from now on. Every lease of an earlier one is over; Redis' copy is built anew."""
    await driver.execute(
        "UPDATE leases SET ended_at = now() WHERE ended_at IS NULL AND timeline IS DISTINCT FROM volley_timeline()"
    )
    await driver.execute("UPDATE redis_epoch SET ready = false, run_id = ''")
    await driver.execute(
        "UPDATE timelines SET in_order = true, seen_at = now() WHERE timeline = volley_timeline()"
    )
