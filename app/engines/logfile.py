"""Files that take the output of child processes.

Guarantee: a file never grows past its limit by more than one run's output; the one before
it is kept as `.1`.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

LIMIT_BYTES = 32 * 1024 * 1024


def append_to(path: Path) -> BinaryIO:
    """Open for appending, unbuffered, after setting an over-long file aside."""
    if path.exists() and path.stat().st_size > LIMIT_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    file = path.open("ab", buffering=0)
    path.chmod(0o600)
    return file


def last_line(path: Path) -> str:
    """The last line that says something, for an error message."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "no output")
