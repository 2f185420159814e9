"""Claim → decide → portion → throttle → hand over: the loop, and one cycle of it.

Guarantees: nothing waits here, it goes back to Redis; no more is journalled than the gateways have room for;
bytes leave only for what the journal returned, and only while the decision is fresh; every claimed parcel
ends settled, given back or under a lease that its successor will read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from app.domain.message import Category
from app.domain.pack import Parcel
from app.policy import Decision, Desk, ask
from app.queue import lanes
from app.queue.connection import EpochLost, Queue, Unavailable
from app.store import dispatch
from app.store.engine import Database
from app.store.webhooks import Publisher
from dispatcher.fleet import Fleet, Open
from dispatcher.handover import HandOver
from dispatcher.limits import CYCLE_SEGMENTS, Limits
from dispatcher.metrics import Metrics
from dispatcher.portions import Portion, Portioner, Room
from dispatcher.recorder import Recorder

FRESH_S = 0.5  # a decision older than this authorises nothing
LEAST_CREDIT = 100  # what a lane may claim at least of a gateway's room: a parcel stays whole
MAX_CYCLES = 4  # under way at once: one claims while others wait for PostgreSQL
MAX_LANES = 64
MAX_PARCELS = 200
IDLE_S = 0.5
PAUSED_S = 5.0
FULL_S = 0.05  # a subqueue whose gateway had no room rests so long
LOOK_S = 0.02  # a lane whose usual gateway has no room is looked through so often for what takes another one

log = logging.getLogger("volley.dispatcher")


class Dispatcher:
    """One lease's loop. `run` returns when `stop` was called and everything in flight is settled or timed out."""

    def __init__(
        self,
        database: Database,
        queue: Queue,
        lease_id: int,
        desk: Desk,
        fleet: Fleet,
        recorder: Recorder,
        metrics: Metrics,
        publisher: Publisher,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.database = database
        self.queue = queue
        self.lease_id = lease_id
        self.desk = desk
        self.fleet = fleet
        self.recorder = recorder
        self.metrics = metrics
        self.publisher = publisher
        self.clock = clock
        self.wake = asyncio.Event()
        self.attached = asyncio.Event()
        self.lost = asyncio.Event()  # set when the epoch is gone: somebody must attach again
        self.clocks_agree = True
        self._stopping = False
        self._cycles: set[asyncio.Task[None]] = set()
        self._closed: dict[str, float] = {}  # throttles with nothing free, until (Unix seconds)
        self._looked: dict[str, float] = {}  # lanes without room: when they were last looked through (Unix s)
        self._turn = 0
        self._portioner = Portioner(fleet, self._closed)
        self._limits = Limits(queue, fleet, self._closed)
        self._hand_over = HandOver(
            database, queue, lease_id, self._limits, recorder, metrics, publisher, self.detach
        )

    # The loop

    async def run(self) -> None:
        while not self._stopping:
            if not self.attached.is_set():
                await self._wait(self.attached.wait(), IDLE_S)
                continue
            try:
                if not await self._once():
                    await self._idle()
            except (EpochLost, Unavailable, dispatch.EpochStale):
                self.detach()
            except dispatch.LeaseLost:
                raise
            except Exception:
                log.exception("a cycle failed; what it had claimed goes back")
                await asyncio.sleep(IDLE_S)
        if self._cycles:
            await asyncio.wait(self._cycles)
        await self._hand_over.schedule.drained()

    def stop(self) -> None:
        self._stopping = True
        self.wake.set()

    def detach(self) -> None:
        """The copy in Redis can't be trusted: claim nothing more until it was checked."""
        self.attached.clear()
        self.metrics.gauges["attached"] = 0.0
        self.lost.set()

    async def _idle(self) -> None:
        await self._wait(self.wake.wait(), self._nap_s)
        self.wake.clear()

    @staticmethod
    async def _wait(awaitable: object, timeout_s: float) -> None:
        try:
            await asyncio.wait_for(awaitable, timeout_s)  # type: ignore[arg-type]
        except TimeoutError:
            return

    _nap_s = IDLE_S

    async def _once(self) -> bool:
        """Start one cycle if there is work and room; False: there is none of one of them."""
        if len(self._cycles) >= MAX_CYCLES:
            await asyncio.wait(self._cycles, return_when=asyncio.FIRST_COMPLETED)
        now_s = self.clock()
        found, next_ms = await lanes.ready(self.queue, int(now_s * 1000), MAX_LANES)
        names = self._eligible(found, now_s)
        moments = [*self._closed.values(), *([next_ms / 1000] if next_ms is not None else [])]
        self._nap_s = min([IDLE_S, *(max(0.001, moment - now_s) for moment in moments)])
        if not names:
            return False
        credit, costs = self._room(names, now_s)
        if not costs:
            return False
        try:
            parcels = await lanes.claim(self.queue, list(costs), self.lease_id, costs, MAX_PARCELS)
        except BaseException:
            self._give_back_credit(credit)
            raise
        if not parcels:
            self._give_back_credit(credit)
            return False
        task = asyncio.create_task(self._cycle(parcels, credit))
        self._cycles.add(task)
        task.add_done_callback(self._cycles.discard)
        return True

    def _eligible(self, found: Sequence[str], now_s: float) -> list[str]:
        """Ready lanes whose region is neither paused nor out of tokens; urgent categories first, then in turn."""
        for name in [name for name, until in self._closed.items() if until <= now_s]:
            del self._closed[name]
        out = []
        for lane in found:
            region = lane.rpartition(":")[0]
            throttle = self.fleet.region_throttle(region)
            if region not in self.fleet.paused_regions and (throttle is None or throttle not in self._closed):
                out.append(lane)
        self._turn += 1
        if len(out) > 1:
            cut = self._turn % len(out)
            out = out[cut:] + out[:cut]
            out.sort(key=lambda lane: lane[-1] != "1")  # category otp
        return out

    def _room(self, names: Sequence[str], now_s: float) -> tuple[dict[str, int], dict[str, int]]:
        """Credit by gateway, and what each lane may claim of it."""
        credit: dict[str, int] = {}
        costs: dict[str, int] = {}
        left: dict[str, int] = {}
        for lane in names:
            region, _, category = lane.rpartition(":")
            # without one of the lane's own there may be a tenant's, or the sandbox of a test key: `_route` knows
            usual = self.fleet.lane_gateways(region, int(category))
            name = next((n for n in (*usual, *self.fleet.open) if self.fleet.usable(n)), None)
            if name is None:
                continue
            if name not in credit:
                closed = f"gateway:{name}" in self._closed
                credit[name] = left[name] = 0 if closed else self._take(self.fleet.open[name])
            if left[name] > 0:
                several = len(names) > 1
                costs[lane] = min(left[name], max(LEAST_CREDIT, credit[name] // 4)) if several else left[name]
                costs[lane] = min(costs[lane], max(LEAST_CREDIT, self._limits.worth(region)))
                left[name] -= costs[lane]
                self._looked.pop(lane, None)
            elif credit[name] == 0 and self._look(lane, name, now_s):
                costs[lane] = LEAST_CREDIT
        return credit, costs

    def _look(self, lane: str, usual: str, now_s: float) -> bool:
        """Whether to claim a little of a lane whose usual gateway has had no room for a while: some of it may be
        a tenant's own route's, a prefix's, or a test key's. `_untouched` lets the others rest."""
        region, _, category = lane.rpartition(":")
        sides = (self.fleet.usable(n) for n in self.fleet.side_gateways(region, int(category)) if n != usual)
        if not any(side is not None and side.free() > 0 for side in sides):
            return False
        last = self._looked.get(lane)
        if last is None or not 0 <= now_s - last <= IDLE_S:  # it has only now run out of room
            last = self._looked[lane] = now_s
        if now_s - last < LOOK_S:
            self._nap_s = min(self._nap_s, LOOK_S - (now_s - last))
            return False
        self._looked[lane] = now_s
        return True

    def _take(self, held: Open) -> int:
        """Credit of a gateway, if there is enough to be worth a cycle."""
        got = held.gateway.take(CYCLE_SEGMENTS)
        least = (held.at_once() + 3) // 4  # fewer aren't worth a cycle: splits parcels, costs a commit
        if got < least:
            held.gateway.give_back(got)
            return 0
        return got

    def _give_back_credit(self, credit: dict[str, int]) -> None:
        for name, n in credit.items():
            held = self.fleet.open.get(name)
            if n and held is not None:
                held.gateway.give_back(n)

    # One cycle

    async def _cycle(self, parcels: list[Parcel], credit: dict[str, int]) -> None:
        try:
            await self._decide_and_send(parcels, credit)
        except (EpochLost, Unavailable, dispatch.EpochStale):
            self.detach()
            await self._return_all(parcels)
        except dispatch.LeaseLost:
            log.error("the lease was declared dead")
            self.stop()
        except Exception:
            log.exception("a cycle failed; what it had claimed goes back")
            await self._return_all(parcels)
        finally:
            self._give_back_credit(credit)
            self.wake.set()

    async def _return_all(self, parcels: Sequence[Parcel]) -> None:
        """After a failure: to the head, but what may have left. A parcel that was journalled all the same is refused
        at its next claim."""
        idle = [(p.lane, p.id) for p in parcels if p.id not in self.recorder.under_way]
        try:
            await lanes.give_back(self.queue, idle, self.lease_id)
        except (EpochLost, Unavailable):
            self.detach()

    async def _decide_and_send(self, parcels: list[Parcel], credit: dict[str, int]) -> None:
        decided_at = time.monotonic()
        now_s = self.clock()
        decisions = [self._first(parcel, now_s) for parcel in parcels]
        await ask(self.desk, self.queue, decisions, now_s)
        lent = frozenset(name for name, n in credit.items() if n)
        room = Room(credit)
        portions = [self._portioner.portion(d, room, now_s, decided_at + FRESH_S) for d in decisions]
        for portion in portions:
            # What took this cycle's credit is claimed again with the next; nothing says when another has room.
            if portion.untouched == 0.0 and portion.open.row.name not in lent:
                portion.untouched = now_s + FULL_S
        try:
            await self._limits.reserve(portions, now_s)
            untouched = [p for p in portions if p.untouched is not None]
            if untouched:
                await self._untouched(untouched)
        except BaseException:
            for portion in portions:
                if portion.segments:
                    portion.open.gateway.give_back(portion.segments)
            raise
        touched = [p for p in portions if p.untouched is None]
        if touched:
            await self._hand_over.run(touched, now_s)

    def _first(self, parcel: Parcel, now_s: float) -> Decision:
        decision = self.desk.first(parcel, now_s)
        if not self.clocks_agree and parcel.pack.category == Category.marketing and decision.go:
            decision.hold_all(now_s + PAUSED_S, "clocks_disagree")
        return decision

    async def _untouched(self, portions: Sequence[Portion]) -> None:
        """Parcels that nothing happened to return to the head; their subqueues rest as long as they must."""
        groups: dict[int, list[tuple[str, bytes]]] = defaultdict(list)
        for portion in portions:
            parcel = portion.decision.parcel
            groups[int((portion.untouched or 0.0) * 1000)].append((parcel.lane, parcel.id))
            await self._limits.uncount(portion)
        await self._limits.unused_tokens(portions)
        for until_ms, items in groups.items():
            await lanes.give_back(self.queue, items, self.lease_id, until_ms=until_ms)
