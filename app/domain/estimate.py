"""What a text costs, why, and what would make it cheaper. For people who write texts; nothing here changes one.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import msgspec

from app.domain import national, smart
from app.domain.text import (
    GSM7_SINGLE,
    UCS2_SINGLE,
    USER_DATA,
    Coding,
    Segments,
    TextError,
    in_gsm7,
    segment,
    septets_beside,
)

MAX_PARTS = 255
MAX_FORCING = 50  # characters that are listed
MAX_POSITIONS = 20  # of each
FEW = 0.2  # of a text's characters: so many may be left out and leave a text

_UNITS = {"gsm7": "septets", "ucs2": "utf16_units", "latin-1": "octets", "octet": "octets"}


class Size(msgspec.Struct):
    """A text as it would be cut. `units_over`: so many less would save a segment (0: there is one only)."""

    encoding: str
    segments: int
    unit: str
    units: int
    units_left: int  # in the last segment
    units_over: int
    languages: tuple[str, ...] = ()  # whose shift tables it uses


class Forcing(msgspec.Struct):
    """A character that GSM-7 lacks. `positions` count characters from 0; the first MAX_POSITIONS."""

    character: str
    code_point: str
    name: str
    times: int
    positions: list[int]
    replacement: str | None  # what smart encoding would make of it


class Alternative(msgspec.Struct):
    """The same text otherwise. `changes`: what a reader would notice: nothing, typography, accents, characters."""

    kind: str
    text: str
    size: Size
    changes: str


def measure(text: str, coding: Coding) -> Size:
    """Raises TextError."""
    cut = segment(text, MAX_PARTS, coding)
    octets = 2 if cut.encoding == "ucs2" else 1
    single, part = _room(cut, coding)
    units = [len(one) // octets for one in cut.parts]
    total, n = sum(units), len(units)
    room = single if n == 1 else part
    over = 0 if n == 1 else total - single if n == 2 else units[-1]
    names = {number: name for name, number in national.LANGUAGES.items()}
    # the identifier is the last octet of each element (24 01 xx, 25 01 xx)
    used = {names[cut.header[at]] for at in range(2, len(cut.header), 3)}
    return Size(cut.encoding, n, _UNITS[cut.encoding], total, room - units[-1], over, tuple(sorted(used)))


def _room(cut: Segments, coding: Coding) -> tuple[int, int]:
    """Units in a segment that is alone, and in one of several."""
    header = len(cut.header)
    behind = coding.header_octets + header
    if cut.encoding == "gsm7":
        return septets_beside(1 + header) if header else GSM7_SINGLE, septets_beside(behind)
    if cut.encoding == "ucs2":
        return UCS2_SINGLE // 2, (USER_DATA - behind) // 2
    return USER_DATA, USER_DATA - behind


def forcing(text: str) -> list[Forcing]:
    """The characters that keep a text out of GSM-7, in the order in which they come first."""
    found: dict[str, list[int]] = {}
    for position, char in enumerate(text):
        if not in_gsm7(char):
            found.setdefault(char, []).append(position)
    return [
        Forcing(
            char,
            f"U+{ord(char):04X}",
            unicodedata.name(char, ""),
            len(positions),
            positions[:MAX_POSITIONS],
            smart.REPLACEMENTS.get(char),
        )
        for char, positions in list(found.items())[:MAX_FORCING]
    ]


def alternatives(text: str, coding: Coding) -> list[Alternative]:
    """Those that need fewer segments than the text as it is, and those that are asked for by name: smart encoding
    and the text without accents, wherever they change it. Fewest segments first."""
    segments = measure(text, coding).segments
    found = []
    for kind, other, with_coding, changes in _candidates(text, coding):
        try:
            size = measure(other, with_coding)
        except TextError:
            continue
        if size.segments < segments or kind in ("smart_encoding", "without_accents"):
            found.append(Alternative(kind, other, size, changes))
    found.sort(key=lambda one: one.size.segments)
    return found


def _candidates(text: str, coding: Coding) -> Iterator[tuple[str, str, Coding, str]]:
    smartened = smart.smarten(text)
    if smartened is not None:
        yield "smart_encoding", smartened[0], coding, "typography"
    bare = smart.without_accents(text)
    if bare not in (text, smartened and smartened[0]) and not in_gsm7(text):
        yield "without_accents", bare, coding, "accents"
    if not coding.shifts and "gsm7" in coding.order:
        shifting = msgspec.structs.replace(coding, shifts=tuple(national.LANGUAGES.values()))
        yield "shift_tables", text, shifting, "nothing"
    written = smart.written(text)
    dropped = [char for char in written if not in_gsm7(char)]
    # emoji and signs can be missed; words without some of their letters can't
    if dropped and len(dropped) <= len(written) * FEW and not any(map(str.isalpha, dropped)):
        yield "without_characters", "".join(char for char in written if in_gsm7(char)), coding, "characters"
