"""One engine as a running server: start it and wait until it answers, stop it, kill it, start it again.

For whoever needs an engine without a supervisor: tests, benchmarks, one-off tools.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from app.engines import EngineError, logfile
from app.engines.process import POLL_S, StopSteps, kill_session, stop

START_TIMEOUT_S = 300.0  # replaying a long write-ahead log takes its time


class Engine(Protocol):
    """What PostgreSQL and Valkey have in common."""

    name: str
    port: int
    log: Path
    stop_steps: StopSteps

    @property
    def url(self) -> str: ...

    def prepare(self) -> None: ...

    def spawn(self) -> subprocess.Popen[bytes]: ...

    def ready(self) -> bool: ...


class Running:
    """An engine and its process. Made stopped."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it answers; on the port it had before. Raises EngineError."""
        self.engine.prepare()
        self.process = self.engine.spawn()
        await_ready(self.engine.ready, self.process, self.engine.name, self.engine.log)

    def stop(self) -> None:
        """End it in good order, within the engine's own limits."""
        if self.process is not None:
            stop(self.process, self.engine.stop_steps)
            self.process = None

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self.process is not None:
            kill_session(self.process)
            self.process = None


def await_ready(
    ready: Callable[[], bool],
    process: subprocess.Popen[bytes],
    name: str,
    log: Path,
    timeout_s: float = START_TIMEOUT_S,
) -> None:
    """Return once `ready`; EngineError when the process ends or `timeout_s` passes first."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if process.poll() is not None:
            raise EngineError(f"{name} ended at start: {logfile.last_line(log)} (see {log})")
        if time.monotonic() > deadline:
            kill_session(process)
            raise EngineError(f"{name} did not answer within {timeout_s:.0f} s (see {log})")
        time.sleep(POLL_S)
