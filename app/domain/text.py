"""Texts as a phone sees them: alphabets, segments and concatenation headers.

Guarantees:

* a text in the GSM 7-bit default alphabet and its extension table (3GPP TS 23.038,
  6.2.1 and 6.2.1.1) is encoded in septets, every other one in UTF-16-BE; no character is
  ever replaced, transliterated or dropped on the way out;
* no escape pair and no surrogate pair is split between two segments;
* a text that does not fit is an error, never a cut text;
* decoding what came in never fails: what makes no sense becomes U+FFFD, and so do NUL and
  lone surrogates, which no database takes.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import codecs
import re
from typing import Literal

import msgspec

Encoding = Literal["gsm7", "ucs2"]

MAX_PARTS = 255  # the total in a concatenation header is one octet (3GPP TS 23.040, 9.2.3.24.1)

GSM7_SINGLE, GSM7_PART, GSM7_PART_WIDE = 160, 153, 152  # septets; a header of 6 or 7 octets costs 7 or 8
UCS2_SINGLE, UCS2_PART, UCS2_PART_WIDE = 140, 134, 132  # octets

_ESC = 0x1B

# 3GPP TS 23.038, 6.2.1: position is the code; 0x1B is the escape and stands for no character.
_BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅå"
    "Δ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ"
    " !\"#¤%&'()*+,-./"
    "0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNO"
    "PQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmno"
    "pqrstuvwxyzäöñüà"
)
# 3GPP TS 23.038, 6.2.1.1: code after the escape.
_EXTENSION = {
    "\f": 0x0A,
    "^": 0x14,
    "{": 0x28,
    "}": 0x29,
    "\\": 0x2F,
    "[": 0x3C,
    "~": 0x3D,
    "]": 0x3E,
    "|": 0x40,
    "€": 0x65,
}

# Latin-1 → septet. An extension character becomes its code with the high bit set, a character
# that GSM has not becomes 0xFF: so `isascii` tells in one pass whether the text is plain.
_ALIEN = 0xFF


def _latin1_table() -> bytes:
    table = bytearray([_ALIEN]) * 256
    for code, char in enumerate(_BASIC):
        if code != _ESC and ord(char) < 256:
            table[ord(char)] = code
    for char, code in _EXTENSION.items():
        if ord(char) < 256:
            table[ord(char)] = 0x80 | code
    return bytes(table)


_LATIN1_TO_GSM7 = _latin1_table()
_ESCAPES = tuple((bytes([0x80 | code]), bytes([_ESC, code])) for code in _EXTENSION.values())
# Only for texts with characters outside Latin-1: Greek capitals and the euro sign.
_UNICODE_TO_GSM7 = {ord(char): code for code, char in enumerate(_BASIC) if code != _ESC} | {
    ord(char): 0x80 | code for char, code in _EXTENSION.items()
}
_NOT_GSM7 = re.compile("[^" + re.escape(_BASIC.replace("\x1b", "") + "".join(_EXTENSION)) + "]")

# Septet → character; octets above 0x7F and a lone escape have no meaning. An unknown extension
# code shows the basic character of that code, as 6.2.1.1 asks.
_GSM7_TO_UNICODE = _BASIC.replace("\x1b", "\ufffd") + "\ufffd" * 128
_EXTENSION_TO_UNICODE = {code: char for char, code in _EXTENSION.items()}
_ESCAPE_PAIR = re.compile(rb"\x1b([\x00-\x7f])", re.DOTALL)


class TextError(ValueError):
    """A text that cannot be sent. `code` is stable: `lone_surrogate` or `too_many_segments`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class Segments(msgspec.Struct, frozen=True, gc=False):
    """A text cut for the air: GSM-7 parts hold one septet an octet, UCS-2 parts UTF-16-BE; no headers."""

    encoding: Encoding
    parts: tuple[bytes, ...]


def _gsm7(text: str) -> bytes | None:
    """Septets, one an octet, escapes in place; None when some character is not in the alphabet."""
    try:
        septets = text.encode("latin-1").translate(_LATIN1_TO_GSM7)
    except UnicodeEncodeError:
        if _NOT_GSM7.search(text):
            return None
        septets = text.translate(_UNICODE_TO_GSM7).encode("latin-1")
    if septets.isascii():
        return septets
    if _ALIEN in septets:
        return None
    for marked, escaped in _ESCAPES:
        septets = septets.replace(marked, escaped)
    return septets


def _ucs2(text: str) -> bytes:
    try:
        return text.encode("utf-16-be")
    except UnicodeEncodeError as error:
        detail = f"half of a surrogate pair at position {error.start}"
        raise TextError("lone_surrogate", detail) from None


def _cut_gsm7(septets: bytes, size: int) -> list[bytes]:
    parts, start, end = [], 0, len(septets)
    while start < end:
        stop = start + size
        if stop < end and septets[stop - 1] == _ESC:
            stop -= 1
        parts.append(septets[start:stop])
        start = stop
    return parts


def _cut_ucs2(octets: bytes, size: int) -> list[bytes]:
    parts, start, end = [], 0, len(octets)
    while start < end:
        stop = start + size
        if stop < end and 0xD8 <= octets[stop - 2] <= 0xDB:
            stop -= 2
        parts.append(octets[start:stop])
        start = stop
    return parts


def segment(text: str, max_parts: int = MAX_PARTS, wide: bool = False) -> Segments:
    """The segments of a text: one of 160 septets or 70 UTF-16 units, else parts of 153 or 67.

    `wide` leaves room for a header with a 16-bit reference: parts of 152 septets or 66 units.
    An empty text is one empty GSM-7 part. Raises `TextError`.
    """
    septets = _gsm7(text)
    if septets is not None:
        if len(septets) <= GSM7_SINGLE:
            return Segments("gsm7", (septets,))
        parts = _cut_gsm7(septets, GSM7_PART_WIDE if wide else GSM7_PART)
    else:
        octets = _ucs2(text)
        if len(octets) <= UCS2_SINGLE:
            return Segments("ucs2", (octets,))
        parts = _cut_ucs2(octets, UCS2_PART_WIDE if wide else UCS2_PART)
    if len(parts) > max_parts or len(parts) > MAX_PARTS:
        detail = f"{len(parts)} segments; at most {min(max_parts, MAX_PARTS)} are allowed"
        raise TextError("too_many_segments", detail)
    return Segments("ucs2" if septets is None else "gsm7", tuple(parts))


def count(text: str, wide: bool = False) -> int:
    """How many segments `segment` would make, without its limit. Raises `TextError` for a lone surrogate."""
    septets = _gsm7(text)
    if septets is None:
        octets = _ucs2(text)
        if len(octets) <= UCS2_SINGLE:
            return 1
        return len(_cut_ucs2(octets, UCS2_PART_WIDE if wide else UCS2_PART))
    if len(septets) <= GSM7_SINGLE:
        return 1
    size = GSM7_PART_WIDE if wide else GSM7_PART
    if _ESC not in septets:
        return -(-len(septets) // size)
    return len(_cut_gsm7(septets, size))


def udh(reference: int, total: int, index: int, wide: bool = False) -> bytes:
    """Concatenation header of segment `index` (from 0) of `total` (3GPP TS 23.040, 9.2.3.24.1 and .8).

    Six octets with the low 8 bits of `reference`; `wide`: seven octets with its low 16.
    """
    if not 0 <= index < total <= MAX_PARTS:
        raise ValueError(f"segment {index} of {total}")
    if wide:
        return bytes((6, 8, 4, reference >> 8 & 0xFF, reference & 0xFF, total, index + 1))
    return bytes((5, 0, 3, reference & 0xFF, total, index + 1))


def decode_gsm7(septets: bytes) -> str:
    """Text of unpacked septets, escapes resolved. Never fails: see the head of this file."""
    if _ESC not in septets:
        return codecs.charmap_decode(septets, "replace", _GSM7_TO_UNICODE)[0]
    # Piecewise: an extension character must not be read again as a septet.
    pieces, start = [], 0
    for match in _ESCAPE_PAIR.finditer(septets):
        pieces.append(codecs.charmap_decode(septets[start : match.start()], "replace", _GSM7_TO_UNICODE)[0])
        code = match[1][0]
        pieces.append(_EXTENSION_TO_UNICODE.get(code) or _GSM7_TO_UNICODE[code])
        start = match.end()
    pieces.append(codecs.charmap_decode(septets[start:], "replace", _GSM7_TO_UNICODE)[0])
    return "".join(pieces)


def decode(octets: bytes, encoding: str) -> str:
    """Text of `octets` in `gsm7` (unpacked), `ucs2` (UTF-16-BE) or any codec that Python knows.

    Never fails on content; `LookupError` for an encoding that does not exist.
    """
    if encoding == "gsm7":
        return decode_gsm7(octets)
    codec = "utf-16-be" if encoding == "ucs2" else encoding
    text = octets.decode(codec, "replace")
    return text.replace("\x00", "\ufffd") if "\x00" in text else text
