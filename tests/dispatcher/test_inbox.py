"""Texts that HTTP callbacks brought: a bad one is set aside, and no stop waits behind it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from app.store import inbox
from gateways.base import Inbound

if TYPE_CHECKING:
    from tests.dispatcher.conftest import World


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
    assert await world.value("SELECT count(*) FROM parked_inbound") == 1
    assert sum(n for (_, what), n in local.process.metrics.inbound.items() if what == "set_aside") == 1
