"""Partitions: made ahead, once, whoever makes them, and the right one takes each row."""

from __future__ import annotations

import asyncio
import time

import pytest

from app.domain import ids
from app.store import partitions
from app.store.engine import Database

YEAR_S = 365 * 86_400


@pytest.fixture
async def database(postgres_url: str):
    database = Database(postgres_url, pool=5)
    yield database
    await database.dispose()


async def names(database: Database) -> set[str]:
    async with database.driver() as driver:
        rows = await driver.fetch("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'")
    return {row[0] for row in rows}


async def test_ensure_makes_each_week_once_even_when_several_do_it(database: Database) -> None:
    later = time.time() + YEAR_S
    before = await names(database)

    async def ensure() -> None:
        async with database.driver() as driver:
            await partitions.ensure(driver, later)

    await asyncio.gather(*(ensure() for _ in range(4)))
    made = await names(database) - before
    assert len(made) == len(partitions.PARTITIONED) * (partitions.WEEKS_AHEAD + 2)
    await ensure()
    assert await names(database) - before == made


async def test_each_row_lies_in_the_partition_of_its_id(database: Database) -> None:
    now = time.time()
    for weeks in (0, 1, partitions.WEEKS_AHEAD):
        moment = now + weeks * partitions.WEEK_S
        async with database.driver() as driver:
            where = await driver.fetchval(
                "INSERT INTO finals (message_id, state, at) VALUES ($1::text::uuid, 10, now())"
                " RETURNING tableoid::regclass::text",
                ids.text(ids.message_id(ids.new_id(moment), 0)),
            )
        assert where == f"finals_w{int(moment // partitions.WEEK_S)}"


async def test_the_edges_of_a_week(database: Database) -> None:
    week = int(time.time() // partitions.WEEK_S) + 1
    edge = week * partitions.WEEK_S
    async with database.driver() as driver:
        for moment, expected in ((edge, week), (edge - 0.001, week - 1)):
            where = await driver.fetchval(
                "INSERT INTO finals (message_id, state, at) VALUES ($1::text::uuid, 10, now())"
                " RETURNING tableoid::regclass::text",
                ids.text(ids.new_id(moment)),
            )
            assert where == f"finals_w{expected}"
