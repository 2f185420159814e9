"""Hand-over: journal → admit → submit, and the way back after a journal in doubt.

Guarantees: bytes leave only for what the journal returned; what fails after the bytes undoes nothing; credit and
tokens of what does not leave come back; a commit without an answer ends as "not sent" for what it did commit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from app.domain import ids
from app.domain.message import Category, State
from app.domain.pack import Entry, Parcel, narrowed
from app.policy import Step, trace_id
from app.queue import lanes
from app.queue.connection import EpochLost, Queue, Unavailable
from app.store import attempts, dispatch
from app.store.engine import Database
from app.store.parcels import HORIZON_S
from app.store.webhooks import Publisher
from dispatcher.fleet import Open
from dispatcher.limits import Limits
from dispatcher.metrics import Metrics
from dispatcher.portions import Portion
from dispatcher.recorder import Recorder, Work
from dispatcher.slots import Schedule
from gateways.base import Outcome, Retry, Submission

ASK_AGAIN_S = 0.5

log = logging.getLogger("volley.dispatcher")


class HandOver:
    """`detach` is called when the copy in Redis can't be trusted any more."""

    def __init__(
        self,
        database: Database,
        queue: Queue,
        lease_id: int,
        limits: Limits,
        recorder: Recorder,
        metrics: Metrics,
        publisher: Publisher,
        detach: Callable[[], None],
    ) -> None:
        self.database = database
        self.queue = queue
        self.lease_id = lease_id
        self.limits = limits
        self.recorder = recorder
        self.metrics = metrics
        self.publisher = publisher
        self.detach = detach
        self.schedule = Schedule(limits.throttles)
        self._known_traces: set[int] = set()

    async def run(self, portions: Sequence[Portion], now_s: float) -> None:
        intents = [self._intent(portion, now_s) for portion in portions]
        try:
            await self._intern(portions)
            journalled = await self._journal(portions, intents, now_s)
        except BaseException:
            for portion in portions:
                if portion.submissions:
                    portion.open.gateway.give_back(portion.segments)
            await self.limits.unused_tokens(portions)
            raise
        sends: dict[str, tuple[Open, list[Submission]]] = {}
        works: list[tuple[Work, int]] = []
        for portion in portions:
            admitted, work = self._admit(portion, journalled)
            if work is not None and admitted:
                works.append((work, len(admitted)))
            if portion.grant is not None:
                self.schedule.add(portion.open, portion.grant, admitted)
            elif admitted:
                sends.setdefault(portion.open.row.name, (portion.open, []))[1].extend(admitted)
        for held, batch in sends.values():
            held.gateway.submit(batch)
        self.schedule.go()
        # The bytes are on their way. What fails from here on is made good by the sweeper, and undoes nothing.
        try:
            await self.limits.uncount_unsent(portions, journalled.sends)
            await self._after_journal(intents, journalled, now_s)
        except (EpochLost, Unavailable):
            self.detach()
        self._observe(works, now_s)

    async def _journal(
        self, portions: Sequence[Portion], intents: list[dispatch.Intent], now_s: float
    ) -> dispatch.Journalled:
        try:
            async with self.database.driver() as driver:
                return await dispatch.journal(
                    driver, intents, self.lease_id, self.queue.epoch, now_s, self.publisher
                )
        except (dispatch.LeaseLost, dispatch.EpochStale):
            raise
        except Exception:
            await self._after_doubt(portions)
            raise

    async def _after_doubt(self, portions: Sequence[Portion]) -> None:
        """The journal's commit got no answer. What it did commit was not handed over: say so, so that it goes again."""
        while True:
            try:
                async with self.database.driver() as driver:
                    ours = await dispatch.under_lease(
                        driver, [p.decision.parcel.id for p in portions], self.lease_id
                    )
                    attempted = await attempts.under_lease(
                        driver,
                        [
                            (s.tag.message_id, p.decision.parcel.attempt)  # type: ignore[attr-defined]
                            for p in portions
                            for s in p.submissions
                        ],
                        self.lease_id,
                    )
                break
            except Exception:
                log.warning("PostgreSQL can't be asked what it journalled; asking again")
                await asyncio.sleep(ASK_AGAIN_S)
        for portion in portions:
            if portion.decision.parcel.id in ours and portion.submissions:
                row = portion.open.row
                # what the journal did not win was cancelled meanwhile, or is in other hands
                won = [s for s in portion.submissions if s.tag.message_id in attempted]  # type: ignore[attr-defined]
                segments = sum(s.mask.bit_count() for s in won)
                work = Work(portion.decision.parcel, row.id, row.name, segments)
                self.recorder.begin(work)
                outcomes: list[tuple[Submission, int, Outcome]] = []
                for submission in won:
                    submission.tag.work = work  # type: ignore[attr-defined]
                    outcomes += [
                        (submission, part, Retry("journal_in_doubt", sent=False))
                        for part in range(len(submission.parts))
                        if submission.mask >> part & 1
                    ]
                self.recorder.outcomes(outcomes)

    def _intent(self, portion: Portion, now_s: float) -> dispatch.Intent:
        decision, parcel = portion.decision, portion.decision.parcel
        held = [(e.entries, e.until, e.reason) for e in decision.waits]
        held += [(entries, due, reason) for entries, due, reason, _ in portion.held]
        for entries, _, reason in held:
            pack = parcel.pack
            self.metrics.held[(pack.region, Category(pack.category).name, reason)] += len(entries)
        return dispatch.Intent(
            parcel,
            portion.open.row.id if portion.submissions else None,
            [(s.tag.message_id, s.mask) for s in portion.submissions],  # type: ignore[attr-defined]
            [
                dispatch.Stop(ids.message_id(parcel.pack_id, entry.index), state, reason)
                for entry, state, reason in decision.stops
            ],
            [(self._rest(parcel, entries, due, now_s), reason) for entries, due, reason in held],
            [(indexes, trace_id(trace), until) for indexes, trace, until in decision.traces],
            self.limits.contacts(portion),
        )

    @staticmethod
    def _rest(parcel: Parcel, entries: Sequence[Entry], due_s: float, now_s: float) -> Parcel:
        """A new parcel for the part that waits: the same attempt, since none was made."""
        indexes = [e.index for e in entries]
        masks = {i: parcel.masks[i] for i in indexes if i in parcel.masks}
        return Parcel(
            ids.new_id(now_s),
            parcel.pack_id,
            1,
            parcel.attempt,
            parcel.priority,
            due_s,
            narrowed(parcel.pack, indexes),
            masks,
        )

    async def _intern(self, portions: Sequence[Portion]) -> None:
        new: dict[int, list[Step]] = {}
        for portion in portions:
            for _, trace, _ in portion.decision.traces:
                number = trace_id(trace)
                if number not in self._known_traces:
                    new[number] = list(trace)
        if new:
            async with self.database.driver() as driver:
                await dispatch.intern_traces(driver, new)
            self._known_traces.update(new)

    def _admit(
        self, portion: Portion, journalled: dispatch.Journalled
    ) -> tuple[list[Submission], Work | None]:
        """The submissions that the journal returned, with their work. Credit of the others returns."""
        if not portion.submissions:
            return [], None
        owned = portion.decision.parcel.id in journalled.owned
        won = journalled.sends if owned else frozenset[bytes]()
        admitted = [s for s in portion.submissions if s.tag.message_id in won]  # type: ignore[attr-defined]
        used = sum(s.mask.bit_count() for s in admitted)
        if used < portion.segments:
            portion.open.gateway.give_back(portion.segments - used)
        row = portion.open.row
        work = Work(portion.decision.parcel, row.id, row.name, used)
        if owned:
            self.recorder.begin(work)
        for submission in admitted:
            submission.tag.work = work  # type: ignore[attr-defined]
        return admitted, work

    def _observe(self, works: Sequence[tuple[Work, int]], now_s: float) -> None:
        """Waiting time, one observation a parcel: its messages were accepted together."""
        for work, n in works:
            pack = work.parcel.pack
            wait = max(0.0, now_s - ids.created_at(work.parcel.pack_id))
            self.metrics.wait.observe((pack.region, Category(pack.category).name), wait, n)

    async def _after_journal(
        self, intents: Sequence[dispatch.Intent], journalled: dispatch.Journalled, now_s: float
    ) -> None:
        """Redis learns of the held parts and forgets what is finished or was refused."""
        refused = {p.id for p in journalled.refused}
        finished = [i.parcel for i in intents if not i.sends and i.parcel.id not in refused]
        self.metrics.refused_parcels += len(refused)
        for stop in journalled.stopped:
            self.metrics.moves[("", "", "", State(stop.state).name)] += 1
        await lanes.offer(
            self.queue, [p for p in journalled.held if p.due_at <= now_s + HORIZON_S], head=True
        )
        gone = [*finished, *journalled.refused]
        await lanes.settle(self.queue, [(p.lane, p.id) for p in gone], self.lease_id)
