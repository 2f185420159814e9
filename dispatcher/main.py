"""The dispatcher process: wires the parts together, keeps its lease, answers health and metrics, ends in order.

Guarantees: a process whose lease is gone ends (exit code 3) and lets its successor read the journal; SIGTERM
claims nothing more, waits for the answers in flight, records them, and ends its lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import uvloop
from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from app import rules
from app.countries.packs import Packs
from app.countries.shelf import Shelf
from app.countries.tenants import terms_of
from app.policy import Desk
from app.queue import cleaning, lanes, status
from app.queue.connection import EpochLost, Queue, Unavailable
from app.settings import Settings
from app.store import config as configuration
from app.store import dispatch, durability, epochs, receipts, timelines
from app.store import webhooks as webhook_events
from app.store.engine import AWAY, Database
from app.store.webhooks import Publisher
from dispatcher import inbound, rebuild, webhooks
from dispatcher.deadlines import Deadlines
from dispatcher.fleet import Fleet
from dispatcher.health import FLUSH_S, Watch
from dispatcher.metrics import Metrics
from dispatcher.questions import Asker
from dispatcher.recalls import Recaller
from dispatcher.receipts import Receiver
from dispatcher.recorder import Recorder
from dispatcher.sweeper import Sweeper
from dispatcher.worker import Dispatcher
from gateways.base import Inbound, Outcome, Receipt, Submission

HEARTBEAT_S = 1.0
HOLD_CHECK_S = 0.25  # between looks whether the connection with our lease's lock is there
HOLD_RETRY_S = 0.1
SHOW_EVERY_S = 1.0
JOIN_RETRY_S = 0.2
JOIN_LIMIT_S = 5.0
STAYED_S = 10.0  # attached for so long: what comes next is another fault
RECORD_S = 5.0  # for the last outcomes to be committed
CYCLES_END_S = 1.0  # for what was claimed to be handed over or given back
CANCEL_AGAIN_S = 0.5
BINDS_EVERY_S = 2.0
HISTORIES_EVERY_S = 30.0  # looked whether they reach back far enough, unless something changed
CLOCKS_EVERY_S = 5.0
EPOCH_EVERY_S = 1.0
MAX_CLOCK_SKEW_S = 2.0
LEASE_LOST_EXIT = 3
FAILED_OVER_EXIT = 4
GC_THRESHOLD = 50_000  # messages under way are plain structs: the collector finds nothing in them

log = logging.getLogger("volley.dispatcher")


class Hub:
    """The sink of every gateway: outcomes to the recorder, receipts to the receiver, texts to the inbox."""

    def __init__(self) -> None:
        self.dispatcher: Dispatcher | None = None
        self.recorder: Recorder | None = None
        self.receiver: Receiver | None = None
        self.process: Process | None = None

    def outcomes(self, batch: Sequence[tuple[Submission, int, Outcome]]) -> None:
        assert self.recorder is not None
        assert self.process is not None
        self.process.watch.outcomes(batch)
        self.recorder.outcomes(batch)

    def ready(self) -> None:
        if self.dispatcher is not None:
            self.dispatcher.wake.set()

    async def receipts(self, gateway: str, batch: Sequence[Receipt]) -> None:
        assert self.receiver is not None
        assert self.process is not None
        await self.receiver.take(self.process.gateway_id(gateway), batch)

    async def inbound(self, gateway: str, batch: Sequence[Inbound]) -> None:
        assert self.process is not None
        await self.process.take_inbound(gateway, batch)


class Process:
    """One incarnation. `run` returns the exit code."""

    def __init__(
        self, settings: Settings, database_url: str, redis_url: str, *, packs: Packs | None = None
    ) -> None:
        """`packs` None: the country rules that come with Volley."""
        self.settings = settings
        self.packs = packs or Packs.load()
        self.shelf = Shelf(self.packs)
        self.database = Database(database_url, pool=13, name="volley dispatch")
        self.queue = Queue(redis_url)
        self.metrics = Metrics()
        self.hub = Hub()
        self.hub.process = self
        self.exit_code = 0
        self.stopping = asyncio.Event()
        self._binds_freed = asyncio.Event()
        self._grown = asyncio.Event()
        self._changed = asyncio.Event()  # the configuration, and gateways are to be opened or closed for it
        self._beaten_at = time.monotonic()
        self._tasks: list[asyncio.Task[Any]] = []

    def gateway_id(self, name: str) -> int:
        held = self.fleet.open.get(name)
        if held is not None:
            return held.row.id
        return next(row.id for row in self.fleet.config.gateways if row.name == name)

    async def run(self) -> int:
        async with self.database.driver() as driver:
            self.lease_id = await dispatch.open_lease(driver, f"{socket.gethostname()}:{os.getpid()}")
            self._timeline = await timelines.current(driver)
            for weakness in await durability.weaknesses(driver):
                log.log(logging.INFO if self._timeline else logging.WARNING, "durability: %s", weakness)
        metrics, database, queue = self.metrics, self.database, self.queue
        publisher = Publisher()
        self.recorder = Recorder(database, queue, self.lease_id, metrics, publisher, self._lease_lost)
        self.watch = Watch(queue)
        self.fleet = Fleet(database, self.hub, self.lease_id, self.watch)
        self.receiver = Receiver(
            database, queue, self.recorder, metrics, publisher, self.watch, siblings=self.fleet.siblings
        )
        self.dispatcher = Dispatcher(
            database, queue, self.lease_id, Desk(self.packs), self.fleet, self.recorder, metrics, publisher
        )
        self.hub.recorder, self.hub.receiver = self.recorder, self.receiver
        self.hub.dispatcher = self.dispatcher
        self._start(self._hold_lease())
        self._start(self._heartbeat())  # opening gateways may take longer than the silence of the dead
        self.recorder.start().add_done_callback(self._ended)
        await self._refresh()
        await self.fleet.reopen()
        runner = await self._serve()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        sweeper = Sweeper(
            database,
            queue,
            self.receiver,
            metrics,
            publisher,
            lease_id=self.lease_id,
            horizon_s=receipts.HORIZON_S,
            on_dead=self._binds_freed.set,
            deadlines=Deadlines(database, queue, self.dispatcher.desk, self.fleet, metrics),
        )
        work = asyncio.create_task(self.dispatcher.run(), name="dispatcher")
        work.add_done_callback(self._ended)
        for part in (
            self._show_status(),
            self._keep_attached(),
            self._watch_epoch(),
            self._listen_for_work(),
            self._watch_configuration(),
            self._reopen_gateways(),
            self._watch_health(),
            self._keep_histories(),
            self._watch_clocks(),
            self._share_binds(),
            Recaller(database, self.fleet, self.receiver).run(),
            Asker(database, self.fleet, self.receiver).run(),
            sweeper.run(),
            webhooks.run(
                database,
                self.stopping,
                limits=webhooks.Limits(allow_private=self.settings.webhook_allow_private),
            ),
        ):
            self._start(part)
        await self.stopping.wait()
        await self._stop(work)
        await runner.cleanup()
        return self.exit_code

    def _start(self, part: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(part)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        if isinstance(task.exception(), dispatch.LeaseLost):
            self._lease_lost()
        else:
            log.error("a part of the dispatcher ended", exc_info=task.exception())
            self.exit_code = 1
            self.stopping.set()

    async def _stop(self, work: asyncio.Task[None]) -> None:
        self.dispatcher.stop()
        try:
            await asyncio.wait_for(work, CYCLES_END_S)
        except TimeoutError:
            log.warning("cycles did not end in time")
        except Exception:
            log.warning("the dispatcher's loop had ended by itself")  # `_ended` has said why
        await self.fleet.close(self.settings.drain_s)
        if self.exit_code not in (LEASE_LOST_EXIT, FAILED_OVER_EXIT):
            try:
                async with asyncio.timeout(max(RECORD_S, self.settings.drain_s)):
                    await self.recorder.stop()
                    async with self.database.driver() as driver:
                        await dispatch.end_lease(driver, self.lease_id)
            except (TimeoutError, *AWAY):
                log.error("the last outcomes could not be recorded; the successor will call them unknown")
        pending = set(self._tasks)
        while pending:  # what a task waits for may swallow a cancellation
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
        await self.queue.close()
        await self.database.dispose()

    def _failed_over(self) -> None:
        """PostgreSQL runs on another timeline: commits that we relied on may be gone with the old one. What we know
        of texts under way can't be told from what it lost; the successor calls them unknown."""
        log.error("PostgreSQL failed over: this dispatcher ends, its successor puts the books in order")
        self.exit_code = FAILED_OVER_EXIT
        self.stopping.set()

    def _lease_lost(self) -> None:
        if self.exit_code == FAILED_OVER_EXIT:
            return
        log.error("the lease is over: this dispatcher was declared dead, or PostgreSQL failed over; it ends")
        self.exit_code = LEASE_LOST_EXIT
        self.stopping.set()

    # Its duties

    async def _hold_lease(self) -> None:
        """Our lease's lock, on a connection of its own, for as long as we live."""
        while True:
            try:
                async with self.database.driver() as driver:
                    try:
                        await dispatch.hold_lease(driver, self.lease_id)
                        while True:
                            await asyncio.sleep(HOLD_CHECK_S)
                            await driver.fetchval("SELECT 1")
                    finally:
                        driver.terminate()  # the lock must not go to whom the pool gives the connection next
            except AWAY:
                log.warning("the lease's lock is lost with its connection; taking it again")
            await asyncio.sleep(HOLD_RETRY_S)

    async def _heartbeat(self) -> None:
        while True:
            try:
                async with self.database.driver() as driver:
                    await dispatch.beat(driver, self.lease_id, self._timeline)
                self._beaten_at = time.monotonic()
                self.metrics.gauges["postgresql_up"] = 1.0
            except dispatch.FailedOver:
                self._failed_over()
                return
            except dispatch.LeaseLost:
                self._lease_lost()
                return
            except AWAY:
                self.metrics.gauges["postgresql_up"] = 0.0
                log.warning("the lease could not be renewed; trying again")
            self.metrics.gauges["parcels_in_flight"] = float(self.recorder.in_flight)
            self.metrics.binds = self.fleet.binds()
            await asyncio.sleep(HEARTBEAT_S)

    async def _show_status(self) -> None:
        """For the console. A task of its own: a slow Redis must not hold up the heartbeat."""
        while True:
            binds = tuple(
                status.Bind(gateway, slot, b.state, b.window, b.in_flight, b.since, b.error)
                for b in self.fleet.binds()
                for gateway, _, slot in (b.name.rpartition("/"),)
            )
            attached, parcels = self.dispatcher.attached.is_set(), self.recorder.in_flight
            try:
                await status.show(
                    self.queue,
                    status.Status(
                        self.lease_id, time.time(), attached, parcels, binds, self.watch.circuits()
                    ),
                )
                self.metrics.gauges["redis_up"] = 1.0
            except (OSError, Unavailable):
                self.metrics.gauges["redis_up"] = 0.0
            await asyncio.sleep(SHOW_EVERY_S)

    async def _keep_attached(self) -> None:
        again, pause_s = False, 0.0
        while True:
            self.dispatcher.lost.clear()
            try:
                joined = await rebuild.join(
                    self.database,
                    self.queue,
                    self.packs.longest_cap_s(),
                    self.dispatcher.publisher,
                    self.metrics,
                )
                if joined and again:  # claims whose answer was lost with the connection go back
                    await lanes.retake(
                        self.queue, await lanes.lanes(self.queue), self.lease_id, self.recorder.under_way
                    )
            except (EpochLost, Unavailable, *AWAY):
                log.warning("PostgreSQL or Redis can't be reached; nothing is handed over meanwhile")
                joined = False
            if not joined:
                await asyncio.sleep(JOIN_RETRY_S)
                continue
            again = True
            self.metrics.gauges["attached"] = 1.0
            self.metrics.gauges["epoch"] = float(self.queue.epoch)
            self.dispatcher.attached.set()
            attached_at = time.monotonic()
            await self.dispatcher.lost.wait()
            # A Redis that answers and refuses to write (full, or a replica) is joined and lost at once.
            stayed = time.monotonic() - attached_at > STAYED_S
            pause_s = 0.0 if stayed else next_pause_s(pause_s)
            await asyncio.sleep(pause_s)

    async def _listen_for_work(self) -> None:
        """A new text need not wait for the next poll."""
        while True:
            try:
                async for _ in lanes.wakes(self.queue):
                    self.dispatcher.wake.set()
            except (OSError, Unavailable):
                await asyncio.sleep(JOIN_RETRY_S)

    async def _watch_epoch(self) -> None:
        """A flush, or an epoch that another dispatcher began: an idle dispatcher would not run into it."""
        while True:
            await asyncio.sleep(EPOCH_EVERY_S)
            if not self.dispatcher.attached.is_set():
                continue
            try:
                async with self.database.driver() as driver:
                    epoch = await epochs.current(driver)
                whole = await cleaning.is_whole(self.queue)
            except (Unavailable, *AWAY):
                continue  # whoever has work to do notices
            if not (whole and epoch.ready and epoch.epoch == self.queue.epoch):
                self.dispatcher.detach()

    async def _reopen_gateways(self) -> None:
        """A task of its own: a gateway that drains must not hold up the next change."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self.fleet.reopen()
            except AWAY:
                log.warning("gateways can't be opened anew; trying again")
                await asyncio.sleep(1.0)
                self._changed.set()
            self.dispatcher.wake.set()

    async def _watch_health(self) -> None:
        """Counts shared and judged; what the API and the metrics show."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.watch.flush(self.fleet.in_flight())
            self.metrics.watch = self.watch
            self.dispatcher.wake.set()  # what waits for a gateway may have another one now

    async def _keep_histories(self) -> None:
        """A limit that has grown looks further back than the copy does: what is older is put there, while all go on
        whom it does not concern."""
        while True:
            await self.dispatcher.attached.wait()
            self._grown.clear()
            try:
                async with self.database.driver() as driver:
                    n = await rules.deepen(driver, self.queue, cap_window_s=self.packs.longest_cap_s())
                if n:
                    log.info("contact histories reach further back for %d tenants and organisations", n)
            except (EpochLost, Unavailable, *AWAY):
                log.warning("contact histories can't be made longer now; trying again")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._grown.wait(), HISTORIES_EVERY_S)

    async def _refresh(self) -> None:
        if await self.fleet.refresh():
            self._changed.set()
            await self._take_rules()
            async with self.database.driver() as driver:
                self.dispatcher.publisher.followers = await webhook_events.followers(driver)
            self.metrics.gateway_names = {row.id: row.name for row in self.fleet.config.gateways}

    async def _take_rules(self) -> None:
        """What operators and tenants have set of the rules, for the next decision."""
        config, desk = self.fleet.config, self.dispatcher.desk
        desk.tenants = self.fleet.tenants
        if await self.shelf.put(config.version, config.country_packs):
            log.info("country packs %s hold from now on", self.shelf.packs.version)
            self.packs = self.shelf.packs
            desk.replace(self.packs)
        leads = {region.code: region.lead_s for region in config.regions if region.lead_s is not None}
        desk.set_hours(terms_of(config.tenants), leads)
        self._grown.set()

    async def _watch_configuration(self) -> None:
        changed = asyncio.Event()
        while True:
            try:
                async with self.database.driver() as driver:
                    await driver.add_listener(configuration.CHANNEL, lambda *_: changed.set())
                    while not driver.is_closed():
                        await self._refresh()
                        try:
                            await asyncio.wait_for(changed.wait(), 5.0)
                        except TimeoutError:
                            await driver.fetchval("SELECT 1")
                        changed.clear()
                        self.dispatcher.wake.set()
            except AWAY:
                log.warning("the configuration can't be read; the last one holds")
                await asyncio.sleep(1.0)

    async def _share_binds(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._binds_freed.wait(), BINDS_EVERY_S)
            self._binds_freed.clear()
            try:
                await self.fleet.share_binds()
            except AWAY:
                log.warning("binds can't be shared; those held are kept")

    async def _watch_clocks(self) -> None:
        """Wall clock against Redis' and PostgreSQL's: past 2 s apart, rule-bound texts wait."""
        while True:
            try:
                skew = await self._skew_s()
                self.metrics.gauges["clock_skew_seconds"] = skew
                agree = skew <= MAX_CLOCK_SKEW_S
                if agree != self.dispatcher.clocks_agree:
                    log.warning(
                        "clocks are %.1f s apart: marketing %s", skew, "goes on" if agree else "waits"
                    )
                self.dispatcher.clocks_agree = agree
            except (Unavailable, *AWAY):
                log.info("the clocks could not be compared")
            await asyncio.sleep(CLOCKS_EVERY_S)

    async def _skew_s(self) -> float:
        async with self.database.driver() as driver:
            started = time.time()
            theirs = (await driver.fetchval("SELECT clock_timestamp()")).timestamp()
        middle = time.time()
        seconds, micros = await self.queue.client.time()
        ended = time.time()
        database = max(0.0, abs(theirs - (started + middle) / 2) - (middle - started))
        redis = max(0.0, abs(seconds + micros / 1e6 - (middle + ended) / 2) - (ended - middle))
        return max(database, redis)

    async def take_inbound(self, gateway: str, batch: Sequence[Inbound]) -> None:
        for result in await inbound.take(
            self.database, self.queue, self.gateway_id(gateway), batch, time.time()
        ):
            self.metrics.inbound[(gateway, result.action or "none")] += 1

    # Health and metrics

    async def _serve(self) -> web.AppRunner:
        registry = CollectorRegistry()
        registry.register(self.metrics)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)

        async def metrics(_: web.Request) -> web.Response:
            return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

        async def healthz(_: web.Request) -> web.Response:
            return web.json_response({"status": "ok"})

        async def readyz(_: web.Request) -> web.Response:
            bound = sum(b.state == "bound" for b in self.fleet.binds())
            state = {"attached": self.dispatcher.attached.is_set(), "binds": bound, "lease": self.lease_id}
            ready = state["attached"] and bound > 0 and not self.stopping.is_set()
            return web.json_response(state, status=200 if ready else 503)

        app = web.Application()
        app.add_routes(
            [web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)]
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, self.settings.dispatcher_host, self.settings.dispatcher_port).start()
        return runner


def next_pause_s(pause_s: float) -> float:
    """Before Redis is joined again: twice as long each time, up to JOIN_LIMIT_S."""
    return min(JOIN_LIMIT_S, max(JOIN_RETRY_S, 2 * pause_s))


def run(settings: Settings) -> None:
    """The dispatcher role, until SIGTERM. Exits 3 when its lease was lost, 1 when a part failed."""
    assert settings.database_url
    assert settings.redis_url
    database_url, redis_url = settings.database_url, settings.redis_url

    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)

    async def main() -> int:
        return await Process(settings, database_url, redis_url).run()

    code = uvloop.run(main())
    if code:
        raise SystemExit(code)
