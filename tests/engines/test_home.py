"""The data directory: what can't be used is said in one line, before anything is started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.engines import ports

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
NAMELESS = 54_321  # a uid that no system gives out


# Imported as root: the interpreter may be where that user can't reach it.
BECOME = """
import os, sys
import app.cli.up, app.cli
os.setgroups([]), os.setgid(int(sys.argv[1])), os.setuid(int(sys.argv[1]))
sys.argv[1:] = ["up", "--no-sandbox"]
app.cli.main()
"""


def _volley_up(data_dir: Path, uid: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", BECOME, str(uid)],
        env={
            "PATH": os.defpath,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "VOLLEY_DATA_DIR": str(data_dir),
            "VOLLEY_PORT": str(ports.free()),
        },
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@as_root
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_data_directory_out_of_reach(tmp_path: Path, mode: int):
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(mode)
    done = _volley_up(closed / "data", 65_534)
    lines = (done.stdout + done.stderr).strip().splitlines()
    assert done.returncode in (1, 2)
    assert len(lines) == 1, lines
    assert "VOLLEY_DATA_DIR" in lines[0]
    assert "Permission denied" in lines[0]


@as_root
def test_a_user_without_a_name(tmp_path: Path):
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    os.chown(data_dir, NAMELESS, NAMELESS)
    done = _volley_up(data_dir, NAMELESS)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert str(NAMELESS) in lines[-1]
    assert "VOLLEY_DATABASE_URL" in lines[-1]
    assert not (data_dir / "engines" / "postgres").exists()
