"""Rates hold in any sliding second; throttling slows and lets go."""

from __future__ import annotations

from collections import deque
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateways.smpp.pacing import Pacer


@given(st.sampled_from([1, 2, 2.5, 7, 50, 1000]), st.lists(st.floats(0.0005, 0.4), min_size=5, max_size=60))
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
    run(pacer, 2.1, 1.4, 1000)
    pacer.throttled(3.5)
    assert 200 <= pacer.rate <= 350


def test_after_the_brake_it_goes_on_at_what_the_smsc_takes():
    pacer = Pacer(0, 0.0)
    run(pacer, 0.0, 2.0, 20_000)
    for step in range(100):
        pacer.accepted(50, 1.0 + step / 100)
    pacer.throttled(2.0)
    assert 9_500 <= pacer.rate <= 10_500, "half of what ran"
    pacer.available(2.3)
    assert 4_800 <= pacer.rate <= 5_000


def test_one_that_takes_nearly_nothing_for_a_moment_is_not_believed_at_once():
    pacer = Pacer(0, 0.0)
    run(pacer, 0.0, 2.0, 8000)
    pacer.accepted(1, 1.9)
    pacer.throttled(2.0)
    pacer.available(2.3)
    assert 900 <= pacer.rate <= 1100


def test_it_recovers_until_the_limit_is_lifted():
    pacer = Pacer(0, 0.0)
    run(pacer, 0.0, 2.0, 1000)
    for step in range(100):
        pacer.accepted(10, 1.0 + step / 100)
    pacer.throttled(2.0)
    assert 450 <= pacer.rate <= 550
    rates = []
    for step in range(40):
        pacer.available(2.3 + step / 10)
        rates.append(pacer.rate)
    assert rates == sorted(rates)
    assert rates[0] <= 1000 < rates[20] < rates[35], "first slowly, then faster"
    pacer.available(30.0)
    assert pacer.rate == inf


def sliding(limit):
    taken = deque()

    def take(now):
        while taken and taken[0] <= now - 1.0:
            taken.popleft()
        if len(taken) < limit:
            taken.append(now)
            return True
        return False

    return take


def bucket(limit, burst):
    tokens, at = burst, 0.0

    def take(now):
        nonlocal tokens, at
        tokens, at = min(burst, tokens + (now - at) * limit), now
        if tokens >= 1:
            tokens -= 1
            return True
        return False

    return take


def each_second(limit):
    second, taken = 0, 0

    def take(now):
        nonlocal second, taken
        if int(now) != second:
            second, taken = int(now), 0
        taken += 1
        return taken <= limit

    return take


def held(take, limit, *, answer_s=0.05, seconds=40, since=20, wake=4, configured=0):
    """The share of `limit` that goes through from `since` on, offered more than twice as much; `wake`: how often
    the caller comes, in steps of 5 ms."""
    pacer, answers, through = Pacer(configured, 0.0), deque(), 0
    for step in range(seconds * 200):
        now = step / 200
        while answers and answers[0][0] <= now:
            _, ok, count = answers.popleft()
            if ok:
                pacer.accepted(count, now)
            if ok < count:
                pacer.throttled(now)
        if step % wake:
            continue
        count = int(min(pacer.available(now), limit * wake / 200 * 2.2))
        if count > 0:
            pacer.spend(count, now)
            ok = sum(take(now) for _ in range(count))
            if now >= since:
                through += ok
            answers.append((now + answer_s, ok, ok))
            if ok < count:
                answers.append((now + answer_s, 0, count - ok))
    return through / (seconds - since) / limit


@pytest.mark.parametrize("answer_s", [0.002, 0.05, 0.3])
@pytest.mark.parametrize("wake", [1, 6])
@pytest.mark.parametrize(
    "smsc",
    [sliding, lambda limit: bucket(limit, limit), lambda limit: bucket(limit, limit / 10), each_second],
    ids=["sliding second", "bucket", "small bucket", "each second anew"],
)
def test_offered_twice_what_the_smsc_lets_through_it_holds_nearly_all_of_that(smsc, wake, answer_s):
    assert held(smsc(500), 500, answer_s=answer_s, wake=wake) >= 0.95


def test_it_follows_the_smsc_down_and_up():
    """Ten seconds at 500 a second, ten at 50, twenty at 500."""
    takes = {False: sliding(500), True: sliding(50)}
    low = {"n": 0}
    back = {"n": 0}

    def take(now):
        ok = takes[10 <= now < 20](now)
        if 15 <= now < 20:
            low["n"] += ok
        if now >= 38:
            back["n"] += ok
        return ok

    held(take, 500)
    assert low["n"] >= 0.8 * 50 * 5
    assert back["n"] >= 0.9 * 500 * 2


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
