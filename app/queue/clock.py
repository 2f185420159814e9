"""Redis' clock seen from this process's monotonic one.

Guarantee: of a moment by Redis' clock `no_sooner` gives a monotonic instant at which it has certainly come, and of
a monotonic instant `no_later` gives a moment by Redis' clock before which it certainly was; both as tight as the
quickest answers allow. A step of either clock is noticed with the next answer.
"""

from __future__ import annotations

DRIFT = 500e-6  # seconds a second: what NTP slews at most


class ServerClock:
    """The difference monotonic − Redis' seconds, as an interval that each answer narrows. Pure."""

    def __init__(self) -> None:
        self._low = 0.0
        self._high = 0.0
        self._at: float | None = None

    def sample(self, sent_s: float, server_s: float, received_s: float) -> None:
        """An answer stamped `server_s` to a question between two monotonic instants."""
        low = sent_s - server_s - DRIFT * (received_s - sent_s)
        high = received_s - server_s + DRIFT * (received_s - sent_s)
        if self._at is not None:
            drift = DRIFT * max(0.0, received_s - self._at)
            kept_low, kept_high = max(low, self._low - drift), min(high, self._high + drift)
            if kept_low <= kept_high:  # else a clock was set: what was known before is void
                low, high = kept_low, kept_high
        self._low, self._high, self._at = low, high, received_s

    def no_sooner(self, server_s: float) -> float:
        """A monotonic instant at which Redis' clock shows at least `server_s`."""
        monotonic_s = server_s + self._high
        return monotonic_s + self._drift(monotonic_s)

    def no_later(self, monotonic_s: float) -> float:
        """What Redis' clock showed at most at that instant."""
        return monotonic_s - self._low + self._drift(monotonic_s)

    def _drift(self, monotonic_s: float) -> float:
        """What may have come between the clocks since the last answer."""
        return 0.0 if self._at is None else DRIFT * abs(monotonic_s - self._at)
