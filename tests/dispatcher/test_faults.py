"""Promises 1 and 2 under fire: dispatchers, Valkey, PostgreSQL and carriers killed in mid-batch.

After each fault everything that was accepted ends, nobody gets a marketing text twice, and what is `unknown`
is no more than was under way, each with the reason why.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import redis

from app import offering, rules
from app.domain.message import State
from app.queue import lanes
from app.queue.connection import LAYOUT

if TYPE_CHECKING:
    from tests.dispatcher.conftest import Local, MakeWorld, Smsc, World

WINDOW = 50


def people(n: int, start: int = 0) -> list[str]:
    return [f"+1415{2000000 + start + i}" for i in range(n)]


async def left(world: World, n: int) -> bool:
    return len(await world.smsc.ledger()) >= n


async def nothing_under_way(world: World) -> bool:
    """No parcel is left, and nothing is between the journal and its outcome."""
    if await world.value("SELECT count(*) FROM parcels"):
        return False
    return (await world.states())[State.submitting] == 0


async def suppress(world: World, *some: str) -> None:
    await rules.suppress(
        world.database, world.queue, rules.Owner(1, world.keys[1]), [rules.Stop(one) for one in some],
        source="api", actor="t", now_s=time.time(),
    )  # fmt: skip


async def check_ends(world: World, *, unknown_at_most: int, reasons: set[str]) -> Counter[State]:
    """Every text is delivered or, at most so many, unknown for one of these reasons; none went twice."""
    standings = (await world.standings()).values()
    states = Counter(one.state for one in standings)
    assert set(states) <= {State.delivered, State.unknown, State.submitted}, states
    assert states[State.unknown] <= unknown_at_most, states
    assert {one.reason for one in standings if one.state == State.unknown} <= reasons
    taken = await world.smsc.taken()
    assert max(taken.values()) == 1, [one for one, n in taken.items() if n > 1]
    assert len(taken) >= world.accepted - states[State.unknown]
    await world.check_books()
    return states


async def kill_rounds(world: World, until: Callable, rounds: int, each: int) -> None:
    """Dispatchers are killed in mid-batch again and again; the last one finishes."""
    child = world.spawn()
    for round_ in range(rounds):
        start = len(await world.smsc.ledger())
        await world.accept(people(each, round_ * each))
        await until(lambda n=start + each // 3: left(world, n), timeout_s=60)
        child.kill()
        child = world.spawn()
    await until(lambda: nothing_under_way(world), timeout_s=60)
    # receipts of texts whose answer died with the dispatcher resolve them
    await until(lambda: resolved(world), timeout_s=30)
    states = await check_ends(world, unknown_at_most=rounds * WINDOW, reasons={"dispatcher_lost"})
    assert states.total() == rounds * each
    assert states[State.submitted] == 0
    lost = await world.value("SELECT count(*) FROM outcomes WHERE reason = 'dispatcher_lost'")
    assert lost <= rounds * WINDOW, "never more than a window was in doubt"
    assert await child.stop() == 0


async def resolved(world: World) -> bool:
    return (await world.states())[State.submitted] == 0


async def test_a_killed_dispatcher_loses_nothing_and_doubles_nothing(
    make_world: MakeWorld, smsc_process: Smsc, until: Callable
) -> None:
    world = await make_world(smsc_process, window=WINDOW)
    await world.smsc.change(answer_delay_s=0.02)
    await kill_rounds(world, until, rounds=1, each=900)


@pytest.mark.soak
async def test_dispatchers_killed_again_and_again(
    make_world: MakeWorld, smsc_process: Smsc, until: Callable
) -> None:
    world = await make_world(smsc_process, window=WINDOW)
    await world.smsc.change(answer_delay_s=0.02, answer_jitter_s=0.02)
    await kill_rounds(world, until, rounds=8, each=900)


@pytest.mark.soak
async def test_two_dispatchers_one_killed_the_other_finishes(
    make_world: MakeWorld, smsc_process: Smsc, until: Callable
) -> None:
    world = await make_world(smsc_process, window=WINDOW, binds=2)
    await world.smsc.change(answer_delay_s=0.02)
    victim, survivor = world.spawn(), world.spawn()

    async def both() -> bool:
        return await world.value("SELECT count(DISTINCT lease_id) FROM bind_leases") == 2

    await until(both, timeout_s=30)
    await world.accept(people(1200))
    await until(lambda: left(world, 400), timeout_s=30)
    victim.kill()
    await until(lambda: nothing_under_way(world), timeout_s=60)
    await until(lambda: resolved(world), timeout_s=30)
    await check_ends(world, unknown_at_most=WINDOW, reasons={"dispatcher_lost"})
    assert await world.value("SELECT count(DISTINCT lease_id) FROM attempts WHERE lease_id > 0") == 2
    assert await survivor.stop() == 0


async def test_a_stopped_dispatcher_leaves_nothing_in_doubt(
    make_world: MakeWorld, smsc_process: Smsc, until: Callable
) -> None:
    world = await make_world(smsc_process, window=WINDOW)
    await world.smsc.change(answer_delay_s=0.2)  # some are still to go, however late the stop comes
    child = world.spawn()
    await world.accept(people(900))
    await until(lambda: left(world, 300), timeout_s=30)
    assert await child.stop() == 0
    assert await world.value("SELECT count(*) FROM leases WHERE ended_at IS NULL") == 0
    assert await world.value("SELECT count(*) FROM parcels WHERE lease_id IS NOT NULL") == 0
    states = await world.states()
    assert states[State.unknown] == states[State.submitting] == 0
    assert states[State.queued] > 0
    await world.smsc.change(answer_delay_s=0.0)
    world.spawn()
    await world.until_final(timeout_s=30)
    await check_ends(world, unknown_at_most=0, reasons=set())


async def test_a_cut_with_a_full_window_is_unknown_once_each_and_the_rest_goes_on(
    make_world: MakeWorld, smsc: Smsc, until: Callable
) -> None:
    world = await make_world(smsc, window=WINDOW)
    local = await world.start()
    await world.smsc.change(answer_delay_s=30.0, lost=1.0)
    await world.accept(people(200))
    await until(lambda: left(world, WINDOW))
    await world.smsc.change(answer_delay_s=0.0)
    await world.smsc.cut()
    await world.until_states(unknown=WINDOW, submitted=200 - WINDOW)
    unknown = [one for one in (await world.standings()).values() if one.state == State.unknown]
    assert {one.reason for one in unknown} == {"connection_lost"}
    assert await world.smsc.taken() == dict.fromkeys(people(200), 1)
    assert local.process.fleet.open["smsc"].gateway.take(1000) == WINDOW, "all credit came back"
    await world.check_books()


# Valkey


async def valkey_round(world: World, until: Callable, fault: Callable[[], Any]) -> None:
    """Half a batch, then the fault; everything ends, and nobody who opted out is texted."""
    stopped = people(600)[5::40]
    child = world.spawn()
    await until(lambda: attached(world), timeout_s=30)
    await suppress(world, *stopped[:8])
    await world.accept(people(600))
    await until(lambda: left(world, 150), timeout_s=30)
    await asyncio.to_thread(fault)
    before = {entry["to"] for entry in await world.smsc.ledger()}
    still = [one for one in stopped[8:] if one[1:] not in before]
    assert still, "some of those who opt out now are still to come"
    await suppress(world, *still)
    await world.until_final(timeout_s=60)
    taken = await world.smsc.taken()
    out = set(stopped[:8]) | set(still)
    delivered = set(people(600)) - out
    assert not out & (set(taken) - {f"+{one}" for one in before})
    assert {one: taken[one] for one in delivered} == dict.fromkeys(delivered, 1)
    await world.check_books()
    assert await child.stop() == 0


async def attached(world: World) -> bool:
    return await world.value("SELECT ready FROM redis_epoch")


async def test_valkey_killed_and_its_data_deleted(
    make_world: MakeWorld, smsc_process: Smsc, engines: Any, until: Callable
) -> None:
    valkey = engines.valkey()
    world = await make_world(smsc_process, redis_url=valkey.url, window=WINDOW)
    await world.smsc.change(answer_delay_s=0.05)

    def fault() -> None:
        valkey.kill()
        valkey.wipe()
        valkey.start()

    await valkey_round(world, until, fault)


@pytest.mark.soak
async def test_valkey_flushed_without_a_restart(
    make_world: MakeWorld, smsc_process: Smsc, engines: Any, until: Callable
) -> None:
    valkey = engines.valkey()
    world = await make_world(smsc_process, redis_url=valkey.url, window=WINDOW)
    await world.smsc.change(answer_delay_s=0.05)

    def fault() -> None:
        with redis.Redis.from_url(valkey.url) as client:
            client.flushall()

    await valkey_round(world, until, fault)


@pytest.mark.soak
async def test_valkey_restarted_with_half_of_its_log(
    make_world: MakeWorld, smsc_process: Smsc, engines: Any, until: Callable
) -> None:
    valkey = engines.valkey()
    world = await make_world(smsc_process, redis_url=valkey.url, window=WINDOW)
    await world.smsc.change(answer_delay_s=0.05)

    def fault() -> None:
        valkey.kill()
        (log,) = (valkey.data / "appendonlydir").glob("*.incr.aof")
        with log.open("r+b") as file:
            file.truncate(log.stat().st_size // 2)
        valkey.start()

    await valkey_round(world, until, fault)


def epochs_built(*dispatchers: Local) -> int:
    return sum(one.process.metrics.epochs_built for one in dispatchers)


async def test_an_idle_dispatcher_joins_the_epoch_that_another_one_began(
    make_world: MakeWorld, smsc: Smsc, until: Callable
) -> None:
    world = await make_world(smsc, binds=2)
    first, second = await world.start(), await world.start()
    built = epochs_built(first, second)
    await world.queue.client.flushall()
    await until(
        lambda: first.working and second.working
        and first.process.queue.epoch == second.process.queue.epoch > 1
    )  # fmt: skip
    assert epochs_built(first, second) > built
    await world.accept(people(50))
    await world.until_final()
    await check_ends(world, unknown_at_most=0, reasons=set())


async def test_a_copy_in_another_layout_answers_nothing(
    make_world: MakeWorld, smsc: Smsc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer Volley meets the keys of an older one, on a server that ran on."""
    world = await make_world(smsc)
    local = await world.start()
    stopped, *others = people(3)
    await suppress(world, stopped)
    assert await local.stop() == 0
    before = await world.value("SELECT epoch FROM redis_epoch")
    await world.queue.client.delete(f"v{before}:{{t1}}:suppressed")  # it stands elsewhere in the newer layout
    monkeypatch.setattr("app.queue.connection.LAYOUT", LAYOUT + 1)
    await world.start()
    assert await world.value("SELECT epoch FROM redis_epoch") == before + 1
    await world.accept([stopped, *others])
    await world.until_final()
    assert await world.states() == {State.suppressed: 1, State.delivered: 2}
    assert await world.smsc.taken() == dict.fromkeys(others, 1)


async def test_claims_whose_answer_was_lost_come_back(world: World) -> None:
    """The script ran, the connection died: Redis says that we hold parcels that we never saw."""
    local = await world.start()
    process = local.process
    batch = await world.batch()
    await world.accept(people(10), batch=batch, offer=False)
    process.fleet.paused_regions = frozenset({"US"})
    assert await offering.attach(world.database, world.queue)
    assert await offering.offer_open(world.database, world.queue) == 1
    assert len(await lanes.claim(world.queue, ["US:3"], process.lease_id, {"US:3": 100}, 10)) == 1
    process.fleet.paused_regions = frozenset()
    process.dispatcher.detach()
    await world.until_final()
    assert await world.states() == {State.delivered: 10}


# PostgreSQL


async def test_postgres_killed_in_mid_batch(
    make_world: MakeWorld, smsc_process: Smsc, engines: Any, until: Callable
) -> None:
    postgres = engines.postgres()
    world = await make_world(smsc_process, database_url=postgres.url, window=WINDOW)
    await world.smsc.change(answer_delay_s=0.02)
    child = world.spawn()
    await world.accept(people(900))
    await until(lambda: left(world, 300), timeout_s=30)
    await asyncio.to_thread(postgres.kill)
    await asyncio.to_thread(postgres.start)
    await world.database.dispose()
    await world.until_final(timeout_s=60)
    await check_ends(world, unknown_at_most=0, reasons=set())
    assert await child.stop() == 0


@pytest.mark.soak
async def test_postgres_away_for_longer_than_a_lease_lives(
    make_world: MakeWorld, smsc_process: Smsc, engines: Any, until: Callable
) -> None:
    """Nobody could be heard of while it was away: nobody is declared dead for it."""
    postgres = engines.postgres()
    world = await make_world(smsc_process, database_url=postgres.url, window=WINDOW)
    await world.smsc.change(answer_delay_s=0.02)
    child = world.spawn()
    await world.accept(people(900))
    for n in (200, 500):
        await until(lambda n=n: left(world, n), timeout_s=30)
        await asyncio.to_thread(postgres.kill)
        await asyncio.sleep(7.0)  # that it lasts is the point
        await asyncio.to_thread(postgres.start)
        await world.database.dispose()
    await world.until_final(timeout_s=60)
    await check_ends(world, unknown_at_most=0, reasons=set())
    assert await world.value("SELECT count(*) FROM leases") == 1
    assert await child.stop() == 0


class Wire:
    """A TCP relay to PostgreSQL that loses the answer to every so many-th COMMIT, and the connection with it."""

    def __init__(self, port: int, every: int) -> None:
        self.port = 0
        self.lost = 0
        self._target, self._every, self._commits = port, every, 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection("127.0.0.1", self._target)
        swallow = False

        async def forth() -> None:
            nonlocal swallow
            while data := await reader.read(65536):
                if b"COMMIT;" in data:
                    self._commits += 1
                    swallow = self._every > 0 and self._commits % self._every == 0
                here.write(data)
            here.close()

        async def back() -> None:
            while data := await there.read(65536):
                if swallow:
                    self.lost += 1
                    break
                writer.write(data)
            writer.close()
            here.close()

        await asyncio.gather(forth(), back(), return_exceptions=True)


async def test_the_answer_to_a_commit_is_lost(make_world: MakeWorld, smsc: Smsc, until: Callable) -> None:
    """Journal, outcomes, receipts: committed, and the dispatcher is not told. Nothing is done twice for it."""
    world = await make_world(smsc, window=WINDOW)
    direct = urlsplit(world.database_url)
    assert direct.port is not None
    wire = Wire(direct.port, every=5)
    await wire.start()
    world.database_url = direct._replace(
        netloc=direct.netloc.replace(str(direct.port), str(wire.port))
    ).geturl()
    await world.smsc.change(answer_delay_s=0.02, redeliver_s=0.05)
    await world.start()
    await world.accept(people(600))
    await world.until_final(timeout_s=40)
    assert wire.lost > 5
    assert await world.smsc.taken() == dict.fromkeys(people(600), 1)
    assert await world.states() == {State.delivered: 600}
    segments = await world.fetch(
        "SELECT message_id, attempt, segment FROM outcomes GROUP BY 1, 2, 3 HAVING count(*) > 1"
    )
    assert segments == [], "an outcome was recorded twice"
    await world.check_books()
    await wire.stop()
