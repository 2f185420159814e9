"""What one dispatcher does for all: takes over from the dead, offers what Redis misses, closes, rolls up.

Guarantee: one sweeper at a time (a lock in PostgreSQL); every duty may be late or be done twice without harm.
A duty that fails is logged and comes again; it does not keep the others from their turn.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec

from app import erasure, rules
from app.domain import ids
from app.domain.contacts import MAX_WINDOW_S
from app.domain.recipient import to_check
from app.queue import lanes
from app.queue.connection import EpochLost, Queue, Unavailable
from app.store import (
    batches,
    binds,
    census,
    dispatch,
    erasures,
    idempotency,
    inbound_parts,
    inbox,
    locks,
    parcels,
    partitions,
    receipts,
    registries,
    sweeps,
    timelines,
)
from app.store.engine import AWAY, UNSTORABLE, Database
from app.store.webhooks import Publisher
from dispatcher import inbound, liveness
from dispatcher.deadlines import Deadlines
from dispatcher.metrics import Metrics
from dispatcher.receipts import Receiver
from gateways import cleaning
from gateways.base import Inbound

_LOCK = locks.SWEEPER
TICK_S = 0.25
KEEP_CONTACTS_S = MAX_WINDOW_S + 3_600  # whatever limit is set one day; clocks differ
KEEP_IDEMPOTENCY_S = 48 * 3600
ABANDONED_S = 7 * 86_400  # an upload that was not resumed for so long
KEEP_BATCHES_S = 86_400  # that a batch was offered: longer than commits of PostgreSQL take to its standby
KNOWN_PAGE = 2_000
ALL_UNCONFIRMED_EVERY_S = 86_400.0
CENSUS_SHARE = 0.01  # of the time, at the most, goes into counting every row
OFFERED_WITHIN_S = 5.0  # of its commit, a parcel is in Redis, or its offer has failed
LATE_COMMIT_S = 3_600.0  # from an attempt's time to its being seen: far more than clocks and commits differ

log = logging.getLogger("volley.dispatcher")
_TEXT = msgspec.msgpack.Decoder(Inbound)


class Sweeper:
    """`run` until cancelled."""

    def __init__(
        self,
        database: Database,
        queue: Queue,
        receiver: Receiver,
        metrics: Metrics,
        publisher: Publisher,
        *,
        lease_id: int,
        horizon_s: float,
        on_dead: Callable[[], None] = lambda: None,
        deadlines: Deadlines | None = None,
    ) -> None:
        """`lease_id` is our own; `on_dead` is called when another one was declared dead."""
        self._database = database
        self._queue = queue
        self._receiver = receiver
        self._metrics = metrics
        self._publisher = publisher
        self._horizon_s = horizon_s
        self._deadlines = deadlines
        self._last: dict[str, float] = {}
        self._watch = liveness.Watch(lease_id)
        self._on_dead = on_dead
        self._closed_to_s = 0.0  # what was handed over before has its final word
        self._closed_all_at = float("-inf")  # monotonic
        self._census_after = float("-inf")  # monotonic
        self._duties: tuple[tuple[str, float, Callable[[], Awaitable[None]]], ...] = (
            ("retake", 1.0, self._retake),
            ("roll_up", 1.0, self._roll_up),
            ("parked", 0.5, self._parked),
            ("inbox", 0.5, self._take_in),
            ("parts", 1.0, self._give_up_parts),
            ("cancelled", 1.0, self._close_cancelled),
            ("expired", 2.0, self._close_expired),
            ("offer", 5.0, self._offer_missing),
            ("accounting", 10.0, self._account),
            ("census", 5.0, self._take_census),
            ("deadlines", 10.0, self._defer),
            ("erasures", 10.0, self._erase),
            ("unconfirmed", 60.0, self._unconfirmed),
            ("housekeeping", 3600.0, self._keep_house),
        )

    async def run(self) -> None:
        """Hold the lock for as long as the connection lives; without it, ask again."""
        while True:
            try:
                async with self._database.driver() as driver:
                    if await driver.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
                        watching = asyncio.create_task(self._watch_leases())
                        try:
                            await self._lead(driver)
                        finally:
                            watching.cancel()
                            self._metrics.accounting.clear()  # another one's to tell from now on
                            self._metrics.differences.clear()
                            self._metrics.gauges.pop("census_timestamp_seconds", None)
                            await asyncio.gather(watching, return_exceptions=True)
                            if not driver.is_closed():
                                await driver.execute("SELECT pg_advisory_unlock($1)", _LOCK)
            except AWAY:
                log.warning("the sweeper has lost PostgreSQL; trying again")
                self._watch.interrupted(time.monotonic())
            await asyncio.sleep(TICK_S)

    async def _lead(self, driver: asyncpg.Connection) -> None:
        while True:
            # still connected, so still the only one
            if not await timelines.in_order(driver):
                await asyncio.sleep(TICK_S)
                continue
            for name, every_s, duty in self._duties:
                now = time.monotonic()
                if now - self._last.get(name, -every_s) < every_s:
                    continue
                self._last[name] = now
                try:
                    await duty()
                except (EpochLost, Unavailable):
                    log.info("%s waits for Redis", name)
                except Exception:
                    log.exception("%s failed; it comes again", name)
            await asyncio.sleep(TICK_S)

    async def _watch_leases(self) -> None:
        """Beside the duties: a duty that takes long must not look like a stall."""
        while True:
            try:
                began_s = time.monotonic()
                async with self._database.driver() as driver:
                    found = await dispatch.sightings(driver)
                    for dead in self._watch.look(found, began_s, time.monotonic()):
                        await self._end(driver, dead)
            except AWAY:
                self._watch.interrupted(time.monotonic())
            except Exception:
                log.exception("the leases could not be looked at; trying again")
            await asyncio.sleep(liveness.LOOK_EVERY_S)

    async def _end(self, driver: asyncpg.Connection, dead: dispatch.Sighting) -> None:
        if not await dispatch.end_silent(driver, dead):
            return
        self._metrics.leases_retaken += 1
        self._metrics.gauges["lease_retaken_timestamp_seconds"] = time.time()
        log.warning(
            "lease %d is dead (%s): taking over its work", dead.lease_id, "hung" if dead.held else "gone"
        )
        self._last.pop("retake", None)
        self._on_dead()

    async def _retake(self) -> None:
        async with self._database.driver() as driver:
            for lease_id in await dispatch.ended_with_work(driver):
                await binds.release(driver, lease_id)
                await self._take_over(driver, lease_id)

    async def _take_over(self, driver: asyncpg.Connection, lease_id: int) -> None:
        unknown = back = 0
        while True:
            page = await sweeps.retake_page(driver, lease_id, time.time(), to_check, self._publisher)
            if not page.parcels:
                break
            unknown += page.unknown
            back += len(page.back)
            await lanes.forget(self._queue, page.parcels)
            await lanes.offer(self._queue, page.back, head=True)
        claimed = await lanes.retake(self._queue, await lanes.lanes(self._queue), lease_id)
        if not await dispatch.close_lease(driver, lease_id):
            log.info("lease %d: some of its parcels are locked; they are retaken next time", lease_id)
        log.warning(
            "lease %d: %d messages unknown, %d parcels back, %d claims back", lease_id, unknown, back, claimed
        )

    async def _roll_up(self) -> None:
        async with self._database.driver() as driver:
            while await sweeps.roll_up(driver) == sweeps.ROLLUP_PAGE:
                continue

    async def _parked(self) -> None:
        await self._receiver.retry_parked()

    async def _take_in(self) -> None:
        """Texts that HTTP callbacks brought, one by one: a bad one, or one that meets a fault, holds back no stop."""
        row_id = 0
        async with self._database.driver() as driver:
            while True:
                try:
                    async with driver.transaction():
                        parked = await inbox.unpark(driver, row_id)
                        if parked is None:
                            return
                        row_id, gateway_id, payload = parked
                        text = cleaning.inbound(_TEXT.decode(payload))
                        await inbound.take(self._database, self._queue, gateway_id, [text], time.time())
                except UNSTORABLE as error:
                    await inbox.set_aside(driver, row_id, time.time())
                    gateway = self._metrics.gateway_names.get(gateway_id, "")
                    self._metrics.inbound[(gateway, "set_aside")] += 1
                    log.error(
                        "inbound text %d can't be taken in and is set aside: %s", row_id, type(error).__name__
                    )
                except (EpochLost, Unavailable, *AWAY):
                    raise
                except Exception as error:
                    log.error(
                        "inbound text %d was not taken in; it comes again: %s", row_id, type(error).__name__
                    )

    async def _give_up_parts(self) -> None:
        """Inbound texts of which some parts did not come."""
        async with self._database.driver() as driver:
            late = await inbound_parts.forget(driver, time.time())
        for gateway_id in late:
            for result in await inbound.give_up(self._database, self._queue, gateway_id, time.time()):
                gateway = self._metrics.gateway_names.get(gateway_id, "")
                self._metrics.inbound[(gateway, result.action or "none")] += 1

    async def _erase(self) -> None:
        """What was under way when a person's erasure was asked for."""
        async with self._database.driver() as driver:
            open_ones = await erasures.unfinished(driver)
        for one in open_ones:
            await erasure.advance(self._database, self._queue, one.tenant_id, one.id.bytes, time.time())

    async def _close_cancelled(self) -> None:
        await self._close(sweeps.close_cancelled)

    async def _close_expired(self) -> None:
        await self._close(sweeps.close_expired)

    async def _close(self, close: Callable[[asyncpg.Connection, float, Publisher], Awaitable[list]]) -> None:
        async with self._database.driver() as driver:
            while closed := await close(driver, time.time(), self._publisher):
                await lanes.forget(self._queue, [(p.lane, p.id) for p in closed])

    async def _offer_missing(self) -> None:
        """PostgreSQL's open parcels against Redis' entries, these against the lists that they wait in, and the index
        against their lanes."""
        after, missing_in_all = bytes(16), 0
        made_before = ids.first_id_at(time.time() - OFFERED_WITHIN_S)
        while True:
            async with self._database.driver() as driver:
                page = await parcels.open_ids(
                    driver, after=after, due_before_s=time.time() + parcels.HORIZON_S, limit=KNOWN_PAGE
                )
                if not page:
                    break
                by_lane: dict[str, list[bytes]] = {}
                for parcel_id, lane in page:
                    by_lane.setdefault(lane, []).append(parcel_id)
                missing = []
                await lanes.reindex(self._queue, by_lane)
                for lane, known in by_lane.items():
                    held = await lanes.known(self._queue, lane, known)
                    missing += [p for p, there in zip(known, held, strict=True) if not there]
                if missing:
                    still_open = await parcels.open_by_id(driver, missing)
                    missing_in_all += sum(parcel.id < made_before for parcel in still_open)
                    await lanes.offer(self._queue, still_open)
            after = page[-1][0]
        missing_in_all += await lanes.mend(self._queue, await lanes.lanes(self._queue))
        self._metrics.accounting["missing_in_redis"] = float(missing_in_all)
        self._metrics.reoffered_parcels += missing_in_all
        if missing_in_all:
            self._metrics.gauges["parcels_reoffered_timestamp_seconds"] = time.time()

    async def _account(self) -> None:
        async with (
            self._database.driver() as driver,
            driver.transaction(isolation="repeatable_read", readonly=True),
        ):
            sides = await sweeps.accounting(driver)
        self._metrics.accounting.update(sides)
        names = await lanes.lanes(self._queue)
        self._metrics.lanes = await lanes.depths(self._queue, names) if names else {}
        self._metrics.accounting["redis_parcels"] = float(
            sum(total - claimed for total, _, claimed in self._metrics.lanes.values())
        )

    async def _take_census(self) -> None:
        """Every message counted from its rows, in a snapshot of its own; how often follows from how long it takes."""
        began = time.monotonic()
        if began < self._census_after:
            return
        async with (
            self._database.driver() as driver,
            driver.transaction(isolation="repeatable_read", readonly=True),
        ):
            found = await census.count(driver)
        self._census_after = began + (time.monotonic() - began) / CENSUS_SHARE
        self._metrics.accounting["open"] = float(found.open)
        self._metrics.accounting["accepted_by_packs"] = float(found.accepted)
        self._metrics.accounting["final_by_rows"] = float(sum(found.final.values()))
        self._metrics.differences = {side: float(n) for side, n in found.differences.items()}
        self._metrics.gauges["census_timestamp_seconds"] = time.time()
        if any(found.differences.values()):
            log.error("the books don't balance: %s", found.differences)

    async def _defer(self) -> None:
        """A turn is bounded: what is left comes right after the other duties."""
        if self._deadlines is not None and await self._deadlines.turn():
            self._last.pop("deadlines", None)

    async def _unconfirmed(self) -> None:
        """What came past the horizon since the last time; once a day everything, for what was in doubt then."""
        began, now_s, after = time.monotonic(), time.time(), bytes(16)
        everything = began - self._closed_all_at > ALL_UNCONFIRMED_EVERY_S
        since_s = 0.0 if everything else self._closed_to_s
        async with self._database.driver() as driver:
            while True:
                _, mark = await sweeps.close_unconfirmed(
                    driver, now_s, self._horizon_s, self._publisher, after, since_s
                )
                if mark is None:
                    break
                after = mark
            self._closed_to_s = max(0.0, now_s - self._horizon_s - LATE_COMMIT_S)
            if everything:
                self._closed_all_at = began
            await receipts.drop_strays(driver, time.time())

    async def _keep_house(self) -> None:
        async with self._database.driver() as driver:
            await partitions.ensure(driver, time.time())
            await idempotency.purge(driver, datetime.now(UTC) - timedelta(seconds=KEEP_IDEMPOTENCY_S))
            await dispatch.forget_leases(driver)
            await dispatch.forget_contacts(driver, datetime.now(UTC) - timedelta(seconds=KEEP_CONTACTS_S))
            self._metrics.gauges["registries_stale"] = float(
                await registries.stale(driver, datetime.now(UTC))
            )
            await batches.abandon(driver, ABANDONED_S)
            await rules.forget_contacts(driver, self._queue)
        await lanes.forget_batches(self._queue, time.time() - KEEP_BATCHES_S)
