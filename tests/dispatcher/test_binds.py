"""Binds counted at the carrier, over dispatchers as real processes: it refuses, and counts, what is over its number."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from app.store import config

if TYPE_CHECKING:
    from tests.dispatcher.conftest import MakeWorld, Smsc, World

ACCOUNT = "volley"


class Carrier:
    """What the carrier sees of its contract."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def bound(self) -> int:
        return (await self.world.smsc.stats())["accounts"].get(ACCOUNT, {"binds": 0})["binds"]

    async def refused(self) -> int:
        return (await self.world.smsc.stats())["binds_refused"]

    async def shares(self) -> list[int]:
        """The slots of each live dispatcher, the most first."""
        rows = await self.world.fetch("SELECT count(*) FROM bind_leases GROUP BY lease_id ORDER BY 1 DESC")
        return [row[0] for row in rows]

    async def contract(self, binds: int) -> None:
        """From now on the carrier lets nobody in while so many are bound, and the gateway is told."""
        await self.world.smsc.change(max_binds=binds)
        await self.world.change(config.GATEWAY, {"name": "smsc"}, url=self.world.url(binds=binds))

    def shared(self, *wanted: int) -> Callable:
        async def so() -> bool:
            return await self.shares() == list(wanted) and await self.bound() == sum(wanted)

        return so


async def test_two_dispatchers_never_pass_the_number_of_the_contract(
    make_world: MakeWorld, smsc: Smsc, until: Callable
) -> None:
    world = await make_world(smsc, binds=4)
    carrier = Carrier(world)
    await smsc.change(max_binds=4)
    world.spawn()
    killed = world.spawn()
    await until(carrier.shared(2, 2), "both have half of the binds")
    await carrier.contract(2)
    await until(carrier.shared(1, 1), "both have half of fewer")
    await carrier.contract(4)
    await until(carrier.shared(2, 2), "both have half of more again")
    killed.kill()
    await until(carrier.shared(4), "the one that lives has all")
    assert await carrier.refused() == 0
    await world.accept(["+14152000000"])
    await world.until_states(delivered=1)
