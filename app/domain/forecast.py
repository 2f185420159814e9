"""When work that is queued behind a rate will be through, in the hours that it may go.

Guarantee: `finish` never says earlier than the rate and the windows allow; what is to be done at a rate of
None takes no time once it may go.

Pure: the hours come in as a function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import msgspec

MAX_WINDOWS: Final = 1_000  # looked at before the answer is: never
Hours = Callable[[float], tuple[bool, float]]
"""At a time (Unix seconds): whether work may go, and until when that holds."""


class Forecast(msgspec.Struct, frozen=True):
    """`finish` in Unix seconds; `inf`: never. `now`: units that go before the hours end the next time."""

    finish: float
    now: float


def finish(units: float, rate: float | None, start: float, hours: Hours) -> Forecast:
    """Work of `units` at `rate` a second from `start` on."""
    left, at, in_this = units, start, 0.0
    for number in range(MAX_WINDOWS):
        is_open, until = hours(at)
        if is_open:
            takes = 0.0 if rate is None else left / rate if rate else math.inf
            if takes < math.inf and at + takes <= until:
                return Forecast(at + takes, units if number == 0 else in_this)
            assert rate is not None
            done = rate * (until - at) if rate else 0.0
            left -= done
            if number == 0:
                in_this = done
        if until == math.inf or rate == 0:
            break
        at = until
    return Forecast(math.inf, in_this)
