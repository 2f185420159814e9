"""Receipts from gateways to states: committed in groups, acknowledged after the commit.

Guarantee: `take` returns only when its receipts are in PostgreSQL, matched or parked. The next group is what
came in while the last one committed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence

import asyncpg

from app import rules
from app.domain import ids
from app.domain.message import Category, State
from app.domain.recipient import to_check
from app.queue.connection import Queue
from app.store import recalls
from app.store import receipts as store
from app.store.engine import UNSTORABLE, Database
from app.store.webhooks import Change, Publisher
from dispatcher.health import Watch
from dispatcher.metrics import Metrics
from dispatcher.recorder import Recorder
from gateways.base import Receipt

GROUP_LIMIT = 2_000
GROUPS_AT_ONCE = 2  # one is being made ready while the other one commits
ORIGINS_KEPT = 50_000
RETRY_S = 0.5

log = logging.getLogger("volley.dispatcher")


class Receiver:
    """Groups receipts, stores them, and publishes what moved inside the same transaction."""

    def __init__(
        self,
        database: Database,
        queue: Queue,
        recorder: Recorder,
        metrics: Metrics,
        publisher: Publisher,
        watch: Watch,
        clock: Callable[[], float] = time.time,
        *,
        siblings: store.Siblings = store.alone,
    ) -> None:
        """`siblings` says by which gateways a receipt's attempt may have left: those of the same account."""
        self._siblings = siblings
        self._database = database
        self._queue = queue
        self._recorder = recorder
        self._metrics = metrics
        self._publisher = publisher
        self._watch = watch
        self._clock = clock
        self._waiting: list[tuple[list[store.Slip], asyncio.Future[None]]] = []
        self._busy: set[asyncio.Task[None]] = set()
        self._origins: OrderedDict[bytes, store.Origin] = OrderedDict()

    async def take(self, gateway_id: int, batch: Sequence[Receipt]) -> None:
        """Store these receipts; raises if they could not be stored, so that the carrier repeats them."""
        now_s = self._clock()
        slips = [
            store.Slip(
                gateway_id,
                r.gateway_message_id,
                r.state,
                r.raw,
                r.error,
                r.done_at,
                r.submitted_at,
                to_check(r.to) if r.to else None,
                now_s,
                r.whole,
                r.opted_out,
            )
            for r in batch
        ]
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((slips, future))
        if len(self._busy) < GROUPS_AT_ONCE:
            self._busy.add(asyncio.create_task(self._drain()))
        await future

    async def _drain(self) -> None:
        try:
            while self._waiting:
                group, size = [], 0
                while self._waiting and size < GROUP_LIMIT:
                    item = self._waiting.pop(0)
                    group.append(item)
                    size += len(item[0])
                try:
                    await self._recorder.barrier()  # the answers that these receipts follow
                    await self._store([slip for slips, _ in group for slip in slips])
                except Exception as error:
                    log.exception("receipts could not be stored; the carrier will repeat them")
                    for _, future in group:
                        if not future.done():
                            future.set_exception(ConnectionError(type(error).__name__))
                else:
                    for _, future in group:
                        if not future.done():
                            future.set_result(None)
        finally:  # in the same turn as the last look at `_waiting`: what comes next finds room for a task
            task = asyncio.current_task()
            assert task is not None
            self._busy.discard(task)

    async def _store(self, slips: list[store.Slip]) -> None:
        now_s = self._clock()
        async with self._database.driver() as driver:
            found = await store.match(driver, slips, now_s, self._siblings)
            matched, strays = [], []
            for slip, match in zip(slips, found, strict=True):
                if match is None:
                    strays.append(slip)
                else:
                    matched.append((slip, match))
            await self._learn(driver, matched)
            moved: list[store.Moved] = []
            async with driver.transaction():
                if matched:
                    moved = await store.store(driver, matched, self._origins, now_s)
                if strays:
                    await store.park(driver, strays, now_s)
                await self._publisher.publish(driver, [_change(m) for m in moved], now_s)
                await self._suppress(driver, matched, now_s)
        self._count([slip for slip, _ in matched], strays, moved)

    async def take_answers(
        self, matched: list[tuple[store.Slip, store.Match]], recall: tuple[bytes, str] | None = None
    ) -> None:
        """What a carrier told because it was asked; with it the answer to a recall (message id, word) that is over."""
        now_s = self._clock()
        async with self._database.driver() as driver:
            await self._learn(driver, matched)
            moved: list[store.Moved] = []
            async with driver.transaction():
                if matched:
                    moved = await store.store(driver, matched, self._origins, now_s)
                if recall is not None:
                    await recalls.answered(driver, *recall)
                await self._publisher.publish(driver, [_change(m) for m in moved], now_s)
        self._count([], [], moved)

    async def retry_parked(self, limit: int = 500) -> int:
        """Try parked receipts again, also against open `unknown` attempts; gives how many found theirs."""
        now_s = self._clock()
        async with self._database.driver() as driver:
            due = await store.unpark(driver, now_s, limit)
            if not due:
                return 0
            try:
                return await self._settle(driver, due, now_s)
            except UNSTORABLE:  # one of them; it stays parked, and the others need not
                return sum([await self._settle_one(driver, one, now_s) for one in due])

    async def _settle_one(self, driver: asyncpg.Connection, one: tuple[int, store.Slip], now_s: float) -> int:
        try:
            return await self._settle(driver, [one], now_s)
        except UNSTORABLE as error:
            self._metrics.receipts[(self._metrics.gateway_names.get(one[1].gateway_id, ""), "failed")] += 1
            log.error("parked receipt %d can't be stored: %s", one[0], type(error).__name__)
            return 0

    async def _settle(
        self, driver: asyncpg.Connection, due: Sequence[tuple[int, store.Slip]], now_s: float
    ) -> int:
        """Store those parked receipts that find their attempt; gives how many."""
        found = await store.match(driver, [slip for _, slip in due], now_s, self._siblings, thorough=True)
        taken, done = set[tuple[bytes, int]](), []
        for (row_id, slip), match in zip(due, found, strict=True):
            match = match or await store.match_unknown(  # noqa: PLW2901
                driver, slip, self._siblings(slip.gateway_id), taken
            )
            if match is not None:
                taken.add((match.message_id, match.segment))
                done.append((row_id, slip, match))
        await self._learn(driver, [(slip, match) for _, slip, match in done])
        moved: list[store.Moved] = []
        if done:
            async with driver.transaction():
                moved = await store.store(driver, [(s, m) for _, s, m in done], self._origins, now_s)
                await store.forget(driver, [row_id for row_id, _, _ in done])
                await self._publisher.publish(driver, [_change(m) for m in moved], now_s)
                await self._suppress(driver, [(s, m) for _, s, m in done], now_s)
        self._count([slip for _, slip, _ in done], [], moved)
        return len(done)

    async def _suppress(
        self, driver: asyncpg.Connection, matched: Sequence[tuple[store.Slip, store.Match]], now_s: float
    ) -> None:
        """A person who had said stop to the carrier, as its receipt tells, is not texted again."""
        told = {match.message_id: slip for slip, match in matched if slip.opted_out}
        if not told:
            return
        people = await store.people_of(driver, list(told))
        blocked = [
            rules.Blocked(
                pack.tenant_id, entry.recipient, pack.sender, entry.to,
                {"message_id": ids.text(message_id), "raw": told[message_id].raw, "error": told[message_id].error},
            )
            for message_id, pack, entry in people
        ]  # fmt: skip
        await rules.suppress_blocked_within(driver, self._queue, blocked, now_s=now_s)

    async def _learn(
        self, driver: asyncpg.Connection, matched: Sequence[tuple[store.Slip, store.Match]]
    ) -> None:
        missing = {ids.pack_of(m.message_id) for _, m in matched} - self._origins.keys()
        if missing:
            self._origins.update(await store.origins(driver, list(missing)))
        while len(self._origins) > ORIGINS_KEPT + len(matched):
            self._origins.popitem(last=False)

    def _count(
        self, matched: Sequence[store.Slip], strays: Sequence[store.Slip], moved: Sequence[store.Moved]
    ) -> None:
        metrics = self._metrics
        self._watch.receipts(moved, metrics.gateway_names)
        for result, slips in (("matched", matched), ("parked", strays)):
            for gateway_id, n in Counter(slip.gateway_id for slip in slips).items():
                metrics.receipts[(metrics.gateway_names.get(gateway_id, ""), result)] += n
        groups: dict[tuple[str, int, int, State], list[float]] = {}
        for m in moved:
            origin = m.origin
            groups.setdefault((origin.region, origin.category, m.gateway_id, m.state), []).append(m.latency_s)
        for (region, number, gateway_id, state), latencies in groups.items():
            gateway = metrics.gateway_names.get(gateway_id, "")
            category = Category(number).name
            metrics.moves[(region, category, gateway, state.name)] += len(latencies)
            metrics.receipt_latency.observe_all((region, gateway, category), latencies)


def _change(moved: store.Moved) -> Change:
    return Change(moved.origin.tenant_id, moved.message_id, moved.state, moved.reason, moved.gateway_id)
