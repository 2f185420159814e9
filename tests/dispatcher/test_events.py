"""What a tenant hears of its texts, at a receiver of its own, from a dispatcher at work."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from app.domain import ids
from app.domain.message import State
from app.store import config, webhook_endpoints
from tests.dispatcher.conftest import numbers

if TYPE_CHECKING:
    from tests.dispatcher.conftest import World

LONG = "A long text. " * 20  # of several segments
AGAIN = "+12065550100"  # refused at first
UNDELIVERED = "+12025550191"


class Receiver:
    """What came, in order, by path and message."""

    def __init__(self) -> None:
        self.url = ""
        self.refuse = 0  # so many are answered with an error
        self.events: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        self.data: dict[str, Any] = {}

    async def handle(self, request: web.Request) -> web.Response:
        event = json.loads(await request.read())
        if self.refuse > 0:
            self.refuse -= 1
            return web.Response(status=503)
        self.events[request.path][event["data"]["id"]].append(event["type"])
        self.data[event["type"]] = event["data"]
        return web.Response()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


async def subscribe(world: World, url: str, *events: str, tenant: int = 1) -> None:
    """As the API does it."""
    async with world.database.driver() as driver:
        await webhook_endpoints.create(driver, tenant, url, events, time.time())
    async with world.database.begin() as connection:
        await config.begin(connection)


async def test_who_names_it_hears_of_each_hand_over_once_and_before_the_end(
    world: World, receiver: Receiver, until: Callable
) -> None:
    await subscribe(
        world, f"{receiver.url}/both", "message.submitted", "message.delivered", "message.undelivered"
    )
    await subscribe(world, f"{receiver.url}/usual", "*")
    local = await world.start()
    assert local.process.dispatcher.publisher.followers == {1}
    await world.smsc.change(early=0.5, refuse={"1206": "ESME_RMSGQFUL"})
    receiver.refuse = 1  # what comes after waits for what was refused
    sent = await world.accept([*numbers(20), AGAIN, UNDELIVERED])
    sent += await world.accept(numbers(5, 100), body=LONG)
    await until(lambda: world.value("SELECT count(*) > 0 FROM parcels WHERE attempt > 1"))
    await world.smsc.change(early=0.5, refuse={})
    others = await world.accept(numbers(5, 200), tenant=2)
    for path, most in (("/both", 2), ("/usual", 1)):
        told = receiver.events[path]
        await until(lambda told=told, most=most: sum(map(len, told.values())) >= most * len(sent), path, 60.0)
        ended = {one: "undelivered" if one == sent[21] else "delivered" for one in sent}
        assert told == {
            ids.text(one): [f"message.{state}" for state in ("submitted", last)[-most:]]
            for one, last in ended.items()
        }
    assert receiver.data["message.submitted"]["state"] == "submitted"
    assert receiver.data["message.submitted"]["gateway"] == "smsc"
    assert receiver.data["message.submitted"]["gateway_message_id"]
    for one in others:
        await world.until_state(one, State.delivered)
    assert await world.value("SELECT count(*) FROM webhook_deliveries WHERE tenant_id = 2") == 0


async def test_a_wish_for_hand_overs_is_taken_over_and_dropped_while_a_dispatcher_runs(
    world: World, receiver: Receiver, until: Callable
) -> None:
    local = await world.start()
    publisher = local.process.dispatcher.publisher
    (before,) = await world.accept(numbers(1))
    await world.until_state(before, State.delivered)
    await subscribe(world, f"{receiver.url}/new", "message.submitted")
    await until(lambda: publisher.followers == {1})
    (during,) = await world.accept(numbers(1, 10))
    await until(lambda: receiver.events["/new"])
    assert receiver.events["/new"] == {ids.text(during): ["message.submitted"]}
    await world.execute("UPDATE webhook_endpoints SET enabled = false")
    async with world.database.begin() as connection:
        await config.begin(connection)
    await until(lambda: not publisher.followers)
