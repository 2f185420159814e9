"""How fast one bind may go: a fixed rate where one is set, and less while the SMSC throttles.

Guarantees:

* with a rate, no sliding second sees more than that many segments: the bucket refills at 97 %
  of it and holds 2 %, so that burst and refill together stay below;
* each throttled second halves the rate that was running, or cuts it to what the SMSC took in a
  second where that is less; it then recovers by an eighth a second until the limit is lifted.

Pure: monotonic seconds come in as an argument.
"""

from __future__ import annotations

from math import inf

_REFILL = 0.97  # of the rate
_BURST = 0.02  # of the rate, but at least one segment
_MIN_RATE = 1.0  # segments a second, however hard the SMSC throttles
_RECOVERY = 1.125  # a second
# A limit that came from throttling alone is dropped when it reaches twice what ran at the time.
_LIFT = 2.0
_MEASURE_S = 0.25


class Pacer:
    """`rate` is in segments a second; 0 means no limit."""

    def __init__(self, rate: float, now: float) -> None:
        self._configured = rate if rate > 0 else inf
        self._rate = self._configured
        self._tokens = self._burst()
        self._refilled = now
        self._throttled_at = -inf
        self._recovered_at = now
        self._lift_at = inf
        self._window_start, self._window_sent, self._measured = now, 0, 0.0
        # What was accepted in the second under way, and in the one before it.
        self._second_start, self._accepted, self._accepted_before = now, 0, 0

    @property
    def rate(self) -> float:
        """Segments a second at present; `inf` without a limit."""
        return self._rate

    def available(self, now: float) -> float:
        """How many segments may go now; `inf` without a limit."""
        self._advance(now)
        return inf if self._rate == inf else int(self._tokens)

    def spend(self, segments: int, now: float) -> None:
        """Segments went out. Spending more than is available is remembered, not refused."""
        if now - self._window_start >= _MEASURE_S:
            self._measured = self._window_sent / (now - self._window_start)
            self._window_start, self._window_sent = now, 0
        self._window_sent += segments
        if self._rate != inf:
            self._advance(now)
            self._tokens -= segments

    def accepted(self, segments: int, now: float) -> None:
        """The SMSC took so many."""
        elapsed = now - self._second_start
        if elapsed >= 1.0:
            self._accepted_before = self._accepted if elapsed < 2.0 else 0
            self._second_start, self._accepted = now, 0
        self._accepted += segments

    def next_at(self) -> float:
        """When one more segment may go, as a monotonic instant; valid when none is available."""
        if self._rate == inf or self._tokens >= 1:
            return self._refilled
        return self._refilled + (1 - self._tokens) / (self._rate * _REFILL)

    def throttled(self, now: float) -> None:
        """The SMSC answered that this bind is too fast, or its queue is full."""
        self._advance(now)
        if now - self._throttled_at < 1.0:
            return
        self._throttled_at = self._recovered_at = now
        elapsed = max(now - self._window_start, 0.001)
        measured = max(self._measured, self._window_sent / max(elapsed, _MEASURE_S))
        running = min(self._rate, max(measured, _MIN_RATE))
        if self._configured == inf:
            self._lift_at = max(running * _LIFT, _MIN_RATE * 8)
        taken = max(self._accepted, self._accepted_before)
        self._rate = max(min(running / 2, taken or running), _MIN_RATE)
        self._tokens = min(self._tokens, 0.0)

    def _burst(self) -> float:
        return inf if self._rate == inf else max(1.0, self._rate * _BURST)

    def _advance(self, now: float) -> None:
        if self._rate == inf:
            self._refilled = now
            return
        self._tokens = min(self._burst(), self._tokens + (now - self._refilled) * self._rate * _REFILL)
        self._refilled = now
        self._recover(now)

    def _recover(self, now: float) -> None:
        while self._rate < self._configured and now - self._recovered_at >= 1.0:
            self._recovered_at += 1.0
            self._rate = min(self._rate * _RECOVERY, self._configured)
            if self._rate >= self._lift_at:
                self._rate, self._lift_at = self._configured, inf
                self._tokens = self._burst()
