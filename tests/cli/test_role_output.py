"""Output of roles: every line in the file, what wants attention on the terminal, and not too much of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.cli.role_output import SHOWN_PER_SECOND, RoleOutput


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b'{"level": "info", "message": "all is well"}', []),
        (b'{"level": "warning", "message": "slow", "gateway": "a"}', ["api      | warning: slow"]),
        (
            b'{"level": "error", "message": "failed", "exception": "Traceback\\n  x\\nValueError: no"}',
            ["api      | error: failed (ValueError: no)"],
        ),
        (b"Segmentation fault", ["api      | Segmentation fault"]),
        (b"\xff", ["api      | \ufffd"]),
        (b"", []),
    ],
)
def test_what_is_shown(tmp_path: Path, line: bytes, shown: list[str]):
    said: list[str] = []
    output = RoleOutput(tmp_path, said.append)
    output.line("api", line)
    output.close()
    assert said == shown
    assert (tmp_path / "api.log").read_bytes() == line + b"\n"


def test_a_flood_is_counted_and_kept(tmp_path: Path):
    said: list[str] = []
    now = 100.0
    output = RoleOutput(tmp_path, said.append, lambda: now)
    for _ in range(1000):
        output.line("dispatch", b"no")
    assert said == ["dispatch | no"] * SHOWN_PER_SECOND
    now = 101.0
    output.line("dispatch", b"yes")
    output.close()
    assert said[SHOWN_PER_SECOND:] == [
        f"dispatch | ... 995 more lines in {tmp_path / 'dispatch.log'}",
        "dispatch | yes",
    ]
    assert (tmp_path / "dispatch.log").read_bytes().count(b"\n") == 1001
