"""Keeps a set of processes running, restarts what crashes, and stops all of it in order.

Guarantees: parts are stopped in the reverse order of their start, each within its own limit,
then killed; a part that ends by itself is started again after a growing pause (0.5 s to 30 s,
back to 0.5 s once it ran for a minute); output of a part goes to its log file whole, and line
by line to `relay`; SIGINT, SIGTERM and SIGHUP end it, a second one at once.

One thread, one selector: the kernel ends children when the thread that started them ends.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from subprocess import Popen
from types import FrameType, TracebackType
from typing import Self

import msgspec

from app.engines import EngineError, logfile
from app.engines.process import StopSteps, kill_session

PAUSE_FIRST_S, PAUSE_LONGEST_S = 0.5, 30.0
STEADY_S = 60.0  # a part that ran this long starts again with the shortest pause
READY_POLL_S = 0.03
IDLE_S = 5.0
READ_BYTES = 65536
LINE_LIMIT_BYTES = 65536
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """A signal asked for the end while parts were starting."""


class Part(msgspec.Struct, frozen=True):
    """A process to keep running.

    `spawn` starts it, with its output in a pipe or in `log`; `ready` says whether it does its
    work; `stop_steps` are the signals that end it, each with the seconds it is given. `title` is
    what the terminal calls it.
    """

    name: str
    title: str
    log: Path
    spawn: Callable[[], Popen[bytes]]
    ready: Callable[[], bool]
    stop_steps: StopSteps
    prepare: Callable[[], None] = lambda: None
    start_timeout_s: float = 60.0


class _State(Enum):
    STARTING = 1
    RUNNING = 2
    PAUSED = 3
    STOPPED = 4


class _Child:
    """A part and its current process."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.process: Popen[bytes] | None = None
        self.state = _State.STOPPED
        self.since = 0.0  # of the state, monotonic seconds
        self.resume_at = 0.0
        self.pause_s = PAUSE_FIRST_S
        self.line = b""

    def enter(self, state: _State) -> None:
        self.state, self.since = state, time.monotonic()


class Supervisor:
    """Use as a context manager: leaving it stops every part."""

    def __init__(
        self,
        say: Callable[[str], None],
        warn: Callable[[str], None],
        relay: Callable[[str, bytes], None],
    ) -> None:
        """`say` and `warn` take one line for the terminal; `relay` a part's name and a line of its output."""
        self._say = say
        self._warn = warn
        self._relay = relay
        self._children: list[_Child] = []
        self._selector = selectors.DefaultSelector()
        self._asked_to_stop = 0  # how many signals came
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else _pipe()
        self._wakeup = (read, write)
        self._previous_wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._selector.register(read, selectors.EVENT_READ)
        for number in (*STOP_SIGNALS, signal.SIGCHLD):
            # Under nohup SIGHUP stays ignored. SIGINT doesn't: a shell's background jobs inherit it ignored.
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            for number, handler in self._previous.items():
                signal.signal(number, handler)  # type: ignore[arg-type]
            signal.set_wakeup_fd(self._previous_wakeup)
            self._selector.close()
            for end in self._wakeup:
                os.close(end)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._asked_to_stop += 1

    def check(self) -> None:
        """Raise Stopped when a signal came: call it between long steps."""
        if self._asked_to_stop:
            raise Stopped

    def start(self, *parts: Part) -> None:
        """Start parts side by side, each with the line that it is ready, and wait for all.

        Raises EngineError when one ends or isn't ready in time, Stopped on a signal.
        """
        self.check()
        children = [_Child(part) for part in parts]
        self._children += children
        for child in children:
            self._spawn(child)
        while any(child.state is not _State.RUNNING for child in children):
            self._turn(READY_POLL_S, restart=False)
            self.check()
            for child in children:
                if child.state is _State.PAUSED:
                    raise EngineError(
                        f"{child.part.title} ended at start: "
                        f"{logfile.last_line(child.part.log)} (see {child.part.log})"
                    )

    def run(self) -> None:
        """Keep the parts running until a signal asks for the end."""
        while not self._asked_to_stop:
            self._turn(self._until_next())

    def stop(self) -> None:
        """End the parts, the last started first."""
        asked = self._asked_to_stop
        for child in reversed(self._children):
            self._end(child, lambda: self._asked_to_stop > asked)
        self._children.clear()

    def _end(self, child: _Child, hurry: Callable[[], bool]) -> None:
        process = child.process
        child.enter(_State.STOPPED)
        if process is None:
            return
        for number, grace_s in child.part.stop_steps:
            if process.poll() is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            deadline = time.monotonic() + grace_s
            while process.poll() is None and time.monotonic() < deadline and not hurry():
                self._turn(max(0.0, deadline - time.monotonic()), restart=False)
        if process.poll() is None:
            self._warn(f"{child.part.title} did not stop in time: killed")
        kill_session(process)  # also what the process left in its session
        self._drain(child)

    def _until_next(self) -> float:
        """Seconds until something is due that no descriptor tells."""
        now = time.monotonic()
        due = [IDLE_S]
        for child in self._children:
            if child.state is _State.STARTING:
                due.append(READY_POLL_S)
            elif child.state is _State.PAUSED:
                due.append(child.resume_at - now)
        return max(0.0, min(due))

    def _turn(self, timeout_s: float, *, restart: bool = True) -> None:
        """Wait for output, a signal or the time-out; then move every part on."""
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wakeup[0], READ_BYTES)
            else:
                self._read(key.data)
        for child in self._children:
            self._advance(child, restart=restart)

    def _advance(self, child: _Child, *, restart: bool) -> None:
        process = child.process
        match child.state:
            case _State.STARTING | _State.RUNNING if process is not None and process.poll() is not None:
                self._ended(child, process.returncode, restart=restart)
            case _State.STARTING if child.part.ready():
                started = child.since
                child.enter(_State.RUNNING)
                again = " again" if child.pause_s > PAUSE_FIRST_S else ""
                self._say(f"{child.part.title}: ready{again} after {child.since - started:.1f} s")
            case _State.STARTING if time.monotonic() - child.since > child.part.start_timeout_s:
                assert process is not None
                self._warn(
                    f"{child.part.title} is not ready after {child.part.start_timeout_s:.0f} s: killed"
                )
                kill_session(process)
            case _State.PAUSED if restart and time.monotonic() >= child.resume_at:
                self._spawn(child)

    def _spawn(self, child: _Child) -> None:
        began = time.monotonic()
        try:
            child.part.prepare()
            child.process = child.part.spawn()
        except (EngineError, OSError) as error:
            if child.pause_s == PAUSE_FIRST_S:
                raise
            self._pause(child, f"{child.part.title} can't start: {error}")
            return
        child.enter(_State.STARTING)
        child.since = began  # preparing is part of the start
        child.line = b""
        if child.process.stdout is not None:
            os.set_blocking(child.process.stdout.fileno(), False)
            self._selector.register(child.process.stdout, selectors.EVENT_READ, child)

    def _ended(self, child: _Child, code: int, *, restart: bool) -> None:
        """Note the end of a process that was not asked to end."""
        assert child.process is not None
        kill_session(child.process)
        self._drain(child)
        if child.state is _State.RUNNING and time.monotonic() - child.since > STEADY_S:
            child.pause_s = PAUSE_FIRST_S
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self._pause(child, f"{child.part.title} {how}" if restart else None)

    def _pause(self, child: _Child, what: str | None) -> None:
        child.enter(_State.PAUSED)
        child.resume_at = child.since + child.pause_s
        if what is not None:
            self._warn(f"{what}; starting it again in {child.pause_s:.1f} s (see {child.part.log})")
        child.pause_s = min(child.pause_s * 2, PAUSE_LONGEST_S)

    def _read(self, child: _Child) -> bool:
        """Take what the pipe holds; whole lines go on. Whether there may be more."""
        assert child.process is not None
        pipe = child.process.stdout
        if pipe is None:
            return False
        try:
            data = os.read(pipe.fileno(), READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._close_pipe(child.process)
            return False
        *lines, child.line = (child.line + data).split(b"\n")
        if len(child.line) > LINE_LIMIT_BYTES:
            lines.append(child.line)
            child.line = b""
        for line in lines:
            self._relay(child.part.name, line)
        return True

    def _drain(self, child: _Child) -> None:
        """The rest of the output of a process that ended."""
        assert child.process is not None
        while self._read(child):
            pass
        self._close_pipe(child.process)
        if child.line:
            self._relay(child.part.name, child.line)
        child.process, child.line = None, b""

    def _close_pipe(self, process: Popen[bytes]) -> None:
        if process.stdout is not None:
            self._selector.unregister(process.stdout)
            process.stdout.close()
            process.stdout = None


def _pipe() -> tuple[int, int]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write
