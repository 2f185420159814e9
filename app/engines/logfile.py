"""Files that take the output of child processes.

Guarantee: a file never grows past its limit by more than one run's output; the one before
it is kept as `.1`.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

LIMIT_BYTES = 32 * 1024 * 1024


def append_to(path: Path, limit_bytes: int = LIMIT_BYTES) -> BinaryIO:
    """Open for appending, unbuffered, after setting an over-long file aside."""
    if path.exists() and path.stat().st_size > limit_bytes:
        path.replace(path.with_name(path.name + ".1"))
    file = path.open("ab", buffering=0)
    path.chmod(0o600)
    return file


class LogFile:
    """A log that lines are added to; opened on the first one, set aside when it has grown too long."""

    def __init__(self, path: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.path = path
        self._limit_bytes = limit_bytes
        self._file: BinaryIO | None = None

    def add(self, line: bytes) -> None:
        """Append a line given without its end."""
        if self._file is None or self._file.tell() > self._limit_bytes:
            self.close()
            self._file = append_to(self.path, self._limit_bytes)
        self._file.write(line + b"\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def last_line(path: Path) -> str:
    """The last line that says something, for an error message."""
    if not path.exists():
        return "no output"
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "no output")
