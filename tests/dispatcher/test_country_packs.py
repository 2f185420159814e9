"""Packs, terms and delays that change while a dispatcher runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from app.domain.message import State
from app.store import config, tenants
from app.store.config import COUNTRY_PACK
from dispatcher import inbound
from gateways.base import Inbound
from tests.dispatcher.conftest import BY, SENDER, until

if TYPE_CHECKING:
    from tests.dispatcher.conftest import World

GB = "+447911123456"
LONDON = "+447400123456"


async def put(world: World, content: str) -> None:
    async with world.database.begin() as connection:
        if await config.rows(connection, COUNTRY_PACK, code="GB"):
            await config.change(connection, COUNTRY_PACK, {"code": "GB"}, {"content": content}, BY)
        else:
            await config.create(connection, COUNTRY_PACK, {"code": "GB", "content": content}, BY)


async def test_a_changed_pack_holds_without_a_restart_and_a_bad_one_changes_nothing(
    world: World, country: Callable[..., dict[str, bytes]]
) -> None:
    world.packs |= country("GB")
    local = await world.start()
    (before,) = await world.accept([GB], land="GB")
    await world.until_state(before, State.delivered)
    desk = local.process.dispatcher.desk
    old = desk.packs.version
    opens = (datetime.now(UTC) + timedelta(hours=3)).replace(second=0, microsecond=0)
    hours = f'[["{opens:%H:%M}", "{opens + timedelta(minutes=10):%H:%M}"]]'
    await put(world, country("GB", hours=hours)["GB.toml"].decode())
    await until(lambda: desk.packs.version != old)
    new = desk.packs.version
    (after,) = await world.accept([GB], land="GB")
    standing = await world.until_state(after, State.deferred)
    assert standing.reason == "quiet_hours"
    (step,) = [step for step in await world.trace(after) if step.check == "quiet_hours"]
    assert step.version == desk.packs.pack("GB").version
    shelf = local.process.shelf
    version = shelf.version
    await put(world, "not TOML")
    await until(lambda: shelf.version != version)
    assert desk.packs.version == new


async def test_a_tenants_own_hours_hold_without_a_restart_and_for_it_alone(world: World) -> None:
    local = await world.start()
    opens = (datetime.now(UTC) + timedelta(hours=3)).replace(second=0, microsecond=0)
    hours = [[f"{opens:%H:%M}", f"{opens + timedelta(minutes=10):%H:%M}"]]
    terms = {"countries": {"GB": {"windows": {"holidays": "open", "daily": hours}}}}
    async with world.database.begin() as connection:
        await tenants.change(connection, 1, None, terms, BY)
    await until(lambda: 1 in local.process.dispatcher.desk._terms)
    (own,) = await world.accept([GB], land="GB")
    (other,) = await world.accept([LONDON], land="GB", tenant=2)
    await world.until_state(other, State.delivered)
    assert (await world.until_state(own, State.deferred)).reason == "quiet_hours"


async def test_an_operators_own_opt_out_words_stop(
    world: World, country: Callable[..., dict[str, bytes]]
) -> None:
    local = await world.start()
    gateway = local.process.gateway_id("smsc")

    async def action(word: str) -> str | None:
        text = Inbound(sender=LONDON, to=SENDER, text=word)
        (found,) = await inbound.take(world.database, local.process.queue, gateway, [text], time.time())
        return found.action

    await world.accept([LONDON], land="GB")  # so that the text has somebody to go to
    assert await action("zorbax") is None
    own = country("GB")["GB.toml"].decode().replace("keywords = []", 'keywords = ["ZORBAX"]')
    await put(world, own)
    assert await action("zorbax") == "stop"
    await put(world, "not TOML")
    assert await action("zorbax") is None
    assert await action("stop") == "stop"
