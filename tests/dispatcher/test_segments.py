"""Texts of several segments: one receipt each, one state for all, and only what was refused goes again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.message import Category, State
from gateways.base import Receipt

if TYPE_CHECKING:
    from tests.dispatcher.conftest import MakeWorld, Smsc, World

LONG = "x" * 400  # three segments of 153, 153 and 94
TO = "+14152000001"


async def test_a_long_text_leaves_as_its_parts_and_ends_when_all_have_their_receipt(world: World) -> None:
    local = await world.start()
    await world.smsc.change(lost=1.0)
    (one,) = await world.accept([TO], body=LONG)
    await world.until_state(one, State.submitted)
    parts = await world.smsc.ledger()
    assert [(p["part"]["index"], p["part"]["total"]) for p in parts] == [(0, 3), (1, 3), (2, 3)] or [
        (p["part"]["index"], p["part"]["total"]) for p in parts
    ] == [(1, 3), (2, 3), (3, 3)]
    assert len({p["part"]["reference"] for p in parts}) == 1
    assert "".join(p["text"] for p in parts) == LONG
    for n, part in enumerate(parts):
        assert (await world.standing(one)).state == State.submitted, n
        receipt = Receipt(part["message_id"], "delivered", "DELIVRD", to=part["to"])
        await local.process.hub.receipts("smsc", [receipt, receipt])
    assert (await world.standing(one)).state == State.delivered
    await world.check_books()


async def test_a_text_is_as_good_as_its_worst_segment(world: World) -> None:
    local = await world.start()
    await world.smsc.change(lost=1.0)
    (one,) = await world.accept([TO], body=LONG)
    await world.until_state(one, State.submitted)
    parts = await world.smsc.ledger()
    words = [("delivered", "DELIVRD"), ("undelivered", "UNDELIV"), ("delivered", "DELIVRD")]
    await local.process.hub.receipts(
        "smsc",
        [
            Receipt(part["message_id"], state, raw, to=part["to"])
            for part, (state, raw) in zip(parts, words, strict=True)
        ],
    )
    assert (await world.standing(one)).state == State.undelivered
    await world.check_books()


async def test_only_the_refused_segment_goes_again(world: World) -> None:
    """One segment a second at the carrier: each refused one comes again, the others never."""
    await world.start()
    await world.smsc.change(rate=2)
    (one,) = await world.accept([TO], body=LONG, category=Category.transactional)
    await world.until_state(one, State.delivered)
    taken = [entry["part"]["index"] for entry in await world.smsc.ledger() if entry["status"] == 0]
    refused = [entry["part"]["index"] for entry in await world.smsc.ledger() if entry["status"]]
    assert len(taken) == 3
    assert len(set(taken)) == 3, "no segment was taken twice"
    assert refused, "the carrier did refuse one"
    await world.check_books()


async def test_a_text_longer_than_the_whole_window_goes_in_turns(make_world: MakeWorld, smsc: Smsc) -> None:
    world = await make_world(smsc, window=2)
    await world.start()
    (one,) = await world.accept([TO], body=LONG, category=Category.transactional)
    await world.until_state(one, State.delivered)
    assert len(await world.smsc.ledger()) == 3
    await world.check_books()


async def test_a_cut_in_mid_text_is_unknown_and_never_repeated(world: World) -> None:
    await world.start()
    await world.smsc.change(cut_at=2, lost=1.0)
    (one,) = await world.accept([TO], body=LONG)
    await world.until_state(one, State.unknown)
    assert len(await world.smsc.ledger()) == 2
    await world.check_books()


async def test_receipts_of_segments_that_were_never_answered_find_their_text(
    make_world: MakeWorld, smsc: Smsc
) -> None:
    world = await make_world(smsc, response_timeout_s=0.3)
    await world.start()
    (one,) = await world.accept(["+12025550195"], body=LONG)
    await world.until_state(one, State.unknown)
    await world.until_state(one, State.delivered)
    await world.check_books()


async def test_one_receipt_may_speak_of_the_whole_text(make_world: MakeWorld, smsc: Smsc) -> None:
    world = await make_world(smsc, receipts_per="message")
    await world.start()
    await smsc.change(per="message")
    long, short = await world.accept([TO], body=LONG) + await world.accept(["+14152000002"])
    await world.until_state(long, State.delivered)
    await world.until_state(short, State.delivered)
    assert (await smsc.stats())["receipts_acknowledged"] == 2
    await world.check_books()


async def test_the_one_receipt_of_a_text_that_was_never_answered_ends_it(
    make_world: MakeWorld, smsc: Smsc
) -> None:
    world = await make_world(smsc, receipts_per="message", response_timeout_s=0.3)
    await world.start()
    await smsc.change(per="message")
    (one,) = await world.accept(["+12025550195"], body=LONG)
    await world.until_state(one, State.unknown)
    await world.until_state(one, State.delivered)
    await world.check_books()
