"""Texts without a receipt: their carrier is asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from app.domain.message import Category, State
from app.store import questions
from dispatcher import questions as asking

if TYPE_CHECKING:
    from tests.dispatcher.conftest import MakeWorld, Smsc

TO = ("+14152000001", "+14152000002", "+14152000003")
OPTIONS = {"query_sm": "true", "query_after_s": "0.5"}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "EVERY_S", 0.1)


@pytest.mark.parametrize(("body", "told"), [("hello", 1), ("a" * 400, 3)])
async def test_what_the_carrier_tells_ends_a_text_once(
    make_world: MakeWorld, smsc: Smsc, until: Callable, body: str, told: int
) -> None:
    world = await make_world(smsc, **OPTIONS)
    await smsc.change(lost=1.0, receipt_delay_s=0.1)
    await world.start()
    (one,) = await world.accept(TO[:1], category=Category.transactional, body=body)
    await world.until_final()
    standing = await world.standing(one)
    assert (standing.state, standing.reason) == (State.delivered, None)
    assert [row["raw"] for row in await world.fetch("SELECT raw FROM receipts")] == [
        "query_sm DELIVERED"
    ] * told
    await world.check_books()


async def test_the_states_of_a_question_are_those_of_a_receipt(
    make_world: MakeWorld, smsc: Smsc, until: Callable
) -> None:
    world = await make_world(smsc, **OPTIONS)
    await smsc.change(lost=1.0, receipt_delay_s=0.1, mix={"UNDELIV": 1.0})
    await world.start()
    (one,) = await world.accept(TO[:1], category=Category.transactional)
    await world.until_final()
    standing = await world.standing(one)
    assert (standing.state, standing.raw) == (State.undelivered, "query_sm UNDELIVERABLE")


async def test_what_the_carrier_does_not_tell_stays_as_it_is_and_is_asked_less_and_less(
    make_world: MakeWorld, smsc: Smsc, until: Callable
) -> None:
    world = await make_world(smsc, **OPTIONS)
    await smsc.change(receipt_delay_s=3600)  # ENROUTE until then
    await world.start()
    (one,) = await world.accept(TO[:1], category=Category.transactional)

    async def asked() -> int:
        return (await smsc.stats())["questions"]

    async def twice() -> bool:
        return await asked() >= 2

    began = time.monotonic()
    await until(twice, "it is asked again")
    waited_s = time.monotonic() - began
    assert await asked() <= 2 + waited_s / 0.5, "at 0.5 s, 1 s, 2 s: not each round"
    assert (await world.standing(one)).state == State.submitted
    assert not await world.fetch("SELECT FROM receipts")


async def test_without_the_option_nobody_is_asked(make_world: MakeWorld, smsc: Smsc, until: Callable) -> None:
    world = await make_world(smsc, query_sm="true")
    await smsc.change(lost=1.0)
    await world.start()
    (one,) = await world.accept(TO[:1], category=Category.transactional)
    await world.until_state(one, State.submitted)
    await asyncio.sleep(0.5)
    assert (await smsc.stats())["questions"] == 0


async def test_each_is_claimed_once_a_time_whoever_asks(make_world: MakeWorld, smsc: Smsc) -> None:
    world = await make_world(smsc)
    await smsc.change(lost=1.0)
    local = await world.start()
    made = await world.accept(TO, category=Category.transactional)
    for one in made:
        await world.until_state(one, State.submitted)
    await local.stop()
    gateway_id = await world.value("SELECT id FROM gateways WHERE name = 'smsc'")

    async def claimed(later_s: float, limit: int = 50) -> list[bytes]:
        async with world.database.driver() as driver:
            found = await questions.claim(driver, gateway_id, 600.0, time.time() + later_s, limit)
        return [one.message_id for one in found]

    assert await claimed(500) == []
    first = await claimed(610, 2)
    both = await asyncio.gather(*(claimed(611) for _ in range(4)))
    assert sorted(first + [one for found in both for one in found]) == sorted(made)
    assert await claimed(620) == []
    assert sorted(await claimed(1300)) == sorted(made)
    assert await claimed(2300) == []
