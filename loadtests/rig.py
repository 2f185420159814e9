"""A whole Volley for a measurement: engines, API, dispatcher and sandbox SMSC, each a process of its own.

Guarantees: everything is new (a temporary data folder, free ports, an empty database) and everything ends
with the rig, even when it is killed; PostgreSQL and Valkey run with the settings that Volley ships, and
`durability` asks the servers themselves what those are.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncpg
import msgspec
import redis

from app import settings
from app.cli.configure import check_gateway
from app.engines import ports
from app.engines.home import Home
from app.engines.postgres import Postgres
from app.engines.process import spawn, stop
from app.engines.running import Running, await_ready
from app.engines.valkey import Valkey
from app.settings import Settings
from app.store import bootstrap, migrate

CHECKOUT = Path(__file__).resolve().parents[1]
ROLE_TIMEOUT_S = 60.0
ROLE_STOP_S = 8.0
PROBE_TIMEOUT_S = 1.0

CONFIG = """\
[[gateways]]
name = "sandbox"
url = "smpp://volley:secret@127.0.0.1:{port}?bind=transceiver&binds={binds}&window={window}&rate=0"

[[routes]]
to = "*"
gateways = ["sandbox"]
"""


class Options(msgspec.Struct, frozen=True):
    """What of the set-up a measurement may vary."""

    binds: int = 2
    window: int = 500  # PDUs a bind may have without an answer
    receipt_delay_s: float = 1.0
    api_workers: int = 1
    profile: str | None = None  # a role to run under cProfile
    keep: bool = False  # leave the data folder where it is


class Rig:
    """Use as a context manager. `url` is the API's, `key` an admin's, `database_url` PostgreSQL's."""

    def __init__(self, options: Options, say: Callable[[str], None]) -> None:
        self.options = options
        self._say = say
        self.folder = Path(tempfile.mkdtemp(prefix="volley-bench-"))
        self.folder.chmod(stat.S_IRWXU | stat.S_IXGRP | stat.S_IXOTH)  # the engines' account passes through
        self._home: Home | None = None
        self._engines: dict[str, Running] = {}
        self._roles: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        self._home = home = Home(self.folder / "data")
        self._say(f"engines in {home.data_dir}")
        for name, engine in (("postgres", Postgres(home)), ("valkey", Valkey(home))):
            self._engines[name] = Running(engine)
            self._engines[name].start()
        self.database_url = self._engines["postgres"].engine.url
        self.redis_url = self._engines["valkey"].engine.url
        smsc, control, api, dispatcher = self._free_ports(4)
        config = home.data_dir / "volley.toml"
        config.write_text(CONFIG.format(port=smsc, binds=self.options.binds, window=self.options.window))
        migrate.upgrade(self.database_url)
        bootstrap.seed(self.database_url, config, check_gateway)
        key = bootstrap.first_key(self.database_url, None)
        assert key is not None, "the database is new"
        self.key = key
        self.url = f"http://{ports.LOOPBACK}:{api}"
        self.control_url = f"http://{ports.LOOPBACK}:{control}"
        self.dispatcher_url = f"http://{ports.LOOPBACK}:{dispatcher}"
        environ = settings.child_environment(
            Settings(
                port=api,
                data_dir=home.data_dir,
                database_url=self.database_url,
                redis_url=self.redis_url,
                config=config,
                api_workers=self.options.api_workers,
                dispatcher_port=dispatcher,
                sandbox_port=smsc,
                log_level="warning",
            )
        )
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(CHECKOUT), environ.get("PYTHONPATH"))))
        self._role("sandbox", environ, lambda: ports.answers(smsc), *self._sandbox_options(smsc, control))
        self._role("dispatch", environ, lambda: _answer(dispatcher, "/readyz") is not None)
        self._role("api", environ, lambda: b'"queue":"attached"' in (_answer(api, "/readyz") or b""))

    def _sandbox_options(self, smsc: int, control: int) -> tuple[str, ...]:
        delay = str(self.options.receipt_delay_s)
        address = ("--port", str(smsc), "--control-port", str(control))
        return (*address, "--ledger", "0", "--mix", "DELIVRD=1", "--receipt-delay", delay)

    @staticmethod
    def _free_ports(count: int) -> list[int]:
        found: list[int] = []
        while len(found) < count:
            port = ports.free()
            if port not in found:
                found.append(port)
        return found

    def _role(self, name: str, environ: Mapping[str, str], ready: Callable[[], bool], *options: str) -> None:
        self._say(f"starting {name}")
        profiler: tuple[str, ...] = ()
        if self.options.profile == name:
            profiler = ("-m", "cProfile", "-o", str(self.profile_path))
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = spawn(
                [sys.executable, "-P", *profiler, "-m", "app.cli", name, *options],
                env=environ,
                output=output,
                death_signal=signal.SIGTERM,
                cwd=self.folder,
            )
        self._roles[name] = process
        await_ready(ready, process, name, log, ROLE_TIMEOUT_S)

    @property
    def profile_path(self) -> Path:
        """Where the profile of the role under cProfile is, once the rig is closed."""
        return self.folder / f"{self.options.profile}.pstats"

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far by process, children and backends included; empty without /proc."""
        roots = {name: process.pid for name, process in self._roles.items()}
        for name, engine in self._engines.items():
            if engine.process is not None:
                roots[name] = engine.process.pid
        return cpu_of_trees(roots)

    async def durability(self) -> dict[str, str]:
        """What the engines say of themselves."""
        connection = await asyncpg.connect(self.database_url)
        try:
            found = {
                name: str(await connection.fetchval(f"SHOW {name}"))
                for name in ("fsync", "synchronous_commit", "full_page_writes")
            }
        finally:
            await connection.close()
        with redis.Redis.from_url(self.redis_url, decode_responses=True) as client:
            for name in ("appendonly", "appendfsync"):
                found[name] = client.config_get(name)[name]
        return found

    def crashed(self) -> list[str]:
        """The roles that ended by themselves."""
        return [name for name, process in self._roles.items() if process.poll() is not None]

    def logs(self) -> str:
        """What the roles wrote: warnings and worse."""
        texts = {name: (self.folder / f"{name}.log").read_text("utf-8", "replace") for name in self._roles}
        return "\n".join(f"== {name}\n{text.strip()}" for name, text in texts.items() if text.strip())

    def close(self) -> None:
        """End everything, roles first; delete the data unless it shall be kept."""
        for name in ("api", "dispatch", "sandbox"):
            if name in self._roles:
                stop(self._roles[name], [(signal.SIGTERM, ROLE_STOP_S)])
        for engine in reversed(self._engines.values()):
            engine.stop()
        if self._home is not None:
            self._home.close()
        if not self.options.keep and self.options.profile is None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _answer(port: int, path: str) -> bytes | None:
    """The body of a 200; None for anything else."""
    connection = http.client.HTTPConnection(ports.LOOPBACK, port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.read() if response.status == http.HTTPStatus.OK else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def cpu_of_trees(roots: Mapping[str, int]) -> dict[str, float]:
    """User and system seconds of each process and its descendants, those that ended included (proc(5), stat)."""
    if not os.path.isdir("/proc/self"):
        return {}
    spent: dict[int, int] = {}
    parent_of: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile; its parent's figure has it
            continue
        parent_of[int(entry.name)] = int(fields[1])
        spent[int(entry.name)] = sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    names = {pid: name for name, pid in roots.items()}
    totals = dict.fromkeys(roots, 0)
    for pid, ticks in spent.items():
        ancestor = pid
        while ancestor in parent_of and ancestor not in names:
            ancestor = parent_of[ancestor]
        if ancestor in names:
            totals[names[ancestor]] += ticks
    return {name: ticks / ticks_per_s for name, ticks in totals.items()}


def machine_cpu_s() -> float | None:
    """CPU seconds that the whole machine was busy since its start (proc(5), stat); None without /proc."""
    try:
        fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, fields)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
