"""Texts that a carrier is asked to take back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from app.domain.message import Category, State
from app.store import recalls
from gateways.base import Receipt

if TYPE_CHECKING:
    from tests.dispatcher.conftest import Local, MakeWorld, Smsc, World

TO = "+14152000001"


async def submitted(world: World, **options: object) -> tuple[Local, bytes]:
    local = await world.start()
    (one,) = await world.accept([TO], category=Category.transactional, **options)
    await world.until_state(one, State.submitted)
    return local, one


async def ask(world: World, message_id: bytes) -> None:
    """As the API does."""
    async with world.database.driver() as driver:
        gateway_id = await driver.fetchval("SELECT id FROM gateways WHERE name = 'smsc'")
        await recalls.ask(driver, message_id, gateway_id, time.time())


async def until_answer(world: World, until: Callable, message_id: bytes) -> str:
    async def there() -> str | None:
        async with world.database.driver() as driver:
            answer = await recalls.answer_of(driver, message_id)
        return None if answer == "asked" else answer

    return await until(there)


async def test_what_the_carrier_takes_back_is_cancelled_once(
    make_world: MakeWorld, smsc: Smsc, until: Callable
) -> None:
    world = await make_world(smsc, cancel_sm="true")
    await smsc.change(receipt_delay_s=2.0)
    _, one = await submitted(world)
    await ask(world, one)
    assert await until_answer(world, until, one) == "taken_back"
    standing = await world.standing(one)
    assert (standing.state, standing.reason, standing.raw) == (State.cancelled, "taken_back", "cancel_sm")
    await world.check_books()

    async def receipted() -> bool:
        return (await smsc.stats())["receipts_acknowledged"] == 1

    await until(receipted, "the carrier's DELETED")
    await ask(world, one)
    assert (await world.standing(one)).state == State.cancelled
    assert (await world.fetch("SELECT count(*) FROM receipts"))[0][0] == 2
    await world.check_books()


async def test_a_long_text_is_asked_for_segment_by_segment(
    make_world: MakeWorld, smsc: Smsc, until: Callable
) -> None:
    world = await make_world(smsc, cancel_sm="true")
    await smsc.change(receipt_delay_s=2.0)
    _, one = await submitted(world, body="a" * 400)
    await ask(world, one)
    assert await until_answer(world, until, one) == "taken_back"
    assert (await world.standing(one)).state == State.cancelled
    await world.check_books()


async def test_a_text_of_which_a_part_was_delivered_is_not_called_cancelled(
    make_world: MakeWorld, smsc: Smsc, until: Callable
) -> None:
    world = await make_world(smsc, cancel_sm="true")
    await smsc.change(receipt_delay_s=2.0)
    local, one = await submitted(world, body="a" * 200)
    entry = (await smsc.ledger())[0]
    receipt = Receipt(entry["message_id"], "delivered", "DELIVRD", to=entry["to"])
    await local.process.hub.receipts("smsc", [receipt])
    await ask(world, one)
    assert await until_answer(world, until, one) == "taken_back", "what was left to be asked for"
    assert (await world.standing(one)).state == State.undelivered
    await world.check_books()


async def test_a_refusal_changes_nothing(make_world: MakeWorld, smsc: Smsc, until: Callable) -> None:
    world = await make_world(smsc, cancel_sm="true")
    await smsc.change(lost=1.0)
    local, one = await submitted(world)
    await ask(world, one)
    assert await until_answer(world, until, one) == "refused"
    assert (await world.standing(one)).state == State.submitted
    (entry,) = await smsc.ledger()
    for _ in range(2):
        deleted = Receipt(entry["message_id"], "deleted", "DELETED", to=entry["to"])
        await local.process.hub.receipts("smsc", [deleted])
    standing = await world.standing(one)
    assert (standing.state, standing.reason) == (State.cancelled, "taken_back"), "its answer was lost, then"
    await world.check_books()


async def test_a_carrier_without_cancel_sm_is_not_asked(world: World, smsc: Smsc, until: Callable) -> None:
    await smsc.change(lost=1.0)
    _, one = await submitted(world)
    await ask(world, one)
    other = (await world.accept(["+14152000002"]))[0]
    await world.until_state(other, State.submitted)
    async with world.database.driver() as driver:
        assert await recalls.answer_of(driver, one) == "asked"
