"""The fast copy of the rules: it answers only when it is whole, and counts caps atomically."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.queue import rules
from app.queue.connection import EpochLost, Queue
from app.queue.rules import Question

ANN, BOB, CAT = (bytes([n] * 8) for n in (1, 2, 3))


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[Queue]:
    queue = Queue(redis_url)
    await queue.client.flushdb()
    queue.attach(1)
    await queue.load()
    await rules.mark_whole(queue, [1])
    yield queue
    await queue.close()


def ask(*people: bytes, sender: str = "s", tenant: int = 1, consent: bool = False, cap: int = 0, tokens=()):
    return Question(
        tenant, sender, people, need_consent=consent, cap_max=cap, cap_window_ms=60_000,
        cap_tokens=tokens or None,
    )  # fmt: skip


async def verdicts(queue: Queue, *questions: Question) -> list[str]:
    return await rules.check(queue, questions)


async def test_a_copy_that_is_not_whole_answers_nothing(queue: Queue) -> None:
    with pytest.raises(EpochLost):
        await verdicts(queue, ask(ANN), ask(ANN, tenant=2))
    await queue.client.flushdb()
    with pytest.raises(EpochLost):
        await verdicts(queue, ask(ANN))


async def test_suppression_of_all_senders_and_of_one(queue: Queue) -> None:
    await rules.suppress(queue, 1, [rules.member(ANN, ""), rules.member(BOB, "s")])
    assert await verdicts(queue, ask(ANN, BOB, CAT), ask(ANN, BOB, CAT, sender="t")) == ["ss.", "s.."]
    await rules.release(queue, 1, [rules.member(ANN, "")])
    assert await verdicts(queue, ask(ANN, BOB, CAT)) == [".s."]


async def test_consent_is_asked_only_where_it_is_needed(queue: Queue) -> None:
    await rules.grant(queue, 1, [ANN])
    assert await verdicts(queue, ask(ANN, BOB, consent=True), ask(ANN, BOB)) == [".n", ".."]
    await rules.withdraw(queue, 1, [ANN])
    assert await verdicts(queue, ask(ANN, consent=True)) == ["n"]


async def test_a_suppression_outweighs_a_consent(queue: Queue) -> None:
    await rules.grant(queue, 1, [ANN])
    await rules.suppress(queue, 1, [rules.member(ANN, "")])
    assert await verdicts(queue, ask(ANN, consent=True)) == ["s"]


async def test_the_same_text_counts_once_and_can_be_given_back(queue: Queue) -> None:
    assert await verdicts(queue, ask(ANN, cap=1, tokens=[b"m1"])) == ["."]
    assert await verdicts(queue, ask(ANN, cap=1, tokens=[b"m1"])) == ["."], "its second attempt"
    assert await verdicts(queue, ask(ANN, cap=1, tokens=[b"m2"])) == ["c"]
    await rules.uncap(queue, 1, [(ANN, b"m1")])
    assert await verdicts(queue, ask(ANN, cap=1, tokens=[b"m2"])) == ["."]


async def test_one_parcel_with_a_person_twice_counts_both(queue: Queue) -> None:
    assert await verdicts(queue, ask(ANN, ANN, ANN, cap=2, tokens=[b"1", b"2", b"3"])) == ["..c"]


async def test_many_at_once_never_pass_the_cap(queue: Queue) -> None:
    asked = [ask(ANN, cap=3, tokens=[b"m%d" % n]) for n in range(50)]
    answers = await asyncio.gather(*(verdicts(queue, one) for one in asked))
    assert sum(one == ["."] for one in answers) == 3


async def test_a_rebuilt_history_counts(queue: Queue) -> None:
    now_ms = int((await queue.client.time())[0]) * 1000
    await rules.remember_caps(queue, [(1, ANN, b"m1", now_ms), (1, ANN, b"m0", now_ms - 61_000)], 60_000)
    assert await verdicts(queue, ask(ANN, cap=2, tokens=[b"m2"])) == ["."]
    assert await verdicts(queue, ask(ANN, cap=2, tokens=[b"m3"])) == ["c"]
