"""A tenant's own limits, shared budgets, do-not-call lists, and what a carrier tells: at hand-over."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from aiohttp import web

from app import erasure, rules
from app.domain.message import Category, State
from app.domain.recipient import hash_of, to_check
from app.store import config, receipts, registries, tenant_rules
from app.store.audit import By
from app.store.receipts import Slip
from gateways.base import Receipt
from tests.dispatcher.conftest import until

if TYPE_CHECKING:
    from tests.dispatcher.conftest import World

ANN, BOB = "+14152000001", "+14152000002"
BY = By("tests", "a test")


def owner(world: World, tenant: int = 1) -> rules.Owner:
    return rules.Owner(tenant, world.keys[tenant])


async def setting(world: World, tenant: int = 1, **values: Any) -> None:
    await world.execute(
        "UPDATE tenants SET settings = settings || $2 WHERE id = $1",
        tenant,
        msgspec.json.encode(values).decode(),
    )
    async with world.database.begin() as connection:
        await config.begin(connection)


async def reasons(world: World) -> dict[tuple[str, str | None], int]:
    found: dict[tuple[str, str | None], int] = {}
    for one in (await world.standings()).values():
        key = (one.state.name, one.reason)
        found[key] = found.get(key, 0) + 1
    return found


async def test_a_tenants_cap_and_its_campaigns_hold_beside_the_country(world: World) -> None:
    await setting(world, frequency_cap={"max": 3, "per_s": 3600}, campaign_cap={"max": 1, "per_s": 3600})
    await world.start()
    for campaign in ("a", "a", "b", "c", "d"):
        await world.accept([ANN], campaign=campaign)
    await world.accept([ANN], tenant=2)
    await world.until_states(delivered=4, deferred=2)
    assert (await world.smsc.taken())[ANN] == 4
    found = await reasons(world)
    assert sum(n for (state, why), n in found.items() if state == "deferred" and why == "campaign_cap") >= 1
    assert {why for state, why in found if state == "deferred"} <= {"campaign_cap", "frequency_cap"}
    held = next(m for m, one in (await world.standings()).items() if one.state == State.deferred)
    step = (await world.trace(held))[-1]
    assert step.verdict == "hold"
    assert step.rule.startswith("tenant.")
    assert step.until is not None
    assert 3_500 < step.until.timestamp() - time.time() < 3_700, "until the window has room again"
    await world.check_books()


async def test_a_window_that_grows_counts_the_contacts_of_before_at_once(world: World) -> None:
    three_days_s = 3 * 86_400
    for tenant in (1, 2):
        await world.execute(
            "INSERT INTO cap_events (tenant_id, recipient, message_id, at, contact)"
            " VALUES ($1, $2, gen_random_uuid(), now() - make_interval(secs => $3), true)",
            tenant, int.from_bytes(hash_of(world.keys[tenant], ANN), "big", signed=True), float(three_days_s),
        )  # fmt: skip
    await setting(world, frequency_cap={"max": 2, "per_s": 3_600})
    local = await world.start()
    await world.accept([ANN])
    await world.until_states(delivered=1)
    await setting(world, frequency_cap={"max": 2, "per_s": 7 * 86_400})
    await until(lambda: local.process.dispatcher.desk.tenants[1].longest_s == 7 * 86_400)
    (held,) = await world.accept([ANN])
    await world.accept([ANN], tenant=2)
    await world.accept([BOB])
    await world.until_states(delivered=3, deferred=1)

    async def capped() -> bool:
        step = (await world.trace(held))[-1]
        return (step.rule, step.verdict) == ("tenant.frequency_cap", "hold")

    await until(capped)  # it may have waited for the history first
    step = (await world.trace(held))[-1]
    assert step.until is not None
    assert abs(step.until.timestamp() - time.time() - 4 * 86_400) < 600, (
        "when the oldest one leaves the window"
    )
    await world.check_books()


async def test_the_same_text_again_is_stopped_and_an_otp_is_not(world: World) -> None:
    await setting(world, duplicate_window_s=600)
    await world.start()
    (first,) = await world.accept([ANN], category=Category.transactional, body="Your parcel is here")
    await world.until_final()
    (again,) = await world.accept([ANN], category=Category.marketing, body="Your parcel is here")
    await world.accept([ANN], category=Category.transactional, body="Another text")
    await world.accept([BOB], category=Category.transactional, body="Your parcel is here")
    for _ in range(2):
        await world.accept([ANN], category=Category.otp, body="123456", valid_s=60)
    await world.until_final()
    assert (await world.standing(first)).state == State.delivered
    standing = await world.standing(again)
    assert (standing.state, standing.reason) == (State.suppressed, "duplicate")
    assert (await world.trace(again))[-1].rule == "tenant.duplicate_window_s"
    assert await world.smsc.taken() == {ANN: 4, BOB: 1}
    await world.check_books()


async def test_departments_share_a_budget_and_the_urgent_one_has_a_part_of_its_own(world: World) -> None:
    async with world.database.begin() as connection:
        budget = {"max": 2, "per_s": 3600, "reserved": 1, "reserved_priority": 2}
        made = await tenant_rules.create_organisation(connection, "group", budget, BY)
    assert made is not None
    for tenant in (1, 2):
        await setting(world, tenant, organisation=made.id)
    await world.start()
    (news,) = await world.accept([ANN], tenant=1)
    await world.until_final()
    (more,) = await world.accept([ANN], tenant=2)
    await world.until_state(more, State.deferred)
    (recall,) = await world.accept([ANN], tenant=2, priority=1)
    await world.until_state(recall, State.delivered)
    (late,) = await world.accept([ANN], tenant=1, priority=1)
    standing = await world.until_state(late, State.deferred)
    assert standing.reason == "contact_budget"
    assert (await world.standing(news)).state == State.delivered
    assert await world.smsc.taken() == {ANN: 2}
    # shared counts, never data: no row links the two tenants' hashes of the person
    rows = await world.fetch("SELECT recipient, organisation_recipient FROM cap_events")
    assert len({row["recipient"] for row in rows}) == 2
    assert len({row["organisation_recipient"] for row in rows}) == 1
    await world.queue.client.flushall()  # the budget is counted on from PostgreSQL
    (after,) = await world.accept([ANN], tenant=2, priority=1)
    await world.until_state(after, State.deferred)
    assert await world.smsc.taken() == {ANN: 2}


async def test_a_number_on_the_national_list_gets_no_marketing_and_its_codes(world: World) -> None:
    await world.start()
    async with world.database.begin() as connection:
        await config.begin(connection)
    async with world.database.driver() as driver:
        generation = await registries.begin(driver, 1, "US", "numbers")
    await rules.enlist(world.database, world.queue, owner(world), "US", [ANN], generation)
    (offer,) = await world.accept([ANN])
    (code,) = await world.accept([ANN], category=Category.otp, valid_s=60)
    await world.accept([ANN], tenant=2)
    await world.until_final()
    standing = await world.standing(offer)
    assert (standing.state, standing.reason) == (State.suppressed, "do_not_call")
    step = (await world.trace(offer))[-1]
    assert (step.check, step.rule, step.verdict) == ("do_not_call", "registry.US", "stop")
    assert (await world.standing(code)).state == State.delivered
    assert await world.smsc.taken() == {ANN: 2}, "another tenant has no such list"


async def test_a_consent_that_lapsed_is_no_consent(
    world: World, country: Callable[..., dict[str, bytes]]
) -> None:
    ((name, content),) = country("KR", consent="opt_in").items()
    world.packs[name] = content.replace(b'type = "opt_in"', b'type = "opt_in"\nexpires = "730d"')
    old, fresh = "+821023456781", "+821023456782"
    now = time.time()
    words = [rules.Word(old, at_s=now - 731 * 86_400), rules.Word(fresh, at_s=now - 729 * 86_400)]
    await world.start()
    await rules.grant(world.database, world.queue, owner(world), words, actor="t", now_s=now)
    ids = await world.accept([old, fresh], land="KR")
    await world.until_final()
    standings = [await world.standing(one) for one in ids]
    assert (standings[0].state, standings[0].reason) == (State.suppressed, "consent_expired")
    assert standings[1].state == State.delivered
    await world.queue.client.flushall()  # and after a rebuild
    (again,) = await world.accept([old], land="KR")
    assert (await world.until_state(again, State.suppressed)).reason == "consent_expired"


async def test_a_carriers_opt_out_becomes_a_suppression(world: World, until: Callable) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"code": "27"}, status=400)

    app = web.Application()
    app.add_routes([web.post("/send", refuse)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    try:
        settings = {
            "request": {"body": {"to": "{to}", "text": "{text}"}},
            "response": {
                "accepted": {"id": "/id"},
                "rejected": {"status": [400], "code": "/code", "reasons": {"27": "opted_out"}},
            },
        }
        async with world.database.begin() as connection:
            values = {
                "name": "http",
                "url": f"generic+http://127.0.0.1:{port}/send?allow_private=true",
                "settings": settings,
            }
            await config.create(connection, config.GATEWAY, values, BY)
            await config.change(connection, config.ROUTE, {"id": 1}, {"gateways": ["http"]}, BY)
        await world.start()
        (first,) = await world.accept([ANN])
        await world.until_final()
        assert ((await world.standing(first)).state, (await world.standing(first)).reason) == (
            State.rejected, "opted_out",
        )  # fmt: skip

        async def known() -> bool:
            return await world.value("SELECT count(*) FROM suppressions") == 1

        await until(known)
        (second,) = await world.accept([ANN])
        await world.until_final()
        standing = await world.standing(second)
        assert (standing.state, standing.reason) == (State.suppressed, "opted_out")
        [row] = await world.fetch("SELECT * FROM suppressions")
        assert (row["source"], row["sender"], row["address"]) == ("carrier", "12025550199", ANN)
        [event] = await world.fetch("SELECT evidence FROM rule_events")
        assert event["evidence"]["gateway"] == "http"
        committed = "SELECT xmin IN (SELECT xmin FROM outcomes) FROM suppressions"
        assert await world.value(committed), "in one transaction: no crash comes between"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("early", [False, True])
async def test_an_opt_out_that_a_receipt_tells_is_a_suppression(
    world: World, until: Callable, early: bool
) -> None:
    """Also when the receipt waited for its attempt."""
    await world.smsc.change(lost=1.0)
    local = await world.start()
    (first,) = await world.accept([ANN])
    await world.until_state(first, State.submitted)
    [row] = await world.fetch("SELECT * FROM outcomes WHERE gateway_message_id IS NOT NULL")
    told = Receipt(row["gateway_message_id"], "undelivered", "failed", "21610", to=ANN[1:], opted_out=True)
    receiver = local.process.receiver
    if early:
        stray = Slip(row["gateway_id"], told.gateway_message_id, told.state, told.raw, told.error, None, None,
                     to_check(ANN), time.time(), opted_out=True)  # fmt: skip
        async with world.database.driver() as driver:
            await receipts.park(driver, [stray], time.time(), first_s=0)
        await receiver.retry_parked()
    else:
        await receiver.take(row["gateway_id"], [told])
    await world.until_state(first, State.undelivered)

    async def known() -> bool:
        return await world.value("SELECT count(*) FROM suppressions") == 1

    await until(known)
    (second,) = await world.accept([ANN])
    (other,) = await world.accept([ANN], sender="12025550198")
    standing = await world.until_state(second, State.suppressed)
    assert standing.reason == "opted_out"
    await world.until_state(other, State.submitted)
    [row] = await world.fetch(
        "SELECT source, sender, address, xmin = (SELECT xmin FROM receipts) AS one FROM suppressions"
    )
    assert tuple(row) == ("carrier", "12025550199", ANN, True)


async def test_what_is_in_flight_is_erased_when_it_is_settled(world: World, until: Callable) -> None:
    await world.smsc.change(answer_delay_s=6.0)
    await world.start()
    (flying,) = await world.accept([ANN])
    await world.until_state(flying, State.submitting)
    (waiting,) = await world.accept([ANN], due_in_s=3600)
    now = time.time()
    made = await erasure.ask(world.database, world.queue, owner(world), ANN, actor="t", reason="r", now_s=now)
    assert (await world.standing(waiting)).reason == "erased"
    [row] = await world.fetch("SELECT done_at FROM erasures")
    assert row["done_at"] is None, "its bytes are with the carrier"
    await world.until_state(flying, State.delivered)

    async def done() -> bool:
        return await erasure.advance(world.database, world.queue, 1, made, time.time())

    await until(done)
    for row in await world.fetch("SELECT payload FROM packs"):
        assert ANN.encode() not in row["payload"]
    assert await world.value("SELECT count(*) FROM lookups") == 0
    (later,) = await world.accept([ANN])
    await world.until_final()
    assert (await world.standing(later)).reason == "opted_out"
    await world.check_books()
