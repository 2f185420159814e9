"""Batches and times: pause, resume, cancel, seal; what is due later; two owners of one entry; fair shares."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from app import offering
from app.domain.message import Category, State
from app.queue import lanes
from app.store import config, intake, parcels
from app.store.audit import By
from app.store.batches import BatchState

if TYPE_CHECKING:
    from tests.dispatcher.conftest import MakeWorld, Smsc, World


def people(n: int, start: int = 0) -> list[str]:
    return [f"+1415{2000000 + start + i}" for i in range(n)]


async def test_pause_and_resume_leave_nobody_out_and_text_nobody_twice(
    make_world: MakeWorld, smsc: Smsc, until: Callable
) -> None:
    world = await make_world(smsc, window=10)
    await world.smsc.change(answer_delay_s=0.02)
    await world.start()
    batch = await world.batch()
    await world.accept(people(600), batch=batch)
    await world.set_batch(batch, BatchState.running)
    for round_ in range(1, 4):

        async def far_enough(n: int = 120 * round_) -> bool:
            return len(await world.smsc.ledger()) >= n

        await until(far_enough)
        await world.set_batch(batch, BatchState.paused)
        still = 0

        async def quiet() -> bool:
            """Nothing leaves any more, and nothing is under way."""
            nonlocal still
            before, still = still, len(await world.smsc.ledger())
            return before == still and not await world.value(
                "SELECT count(*) FROM parcels WHERE lease_id > 0"
            )

        await until(quiet)
        states = await world.states()
        assert states[State.queued] > 0, "it was paused in the middle"
        await world.check_books()
        await world.set_batch(batch, BatchState.running)
    await world.until_final()
    assert await world.smsc.taken() == dict.fromkeys(people(600), 1)
    await world.check_books()


async def test_cancel_ends_what_has_not_left(make_world: MakeWorld, smsc: Smsc, until: Callable) -> None:
    world = await make_world(smsc, window=10)
    await world.smsc.change(answer_delay_s=0.02)
    await world.start()
    batch = await world.batch()
    await world.accept(people(500), batch=batch)
    await world.set_batch(batch, BatchState.running)

    async def begun() -> bool:
        return len(await world.smsc.ledger()) > 50

    await until(begun)
    await world.set_batch(batch, BatchState.cancelled)
    await world.until_final()
    states = await world.states()
    taken = await world.smsc.taken()
    assert states[State.cancelled] == 500 - len(taken) > 0
    assert states[State.delivered] == len(taken)
    assert max(taken.values()) == 1
    await world.check_books()


async def test_a_batch_that_loads_is_not_touched_before_it_is_sealed(world: World, until: Callable) -> None:
    local = await world.start()
    batch = await world.batch(BatchState.loading)
    await world.accept(people(50), batch=batch)
    async with world.database.driver() as driver:
        assert await parcels.open_page(driver, due_before_s=time.time() + 60) == []
    # even an entry that got into Redis is refused by the journal, and forgotten there
    async with world.database.driver() as driver:
        async with driver.transaction():
            ghosts = await intake.accept(driver, world.drafts(people(10, 100), batch=batch), time.time())
        world.accepted += 10
    await world.offer(ghosts)
    await until(lambda: local.process.metrics.refused_parcels >= 1)
    assert await world.smsc.ledger() == []
    assert await world.states() == {State.accepted: 60}
    await world.set_batch(batch, BatchState.running)
    await world.until_final()
    assert await world.states() == {State.delivered: 60}
    await world.check_books()


async def test_scheduled_texts_go_when_they_are_due(world: World) -> None:
    await world.start()
    (soon,) = await world.accept(people(1), due_in_s=1.2)
    (far,) = await world.accept(people(1, 1), due_in_s=parcels.HORIZON_S + 60)
    due = time.time() + 1.2
    standing = await world.standing(soon)
    assert standing.state == State.deferred
    await world.until_state(soon, State.delivered)
    (entry,) = await world.smsc.ledger()
    assert due - 0.3 <= entry["at"] <= due + 1.0
    assert (await world.standing(far)).state == State.deferred
    assert await lanes.depths(world.queue, ["US:3"]) == {"US:3": (0, 0, 0)}, "it waits in PostgreSQL alone"
    await world.check_books()


async def test_one_entry_in_two_hands_leaves_once(make_world: MakeWorld, smsc: Smsc, until: Callable) -> None:
    """Ghosts in Redis: parcels that are offered again while they are under way and after they are done."""
    world = await make_world(smsc, binds=2)
    await world.smsc.change(answer_delay_s=0.05)
    first, second = await world.start(), await world.start()
    drafts = world.drafts(people(300))
    async with world.database.driver() as driver, driver.transaction():
        made = await intake.accept(driver, drafts, time.time())
    world.accepted += 300
    assert await offering.attach(world.database, world.queue)
    key = f"v{world.queue.epoch}:{{US:3}}:"

    def refused() -> int:
        return first.process.metrics.refused_parcels + second.process.metrics.refused_parcels

    for _ in range(5):
        await lanes.offer(world.queue, made)
        await until(lambda: lanes_empty(world))
        await world.queue.client.delete(key + "payloads", key + "meta", key + "claimed")
    await world.until_final()
    await until(lambda: refused() > 0)
    assert await world.smsc.taken() == dict.fromkeys(people(300), 1)
    await world.check_books()


async def lanes_empty(world: World) -> bool:
    total, deferred, claimed = (await lanes.depths(world.queue, ["US:3"]))["US:3"]
    return total - deferred - claimed <= 0


async def test_two_batches_of_one_lane_share_it(make_world: MakeWorld, smsc: Smsc, until: Callable) -> None:
    world = await make_world(smsc, window=10)
    await world.smsc.change(answer_delay_s=0.02, lost=1.0)
    one, two = await world.batch(), await world.batch()
    await world.accept(people(1000), batch=one, pack_size=20)
    await world.accept(people(1000, 5000), batch=two, pack_size=20)
    for batch in (one, two):
        await world.set_batch(batch, BatchState.running)
    await world.start()

    async def far_enough() -> bool:
        return len(await world.smsc.ledger()) >= 800

    await until(far_enough, timeout_s=30)
    left = [entry["to"] for entry in await world.smsc.ledger()][:800]
    share = sum(to < "14152005000" for to in left) / 800
    assert 0.4 <= share <= 0.6, share


async def test_an_otp_overtakes_a_campaign(make_world: MakeWorld, smsc: Smsc, until: Callable) -> None:
    world = await make_world(smsc, window=10)
    await world.smsc.change(answer_delay_s=0.05)  # 200 a second
    await world.start()
    await world.accept(people(2000))

    async def begun() -> bool:
        return len(await world.smsc.ledger()) > 40

    await until(begun)
    asked = time.time()
    (otp,) = await world.accept(people(1, 9000), category=Category.otp, valid_s=60)
    await world.until_state(otp, State.delivered)
    (entry,) = await world.smsc.ledger(people(1, 9000)[0])
    before = sum(asked <= one["at"] < entry["at"] for one in await world.smsc.ledger())
    assert before < 600, "nearly all of the campaign would have come first"


async def test_binds_over_two_dispatchers_never_pass_the_contract(
    make_world: MakeWorld, smsc: Smsc, until: Callable
) -> None:
    world = await make_world(smsc, binds=3)
    first = await world.start()

    async def open_at_the_carrier() -> int:
        return (await world.smsc.stats())["accounts"]["volley"]["binds"]

    async def three() -> bool:
        return await open_at_the_carrier() == 3

    await until(three)
    await world.accept(people(500))
    second = await world.start()
    most = 0

    async def shared() -> bool:
        nonlocal most
        most = max(most, await open_at_the_carrier())
        mine = [sum(b.state == "bound" for b in one.process.fleet.binds()) for one in (first, second)]
        return sorted(mine) == [1, 2]

    await until(shared)
    assert most <= 3
    assert await second.stop() == 0
    await until(three)
    await world.until_final()
    assert await world.smsc.taken() == dict.fromkeys(people(500), 1)
    await world.check_books()


async def test_a_route_without_an_open_gateway_waits_and_goes_when_it_opens(world: World) -> None:
    await world.gateway("spare")
    await world.change(config.GATEWAY, {"name": "smsc"}, enabled=False)
    await world.change(config.GATEWAY, {"name": "spare"}, enabled=True)
    await world.start()
    (one,) = await world.accept(people(1))
    assert (await world.standing(one)).state == State.queued
    await world.change(config.GATEWAY, {"name": "smsc"}, enabled=True)
    await world.until_state(one, State.submitted)  # the sandbox may give the receipt to the other bind
    await world.check_books()


async def test_a_lane_whose_gateway_is_down_still_serves_who_goes_another_way(world: World) -> None:
    """A tenant's own route, and the sandbox of a test key."""
    await world.gateway("sandbox")
    await world.gateway("own")
    await world.change(config.GATEWAY, {"name": "smsc"}, enabled=False)
    async with world.database.begin() as connection:
        route = {"to": "*", "gateways": ["own"], "tenant_id": 2, "position": 1}
        await config.create(connection, config.ROUTE, route, By("tests", "a test"))
    await world.start()
    (waiting,) = await world.accept(people(1))
    (trial,) = await world.accept(people(1, 1), test=True)
    (owner,) = await world.accept(people(1, 2), tenant=2)
    for one in (trial, owner):
        await until_left(world, one)
    assert (await world.standing(waiting)).state == State.queued
    assert set(await world.smsc.taken()) == set(people(2, 1))
    await world.check_books()


async def until_left(world: World, message_id: bytes) -> None:
    """The sandbox may give its receipt to another gateway's bind: then it stays submitted."""
    deadline = time.monotonic() + 10
    while (await world.standing(message_id)).state not in (State.submitted, State.delivered):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
