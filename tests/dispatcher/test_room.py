"""Where there is little room: long texts, full windows, other routes, and a copy that was lost. Nothing spins."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from app.domain import text
from app.domain.message import Category, State
from app.queue import lanes
from app.store import config, dispatch
from app.store.audit import By
from gateways.base import BindStatus, Submission

if TYPE_CHECKING:
    from tests.dispatcher.conftest import Local, MakeWorld, Smsc, World

LONG = "x" * 400  # three segments
BY = By("tests", "a test")


def people(n: int, start: int = 0) -> list[str]:
    return [f"+1415{2000000 + start + i}" for i in range(n)]


def peak(entries: list[dict[str, Any]]) -> int:
    """The most in any sliding second; by 0.03 s the sandbox may come late to look at its clock."""
    times = sorted(entry["at"] for entry in entries)
    return max(sum(1 for other in times if at - 0.97 < other <= at) for at in times)


def claims(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When `lanes.claim` was called."""
    calls: list[float] = []
    claim = lanes.claim

    async def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(time.monotonic())
        return await claim(*args, **kwargs)

    monkeypatch.setattr(lanes, "claim", counted)
    return calls


@pytest.mark.parametrize("throttled", ["region", "gateway", "sender"])
async def test_a_text_of_more_segments_than_the_rate_goes_and_does_not_block(
    make_world: MakeWorld, smsc: Smsc, monkeypatch: pytest.MonkeyPatch, throttled: str
) -> None:
    world = await make_world(smsc)
    if throttled == "region":
        await world.region("US", rate=2)
    elif throttled == "gateway":
        await world.change(config.GATEWAY, {"name": "smsc"}, rate=2)
    else:
        async with world.database.begin() as connection:
            key = {"tenant_id": 1, "address": "12025550199", "rate": 2}
            await config.create(connection, config.SENDER, key, BY)
    calls = claims(monkeypatch)
    await world.start()
    started = time.monotonic()
    await world.accept(people(1), body=LONG, category=Category.transactional)
    await world.accept(people(1, 10), category=Category.transactional)
    await world.until_final()
    assert len(calls) < 60 * (time.monotonic() - started)
    assert len(await world.smsc.ledger()) == 4
    await world.check_books()


async def test_a_long_text_is_not_starved_by_single_ones(make_world: MakeWorld, smsc: Smsc) -> None:
    world = await make_world(smsc)
    await world.region("US", rate=3)
    await world.start()
    await world.accept(people(60), category=Category.transactional, pack_size=1)
    (long,) = await world.accept(
        people(1, 100), body=LONG, category=Category.transactional, sender="12025550100"
    )
    await world.until_state(long, State.delivered)
    ledger = await world.smsc.ledger()
    last = max(n for n, one in enumerate(ledger) if one["to"] == people(1, 100)[0].lstrip("+"))
    assert last < 40, "most of the single ones came after it"
    assert peak(ledger) <= 3


class Stuck:
    """Bound, with a window that never frees."""

    name = "stuck"
    coding = asked_coding = text.Coding()

    def __init__(self, name: str, window: int = 10) -> None:
        self.name = name
        self.window = window

    async def open(self, binds: int) -> None: ...
    async def close(self, drain_s: float) -> None: ...
    def take(self, segments: int) -> int:
        return 0

    def give_back(self, segments: int) -> None: ...
    def submit(self, batch: list[Submission]) -> None: ...
    def binds(self) -> list[BindStatus]:
        return [BindStatus(self.name, "bound", self.window, self.window, 0.0)]


def block(local: Local, name: str) -> None:
    local.process.fleet.open[name].gateway = Stuck(name)


async def bound(local: Local, *names: str) -> bool:
    return all(local.process.fleet.usable(name) for name in names)


async def test_a_long_text_goes_by_another_gateway_with_a_small_window(
    make_world: MakeWorld, smsc: Smsc, until: Callable
) -> None:
    world = await make_world(smsc)
    await world.gateway("small", window=2)
    async with world.database.begin() as connection:
        values = {"to": "*", "gateways": ["small"], "tenant_id": 2, "position": 1}
        await config.create(connection, config.ROUTE, values, BY)
    await world.smsc.change(lost=1.0)
    local = await world.start()
    await until(lambda: bound(local, "smsc", "small"))
    (one,) = await world.accept(people(1), body=LONG, category=Category.transactional, tenant=2)
    await world.until_state(one, State.submitted)
    assert (
        await world.value(
            "SELECT count(*) FROM attempts a JOIN gateways g ON g.id = gateway_id WHERE g.name = 'smsc'"
        )
        == 0
    )
    await world.check_books()


async def side_route(world: World) -> None:
    """The second tenant has a gateway of its own."""
    await world.gateway("side")
    async with world.database.begin() as connection:
        values = {"to": "*", "gateways": ["side"], "tenant_id": 2, "position": 1}
        await config.create(connection, config.ROUTE, values, BY)


async def test_a_full_usual_gateway_does_not_hold_up_other_routes(
    make_world: MakeWorld, smsc: Smsc, until: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make_world(smsc)
    await side_route(world)
    await world.smsc.change(lost=1.0)
    local = await world.start()
    await until(lambda: bound(local, "smsc", "side"))
    block(local, "smsc")
    await world.accept(people(300))
    calls = claims(monkeypatch)
    started = time.monotonic()
    (one,) = await world.accept(people(1, 500), tenant=2)
    await world.until_state(one, State.submitted)
    assert len(calls) < 100 * (time.monotonic() - started) + 20
    assert len(await world.smsc.ledger()) == 1


async def test_a_full_gateway_beside_a_free_one_is_not_asked_without_a_pause(
    make_world: MakeWorld, smsc: Smsc, until: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make_world(smsc)
    await side_route(world)
    await world.smsc.change(lost=1.0)
    local = await world.start()
    await until(lambda: bound(local, "smsc", "side"))
    block(local, "side")
    calls = claims(monkeypatch)
    await world.accept(people(1), tenant=2)
    await until(lambda: len(calls) >= 12)
    assert calls[11] - calls[1] >= 0.4, "a rest after each claim"
    (one,) = await world.accept(people(1, 500))
    await world.until_state(one, State.submitted)


async def test_after_a_flush_the_rate_still_holds(world: World, until: Callable) -> None:
    await world.smsc.change(lost=1.0)
    await world.region("US", rate=100)
    local = await world.start()
    await world.accept(people(400))

    async def some(n: int) -> bool:
        return len(await world.smsc.ledger()) >= n

    await until(lambda: some(100))
    await world.queue.client.flushdb()
    local.process.dispatcher.detach()
    await until(lambda: some(250))
    assert peak(await world.smsc.ledger()) <= 100


async def test_a_journal_without_an_answer_repeats_only_what_it_wrote(
    make_world: MakeWorld, smsc: Smsc, until: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that was cancelled while its parcel waited is not in the journal, so it does not go again."""
    world = await make_world(smsc)
    local = await world.start()
    journal, cancelled = dispatch.journal, []

    async def in_doubt(driver: Any, intents: list[dispatch.Intent], *args: Any) -> dispatch.Journalled:
        if cancelled or not intents[0].sends:
            return await journal(driver, intents, *args)
        cancelled.append(intents[0].sends[0][0])
        await driver.execute(
            "INSERT INTO attempts (message_id, attempt, kind, mask, lease_id, at) VALUES ($1, 1, $2, 0, 0, now())",
            dispatch.as_uuid(cancelled[0]), int(State.cancelled),
        )  # fmt: skip
        await journal(driver, intents, *args)
        raise ConnectionError("the commit's answer was lost")

    monkeypatch.setattr(dispatch, "journal", in_doubt)
    await world.accept(people(3), category=Category.transactional)

    async def rest() -> bool:
        return len(await smsc.taken()) >= 2 and not await world.value("SELECT count(*) FROM parcels")

    await until(rest)
    assert local.working
    assert await smsc.taken() == dict.fromkeys(people(2, 1), 1)
    assert (
        await world.value(
            "SELECT max(attempt) FROM attempts WHERE message_id = $1", dispatch.as_uuid(cancelled[0])
        )
        == 1
    )
