"""Texts that HTTP callbacks brought: a bad one is set aside, and no stop waits behind it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from app.store import inbox
from gateways.base import Inbound

if TYPE_CHECKING:
    from tests.dispatcher.conftest import MakeWorld, Smsc, World


async def test_a_bad_text_holds_back_no_stop(world: World, until: Callable) -> None:
    local = await world.start()
    texts = [
        msgspec.msgpack.encode(Inbound("+1415200\x000001", "120\x0025550199", "a\0b", "m\0id")),
        b"\xc1",
        msgspec.msgpack.encode(Inbound("+14152000002", "12025550199", "STOP", "m-2")),
    ]
    async with world.database.driver() as driver:
        await inbox.park(driver, 1, texts, time.time())

    async def stopped() -> bool:
        return await world.value("SELECT count(*) FROM suppressions") == 1

    await until(stopped)
    rows = await world.fetch('SELECT sender, "to", text, gateway_message_id FROM inbound ORDER BY sender')
    assert [tuple(row) for row in rows] == [
        ("+14152000001", "12025550199", "ab", "mid"),
        ("+14152000002", "12025550199", "STOP", "m-2"),
    ]
    assert await world.fetch("SELECT payload FROM parked_inbound WHERE failed_at IS NOT NULL") == [(b"\xc1",)]
    await until(lambda: left(world))
    assert sum(n for (_, what), n in local.process.metrics.inbound.items() if what == "set_aside") == 1


async def left(world: World) -> bool:
    """Nothing is parked but what was set aside; its suppression is seen before that is committed."""
    return await world.value("SELECT count(*) FROM parked_inbound") == 1


async def test_a_dispatcher_killed_between_the_parts_of_a_text_loses_none(
    world: World, smsc: Smsc, until: Callable
) -> None:
    async def send(lose: int) -> None:
        text = {
            "from": "+14152000001",
            "to": "12025550199",
            "text": "a" * 200,
            "lose": [lose],
            "reference": 9,
        }
        await smsc._call("/mo", text)

    async def acknowledged() -> bool:
        return (await smsc.stats())["inbound_acknowledged"] == 1

    first = world.spawn()
    await send(lose=2)
    await until(acknowledged, "the part is stored")
    first.kill()
    await world.start()
    await send(lose=1)

    async def whole() -> bool:
        return [row["text"] for row in await world.fetch("SELECT text FROM inbound")] == ["a" * 200]

    await until(whole, "the text is whole")


async def test_what_is_missing_after_the_limit_is_shown(
    make_world: MakeWorld, smsc: Smsc, until: Callable
) -> None:
    world = await make_world(smsc, reassembly_s=0.5)
    await world.start()
    text = {"from": "+14152000001", "to": "12025550199", "text": "a" * 153 + "b" * 10, "lose": [1]}
    await smsc._call("/mo", text)

    async def there() -> bool:
        return [row["text"] for row in await world.fetch("SELECT text FROM inbound")] == ["…" + "b" * 10]

    await until(there)


async def test_a_text_to_an_applications_port(make_world: MakeWorld, smsc: Smsc, until: Callable) -> None:
    world = await make_world(smsc)
    await world.start()
    person = {"from": "+14152000001", "to": "12025550199"}
    long = "a" * 200
    for how, port in (("udh", 16_000), ("udh16", 16_001), ("sar", 16_002), ("payload", 65_535)):
        text = {**person, "text": f"{how} {long}", "long": how, "port": port, "reverse": True}
        await smsc._call("/mo", text)
    await smsc._call("/mo", {**person, "text": "HELP", "port": 2948})
    await smsc._call("/mo", {**person, "text": "STOP", "port": 1, "pdu": "data_sm"})

    async def stored() -> bool:
        return await world.value("SELECT count(*) FROM inbound") == 6

    await until(stored)
    rows = await world.fetch("SELECT text, port, action, reply FROM inbound")
    assert {row["text"]: (row["port"], row["action"], row["reply"]) for row in rows} == {
        f"udh {long}": (16_000, None, None),
        f"udh16 {long}": (16_001, None, None),
        f"sar {long}": (16_002, None, None),
        f"payload {long}": (65_535, None, None),
        "HELP": (2948, None, None),
        "STOP": (1, "stop", None),
    }
    assert await world.value("SELECT count(*) FROM suppressions") >= 1
    assert await world.value("SELECT count(*) FROM packs") == 0, "nothing is answered"
