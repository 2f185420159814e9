"""What `gateways.base` promises, on every kind of gateway.

A kind is tested by a module in `tests/gateways/kinds/`, which has a list `KINDS` of factories
without arguments. What a factory makes has

    name                the test's id
    scheme              of its URL
    gateway             after `start`: opened, and connected as far as its kind connects
    per_segment         whether each segment is handed over, and answered, by itself
    receives            whether receipts and texts come in by the gateway itself

    async start(recorder)           start the faked wire and the gateway
    async start_unreachable(recorder)  the same with nothing listening
    async stop()
    accept(), refuse_for_good(), refuse_for_now(), be_silent()   what the wire does from now on;
                                    silent: it takes everything and answers nothing, and the
                                    gateway's time-out is below two seconds
    hold()                          it takes everything and answers nothing, and the time-out is far away
    async cut()                     drop every connection
    handed_over()                   the texts that reached the wire, in their order, each as often as it came
    async receive_receipt(), async receive_text()   only with `receives`: deliver one
    acknowledged(), refused()       only with `receives`: how many deliveries were answered well, or badly
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gateways
from gateways.base import Accepted, Rejected, Retry, Unknown


def _kinds() -> list[Callable[[], Any]]:
    kinds: list[Callable[[], Any]] = []
    for path in sorted((Path(__file__).parent / "kinds").glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"gateway_kind_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        kinds += module.KINDS
    return kinds


_FACTORIES = _kinds()


def test_every_kind_of_gateway_is_here():
    """A module with a `build` is a kind; none passes by."""
    modules = {
        module.name
        for module in pkgutil.iter_modules(gateways.__path__)
        if hasattr(importlib.import_module(f"gateways.{module.name}"), "build")
    }
    assert {factory().scheme for factory in _FACTORIES} == modules


@pytest.fixture(params=_FACTORIES, ids=lambda factory: factory().name)
async def kind(request, recorder):
    kind = request.param()
    await kind.start(recorder)
    yield kind
    await kind.stop()


@pytest.fixture(params=_FACTORIES, ids=lambda factory: factory().name)
async def unreachable(request, recorder):
    kind = request.param()
    await kind.start_unreachable(recorder)
    yield kind
    await kind.stop()


async def credit(kind, recorder, segments):
    """Take exactly so much credit, waiting until it is there."""
    taken = 0

    def enough():
        nonlocal taken
        taken += kind.gateway.take(segments - taken)
        return taken == segments

    await recorder.until(enough)


async def send(kind, recorder, submissions):
    await credit(kind, recorder, sum(each.mask.bit_count() for each in submissions))
    kind.gateway.submit(submissions)


def window(gateway):
    free = gateway.take(1_000_000)
    gateway.give_back(free)
    return free


async def test_an_accepted_segment_ends_once_and_gives_its_credit_back(kind, recorder, submission):
    kind.accept()
    await credit(kind, recorder, 1)
    kind.gateway.give_back(1)
    before = window(kind.gateway)
    await send(kind, recorder, [submission(f"m-{i}") for i in range(5)])
    await recorder.until(lambda: len(recorder.ended) == 5)
    for i in range(5):
        (outcome,) = recorder.outcome_of(f"m-{i}")
        assert isinstance(outcome, Accepted)
        assert outcome.gateway_message_id
    assert len({outcome.gateway_message_id for _, _, outcome in recorder.ended}) == 5
    assert kind.handed_over() == ["hello"] * 5
    assert window(kind.gateway) == before


async def test_what_was_written_is_counted_and_stamped(kind, recorder, submission):
    """Throttles count by it: before the write nothing, after it the whole, stamped between the write and now."""
    kind.accept()
    long, late = submission(text="long text " * 40), submission("late", send_before=time.monotonic() - 1)
    asked_at = time.monotonic()
    await send(kind, recorder, [long, late])
    await recorder.until(lambda: len(recorder.ended) == len(long.parts) + 1)
    assert long.written == len(long.parts)
    assert asked_at <= long.written_at <= time.monotonic()
    assert (late.written, late.written_at) == (0, 0.0)


async def test_the_tag_comes_back_untouched(kind, recorder, submission):
    kind.accept()
    tag = object()
    await send(kind, recorder, [submission(tag=tag)])
    await recorder.until(lambda: recorder.ended)
    assert recorder.ended[0][0].tag is tag


async def test_each_segment_of_a_long_text_ends_once(kind, recorder, submission):
    kind.accept()
    long = submission(text="long text " * 40)
    await send(kind, recorder, [long])
    await recorder.until(lambda: len(recorder.ended) == len(long.parts))
    outcomes = recorder.outcome_of("m-1")
    assert [type(outcome) for outcome in outcomes] == [Accepted] * len(long.parts)
    assert "".join(kind.handed_over()) == long.text


async def test_only_the_masked_segments_are_handed_over(kind, recorder, submission):
    if not kind.per_segment:
        pytest.skip("this kind hands over whole texts")
    kind.accept()
    long = submission(text="a" * 153 + "b" * 153 + "c" * 153, mask=0b101)
    await send(kind, recorder, [long])
    await recorder.until(lambda: len(recorder.ended) == 2)
    assert sorted(index for _, index, _ in recorder.ended) == [0, 2]
    assert kind.handed_over() == ["a" * 153, "c" * 153]


async def test_a_refusal_for_good_is_rejected(kind, recorder, submission):
    kind.refuse_for_good()
    await send(kind, recorder, [submission()])
    await recorder.until(lambda: recorder.ended)
    (outcome,) = recorder.outcome_of("m-1")
    assert isinstance(outcome, Rejected)
    assert outcome.reason
    assert outcome.raw


async def test_a_refusal_for_now_may_be_tried_again(kind, recorder, submission):
    kind.refuse_for_now()
    await send(kind, recorder, [submission()])
    await recorder.until(lambda: recorder.ended)
    (outcome,) = recorder.outcome_of("m-1")
    assert isinstance(outcome, Retry)
    assert outcome.sent


async def test_silence_is_unknown(kind, recorder, submission):
    kind.be_silent()
    await send(kind, recorder, [submission()])
    await recorder.until(lambda: recorder.ended)
    assert recorder.outcome_of("m-1") == [Unknown("timeout")]
    assert kind.handed_over() == ["hello"]


async def test_a_cut_makes_everything_in_flight_unknown_within_five_seconds(kind, recorder, submission):
    kind.hold()
    await send(kind, recorder, [submission(f"m-{i}") for i in range(5)])
    await recorder.until(lambda: len(kind.handed_over()) == 5)
    await kind.cut()
    await recorder.until(lambda: len(recorder.ended) == 5, timeout_s=5)
    for i in range(5):
        (outcome,) = recorder.outcome_of(f"m-{i}")
        assert isinstance(outcome, Unknown)
    kind.accept()
    await send(kind, recorder, [submission("after")])  # it comes back by itself
    await recorder.until(lambda: recorder.outcome_of("after"))
    assert len(kind.handed_over()) == 6, "nothing was handed over twice"


async def test_past_send_before_nothing_is_handed_over(kind, recorder, submission):
    kind.accept()
    await send(kind, recorder, [submission(send_before=time.monotonic() - 0.001)])
    await recorder.until(lambda: recorder.ended)
    assert recorder.outcome_of("m-1") == [Retry("send_before_passed", sent=False)]
    assert kind.handed_over() == []


async def test_while_nothing_is_connected_nothing_is_sent(unreachable, recorder, submission):
    unreachable.gateway.submit([submission(text="long text " * 40)])
    await recorder.until(lambda: recorder.ended)
    for outcome in recorder.outcome_of("m-1"):
        assert isinstance(outcome, Retry)
        assert not outcome.sent
    assert len(recorder.outcome_of("m-1")) == 3


async def test_what_cannot_be_written_never_raises(kind, recorder, submission):
    kind.accept()
    odd = [
        submission("number", to="+1202\x005550101"),
        submission("letters", to="not a number"),
        submission("empty", to=""),
    ]
    await send(kind, recorder, odd)
    await recorder.until(lambda: len(recorder.ended) == 3)
    for each in odd:
        (outcome,) = recorder.outcome_of(each.message_id)
        assert isinstance(outcome, Rejected)
    assert kind.handed_over() == []


async def test_credit_is_bounded_and_can_be_given_back(kind, recorder):
    await credit(kind, recorder, 1)
    kind.gateway.give_back(1)
    free = window(kind.gateway)
    assert 0 < free < 1_000_000
    assert kind.gateway.take(free) == free
    assert kind.gateway.take(1) == 0
    kind.gateway.give_back(free)
    assert kind.gateway.take(1) == 1
    kind.gateway.give_back(1)


async def test_closing_waits_for_answers_and_ends_everything(kind, recorder, submission):
    kind.hold()
    await send(kind, recorder, [submission(f"m-{i}") for i in range(3)])
    await recorder.until(lambda: len(kind.handed_over()) == 3)
    await kind.gateway.close(drain_s=0.2)
    for i in range(3):
        (outcome,) = recorder.outcome_of(f"m-{i}")
        assert isinstance(outcome, Unknown)
    assert kind.gateway.take(1) == 0
    kind.gateway.submit([submission("late")])
    await recorder.until(lambda: recorder.outcome_of("late"))
    (outcome,) = recorder.outcome_of("late")
    assert isinstance(outcome, Retry)
    assert not outcome.sent


async def test_binds_tell_their_state(kind, recorder):
    await credit(kind, recorder, 1)
    kind.gateway.give_back(1)
    statuses = kind.gateway.binds()
    assert statuses
    assert all(status.name.startswith(kind.gateway.name) for status in statuses)
    assert any(status.state == "bound" for status in statuses)


async def test_a_receipt_is_acknowledged_only_when_it_is_stored(kind, recorder):
    if not kind.receives:
        pytest.skip("receipts of this kind come by the API")
    recorder.hold.clear()
    await kind.receive_receipt()
    await kind.receive_text()
    assert kind.acknowledged() == 0
    recorder.hold.set()
    await recorder.until(lambda: recorder.receipts_seen and recorder.inbound_seen)
    await recorder.until(lambda: kind.acknowledged() == 2)


async def test_what_was_not_stored_is_delivered_again(kind, recorder):
    if not kind.receives:
        pytest.skip("receipts of this kind come by the API")
    recorder.fail = 1
    await kind.receive_receipt()
    await recorder.until(lambda: recorder.receipts_seen)
    await recorder.until(lambda: kind.acknowledged() == 1)
    assert kind.refused() == 1
    assert len(recorder.receipts_seen) == 1
