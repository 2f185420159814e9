"""Backlog, rate and hours together: when it will be through."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from app.domain.forecast import Forecast, finish

HOUR = 3600.0
DAY = 24 * HOUR


def nine_to_five(at: float) -> tuple[bool, float]:
    day, second = divmod(at, DAY)
    if second < 9 * HOUR:
        return False, day * DAY + 9 * HOUR
    if second < 17 * HOUR:
        return True, day * DAY + 17 * HOUR
    return False, (day + 1) * DAY + 9 * HOUR


def test_what_fits_today_is_through_today() -> None:
    assert finish(3600, 1.0, 9 * HOUR, nine_to_five) == Forecast(10 * HOUR, 3600)


def test_the_rest_goes_on_at_the_next_opening() -> None:
    assert finish(10 * 3600, 1.0, 9 * HOUR, nine_to_five) == Forecast(DAY + 11 * HOUR, 8 * 3600)


def test_without_a_rate_it_waits_for_the_opening_alone() -> None:
    assert finish(10**9, None, 20 * HOUR, nine_to_five) == Forecast(DAY + 9 * HOUR, 0)


def test_hours_that_never_open() -> None:
    assert finish(1, 1.0, 0, lambda _: (False, math.inf)).finish == math.inf


def test_without_a_gateway_it_is_never_through() -> None:
    assert finish(1, 0, 9 * HOUR, nine_to_five) == Forecast(math.inf, 0.0)


@given(st.integers(1, 200_000), st.floats(0.5, 50), st.floats(0, 3 * DAY))
def test_against_a_minute_by_minute_count(units: int, rate: float, start: float) -> None:
    at, left = start, float(units)
    while True:
        step = min(60.0, nine_to_five(at)[1] - at)
        if nine_to_five(at)[0]:
            if left <= rate * step:
                break
            left -= rate * step
        at += step
    assert math.isclose(finish(units, rate, start, nine_to_five).finish, at + left / rate, abs_tol=1.0)
