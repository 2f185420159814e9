"""When a text is tried again, and when it is given up."""

from __future__ import annotations

import pytest

from app.domain import retry
from app.domain.message import Category, State
from app.domain.retry import MAX_ATTEMPTS, MAX_NOT_SENT, MAX_REFUSALS

NOW_S = 1_900_000_000.0
DAY_S = 86_400.0


def refused(*, attempt: int, left_us: bool, expires_s: float | None = None, delay_s: float | None = None):
    return retry.after_refusal(
        reason="no",
        attempt=attempt,
        now_s=NOW_S,
        expires_s=expires_s,
        left_us=left_us,
        delay_s=delay_s,
        jitter=1.0,
    )


@pytest.mark.parametrize(
    ("left_us", "attempt", "expires_in_s", "state"),
    [
        (True, 1, None, State.queued),
        (True, MAX_REFUSALS - 1, None, State.queued),
        (True, MAX_REFUSALS, None, State.failed),
        (True, MAX_REFUSALS, DAY_S, State.failed),
        (False, MAX_REFUSALS, None, State.queued),
        (False, MAX_NOT_SENT - 1, None, State.queued),
        (False, MAX_NOT_SENT, None, State.failed),
        (False, MAX_NOT_SENT, DAY_S, State.queued),
        (False, MAX_ATTEMPTS, DAY_S, State.failed),
        (True, 1, 0.5, State.expired),
        (False, 1, 0.5, State.expired),
    ],
)
def test_a_refusal_is_repeated_until_there_were_too_many_or_it_expires(
    left_us: bool, attempt: int, expires_in_s: float | None, state: State
) -> None:
    expires_s = None if expires_in_s is None else NOW_S + expires_in_s
    assert refused(attempt=attempt, left_us=left_us, expires_s=expires_s).state is state


def test_what_never_left_us_is_tried_for_about_a_day_of_attempts() -> None:
    waits = [
        verdict.again_s or 0.0
        for n in range(1, MAX_NOT_SENT)
        if (verdict := refused(attempt=n, left_us=False)).state is State.queued
    ]
    assert waits[:6] == [1, 2, 4, 8, 16, 30]
    assert DAY_S < sum(waits) < 2 * DAY_S, "with the least jitter it is half"


def test_the_journal_can_count_a_week_of_attempts() -> None:
    assert MAX_ATTEMPTS < 2**15
    assert MAX_ATTEMPTS * retry.NOT_SENT_LIMIT_S * 0.75 > 7 * DAY_S


def test_the_age_of_a_text_that_waited_does_not_fail_it_at_its_first_attempt() -> None:
    end = retry.conclude(
        [retry.Part("again", "not_connected", sent=False)],
        category=Category.marketing,
        allowed=False,
        attempt=1,
        now_s=NOW_S,
        expires_s=None,
        jitter=0.5,
    )
    assert end.state is State.queued
    assert end.again_s == 0.75


def test_the_carriers_own_delay_goes_before_ours() -> None:
    assert refused(attempt=5, left_us=True, delay_s=0.25).again_s == 0.25


def test_what_is_refused_whole_may_be_cut_anew_and_a_rest_may_not():
    again, taken = retry.Part("again", "throttled"), retry.Part("accepted")
    assert retry.repeated([again, again, again], ("again",)) == 0
    assert retry.repeated([taken, again, again], ("again",)) == 0b110
    assert retry.repeated([None, again], ("again",)) == 0b10, "the first one was taken before"
    assert retry.repeated([again], ("again",)) == 0
