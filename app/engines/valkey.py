"""The embedded Valkey: on 127.0.0.1 with a password, its append-only file synced every second.

Guarantees: what it acknowledged survives `kill -9` of it, and a crash of the machine up to
one second (appendfsync everysec); it refuses writes when memory runs out and never evicts;
a predecessor that outlived its parent is ended before a start.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess

from app.engines import logfile, ports
from app.engines.home import Home
from app.engines.process import StopSteps, end_all, spawn, working_in

STALE_GRACE_S = 5.0
PROBE_TIMEOUT_S = 1.0
# a script takes and frees some hundred small pieces at a time: a tenth of its time
MALLOC = "glibc.malloc.tcache_count=2000"

SETTINGS = """\
# Written by Volley at each start.
bind 127.0.0.1
port {port}
requirepass {password}
dir "{folder}"
daemonize no
protected-mode yes
appendonly yes
appendfsync everysec
auto-aof-rewrite-percentage 100
auto-aof-rewrite-min-size 64mb
aof-load-truncated yes
save ""
maxmemory-policy noeviction
tcp-backlog 511
timeout 0
loglevel notice
"""


def url(password: str, port: int) -> str:
    """The address of an embedded Valkey."""
    return f"redis://:{password}@127.0.0.1:{port}/0"


class Valkey:
    """The server of one home. `prepare`, then `spawn`, then wait until `ready`."""

    name = "valkey"
    death_signal = signal.SIGTERM
    stop_steps: StopSteps = ((signal.SIGTERM, 1.0),)

    def __init__(self, home: Home, port: int = 0) -> None:
        """`port` 0: the one of the last start where it is free, otherwise any."""
        self.home = home
        self.folder = home.engines / "valkey"
        self.log = home.logs / "valkey.log"
        self.port = port or ports.free(home.secrets.valkey_port)

    @property
    def url(self) -> str:
        """Where clients connect, with the password: never to be logged."""
        return url(self.home.secrets.valkey_password, self.port)

    def prepare(self) -> None:
        """Make the folder if there is none, end a server that a killed parent left, write the settings."""
        self.home.make_engine_folder(self.folder.name)
        end_all(lambda: working_in(self.folder), signal.SIGTERM, STALE_GRACE_S)
        settings = SETTINGS.format(
            port=self.port, password=self.home.secrets.valkey_password, folder=self.folder
        )
        self.home.write_private(self.folder / "valkey.conf", settings, for_engine=True)
        if self.home.secrets.valkey_port != self.port:
            self.home.secrets.valkey_port = self.port
            self.home.save_secrets()

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the server; it is usable once `ready`."""
        with logfile.append_to(self.log) as output:
            return spawn(
                [self.home.programs.valkey_server, self.folder / "valkey.conf"],
                env={"LC_ALL": "C", "TZ": "UTC", "GLIBC_TUNABLES": MALLOC},
                account=self.home.account,
                output=output,
                death_signal=self.death_signal,
            )

    def ready(self) -> bool:
        """Whether the server answers, its append-only file loaded."""
        question = f"AUTH {self.home.secrets.valkey_password}\r\nPING\r\n".encode()
        expected = b"+OK\r\n+PONG\r\n"
        answer = b""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), PROBE_TIMEOUT_S) as link,
        ):
            link.sendall(question)
            while len(answer) < len(expected) and (data := link.recv(256)):
                answer += data
        return answer == expected
