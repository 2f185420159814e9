"""Packs, terms and delays that change while a dispatcher runs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from app.domain.message import State
from app.store import config
from app.store.config import COUNTRY_PACK
from tests.dispatcher.conftest import BY, until

if TYPE_CHECKING:
    from tests.dispatcher.conftest import World

GB = "+447911123456"


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
