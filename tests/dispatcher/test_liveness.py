"""Who is dead and who is only slow: looks at leases on a clock of the test's own, then real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.message import State
from app.store import dispatch, sweeps, timelines
from app.store.dispatch import Sighting
from app.store.webhooks import Publisher
from dispatcher import liveness, rebuild
from dispatcher.liveness import LOOK_EVERY_S, Watch
from dispatcher.main import next_pause_s

if TYPE_CHECKING:
    from tests.dispatcher.conftest import MakeWorld, Smsc, World

OWN, OTHER = 1, 2
DAY_S = 86_400.0
START = datetime(2030, 1, 1, tzinfo=UTC)


def dead_at(
    *,
    held: Callable[[float], bool] = lambda _: False,
    other_beats: Callable[[float], bool] = lambda _: False,
    own_beats: Callable[[float], bool] = lambda _: True,
    slow: Callable[[float], float] = lambda _: 0.0,
    interrupted: bool = False,
    for_s: float = 100.0,
) -> float | None:
    """When the other lease is found dead; each function takes the time since the first look, `slow` gives how
    long the answer took."""
    watch = Watch(OWN)
    if interrupted:
        watch.interrupted(0.0)
    now, beats = 0.0, {OWN: START, OTHER: START}
    while now < for_s:
        for lease, goes in ((OWN, own_beats), (OTHER, other_beats)):
            if goes(now):
                beats[lease] = START + timedelta(seconds=int(now))
        found = [Sighting(OWN, beats[OWN], True), Sighting(OTHER, beats[OTHER], held(now))]
        answered = now + slow(now)
        dead = watch.look(found, now, answered)
        assert OWN not in {one.lease_id for one in dead}
        if dead:
            return now
        now = answered + LOOK_EVERY_S
    return None


def test_gone_is_dead_after_a_short_silence() -> None:
    assert dead_at() == pytest.approx(liveness.GONE_S, abs=LOOK_EVERY_S)


def test_a_silent_process_whose_connection_answers_is_given_a_minute() -> None:
    assert dead_at(held=lambda _: True) == pytest.approx(liveness.HUNG_S, abs=LOOK_EVERY_S)


@pytest.mark.parametrize(
    "world",
    [
        {"other_beats": lambda _: True},
        {"own_beats": lambda _: False},
        {"slow": lambda _: 1.5},
        {"slow": lambda now: 9.0 if int(now) % 2 else 0.0},
    ],
    ids=["it beats", "we don't", "every answer is late", "answers stall"],
)
def test_slow_is_not_dead(world: dict[str, Any]) -> None:
    assert dead_at(**world, for_s=50.0) is None


def test_silence_counts_from_the_end_of_a_stall() -> None:
    found = dead_at(slow=lambda now: 9.0 if now == 1.0 else 0.0)
    assert found == pytest.approx(10.0 + liveness.GONE_S, abs=2 * LOOK_EVERY_S)


def test_silence_counts_from_when_the_lock_came_free() -> None:
    found = dead_at(held=lambda now: now < 10.0)
    assert found == pytest.approx(10.0 + liveness.GONE_S, abs=LOOK_EVERY_S)


def test_when_connections_were_lost_the_others_have_longer_to_come_back() -> None:
    assert dead_at(interrupted=True) == pytest.approx(liveness.CAREFUL_S, abs=LOOK_EVERY_S)


def test_a_dispatcher_that_is_no_longer_alive_itself_declares_nobody_dead() -> None:
    watch = Watch(OWN)
    found = [Sighting(OTHER, START, False)]
    assert [watch.look(found, at * 0.5, at * 0.5) for at in range(20)] == [[]] * 20


async def test_a_lock_is_seen_and_comes_free_with_its_connection(world: World) -> None:
    async with world.database.driver() as driver:
        lease = await dispatch.open_lease(driver, "host:1")
        async with world.database.driver() as holder:
            await dispatch.hold_lease(holder, lease)
            assert [one.held for one in await dispatch.sightings(driver) if one.lease_id == lease] == [True]
            await holder.close()

        async def free() -> bool:
            return [one.held for one in await dispatch.sightings(driver) if one.lease_id == lease] == [False]

        for _ in range(500):
            if await free():
                break
            await asyncio.sleep(0.01)
        (seen,) = [one for one in await dispatch.sightings(driver) if one.lease_id == lease]
        await dispatch.beat(driver, lease, await timelines.current(driver))
        assert not await dispatch.end_silent(driver, seen), "it was heard of since"
        (seen,) = [one for one in await dispatch.sightings(driver) if one.lease_id == lease]
        assert not seen.held
        assert await dispatch.end_silent(driver, seen)
        assert not await dispatch.end_silent(driver, seen)


async def test_a_lease_is_not_closed_while_a_parcel_is_under_it(world: World) -> None:
    async with world.database.driver() as driver:
        lease = await dispatch.open_lease(driver, "host:1")
        await dispatch.end_lease(driver, lease)
        await world.accept(["+14152000000"], offer=False)
        await driver.execute("UPDATE parcels SET lease_id = $1", lease)
        assert not await dispatch.close_lease(driver, lease)
        assert lease in await dispatch.ended_with_work(driver)
        await driver.execute("UPDATE parcels SET lease_id = NULL")
        assert await dispatch.close_lease(driver, lease)
        assert lease not in await dispatch.ended_with_work(driver)


async def test_the_pass_for_unconfirmed_texts_leaves_out_what_an_earlier_one_has_closed(world: World) -> None:
    old, new = await world.accept(["+14152000000", "+14152000001"], offer=False)
    now_s = time.time()
    async with world.database.driver() as driver:
        await driver.execute("DELETE FROM parcels")
        for message_id, days in ((old, 5), (new, 4)):
            handed_over = datetime.fromtimestamp(now_s - days * DAY_S, UTC)
            await driver.execute(
                "INSERT INTO attempts (message_id, attempt, kind, gateway_id, mask, lease_id, at)"
                " VALUES ($1, 1, 4, 1, 1, 1, $2)",
                uuid.UUID(bytes=message_id),
                handed_over,
            )
            await driver.execute(
                "INSERT INTO outcomes (message_id, attempt, segment, segments, gateway_id, kind, to_check, at)"
                " VALUES ($1, 1, 0, 1, 1, 1, 0, $2)",
                uuid.UUID(bytes=message_id),
                handed_over,
            )

        async def close(since_s: float) -> int:
            return (await sweeps.close_unconfirmed(driver, now_s, 3 * DAY_S, Publisher(), since_s=since_s))[0]

        assert [await close(now_s - 4.5 * DAY_S), await close(0.0), await close(0.0)] == [1, 1, 0]


def test_joining_a_redis_that_refuses_is_slowed_down() -> None:
    pauses = [0.0]
    for _ in range(8):
        pauses.append(next_pause_s(pauses[-1]))
    assert pauses == [0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


async def test_a_dispatcher_does_not_hammer_a_redis_that_it_loses_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = await world.start()
    joins = 0
    join = rebuild.join

    async def counted(*args: Any) -> bool:
        nonlocal joins
        joins += 1
        return await join(*args)

    monkeypatch.setattr(rebuild, "join", counted)
    began = time.monotonic()
    while time.monotonic() < began + 2.0 or joins < 2:
        if local.process.dispatcher.attached.is_set():
            local.process.dispatcher.detach()
        await asyncio.sleep(0.005)
    assert joins <= 5 + max(0.0, time.monotonic() - began - 2.5), "the pauses grow to five seconds"


def children_of(pid: int) -> list[int]:
    """Processes whose parent this is, by /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def stop_and_go(server_pid: int, signal_number: int) -> None:
    for pid in [server_pid, *children_of(server_pid)]:
        os.kill(pid, signal_number)


async def test_postgres_that_stands_still_kills_nobody(
    make_world: MakeWorld, smsc_process: Smsc, engines: Any, until: Callable
) -> None:
    postgres = engines.postgres()
    world = await make_world(smsc_process, database_url=postgres.url, window=50, binds=2)
    await world.smsc.change(answer_delay_s=0.02)
    world.spawn()
    world.spawn()

    async def both() -> bool:
        return await world.value("SELECT count(DISTINCT lease_id) FROM bind_leases") == 2

    async def left(n: int) -> bool:
        return len(await world.smsc.ledger()) >= n

    await until(both, timeout_s=30)
    await world.accept([f"+1415{2000000 + i}" for i in range(900)])
    await until(lambda: left(200), timeout_s=30)
    server = int((postgres.data / "postmaster.pid").read_text().split()[0])
    stop_and_go(server, signal.SIGSTOP)
    try:
        await asyncio.sleep(7.0)  # that it lasts is the point
    finally:
        stop_and_go(server, signal.SIGCONT)
    await world.until_final(timeout_s=60)
    assert await world.states() == {State.delivered: 900}
    assert await world.value("SELECT count(*) FROM leases") == 2
    assert await world.value("SELECT count(*) FROM leases WHERE ended_at IS NOT NULL") == 0
