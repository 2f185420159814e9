# ruff: noqa: PLC0415  a command imports what it runs when it runs
"""`volley up`: everything on one machine. Engines, schema, key, and the roles, kept running.

Guarantees: each step is said as it happens; nothing is started on data that another `volley up`
holds; a taken port or a wrong file stops the start before any process runs; what a killed
predecessor left running is ended first; the key is shown when it is made, and never again.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

import app
from app import config_file, settings
from app.cli.configure import check_gateway
from app.cli.role_output import RoleOutput
from app.cli.terminal import Failure, say
from app.cli.unreachable import name_the_engine
from app.engines import ports
from app.engines.home import Home, demand_a_name
from app.engines.postgres import Postgres
from app.engines.process import end_all, spawn, started_with
from app.engines.running import Engine
from app.engines.supervisor import Part, Stopped, Supervisor
from app.engines.valkey import Valkey
from app.settings import Settings

DRAIN_S = 2  # a person waits at the terminal: everything ends within 10 s
MARK = "_VOLLEY_UP"  # in the environment of our roles, so that a later start finds what outlived us
STALE_GRACE_S = 5.0
PORT_GRACE_S = 2.0  # a process that ends shows nothing of itself any more, but its ports are still taken
PROBE_TIMEOUT_S = 1.0
ENGINE_TIMEOUT_S = 600.0  # replaying a long write-ahead log takes its time
ROLE_TIMEOUT_S = 60.0
STRONG_KEY_LENGTH = 16
# With the engines' own limits, 9.9 s in the worst case.
STOP_S = {"api": 2.5, "dispatch": 3.2, "sandbox": 0.7}


@click.command()
@click.option("--no-sandbox", is_flag=True, help="Without the sandbox SMSC.")
def up(no_sandbox: bool) -> None:
    """Run everything here: PostgreSQL and Valkey, API and console, a dispatcher, the sandbox SMSC."""
    ours = settings.load()
    explicit = settings.explicit()
    began = time.monotonic()
    with Home(ours.data_dir) as home:
        output = RoleOutput(home.logs, say_warning)
        with Supervisor(say, say_warning, output.line) as supervisor:
            try:
                start = Start(home, supervisor, ours, explicit, sandbox=not no_sandbox)
                start.everything()
                say(f"Volley is up after {time.monotonic() - began:.1f} s. Ctrl-C stops it.", good=True)
                supervisor.run()
            except Stopped:
                pass
            say("stopping: api, dispatcher, sandbox, engines")
        output.close()
    say("stopped")


def say_warning(line: str) -> None:
    """A line that wants attention."""
    say(line, bad=True)


class Start:
    """The steps from nothing to a running service, in order."""

    def __init__(
        self,
        home: Home,
        supervisor: Supervisor,
        given: Settings,
        explicit: frozenset[str],
        *,
        sandbox: bool,
    ) -> None:
        self.home = home
        self.supervisor = supervisor
        self.settings = msgspec.structs.replace(given, data_dir=home.data_dir)
        self.explicit = explicit
        self.with_sandbox = sandbox
        self.new_key: str | None = None

    def everything(self) -> None:
        """All steps. Raises EngineError, ConfigError, Failure (one line each) or Stopped."""
        if self.settings.database_url is None:
            demand_a_name()
        say(f"data in {_short(self.home.data_dir)}")
        end_all(lambda: started_with(MARK, self._mark()), signal.SIGTERM, STALE_GRACE_S)
        self._choose_ports()
        self._engines()
        self._database()
        self._roles()
        self._summary()

    def _mark(self) -> str:
        return os.path.realpath(self.home.data_dir)

    def _choose_ports(self) -> None:
        """Ports that the settings fix must be free; the others are taken where there is room."""
        path = self._config_path()
        wanted = self.settings.sandbox_port or config_file.sandbox_port(config_file.load(path))
        dispatcher = self.settings.dispatcher_port
        if "dispatcher_port" not in self.explicit:
            dispatcher = ports.free(dispatcher)
        self.settings = msgspec.structs.replace(
            self.settings,
            config=path,
            sandbox_port=wanted or config_file.SANDBOX_PORT,
            dispatcher_port=dispatcher,
            drain_s=self.settings.drain_s if "drain_s" in self.explicit else DRAIN_S,
        )
        _demand(self.settings.port, self.settings.host, "VOLLEY_PORT", "the API")
        _demand(dispatcher, self.settings.dispatcher_host, "VOLLEY_DISPATCHER_PORT", "the dispatcher")
        if self.with_sandbox:
            assert self.settings.sandbox_port is not None
            _demand(
                self.settings.sandbox_port,
                ports.LOOPBACK,
                "VOLLEY_SANDBOX_PORT",
                "the sandbox (--no-sandbox does without)",
            )

    def _config_path(self) -> Path:
        """VOLLEY_CONFIG, or the file in the data directory, which the first start puts there; while nobody changes it,
        it follows the sandbox's port."""
        if self.settings.config is not None:
            return self.settings.config.absolute()
        path = self.home.data_dir / "volley.toml"
        port = self.settings.sandbox_port
        if not path.exists() or (
            port is not None and config_file.is_shipped(path.read_text("utf-8", "replace"))
        ):
            self.home.write_private(path, config_file.shipped(port or config_file.SANDBOX_PORT))
        return path

    # -- engines

    def _engines(self) -> None:
        """The engines and the sandbox side by side: none of them needs another."""
        parts: list[Part] = []
        settings = self.settings
        if settings.database_url is None:
            postgres = Postgres(self.home)
            parts.append(_engine(postgres, "PostgreSQL"))
            settings = msgspec.structs.replace(settings, database_url=postgres.url)
            say(f"PostgreSQL: {'making its data' if postgres.is_new() else 'starting'}")
        else:
            say("PostgreSQL: VOLLEY_DATABASE_URL")
        if settings.redis_url is None:
            valkey = Valkey(self.home)
            parts.append(_engine(valkey, "Valkey"))
            settings = msgspec.structs.replace(settings, redis_url=valkey.url)
            say("Valkey: starting")
        else:
            say("Redis: VOLLEY_REDIS_URL")
            with name_the_engine("VOLLEY_REDIS_URL"):
                _ping(settings.redis_url)
        if self.with_sandbox:
            parts.append(self._sandbox())
        self.settings = settings
        self.supervisor.start(*parts)

    def _sandbox(self) -> Part:
        port = self.settings.sandbox_port
        assert port is not None
        control = ports.free(port + 1)
        say(f"sandbox SMSC: starting on 127.0.0.1:{port}, its control API on port {control}")
        options = ("--port", str(port), "--control-port", str(control))
        return self._role("sandbox", "sandbox SMSC", lambda: ports.answers(port), options)

    # -- schema, configuration, key

    def _database(self) -> None:
        from app.store import bootstrap, migrate

        url, path = self.settings.database_url, self.settings.config
        assert url is not None
        assert path is not None
        with name_the_engine("VOLLEY_DATABASE_URL"):
            self._step("schema", lambda: migrate.upgrade(url))
            if bootstrap.seed(url, path, check_gateway):
                say(f"configuration: from {_short(path)}")
            elif self.with_sandbox:
                self._check_way_to_sandbox(bootstrap.sandbox_port(url))
            self.new_key = bootstrap.first_key(url, self.settings.api_key)
        if self.new_key is not None:
            self.home.write_private(self.home.key_file, self.new_key + "\n")
        if self.settings.api_key is not None and len(self.settings.api_key) < STRONG_KEY_LENGTH:
            say_warning(
                f"VOLLEY_API_KEY is short: with fewer than {STRONG_KEY_LENGTH} characters it can be guessed"
            )
        self.supervisor.check()

    def _check_way_to_sandbox(self, configured: int | None) -> None:
        port = self.settings.sandbox_port
        if configured is not None and configured != port:
            say_warning(
                f"the gateway `sandbox` leads to port {configured}, but the sandbox listens on {port}:"
                " `volley apply` shows the difference, and changes the gateway"
            )

    def _step(self, name: str, work: Callable[[], object]) -> None:
        began = time.monotonic()
        work()
        say(f"{name}: up to date after {time.monotonic() - began:.1f} s")
        self.supervisor.check()

    # -- roles

    def _roles(self) -> None:
        say("dispatcher and API: starting")
        host, port = self.settings.dispatcher_host, self.settings.dispatcher_port
        self.supervisor.start(
            self._role("dispatch", "dispatcher", lambda: _healthy(host, port)),
            self._role("api", "API", lambda: _healthy(self.settings.host, self.settings.port)),
        )

    def _role(self, name: str, title: str, ready: Callable[[], bool], options: tuple[str, ...] = ()) -> Part:
        environ = settings.child_environment(self.settings)
        environ[MARK] = self._mark()
        checkout = str(Path(app.__file__).parents[1])
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, (checkout, environ.get("PYTHONPATH"))))

        def start() -> subprocess.Popen[bytes]:
            return spawn(
                [sys.executable, "-P", "-m", "app.cli", name, *options],
                env=environ,
                output=subprocess.PIPE,
                death_signal=signal.SIGTERM,
                cwd=os.getcwd(),
            )

        return Part(
            name=name,
            title=title,
            log=self.home.logs / f"{name}.log",
            spawn=start,
            ready=ready,
            stop_steps=((signal.SIGTERM, STOP_S[name]),),
            start_timeout_s=ROLE_TIMEOUT_S,
        )

    # -- the end of the start

    def _summary(self) -> None:
        url = self.settings.api_url
        say()
        say(f"  console   {url}/", bold=True)
        say(f"  API       {url}/docs", bold=True)
        key_file = _short(self.home.key_file)
        if self.new_key is not None:
            say(f"  key       {self.new_key}", bold=True)
            say(f"            shown this once; kept in {key_file}")
        elif self.home.key_file.exists():
            say(f"  key       in {key_file}", bold=True)
        else:
            say("  key       one that was made before; `volley keys create` makes others")
        say(f"  logs      {_short(self.home.logs)}")
        say()


def _engine(engine: Engine, title: str) -> Part:
    return Part(
        name=engine.name,
        title=title,
        log=engine.log,
        prepare=engine.prepare,
        spawn=engine.spawn,
        ready=engine.ready,
        stop_steps=engine.stop_steps,
        start_timeout_s=ENGINE_TIMEOUT_S,
    )


def _short(path: Path) -> Path:
    """Relative to where the person is, if it is below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _demand(port: int, host: str, setting: str, what: str) -> None:
    """Raises Failure where the port is taken, and not just by what a killed `volley up` left, which is ending."""
    elsewhere = ports.why_not_here(host)
    if elsewhere is not None:
        raise Failure(
            f"{setting.removesuffix('PORT')}HOST: {host!r} is no address of this machine: {elsewhere}"
        )
    reason = ports.why_taken(port, host, patience_s=PORT_GRACE_S)
    if reason is not None:
        raise Failure(f"{setting}: port {port} is not free for {what}: {reason}")


def _ping(url: str) -> None:
    import redis

    with redis.Redis.from_url(url, socket_connect_timeout=5.0, socket_timeout=5.0) as client:
        client.ping()


def _healthy(host: str, port: int) -> bool:
    """Whether `GET /healthz` answers 200."""
    if host in ("0.0.0.0", "::"):  # noqa: S104  an answer on loopback will do
        host = ports.LOOPBACK
    connection = http.client.HTTPConnection(host, port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
