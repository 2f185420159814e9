"""What can't make today's hours at its rate is put off to the opening, at once; the rest goes on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from app.domain import ids
from app.domain.message import Category, State
from app.queue import lanes
from app.store.config import REGION
from dispatcher.deadlines import Deadlines
from tests.dispatcher.conftest import MakeWorld, Smsc, World, until

LOCAL = ZoneInfo("Asia/Ho_Chi_Minh")  # Thailand's, too


def closing_in(minutes: int) -> tuple[str, float]:
    """Hours that are open now, shut in so many minutes (up to one more), and open again two hours later; when."""
    shuts = (datetime.now(LOCAL) + timedelta(minutes=minutes + 1)).replace(second=0, microsecond=0)
    opens = shuts + timedelta(hours=2)
    shut, again = shuts.strftime("%H:%M").replace("00:00", "24:00"), opens.strftime("%H:%M")
    hours = f'[["00:00", "{shut}"], ["{again}", "24:00"]]' if shut < again else f'[["{again}", "{shut}"]]'
    return hours, opens.timestamp()


async def put_off(world: World) -> list[Any]:
    return await world.fetch("SELECT * FROM parcels WHERE reason = 'deadline' ORDER BY due_at, id")


async def test_what_cannot_make_it_is_put_off_at_once_and_goes_at_the_opening(
    make_world: MakeWorld, smsc: Smsc, country: Callable[..., dict[str, bytes]]
) -> None:
    world = await make_world(smsc, binds=2)
    hours, opens = closing_in(2)
    world.packs |= country("VN", hours=hours)
    await world.region("VN", rate=2, lead_s=0)
    to = [f"+84912{300000 + i}" for i in range(1000)]
    batch = await world.batch()
    await world.accept(to, land="VN", pack_size=10, batch=batch)
    code = (await world.accept(["+84912200000"], land="VN", category=Category.otp, valid_s=3600))[0]
    await world.start()
    await world.start()
    # at 2 a second, 360 can go in the three minutes that may be left, and what was open at once at the start
    found = await until(lambda: _if(world, lambda rows: sum(r["n"] for r in rows) >= 590), "put off")
    assert sum(row["n"] for row in found) < 1000 - 2 * 60
    assert all(opens <= row["due_at"].timestamp() < opens + 1 for row in found)
    assert await world.until_state(code, State.delivered)
    last = ids.message_id(found[-1]["pack_id"].bytes, 0)
    standing = await world.standing(last)
    assert (standing.state, standing.reason) == (State.deferred, "deadline")
    step = (await world.trace(last))[-1]
    assert (step.check, step.rule, step.verdict) == ("deadline", "VN.marketing", "hold")
    await world.check_books()
    # the hour has come, and the rate has risen: nothing is lost, nothing doubled
    await world.change(REGION, {"code": "VN"}, rate=None)
    await world.execute("UPDATE parcels SET due_at = now() WHERE reason = 'deadline'")
    await world.until_final()
    assert set(await world.smsc.taken()) == {*to, "+84912200000"}
    assert set((await world.smsc.taken()).values()) == {1}
    await world.check_books()


async def _if(world: World, holds: Callable[[list[Any]], bool]) -> list[Any] | None:
    found = await put_off(world)
    return found if holds(found) else None


async def test_what_can_make_it_stays(world: World, country: Callable[..., dict[str, bytes]]) -> None:
    """So does what is no marketing, has no rate, or would be stale by then."""
    hours, _ = closing_in(2)
    world.packs |= country("VN", hours=hours) | country("TH", hours=hours)
    await world.region("VN", rate=1, lead_s=0)
    await world.region("TH", lead_s=0)
    local = await world.start()
    await world.change(REGION, {"code": "VN"}, paused=True)
    await until(lambda: "VN" in local.process.fleet.paused_regions)
    land = {"land": "VN", "pack_size": 10}
    await world.accept([f"+84912{300000 + i}" for i in range(100)], **land)  # 100 s of work
    await world.accept([f"+84912{400000 + i}" for i in range(500)], **land, category=Category.transactional)
    await world.accept([f"+84912{500000 + i}" for i in range(500)], **land, valid_s=3600, priority=9)
    await world.accept([f"+6681{2000000 + i}" for i in range(200)], land="TH", pack_size=10)
    await world.change(REGION, {"code": "VN"}, paused=False)
    await until(lambda: not local.process.fleet.paused_regions)
    process = local.process
    asked = Deadlines(world.database, process.queue, process.dispatcher.desk, process.fleet, process.metrics)
    assert not await asked.turn()
    assert not await put_off(world)
    await world.accept([f"+84912{600000 + i}" for i in range(500)], **land, priority=7)
    (name,) = [one for one in await lanes.subqueues(process.queue, "VN:3", 9) if one.startswith("7/")]
    _, last = await lanes.tail(process.queue, "VN:3", name, 50)
    assert not await asked.turn()
    rows = await put_off(world)
    assert [row["id"].bytes for row in rows] == [one.id for one in reversed(last)][
        -len(rows) :
    ]  # in their order
    assert 500 - 180 <= sum(row["n"] for row in rows) <= 500 - (120 - 100) + 10
    assert {row["priority"] for row in rows} == {7}
    await world.check_books()
