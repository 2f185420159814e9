"""Texts made shorter without a loss that a reader would notice, or with one that is shown.

`smarten` is for texts that are in UCS-2 only for their typography: curly quotes, dashes, odd spaces. Guarantees: it
changes a text only if all of it is then in the GSM-7 alphabet, so that something is won by it; it says what it
replaced; no digit, letter or sign that could be read as another is touched (½ stays: "1½" would become "11/2").

`without_accents` is for an offer only: it changes words ("bạn" to "ban"), and whoever sends must want that.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

import msgspec

from app.domain.text import in_gsm7

_SAME: dict[str, str] = {
    '"': "“”„‟″❝❞〝〞«»",
    "'": "‘’‚‛′`´ʼʹˈ❛❜‹›",
    "-": "‐‑‒–—―−⁃•‣◦▪●﹣",
    "...": "…",
    "..": "‥",
    "/": "⁄∕",
    ".": "。",
    ",": "、",
    " ": "\t\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000",
    "\n": "\u2028\u2029\x85\x0b",
    # soft hyphen, zero width space, joiners, marks of direction, word joiner, byte order mark
    "": "\xad\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff",
    "ff": "ﬀ",
    "fi": "ﬁ",
    "fl": "ﬂ",
    "ffi": "ﬃ",
    "ffl": "ﬄ",
}
_FULL_WIDTH = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | {
    "｀": "'",
    "￥": "¥",
    "￡": "£",
}
REPLACEMENTS: dict[str, str] = {char: new for new, chars in _SAME.items() for char in chars} | _FULL_WIDTH
_TABLE = str.maketrans(REPLACEMENTS)
_BODY_TABLE = str.maketrans({**REPLACEMENTS, "｛": "{{", "｝": "}}"})

_VIETNAMESE = re.compile("[\u1ea0-\u1ef9đĐơƠưƯăĂ]")
# Letters that are no letter with a mark for Unicode, but for a reader.
_BARE = str.maketrans(
    {"đ": "d", "Đ": "D", "ł": "l", "Ł": "L", "ø": "o", "Ø": "O", "ħ": "h", "ı": "i", "ŧ": "t"}
)


class Replaced(msgspec.Struct, array_like=True, frozen=True):
    """Something that was replaced, and how often."""

    old: str
    new: str
    times: int


def smarten(text: str) -> tuple[str, list[Replaced]] | None:
    """The text in GSM-7 and what was replaced in it; None when it is so already, or can't be made so."""
    if text.isascii() and "`" not in text and "\t" not in text and "\x0b" not in text:
        return None
    if in_gsm7(text):
        return None
    found = written(text)
    return (found, replaced(text)) if in_gsm7(found) else None


def written(text: str) -> str:
    """The text with everything replaced that can be, whether that makes it GSM-7 or not."""
    return unicodedata.normalize("NFC", text).translate(_TABLE)


def written_body(body: str) -> str:
    """The same for a template's body, whose braces keep their meaning."""
    return unicodedata.normalize("NFC", body).translate(_BODY_TABLE)


def replaced(text: str) -> list[Replaced]:
    """What `written` replaces, in the order in which it comes first."""
    found: Counter[tuple[str, str]] = Counter()
    composed = unicodedata.normalize("NFC", text)
    if composed != text:
        pieces = _composed(text)
        found.update(pieces)
    for char in composed:
        new = REPLACEMENTS.get(char)
        if new is not None:
            found[(char, new)] += 1
    return [Replaced(old, new, times) for (old, new), times in found.items()]


def _composed(text: str) -> list[tuple[str, str]]:
    """(letter and its marks, the letter with its marks in one character)."""
    found, start = [], 0
    for at in range(1, len(text) + 1):
        if at == len(text) or not unicodedata.combining(text[at]):
            piece = text[start:at]
            new = unicodedata.normalize("NFC", piece)
            if new != piece:
                found.append((piece, new))
            start = at
    return found


def without_accents(text: str) -> str:
    """The text without the marks of Latin letters: of those that GSM-7 lacks, and in a Vietnamese text of all, for a
    half of them would mislead. What is then outside the alphabet stays as it is.
    """
    found = written(text)
    every = _VIETNAMESE.search(found) is not None
    return "".join(char if in_gsm7(char) and not every else _without(char) for char in found)


def _without(char: str) -> str:
    bare = unicodedata.normalize("NFD", char.translate(_BARE))
    letter = bare[:1].translate(_BARE)
    marked = all(map(unicodedata.combining, bare[1:]))
    return letter if marked and letter.isalpha() and letter.isascii() else char
