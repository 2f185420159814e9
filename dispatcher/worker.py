"""Claim → decide → journal → submit: the loop that hands messages over.

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

import msgspec

from app.domain import ids, template, text
from app.domain.message import Category, State
from app.domain.pack import Entry, Parcel, narrowed
from app.domain.recipient import to_check
from app.policy import Decision, Desk, Step, Waits, trace_id
from app.queue import lanes, rules, throttles
from app.queue.connection import EpochLost, Queue, Unavailable
from app.store import attempts, dispatch
from app.store.engine import Database
from app.store.intake import signed
from app.store.parcels import HORIZON_S
from app.store.webhooks import Publisher
from dispatcher.fleet import Fleet, Open
from dispatcher.metrics import Metrics
from dispatcher.recorder import Recorder, Tag, Work
from gateways.base import Outcome, Retry, Submission

FRESH_S = 0.5  # a decision older than this authorises nothing
CYCLE_SEGMENTS = 1_000  # the most that one cycle claims
LEAST_CREDIT = 100  # what a lane may claim at least of a gateway's room: a parcel stays whole
MAX_CYCLES = 4  # under way at once: one claims while others wait for PostgreSQL
MAX_LANES = 64
MAX_PARCELS = 200
IDLE_S = 0.5
NO_ROUTE_S = 30.0
PAUSED_S = 5.0
FULL_S = 0.05  # a subqueue whose gateway had no room rests so long
LOOK_S = 0.02  # a lane whose usual gateway has no room is looked through so often for what takes another one
MAX_MASK_PARTS = 60

log = logging.getLogger("volley.dispatcher")


class Portion(msgspec.Struct, gc=False):
    """The part of a decision that goes now, by one gateway."""

    decision: Decision
    open: Open
    submissions: list[Submission]
    segments: int
    grant: throttles.Grant | None = None
    held: list[tuple[list[Entry], float, str, bool]] = []  # entries, due, reason, to the head
    untouched: float | None = (
        None  # nothing of the parcel moved: give it back, blocked until then (0: at once)
    )


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
        self._known_traces: set[int] = set()
        self._turn = 0

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
        self._closed = {name: until for name, until in self._closed.items() if until > now_s}
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
        if not any(side is not None and self._free(side) > 0 for side in sides):
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
        least = (self._window(held) + 3) // 4  # fewer aren't worth a cycle: splits parcels, costs a commit
        # When the pace is what holds back, and not the window, more will not come by waiting.
        paced = not self._cycles and self._free(held) >= least
        if got < least and not paced:
            held.gateway.give_back(got)
            return 0
        return got

    @staticmethod
    def _free(held: Open) -> int:
        """Room in the windows, whatever the pace."""
        return sum(bind.window - bind.in_flight for bind in held.gateway.binds() if bind.state == "bound")

    @staticmethod
    def _window(held: Open) -> int:
        """Everything that the gateway's bound connections may have unanswered."""
        return sum(bind.window for bind in held.gateway.binds() if bind.state == "bound")

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
        """After a failure: to the head. A parcel that was journalled all the same is refused at its next claim."""
        try:
            await lanes.give_back(self.queue, [(p.lane, p.id) for p in parcels], self.lease_id)
        except (EpochLost, Unavailable):
            self.detach()

    async def _decide_and_send(self, parcels: list[Parcel], credit: dict[str, int]) -> None:
        decided_at = time.monotonic()
        now_s = self.clock()
        decisions = [self._first(parcel, now_s) for parcel in parcels]
        await self._ask(decisions, now_s)
        lent = frozenset(name for name, n in credit.items() if n)
        whole = dict(credit)
        portions = [self._portion(d, credit, whole, now_s, decided_at + FRESH_S) for d in decisions]
        for portion in portions:
            # What took this cycle's credit is claimed again with the next; nothing says when another has room.
            if portion.untouched == 0.0 and portion.open.row.name not in lent:
                portion.untouched = now_s + FULL_S
        try:
            await self._reserve(portions, now_s)
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
            await self._journal_and_submit(touched, now_s)

    def _first(self, parcel: Parcel, now_s: float) -> Decision:
        decision = self.desk.first(parcel, now_s)
        if not self.clocks_agree and parcel.pack.category == Category.marketing and decision.go:
            decision.waits.append(Waits(decision.go, now_s + PAUSED_S, "clocks_disagree"))
            decision.go = []
        return decision

    async def _ask(self, decisions: Sequence[Decision], now_s: float) -> None:
        asking = [(d, self.desk.questions(d)) for d in decisions if d.go or d.waits]
        if not asking:
            return
        answers = iter(await rules.check(self.queue, [q for _, questions in asking for q in questions]))
        for decision, questions in asking:
            self.desk.second(decision, "".join(next(answers) for _ in questions), now_s)

    def _portion(
        self,
        decision: Decision,
        credit: dict[str, int],
        whole: dict[str, int],
        now_s: float,
        send_before: float,
    ) -> Portion:
        """What of a decision fits the gateway's room now; the rest waits at the head."""
        parcel, entries = decision.parcel, decision.go
        portion = Portion(decision, None, [], 0, held=[])  # type: ignore[arg-type]
        if not entries:
            return portion
        held, entries = self._route(portion, entries, now_s)
        if held is None:
            return portion
        portion.open = held
        name = held.row.name
        room = credit.get(name, 0)
        if room == 0:
            room = credit[name] = held.gateway.take(parcel.segments)
            whole[name] = whole.get(name, 0) + room
        pack = parcel.pack
        body = template.parse(pack.body)
        validity = None if pack.expires_at is None else max(1, int(pack.expires_at - now_s))
        category = Category(pack.category).name
        for place, entry in enumerate(entries):
            try:
                words = (body if entry.body is None else template.parse(entry.body)).render(entry.variables)
                cut = text.segment(words, MAX_MASK_PARTS)
            except (
                KeyError,
                ValueError,
            ):  # accepted by another version of these checks: it must not block the rest
                decision.stops.append((entry, State.failed, "unrenderable"))
                continue
            total = len(cut.parts)
            mask = parcel.masks.get(entry.index) or (1 << total) - 1
            need = total if mask == (1 << total) - 1 else mask.bit_count()
            # A text longer than the whole window, or than the pace ever gives at once, goes alone when there is room
            # in the window: what does not fit comes back, what was too fast is made up for.
            alone = not portion.submissions and 0 < room == whole.get(name)
            fits = portion.segments + need <= room or (
                alone and self._free(held) >= min(need, self._window(held))
            )
            if not fits:
                portion.held.append((entries[place:], now_s, "window_full", True))
                break
            portion.segments += need
            message_id = ids.message_id(parcel.pack_id, entry.index)
            portion.submissions.append(
                Submission(
                    Tag(None, entry, message_id, to_check(entry.to), total),  # type: ignore[arg-type]
                    ids.text(message_id),
                    entry.to,
                    pack.sender,
                    words,
                    cut.encoding,
                    cut.parts,
                    mask,
                    int.from_bytes(message_id[6:8], "big") ^ int.from_bytes(message_id[14:16], "big"),
                    send_before,
                    validity,
                    category,
                )
            )
        credit[name] = max(0, room - portion.segments)
        if not portion.submissions and not decision.stops and not decision.waits and len(portion.held) == 1:
            portion.untouched = 0.0
        return portion

    def _route(self, portion: Portion, entries: list[Entry], now_s: float) -> tuple[Open | None, list[Entry]]:
        """The gateway of the first entry and those that share its route; the others, or all, wait."""
        pack = portion.decision.parcel.pack
        names = self.fleet.gateways_for(pack, entries[0])
        if self.fleet.prefix_routes:
            others = [e for e in entries if self.fleet.gateways_for(pack, e) != names]
            if others:
                portion.held.append((others, now_s, "other_route", True))
                apart = {e.index for e in others}
                entries = [e for e in entries if e.index not in apart]
        for name in names:
            held = self.fleet.usable(name)
            if held is not None and f"gateway:{name}" not in self._closed:
                return held, entries
        reason, wait_s = ("no_gateway", 1.0) if names else ("no_route", NO_ROUTE_S)
        opens = [self._closed[f"gateway:{n}"] for n in names if self.fleet.usable(n)]
        if opens:  # each one that is up has a throttle with nothing free
            reason, wait_s = "throttled", max(0.001, min(opens) - now_s)
        if portion.held or portion.decision.stops or portion.decision.waits:
            portion.held.append((entries, now_s + wait_s, reason, False))
        else:
            portion.untouched = now_s + wait_s
        return None, entries

    # Throttles

    async def _reserve(self, portions: Sequence[Portion], now_s: float) -> None:
        asks = []
        for portion in portions:
            if portion.submissions:
                limits = self.fleet.rates(portion.decision.parcel.pack, portion.open.row.name)
                if limits:
                    first = portion.submissions[0]
                    urgent = portion.decision.parcel.pack.category == Category.otp
                    ask = throttles.Ask(
                        limits, portion.segments, first.mask.bit_count(), first.message_id, urgent
                    )
                    asks.append((portion, ask))
        if not asks:
            return
        grants = await throttles.reserve(self.queue, [ask for _, ask in asks])
        for (portion, ask), grant in zip(asks, grants, strict=True):
            portion.grant = grant
            if grant.granted < ask.wanted:
                self._shorten(portion, ask, grant, now_s)

    def _shorten(self, portion: Portion, ask: throttles.Ask, grant: throttles.Grant, now_s: float) -> None:
        """Only so many segments have tokens: the rest goes back to the head, and its lane rests."""
        until = now_s + grant.retry_ms / 1000
        keep, used = 0, 0
        for submission in portion.submissions:
            if used + submission.mask.bit_count() > grant.granted:
                break
            used += submission.mask.bit_count()
            keep += 1
        rest = [s.tag.entry for s in portion.submissions[keep:]]  # type: ignore[attr-defined]
        portion.submissions = portion.submissions[:keep]
        portion.open.gateway.give_back(portion.segments - used)
        portion.segments = used
        # A long text that waits for several tokens waits by itself: there may be one for an urgent text.
        if len(ask.throttles) == 1 and (ask.least == 1 or keep):
            name, _ = ask.throttles[0]
            if not name.startswith("sender:"):
                self._closed[name] = until
        decision = portion.decision
        if not keep and not decision.stops and not decision.waits and not portion.held:
            portion.untouched = until
        else:
            portion.held.append((rest, until, "throttled", True))

    async def _unused_tokens(self, portions: Sequence[Portion]) -> None:
        back = [(p.grant, 0, p.grant.granted) for p in portions if p.grant is not None and p.grant.granted]
        if back:
            try:
                await throttles.confirm(self.queue, back)
            except (EpochLost, Unavailable):
                return  # they age out

    async def _untouched(self, portions: Sequence[Portion]) -> None:
        """Parcels that nothing happened to return to the head; their subqueues rest as long as they must."""
        groups: dict[int, list[tuple[str, bytes]]] = defaultdict(list)
        for portion in portions:
            parcel = portion.decision.parcel
            groups[int((portion.untouched or 0.0) * 1000)].append((parcel.lane, parcel.id))
            await self._uncap(portion)
        await self._unused_tokens(portions)
        for until_ms, items in groups.items():
            await lanes.give_back(self.queue, items, self.lease_id, until_ms=until_ms)

    async def _uncap(self, portion: Portion, kept: frozenset[int] = frozenset()) -> None:
        """Counts against a frequency cap of entries that will not go now."""
        decision = portion.decision
        if any(decision.caps):
            pack_id = decision.parcel.pack_id
            await rules.uncap(
                self.queue,
                decision.parcel.pack.tenant_id,
                [
                    (e.recipient, ids.message_id(pack_id, e.index))
                    for e, cap in zip(decision.go, decision.caps, strict=True)
                    if cap is not None and e.index not in kept
                ],
            )

    # The journal and the hand-over

    async def _journal_and_submit(self, portions: Sequence[Portion], now_s: float) -> None:
        intents = [self._intent(portion, now_s) for portion in portions]
        try:
            await self._intern(portions)
            journalled = await self._journal(portions, intents, now_s)
        except BaseException:
            for portion in portions:
                if portion.submissions:
                    portion.open.gateway.give_back(portion.segments)
            await self._unused_tokens(portions)
            raise
        sends: dict[str, tuple[Open, list[Submission]]] = {}
        written: list[tuple[throttles.Grant, int, int]] = []
        for portion in portions:
            used = self._admit(portion, journalled, sends)
            if portion.grant is not None:
                written.append((portion.grant, used, portion.grant.granted - used))
        for held, batch in sends.values():
            held.gateway.submit(batch)
        # The bytes are on their way. What fails from here on is made good by the sweeper, and undoes nothing.
        try:
            if written:
                await throttles.confirm(self.queue, written)
            await self._uncap_unsent(portions, journalled.sends)
            await self._after_journal(intents, journalled, now_s)
        except (EpochLost, Unavailable):
            self.detach()
        self._observe(sends, now_s)

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
                await asyncio.sleep(IDLE_S)
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
            self._capped(portion),
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
        self,
        portion: Portion,
        journalled: dispatch.Journalled,
        sends: dict[str, tuple[Open, list[Submission]]],
    ) -> int:
        """Submissions that the journal returned, with their work; gives their segments. Credit of the rest returns."""
        if not portion.submissions:
            return 0
        won = journalled.sends if portion.decision.parcel.id in journalled.owned else frozenset[bytes]()
        admitted = [s for s in portion.submissions if s.tag.message_id in won]  # type: ignore[attr-defined]
        used = sum(s.mask.bit_count() for s in admitted)
        if used < portion.segments:
            portion.open.gateway.give_back(portion.segments - used)
        row = portion.open.row
        work = Work(portion.decision.parcel, row.id, row.name, used)
        if portion.decision.parcel.id in journalled.owned:
            self.recorder.begin(work)
        for submission in admitted:
            submission.tag.work = work  # type: ignore[attr-defined]
        if admitted:
            sends.setdefault(row.name, (portion.open, []))[1].extend(admitted)
        return used

    def _observe(self, sends: dict[str, tuple[Open, list[Submission]]], now_s: float) -> None:
        """Waiting time, one observation a parcel: its messages were accepted together."""
        seen: dict[int, tuple[Work, int]] = {}
        for _, batch in sends.values():
            for submission in batch:
                work = submission.tag.work  # type: ignore[attr-defined]
                seen[id(work)] = (work, seen.get(id(work), (work, 0))[1] + 1)
        for work, n in seen.values():
            pack = work.parcel.pack
            wait = max(0.0, now_s - ids.created_at(work.parcel.pack_id))
            self.metrics.wait.observe((pack.region, Category(pack.category).name), wait, n)

    async def _uncap_unsent(self, portions: Sequence[Portion], won: set[bytes]) -> None:
        """Give back what was counted against frequency caps and did not go."""
        for portion in portions:
            if any(portion.decision.caps):
                gone = {s.tag.entry.index for s in portion.submissions if s.tag.message_id in won}  # type: ignore[attr-defined]
                await self._uncap(portion, frozenset(gone))

    @staticmethod
    def _capped(portion: Portion) -> list[tuple[int, int, bytes]]:
        """What of a portion counts against a frequency cap: (tenant, recipient, message id)."""
        decision = portion.decision
        if not any(decision.caps):
            return []
        counted = {e.index for e, cap in zip(decision.go, decision.caps, strict=True) if cap is not None}
        tenant_id = decision.parcel.pack.tenant_id
        tags = [s.tag for s in portion.submissions]
        return [
            (tenant_id, signed(t.entry.recipient), t.message_id)  # type: ignore[attr-defined]
            for t in tags
            if t.entry.index in counted  # type: ignore[attr-defined]
        ]

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
