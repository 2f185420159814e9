"""Real engines for every test: PostgreSQL and Valkey from the wheels, or those that the caller names.

    postgres_url   a migrated database of its own for each test module
    redis_url      an empty Redis database for each test module
    engines        servers of a test's own, to be killed, wiped and started again

VOLLEY_DATABASE_URL and VOLLEY_REDIS_URL point the first two at servers from outside. The
PostgreSQL account must be allowed to create databases; **the Redis database is emptied**.
The servers of `engines` are always child processes: TEST_POSTGRES_BIN (a folder) and
TEST_REDIS_SERVER (a program) replace the wheels' programs by others, Debian's for instance.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis

from app.engines.home import Home
from app.engines.postgres import Postgres
from app.engines.programs import Programs
from app.engines.running import Running
from app.engines.valkey import Valkey

LOCAL_SETTINGS = "fsync = off\nautovacuum = off\n"  # the shared server's; a test's own server is durable


class Cluster:
    """Where databases of a test are made: a server and the URL of one of its databases."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.template = f"volley_template_{uuid.uuid4().hex[:12]}"

    def url_of(self, database: str) -> str:
        return urlsplit(self.url)._replace(path=f"/{database}").geturl()

    def create(self, database: str, template: str = "template0") -> str:
        """A database copied from `template`; gives its URL."""
        self._execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.url_of(database)

    def drop(self, database: str) -> None:
        self._execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def _execute(self, statement: str) -> None:
        async def execute() -> None:
            connection = await asyncpg.connect(self.url)
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        with ThreadPoolExecutor(1) as thread:  # the tests' own loop belongs to this thread
            thread.submit(asyncio.run, execute()).result()


class Server:
    """An engine of a test's own: `start` and `stop` it, `kill` it as a crash would, `wipe` its data."""

    def __init__(self, running: Running, data: Path) -> None:
        self._running = running
        self.data = data

    @property
    def url(self) -> str:
        return self._running.engine.url

    @property
    def port(self) -> int:
        return self._running.engine.port

    @property
    def pid(self) -> int:
        assert self._running.process is not None, "not running"
        return self._running.process.pid

    def start(self) -> None:
        """Start it, or start it again, on the same port."""
        self._running.start()

    def stop(self) -> None:
        self._running.stop()

    def kill(self) -> None:
        self._running.kill()

    def wipe(self) -> None:
        """Delete the data of a stopped or killed server."""
        assert self._running.process is None, "stop it first"
        shutil.rmtree(self.data)


class Engines:
    """Makes servers, each in a data directory of its own, and ends them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: list[Server] = []
        self._homes: list[Home] = []

    def home(self) -> Home:
        """A new, locked data directory with the programs under test."""
        home = Home(self._folder / uuid.uuid4().hex[:8])
        home.programs = _programs(home.programs)
        self._homes.append(home)
        return home

    def postgres(self, local_settings: str = "") -> Server:
        """A started PostgreSQL with an empty database; `local_settings` is text of postgresql.conf."""
        return self.postgres_in(self.home(), local_settings)

    def postgres_in(self, home: Home, local_settings: str = "") -> Server:
        """The same in a given home."""
        engine = Postgres(home)
        if local_settings:
            engine.prepare()
            home.write_private(engine.cluster / "local.conf", local_settings, for_engine=True)
        return self._started(Server(Running(engine), engine.cluster))

    def valkey(self) -> Server:
        """A started, empty Valkey."""
        engine = Valkey(self.home())
        return self._started(Server(Running(engine), engine.folder))

    def _started(self, server: Server) -> Server:
        server.start()
        self._servers.append(server)
        return server

    def close(self) -> None:
        for server in self._servers:
            server.kill()
        for home in self._homes:
            home.close()
            shutil.rmtree(home.data_dir)


def _programs(wheels: Programs) -> Programs:
    return Programs(
        Path(os.environ.get("TEST_POSTGRES_BIN", wheels.postgres_bin)),
        Path(os.environ.get("TEST_REDIS_SERVER", wheels.valkey_server)),
    )


@pytest.fixture(scope="session")
def engines_folder() -> Iterator[Path]:
    """A folder that an unprivileged user can pass through: pytest's own is closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="volley-tests-"))
    folder.chmod(stat.S_IRWXU | stat.S_IXGRP | stat.S_IXOTH)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def session_engines(engines_folder: Path) -> Iterator[Engines]:
    """The servers that all modules share."""
    engines = Engines(engines_folder)
    yield engines
    engines.close()


@pytest.fixture
def engines(engines_folder: Path) -> Iterator[Engines]:
    """Servers of one test: `engines.postgres()`, `engines.valkey()`; they end with the test."""
    engines = Engines(engines_folder)
    yield engines
    engines.close()


@pytest.fixture(scope="session")
def postgres_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A server with a migrated template database."""
    from app.store import migrate  # noqa: PLC0415  tests without a database need none of it

    url = os.environ.get("VOLLEY_DATABASE_URL")
    if not url:
        engines: Engines = request.getfixturevalue("session_engines")
        url = engines.postgres(local_settings=LOCAL_SETTINGS).url
    cluster = Cluster(url)
    try:
        migrate.upgrade(cluster.create(cluster.template))
        yield cluster
    finally:
        cluster.drop(cluster.template)


@pytest.fixture(scope="module")
def postgres_url(postgres_cluster: Cluster) -> Iterator[str]:
    """A migrated, empty database: `postgresql://user:password@host:port/name`."""
    database = f"volley_test_{uuid.uuid4().hex[:12]}"
    yield postgres_cluster.create(database, postgres_cluster.template)
    postgres_cluster.drop(database)


@pytest.fixture(scope="module")
def empty_postgres_url(postgres_cluster: Cluster) -> Iterator[str]:
    """A database without any table, to migrate."""
    database = f"volley_test_{uuid.uuid4().hex[:12]}"
    yield postgres_cluster.create(database)
    postgres_cluster.drop(database)


@pytest.fixture(scope="session")
def redis_server_url(request: pytest.FixtureRequest) -> str:
    """A server whose content is nobody's."""
    url = os.environ.get("VOLLEY_REDIS_URL")
    if url:
        return url
    engines: Engines = request.getfixturevalue("session_engines")
    return engines.valkey().url


@pytest.fixture(scope="module")
def redis_url(redis_server_url: str) -> str:
    """An empty Redis database: `redis://:password@host:port/0`."""
    with redis.Redis.from_url(redis_server_url) as client:
        client.flushdb()
    return redis_server_url
