"""How fast one bind may go: a fixed rate where one is set, and less while the SMSC throttles.

Guarantees:

* with a rate, no sliding second sees more than that many segments, however late the caller comes: each counts until
  a second after the SMSC had seen it (`gateways.path`). A PDU of more segments than the rate goes when nothing counts;
* credit is given ahead of the pace: so much goes within `AHEAD_S`, and may be made ready meanwhile;
* the SMSC's throttling halves the rate that was running. Shortly after, it goes on at what the SMSC took in the
  second before, and then feels its way up: by little at first, then by more and more. A step that is throttled
  is taken back, and the next one comes later (up to 16 seconds): so a bind that is always asked for more than the
  SMSC lets through holds nearly all of that, and one that was throttled for a moment is soon free again.

Pure: monotonic seconds come in as an argument.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from math import inf

from gateways.path import LONGEST_S, Path

AHEAD_S = 0.3  # what is taken may go so long after: less than what a decision holds, more than a commit takes
_SPREAD = 1.5  # of a set rate: so fast goes what is free at once; the places of the second hold the rate
_PLACE_S = 1.005  # what was seen counts so long: clocks are read before and after

_GRAIN_S = 0.01  # what went out is counted by so much
_SECOND_S = 1.03  # counted for: what left late and what left early may come to the SMSC closer together
_BURST = 0.1  # of the rate, and one segment: so late may a timer come without losing of it
_BURST_LEARNED = 0.2  # of what throttling has shown: the caller may come late without losing of it
_MIN_RATE = 1.0  # segments a second, however hard the SMSC throttles
_EPISODE_S = 1.0  # throttled answers within so long are one event: they answer what left before the brake
_EASE_S = 0.15  # how long the halved rate holds where it is known what the SMSC takes
_SEASONED_S = 0.9  # traffic of so long says what the SMSC takes in a second
# A limit that came from throttling alone is dropped when it reaches twice what ran at the time.
_LIFT = 2.0
_PROBE_FIRST_S, _PROBE_LAST_S = 0.5, 16.0
_PROBE_STEP_S = 0.5  # each step of a probe adds twice what the one before it did
_PROBE_SHARE = 0.02  # of the limit: the first step
_DEEPEST = 8.0  # one that takes nearly nothing for a moment is not believed at once
_MARGIN = 0.985  # of what the SMSC took in a second: one that is met exactly is passed by chance
_PROBE_STEPS = 40  # 2^40 is more than any rate


class _LastSecond:
    """How many in the last second, a little more than one."""

    __slots__ = ("_grains", "total")

    def __init__(self) -> None:
        self._grains: deque[list[float]] = deque()  # [start, count]
        self.total = 0

    def add(self, count: int, now: float) -> None:
        self.at(now)
        if self._grains and now - self._grains[-1][0] < _GRAIN_S:
            self._grains[-1][1] += count
        else:
            self._grains.append([now, count])
        self.total += count

    def at(self, now: float) -> int:
        """The count at that time."""
        horizon = now - _SECOND_S
        while self._grains and self._grains[0][0] <= horizon:
            self.total -= int(self._grains.popleft()[1])
        return self.total

    def exactly(self, now: float) -> int:
        """In the second that ends now, to the grain."""
        return int(sum(count for start, count in self._grains if start > now - 1.0))


class _Places:
    """As many segments as one second may see, and until when each place is taken."""

    __slots__ = ("_path", "_seen", "_unanswered", "_whole", "free")

    def __init__(self, whole: int) -> None:
        self.free = self._whole = whole  # negative: more went than there were
        self._path = Path()
        self._unanswered: deque[list[float]] = deque()  # [written at, count]
        self._seen: deque[tuple[float, int]] = deque()  # (taken until, count)

    def wrote(self, count: int, at: float) -> None:
        self._unanswered.append([at, count])

    def answered(self, written: Sequence[float], now: float) -> None:
        """Of each answered segment, when it was written. Which ones is all the same: those that were written first
        are counted as seen first."""
        self.at(now)
        recent = [at for at in written if now - at < LONGEST_S]  # the others count as seen already
        for at in recent:
            self._path.answered(at, now)
        left = len(recent)
        if not left:
            return
        self._seen.append((self._path.seen_s(min(recent), now) + _PLACE_S, left))
        while left and self._unanswered:
            first = self._unanswered[0]
            count = min(left, int(first[1]))
            left -= count
            first[1] -= count
            if not first[1]:
                self._unanswered.popleft()

    def at(self, now: float) -> int:
        """How many are free at that time."""
        while self._unanswered and self._unanswered[0][0] <= now - LONGEST_S:
            at, count = self._unanswered.popleft()
            self._seen.append((self._path.seen_s(at, now) + _PLACE_S, int(count)))
        while self._seen and self._seen[0][0] <= now:
            self.free += self._seen.popleft()[1]
        return self.free

    def by(self, moment: float) -> int:
        """How many will be free at a later time, as far as is known."""
        free = self.free
        for until, count in self._seen:
            if until > moment:
                break
            free += count
        return free

    def enough_at(self, wanted: int) -> float:
        """When so many are free; answers that are yet to come can only make it sooner."""
        free = self.free
        if free >= min(wanted, self._whole):
            return 0.0
        for until, count in self._seen:
            free += count
            if free >= min(wanted, self._whole):
                return until
        return self._unanswered[0][0] + LONGEST_S if self._unanswered else 0.0


class Pacer:
    """`rate` is in segments a second; 0 means no limit."""

    def __init__(self, rate: float, now: float) -> None:
        self._configured = rate if rate > 0 else inf
        self._rate = self._configured
        self._places = _Places(max(int(rate), 1)) if rate > 0 else None
        self._sent, self._taken = _LastSecond(), _LastSecond()
        self._busy_since = now
        self._limit: float | None = None  # what the SMSC lets through, as far as throttling has shown
        self._tokens = self._burst()
        self._refilled = now
        self._lift_at = inf
        self._throttled_at = -inf
        self._eased_at = -inf  # until then at half the rate
        self._probe_at, self._probe_wait_s = inf, _PROBE_FIRST_S

    @property
    def rate(self) -> float:
        """Segments a second at present; `inf` without a limit."""
        return self._rate

    @property
    def most(self) -> int:
        """The most that is ever granted ahead."""
        return sys.maxsize if self._rate == inf else int(self._burst() + self._refill * AHEAD_S)

    @property
    def _refill(self) -> float:
        """Tokens a second."""
        return self._rate * _SPREAD if self._limit is None and self._places is not None else self._rate

    def ahead(self, now: float) -> float:
        """How many segments may go within `AHEAD_S`, less than one included; `inf` without a limit."""
        self._advance(now)
        if self._rate == inf:
            return inf
        ahead = self._tokens + self._refill * AHEAD_S
        if self._places is not None:
            self._places.at(now)
            ahead = min(ahead, self._places.by(now + AHEAD_S))
        return ahead

    def available(self, now: float) -> float:
        """How many segments may go now; `inf` without a limit."""
        self._advance(now)
        if self._rate == inf:
            return inf
        free = int(self._tokens)
        return max(free if self._places is None else min(free, self._places.at(now)), 0)

    def may(self, segments: int, now: float) -> bool:
        """Whether so many may go now, together. More than it ever gives at once go when it gives the most."""
        self._advance(now)
        if self._rate != inf and self._tokens < min(segments, int(self._burst())):
            return False
        if self._places is None:
            return True
        self._places.at(now)
        return self._places.enough_at(segments) == 0.0

    def spend(self, segments: int, now: float) -> None:
        """Segments go out now; `wrote` follows. Spending more than is available is remembered, not refused."""
        if not self._sent.at(now):
            self._busy_since = now
        self._sent.add(segments, now)
        if self._rate != inf:
            self._advance(now)
            self._tokens -= segments
        if self._places is not None:
            self._places.free -= segments

    def wrote(self, segments: int, at: float) -> None:
        """They are in the socket since then."""
        if self._places is not None:
            self._places.wrote(segments, at)

    @property
    def counts(self) -> bool:
        """Whether it wants to be told of answers."""
        return self._places is not None

    def answered(self, written: Sequence[float], now: float) -> None:
        """The SMSC answered segments that were written at those moments."""
        if self._places is not None:
            self._places.answered(written, now)

    def accepted(self, segments: int, now: float) -> None:
        """The SMSC took so many."""
        self._taken.add(segments, now)

    def next_at(self, segments: int = 1) -> float:
        """When so many may go together, as a monotonic instant, as far as is known; valid when they may not now."""
        if self._rate == inf:
            return self._refilled
        tokens_at = self._refilled + max(min(segments, int(self._burst())) - self._tokens, 0.0) / self._refill
        return tokens_at if self._places is None else max(tokens_at, self._places.enough_at(segments))

    def throttled(self, now: float) -> None:
        """The SMSC answered that this bind is too fast, or its queue is full."""
        self._advance(now)
        if now - self._throttled_at < _EPISODE_S:
            return
        self._throttled_at = now
        age_s = now - self._busy_since
        running = min(self._rate, max(self._sent.at(now) / min(max(age_s, 0.25), 1.0), _MIN_RATE))
        taken = self._taken.exactly(now)
        half = max(running / 2, _MIN_RATE)
        known = age_s >= _SEASONED_S and taken >= _MIN_RATE
        limit = max(min(taken, running) * _MARGIN, running / _DEEPEST, _MIN_RATE) if known else half
        if self._limit is None:
            self._lift_at = max(running * _LIFT, _MIN_RATE * 8)
            self._probe_wait_s = _PROBE_FIRST_S
        elif not 0.7 < limit / self._limit < 1.1:  # something has changed over there
            self._probe_wait_s = _PROBE_FIRST_S
        elif now >= self._probe_at > self._eased_at + 1.0:  # by our step: what held until then still holds
            limit = max(limit, self._limit)
            self._probe_wait_s = min(self._probe_wait_s * 2, _PROBE_LAST_S)
        else:  # nothing was found: neither by our own step, nor by that of another bind of the account
            self._probe_wait_s = min(self._probe_wait_s * 2, _PROBE_LAST_S)
        self._limit = limit
        self._eased_at = now + (_EASE_S if known else _EPISODE_S)
        self._probe_at = self._eased_at + (self._probe_wait_s if known else 0.0)
        self._rate, self._tokens = half, min(self._tokens, 0.0)

    def _burst(self) -> float:
        share = _BURST if self._limit is None else _BURST_LEARNED
        return inf if self._rate == inf else 1.0 + self._rate * share

    def _advance(self, now: float) -> None:
        if self._rate == inf:
            self._refilled = now
            return
        self._tokens = min(self._burst(), self._tokens + (now - self._refilled) * self._refill)
        self._refilled = now
        if self._limit is not None and now >= self._eased_at:
            self._rate = self._probing(self._limit, now)
            if self._limit is None:
                self._tokens = self._burst()

    def _probing(self, limit: float, now: float) -> float:
        """The rate after the brake: what is known, and from time to time a little more."""
        rate = limit
        if now >= self._probe_at:
            steps = min(int((now - self._probe_at) / _PROBE_STEP_S) + 1, _PROBE_STEPS)
            rate += max(limit * _PROBE_SHARE, 1.0) * (2**steps - 1)
        if rate >= min(self._lift_at, self._configured):
            self._limit, self._lift_at, self._probe_at = None, inf, inf
            return self._configured
        return rate
