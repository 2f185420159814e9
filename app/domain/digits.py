"""Automata over decimal digits, for the regular expressions of numbering plans.

`Automaton` answers what `re` can't: what holds for *every* number that begins with some
digits. It reads the subset of regular expressions that the `phonenumbers` metadata is
written in (digits, `\\d`, classes, groups, `|`, `?`, `{m}`, `{m,n}`, a closing `$`) and
raises `ValueError` on anything else, so that a change of the metadata's style is noticed.

Positions automaton (Glushkov 1961): one state per digit of the pattern; sets of states are
bits of an int. Nothing is expanded beyond the pattern itself.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_SYMBOL: Final = re.compile(r"\\d|\[(?:\d|\\d|-)+\]|\(\?:|\{\d+(?:,\d+)?\}|[0-9()|?$]")
_ANY: Final = 0b11_1111_1111
_START: Final = 1  # the bit of the state before the first digit


class _Part(NamedTuple):
    """A piece of pattern: the positions it may begin and end with, and whether it may be empty."""

    first: int
    last: int
    empty: bool


class Automaton:
    """All digit strings that a pattern matches in full."""

    def __init__(self, pattern: str) -> None:
        self._symbols = _symbols(pattern)
        self._at = 0
        self._count = 0
        self._follow: list[int] = [0]
        self._takes = [0] * 10  # digit -> the positions that accept it
        whole = self._alternatives()
        if self._at != len(self._symbols):
            raise ValueError("unbalanced parenthesis")
        self._follow[0] = whole.first
        self._final = whole.last | (_START if whole.empty else 0)
        self._memo: dict[tuple[int, int], bool | None] = {}

    def matches_all(self, known: str, unknown: int) -> bool | None:
        """Whether `known` and any `unknown` digits after it match: all (True), none (False), some (None)."""
        states = _START
        for digit in known:
            states = self._step(states, int(digit))
            if not states:
                return False
        return self._all(states, unknown)

    def begins_all(self, known: str) -> bool | None:
        """Whether the pattern matches at the start of every string that begins with `known`."""
        states = _START
        for digit in known:
            states = self._step(states, int(digit))
            if states & self._final:
                return True
            if not states:
                return False
        return None

    def may_begin(self, known: str) -> bool:
        """Whether the pattern could match one digit or more at the start of what begins with `known`."""
        return self.begins_all(known) is not False

    def _step(self, states: int, digit: int) -> int:
        reached = 0
        while states:
            lowest = states & -states
            reached |= self._follow[lowest.bit_length() - 1]
            states ^= lowest
        return reached & self._takes[digit]

    def _all(self, states: int, unknown: int) -> bool | None:
        if not states or not unknown:
            return bool(states & self._final)
        key = (states, unknown)
        if key not in self._memo:
            verdicts = {self._all(after, unknown - 1) for after in {self._step(states, d) for d in range(10)}}
            self._memo[key] = verdicts.pop() if len(verdicts) == 1 else None
        return self._memo[key]

    # --- reading the pattern: alternatives of sequences of repeated atoms ---

    def _peek(self) -> str:
        return self._symbols[self._at] if self._at < len(self._symbols) else ""

    def _alternatives(self) -> _Part:
        part = self._sequence()
        while self._peek() == "|":
            self._at += 1
            other = self._sequence()
            part = _Part(part.first | other.first, part.last | other.last, part.empty or other.empty)
        return part

    def _sequence(self) -> _Part:
        part = _Part(0, 0, True)
        while self._peek() not in ("", "|", ")"):
            part = self._joined(part, self._repeated())
        return part

    def _repeated(self) -> _Part:
        """An atom with its quantifier: it is read anew for each copy, so each has its own positions."""
        start = self._at
        part = self._atom()
        end = self._at
        least, most = _bounds(self._peek())
        if self._peek()[:1] in ("?", "{"):
            end += 1
        for copy in range(2, most + 1):
            self._at = start
            more = self._atom()
            part = self._joined(part, more if copy <= least else more._replace(empty=True))
        self._at = end
        return part._replace(empty=True) if least == 0 else part

    def _atom(self) -> _Part:
        symbol = self._peek()
        self._at += 1
        if symbol in ("(", "(?:"):
            part = self._alternatives()
            if self._peek() != ")":
                raise ValueError("unbalanced parenthesis")
            self._at += 1
            return part
        if symbol == "$":
            return _Part(0, 0, True)  # it only narrows: asked "may", we may answer yes too often
        digits = _digit_set(symbol)
        self._count += 1
        self._follow.append(0)
        bit = 1 << self._count
        for digit in range(10):
            if digits >> digit & 1:
                self._takes[digit] |= bit
        return _Part(bit, bit, False)

    def _joined(self, left: _Part, right: _Part) -> _Part:
        ends = left.last
        while ends:
            lowest = ends & -ends
            self._follow[lowest.bit_length() - 1] |= right.first
            ends ^= lowest
        return _Part(
            left.first | right.first if left.empty else left.first,
            right.last | left.last if right.empty else right.last,
            left.empty and right.empty,
        )


def _symbols(pattern: str) -> list[str]:
    symbols = _SYMBOL.findall(pattern)
    if "".join(symbols) != pattern:
        raise ValueError("a regular expression beyond the subset of numbering plans")
    return symbols


def _bounds(quantifier: str) -> tuple[int, int]:
    if quantifier == "?":
        return 0, 1
    if quantifier.startswith("{"):
        least, _, most = quantifier[1:-1].partition(",")
        return int(least), int(most or least)
    return 1, 1


def _digit_set(symbol: str) -> int:
    """The digits of `7`, `\\d` or `[2-46]`, as bits."""
    if symbol == r"\d":
        return _ANY
    if symbol.isdigit():
        return 1 << int(symbol)
    if not symbol.startswith("["):
        raise ValueError(f"{symbol!r} can't stand here")
    digits = 0
    for low, high in re.findall(r"(\d)(?:-(\d))?", symbol.replace(r"\d", "0-9")):
        for digit in range(int(low), int(high or low) + 1):
            digits |= 1 << digit
    return digits
