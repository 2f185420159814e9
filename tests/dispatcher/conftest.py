"""A whole Volley without its API: PostgreSQL, Valkey, sandbox SMSC, and dispatchers here or as processes.

`world` is one fresh database with two tenants, an SMPP gateway and a route to it. Its checks are those
of the promises: `states` folds what reading would show, `check_books` holds it against the tallies and
the parcels, `ledger` is what really left.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

import aiohttp
import asyncpg
import pytest
import redis

from app import offering
from app.countries.packs import Packs
from app.domain import ids
from app.domain.message import Category, State
from app.domain.pack import Entry, Pack, Parcel
from app.domain.recipient import hash_of
from app.domain.text import count
from app.engines.process import spawn
from app.queue import lanes
from app.queue.connection import Queue
from app.settings import Settings
from app.store import config, intake, messages, migrate, sweeps
from app.store.audit import By
from app.store.batches import BatchState, NewBatch
from app.store.batches import insert as insert_batch
from app.store.engine import Database
from dispatcher.main import Process
from gateways.sandbox import Behaviour, Sandbox
from gateways.sandbox import Settings as SandboxSettings

PATIENCE_S = 60.0  # only a failing test waits so long
STOP_S = 60.0  # a dispatcher that takes longer to end hangs
POLL_S = 0.02
SENDER = "12025550199"
BY = By("tests", "a test")
ROOT = Path(__file__).parents[2]
QUEUED = (State.accepted, State.queued, State.deferred)


def country(
    code: str = "default",
    *,
    hours: str = '[["00:00", "24:00"]]',
    consent: str = "opt_out",
    cap: str = "",
) -> dict[str, bytes]:
    """A rule file: open at every hour, no consent needed, no cap, unless said otherwise."""
    lines = [
        f'country = "{code}"\nname = "{code}"\nreviewed = 2026-11-22\nconfidence = "high"',
        'sources = ["tests"]\ntests = ["none"]\n[marketing]\nbasis = "tests"',
        f'[marketing.safe]\ndaily = {hours}\nholidays = "open"\n[consent]\ntype = "{consent}"',
        "[opt_out]\nkeywords = []",
    ]
    if cap:
        most, _, per = cap.partition("/")
        lines.append(f'[cap]\nmax = {most}\nper = "{per}"')
    return {f"{code}.toml": "\n".join(lines).encode()}


def numbers(n: int, start: int = 0) -> list[str]:
    """US numbers without a fixed fate at the sandbox."""
    return [f"+1415{2000000 + start + i}" for i in range(n)]


async def until(condition: Callable[[], Any], what: str = "", timeout_s: float = PATIENCE_S) -> Any:
    """The condition's first true value (it may be a coroutine function)."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {timeout_s:.0f} s: {what or condition}")
        await asyncio.sleep(POLL_S)


class Smsc:
    """A sandbox, in this process or another, by its control API."""

    def __init__(self, port: int, control_port: int) -> None:
        self.port = port
        self._base = f"http://127.0.0.1:{control_port}"

    async def _call(self, path: str, body: object = None) -> Any:
        async with aiohttp.ClientSession() as session:
            asked = session.get if body is None else session.post
            options = {} if body is None else {"json": body}
            async with asked(self._base + path, **options) as answer:
                assert answer.status == 200, await answer.text()
                return await answer.json()

    async def ledger(self, to: str = "") -> list[dict[str, Any]]:
        """Every submit_sm that came, in order."""
        found: list[dict[str, Any]] = []
        since = 0
        while True:
            page = await self._call(f"/ledger?since={since}&limit=10000&to={to.lstrip('+')}")
            if not page["entries"]:
                return found
            found += page["entries"]
            since = page["next"]

    async def taken(self) -> Counter[str]:
        """How often each number's text was taken (not refused)."""
        return Counter(f"+{one['to']}" for one in await self.ledger() if one["status"] == 0)

    async def change(self, **behaviour: object) -> None:
        await self._call("/behaviour", behaviour)

    async def stats(self) -> dict[str, Any]:
        return await self._call("/stats")

    async def cut(self) -> None:
        await self._call("/cut", {})


class Local:
    """A dispatcher in this process."""

    def __init__(self, world: World, packs: dict[str, bytes]) -> None:
        settings = Settings(
            database_url=world.database_url,
            redis_url=world.redis_url,
            dispatcher_port=0,
            data_dir=ROOT,
            webhook_allow_private=True,
        )
        self.process = Process(settings, world.database_url, world.redis_url, packs=Packs.from_files(packs))
        self.task = asyncio.create_task(self.process.run())

    @property
    def working(self) -> bool:
        if self.task.done():
            raise AssertionError("the dispatcher ended") from self.task.exception()
        process = self.process
        return (
            hasattr(process, "dispatcher")
            and process.dispatcher.attached.is_set()
            and any(bind.state == "bound" for bind in process.fleet.binds())
        )

    async def stop(self) -> int:
        """In good order; gives the exit code."""
        if not self.task.done():
            self.process.stopping.set()
        code = await asyncio.wait_for(self.task, STOP_S)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        return code


class Child:
    """A dispatcher as a process of its own, to be killed."""

    def __init__(self, world: World, packs: dict[str, bytes], folder: Path) -> None:
        rules = folder / f"rules-{uuid.uuid4().hex[:8]}"
        rules.mkdir()
        for name, content in packs.items():
            (rules / name).write_bytes(content)
        self.log = rules / "log"
        with self.log.open("wb") as output:
            self.popen: Popen[bytes] = spawn(
                [
                    sys.executable, Path(__file__).with_name("child.py"),
                    world.database_url, world.redis_url, rules,
                ],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                output=output,
                death_signal=signal.SIGKILL,
                cwd=ROOT,
            )  # fmt: skip

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    async def stop(self) -> int:
        if self.popen.poll() is None:
            self.popen.terminate()
        try:
            return await asyncio.to_thread(self.popen.wait, STOP_S)
        except TimeoutExpired:
            self.kill()
            raise AssertionError(f"the dispatcher did not stop; see {self.log}") from None


class World:
    """See the head of this file. Made by `make_world`."""

    def __init__(self, database_url: str, redis_url: str, smsc: Smsc, folder: Path) -> None:
        self.database_url = database_url
        self.redis_url = redis_url
        self.smsc = smsc
        self.folder = folder
        self.database = Database(database_url, pool=4)
        self.queue = Queue(redis_url)
        self.packs = country()
        self.keys: dict[int, bytes] = {}
        self.accepted = 0
        self._running: list[Local | Child] = []

    async def prepare(self, **gateway: object) -> None:
        """Two tenants, the gateway and the route."""
        async with self.database.driver() as driver:
            for name in ("first", "second"):
                key = name.encode().ljust(32, b".")
                tenant = await driver.fetchval(
                    "INSERT INTO tenants (name, hash_key) VALUES ($1, $2) RETURNING id", name, key
                )
                self.keys[tenant] = key
        await self.gateway("smsc", **gateway)
        async with self.database.begin() as connection:
            await config.create(connection, config.ROUTE, {"to": "*", "gateways": ["smsc"]}, BY)

    def url(self, **options: object) -> str:
        wanted = {"bind": "transceiver", "binds": 1, "window": 50, "reconnect_min_s": 0.1, **options}
        return f"smpp://volley:secret@127.0.0.1:{self.smsc.port}?" + "&".join(
            f"{k}={v}" for k, v in wanted.items()
        )

    async def gateway(self, name: str, rate: int | None = None, **options: object) -> None:
        async with self.database.begin() as connection:
            values = {"name": name, "url": self.url(**options), "rate": rate}
            await config.create(connection, config.GATEWAY, values, BY)

    async def region(self, code: str, **values: object) -> None:
        async with self.database.begin() as connection:
            await config.create(connection, config.REGION, {"code": code, **values}, BY)

    async def change(self, kind: config.Kind, key: dict[str, Any], **values: object) -> None:
        async with self.database.begin() as connection:
            await config.change(connection, kind, key, values, BY)

    # Dispatchers

    async def start(self) -> Local:
        """A dispatcher in this process, at work."""
        local = Local(self, self.packs)
        self._running.append(local)
        await until(lambda: local.working, "the dispatcher is attached and bound")
        return local

    def spawn(self) -> Child:
        """A dispatcher as a process; it may not be at work yet."""
        child = Child(self, self.packs, self.folder)
        self._running.append(child)
        return child

    async def close(self) -> None:
        for one in self._running:
            with contextlib.suppress(AssertionError, TimeoutError):
                await one.stop()
        await self.database.dispose()
        await self.queue.close()

    # Messages

    def hash(self, number: str, tenant: int = 1) -> bytes:
        return hash_of(self.keys[tenant], number)

    def drafts(
        self,
        to: Sequence[str],
        *,
        body: str = "hello",
        category: Category = Category.marketing,
        sender: str = SENDER,
        tenant: int = 1,
        batch: bytes | None = None,
        land: str = "US",
        region: str | None = None,
        due_in_s: float = 0.0,
        valid_s: float | None = None,
        retry_unknown: bool = False,
        priority: int = 5,
        pack_size: int = 100,
        test: bool = False,
        campaign: str | None = None,
        max_segments: int = 0,
        metadata: dict[str, Any] | None = None,
    ) -> list[intake.Draft]:
        now = time.time()
        segments = count(body)
        made = []
        for start in range(0, len(to), pack_size):
            entries = [
                Entry(i, one, self.hash(one, tenant), segments)
                for i, one in enumerate(to[start : start + pack_size])
            ]
            pack = Pack(
                tenant, batch, region or land, land, int(category), sender, body, None,
                None if valid_s is None else now + valid_s, retry_unknown, entries, test, campaign=campaign,
                max_segments=max_segments, metadata=metadata,
            )  # fmt: skip
            made.append(intake.Draft(ids.new_id(now), pack, now + due_in_s, priority))
        return made

    async def accept(self, to: Sequence[str], *, offer: bool = True, **options: Any) -> list[bytes]:
        """Accept one text to each number, as the API does; gives the messages' ids."""
        drafts = self.drafts(to, **options)
        async with self.database.driver() as driver, driver.transaction():
            parcels = await intake.accept(driver, drafts, time.time())
        self.accepted += len(to)
        if offer and not options.get("batch"):
            await self.offer(parcels)
        return [ids.message_id(d.pack_id, e.index) for d in drafts for e in d.pack.entries]

    async def offer(self, parcels: Iterable[Parcel]) -> None:
        """Best effort, as the API's."""
        horizon = time.time() + 900
        with contextlib.suppress(offering.EpochLost, offering.Unavailable):
            if await offering.attach(self.database, self.queue):
                await lanes.offer(self.queue, [p for p in parcels if p.due_at <= horizon])

    async def batch(self, state: BatchState = BatchState.running, tenant: int = 1) -> bytes:
        batch_id = ids.new_id(time.time())
        async with self.database.driver() as driver, driver.transaction():
            await insert_batch(
                driver,
                NewBatch(
                    batch_id, tenant, None, None, 3, SENDER, "hello", None, 5, state, 0, 0, None, None, {},
                    time.time(),
                ),
            )  # fmt: skip
        return batch_id

    async def set_batch(self, batch_id: bytes, state: BatchState) -> None:
        """As the API does: commit, then offer what is open."""
        await self.execute(
            "UPDATE batches SET state = $2 WHERE id = $1", uuid.UUID(bytes=batch_id), int(state)
        )
        if state is BatchState.running and await offering.attach(self.database, self.queue):
            await offering.offer_open(self.database, self.queue, batch_id)

    # Looking

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        async with self.database.driver() as driver:
            return await driver.fetch(query, *args)

    async def value(self, query: str, *args: object) -> Any:
        return (await self.fetch(query, *args))[0][0]

    async def execute(self, query: str, *args: object) -> None:
        async with self.database.driver() as driver:
            await driver.execute(query, *args)

    async def standings(self) -> dict[bytes, messages.Standing]:
        """Every message as reading would show it."""
        async with self.database.driver() as driver:
            found: dict[bytes, messages.Standing] = {}
            for tenant in self.keys:
                high = ids.first_id_at(time.time() + 3600)
                page, _ = await messages.newest(
                    driver, tenant, batch_id=None, low=bytes(16), high=high, packs=100_000
                )
                known = await messages.facts(driver, page)
                now = datetime.now(UTC)
                found |= {one.id: messages.fold(one, known, now) for one in page}
        return found

    async def states(self) -> Counter[State]:
        return Counter(one.state for one in (await self.standings()).values())

    async def standing(self, message_id: bytes) -> messages.Standing:
        async with self.database.driver() as driver:
            for tenant in self.keys:
                stored = await messages.find(driver, tenant, message_id)
                if stored is not None:
                    known = await messages.facts(driver, [stored])
                    return messages.fold(stored, known, datetime.now(UTC))
        raise AssertionError("no such message")

    async def trace(self, message_id: bytes, tenant: int = 1) -> list[messages.Check]:
        async with self.database.driver() as driver:
            stored = await messages.find(driver, tenant, message_id)
            assert stored is not None
            return await messages.trace(driver, stored)

    async def until_state(self, message_id: bytes, state: State, timeout_s: float = PATIENCE_S) -> Any:
        async def there() -> Any:
            standing = await self.standing(message_id)
            return standing if standing.state == state else None

        return await until(there, f"{state.name}", timeout_s)

    async def until_states(self, timeout_s: float = PATIENCE_S, **wanted: int) -> None:
        """Until exactly so many messages stand in these states, and none elsewhere."""
        target = {State[name]: n for name, n in wanted.items() if n}
        deadline = time.monotonic() + timeout_s
        while (seen := await self.states()) != target:
            assert time.monotonic() < deadline, f"wanted {target}, there are {dict(seen)}"
            await asyncio.sleep(0.05)

    async def until_final(self, n: int | None = None, timeout_s: float = PATIENCE_S) -> None:
        """Until so many messages (all) are final and no parcel is left."""
        wanted = self.accepted if n is None else n

        async def done() -> bool:
            row = await self.fetch("SELECT (SELECT count(*) FROM finals), (SELECT count(*) FROM parcels)")
            return row[0][0] >= wanted and row[0][1] == 0

        try:
            await until(done, timeout_s=timeout_s)
        except AssertionError:
            raise AssertionError(f"not all final: {dict(await self.states())}") from None

    async def check_books(self) -> None:
        """Promise 1: nothing lost, nothing counted twice; three sources say the same of each state."""

        async def balance() -> str:
            async with (
                self.database.driver() as driver,
                driver.transaction(isolation="repeatable_read", readonly=True),
            ):
                sides = await sweeps.accounting(driver)
                moves = await driver.fetch(
                    "SELECT from_state, to_state, n FROM move_totals UNION ALL"
                    " SELECT coalesce(from_state, 0), to_state, n FROM tallies"
                )
            net: Counter[State | int] = Counter()
            for before, after, n in moves:
                net[State(after)] += n
                if before:
                    net[State(before)] -= n
            folded = Counter(
                State.queued if state in QUEUED else state for state in (await self.states()).elements()
            )
            tallied = {state: n for state, n in net.items() if n}
            if sides["accepted"] != self.accepted:
                return f"accepted {self.accepted}, tallied {sides['accepted']}"
            if sides["queued_by_tallies"] != sides["queued_by_parcels"]:
                return f"queued by tallies and parcels: {sides}"
            if tallied != folded:
                return f"tallies say {tallied}, reading says {dict(folded)}"
            return ""

        fault = "never looked"

        async def balanced() -> bool:
            nonlocal fault
            fault = await balance()
            return not fault

        try:
            await until(balanced)  # flushes in flight between the two looks
        except AssertionError:
            raise AssertionError(fault) from None


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., Awaitable[Any]]:
    """`await until(condition)`: its first true value, polled; conditions may be coroutine functions."""
    return until


@pytest.fixture(name="country")
def country_fixture() -> Callable[..., dict[str, bytes]]:
    """Makes rule files."""
    return country


@pytest.fixture
async def smsc() -> AsyncIterator[Smsc]:
    """A sandbox in this process; receipts come soon."""
    sandbox = Sandbox(SandboxSettings(port=0, control_port=0, behaviour=Behaviour(receipt_delay_s=0.05)))
    await sandbox.start()
    assert sandbox.control_port is not None
    yield Smsc(sandbox.port, sandbox.control_port)
    await sandbox.stop()


@pytest.fixture
async def smsc_process(tmp_path: Path) -> AsyncIterator[Smsc]:
    """A sandbox as a process: its clock is not held up by what the tests do."""
    log = tmp_path / "sandbox.log"
    with log.open("wb") as output:
        process = spawn(
            [
                sys.executable, "-m", "gateways.sandbox", "--port", "0", "--control-port", "0",
                "--receipt-delay", "0.05",
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            output=output,
            death_signal=signal.SIGKILL,
            cwd=ROOT,
        )  # fmt: skip
    words = (await until(log.read_text, "the sandbox listens")).replace(",", "").split()
    ports = [int(word) for word in words if word.isdigit()]
    yield Smsc(ports[0], ports[1])
    process.kill()
    process.wait()


MakeWorld = Callable[..., Awaitable[World]]


@pytest.fixture
async def make_world(
    postgres_cluster: Any, redis_server_url: str, tmp_path: Path
) -> AsyncIterator[MakeWorld]:
    """Makes worlds: `await make_world(smsc, window=10)`; engines of their own with `database_url`, `redis_url`."""
    made: list[World] = []
    databases: list[str] = []

    async def make(
        smsc: Smsc, *, database_url: str | None = None, redis_url: str | None = None, **gateway: object
    ) -> World:
        if database_url is None:
            name = f"volley_test_{uuid.uuid4().hex[:12]}"
            database_url = postgres_cluster.create(name, postgres_cluster.template)
            databases.append(name)
        else:
            await migrate.upgrade_async(database_url)
        if redis_url is None:
            redis_url = redis_server_url
            with redis.Redis.from_url(redis_url) as client:
                client.flushdb()
        world = World(database_url, redis_url, smsc, tmp_path)
        made.append(world)
        await world.prepare(**gateway)
        return world

    yield make
    for world in made:
        await world.close()
    for name in databases:
        postgres_cluster.drop(name)


@pytest.fixture
async def world(make_world: MakeWorld, smsc: Smsc) -> World:
    """A world with one bind of window 50 to a sandbox in this process; start dispatchers yourself."""
    return await make_world(smsc)
