"""Promise 1 across a failover: a primary that dies with commits its asynchronous standby never got.

Real servers: a standby made by pg_basebackup, cut off from the stream at a moment of the test's choosing, so that
what is lost is known. Clients reach whichever is the primary at one address, as they do in production.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from app import offering, rules
from app.domain.ids import new_id as make_id
from app.domain.message import Category, State
from app.domain.pack import Parcel, narrowed
from app.engines import ports
from app.engines.postgres import SETTINGS
from app.engines.process import spawn
from app.queue import cleaning, lanes
from app.store import dispatch, durability, parcels, timelines
from app.store.batches import BatchState
from app.store.webhooks import Publisher
from dispatcher import rebuild
from dispatcher.metrics import Metrics

if TYPE_CHECKING:
    from tests.conftest import Engines
    from tests.dispatcher.conftest import MakeWorld, Smsc, World

READY_S = 60.0


class Address:
    """A port that leads to the primary, whichever it is; nowhere while there is none."""

    def __init__(self) -> None:
        self.target: int | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        self.lead(None)

    def lead(self, port: int | None) -> None:
        """From now on to that port; connections to the last one are reset."""
        self.target = port
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            if self.target is None:
                writer.transport.abort()
                return
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers |= {writer, back}
            await asyncio.gather(_pump(reader, back), _pump(there, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


class Pair:
    """A primary and its standby."""

    def __init__(self, engines: Engines) -> None:
        self.home = engines.home()
        self.primary = engines.postgres_in(
            self.home, "wal_level = replica\nmax_wal_senders = 4\nwal_keep_size = 512MB\n"
        )
        self.address = Address()
        self.port = 0
        self.folder = self.home.engines / "standby"
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Both: the standby is a copy of the primary's data at rest."""
        self.primary.stop()
        subprocess.run(["cp", "-a", self.primary.data, self.folder], check=True)
        self.primary.start()
        hba = self.primary.data / "pg_hba.conf"
        hba.write_text(hba.read_text() + "host replication all 127.0.0.1/32 scram-sha-256\n")
        await self._execute(self.primary.url, "SELECT pg_reload_conf()")
        self.proxy = await self.address.start()
        self.address.lead(self.primary.port)
        self.port = ports.free()
        settings = SETTINGS.format(port=self.port, wal_compression="off")
        source = f"hot_standby = on\nprimary_conninfo = '{self.primary.url}'\n"
        for name, text in (
            ("postgresql.conf", settings + source),
            ("standby.signal", ""),
            ("local.conf", ""),
        ):
            self.home.write_private(self.folder / name, text, for_engine=True)
        with (self.home.logs / "standby.log").open("ab") as log:
            self.process = spawn(
                [self.home.programs.postgres_bin / "postgres", "-D", self.folder],
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, account=self.home.account, output=log,
                death_signal=signal.SIGQUIT,
            )  # fmt: skip
        await self._until(self._caught_up)

    @property
    def url(self) -> str:
        """What clients are told."""
        return self._at(self.proxy)

    def _at(self, port: int) -> str:
        parts = urlsplit(self.primary.url)
        return parts._replace(netloc=parts.netloc.rpartition(":")[0] + f":{port}").geturl()

    async def _execute(self, url: str, *statements: str) -> Any:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements:
                found = await connection.fetchval(statement)
            return found
        finally:
            await connection.close()

    async def _until(self, condition: Callable[[], Any]) -> None:
        ends = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(OSError, asyncpg.PostgresError):
                if await condition():
                    return
            assert time.monotonic() < ends, (self.home.logs / "standby.log").read_text()
            await asyncio.sleep(0.05)

    async def _caught_up(self) -> bool:
        lsn = await self._execute(self.primary.url, "SELECT pg_current_wal_lsn()::text")
        ask = f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn"
        return await self._execute(self._at(self.port), ask)

    async def cut(self) -> None:
        """From now on the standby gets nothing: what is committed is lost with the primary."""
        await self._until(self._caught_up)
        await self._execute(
            self._at(self.port), "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"
        )
        await self._until(self._alone)

    async def _alone(self) -> bool:
        return await self._execute(
            self._at(self.port), "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)"
        )

    async def fail_over(self) -> None:
        """The primary dies, the standby takes its place."""
        self.primary.kill()
        self.address.lead(None)
        await self._execute(self._at(self.port), "SELECT pg_promote()")
        self.address.lead(self.port)

    async def stop(self) -> None:
        await self.address.stop()
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
async def pair(engines: Engines) -> AsyncIterator[Pair]:
    made = Pair(engines)
    await made.start()
    yield made
    await made.stop()


def people(n: int, start: int = 0) -> list[str]:
    return [f"+1415{2000000 + start + i}" for i in range(n)]


async def left(world: World, n: int) -> bool:
    return len(await world.smsc.ledger()) >= n


async def found(world: World) -> dict[str, Any]:
    """What the one who put the books in order found."""
    rows = await world.fetch("SELECT after FROM audit_log WHERE action = 'failover' ORDER BY at DESC LIMIT 1")
    return rows[0][0] if rows else {}


async def check_nobody_twice(world: World) -> None:
    taken = await world.smsc.taken()
    assert not [one for one, n in taken.items() if n > 1]


# Below, what a failover leaves is arranged: another timeline, and rows as they were before what was lost.


async def leave_timeline(world: World) -> None:
    """What PostgreSQL knows of timelines is of an earlier one."""
    await world.execute("UPDATE timelines SET timeline = '1/00000000'")


async def reconciled(world: World, until: Callable) -> dict[str, Any]:
    local = await world.start()
    await until(lambda: local.working)
    return await found(world)


async def redis_with(world: World, until: Callable) -> None:
    """An epoch that stands, and nobody at work on it."""
    local = await world.start()
    assert await local.stop() == 0
    assert await offering.attach(world.database, world.queue)
    await world.smsc.change(answer_delay_s=0.0)


async def test_what_redis_still_holds_goes_on_and_what_it_holds_no_longer_is_unknown(
    world: World, until: Callable
) -> None:
    await redis_with(world, until)
    waiting = await world.accept(people(10))
    gone = await world.accept(people(10, 100), offer=False)
    otp = await world.accept(people(1, 200), category=Category.otp, valid_s=600.0, offer=False)
    later = await world.accept(people(10, 300), offer=False, due_in_s=1_800.0)
    claimed = await world.accept(people(10, 400), region="GB")
    assert len(await lanes.claim(world.queue, ["GB:3"], 1, {"GB:3": 100}, 10)) == 1
    await leave_timeline(world)
    result = await reconciled(world, until)
    assert (result["unknown"], result["again"], result["redis_trusted"]) == (21, 1, True)
    await world.until_state(waiting[0], State.delivered, timeout_s=90)
    await world.until_state(otp[0], State.delivered, timeout_s=90)
    states = {one: s.state for one, s in (await world.standings()).items()}
    assert {states[one] for one in waiting} == {State.delivered}
    assert {states[one] for one in (*gone, *claimed)} == {State.unknown}
    assert {states[one] for one in later} == {State.deferred}
    assert [(c.check, c.verdict) for c in await world.trace(gone[0])] == [("failover", "unknown")]
    assert await world.value("SELECT count(*) FROM cap_events") >= 20
    taken = await world.smsc.taken()
    assert set(taken) == {*people(10), *people(1, 200)}
    await world.check_books()


async def test_what_was_held_in_what_is_lost_waits_on_as_redis_knows_it(
    world: World, until: Callable
) -> None:
    await redis_with(world, until)
    some = await world.accept(people(10), offer=False)
    async with world.database.driver() as driver:
        (old,) = await parcels.open_page(driver, due_before_s=time.time() + 1)
    new = Parcel(
        make_id(time.time() + 0.01), old.pack_id, 1, 1, 5, time.time() + 600, narrowed(old.pack, range(4))
    )
    lost = Parcel(make_id(time.time()), make_id(time.time()), 1, 1, 5, time.time() + 600, old.pack)
    await lanes.offer(world.queue, [new, lost])  # journalled: six went, four are held, and a stranger
    await leave_timeline(world)
    result = await reconciled(world, until)
    assert (result["unknown"], result["waiting"], result["lost_in_redis"]) == (6, 4, 10)
    states = [(await world.standing(one)).state for one in some]
    assert states == [State.deferred] * 4 + [State.unknown] * 6
    await world.check_books()


async def test_both_engines_lost_leave_all_that_was_due_in_doubt(world: World, until: Callable) -> None:
    await redis_with(world, until)
    due = await world.accept(people(10))
    later = await world.accept(people(10, 100), due_in_s=600.0)
    await world.execute("UPDATE timelines SET seen_at = now()")
    await leave_timeline(world)
    await world.queue.client.flushdb()
    result = await reconciled(world, until)
    assert (result["unknown"], result["redis_trusted"]) == (10, False)
    states = {one: s.state for one, s in (await world.standings()).items()}
    assert {states[one] for one in due} == {State.unknown}
    assert {states[one] for one in later} == {State.deferred}
    assert not await world.smsc.taken()
    await world.check_books()


async def test_what_was_accepted_on_the_new_timeline_is_in_no_doubt(world: World, until: Callable) -> None:
    await redis_with(world, until)
    new = await world.accept(people(10), offer=False)
    await world.execute("UPDATE timelines SET seen_at = now() - interval '1 hour'")
    await leave_timeline(world)
    await world.queue.client.flushdb()
    assert (await reconciled(world, until))["unknown"] == 0
    await world.until_state(new[-1], State.delivered, timeout_s=90)


async def test_a_paused_or_loading_batch_is_in_doubt_only_if_it_went_on_in_what_is_lost(
    world: World, until: Callable
) -> None:
    await redis_with(world, until)
    batches = {}
    for state in (BatchState.paused, BatchState.loading):
        for offered in (False, True):
            batch = await world.batch()
            batches[batch] = offered
            start = 100 * len(batches)
            ids = await world.accept(people(5, start), batch=batch)
            if offered:  # and handed over; then PostgreSQL falls back
                await offering.offer_open(world.database, world.queue, batch)
                (one,) = await lanes.claim(world.queue, ["US:3"], 1, {"US:3": 100}, 10)
                await lanes.settle(world.queue, [(one.lane, one.id)], 1)
            await world.set_batch(batch, state)
            batches[ids[0]] = offered
    await leave_timeline(world)
    assert (await reconciled(world, until))["unknown"] == 10
    states = {one: s.state for one, s in (await world.standings()).items()}
    for first, offered in batches.items():
        if first in states:
            assert (states[first] is State.unknown) is offered
    assert not await world.smsc.taken()
    await world.check_books()


async def test_an_opt_out_that_redis_kept_is_written_back(world: World, until: Callable) -> None:
    await redis_with(world, until)
    owner, (stopped, withdrawn, granted) = rules.Owner(1, world.keys[1]), people(3)
    now = {"actor": "t", "now_s": time.time()}
    words = [rules.Word(one, at_s=time.time() - 3600) for one in (withdrawn, granted)]
    await rules.grant(world.database, world.queue, owner, words, **now)
    await world.execute("CREATE TABLE kept AS SELECT * FROM consents")
    await rules.suppress(world.database, world.queue, owner, [rules.Stop(stopped)], source="api", **now)
    await rules.withdraw(world.database, world.queue, owner, [rules.Word(withdrawn)], **now)
    await world.execute("DELETE FROM suppressions")
    await world.execute("DELETE FROM consents")
    await world.execute("INSERT INTO consents SELECT * FROM kept")
    await leave_timeline(world)
    result = await reconciled(world, until)
    assert (result["suppressed"], result["withdrawn"]) == (1, 1)
    async with world.database.driver() as driver:
        assert await rules.book.suppressed(driver, 1, [(world.hash(stopped), "")])
        people_ = [world.hash(withdrawn), world.hash(granted)]
        held = await rules.book.words_of(driver, 1, people_, "marketing")
        assert {one.recipient for one in held.values() if one.granted} == {world.hash(granted)}


async def test_a_dispatcher_of_the_old_timeline_writes_nothing_more(world: World, until: Callable) -> None:
    local = await world.start()
    await leave_timeline(world)
    await world.execute("UPDATE leases SET timeline = '1/00000000'")
    async with world.database.driver() as driver:
        with pytest.raises(dispatch.LeaseLost):
            await dispatch.guard(driver, local.process.lease_id, local.process.queue.epoch)
    await world.accept(people(5))
    assert await asyncio.wait_for(local.task, 60) == 3
    assert not await world.smsc.taken()


async def test_an_old_primary_that_is_still_there_gets_no_dispatcher(world: World, until: Callable) -> None:
    """Redis has seen a later timeline of the same system: this PostgreSQL was left behind."""
    await redis_with(world, until)
    async with world.database.driver() as driver:
        timeline = await timelines.current(driver)
    last = await cleaning.last(world.queue)
    assert last is not None
    assert last[1] == timeline
    later = timeline.partition("/")[0] + "/FFFFFFFF"
    await world.queue.client.set(cleaning.LAST, f"{last[0] + 1} {later}")
    await world.queue.client.delete(world.queue.key("whole"))  # its epoch was dropped
    assert timelines.precedes(timeline, later)
    assert not timelines.precedes(later, timeline)
    assert not timelines.precedes("2/00000001", "1/00000002")
    async with world.database.driver() as driver:
        assert await timelines.in_order(driver)
    assert not await rebuild.join(world.database, world.queue, 60, Publisher(), Metrics())


@pytest.mark.parametrize("part", [40, pytest.param(100, marks=pytest.mark.soak)])
async def test_a_batch_in_flight_survives_a_failover_and_nobody_gets_it_twice(
    pair: Pair, engines: Engines, make_world: MakeWorld, smsc_process: Smsc, until: Callable, part: int
) -> None:
    world = await make_world(
        smsc_process, database_url=pair.url, redis_url=engines.valkey().url, window=50, rate=None
    )
    await world.smsc.change(answer_delay_s=0.02)
    async with world.database.driver() as driver:
        assert any("synchronous" in one for one in await durability.weaknesses(driver))
    child = world.spawn()
    batch = await world.batch()
    ids = await world.accept(people(7 * part), batch=batch)
    held = await world.accept(people(part, 5000), batch=batch, due_in_s=3600.0)
    await world.accept(people(1, 9000), category=Category.otp, valid_s=600.0)
    await until(lambda: offering.attach(world.database, world.queue), timeout_s=60)
    await offering.offer_open(world.database, world.queue)
    await until(lambda: left(world, part), timeout_s=60)
    await pair.cut()
    before = len(await world.smsc.ledger())
    await until(lambda: left(world, before + part), timeout_s=60)  # their journal is lost
    stop = people(7 * part)[-1]
    owner = rules.Owner(1, world.keys[1])
    await rules.suppress(
        world.database, world.queue, owner, [rules.Stop(stop)], source="api", actor="t", now_s=time.time()
    )
    await pair.fail_over()
    assert await asyncio.to_thread(child.popen.wait, 60) in (3, 4), child.log.read_text()
    sent = len(await world.smsc.ledger())
    child = world.spawn()

    async def finished() -> bool:
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            return bool(await found(world)) and not await world.value(
                "SELECT count(*) FROM parcels WHERE due_at < now() + interval '10 minutes'"
            )
        return False

    await until(finished, timeout_s=90)
    result = await found(world)
    assert part <= result["unknown"] <= sent + 2 * part
    assert result["suppressed"] == 1
    assert result["redis_trusted"]
    await check_nobody_twice(world)
    standings = await world.standings()
    assert len(standings) == 8 * part + 1
    states = {one: standing.state for one, standing in standings.items()}
    assert {states[one] for one in held} == {State.deferred}
    reasons = {s.reason for s in standings.values() if s.state is State.unknown}
    assert reasons <= {"failover", "dispatcher_lost"}
    unknown = [one for one, s in standings.items() if s.state is State.unknown and s.reason == "failover"]
    for one in unknown[:1]:
        assert [c.check for c in await world.trace(one)][-1] == "failover"
    assert f"+1415{2000000 + 9000}" in await world.smsc.taken()
    async with world.database.driver() as driver:
        assert await rules.book.suppressed(driver, 1, [(world.hash(stop), "")])

    # `submitted` are those whose receipt the old primary took with it: `unconfirmed`, one day
    went = {State.delivered, State.submitted, State.unknown}
    assert states.pop(ids[-1]) in went | {State.suppressed}  # the stop came before its turn, and holds
    assert set(states.values()) <= went | {State.deferred}
    await world.check_books()
    assert await child.stop() == 0
