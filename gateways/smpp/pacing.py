"""How fast one bind may go: a fixed rate where one is set, and less while the SMSC throttles.

Guarantees:

* with a rate, no sliding second sees more than that many segments, however late the caller comes: what went out
  in the last second is counted;
* the SMSC's throttling halves the rate that was running. Shortly after, it goes on at what the SMSC took in the
  second before, and then feels its way up: by little at first, then by more and more. A step that is throttled
  is taken back, and the next one comes later (up to 16 seconds): so a bind that is always asked for more than the
  SMSC lets through holds nearly all of that, and one that was throttled for a moment is soon free again.

Pure: monotonic seconds come in as an argument.
"""

from __future__ import annotations

import sys
from collections import deque
from math import inf

_GRAIN_S = 0.01  # what went out is counted by so much
_SECOND_S = 1.03  # counted for: what left late and what left early may come to the SMSC closer together
_BURST = 0.03  # of the rate, but at least one segment
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

    def below_at(self, limit: int) -> float:
        """When the count falls below `limit`; 0 when it is."""
        left = self.total
        for start, count in self._grains:
            if left < limit:
                return 0.0
            left -= int(count)
            if left < limit:
                return start + _SECOND_S
        return 0.0


class Pacer:
    """`rate` is in segments a second; 0 means no limit."""

    def __init__(self, rate: float, now: float) -> None:
        self._configured = rate if rate > 0 else inf
        self._rate = self._configured
        self._whole = max(int(rate), 1) if rate > 0 else sys.maxsize  # segments in a sliding second
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

    def available(self, now: float) -> float:
        """How many segments may go now; `inf` without a limit."""
        self._advance(now)
        if self._rate == inf:
            return inf
        return max(min(int(self._tokens), self._whole - self._sent.at(now)), 0)

    def spend(self, segments: int, now: float) -> None:
        """Segments went out. Spending more than is available is remembered, not refused."""
        if not self._sent.at(now):
            self._busy_since = now
        self._sent.add(segments, now)
        if self._rate != inf:
            self._advance(now)
            self._tokens -= segments

    def accepted(self, segments: int, now: float) -> None:
        """The SMSC took so many."""
        self._taken.add(segments, now)

    def next_at(self) -> float:
        """When one more segment may go, as a monotonic instant; valid when none is available."""
        if self._rate == inf:
            return self._refilled
        tokens_at = self._refilled + max(1 - self._tokens, 0.0) / self._rate
        return max(tokens_at, self._sent.below_at(self._whole))

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
        return inf if self._rate == inf else max(1.0, self._rate * share)

    def _advance(self, now: float) -> None:
        if self._rate == inf:
            self._refilled = now
            return
        self._tokens = min(self._burst(), self._tokens + (now - self._refilled) * self._rate)
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
