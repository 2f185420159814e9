"""The rules at hand-over: who gets nothing, who waits and until when, and what says so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from app import rules
from app.domain.message import Category, State

if TYPE_CHECKING:
    from tests.dispatcher.conftest import MakeWorld, Smsc, World

ANN, BOB, CAT = "+14152000001", "+14152000002", "+14152000003"


def owner(world: World, tenant: int = 1) -> rules.Owner:
    return rules.Owner(tenant, world.keys[tenant])


async def suppress(world: World, *people: str, sender: str = "", tenant: int = 1) -> None:
    stops = [rules.Stop(one, sender) for one in people]
    await rules.suppress(
        world.database, world.queue, owner(world, tenant), stops, source="api", actor="t", now_s=time.time()
    )


async def test_a_suppressed_number_gets_nothing_from_its_tenant_whatever_the_category(world: World) -> None:
    await world.start()
    await suppress(world, ANN)
    ours = [
        (await world.accept([ANN], category=category, valid_s=60))[0]
        for category in (Category.otp, Category.transactional, Category.marketing)
    ]
    theirs = (await world.accept([ANN], tenant=2))[0]
    await world.until_final()
    for one in ours:
        standing = await world.standing(one)
        assert (standing.state, standing.reason) == (State.suppressed, "opted_out")
    assert (await world.standing(theirs)).state == State.delivered
    assert await world.smsc.taken() == {ANN: 1}
    await world.check_books()


async def test_a_suppression_by_sender_leaves_the_other_senders(world: World) -> None:
    await world.start()
    await suppress(world, ANN, sender="12025550199")
    (stopped,) = await world.accept([ANN])
    (other,) = await world.accept([ANN], sender="12025550198")
    await world.until_final()
    assert (await world.standing(stopped)).state == State.suppressed
    assert (await world.standing(other)).state == State.delivered


async def test_among_many_only_the_suppressed_are_left_out(world: World) -> None:
    await world.start()
    people = [f"+1415{2000000 + i}" for i in range(300)]
    out = people[::7]
    await suppress(world, *out)
    await world.accept(people)
    await world.until_final()
    assert await world.smsc.taken() == dict.fromkeys(set(people) - set(out), 1)
    assert await world.states() == {State.suppressed: len(out), State.delivered: 300 - len(out)}
    await world.check_books()


async def test_marketing_needs_consent_where_the_country_says_so(
    world: World, country: Callable[..., dict[str, bytes]]
) -> None:
    world.packs |= country("VN", consent="opt_in")
    await world.start()
    words = [rules.Word("+84912345671")]
    await rules.grant(world.database, world.queue, owner(world), words, actor="t", now_s=time.time())
    yes, no = await world.accept(["+84912345671", "+84912345672"], land="VN")
    (code,) = await world.accept(["+84912345672"], land="VN", category=Category.otp, valid_s=60)
    await world.until_final()
    assert (await world.standing(yes)).state == State.delivered
    standing = await world.standing(no)
    assert (standing.state, standing.reason) == (State.suppressed, "no_consent")
    assert (await world.standing(code)).state == State.delivered
    steps = [(step.check, step.rule, step.verdict) for step in await world.trace(no)]
    assert ("consent", "VN.consent", "stop") in steps


def closed_now(opens_in: timedelta) -> tuple[str, datetime]:
    """Hours that are shut now and open so much later for ten minutes, UTC."""
    opens = (datetime.now(UTC) + opens_in).replace(second=0, microsecond=0)
    return f'[["{opens:%H:%M}", "{opens + timedelta(minutes=10):%H:%M}"]]', opens


async def test_quiet_hours_hold_until_the_opening_and_end_what_expires_before(
    world: World, country: Callable[..., dict[str, bytes]]
) -> None:
    hours, opens = closed_now(timedelta(hours=3))
    world.packs |= country("GB", hours=hours)
    await world.start()
    (held,) = await world.accept(["+447911123456"], land="GB")
    (hopeless,) = await world.accept(["+447911123457"], land="GB", valid_s=1800)
    (code,) = await world.accept(["+447911123458"], land="GB", category=Category.otp, valid_s=60)
    standing = await world.until_state(held, State.deferred)
    assert standing.reason == "quiet_hours"
    assert standing.until == opens
    standing = await world.until_state(hopeless, State.expired)
    assert standing.reason == "quiet_hours_past_expiry"
    await world.until_state(code, State.delivered)
    (step,) = [step for step in await world.trace(held) if step.check == "quiet_hours"]
    assert (step.rule, step.verdict, step.until) == ("GB.marketing", "hold", opens)
    assert set(await world.smsc.taken()) == {"+447911123458"}
    await world.check_books()


async def test_what_expires_while_it_waits_ends_expired(make_world: MakeWorld, smsc: Smsc) -> None:
    world = await make_world(smsc)
    await world.region("US", paused=True)
    await world.start()
    (short,) = await world.accept([ANN], valid_s=0.5)
    (long,) = await world.accept([BOB], valid_s=60)
    standing = await world.until_state(short, State.expired)
    assert standing.reason == "expired"
    assert (await world.standing(long)).state == State.queued
    assert await world.smsc.ledger() == []
    await world.check_books()


async def test_a_frequency_cap_holds_over_two_dispatchers(
    make_world: MakeWorld, smsc: Smsc, country: Callable[..., dict[str, bytes]]
) -> None:
    """Many texts to one person at once, by two dispatchers: three leave."""
    world = await make_world(smsc, binds=2)
    world.packs |= country("VN", cap="3/24h")
    await world.start()
    await world.start()
    person = "+84912345671"
    for sender in range(10):
        await world.accept([person] * 5, land="VN", sender=f"1202555{sender:04}")
    await world.until_states(delivered=3, deferred=47)
    assert await world.smsc.taken() == {person: 3}
    held = [one for one in (await world.standings()).values() if one.state == State.deferred]
    assert {one.reason for one in held} == {"frequency_cap"}
    assert await world.value("SELECT count(DISTINCT message_id) FROM cap_events") == 3
    await world.check_books()


async def test_the_cap_survives_the_loss_of_redis(
    world: World, country: Callable[..., dict[str, bytes]]
) -> None:
    world.packs |= country("VN", cap="1/24h")
    await world.start()
    await world.accept(["+84912345671"], land="VN")
    await world.until_final()
    await world.queue.client.flushall()
    (second,) = await world.accept(["+84912345671"], land="VN")
    standing = await world.until_state(second, State.deferred)
    assert standing.reason == "frequency_cap"


async def test_every_decision_explains_itself(world: World) -> None:
    await world.start()
    await suppress(world, BOB)
    sent, stopped = await world.accept([ANN, BOB], valid_s=600)
    await world.until_final()
    common = [("expiry", "pass"), ("quiet_hours", "pass")]
    assert [(s.check, s.verdict) for s in await world.trace(sent)] == [
        *common,
        ("suppression", "pass"),
        ("consent", "exempt"),
        ("route", "smsc by preference"),
    ]
    assert [(s.check, s.verdict) for s in await world.trace(stopped)] == [*common, ("suppression", "stop")]
    assert all(step.rule and step.version for step in await world.trace(sent))


async def test_nobody_is_texted_later_than_a_second_after_the_opt_out(
    make_world: MakeWorld, smsc: Smsc
) -> None:
    """People opt out while a big batch runs."""
    world = await make_world(smsc, window=20)
    await world.smsc.change(answer_delay_s=0.05, lost=1.0)  # 400 a second
    await world.start()
    people = [f"+1415{2000000 + i}" for i in range(1500)]
    await world.accept(people)
    stopped: dict[str, float] = {}
    for start in range(0, 1500, 100):
        some = people[start + 7 : start + 100 : 10]
        await suppress(world, *some)
        stopped |= dict.fromkeys(some, time.time())
        await asyncio.sleep(0.1)  # the load goes on meanwhile: nothing is waited for

    async def done() -> bool:
        return await world.value("SELECT count(*) FROM parcels") == 0

    deadline = time.monotonic() + 30
    while not await done():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    late = {
        entry["to"]: entry["at"] - stopped[f"+{entry['to']}"]
        for entry in await world.smsc.ledger()
        if f"+{entry['to']}" in stopped and entry["at"] > stopped[f"+{entry['to']}"] + 1.0
    }
    assert not late
    states = await world.states()
    assert states[State.suppressed] > 0
    assert states[State.suppressed] + states[State.submitted] == 1500
    await world.check_books()
