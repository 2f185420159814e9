"""Binds are shared among dispatchers: never more than the contract says, evenly, and what the dead held is free."""

from __future__ import annotations

import asyncio
import random

import pytest

from app.store import binds, dispatch
from app.store import config as configuration
from app.store.audit import By
from app.store.engine import Database

TOTAL = 5


class Dispatcher:
    """As the fleet does it: closes what is over its share before it gives the slots back."""

    def __init__(self, database: Database, gateway_id: int, lease_id: int) -> None:
        self.database, self.gateway_id, self.lease_id = database, gateway_id, lease_id
        self.opened = 0

    async def ask(self, total: int = TOTAL, *, versions_behind: int = 0) -> int:
        async with self.database.driver() as driver:
            version = await configuration.version_of(driver) - versions_behind
            return await binds.share(driver, self.gateway_id, total, self.lease_id, self.opened, version)

    async def share(self, total: int = TOTAL) -> None:
        while True:
            mine = await self.ask(total)
            if mine == self.opened:
                return
            fewer, self.opened = mine < self.opened, mine
            if not fewer:
                return


@pytest.fixture
async def database(postgres_url: str):
    database = Database(postgres_url, pool=6)
    async with database.driver() as driver:
        await driver.execute("TRUNCATE bind_leases")
        await driver.execute("UPDATE leases SET ended_at = now() WHERE ended_at IS NULL")
    yield database
    await database.dispose()


@pytest.fixture
async def gateway_id(database: Database):
    async with database.begin() as connection:
        values = {"name": f"shared-{random.getrandbits(40):x}", "url": "smpp://a:b@h", "rate": None}
        await configuration.create(connection, configuration.GATEWAY, values, By("tests", "a test"))
    async with database.driver() as driver:
        yield await driver.fetchval("SELECT id FROM gateways WHERE name = $1", values["name"])


async def joined(database: Database, gateway_id: int) -> Dispatcher:
    async with database.driver() as driver:
        return Dispatcher(database, gateway_id, await dispatch.open_lease(driver, "test"))


async def test_dispatchers_that_come_and_go_share_evenly_and_never_too_many(
    database: Database, gateway_id: int
) -> None:
    living: list[Dispatcher] = []
    dice = random.Random(7)
    for _ in range(12):
        if len(living) < 2 or (len(living) < 7 and dice.random() < 0.6):
            living.append(await joined(database, gateway_id))
        else:
            gone = living.pop(dice.randrange(len(living)))
            async with database.driver() as driver:
                await dispatch.end_lease(driver, gone.lease_id)
        for _ in range(3):
            order = dice.sample(living, len(living))
            for one in order:
                await one.share()
                assert sum(each.opened for each in living) <= TOTAL
        assert sum(each.opened for each in living) == TOTAL
        counts = [each.opened for each in living]
        assert max(counts) - min(counts) <= 1


async def test_asking_at_once_gives_no_slot_twice(database: Database, gateway_id: int) -> None:
    crowd = [await joined(database, gateway_id) for _ in range(4)]
    for _ in range(3):
        await asyncio.gather(*(one.share() for one in crowd))
        assert sum(one.opened for one in crowd) <= TOTAL
    assert sum(one.opened for one in crowd) == TOTAL


async def test_one_whose_lease_ended_gets_none(database: Database, gateway_id: int) -> None:
    one = await joined(database, gateway_id)
    async with database.driver() as driver:
        await dispatch.end_lease(driver, one.lease_id)
    await one.share()
    assert one.opened == 0


async def test_a_lowered_number_is_waited_for_until_the_binds_are_closed(
    database: Database, gateway_id: int
) -> None:
    first, second = [await joined(database, gateway_id) for _ in range(2)]
    for _ in range(2):
        await first.share(4)
        await second.share(4)
    assert (first.opened, second.opened) == (2, 2)
    third = await joined(database, gateway_id)
    first.opened = 0  # closed for the new settings, as the second one's are not yet
    await first.share(2)
    await third.share(2)
    assert (first.opened, second.opened, third.opened) == (0, 2, 0)
    assert await second.ask(2) == 1
    assert await first.ask(2) == 0, "the second has not closed anything yet"
    second.opened = 1
    await second.share(2)
    await first.share(2)
    await third.share(2)
    assert (first.opened, second.opened, third.opened) == (1, 1, 0)


async def test_nothing_is_opened_by_a_configuration_that_is_no_more(
    database: Database, gateway_id: int
) -> None:
    one = await joined(database, gateway_id)
    assert await one.ask(4, versions_behind=1) == 0
    await one.share(2)
    assert await one.ask(4, versions_behind=1) == 2 == one.opened
