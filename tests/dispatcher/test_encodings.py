"""Gateways that cut the same text in different ways: what one refused another takes, and halves are never mixed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from app.domain.message import Category, State
from app.store import config
from app.store.audit import By
from gateways.sandbox import Behaviour, Sandbox
from gateways.sandbox import Settings as SandboxSettings

if TYPE_CHECKING:
    from tests.dispatcher.conftest import Local, MakeWorld, Smsc, World

BY = By("tests", "a test")
LONG = "abcde" * 91  # 455: three segments of 153 septets, four of 134 octets
TO = "+14152000001"
SHIFTED = "ş" * 290  # five segments in UCS-2, two with Turkish's locking shift table


@pytest.fixture
async def other(smsc: Smsc) -> AsyncIterator[Smsc]:
    """A second SMSC."""
    sandbox = Sandbox(SandboxSettings(port=0, control_port=0, behaviour=Behaviour(receipt_delay_s=0.05)))
    await sandbox.start()
    assert sandbox.control_port is not None
    yield type(smsc)(sandbox.port, sandbox.control_port)
    await sandbox.stop()


async def second_gateway(world: World, other: Smsc, **options: object) -> None:
    """`other`, by another SMSC, behind `smsc` in the route."""
    url = world.url(**options).replace(f":{world.smsc.port}", f":{other.port}")
    async with world.database.begin() as connection:
        await config.create(connection, config.GATEWAY, {"name": "other", "url": url}, BY)
        values = {"to": "*", "gateways": ["smsc", "other"], "position": 1}
        await config.create(connection, config.ROUTE, values, BY)


async def both_bound(local: Local, until: Callable) -> None:
    await until(lambda: all(local.process.fleet.usable(name) for name in ("smsc", "other")))


async def segments_of(world: World, message_id: bytes) -> list[tuple[int, int, int, int]]:
    """(attempt, segment, segments, kind) of each outcome."""
    rows = await world.fetch(
        "SELECT attempt, segment, segments, kind FROM outcomes WHERE message_id = $1 ORDER BY attempt, segment",
        UUID(bytes=message_id),
    )
    return [tuple(row) for row in rows]


async def taken_segments(world: World, message_id: bytes) -> list[tuple[int, int]]:
    """(segment, segments) of what a carrier took."""
    return [(s, total) for _, s, total, kind in await segments_of(world, message_id) if kind == 1]


async def half_taken(world: World, message_id: bytes, until: Callable) -> None:
    """Until each of the three segments has its first outcome."""

    async def done() -> bool:
        return len(await segments_of(world, message_id)) >= 3

    await until(done)


async def test_what_was_refused_whole_goes_whole_by_a_gateway_that_cuts_it_otherwise(
    make_world: MakeWorld, smsc: Smsc, other: Smsc, until: Callable
) -> None:
    world = await make_world(smsc)
    await second_gateway(world, other, encodings="latin-1,ucs2")
    await smsc.change(error=1.0, error_status="ESME_RTHROTTLED")
    await both_bound(await world.start(), until)
    (one,) = await world.accept([TO], body=LONG, category=Category.transactional)
    await world.until_state(one, State.delivered)
    parts = [p for p in await other.ledger() if p["status"] == 0]
    assert [p["data_coding"] for p in parts] == [3] * 4
    assert sorted(p["part"]["index"] for p in parts) == [1, 2, 3, 4]
    assert "".join(p["text"] for p in sorted(parts, key=lambda p: p["part"]["index"])) == LONG
    found = await segments_of(world, one)
    assert {(total, kind) for attempt, _, total, kind in found if attempt < found[-1][0]} >= {(3, 3)}
    assert await taken_segments(world, one) == [(0, 4), (1, 4), (2, 4), (3, 4)]
    await world.check_books()


async def test_the_rest_of_a_text_never_goes_by_a_gateway_that_cuts_it_otherwise(
    make_world: MakeWorld, smsc: Smsc, other: Smsc, until: Callable
) -> None:
    world = await make_world(smsc)
    await second_gateway(world, other, encodings="latin-1,ucs2")
    await smsc.change(rate=2)
    await both_bound(await world.start(), until)
    (one,) = await world.accept([TO], body=LONG, category=Category.transactional)
    await world.until_state(one, State.delivered)
    taken = [p["part"]["index"] for p in await smsc.ledger() if p["status"] == 0]
    assert sorted(taken) == [1, 2, 3], "each once, and all by the first"
    assert await other.ledger() == []
    await world.check_books()


async def test_it_does_go_by_one_that_cuts_it_alike(
    make_world: MakeWorld, smsc: Smsc, other: Smsc, until: Callable
) -> None:
    world = await make_world(smsc)
    await second_gateway(world, other)
    await smsc.change(rate=2)
    await both_bound(await world.start(), until)
    (one,) = await world.accept([TO], body=LONG, category=Category.transactional)
    await half_taken(world, one, until)
    await world.change(config.GATEWAY, {"name": "smsc"}, enabled=False)
    await world.until_state(one, State.delivered)
    taken = [p["part"] for smsc_ in (smsc, other) for p in await smsc_.ledger() if p["status"] == 0]
    assert sorted(part["index"] for part in taken) == [1, 2, 3]
    assert len({part["reference"] for part in taken}) == 1
    await world.check_books()


async def test_a_half_that_fits_no_gateway_any_more_fails_and_is_not_sent(
    make_world: MakeWorld, smsc: Smsc, until: Callable
) -> None:
    world = await make_world(smsc)
    await world.start()
    await smsc.change(rate=2)
    (one,) = await world.accept([TO], body=LONG, category=Category.transactional)
    await half_taken(world, one, until)
    await world.change(config.GATEWAY, {"name": "smsc"}, url=world.url(concat="udh16"))
    await world.until_state(one, State.failed)
    assert (await world.standing(one)).reason == "half_sent"
    taken = [p for p in await smsc.ledger() if p["status"] == 0]
    assert len(taken) == 2
    await world.check_books()


async def test_a_payload_is_one_pdu_whose_outcome_and_receipt_are_those_of_all_segments(
    make_world: MakeWorld, smsc: Smsc
) -> None:
    world = await make_world(smsc, concat="payload")
    await world.start()
    (one,) = await world.accept([TO], body=LONG)
    await world.until_state(one, State.delivered)
    (whole,) = await smsc.ledger()
    assert (whole["text"], whole["part"]) == (LONG, None)
    assert await taken_segments(world, one) == [(0, 3), (1, 3), (2, 3)]
    await world.check_books()


async def test_shift_tables_change_the_segments_and_all_follows(make_world: MakeWorld, smsc: Smsc) -> None:
    world = await make_world(smsc, shift_tables="always")
    await world.region("US", rate=2)  # the fifth would have waited for two seconds
    await world.start()
    (one,) = await world.accept([TO], body=SHIFTED)
    await world.until_state(one, State.delivered)
    parts = await smsc.ledger()
    assert [(p["data_coding"], p["part"]["total"]) for p in parts] == [(0, 2), (0, 2)]
    assert "".join(p["text"] for p in parts) == SHIFTED
    assert await taken_segments(world, one) == [(0, 2), (1, 2)]
    await world.check_books()


async def test_what_its_gateway_cuts_into_more_than_was_allowed_fails_and_is_not_sent(
    make_world: MakeWorld, smsc: Smsc
) -> None:
    world = await make_world(smsc, encodings="ucs2")
    await world.start()
    (long,) = await world.accept([TO], category=Category.transactional, body=LONG, max_segments=6)
    (whole,) = await world.accept([TO], category=Category.transactional, body=LONG, max_segments=7)
    await world.until_final()
    standing = await world.standing(long)
    assert (standing.state, standing.reason) == (State.failed, "too_many_segments")
    assert (await world.standing(whole)).state == State.delivered
    assert len(await smsc.ledger()) == 7
    await world.check_books()


async def test_a_texts_metadata_reaches_its_gateway(make_world: MakeWorld, smsc: Smsc) -> None:
    world = await make_world(smsc)
    tlvs = {"0x1401": "text:{metadata.dlt}"}
    await world.change(config.GATEWAY, {"name": "smsc"}, settings={"tlvs": tlvs})
    await world.start()
    (good,) = await world.accept([TO], category=Category.transactional, metadata={"dlt": "1107"})
    (bad,) = await world.accept([TO], category=Category.transactional, metadata={"dlt": "ลาว"})
    await world.until_final()
    assert (await world.standing(good)).state == State.delivered
    standing = await world.standing(bad)
    assert (standing.state, standing.reason, standing.raw) == (
        State.rejected,
        "content_rejected",
        "metadata not writable",
    )


@pytest.mark.soak  # its short form: tests/store/test_totals.py
async def test_a_dispatcher_that_dies_leaves_no_segment_that_never_was(
    make_world: MakeWorld, smsc_process: Smsc, until: Callable
) -> None:
    """Intake counted five; two went. Its successor counts the two, so that their receipts end the text."""
    world = await make_world(smsc_process, shift_tables="always")
    await smsc_process.change(answer_delay_s=3.0, receipt_delay_s=5.0)
    child = world.spawn()
    (one,) = await world.accept([TO], body=SHIFTED)

    async def left() -> bool:
        return len(await smsc_process.ledger()) == 2

    await until(left)
    child.kill()
    await smsc_process.change(answer_delay_s=0.0, receipt_delay_s=0.05)
    await world.start()
    await world.until_state(one, State.unknown)
    assert {(segment, total) for _, segment, total, _ in await segments_of(world, one)} == {(0, 2), (1, 2)}
    await world.until_state(one, State.delivered)
    await world.check_books()
