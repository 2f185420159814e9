"""What a country's rules demand at the ends of a text: added where it is missing, never twice.

Guarantee: `ends` of a text that it has been applied to adds nothing more.

Pure. Marks are patterns from data files: they are compiled when a file is read, and a bad one is a `ValueError`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import msgspec

WORDS: Final = ("brand", "opt_out")  # what a tenant sets for a mark: the names that may stand in braces
_PLACE: Final = re.compile(r"\{(\w+)\}")
_PATTERNS_KEPT: Final = 4_096


class Missing(Exception):
    """A mark can't be made: the tenant has not set `name`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Mark(msgspec.Struct, frozen=True):
    """`add`, unless one of `accepts` is there; `otherwise`, where a word of `add` is not set."""

    add: str
    accepts: tuple[str, ...]
    otherwise: str | None = None

    def __post_init__(self) -> None:
        for name in _PLACE.findall(self.add):
            if name not in WORDS:
                raise ValueError(f"{{{name}}} is none of {', '.join(WORDS)}")
        for pattern in self.accepts:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        if not self.add.strip() or not self.accepts:
            raise ValueError("a mark has something to add and something to accept")

    def made(self, words: Mapping[str, str]) -> str:
        """What is added. Raises Missing."""
        for name in _PLACE.findall(self.add):
            if not words.get(name):
                if self.otherwise is not None:
                    return self.otherwise
                raise Missing(name)
        return _PLACE.sub(lambda place: words[place[1]], self.add)


def ends(text: str, start: Mark | None, end: Mark | None, words: Mapping[str, str]) -> tuple[str, str]:
    """What goes before and behind the text; empty where it is there already.

    A text that has the tenant's own opt-out words, or begins with just what would be added, has the mark.
    Raises Missing.
    """
    return (_start(text, start, words) if start else "", _end(text, end, words) if end else "")


def _start(text: str, mark: Mark, words: Mapping[str, str]) -> str:
    if any(_compiled(pattern).match(text) for pattern in mark.accepts):
        return ""
    made = mark.made(words)
    return "" if text.startswith(made.rstrip()) else made


def _end(text: str, mark: Mark, words: Mapping[str, str]) -> str:
    own = words.get("opt_out")
    if (own and own in text) or any(_compiled(pattern).search(text) for pattern in mark.accepts):
        return ""
    made = mark.made(words)
    return "" if text.endswith(made.strip()) else made


@lru_cache(maxsize=_PATTERNS_KEPT)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
