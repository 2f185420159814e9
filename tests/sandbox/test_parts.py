"""Wheel, ledger and sliding second."""

from __future__ import annotations

import hashlib
import random
from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from app.domain.text import udh
from gateways.sandbox.ledger import Ledger, SlidingSecond
from gateways.sandbox.wheel import Wheel
from gateways.smpp import pdu


def message(to=b"12025550101", payload=b"hello", coding=0, esm_class=0):
    return pdu.Message(b"", 3, 0, b"12345", 1, 1, to, esm_class, b"", 1, coding, payload, {})


def test_nothing_is_early_and_nothing_is_lost():
    wheel, rng = Wheel(0.01), random.Random(7)
    wanted = [(rng.random() * 3, number) for number in range(1000)]
    for due, number in wanted:
        wheel.add(due, number)
    assert len(wheel) == 1000
    seen, now = [], 0.0
    while len(wheel):
        now = wheel.next_due()
        for number in wheel.due(now):
            due = wanted[number][0]
            assert due <= now < due + 0.02
            seen.append(number)
    assert sorted(seen) == list(range(1000))
    assert wheel.next_due() is None


def test_only_a_new_next_item_asks_for_a_new_alarm():
    wheel = Wheel(0.01)
    assert wheel.add(5.0, "a")
    assert not wheel.add(5.0, "b")
    assert not wheel.add(6.0, "c")
    assert wheel.add(4.0, "d")
    assert wheel.due(5.02) == ["d", "a", "b"]


@given(st.lists(st.tuples(st.floats(0, 0.7), st.integers(0, 30)), max_size=60), st.integers(1, 40))
def test_a_cap_holds_in_any_sliding_second(steps, cap):
    second, now, admitted = SlidingSecond(), 0.0, deque()
    for step, wanted in steps:
        now += step
        count = second.admit(wanted, cap, now)
        assert 0 <= count <= wanted
        admitted.append((now, count))
        while admitted and admitted[0][0] <= now - 1.0:
            admitted.popleft()
        total = sum(count for _, count in admitted)
        assert total <= cap
        assert total == cap or count == wanted, "not one fewer than allowed"
        assert second.current(now) == total
    assert second.peak <= cap


def test_the_ledger_is_a_ring_with_numbers_that_go_on():
    ledger = Ledger(3)
    for number in range(1, 6):
        ledger.add(float(number), "volley", 1, number, 0, str(number), message())
    assert [entry["number"] for entry in ledger.since(0)] == [3, 4, 5]
    assert [entry["number"] for entry in ledger.since(3)] == [4, 5]
    assert [entry["number"] for entry in ledger.since(3, limit=1)] == [4]
    assert ledger.since(5) == []
    ledger.clear()
    assert ledger.since(0) == []
    ledger.add(6.0, "volley", 1, 6, 0, "6", message())
    assert [entry["number"] for entry in ledger.since(0)] == [6]


def test_an_entry_tells_text_and_part():
    ledger = Ledger(10)
    octets = udh(7, 2, 1) + "ạ".encode("utf-16-be")
    ledger.add(1.5, "volley", 1, 9, 0, "77", message(payload=octets, coding=8, esm_class=0x40))
    (entry,) = ledger.since(0)
    assert entry["text"] == "ạ"
    assert entry["text_sha256"] == hashlib.sha256("ạ".encode()).hexdigest()
    assert entry["part"] == {"reference": 7, "index": 2, "total": 2}
    assert (entry["to"], entry["source"], entry["message_id"], entry["at"]) == (
        "12025550101",
        "12345",
        "77",
        1.5,
    )


def test_the_peak_by_prefix_and_status():
    ledger = Ledger(100)
    for number in range(20):
        to = b"84900000000" if number % 2 else b"12025550101"
        ledger.add(number * 0.1, "volley", 1, number, 0x58 if number % 4 == 1 else 0, "", message(to))
    assert ledger.peak() == 10
    assert ledger.peak("84") == 5
    assert ledger.peak("+84", status=0) in (2, 3)
    assert ledger.peak("49") == 0
