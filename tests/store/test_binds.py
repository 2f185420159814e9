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

    async def share(self) -> None:
        while True:
            async with self.database.driver() as driver:
                mine = await binds.share(driver, self.gateway_id, TOTAL, self.lease_id, self.opened)
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
