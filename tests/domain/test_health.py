"""When a gateway is not well, and how it is found to be well again."""

from __future__ import annotations

import pytest

from app.domain.health import PROBE_S, PROBES, REST_LIMIT_S, REST_S, Breaker, Counts, Limits, fault, limits_of

LIMITS = Limits()


@pytest.mark.parametrize(
    ("counts", "waited", "cause"),
    [
        (Counts(accepted=9, failed=10), Counts(), None),  # too few
        (Counts(accepted=10, failed=10), Counts(), None),
        (Counts(accepted=10, failed=11), Counts(), "failing"),
        (Counts(refused=100), Counts(), None),  # wrong numbers
        (Counts(accepted=10, throttled=11), Counts(), "throttled"),
        (Counts(accepted=20, slow=11), Counts(), "slow"),
        (Counts(accepted=20), Counts(texts=20, receipts=1), "no_receipts"),
        (Counts(accepted=20), Counts(texts=20, receipts=2), None),
    ],
)
def test_shares(counts: Counts, waited: Counts, cause: str | None) -> None:
    assert fault(counts, waited, LIMITS) == cause


def test_limits_are_checked() -> None:
    assert limits_of({"receipt_share": 0}).receipt_share == 0
    for values in ({"failed_share": 2}, {"slow_ms": 0}, {"nonsense": 1}, {"receipt_after_s": "x"}):
        with pytest.raises(ValueError, match=next(iter(values))):
            limits_of(values)


def test_it_is_probed_with_few_texts_and_closes_when_all_are_accepted() -> None:
    breaker = Breaker()
    breaker.trip("failing", 100.0)
    assert breaker.health() == "failing"
    breaker.tick(100.0 + REST_S - 0.1, LIMITS)
    assert breaker.state == "open"
    breaker.tick(100.0 + REST_S, LIMITS)
    assert breaker.health() == "probing"
    assert breaker.admit(100) == PROBES
    assert breaker.health() == "failing"  # no more of them
    breaker.answered(Counts(accepted=PROBES - 1), 103.0)
    assert breaker.state == "half_open"
    breaker.answered(Counts(accepted=1), 103.0)
    assert (breaker.state, breaker.health(), breaker.counted_from) == ("closed", "well", 103.0)


def test_a_failed_probe_rests_twice_as_long_up_to_a_limit() -> None:
    breaker, now = Breaker(), 0.0
    breaker.trip("failing", now)
    rests = []
    for _ in range(8):
        now = breaker.until
        breaker.tick(now, LIMITS)
        breaker.admit(1)
        breaker.answered(Counts(failed=1), now)
        rests.append(breaker.until - now)
    assert rests[:3] == [4.0, 8.0, 16.0]
    assert rests[-1] == REST_LIMIT_S


def test_a_probe_without_an_answer_has_failed_and_one_without_a_text_goes_on() -> None:
    breaker = Breaker()
    breaker.trip("slow", 0.0)
    assert breaker.health() == "worse"
    breaker.tick(2.0, LIMITS)
    breaker.tick(2.0 + PROBE_S, LIMITS)
    assert breaker.state == "half_open"  # nothing to probe with
    assert breaker.admit(3) == 3
    breaker.back(1)
    assert breaker.left == PROBES - 2
    breaker.tick(2.0 + 2 * PROBE_S, LIMITS)
    assert breaker.state == "open"


def test_receipts_close_what_had_none() -> None:
    breaker = Breaker()
    breaker.trip("no_receipts", 0.0)
    breaker.tick(2.0, LIMITS)
    breaker.admit(1)
    breaker.answered(Counts(accepted=1), 3.0)
    assert breaker.state == "half_open"
    breaker.answered(Counts(receipts=1), 4.0)
    assert breaker.state == "closed"
