"""How each gateway does, by region: counted here, shared with the other dispatchers, judged by each for itself.

Guarantees: nothing on the hot path but plain ints; a gateway that fails every text is left within RUN texts, without a
look at Redis; without Redis this dispatcher judges by what it saw itself. The counts of all dispatchers are one sum
(`app.queue.health`), since receipts come back on any bind. A breaker that opens or closes in one dispatcher does so in
all within about two seconds, and one of them probes for all: one that is bound and has something to send.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from app.domain.health import (
    BUCKET_S,
    PROBE_S,
    RECEIPTS_S,
    RUN,
    WINDOW_S,
    Breaker,
    Cause,
    Counts,
    Limits,
    fault,
    total,
    worst,
)
from app.domain.message import State
from app.domain.routing import Health
from app.queue import health as shared
from app.queue.connection import Queue, Unavailable
from app.queue.status import Circuit
from gateways.base import Accepted, Outcome, Rejected, Retry, Submission, Unknown

if TYPE_CHECKING:
    from app.store.receipts import Moved

FLUSH_S = 1.0
OLD_EVERY = 10  # flushes between two looks at the buckets that receipts are judged by
FRESH_S = 0.5  # a submission's `send_before` is so long after its decision
SILENT_S = 3.0  # texts under way and no answer for so long, and for twice what is slow: it is slow
SHOWN_CIRCUITS = 200
LEAD_SPARE_S = 10.0  # after a probe's own end, in which it is said to have ended

# Refusals that are no fault of the text: its next one will be refused, too.
FAULTS = frozenset({"no_credit", "protocol_error", "not_permitted"})
THROTTLES = frozenset({"throttled", "queue_full"})
CUT = "connection_lost"  # the bind is down and says so itself: it counts, and ends no run

log = logging.getLogger("volley.dispatcher")

Key = tuple[str, str]
"""(gateway, region); region '' is the gateway as a whole."""


class Watch:
    """One a dispatcher. `flush` once a FLUSH_S."""

    def __init__(self, queue: Queue, clock: Callable[[], float] = time.time) -> None:
        self._queue = queue
        self._clock = clock
        self._limits: dict[str, Limits] = {}
        self._breakers: dict[Key, Breaker] = {}
        self._fresh: dict[tuple[str, str, int], Counts] = {}  # not yet shared
        self._own: shared.Buckets = {}  # ours, for when there is no Redis
        self._old: shared.Buckets = {}
        self._runs: dict[Key, int] = defaultdict(int)
        self._quiet_since: dict[str, float] = {}  # nothing under way, or an answer came
        self._flushes = 0
        self._soon = False  # a gateway waits less for its receipts than passes between two looks
        self._longest_s = 0
        self._news: dict[Key, Breaker] = {}  # opened or closed here, and not yet told
        self._ended: set[str] = set()  # gateways of which a probe has ended here
        self._name = secrets.token_bytes(8)
        self.trips: dict[tuple[str, Cause], int] = defaultdict(int)
        self.window: dict[Key, Counts] = {}  # what the last judgement saw
        self.waited: dict[Key, Counts] = {}

    def follow(self, limits: Mapping[str, Limits]) -> None:
        """The gateways that there are now."""
        self._limits = dict(limits)
        waits = [one.receipt_after_s for one in limits.values()]
        self._soon = min(waits, default=OLD_EVERY) < OLD_EVERY
        self._longest_s = max(waits, default=0)
        self._breakers = {key: one for key, one in self._breakers.items() if key[0] in self._limits}

    # Counting

    def outcomes(self, batch: Sequence[tuple[Submission, int, Outcome]]) -> None:
        """All outcomes of one read."""
        now_s, monotonic = self._clock(), time.monotonic()
        found: dict[Key, Counts] = {}
        last, counts, slow_ms = None, Counts(), 0
        for submission, segment, outcome in batch:
            kind = type(outcome)
            if kind is Retry and not outcome.sent:  # type: ignore[union-attr]
                continue
            work = submission.tag.work  # type: ignore[attr-defined]
            if work is not last:
                last = work
                key = (work.gateway_name, work.parcel.pack.region)
                counts = found.get(key) or found.setdefault(key, Counts())
                slow_ms = self._limits.get(key[0], _LIMITS).slow_ms
            took_ms = int((monotonic - submission.send_before + FRESH_S) * 1000)
            counts.answer_ms += took_ms
            if took_ms > slow_ms:
                counts.slow += 1
            if kind is Accepted:
                counts.accepted += 1
                if segment == 0:
                    counts.texts += 1
            else:
                _count(counts, outcome)
        for key, seen in found.items():
            self._seen(key, seen, now_s)

    def _seen(self, key: Key, counts: Counts, now_s: float) -> None:
        gateway, region = key
        self._bucket(gateway, region, shared.bucket_of(now_s)).add(counts)
        self._quiet_since[gateway] = now_s
        for one in (key, (gateway, "")):
            if counts.accepted or counts.refused or counts.throttled:
                self._runs[one] = 0
            self._runs[one] += counts.failed - counts.cut
            breaker = self._breakers.get(one)
            if breaker is not None and breaker.state == "half_open":
                before = breaker.state
                breaker.answered(counts, now_s)
                self._note(one, breaker, before)
            elif self._runs[one] >= RUN and (breaker is None or breaker.state == "closed"):
                self._trip(one, "failing", now_s)

    def receipts(self, moved: Iterable[Moved], names: Mapping[int, str]) -> None:
        """Messages that a receipt ended."""
        now_s = self._clock()
        for one in moved:
            gateway = names.get(one.gateway_id)
            if gateway is None:
                continue
            region = one.origin.region
            counts = self._bucket(gateway, region, shared.bucket_of(now_s - one.latency_s))
            counts.receipts += 1
            counts.receipt_ms += int(one.latency_s * 1000)
            if one.state == State.delivered:
                counts.delivered += 1
            if self._breakers:
                for key in ((gateway, region), (gateway, "")):
                    breaker = self._breakers.get(key)
                    if breaker is not None and breaker.cause == "no_receipts":
                        before = breaker.state
                        if before == "half_open":
                            breaker.answered(Counts(receipts=1), now_s)
                        elif now_s - one.latency_s >= breaker.since + breaker.rest_s:
                            breaker.close(now_s)  # of another dispatcher's probe: it came by our bind
                        self._note(key, breaker, before)

    def _bucket(self, gateway: str, region: str, bucket: int) -> Counts:
        key = (gateway, region, bucket)
        counts = self._fresh.get(key)
        if counts is None:
            counts = self._fresh[key] = Counts()
        return counts

    # Judging

    def standing(self, gateway: str, region: str) -> Health:
        """How a gateway that is bound does there."""
        if not self._breakers:
            return "well"
        found = [self._breakers.get((gateway, "")), self._breakers.get((gateway, region))]
        for one in found:
            if one is not None and one.state == "open":
                one.wanted = True
        return worst(one.health() for one in found if one is not None)

    def admit(self, gateway: str, region: str, texts: int) -> int:
        """How many of so many texts may go by a gateway that is being probed."""
        for breaker in self._probed(gateway, region):
            texts = min(texts, breaker.left)
        for breaker in self._probed(gateway, region):
            breaker.admit(texts)
        return texts

    def back(self, gateway: str, region: str, texts: int) -> None:
        """So many that were admitted did not go."""
        for breaker in self._probed(gateway, region):
            breaker.back(texts)

    def _probed(self, gateway: str, region: str) -> list[Breaker]:
        found = (self._breakers.get((gateway, "")), self._breakers.get((gateway, region)))
        return [one for one in found if one is not None and one.state == "half_open"]

    def opens_at(self, gateway: str, region: str) -> float:
        """When a gateway that takes nothing is asked again (Unix seconds)."""
        found = (self._breakers.get((gateway, "")), self._breakers.get((gateway, region)))
        return max((one.until for one in found if one is not None and one.state != "closed"), default=0.0)

    async def flush(self, in_flight: Mapping[str, int]) -> None:
        """Share what was counted, take over what others counted, judge. `in_flight`: segments by gateway."""
        now_s = self._clock()
        fresh, self._fresh = self._fresh, {}
        for key, counts in fresh.items():
            self._own.setdefault(key, Counts()).add(counts)
        newest = shared.bucket_of(now_s)
        leads: set[Key] | None = None  # without Redis each probes
        try:
            await shared.add(self._queue, fresh)
            first = shared.bucket_of(now_s - WINDOW_S)
            recent = await shared.read(self._queue, self._limits, range(first, newest + 1))
            if self._flushes % OLD_EVERY == 0 or self._soon:
                self._old = await self._read_old(now_s)
            self._flushes += 1
            self._follow_others(await shared.told(self._queue, self._limits))
            leads = await self._leads(now_s)
        except (OSError, Unavailable):
            recent = self._old = self._own
        self.judge(recent, now_s, leads)
        self._look_for_silence(in_flight, now_s)
        await self._tell()
        if self._flushes % OLD_EVERY == 0:
            oldest = shared.bucket_of(now_s - WINDOW_S - RECEIPTS_S - self._longest_s)
            self._own = {key: counts for key, counts in self._own.items() if key[2] >= oldest}

    async def _read_old(self, now_s: float) -> shared.Buckets:
        found: shared.Buckets = {}
        for gateway, limits in self._limits.items():
            if limits.receipt_share:
                last = now_s - limits.receipt_after_s
                buckets = range(shared.bucket_of(last - RECEIPTS_S), shared.bucket_of(last))
                found |= await shared.read(self._queue, [gateway], buckets)
        return found

    def _follow_others(self, told: Mapping[Key, Breaker]) -> None:
        """What was told after our own breaker last changed holds here, too; our own probe goes on."""
        for key, theirs in told.items():
            ours = self._breakers.setdefault(key, Breaker())
            before = ours.state
            if key in self._news or theirs.since <= ours.since:
                continue
            if before == "half_open":
                if theirs.state != "closed":
                    continue
                self._ended.add(key[0])
            ours.follow(theirs)
            self._runs[key] = 0
            if before != ours.state:
                log.info("gateway %s, %s: %s, says another dispatcher", *key, ours.state)

    async def _leads(self, now_s: float) -> set[Key]:
        """The breakers that have rested and that we probe. Of another's probe we hear, or look again."""
        found: dict[str, list[Key]] = {}
        for gateway, keys in self._rested(now_s).items():
            waits_s = self._limits.get(gateway, _LIMITS).receipt_after_s
            slow = any(self._breakers[key].cause == "no_receipts" for key in keys)
            lasts_s = (max(waits_s, PROBE_S) if slow else PROBE_S) + LEAD_SPARE_S
            if await shared.lead(self._queue, gateway, self._name, lasts_s):
                found[gateway] = keys
            else:
                for key in keys:
                    self._breakers[key].until = now_s + FLUSH_S
        if found:  # whoever led before has told what it saw, and then left
            self._follow_others(await shared.told(self._queue, found))
        still = self._rested(now_s)
        for gateway in found.keys() - still.keys():
            await self._leave(gateway)
        return {key for gateway in found for key in still.get(gateway, ())}

    def _rested(self, now_s: float) -> dict[str, list[Key]]:
        """The breakers that may be probed and have something to be probed with, by gateway."""
        found: dict[str, list[Key]] = {}
        for key, one in self._breakers.items():
            if one.wanted and one.rested(now_s):
                found.setdefault(key[0], []).append(key)
        return found

    async def _leave(self, gateway: str) -> None:
        """Others may probe it, unless some probe of ours goes on."""
        if not any(k[0] == gateway and one.state == "half_open" for k, one in self._breakers.items()):
            await shared.leave(self._queue, gateway, self._name)

    async def _tell(self) -> None:
        """What opened or closed here since the last time, and whose probe has ended."""
        news, self._news = self._news, {}
        ended, self._ended = self._ended, set()
        try:
            await shared.tell(self._queue, {k: one for k, one in news.items() if one.state != "half_open"})
            for gateway in ended:
                await self._leave(gateway)
        except (OSError, Unavailable):
            self._news = news | self._news
            self._ended |= ended

    def judge(self, recent: shared.Buckets, now_s: float, leads: set[Key] | None = None) -> None:
        """Trip what is not well, probe what has rested, where we lead (None: everywhere)."""
        window, waited = self._by_region(recent, self._old, now_s)
        self.window, self.waited = {}, {}
        for gateway, limits in self._limits.items():
            regions = sorted({key[1] for key in (*window, *waited) if key[0] == gateway})
            rest: list[str] = []  # the gateway as a whole is what its well regions say
            for region in regions:
                key = (gateway, region)
                counts, old = window.get(key, Counts()), waited.get(key, Counts())
                self.window[key], self.waited[key] = counts, old
                if not self._judge_one(key, counts, old, limits, now_s):
                    rest.append(region)
            sums = (
                total(window.get((gateway, r), Counts()) for r in rest),
                total(waited.get((gateway, r), Counts()) for r in rest),
            )
            if len(regions) != 1:
                self._judge_one((gateway, ""), *sums, limits, now_s)
        for key, breaker in list(self._breakers.items()):
            before = breaker.state
            limits = self._limits.get(key[0], _LIMITS)
            breaker.tick(now_s, limits, lead=leads is None or key in leads)
            self._note(key, breaker, before)

    def _judge_one(self, key: Key, counts: Counts, old: Counts, limits: Limits, now_s: float) -> bool:
        """Whether its breaker is open, now or already."""
        breaker = self._breakers.get(key)
        if breaker is not None and breaker.state != "closed":
            return True
        cause = fault(counts, old, limits)
        if cause is None:
            return False
        self._trip(key, cause, now_s)
        return True

    def _by_region(
        self, recent: shared.Buckets, old: shared.Buckets, now_s: float
    ) -> tuple[dict[Key, Counts], dict[Key, Counts]]:
        """The sums of the window and of the texts that should have receipts, by gateway and region, without what
        was before a breaker closed."""
        window: dict[Key, Counts] = {}
        waited: dict[Key, Counts] = {}
        for (gateway, region, bucket), counts in recent.items():
            start = bucket * BUCKET_S
            if start + BUCKET_S > now_s - WINDOW_S and start >= self._counted_from(gateway, region):
                window.setdefault((gateway, region), Counts()).add(counts)
        for (gateway, region, bucket), counts in old.items():
            limits, start = self._limits.get(gateway), bucket * BUCKET_S
            if limits is None or not limits.receipt_share:
                continue
            ended = start + BUCKET_S + limits.receipt_after_s <= now_s
            if (
                ended
                and start > now_s - limits.receipt_after_s - RECEIPTS_S
                and start >= self._counted_from(gateway, region)
            ):
                waited.setdefault((gateway, region), Counts()).add(counts)
        return window, waited

    def _counted_from(self, gateway: str, region: str) -> float:
        found = (self._breakers.get((gateway, "")), self._breakers.get((gateway, region)))
        return max((one.counted_from for one in found if one is not None), default=0.0)

    def _look_for_silence(self, in_flight: Mapping[str, int], now_s: float) -> None:
        """A gateway that answers nothing gives no outcome to count: until its time-outs come."""
        for gateway, segments in in_flight.items():
            if not segments:
                self._quiet_since[gateway] = now_s
                continue
            limit_s = max(SILENT_S, 2 * self._limits.get(gateway, _LIMITS).slow_ms / 1000)
            breaker = self._breakers.get((gateway, ""))
            if now_s - self._quiet_since.setdefault(gateway, now_s) > limit_s and (
                breaker is None or breaker.state == "closed"
            ):
                self._trip((gateway, ""), "slow", now_s)

    def _trip(self, key: Key, cause: Cause, now_s: float) -> None:
        breaker = self._breakers.setdefault(key, Breaker())
        before = breaker.state
        breaker.trip(cause, now_s)
        self._runs[key] = 0
        self._note(key, breaker, before)

    def _note(self, key: Key, breaker: Breaker, before: str) -> None:
        """Count and log what has changed."""
        if breaker.state == before:
            return
        if before == "half_open":
            self._ended.add(key[0])
        if breaker.state != "half_open":
            self._news[key] = breaker
        gateway, region = key
        where = f"gateway {gateway}, {region}" if region else f"gateway {gateway}"
        if breaker.state == "open":
            assert breaker.cause is not None
            self.trips[(gateway, breaker.cause)] += 1
            level = logging.WARNING if before == "closed" else logging.INFO
            log.log(level, "%s is not well (%s)", where, breaker.cause)
        elif breaker.state == "closed":
            log.warning("%s is well again", where)

    # Showing

    def circuits(self) -> tuple[Circuit, ...]:
        """Every breaker that is not closed, for the API. One that has rested is probed by the first text that comes."""
        now_s = self._clock()
        found = [
            Circuit(
                gateway,
                region,
                one.state,
                one.cause or "",
                one.since,
                one.until,
                "probing" if one.rested(now_s) else one.health(),
            )
            for (gateway, region), one in sorted(self._breakers.items())
            if one.state != "closed"
        ]
        return tuple(found[:SHOWN_CIRCUITS])

    def gateway_health(self, gateway: str) -> Health:
        """The worst of a gateway's breakers."""
        return worst(one.health() for key, one in self._breakers.items() if key[0] == gateway)

    def sums(self, gateway: str) -> tuple[Counts, Counts]:
        """The window, and the texts that should have receipts, over all regions."""
        return (
            total(counts for key, counts in self.window.items() if key[0] == gateway),
            total(counts for key, counts in self.waited.items() if key[0] == gateway),
        )

    @property
    def gateways(self) -> list[str]:
        """Those that are followed."""
        return list(self._limits)


_LIMITS = Limits()


def _count(counts: Counts, outcome: Outcome) -> None:
    """One that was not accepted."""
    if type(outcome) is Rejected:
        if outcome.reason in FAULTS:
            counts.failed += 1
        else:
            counts.refused += 1
    elif type(outcome) is Retry and outcome.reason in THROTTLES:
        counts.throttled += 1
    else:
        counts.failed += 1
        if type(outcome) is Unknown and outcome.reason == CUT:
            counts.cut += 1
