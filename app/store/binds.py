"""Which dispatcher may open how many of a gateway's binds.

Guarantee: over all live dispatchers the slots of a gateway never pass its contract's number.
"""

from __future__ import annotations

import asyncpg

from app.store import config, locks


async def share(
    driver: asyncpg.Connection, gateway_id: int, total: int, lease_id: int, opened: int, version: int
) -> int:
    """Move towards an equal share of `total`: gives the number of binds to have open. Slots of dead leases are free.

    `opened` is how many the caller has open: a slot is given up only by its holder, after its bind was closed, so a
    caller that gets fewer than that closes the rest and asks again. What others hold counts, whatever its number: a
    total that was lowered is waited for. `version` is that of the configuration which says `total`: by one that is
    no more in force nothing new is opened.
    """
    async with driver.transaction():
        await driver.execute("SELECT pg_advisory_xact_lock($1::int, $2::int)", locks.BINDS_CLASS, gateway_id)
        await driver.execute(
            "DELETE FROM bind_leases b WHERE gateway_id = $1 AND EXISTS"
            " (SELECT FROM leases l WHERE l.id = b.lease_id AND l.ended_at IS NOT NULL)",
            gateway_id,
        )
        live = [r[0] for r in await driver.fetch("SELECT id FROM leases WHERE ended_at IS NULL ORDER BY id")]
        if lease_id not in live:
            return 0
        rank = live.index(lease_id)
        fair = total // len(live) + (1 if rank < total % len(live) else 0)
        held = await driver.fetch(
            "SELECT slot, lease_id FROM bind_leases WHERE gateway_id = $1 ORDER BY slot", gateway_id
        )
        mine = [r["slot"] for r in held if r["lease_id"] == lease_id]
        room = max(0, total - (len(held) - len(mine)))  # what the others leave
        if version != await config.version_of(driver):
            room = 0
        share = min(fair, max(opened, room))
        for slot in mine[max(share, opened) :]:
            await driver.execute(
                "DELETE FROM bind_leases WHERE gateway_id = $1 AND slot = $2", gateway_id, slot
            )
        taken = {r["slot"] for r in held}
        free = [slot for slot in range(total) if slot not in taken][: max(0, share - len(mine))]
        for slot in free:
            await driver.execute("INSERT INTO bind_leases VALUES ($1, $2, $3)", gateway_id, slot, lease_id)
        return min(len(mine), share) + len(free)


async def release(driver: asyncpg.Connection, lease_id: int) -> None:
    """All slots of a lease are free."""
    await driver.execute("DELETE FROM bind_leases WHERE lease_id = $1", lease_id)
