"""Rates hold in any sliding second; throttling slows and lets go."""

from __future__ import annotations

from collections import deque
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateways.smpp.pacing import Pacer


@given(
    st.sampled_from([1, 2, 2.5, 7, 50, 1000]),
    st.lists(st.tuples(st.floats(0.0005, 0.4), st.floats(0, 0.3), st.booleans()), min_size=5, max_size=60),
)
def test_no_sliding_second_sees_more_than_the_rate(rate, steps):
    """However late the SMSC sees what was written; some is never answered."""
    pacer, now, seen, answers = Pacer(rate, 0.0), 100.0, [], []
    for moment in range(2, 42, 2):  # it learns how long the path is: nothing
        pacer.spend(1, moment)
        pacer.wrote(1, moment)
        pacer.answered([moment], moment)
    for step, path_s, lost in steps:
        for answer in [answer for answer in answers if answer[0] <= now]:
            answers.remove(answer)
            pacer.answered([answer[1]] * answer[2], answer[0])
        count = int(pacer.available(now))
        if count:
            pacer.spend(count, now)
            pacer.wrote(count, now)
            seen.append((now + path_s, count))
            if not lost:
                answers.append((now + path_s, now, count))
        now += step
    for start, _ in seen:
        assert sum(count for at, count in seen if 0 <= at - start < 1.0) <= rate


@pytest.mark.parametrize("late_s", [0.0, 0.03])
@pytest.mark.parametrize("answer_s", [0.002, 0.2])
@pytest.mark.parametrize("rate", [1, 10, 100, 2000])
def test_a_waiting_sender_gets_nearly_the_whole_rate(rate, answer_s, late_s):
    """Also one that comes late to what was free."""
    pacer, now, total, answers = Pacer(rate, 0.0), 0.0, 0, deque()
    while now < 60.0:
        while answers and answers[0] + answer_s <= now:
            at = answers.popleft()
            pacer.answered([at], at + answer_s)
        count = int(pacer.available(now))
        if count and now >= 30.0:
            total += count
        if count:
            pacer.spend(count, now)
            pacer.wrote(count, now)
            answers.extend([now] * count)
        soonest = [pacer.next_at() + late_s] + [at + answer_s for at in list(answers)[:1]]
        now = max(min(soonest), now + 0.001)
    assert 0.95 * rate * 30 <= total <= rate * 30


def test_credit_is_given_ahead_as_far_as_the_pace_will_let_it_go():
    pacer = Pacer(100, 0.0)
    assert pacer.ahead(0.0) == pacer.most == 56, "half as fast again, after a pause"
    pacer.spend(56, 0.0)
    pacer.wrote(56, 0.0)
    assert pacer.ahead(0.0) == 0
    assert pacer.ahead(0.1) == pytest.approx(15)
    pacer.spend(44, 0.5)
    pacer.wrote(44, 0.5)
    pacer.answered([0.0] * 56 + [0.5] * 44, 0.55)
    assert pacer.ahead(0.8) == 0, "all the places of the second are taken, and none ends soon"


def test_a_text_longer_than_the_rate_goes_when_the_second_is_empty():
    pacer = Pacer(2, 0.0)
    assert pacer.may(5, 0.0)
    pacer.spend(5, 0.0)
    pacer.wrote(5, 0.0)
    pacer.answered([0.0] * 5, 0.01)
    assert not pacer.may(1, 1.0)
    assert pacer.may(1, max(pacer.next_at(), 1.1))


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
            pacer.wrote(count, now)
            pacer.answered([now] * count, now)
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
            pacer.wrote(count, now)
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
