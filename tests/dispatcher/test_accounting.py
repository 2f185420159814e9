"""Promise 1's metric: the sides are equal at every moment, and whatever is lost on one of them is seen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from app.queue import lanes
from app.store import census, sweeps
from dispatcher import sweeper
from tests.dispatcher.conftest import MakeWorld, Smsc, World

# The last four digits say what the sandbox does with them (gateways/sandbox/behaviour.py).
DELIVERED = [f"+1202555{n:04d}" for n in range(20)]
UNDELIVERED = [f"+1{area}5550191" for area in range(201, 211)]
NO_RECEIPT = [f"+1{area}5550194" for area in range(201, 211)]
THROTTLED = [f"+1{area}5550196" for area in range(201, 211)]
ENOUGH_LOOKS = 10
LATER = [f"+1303555{n:04d}" for n in range(20)]


async def look(driver: Any) -> tuple[dict[str, int], dict[str, float]]:
    return (await census.count(driver)).differences, await sweeps.accounting(driver)


def faults(differences: dict[str, int], sides: dict[str, float]) -> set[str]:
    """What the alerts look at, and finds it wrong."""
    found = {side for side, n in differences.items() if n}
    if sides["queued_by_tallies"] != sides["queued_by_parcels"]:
        found.add("queued")
    if sides["negative"] or sides["submitting_by_tallies"] > sides["submitting_by_parcels"]:
        found.add("impossible")
    return found


async def mixed(world: World, until: Callable) -> None:
    """Messages that wait, that were delivered or not, that have no receipt, that are repeated."""
    await world.accept(LATER, due_in_s=3000.0)
    await world.accept(DELIVERED + UNDELIVERED + NO_RECEIPT + THROTTLED, pack_size=7)
    await until(lambda: world.value("SELECT count(*) = 30 FROM finals"))
    await until(lambda: world.value("SELECT count(*) > 0 FROM parcels WHERE attempt > 1"))


CORRUPTIONS = {
    "a parcel": ("DELETE FROM parcels WHERE attempt = 1 AND n > 0", {"open", "queued"}),
    "a parcel of what is repeated": ("DELETE FROM parcels WHERE attempt > 1", {"queued"}),
    "a final row": (
        "DELETE FROM finals WHERE message_id = (SELECT min(message_id::text)::uuid FROM finals)",
        {"final", "open"},
    ),
    "another final state": ("UPDATE finals SET state = 11", {"final"}),
    "a tally of acceptance": (
        "UPDATE move_totals SET n = n - 1 WHERE from_state = 0",
        {"accepted", "open", "queued"},
    ),
    "a tally of an end": (
        "UPDATE move_totals SET n = n - 1 WHERE to_state = 10",
        {"final", "open"},
    ),
    "a pack": ("DELETE FROM packs WHERE id = (SELECT min(id::text)::uuid FROM packs)", {"accepted"}),
    "an attempt": (
        "DELETE FROM attempts a WHERE attempt = 1 AND kind = 4"
        " AND NOT EXISTS (SELECT FROM finals f WHERE f.message_id = a.message_id)",
        {"open"},
    ),
}


async def test_the_sides_are_equal_at_every_moment_and_each_loss_is_seen(
    make_world: MakeWorld, smsc: Smsc, until: Callable
) -> None:
    world = await make_world(smsc, window=10)
    local = await world.start()
    looks, stop = 0, asyncio.Event()

    async def watch() -> None:
        nonlocal looks
        while not stop.is_set():
            async with (
                world.database.driver() as driver,
                driver.transaction(isolation="repeatable_read", readonly=True),
            ):
                assert not faults(*await look(driver))
            looks += 1
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    await mixed(world, until)
    ended = 30
    while looks <= ENOUGH_LOOKS and not watching.done():  # messages move for as long as it takes to look
        await world.accept(DELIVERED, pack_size=7)
        ended += len(DELIVERED)
        await until(lambda n=ended: world.value("SELECT count(*) = $1 FROM finals", n))
    stop.set()
    await watching
    await local.stop()
    async with world.database.driver() as driver:
        while await sweeps.roll_up(driver):
            pass
        for name, (statement, seen) in CORRUPTIONS.items():
            transaction = driver.transaction(isolation="repeatable_read")
            await transaction.start()
            assert not faults(*await look(driver))
            done = await driver.execute(statement)
            assert not done.endswith(" 0"), f"{name}: nothing to corrupt"
            assert faults(*await look(driver)) - {"impossible"} == seen, name
            await transaction.rollback()


async def test_the_dispatcher_shows_what_is_lost(
    make_world: MakeWorld, smsc: Smsc, until: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "OFFERED_WITHIN_S", 0.0)
    world = await make_world(smsc, window=10)
    local = await world.start()
    metrics = local.process.metrics
    await world.accept(LATER, due_in_s=300.0)
    await world.accept(DELIVERED)
    await until(lambda: world.value("SELECT count(*) = 20 FROM finals"))
    await until(lambda: metrics.accounting.get("open") == 20, "the open ones are counted")
    assert set(metrics.differences.values()) == {0}
    parcel_id, lane = (await world.fetch("SELECT id, lane FROM parcels"))[0]
    await lanes.forget(world.queue, [(lane, parcel_id.bytes)])
    await world.execute(
        "DELETE FROM finals WHERE message_id = (SELECT min(message_id::text)::uuid FROM finals)"
    )
    await until(lambda: metrics.differences["final"], "the final row is missed")
    assert metrics.differences == {"accepted": 0, "final": 1, "open": -1}
    await until(lambda: metrics.reoffered_parcels, "the entry is missed")
    assert await lanes.known(world.queue, lane, [parcel_id.bytes]) == [True]
    registry = CollectorRegistry()
    registry.register(metrics)
    page = generate_latest(registry).decode()
    assert 'volley_accounting_difference{side="final"} 1.0' in page
    assert "volley_reoffered_parcels_total 1.0" in page
    assert 'volley_accounting{side="open"} 21.0' in page
