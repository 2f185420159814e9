"""Redis' clock on ours: never sooner, never later, and as tight as the quickest answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.queue.clock import DRIFT, ServerClock

WALL = 1_800_000_000.0


@given(st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 2.0)), min_size=1, max_size=20))
def test_the_true_moment_lies_between(questions: list[tuple[float, float, float]]) -> None:
    """For any delays there and back, with a clock that runs as fast as NTP slews it."""
    clock, now = ServerClock(), 100.0
    rate = 1 + DRIFT * 0.9

    def server(monotonic_s: float) -> float:
        return WALL + (monotonic_s - 100.0) * rate

    for there_s, back_s, pause_s in questions:
        sent = now
        clock.sample(sent, server(sent + there_s), sent + there_s + back_s)
        now = sent + there_s + back_s
        assert clock.no_sooner(server(now)) >= now - 1e-5
        assert clock.no_later(now) >= server(now) - 1e-5
        now += pause_s


def test_the_quickest_answer_decides_how_tight_it_is() -> None:
    clock = ServerClock()
    clock.sample(10.0, WALL + 0.3, 10.6)
    assert clock.no_sooner(WALL + 0.3) == pytest.approx(10.6, abs=1e-3)
    clock.sample(11.0, WALL + 1.0005, 11.001)
    assert clock.no_sooner(WALL + 1.0005) == pytest.approx(11.001, abs=1e-4)
    clock.sample(12.0, WALL + 2.4, 12.5)
    assert clock.no_sooner(WALL + 2.4) == pytest.approx(12.4 + 0.0005 + DRIFT * 1.5, abs=1e-3)


@pytest.mark.parametrize("step_s", [-30.0, 30.0])
def test_a_clock_that_was_set_is_noticed_with_the_next_answer(step_s: float) -> None:
    clock = ServerClock()
    clock.sample(10.0, WALL, 10.001)
    clock.sample(11.0, WALL + 1 + step_s, 11.001)
    assert clock.no_sooner(WALL + 1 + step_s) == pytest.approx(11.001, abs=1e-4)
    assert clock.no_later(11.0) == pytest.approx(WALL + 1 + step_s, abs=1e-4)
