"""The supervisor: order, restarts, output and the end, with small programs as its parts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from app.engines import EngineError
from app.engines.process import spawn
from app.engines.supervisor import Part, Stopped, Supervisor

OBEDIENT = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit()); ready(); signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); ready()\nwhile True: signal.pause()"


class Stage:
    """Makes parts from lines of Python and notes what the supervisor says and passes on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.on_said: Callable[[], None] = lambda: None
        self.output: list[tuple[str, bytes]] = []
        self.spawned: dict[str, list[subprocess.Popen[bytes]]] = {}

    def supervisor(self) -> Supervisor:
        return Supervisor(self._said, self._said, lambda name, line: self.output.append((name, line)))

    def _said(self, line: str) -> None:
        self.said.append(line)
        self.on_said()

    def part(self, name: str, code: str, timeout_s: float = 20.0) -> Part:
        """A part that is ready once its code called `ready()`."""
        mark = self.folder / f"{name}.ready"
        log = self.folder / f"{name}.log"
        log.touch()
        head = f"from pathlib import Path\ndef ready(): Path({str(mark)!r}).touch()\n"

        def start() -> subprocess.Popen[bytes]:
            mark.unlink(missing_ok=True)
            process = spawn(
                [sys.executable, "-c", head + textwrap.dedent(code)],
                env={},
                output=subprocess.PIPE,
                death_signal=signal.SIGTERM,
            )
            self.spawned.setdefault(name, []).append(process)
            return process

        return Part(name, name, log, start, mark.exists, ((signal.SIGTERM, 0.3),), start_timeout_s=timeout_s)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_parts_stop_in_reverse_order(stage: Stage):
    ended = stage.folder / "ended"
    code = """
        import signal, sys
        def leave(*_):
            with open({ended!r}, "a") as file:
                file.write({name!r} + " ")
            sys.exit()
        signal.signal(signal.SIGTERM, leave)
        ready()
        signal.pause()
    """
    with stage.supervisor() as supervisor:
        for name in ("first", "second", "third"):
            supervisor.start(stage.part(name, textwrap.dedent(code).format(ended=str(ended), name=name)))
    assert ended.read_text().split() == ["third", "second", "first"]
    assert all(process.returncode == 0 for (process,) in stage.spawned.values())


def test_output_arrives_line_by_line_and_whole(stage: Stage):
    code = "print('one'); print('a' * 200000, flush=True); print('no end', end='')"
    with stage.supervisor() as supervisor:
        supervisor.start(stage.part("talker", code + "\n" + OBEDIENT))
    assert stage.output[0] == ("talker", b"one")
    assert b"".join(line for _, line in stage.output[1:]) == b"a" * 200000 + b"no end"
    assert max(len(line) for _, line in stage.output) <= 2 * 65536


def test_what_ends_at_start_is_named_with_its_last_words(stage: Stage):
    part = stage.part("broken", "import sys; sys.exit(3)")
    part.log.write_text("first\nport 8000 is taken\n\n")
    with (
        pytest.raises(EngineError, match="broken ended at start: port 8000 is taken"),
        stage.supervisor() as supervisor,
    ):
        supervisor.start(part)


def test_what_never_gets_ready_is_killed(stage: Stage):
    with pytest.raises(EngineError, match="slow ended at start"), stage.supervisor() as supervisor:
        supervisor.start(stage.part("slow", "import signal; signal.pause()", timeout_s=0.2))
    assert stage.said == ["slow is not ready after 0 s: killed"]
    assert stage.spawned["slow"][0].returncode == -signal.SIGKILL


def test_a_crashed_part_runs_again(stage: Stage):
    with stage.supervisor() as supervisor:
        supervisor.start(stage.part("steady", OBEDIENT), stage.part("frail", OBEDIENT))
        stage.spawned["frail"][0].kill()
        run_until(supervisor, stage, lambda: stage.said[-1].startswith("frail: ready again"))
        assert len(stage.spawned["frail"]) == 2
        assert len(stage.spawned["steady"]) == 1
        assert stage.said[2].startswith("frail was killed by SIGKILL; starting it again in 0.5 s")


def test_the_pause_grows(stage: Stage):
    counter = stage.folder / "count"
    code = f"""
        import os, signal
        count = Path({str(counter)!r})
        n = int(count.read_text()) if count.exists() else 0
        count.write_text(str(n + 1))
        if n: raise SystemExit(5)
        ready()
        signal.pause()
    """
    with stage.supervisor() as supervisor:
        supervisor.start(stage.part("frail", code))
        stage.spawned["frail"][0].kill()
        run_until(supervisor, stage, lambda: len(stage.said) >= 3)
    assert [line.split("; ")[1].split(" (")[0] for line in stage.said[1:3]] == [
        "starting it again in 0.5 s",
        "starting it again in 1.0 s",
    ]
    assert "ended with exit code 5" in stage.said[2]


def test_a_stubborn_part_is_killed_with_its_children(stage: Stage):
    code = "import subprocess, sys; subprocess.Popen(['/bin/sleep', '60'])\n" + STUBBORN
    with stage.supervisor() as supervisor:
        supervisor.start(stage.part("stubborn", code))
        (process,) = stage.spawned["stubborn"]
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
        assert len(family) == 2
    assert process.returncode == -signal.SIGKILL
    assert stage.said[1:] == ["stubborn did not stop in time: killed"]
    _, alive = psutil.wait_procs(family, 5)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_run_and_start(stage: Stage, number: signal.Signals):
    before = signal.getsignal(number)
    with stage.supervisor() as supervisor:
        supervisor.start(stage.part("part", OBEDIENT))
        os.kill(os.getpid(), number)
        supervisor.run()
        with pytest.raises(Stopped):
            supervisor.start(stage.part("late", OBEDIENT))
    assert signal.getsignal(number) is before
    assert stage.spawned["part"][0].returncode == 0
    assert "late" not in stage.spawned


def test_what_is_inherited_as_ignored(stage: Stage):
    """nohup asks to live on after a hang-up; a shell's background job didn't ask to ignore Ctrl-C."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT)}
    try:
        with stage.supervisor() as supervisor:
            os.kill(os.getpid(), signal.SIGHUP)
            supervisor.check()
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(Stopped):
                supervisor.check()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_until(supervisor: Supervisor, stage: Stage, reached: Callable[[], bool]) -> None:
    """Run the supervisor until something that it says makes `reached` true, for 20 s at most."""
    deadline = time.monotonic() + 20

    def look() -> None:
        if reached() or time.monotonic() > deadline:
            os.kill(os.getpid(), signal.SIGTERM)

    stage.on_said = look
    supervisor.run()
    assert reached()
