"""Rolling up: what the tallies say is counted once, whatever interrupts it and whoever does it."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from app.domain.message import State
from app.store import dispatch, sweeps
from app.store.engine import AWAY, Database

NOW = datetime(2026, 11, 22, 12, 34, tzinfo=UTC)
BATCHES = [uuid4() for _ in range(3)]


@pytest.fixture
async def database(postgres_url: str):
    database = Database(postgres_url, pool=6)
    async with database.driver() as driver:
        await driver.execute("TRUNCATE tallies, batch_states, move_totals, rollups")
    yield database
    await database.dispose()


async def tally(database: Database, times: int) -> None:
    """So often: 10 accepted and handed over, 7 of them delivered, for each batch."""
    moves = [(None, State.queued, 10), (State.queued, State.submitting, 10), (State.submitting, State.submitted, 10),
             (State.submitted, State.delivered, 7)]  # fmt: skip
    async with database.driver() as driver:
        for _ in range(times):
            await dispatch.write_tallies(
                driver,
                {
                    (1, batch.bytes, "US", 3, None if before is None else 1, before, int(after)): n
                    for batch in BATCHES
                    for before, after, n in moves
                },
                NOW,
            )


async def check(database: Database, times: int) -> None:
    async with database.driver() as driver:
        assert await driver.fetchval("SELECT count(*) FROM tallies") == 0
        for batch in BATCHES:
            rows = await driver.fetch("SELECT state, n FROM batch_states WHERE batch_id = $1", batch)
            assert Counter({State(s): n for s, n in rows if n}) == {
                State.submitted: 3 * times,
                State.delivered: 7 * times,
            }
        sides = await sweeps.accounting(driver)
        assert sides["accepted"] == 30 * times
        assert sides["final"] == 21 * times
        assert sides["open_by_tallies"] == 9 * times
        entered = dict(
            await driver.fetch(
                "SELECT state, sum(n)::int FROM rollups WHERE hour = $1 GROUP BY state", NOW.replace(minute=0)
            )
        )
        assert entered == {1: 30 * times, 4: 30 * times, 5: 30 * times, 10: 21 * times}


async def test_rolled_up_counts_are_the_sums_of_the_deltas(database: Database) -> None:
    await tally(database, 3)
    async with database.driver() as driver:
        before = await sweeps.accounting(driver)
        assert await sweeps.roll_up(driver) == 3 * 12
        assert await sweeps.roll_up(driver) == 0
        assert await sweeps.accounting(driver) == before, "the same before and after"
    await check(database, 3)


async def test_the_accounting_can_fail(database: Database) -> None:
    await tally(database, 1)
    async with database.driver() as driver:
        sound = await sweeps.accounting(driver)
        assert (sound["negative"], sound["submitting_by_tallies"]) == (0, 0)
        await driver.execute(  # counted out of a state twice, and one that no parcel under way holds
            "INSERT INTO move_totals (from_state, to_state, n) VALUES (4, 5, 3), (2, 4, 5)"
        )
        wrong = await sweeps.accounting(driver)
    assert wrong["accepted"] == sound["accepted"]
    assert wrong["final"] == sound["final"]
    assert wrong["negative"] == 5
    assert wrong["submitting_by_tallies"] == 2
    assert wrong["submitting_by_parcels"] == 0


async def test_several_at_once_and_while_tallies_come_in(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "ROLLUP_PAGE", 7)

    async def roll() -> None:
        async with database.driver() as driver:
            for _ in range(40):
                await sweeps.roll_up(driver)

    await asyncio.gather(tally(database, 10), roll(), roll(), tally(database, 10))
    async with database.driver() as driver:
        while await sweeps.roll_up(driver):
            pass
    await check(database, 20)


async def test_an_interrupted_one_counts_nothing(database: Database) -> None:
    await tally(database, 5)
    async with database.driver() as driver:
        pid = await driver.fetchval("SELECT pg_backend_pid()")
        transaction = driver.transaction()
        await transaction.start()
        await sweeps.roll_up(driver)
        async with database.driver() as other:
            await other.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(AWAY):
            await transaction.commit()
    async with database.driver() as driver:
        assert await driver.fetchval("SELECT count(*) FROM batch_states") == 0
        assert await sweeps.roll_up(driver) == 60
    await check(database, 5)
