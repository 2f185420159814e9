"""Starting and ending processes that must not outlive us.

Guarantees: a child gets its own session (a Ctrl-C at the terminal reaches only us), and on
Linux the kernel signals it when its parent dies, however that happens. Spawn from the main
thread: the kernel watches the thread that forked, not the process (prctl(2), PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import msgspec

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

POLL_S = 0.02
StopSteps = Sequence[tuple[signal.Signals, float]]  # each signal, and the seconds that it is given
ANSWER_TIMEOUT_S = 20.0


class Account(msgspec.Struct, frozen=True):
    """An unprivileged operating-system account that a child runs as, when we are root."""

    name: str
    uid: int
    gid: int


def spawn(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    account: Account | None = None,
    stdin: int | IO[bytes] | None = subprocess.DEVNULL,
    output: int | IO[bytes],
    death_signal: signal.Signals,
    cwd: str | Path = "/",
) -> subprocess.Popen[bytes]:
    """Start `command` as `account` (None: as ourselves), with stdout and stderr going to `output`.

    `death_signal` reaches the child when this process dies. Raises OSError when the program
    can't be run.
    """
    return subprocess.Popen(  # noqa: S603  the programs are ours
        [os.fspath(word) for word in command],
        env=dict(env),
        cwd=cwd,
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        user=None if account is None else account.uid,
        group=None if account is None else account.gid,
        extra_groups=None if account is None else [],
        umask=0o077,
        preexec_fn=_die_with_parent(os.getpid(), death_signal),  # noqa: PLW1509  see there
    )


def answer(command: Sequence[str | Path], account: Account | None = None) -> str | None:
    """What a short-lived program prints, run as `account`; None when it can't be run or fails."""
    try:
        done = subprocess.run(  # noqa: S603  the programs are ours
            [os.fspath(word) for word in command],
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWER_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _die_with_parent(parent: int, death_signal: signal.Signals) -> Callable[[], None] | None:
    """What the child does between fork and exec, after setuid (which clears the setting).

    It calls two functions of libc and takes no lock, so threads of the parent can't hang it.
    """
    if LIBC is None:
        return None
    prctl = LIBC.prctl

    def set_death_signal() -> None:
        prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the setting took effect
            os._exit(1)

    return set_death_signal


def wait_exit(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Whether the process ended within `timeout_s` seconds."""
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def stop(process: subprocess.Popen[bytes], steps: StopSteps) -> None:
    """Send each signal in turn and wait so many seconds for the end; the last resort is SIGKILL."""
    for number, grace_s in steps:
        if process.poll() is not None:
            return
        process.send_signal(number)
        if wait_exit(process, grace_s):
            return
    kill_session(process)


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for the process and whatever it started in its own session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def working_in(folder: Path) -> list[int]:
    """Ids of the processes whose working directory is `folder` (Linux; elsewhere none).

    Both engines enter their data directory at start, so this finds one that outlived its
    parent, and the children of one that died.
    """
    wanted = os.path.realpath(folder)
    return [pid for pid, entry in _processes() if _link(entry / "cwd") == wanted]


def started_with(name: str, value: str) -> list[int]:
    """Ids of other processes whose environment holds `name=value` (Linux; elsewhere none)."""
    wanted = f"{name}={value}".encode()
    found = []
    for pid, entry in _processes():
        with contextlib.suppress(OSError):
            if pid != os.getpid() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def _processes() -> list[tuple[int, Path]]:
    if not os.path.isdir("/proc/self"):
        return []
    return [(int(entry.name), entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def end_all(find: Callable[[], list[int]], first: signal.Signals, grace_s: float) -> int:
    """End the processes that `find` names: `first`, then SIGKILL after `grace_s`; gives their number."""
    found = find()
    if not found:
        return 0
    _signal_all(found, first)
    deadline = time.monotonic() + grace_s
    while find() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    _signal_all(find(), signal.SIGKILL)
    deadline = time.monotonic() + grace_s
    while find() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return len(found)


def _signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
