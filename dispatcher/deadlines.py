"""What can't make today's hours at the rate that it waits behind is put off to the next opening, at once.

Guarantees: marketing alone; every estimate errs to the side of leaving a text where it is, so what could go today at
the rates that are configured is not put off; what is put off keeps its order; a turn is bounded, and one that breaks
off anywhere loses nothing (PostgreSQL has each parcel, and the sweeper offers what Redis misses).

A subqueue is served after those of higher priority, and in turns with those of its own. So a parcel with `v` segments
before it in its own begins when all of the first have gone, and of each of the others as much, `v` at the most.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from app.domain.message import Category
from app.domain.pack import Parcel
from app.policy import Desk, Step, trace_id
from app.queue import lanes
from app.queue.connection import Queue
from app.queue.lanes import Pile
from app.store import dispatch, parcels
from app.store.engine import Database
from app.store.parcels import Deferral
from dispatcher.fleet import Fleet
from dispatcher.metrics import Metrics

REASON = "deadline"
MAX_SUBQUEUES = 300  # of a lane, in a turn
MAX_LOOKED = 20_000  # parcels of a lane, in a turn
PAGE = 100  # parcels read and put off at a time
MAX_MOVED = 500  # parcels put off in a turn
STEP_S = 0.001  # between the moments of what is put off: keeps it in order


class Deadlines:
    """One a dispatcher; the one that sweeps calls `turn`."""

    def __init__(
        self,
        database: Database,
        queue: Queue,
        desk: Desk,
        fleet: Fleet,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._queue = queue
        self._desk = desk
        self._fleet = fleet
        self._metrics = metrics
        self._clock = clock

    async def turn(self) -> bool:
        """Put off what can't make it, in every lane; True if there is more of it."""
        left = MAX_MOVED
        for lane in await lanes.lanes(self._queue):
            region, _, category = lane.rpartition(":")
            if int(category) != Category.marketing or region in self._fleet.paused_regions:
                continue
            left -= await self._lane(lane, self._fleet.most_rate(region, int(category)), left)
            if left <= 0:
                return True
        return False

    async def _lane(self, lane: str, rate: float, most: int) -> int:
        """How many parcels were put off."""
        names = await lanes.subqueues(self._queue, lane, MAX_SUBQUEUES)
        rates = {name: min(rate, self._sender_rate(name)) for name in names}
        if all(one == math.inf for one in rates.values()):
            return 0
        now_s = self._clock()
        memo: dict[Hashable, Any] = {}
        shuts = 0.0
        for name in names:
            _, last = await lanes.tail(self._queue, lane, name, 1)
            found = self._desk.window(last[0].pack, now_s, memo) if last else None
            shuts = max(shuts, found[0]) if found is not None else shuts
        if shuts == 0.0:
            return 0
        piles, looked = [], 0
        for name in names:
            worth = min(rates[name] * (shuts - now_s), 1e12)
            piles.append(await lanes.pile(self._queue, lane, name, worth, MAX_LOOKED - looked))
            looked += len(piles[-1].ahead)
        moved = 0
        for one in sorted(piles, key=lambda pile: -pile.priority):  # the last first
            while moved < most:
                took = await self._tail(lane, rate, one, piles, min(PAGE, most - moved), now_s, memo)
                moved += took
                if took < PAGE:
                    break
        return moved

    def _sender_rate(self, subqueue: str) -> float:
        _, tenant_id, _, sender = subqueue.split("/")[:4]
        return self._fleet.sender_rate(int(tenant_id), sender)

    async def _tail(
        self,
        lane: str,
        rate: float,
        own: Pile,
        piles: Sequence[Pile],
        most: int,
        now_s: float,
        memo: dict[Hashable, Any],
    ) -> int:
        """Put off the last parcels of a subqueue, as far as they can't make it."""
        if not own.ahead:
            return 0
        length, last = await lanes.tail(self._queue, lane, own.name, most)
        deferrals: list[Deferral] = []
        traces: dict[int, list[Step]] = {}
        sender_rate = self._sender_rate(own.name)
        for place, parcel in enumerate(last):
            index = length - 1 - place
            before = own.ahead[index] if index < len(own.ahead) else own.known
            begins = now_s + max(_served(before, own, piles) / rate, before / sender_rate)
            found = self._put_off(parcel, begins, now_s, memo)
            if found is None:
                break
            opens, why = found
            number = trace_id(why)
            traces[number] = list(why)
            deferrals.append(Deferral(parcel, opens + index * STEP_S, number))
        if not deferrals:
            return 0
        taken = await lanes.withdraw(self._queue, lane, own.name, [one.parcel.id for one in deferrals])
        if not taken:
            return 0
        async with self._database.driver() as driver:
            await dispatch.intern_traces(driver, traces)
            done = await parcels.defer(driver, deferrals[:taken], REASON, now_s)
        region = lane.rpartition(":")[0]
        self._metrics.held[(region, Category.marketing.name, REASON)] += sum(
            len(one.parcel.pack.entries) for one in deferrals if one.parcel.id in done
        )
        return taken

    def _put_off(
        self, parcel: Parcel, begins: float, now_s: float, memo: dict[Hashable, Any]
    ) -> tuple[float, tuple[Step, ...]] | None:
        """(until when, why), if its turn comes after its hours, and it is still of use then."""
        pack = parcel.pack
        if (
            pack.category != Category.marketing or pack.test or pack.gateway
        ):  # those go by a rate of their own
            return None
        found = self._desk.window(pack, now_s, memo)
        if found is None:
            return None
        shuts, opens, why = found
        if begins <= shuts or (pack.expires_at is not None and opens >= pack.expires_at):
            return None
        return opens, why


def _served(before: int, own: Pile, piles: Sequence[Pile]) -> int:
    """Segments that go before a parcel which has `before` of them before it in its own subqueue."""
    return before + sum(
        pile.known if pile.priority < own.priority else min(pile.known, before)
        for pile in piles
        if pile is not own and pile.priority <= own.priority
    )
