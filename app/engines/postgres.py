"""The embedded PostgreSQL: one cluster, one database, on 127.0.0.1 with a password.

Guarantees: fsync, synchronous_commit and full_page_writes are on; a cluster appears under its
name only when it is complete, so that an interrupted first start leaves nothing half-made;
what a killed predecessor left (server processes, postmaster.pid) is cleared before a start.

The settings file is written anew at each start and suits a machine of two cores that the
service shares; an operator's own settings go into `local.conf` beside it, which wins.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from app.engines import EngineError, logfile, ports
from app.engines.home import Home
from app.engines.process import StopSteps, answer, end_all, spawn, wait_exit, working_in

ROLE = DATABASE = "volley"
INITDB_TIMEOUT_S = 120.0
STALE_GRACE_S = 5.0
READY_LINE = 7  # of postmaster.pid, from 0: the status that pg_ctl waits for (utils/pidfile.h)

SETTINGS = """\
# Written by Volley at each start. Your own settings go into local.conf in this folder.
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
max_connections = 100
password_encryption = scram-sha-256

fsync = on
synchronous_commit = on
full_page_writes = on
wal_compression = {wal_compression}
wal_buffers = 16MB
min_wal_size = 512MB
max_wal_size = 4GB
checkpoint_timeout = 15min
checkpoint_completion_target = 0.9

shared_buffers = 256MB
effective_cache_size = 1GB
work_mem = 16MB
maintenance_work_mem = 128MB
random_page_cost = 1.1
jit = off
max_parallel_workers_per_gather = 0
update_process_title = off

# Tables that mostly grow: vacuum and analyze by the new rows, often and gently.
autovacuum_max_workers = 2
autovacuum_naptime = 20s
autovacuum_vacuum_scale_factor = 0.05
autovacuum_vacuum_insert_scale_factor = 0.1
autovacuum_analyze_scale_factor = 0.05
autovacuum_vacuum_cost_limit = 1000

# Statements and details may hold numbers and texts: neither goes into the log.
log_destination = 'stderr'
logging_collector = off
log_line_prefix = '%m [%p] '
log_min_error_statement = panic
log_error_verbosity = terse
log_parameter_max_length_on_error = 0
log_timezone = 'UTC'
timezone = 'UTC'
lc_messages = 'C'
include_if_exists = 'local.conf'
"""

ACCESS = "host all all 127.0.0.1/32 scram-sha-256\n"


def url(password: str, port: int) -> str:
    """The address of an embedded database."""
    return f"postgresql://{ROLE}:{password}@127.0.0.1:{port}/{DATABASE}"


class Postgres:
    """The server of one home. `prepare`, then `spawn`, then wait until `ready`."""

    name = "postgres"
    death_signal = signal.SIGQUIT  # immediate shutdown: its children go with it, the log is replayed
    stop_steps: StopSteps = ((signal.SIGINT, 2.0), (signal.SIGQUIT, 0.5))  # fast, then immediate

    def __init__(self, home: Home, port: int = 0) -> None:
        """`port` 0: the one of the last start where it is free, otherwise any."""
        self.home = home
        self.cluster = home.engines / "postgres"
        self.log = home.logs / "postgres.log"
        self.port = port or ports.free(home.secrets.postgres_port)

    @property
    def url(self) -> str:
        """Where clients connect, with the password: never to be logged."""
        return url(self.home.secrets.postgres_password, self.port)

    def is_new(self) -> bool:
        """Whether `prepare` will make a cluster."""
        return not self.cluster.exists()

    def prepare(self) -> None:
        """Make the cluster if there is none, clear what a killed server left, write the settings."""
        if self.is_new():
            self._make_cluster()
        self._check_version()
        self._clear_stale()
        self._write_settings(self.cluster)
        if self.home.secrets.postgres_port != self.port:
            self.home.secrets.postgres_port = self.port
            self.home.save_secrets()

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the server; it is usable once `ready`."""
        with logfile.append_to(self.log) as output:
            return spawn(
                [self._program("postgres"), "-D", self.cluster],
                env=_environment(),
                account=self.home.account,
                output=output,
                death_signal=self.death_signal,
            )

    def ready(self) -> bool:
        """Whether the server accepts connections."""
        with contextlib.suppress(OSError):
            lines = (self.cluster / "postmaster.pid").read_text().splitlines()
            return len(lines) > READY_LINE and lines[READY_LINE].strip() == "ready"
        return False

    def _program(self, name: str) -> Path:
        return self.home.programs.postgres_bin / name

    def _make_cluster(self) -> None:
        partial = self.cluster.with_name("postgres.partial")
        end_all(lambda: working_in(partial), signal.SIGKILL, STALE_GRACE_S)
        shutil.rmtree(partial, ignore_errors=True)
        self.home.make_engine_folder(partial.name)
        password = self.home.engines / "postgres.password"
        self.home.write_private(password, self.home.secrets.postgres_password, for_engine=True)
        try:
            self._run(
                [
                    *(self._program("initdb"), "--pgdata", partial, "--username", ROLE, "--pwfile", password),
                    *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", *self._locale_provider()),
                ]
            )
        finally:
            password.unlink()
        self._run(
            [self._program("postgres"), "--single", "-D", partial, "postgres"],
            statements=f'CREATE DATABASE "{DATABASE}"\n',
        )
        partial.replace(self.cluster)

    def _locale_provider(self) -> list[str]:
        """Comparison by code point, with case rules of Unicode; PostgreSQL 17 brought it."""
        if self._server_major() < 17:
            return []
        return ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]

    def _server_major(self) -> int:
        """The programs' major version."""
        version = answer([self._program("postgres"), "--version"])
        if version is None:
            raise EngineError(f"{self._program('postgres')} can't be run")
        return int(version.split()[2].split(".")[0])

    def _check_version(self) -> None:
        made_by = int((self.cluster / "PG_VERSION").read_text())
        if made_by != self._server_major():
            raise EngineError(
                f"{self.cluster} was made by PostgreSQL {made_by}, installed is {self._server_major()}: "
                "dump the data with the old version and load it into a new data directory"
            )

    def _clear_stale(self) -> None:
        """End servers that outlived their parent, then remove the note of theirs that would stop ours.

        We hold the lock of the home, so no living Volley runs them.
        """
        end_all(lambda: working_in(self.cluster), signal.SIGQUIT, STALE_GRACE_S)
        (self.cluster / "postmaster.pid").unlink(missing_ok=True)

    def _write_settings(self, cluster: Path) -> None:
        settings = SETTINGS.format(port=self.port, wal_compression=self._wal_compression())
        self.home.write_private(cluster / "postgresql.conf", settings, for_engine=True)
        self.home.write_private(cluster / "pg_hba.conf", ACCESS, for_engine=True)

    def _wal_compression(self) -> str:
        """lz4 where it is built in; pglz costs more time than the bytes are worth."""
        options = answer([self._program("pg_config"), "--configure"])
        return "lz4" if options and "--with-lz4" in options else "off"

    def _run(self, command: Sequence[str | Path], statements: str = "") -> None:
        """Run a program of the wheel to its end. Raises EngineError with its last line."""
        with logfile.append_to(self.log) as output:
            child = spawn(
                command,
                env=_environment(),
                account=self.home.account,
                stdin=subprocess.PIPE,
                output=output,
                death_signal=signal.SIGKILL,
            )
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(statements.encode())
                child.stdin.close()
            finished = wait_exit(child, INITDB_TIMEOUT_S)
        if not finished:
            child.kill()
        if not finished or child.returncode != 0:
            raise EngineError(
                f"PostgreSQL's data can't be made: {logfile.last_line(self.log)} (see {self.log})"
            )


def _environment() -> dict[str, str]:
    """Nothing of ours: PGPORT and its kind would change what the server does."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
