"""Between PostgreSQL and Redis: joining the current epoch, and offering open parcels.

Guarantee: nothing here hands anything over or decides anything; all of it may be repeated or left out at
any moment without loss, since PostgreSQL's parcels are the outbox.
"""

from __future__ import annotations

import time

from app.queue import lanes
from app.queue.connection import EpochLost, Queue, Unavailable
from app.store import epochs, parcels
from app.store.engine import Database


async def attach(database: Database, queue: Queue) -> bool:
    """Join the epoch that PostgreSQL names, if this server run is the one that it was built on.

    False: it is still to be built (by a dispatcher) or Redis can't be reached; offer nothing, decide nothing.
    """
    try:
        run_id = await queue.run_id()
        async with database.driver() as driver:
            epoch = await epochs.current(driver)
        if not epoch.ready or epoch.run_id != run_id:
            return False
        queue.attach(epoch.epoch)
        await queue.load()
    except Unavailable:
        return False
    return True


async def offer_open(database: Database, queue: Queue, batch_id: bytes | None = None) -> int:
    """Offer every open parcel (of one batch) that is due within the horizon; gives how many were new to Redis.

    Raises EpochLost or Unavailable: the sweeper offers them later.
    """
    after, offered = bytes(16), 0
    while True:
        async with database.driver() as driver:
            page = await parcels.open_page(
                driver, after=after, due_before_s=time.time() + parcels.HORIZON_S, batch_id=batch_id
            )
        if not page:
            return offered
        offered += await lanes.offer(queue, page)
        after = page[-1].id


__all__ = ["EpochLost", "Unavailable", "attach", "offer_open"]
