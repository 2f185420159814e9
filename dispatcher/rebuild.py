"""A new epoch of Redis' copy, built from PostgreSQL before anything is decided by it.

Guarantee: one builder at a time; on a new timeline of PostgreSQL its books are put in order first; nothing is
handed over between `start` and `finish`; the old epoch's keys go only after the new one stands.
"""

from __future__ import annotations

import logging

import asyncpg

from app import offering, rules
from app.queue import cleaning
from app.queue.connection import EpochLost, Queue, Unavailable
from app.store import epochs, locks, timelines
from app.store.engine import Database
from app.store.webhooks import Publisher
from dispatcher import failover
from dispatcher.metrics import Metrics

_LOCK = locks.EPOCH

log = logging.getLogger("volley.dispatcher")


async def _attach(database: Database, driver: asyncpg.Connection, queue: Queue) -> bool:
    """Whether the epoch in force stands."""
    return (
        await timelines.in_order(driver)
        and await offering.attach(database, queue)
        and await cleaning.is_whole(queue)
    )


async def join(
    database: Database, queue: Queue, cap_window_s: int, publisher: Publisher, metrics: Metrics
) -> bool:
    """Attach to the epoch in force, or build the next one if it does not stand on this server run.

    `cap_window_s` is how much history the frequency caps count over.
    False: somebody else is building, or Redis can't be reached; try again.
    """
    async with database.driver() as driver:
        if await _attach(database, driver, queue):
            return True
        if not await driver.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
            return False
        try:
            if await _attach(database, driver, queue):
                return True
            newest = await cleaning.last(queue)
            timeline = await timelines.current(driver)
            if newest is not None and timelines.precedes(timeline, newest[1]):
                log.error("this PostgreSQL was failed over: another one goes on with its work")
                return False
            old = (await epochs.current(driver)).epoch
            if not await timelines.in_order(driver):
                await failover.put_in_order(database, driver, queue, publisher)
            run_id = await queue.run_id()
            epoch = await epochs.start(driver, run_id, newest[0] if newest else 0)
            level = logging.WARNING if old else logging.INFO  # the first one is no news
            log.log(level, "building epoch %d of Redis' copy from PostgreSQL", epoch)
            queue.attach(epoch)
            await queue.load()
            await rules.load_copy(driver, queue, cap_window_s=cap_window_s)
            await cleaning.mark(queue, timeline)
            if await queue.run_id() != run_id or not await epochs.finish(driver, epoch):
                return False
            log.log(level, "epoch %d is whole", epoch)
            metrics.epochs_built += 1
        except (EpochLost, Unavailable) as error:
            log.warning("Redis can't be used yet: %s", error)
            return False
        finally:
            await driver.execute("SELECT pg_advisory_unlock($1)", _LOCK)
    try:
        await offering.offer_open(database, queue)
        for over in {old, newest[0] if newest else old}:
            await cleaning.drop_epoch(queue, over)
    except (EpochLost, Unavailable):
        return False
    return True
