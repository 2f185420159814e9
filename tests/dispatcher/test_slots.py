"""When a written segment counts as seen by the carrier."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from gateways.path import LEARN, LONGEST_S, Path


@pytest.mark.parametrize("length_s", [0.0, 0.02, 0.15])
def test_segments_are_seen_at_least_as_far_apart_as_they_are_counted(length_s: float) -> None:
    """Whatever is held up there or back: written a second after the other counts as seen, it is seen so."""
    chance, path = random.Random(1), Path()
    for _ in range(LEARN):
        path.answered(10.0, 10.0 + length_s)
    written, seen_before = 100.0, 0.0
    for _ in range(1_000):
        there_s, back_s = (min(chance.expovariate(20), 0.2) for _ in range(2))
        seen = written + length_s / 2 + there_s
        answered = written + length_s + there_s + back_s
        assert seen - seen_before >= 1.0 - 1e-9
        path.answered(written, answered)
        seen_before, written = seen, path.seen_s(written, answered) + 1.0


def test_a_long_path_of_steady_length_costs_nothing() -> None:
    path = Path()
    for _ in range(LEARN):
        path.answered(10.0, 10.15)
    assert path.seen_s(20.0, 20.15) == 20.0
    assert round(path.seen_s(20.0, 20.25), 6) == 20.1


def test_a_path_whose_length_is_not_known_is_counted_whole() -> None:
    path = Path()
    assert path.seen_s(20.0, 20.15) == 20.15
    assert path.seen_s(20.0, 30.0) == 20.0 + LONGEST_S, "and what is not answered for long"


def test_it_never_counts_before_the_write() -> None:
    path = Path()
    for took in (0.3, 0.1, 0.2) * LEARN:
        path.answered(10.0, 10.0 + took)
    for earlier, later in pairwise((20.0, 20.05, 20.1, 20.4)):
        assert 20.0 <= path.seen_s(20.0, earlier) <= path.seen_s(20.0, later)
