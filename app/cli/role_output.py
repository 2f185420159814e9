"""What `volley up` does with its roles' output: all of it to files, what wants attention to the terminal.

Guarantee: a role that complains a thousand times a second doesn't drown the terminal; its file
has every line.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from app.engines.logfile import LogFile

SHOWN_PER_SECOND = 5
LOUD = frozenset(("warning", "error", "critical"))


class _Line(msgspec.Struct):
    """What matters of a line of `app.logs`."""

    level: str = ""
    message: str = ""
    exception: str = ""


class _Shown:
    """How many lines of a role the terminal got in the current second, and how many it was spared."""

    def __init__(self) -> None:
        self.second = 0
        self.count = 0
        self.spared = 0


class RoleOutput:
    """Takes the lines of all roles."""

    def __init__(
        self, folder: Path, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._say = say
        self._clock = clock
        self._files: dict[str, LogFile] = {}
        self._shown: dict[str, _Shown] = {}
        self._decoder = msgspec.json.Decoder(_Line)

    def line(self, role: str, line: bytes) -> None:
        """One line of a role's output, without its end."""
        if role not in self._files:
            self._files[role] = LogFile(self._folder / f"{role}.log")
            self._shown[role] = _Shown()
        self._files[role].add(line)
        text = self._loud(line)
        if text:
            self._show(role, text)

    def _loud(self, line: bytes) -> str:
        """What the terminal gets of a line: warnings and worse, and what isn't a log line at all."""
        try:
            parsed = self._decoder.decode(line)
        except msgspec.MsgspecError:
            return line.decode(errors="replace").rstrip()
        if parsed.level not in LOUD:
            return ""
        cause = parsed.exception.rstrip().rpartition("\n")[2]
        return f"{parsed.level}: {parsed.message}{f' ({cause})' if cause else ''}"

    def _show(self, role: str, text: str) -> None:
        shown = self._shown[role]
        second = int(self._clock())
        if second != shown.second:
            if shown.spared:
                self._say(f"{role:<8} | ... {shown.spared} more lines in {self._files[role].path}")
            shown.second, shown.count, shown.spared = second, 0, 0
        if shown.count < SHOWN_PER_SECOND:
            shown.count += 1
            self._say(f"{role:<8} | {text}")
        else:
            shown.spared += 1

    def close(self) -> None:
        for file in self._files.values():
            file.close()
