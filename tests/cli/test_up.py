"""`volley up`, whole: real engines and roles, as a person at a terminal meets them."""

from __future__ import annotations

import os
import pwd
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.engines import ports
from app.engines.process import Account, answer

START_TIMEOUT_S = 90.0
STOP_LIMIT_S = 10.0
LATER_START_CPU_S = 10.0  # on two cores it is up in about half of that


class Up:
    """A `volley up` of a test's own, on free ports."""

    def __init__(self, data_dir: Path, user: str | None = None, **environ: str) -> None:
        self.data_dir = data_dir
        self.user = user
        self.port = ports.free()
        self.environ = {
            "PATH": os.defpath,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "VOLLEY_DATA_DIR": str(data_dir),
            "VOLLEY_PORT": str(self.port),
            "VOLLEY_SANDBOX_PORT": str(ports.free()),
            **environ,
        }
        self.lines: list[str] = []
        self.process: subprocess.Popen[str] | None = None

    def command(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run another command to its end in the same environment."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "app.cli", *words],
            env={**self.environ, **environ},
            cwd=self.data_dir.parent,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )

    def start(self) -> list[str]:
        """Start and wait until it says that it is up; gives what it said until then."""
        self.lines = []
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "app.cli", "up"],
            env=self.environ,
            cwd=self.data_dir.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            user=self.user,
            group=pwd.getpwnam(self.user).pw_gid if self.user else None,
            extra_groups=[] if self.user else None,
        )
        self.wait_for("Volley is up")
        return list(self.lines)

    def wait_for(self, text: str) -> None:
        """Read its output until a line holds `text`."""
        assert self.process is not None
        assert self.process.stdout is not None
        watchdog = threading.Timer(START_TIMEOUT_S, self.process.kill)
        watchdog.start()
        try:
            for line in self.process.stdout:
                self.lines.append(line.rstrip("\n"))
                if text in line:
                    return
        finally:
            watchdog.cancel()
        raise AssertionError(f"it ended before it said {text!r}:\n" + "\n".join(self.lines))

    def family(self) -> list[psutil.Process]:
        """Itself and everything that it started."""
        assert self.process is not None
        itself = psutil.Process(self.process.pid)
        return [itself, *itself.children(recursive=True)]

    def cpu_s(self) -> float:
        """What it and its processes have computed: the start's cost, however busy the machine is."""
        times = [process.cpu_times() for process in self.family()]
        return sum(one.user + one.system for one in times)

    def child(self, words: str) -> psutil.Process:
        """The child whose command line has these words."""
        return next(process for process in self.family()[1:] if words in " ".join(process.cmdline()))

    def end(self, number: signal.Signals) -> float:
        """Send a signal and wait for the end; gives the seconds that it took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=START_TIMEOUT_S)
        self.lines += rest.splitlines()
        return time.monotonic() - began

    def kill(self) -> None:
        """End it in any case."""
        if self.process is not None and self.process.poll() is None:
            self.end(signal.SIGTERM)

    def key(self) -> str:
        return (self.data_dir / "api-key").read_text().strip()

    def get(self, path: str) -> int:
        """The status of a GET with the first key."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Bearer {self.key()}"}
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status


def alive(processes: list[psutil.Process], patience_s: float = 5.0) -> list[psutil.Process]:
    """Those that still run after a while; a zombie is dead."""
    _, left = psutil.wait_procs(processes, patience_s)
    return [process for process in left if process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def up(engines_folder: Path) -> Iterator[Up]:
    """One that a test starts and ends, on new data."""
    up = Up(engines_folder / uuid.uuid4().hex[:8])
    yield up
    up.kill()


@pytest.fixture(scope="module")
def running(engines_folder: Path) -> Iterator[Up]:
    """One that runs for several tests."""
    up = Up(engines_folder / "running")
    up.start()
    yield up
    up.kill()


def test_starts_and_ends(up: Up):
    lines = up.start()
    said = "\n".join(lines)
    shown = re.search(r"key +(vk_\S+)", said)
    assert shown is not None
    assert shown[1] == up.key()
    assert stat.S_IMODE((up.data_dir / "api-key").stat().st_mode) == 0o600
    for step in ("PostgreSQL: making its data", "Valkey: ready", "schema: up to date", "sandbox SMSC: ready"):
        assert step in said
    assert f"http://127.0.0.1:{up.port}/docs" in said
    assert up.get("/healthz") == 200
    assert up.get("/v1/messages?limit=1") == 200

    family = up.family()
    assert up.end(signal.SIGTERM) < STOP_LIMIT_S
    assert up.process is not None
    assert up.process.returncode == 0
    assert alive(family) == []

    lines = up.start()
    assert up.cpu_s() < LATER_START_CPU_S
    said = "\n".join(lines)
    assert up.key() not in said
    assert "api-key" in said
    assert "making its data" not in said
    assert up.get("/v1/messages?limit=1") == 200  # the key of the first start: its data is there
    family = up.family()
    assert up.process is not None
    up.process.kill()
    up.process.communicate()
    old, new = up.environ["VOLLEY_SANDBOX_PORT"], str(ports.free())
    up.environ["VOLLEY_SANDBOX_PORT"] = new
    lines = up.start()  # what the killed one left doesn't stop it
    leads = f"the gateway `sandbox` leads to port {old}, but the sandbox listens on {new}"
    assert any(leads in line for line in lines)
    applied = up.command("apply", "--yes")
    assert f"127.0.0.1:{new}" in applied.stdout, applied.stderr
    assert up.get("/v1/messages?limit=1") == 200
    assert alive(family) == []
    family = up.family()
    assert up.end(signal.SIGINT) < STOP_LIMIT_S
    assert alive(family) == []


def test_a_second_one_on_the_same_data_says_so(running: Up):
    second = running.command("up", VOLLEY_PORT=str(ports.free()))
    assert running.process is not None
    assert second.returncode == 1
    assert second.stderr == (
        f"volley: Volley already runs on {running.data_dir} (process {running.process.pid})\n"
    )
    assert running.get("/healthz") == 200


def test_messages_from_the_command_line(running: Up, tmp_path: Path):
    sent = running.command("send", "+12025550101", "Xin chào")
    assert sent.stderr == ""
    assert sent.returncode == 0
    assert "delivered" in sent.stdout

    refused = running.command("send", "12", "too short")
    assert refused.returncode == 1
    assert refused.stderr.startswith("volley: ")
    assert refused.stderr.count("\n") == 1

    recipients = tmp_path / "recipients.csv"
    rows = [f"+1202555{number:04},Name {number}" for number in range(100, 150)]
    recipients.write_text("\n".join(["to,name", *rows, "12,Nobody"]) + "\n")
    done = running.command("batch", str(recipients), "--body", "Xin chào {name}")
    assert done.stderr == ""
    assert done.returncode == 0
    assert "50 accepted" in done.stdout
    assert "1 row(s) rejected" in done.stdout
    assert "invalid_number" in done.stdout
    assert "delivered" in done.stdout


def test_configuration_and_keys_from_the_command_line(running: Up):
    assert running.command("apply", "--dry-run").stdout.rstrip().endswith("agree")
    made = running.command("keys", "create", "second")
    assert made.stderr == ""
    assert made.stdout.startswith("vk_")


@pytest.mark.parametrize(
    ("words", "title"),
    [
        ("app.cli dispatch", "dispatcher"),
        ("app.cli api", "API"),
        ("valkey-server", "Valkey"),
        ("postgres -D", "PostgreSQL"),
    ],
)
def test_a_crashed_part_comes_back(running: Up, words: str, title: str):
    running.child(words).kill()
    running.wait_for(f"{title} was killed by SIGKILL; starting it again")
    running.wait_for(f"{title}: ready again")
    assert running.get("/healthz") == 200


@pytest.mark.parametrize("name", ["VOLLEY_HOST", "VOLLEY_DISPATCHER_HOST"])
def test_a_host_of_elsewhere_stops_the_start(engines_folder: Path, name: str):
    done = Up(engines_folder / "elsewhere").command("up", **{name: "192.0.2.1"})
    assert done.returncode == 1
    assert done.stderr.startswith(f"volley: {name}: '192.0.2.1' is no address of this machine: ")


@pytest.mark.parametrize("name", ["VOLLEY_PORT", "VOLLEY_SANDBOX_PORT", "VOLLEY_DISPATCHER_PORT"])
def test_a_taken_port_stops_the_start(engines_folder: Path, name: str):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = Up(engines_folder / "taken").command("up", **{name: str(port)})
    assert done.returncode == 1
    assert done.stderr.startswith(f"volley: {name}: port {port} is not free for the ")
    assert done.stderr.count("\n") == 1
    assert not (engines_folder / "taken" / "engines").exists()


@pytest.mark.parametrize(
    ("environ", "code", "line"),
    [
        ({"VOLLEY_PORT": "x"}, 2, "volley: VOLLEY_PORT: 'x' is not a whole number\n"),
        (
            {"VOLLEY_PROT": "1"},
            2,
            "volley: VOLLEY_PROT: there is no such setting; did you mean VOLLEY_PORT?\n",
        ),
        (
            {"VOLLEY_REDIS_URL": "redis://:hunter2@127.0.0.1:1/0"},
            1,
            "volley: VOLLEY_REDIS_URL: Error 111 connecting to 127.0.0.1:1. Connection refused.\n",
        ),
        (
            {"VOLLEY_DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x", "VOLLEY_REDIS_URL": ""},
            1,
            "volley: VOLLEY_DATABASE_URL: ",
        ),
    ],
)
def test_a_bad_setting_stops_the_start_with_one_line(
    engines_folder: Path, environ: dict[str, str], code: int, line: str
):
    done = Up(engines_folder / "bad").command("up", **environ)
    assert done.returncode == code
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1
    assert "hunter2" not in done.stdout + done.stderr


def test_a_bad_file_stops_the_start_with_one_line(engines_folder: Path, tmp_path: Path):
    config = tmp_path / "ours.toml"
    config.write_text('[[routes]]\nto = "*"\ngateways = ["nowhere"]\n')
    done = Up(engines_folder / "bad").command("up", VOLLEY_CONFIG=str(config))
    assert done.returncode == 1
    assert done.stderr == "volley: ours.toml: routes entry 1.gateways: there is no gateway 'nowhere'\n"


def test_commands_that_need_engines_say_which(engines_folder: Path):
    nowhere = Up(engines_folder / "nowhere")
    for command in ("api", "dispatch", "migrate", "apply"):
        done = nowhere.command(command)
        assert done.returncode == 1
        assert done.stderr.startswith("volley: VOLLEY_DATABASE_URL")
        assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_runs_it_in_its_home(engines_folder: Path):
    nobody = pwd.getpwnam("nobody")
    account = Account(nobody.pw_name, nobody.pw_uid, nobody.pw_gid)
    if answer([sys.executable, "-P", "-c", "import sys"], account) is None:
        pytest.skip("this Python is closed to other users")
    home = engines_folder / "home"
    home.mkdir(mode=0o700)
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    up = Up(home / ".volley", user="nobody", HOME=str(home))
    try:
        up.start()
        assert {process.username() for process in up.family()} == {"nobody"}
        assert up.get("/healthz") == 200
        family = up.family()
        assert up.end(signal.SIGINT) < STOP_LIMIT_S
        assert alive(family) == []
    finally:
        up.kill()
