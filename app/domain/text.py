"""Texts as a phone sees them: alphabets, segments and concatenation headers.

Guarantees:

* a text in the GSM 7-bit default alphabet and its extension table (3GPP TS 23.038, 6.2.1 and 6.2.1.1) is encoded
  in septets, every other one in UTF-16-BE, unless a gateway's `Coding` says otherwise; no character is ever
  replaced, transliterated or dropped on the way out;
* no escape pair and no surrogate pair is split between two segments, and no character as a reader sees it
  (a letter with its marks, an emoji of several code points) that fits into one;
* a text that does not fit is an error, never a cut text;
* decoding what came in never fails: what makes no sense becomes U+FFFD, and so do NUL and
  lone surrogates, which no database takes.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

import msgspec

from app.domain import graphemes, national

Encoding = Literal["gsm7", "ucs2", "latin-1", "octet"]

MAX_PARTS = 255  # the total in a concatenation header is one octet (3GPP TS 23.040, 9.2.3.24.1)
MISSING = "…"  # in the place of a part that did not come
USER_DATA = 140  # octets of a segment, its header among them

GSM7_SINGLE, GSM7_PART = 160, 153  # septets; a header of 6 octets costs 7
UCS2_SINGLE, UCS2_PART = 140, 134  # octets

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

# UTF-16 units at which it is worth looking whether a boundary lies within a character as a reader sees it.
_SUSPECT = frozenset(point for point in graphemes.JOINING if point < 0x10000) | set(range(0xD800, 0xE000))

# Septet → character; octets above 0x7F and a lone escape have no meaning. An unknown extension
# code shows the basic character of that code, as 6.2.1.1 asks.
_GSM7_TO_UNICODE = _BASIC.replace("\x1b", "\ufffd") + "\ufffd" * 128
_EXTENSION_TO_UNICODE = {code: char for char, code in _EXTENSION.items()}
_ESCAPE_PAIR = re.compile(rb"\x1b([\x00-\x7f])", re.DOTALL)


class TextError(ValueError):
    """A text that cannot be sent. `code` is stable: `lone_surrogate`, `too_many_segments` or `not_encodable`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class Coding(msgspec.Struct, frozen=True):
    """How a gateway writes texts.

    `order`: the encodings that it may use; the first that can carry the text is taken. `charset`: a Python codec
    that a GSM-7 text must fit, too, since the carrier's own alphabet is written in it. `wide`: segments have a
    16-bit reference. `shifts`: languages (`national.LANGUAGES`) whose tables may be used where that saves a
    segment. `join`: what tells the phone that segments belong together; segments of one text have the same.
    """

    order: tuple[Encoding, ...] = ("gsm7", "ucs2")
    charset: str = ""
    wide: bool = False
    shifts: tuple[int, ...] = ()
    join: str = "udh"

    @property
    def header_octets(self) -> int:
        """Of the concatenation header, its length octet among them."""
        return 7 if self.wide else 6

    @property
    def plain(self) -> bool:
        """Whether `segment` has nothing to think about."""
        return not (self.wide or self.shifts or self.charset or self.order != ("gsm7", "ucs2"))


PLAIN = Coding()


class Segments(msgspec.Struct, frozen=True, gc=False):
    """A text cut for the air: GSM-7 parts hold one septet an octet, UCS-2 parts UTF-16-BE, the others Latin-1.

    `header` are the information elements that every part needs in its header: the shift tables' names.
    """

    encoding: Encoding
    parts: tuple[bytes, ...]
    header: bytes = b""


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


def in_gsm7(text: str) -> bool:
    """Whether all of it is in the default alphabet and its extension table."""
    return _gsm7(text) is not None


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


def _cut_ucs2(text: str, octets: bytes, size: int) -> list[bytes]:
    parts, start, end = [], 0, len(octets)
    while start < end:
        stop = start + size
        if stop < end:
            if 0xD8 <= octets[stop - 2] <= 0xDB:
                stop -= 2
            before = octets[stop - 2] << 8 | octets[stop - 1]
            after = octets[stop] << 8 | octets[stop + 1]
            if (before in _SUSPECT or after in _SUSPECT) and graphemes.may_join(
                _last(octets, stop), _first_of(octets, stop)
            ):
                return _cut_clusters(text, size)
        parts.append(octets[start:stop])
        start = stop
    return parts


def _last(octets: bytes, stop: int) -> str:
    """The character that ends at `stop`."""
    start = stop - 4 if 0xDC <= octets[stop - 2] <= 0xDF else stop - 2
    return octets[start:stop].decode("utf-16-be")


def _first_of(octets: bytes, start: int) -> str:
    """The character that begins at `start`."""
    stop = start + 4 if 0xD8 <= octets[start] <= 0xDB else start + 2
    return octets[start:stop].decode("utf-16-be")


def _cut_clusters(text: str, size: int) -> list[bytes]:
    parts, part = [], b""
    for cluster in graphemes.clusters(text):
        octets = cluster.encode("utf-16-be")
        if len(part) + len(octets) > size and part:
            parts.append(part)
            part = b""
        while len(octets) > size:  # longer than a segment: between its code points
            stop = size - 2 if 0xD8 <= octets[size - 2] <= 0xDB else size
            parts.append(octets[:stop])
            octets = octets[stop:]
        part += octets
    parts.append(part)
    return parts


def segment(text: str, max_parts: int = MAX_PARTS, coding: Coding = PLAIN) -> Segments:
    """The segments of a text: one of 160 septets or 70 UTF-16 units, else parts of 153 or 67, or as `coding` says.

    An empty text is one empty part. Raises `TextError`.
    """
    if coding is not PLAIN and not coding.plain:
        return _checked(_segment_by(text, coding), max_parts)
    septets = _gsm7(text)
    if septets is not None:
        if len(septets) <= GSM7_SINGLE:
            return Segments("gsm7", (septets,))
        return _checked(Segments("gsm7", tuple(_cut_gsm7(septets, GSM7_PART))), max_parts)
    octets = _ucs2(text)
    if len(octets) <= UCS2_SINGLE:
        return Segments("ucs2", (octets,))
    return _checked(Segments("ucs2", tuple(_cut_ucs2(text, octets, UCS2_PART))), max_parts)


def _checked(cut: Segments, max_parts: int) -> Segments:
    if len(cut.parts) > max_parts or len(cut.parts) > MAX_PARTS:
        detail = f"{len(cut.parts)} segments; at most {min(max_parts, MAX_PARTS)} are allowed"
        raise TextError("too_many_segments", detail)
    return cut


def _segment_by(text: str, coding: Coding) -> Segments:
    cut = _first(text, coding)
    if coding.shifts and (cut is None or len(cut.parts) > 1):
        cut = _shifted(text, coding, cut)
    if cut is None:
        raise TextError("not_encodable", f"a character is in none of {', '.join(coding.order)}")
    return cut


def _first(text: str, coding: Coding) -> Segments | None:
    """The text in the first encoding that can carry it."""
    header = coding.header_octets
    for encoding in coding.order:
        if encoding == "gsm7":
            septets = _gsm7(text)
            if septets is not None and (not coding.charset or _fits(text, coding.charset)):
                if len(septets) <= GSM7_SINGLE:
                    return Segments("gsm7", (septets,))
                return Segments("gsm7", tuple(_cut_gsm7(septets, septets_beside(header))))
        elif encoding == "ucs2":
            octets = _ucs2(text)
            if len(octets) <= UCS2_SINGLE:
                return Segments("ucs2", (octets,))
            return Segments("ucs2", tuple(_cut_ucs2(text, octets, (USER_DATA - header) // 2 * 2)))
        elif _fits(text, "latin-1"):
            octets = text.encode("latin-1")
            if len(octets) <= USER_DATA:
                return Segments(encoding, (octets,))
            size = USER_DATA - header
            return Segments(encoding, tuple(octets[at : at + size] for at in range(0, len(octets), size)))
    _ucs2(text)  # half a surrogate pair is to be called so
    return None


def _fits(text: str, codec: str) -> bool:
    try:
        text.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


def _shifted(text: str, coding: Coding, cut: Segments | None) -> Segments | None:
    """The text with those shift tables that need the fewest segments, if they are fewer than those of `cut`."""
    best = cut
    for language in coding.shifts:
        for locking, single in ((0, language), (language, 0), (language, language)):
            if (locking and locking not in national.LOCKING) or (single and single not in national.SINGLE):
                continue
            septets = encode_shifted(text, locking, single)
            if septets is None:
                continue
            header = national.header(locking, single)
            if len(septets) <= septets_beside(1 + len(header)):
                parts = [septets]
            else:
                parts = _cut_gsm7(septets, septets_beside(coding.header_octets + len(header)))
            if best is None or len(parts) < len(best.parts):
                best = Segments("gsm7", tuple(parts), header)
    return best


def septets_beside(header_octets: int) -> int:
    """Septets in a segment beside a header of so many octets: the text begins at a septet's boundary."""
    return (USER_DATA - header_octets) * 8 // 7


def encode_shifted(text: str, locking: int, single: int) -> bytes | None:
    """Septets by the tables of those languages (0: the default ones); None when a character is in neither."""
    table = _shift_table(locking, single)
    pieces = [table.get(char) for char in text]
    return None if None in pieces else b"".join(pieces)  # type: ignore[arg-type]


@lru_cache(maxsize=64)
def _shift_table(locking: int, single: int) -> dict[str, bytes]:
    table: dict[str, bytes] = {}
    for code, point in sorted(_single_of(single).items()):
        table.setdefault(chr(point), bytes((_ESC, code)))
    basic: dict[str, bytes] = {}
    for code, point in sorted(_locking_of(locking).items()):
        basic.setdefault(chr(point), bytes((code,)))
    return table | basic


def _locking_of(language: int) -> dict[int, int]:
    if language in national.LOCKING:
        return national.LOCKING[language]
    return {code: ord(char) for code, char in enumerate(_BASIC) if code != _ESC}


def _single_of(language: int) -> dict[int, int]:
    if language in national.SINGLE:
        return national.SINGLE[language]
    return {code: ord(char) for char, code in _EXTENSION.items()}


def count(text: str, coding: Coding = PLAIN) -> int:
    """How many segments `segment` would make, without its limit. Raises `TextError`."""
    if coding is not PLAIN and not coding.plain:
        return len(_segment_by(text, coding).parts)
    septets = _gsm7(text)
    if septets is None:
        octets = _ucs2(text)
        if len(octets) <= UCS2_SINGLE:
            return 1
        return len(_cut_ucs2(text, octets, UCS2_PART))
    if len(septets) <= GSM7_SINGLE:
        return 1
    if _ESC not in septets:
        return -(-len(septets) // GSM7_PART)
    return len(_cut_gsm7(septets, GSM7_PART))


def form(encoding: str, header: bytes, parts: tuple[bytes, ...], join: str) -> int:
    """A number (1 to 2³¹ - 1) for the way in which a text was cut. Segments of two cuts of one text fit together
    when their forms are equal."""
    sizes = ",".join(str(len(part)) for part in parts)
    return zlib.crc32(f"{encoding} {header.hex()} {join} {sizes}".encode()) >> 1 or 1


def udh(reference: int, total: int, index: int, wide: bool = False, header: bytes = b"") -> bytes:
    """Concatenation header of segment `index` (from 0) of `total` (3GPP TS 23.040, 9.2.3.24.1 and .8).

    Six octets with the low 8 bits of `reference`; `wide`: seven octets with its low 16; `header`: more elements.
    """
    if not 0 <= index < total <= MAX_PARTS:
        raise ValueError(f"segment {index} of {total}")
    more = len(header)
    if wide:
        return bytes((6 + more, 8, 4, reference >> 8 & 0xFF, reference & 0xFF, total, index + 1)) + header
    return bytes((5 + more, 0, 3, reference & 0xFF, total, index + 1)) + header


def pack(septets: bytes, header_octets: int = 0) -> bytes:
    """Eight septets in seven octets (3GPP TS 23.038, 6.1.2.1), as they stand behind a header of so many octets.

    Where seven bits are left over they hold CR, lest they be read as an @ (6.1.2.3.1).
    """
    fill = -header_octets * 8 % 7
    if (fill + 7 * len(septets)) % 8 == 1:
        septets += b"\r"
    bits = 0
    for septet in reversed(septets):
        bits = bits << 7 | septet
    return (bits << fill).to_bytes((fill + 7 * len(septets) + 7) // 8, "little")


def unpack(octets: bytes, header_octets: int = 0) -> bytes:
    """The inverse of `pack`, without the CR or @ that only fills the last septet."""
    fill = -header_octets * 8 % 7
    bits = int.from_bytes(octets, "little") >> fill
    n = (len(octets) * 8 - fill) // 7
    septets = bytes(bits >> 7 * at & 0x7F for at in range(n))
    filled = n > 0 and (fill + 7 * n) % 8 == 0 and septets[-1] in (0x00, 0x0D)
    return septets[:-1] if filled else septets


def decode_gsm7(septets: bytes) -> str:
    """Text of unpacked septets, escapes resolved. Never fails: see the head of this file."""
    if _ESC not in septets:
        return codecs.charmap_decode(septets, "replace", _GSM7_TO_UNICODE)[0]
    return _decode_pairs(septets, _GSM7_TO_UNICODE, _EXTENSION_TO_UNICODE)


def _decode_pairs(septets: bytes, basic: str, extension: dict[int, str]) -> str:
    # Piecewise: an extension character must not be read again as a septet.
    pieces, start = [], 0
    for match in _ESCAPE_PAIR.finditer(septets):
        pieces.append(codecs.charmap_decode(septets[start : match.start()], "replace", basic)[0])
        code = match[1][0]
        pieces.append(extension.get(code) or basic[code])
        start = match.end()
    pieces.append(codecs.charmap_decode(septets[start:], "replace", basic)[0])
    return "".join(pieces)


def decode_shifted(septets: bytes, locking: int, single: int) -> str:
    """The same by shift tables. A language that nobody defined has the default tables (6.2.1.2.4)."""
    return _decode_pairs(septets, *_shift_characters(locking, single))


@lru_cache(maxsize=64)
def _shift_characters(locking: int, single: int) -> tuple[str, dict[int, str]]:
    basic = _locking_of(locking)
    characters = "".join(chr(basic[code]) if code in basic else "\ufffd" for code in range(128))
    return characters + "\ufffd" * 128, {code: chr(point) for code, point in _single_of(single).items()}


def join(parts: Mapping[int, tuple[bytes, str]], total: int) -> str:
    """A text from its parts (octets and encoding, by index from 1), with MISSING in the place of each that isn't there.

    Octets are joined before they are decoded: phones do cut surrogate and escape pairs.
    """
    pieces: list[str] = []
    run, encoding = b"", ""
    for index in range(1, total + 1):
        octets, its = parts.get(index, (b"", ""))
        if its != encoding:
            pieces.append(decode(run, encoding) if encoding else "")
            run, encoding = b"", its
        run += octets
        if not its:
            pieces.append(MISSING)
    pieces.append(decode(run, encoding) if encoding else "")
    return "".join(pieces)


def decode(octets: bytes, encoding: str) -> str:
    """Text of `octets` in `gsm7` (unpacked), `gsm7/6/6` (the same with the shift tables of these languages, locking
    and single), `ucs2` (UTF-16-BE) or any codec that Python knows.

    Never fails on content; `LookupError` for an encoding that does not exist.
    """
    if encoding == "gsm7":
        return decode_gsm7(octets)
    if encoding.startswith("gsm7/"):
        _, locking, single = encoding.split("/")
        return decode_shifted(octets, int(locking), int(single))
    codec = "utf-16-be" if encoding == "ucs2" else encoding
    text = octets.decode(codec, "replace")
    return text.replace("\x00", "\ufffd") if "\x00" in text else text
