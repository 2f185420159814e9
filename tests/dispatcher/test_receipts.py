"""Receipts: early, late, doubled, lost, of ids that nobody knows; and what is never sent again for want of one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
import pytest

from app.domain import retry
from app.domain.message import Category, State
from app.domain.recipient import to_check
from app.store import config, receipts, sweeps
from app.store.audit import By
from app.store.receipts import Slip
from app.store.webhooks import Publisher
from gateways.base import Accepted, Receipt

if TYPE_CHECKING:
    from tests.dispatcher.conftest import MakeWorld, Smsc, World

SILENT = "5550195"  # taken, never answered; its receipt comes, with an id that we never saw
NO_RECEIPT = "5550194"


async def taken(world: World, n: int) -> bool:
    return len(await world.smsc.ledger()) >= n


async def refused(world: World) -> bool:
    return (await world.smsc.stats())["deliveries_refused"] > 0


async def close_unconfirmed(world: World, horizon_s: float = 0.0) -> int:
    async with world.database.driver() as driver:
        closed, _ = await sweeps.close_unconfirmed(driver, time.time() + 1, horizon_s, Publisher())
    return closed


async def test_a_marketing_text_of_unknown_fate_is_never_sent_again_and_its_receipt_resolves_it(
    make_world: MakeWorld, smsc: Smsc
) -> None:
    world = await make_world(smsc, response_timeout_s=0.3)
    await world.start()
    (one,) = await world.accept([f"+1202{SILENT}"])
    standing = await world.until_state(one, State.unknown)
    assert standing.reason == "timeout"
    await world.check_books()
    await world.until_state(one, State.delivered)  # parked until the attempt was known to be unknown
    assert (await world.smsc.taken())[f"+1202{SILENT}"] == 1
    assert await world.value("SELECT count(*) FROM parked_receipts") == 0
    await world.check_books()


async def test_without_a_receipt_unknown_and_submitted_end_unconfirmed_and_a_late_receipt_corrects(
    make_world: MakeWorld, smsc: Smsc
) -> None:
    world = await make_world(smsc, response_timeout_s=0.3)
    local = await world.start()
    await world.smsc.change(lost=1.0)
    (submitted,) = await world.accept([f"+1202{NO_RECEIPT}"])
    (unknown,) = await world.accept([f"+1305{SILENT}"], category=Category.transactional)
    await world.until_state(submitted, State.submitted)
    await world.until_state(unknown, State.unknown)
    assert await close_unconfirmed(world, horizon_s=3600) == 0, "not before the horizon"
    assert await close_unconfirmed(world) == 2
    assert await close_unconfirmed(world) == 0
    await world.check_books()
    (entry,) = await world.smsc.ledger(f"1202{NO_RECEIPT}")
    late = Receipt(entry["message_id"], "delivered", "DELIVRD", to=entry["to"])
    for _ in range(2):
        await local.process.hub.receipts("smsc", [late])
    assert (await world.standing(submitted)).state == State.delivered
    assert (await world.standing(unknown)).state == State.unconfirmed
    undone = Receipt(entry["message_id"], "undelivered", "UNDELIV", to=entry["to"])
    await local.process.hub.receipts("smsc", [undone])
    assert (await world.standing(submitted)).state == State.delivered, "final, so it stays"
    await world.check_books()


async def test_an_otp_of_unknown_fate_goes_again_inside_its_validity(
    make_world: MakeWorld, smsc: Smsc
) -> None:
    world = await make_world(smsc, response_timeout_s=0.3)
    await world.start()
    await world.smsc.change(drop_answers=1.0, lost=1.0)
    (otp,) = await world.accept(["+14152000001"], category=Category.otp, valid_s=60)
    (short,) = await world.accept(["+14152000002"], category=Category.otp, valid_s=4)
    (allowed,) = await world.accept(
        ["+14152000003"], category=Category.transactional, retry_unknown=True, valid_s=60
    )
    (plain,) = await world.accept(["+14152000004"], category=Category.transactional, valid_s=60)
    (promo,) = await world.accept(["+14152000005"], retry_unknown=True, valid_s=60)
    for one in (short, plain, promo):
        await world.until_state(one, State.unknown)
    for one in (otp, allowed):
        await world.until_state(one, State.deferred)
    await world.smsc.change(drop_answers=0.0)
    for one in (otp, allowed):
        await world.until_state(one, State.submitted)
    assert await world.smsc.taken() == {
        "+14152000001": 2,
        "+14152000002": 1,
        "+14152000003": 2,
        "+14152000004": 1,
        "+14152000005": 1,
    }
    await world.check_books()


async def test_a_receipt_before_the_second_try_calls_it_off(make_world: MakeWorld, smsc: Smsc) -> None:
    world = await make_world(smsc, response_timeout_s=0.2)
    await world.start()
    ids = await world.accept([f"+1202{SILENT}", "+14152000001"], category=Category.otp, valid_s=60)
    await world.until_states(delivered=2)
    assert await world.value("SELECT count(*) FROM parcels") == 0
    kinds = await world.fetch(
        "SELECT kind FROM attempts WHERE message_id = $1 ORDER BY attempt", UUID(bytes=ids[0])
    )
    assert [row[0] for row in kinds] == [4, 10], "delivered took the second attempt's place"
    assert (await world.smsc.taken())[f"+1202{SILENT}"] == 1
    await world.check_books()


async def test_a_receipt_of_the_first_try_while_the_second_is_under_way_ends_the_text(
    make_world: MakeWorld, smsc: Smsc, until: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the second try's answer is, and whether one comes: delivered once, counted once, no third try."""
    monkeypatch.setattr(retry, "UNKNOWN_DELAY_S", 0.5)
    world = await make_world(smsc, response_timeout_s=0.5)
    local = await world.start()
    await world.smsc.change(drop_answers=1.0, lost=1.0)
    accepted, refused_now, refused_for_good, unanswered = to = [
        "+14152000001", "+14152000002", "+14152000003", f"+1202{SILENT}",
    ]  # fmt: skip
    await world.accept(to, category=Category.otp, valid_s=120)
    await until(lambda: _outcomes(world, 4))
    async with world.database.driver() as driver, driver.transaction():
        # The second tries are under way for as long as this stands: no outcome is written.
        await driver.execute("LOCK TABLE outcomes IN SHARE ROW EXCLUSIVE MODE")
        await world.smsc.change(
            drop_answers=0.0,
            refuse={refused_now[1:]: "ESME_RTHROTTLED", refused_for_good[1:]: "ESME_RINVDSTADR"},
        )
        await until(lambda: taken(world, 8))
        for number in to:
            slip = Slip(1, number, "delivered", "DELIVRD", "", None, None, to_check(number), time.time())
            await world.execute(
                "INSERT INTO parked_receipts (gateway_id, receipt, tries, next_at, at)"
                " VALUES (1, $1, 0, now(), now())",
                msgspec.msgpack.encode(slip),
            )
        await local.process.receiver.retry_parked()
        await world.until_states(delivered=4)

    await until(lambda: _outcomes(world, 8))
    await until(lambda: _no_parcels(world))
    assert await world.states() == {State.delivered: 4}
    tries = Counter(f"+{entry['to']}" for entry in await world.smsc.ledger())
    assert tries == {accepted: 2, refused_now: 2, refused_for_good: 2, unanswered: 2}
    assert await world.value("SELECT count(*) FROM finals") == 4
    await world.check_books()


async def _outcomes(world: World, n: int) -> bool:
    return await world.value("SELECT count(*) FROM outcomes") == n


async def _no_parcels(world: World) -> bool:
    return await world.value("SELECT count(*) FROM parcels") == 0


async def test_a_receipt_of_nobody_stays_parked(world: World, until: Callable) -> None:
    local = await world.start()
    strange = Receipt("4711", "delivered", "DELIVRD", to="4915112345678")
    await local.process.hub.receipts("smsc", [strange])
    await world.execute("UPDATE parked_receipts SET next_at = now()")

    await until(lambda: world.value("SELECT tries FROM parked_receipts"))
    (row,) = await world.fetch("SELECT receipt, next_at > now() AS later FROM parked_receipts")
    assert row["later"]
    assert msgspec.msgpack.decode(row["receipt"], type=Slip).gateway_message_id == "4711"
    assert local.process.metrics.receipts == {("smsc", "parked"): 1}


async def test_several_candidates_are_no_match(world: World, until: Callable) -> None:
    """Two open texts of unknown fate to one person: a receipt of a strange id could be of either."""
    local = await world.start()
    await world.smsc.change(drop_answers=1.0, lost=1.0)
    await world.accept(["+14152000001"])
    await world.accept(["+14152000001"])
    await until(lambda: taken(world, 2))
    await world.smsc.cut()
    await world.until_states(unknown=2)
    await local.process.hub.receipts("smsc", [Receipt("4711", "delivered", "DELIVRD", to="14152000001")])
    await world.execute("UPDATE parked_receipts SET next_at = now()")
    assert await local.process.receiver.retry_parked() == 0
    assert await world.states() == {State.unknown: 2}


async def test_a_reused_id_is_told_apart_by_its_recipient(world: World) -> None:
    local = await world.start()
    await world.smsc.change(lost=1.0)
    first, second = await world.accept(["+14152000001", "+14152000002"])
    await world.until_states(submitted=2)
    await world.execute("UPDATE outcomes SET gateway_message_id = '77'")
    await local.process.hub.receipts("smsc", [Receipt("77", "delivered", "DELIVRD", to="14152000002")])
    assert (await world.standing(second)).state == State.delivered
    assert (await world.standing(first)).state == State.submitted
    assert to_check("+14152000001") != to_check("14152000002")


async def test_a_hurt_carrier_link_repeats_what_could_not_be_stored(world: World, until: Callable) -> None:
    """PostgreSQL refuses: the receipt is not acknowledged, comes again, and counts once."""
    await world.start()
    await world.smsc.change(receipt_delay_s=0.3, redeliver_s=0.1)
    await world.execute("ALTER TABLE receipts RENAME TO receipts_away")
    (one,) = await world.accept(["+14152000001"])
    await world.until_state(one, State.submitted)

    await until(lambda: refused(world))
    await world.execute("ALTER TABLE receipts_away RENAME TO receipts")
    await world.until_state(one, State.delivered)
    await world.check_books()


async def test_a_parked_receipt_that_cannot_be_read_or_stored_holds_back_no_other(world: World) -> None:
    local = await world.start()
    await world.smsc.change(lost=1.0)
    (one,) = await world.accept(["+14152000001"])
    await world.until_state(one, State.submitted)
    name = await world.value("SELECT gateway_message_id FROM outcomes WHERE gateway_message_id IS NOT NULL")
    check = to_check("+14152000001")

    def slip(name: str, *, check: int = check, done_at: float | None = None) -> bytes:
        return msgspec.msgpack.encode(
            Slip(1, name, "delivered", "DELIVRD\0", "", done_at, None, check, time.time())
        )

    parked = (b"\xc1", slip("\0"), slip("4711", check=1 << 40), slip(name, done_at=1e18))
    for receipt in parked:
        await world.execute(
            "INSERT INTO parked_receipts (gateway_id, receipt, tries, next_at, at)"
            " VALUES (1, $1, 0, now() - interval '1 s', now())",
            receipt,
        )
    await local.process.receiver.retry_parked()
    await world.until_state(one, State.delivered)
    await world.execute("UPDATE parked_receipts SET at = now() - interval '80 hours'")
    async with world.database.driver() as driver:
        assert await receipts.drop_strays(driver, time.time()) == 3
    raws = await world.fetch("SELECT raw FROM receipts ORDER BY raw")
    assert [row[0] for row in raws] == ["DELIVRD", "DELIVRD", "DELIVRD", "unreadable"]


async def test_an_answer_that_cannot_be_stored_holds_back_no_other(world: World) -> None:
    local = await world.start()
    await world.smsc.change(lost=1.0)
    recorder = local.process.dispatcher.recorder
    took = recorder.outcomes

    def outcomes(batch):  # as a gateway that cleans nothing would report
        took([(s, i, Accepted(f"\0{s.to}" if s.to.endswith("2") else s.to)) for s, i, _ in batch])

    recorder.outcomes = outcomes  # type: ignore[method-assign]
    await world.accept(["+14152000001", "+14152000002", "+14152000003"])
    await world.until_states(submitted=3)
    rows = await world.fetch("SELECT gateway_message_id FROM outcomes ORDER BY 1")
    assert [row[0].replace("\0", "") for row in rows] == ["+14152000001", "+14152000002", "+14152000003"]
    await world.check_books()


async def test_gateways_of_one_account_get_each_others_receipts(world: World, until: Callable) -> None:
    """The SMSC spreads an account's receipts over its binds, whichever gateway they belong to."""
    await world.gateway("twin")
    async with world.database.begin() as connection:
        route = {"to": "*", "gateways": ["twin"], "tenant_id": 2, "position": 1}
        await config.create(connection, config.ROUTE, route, By("tests", "a test"))
    local = await world.start()
    binds = local.process.fleet.binds
    await until(lambda: len(binds()) == 2 and all(bind.state == "bound" for bind in binds()))
    await world.smsc.change(deliver_window=5)
    people = [f"+1415200{n:04}" for n in range(40)]
    await world.accept(people)
    await world.accept(people, tenant=2)
    await world.until_final()
    assert set(await world.states()) == {State.delivered}
    ((both, crossed),) = await world.fetch(
        "SELECT count(DISTINCT o.gateway_id), count(*) FILTER (WHERE r.gateway_id <> o.gateway_id)"
        " FROM receipts r JOIN outcomes o USING (message_id)"
    )
    assert both == 2
    assert crossed > 0, "some came by the other gateway"
    await world.check_books()
