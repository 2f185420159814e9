"""Rates hold in any sliding second; throttling slows and lets go."""

from __future__ import annotations

from collections import deque
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateways.smpp.pacing import Pacer


@given(st.sampled_from([1, 2, 7, 50, 1000]), st.lists(st.floats(0.0005, 0.4), min_size=5, max_size=60))
def test_no_sliding_second_sees_more_than_the_rate(rate, steps):
    pacer, now, sent = Pacer(rate, 100.0), 100.0, deque()
    for step in steps:
        count = int(pacer.available(now))
        if count:
            pacer.spend(count, now)
            sent.append((now, count))
        while sent and sent[0][0] <= now - 1.0:
            sent.popleft()
        assert sum(count for _, count in sent) <= rate
        now += step


@pytest.mark.parametrize("rate", [1, 10, 100, 2000])
def test_a_waiting_sender_gets_nearly_the_whole_rate(rate):
    pacer, now, total = Pacer(rate, 0.0), 0.0, 0
    while now < 20.0:
        count = int(pacer.available(now))
        if count:
            pacer.spend(count, now)
            total += count
        now = max(pacer.next_at(), now + 0.001)
    assert 0.95 * rate * 20 <= total <= rate * 20


def test_without_a_rate_there_is_no_limit():
    pacer = Pacer(0, 0.0)
    pacer.spend(1_000_000, 0.0)
    assert pacer.available(0.0) == inf


def run(pacer, start, seconds, rate):
    """Send `rate` a second, as far as it goes; gives how many went."""
    total = 0
    for step in range(int(seconds * 100)):
        now = start + step / 100
        count = min(int(min(pacer.available(now), 10**9)), rate // 100)
        if count > 0:
            pacer.spend(count, now)
            total += count
    return total


def test_throttling_halves_what_was_running():
    pacer = Pacer(0, 0.0)
    run(pacer, 0.0, 2.0, 1000)
    pacer.throttled(2.0)
    assert 400 <= pacer.rate <= 600
    pacer.throttled(2.1)
    assert 400 <= pacer.rate <= 600, "at most once a second"
    run(pacer, 2.1, 1.5, 1000)
    pacer.throttled(3.7)
    assert 150 <= pacer.rate <= 350


def test_throttling_goes_straight_to_what_the_smsc_takes():
    pacer = Pacer(0, 0.0)
    run(pacer, 0.0, 2.0, 20_000)
    pacer.accepted(500, 1.5)
    pacer.throttled(2.0)
    assert pacer.rate == 500
    run(pacer, 2.0, 1.2, 20_000)
    pacer.accepted(480, 3.2)
    pacer.throttled(3.3)
    assert 200 <= pacer.rate <= 300, "and below it, when that was still too much"


def test_it_recovers_until_the_limit_is_lifted():
    pacer = Pacer(0, 0.0)
    run(pacer, 0.0, 2.0, 1000)
    pacer.throttled(2.0)
    before = pacer.rate
    pacer.available(3.1)
    assert before < pacer.rate < 2 * before
    pacer.available(30.0)
    assert pacer.rate == inf


def test_a_set_rate_is_never_exceeded_by_recovering():
    pacer = Pacer(100, 0.0)
    run(pacer, 0.0, 2.0, 200)
    pacer.throttled(2.0)
    assert pacer.rate < 60
    pacer.available(1000.0)
    assert pacer.rate == 100


def test_it_never_stops_altogether():
    pacer = Pacer(0, 0.0)
    for second in range(1, 20):
        pacer.throttled(second * 1.0)
    assert pacer.rate >= 1
    assert pacer.available(21.5) >= 1
