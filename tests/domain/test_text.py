"""Alphabets, segments and headers."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.text import MAX_PARTS, Coding, TextError, count, decode, decode_gsm7, segment, udh

# Written out once more, from 3GPP TS 23.038 6.2.1, by row of 16.
BASIC = [
    "@£$¥èéùìòÇ\nØø\rÅå",
    "Δ_ΦΓΛΩΠΨΣΘΞ",
    " !\"#¤%&'()*+,-./",
    "0123456789:;<=>?",
    "¡ABCDEFGHIJKLMNO",
    "PQRSTUVWXYZÄÖÑÜ§",
    "¿abcdefghijklmno",
    "pqrstuvwxyzäöñüà",
]
EXTENSION = {"\f": 10, "^": 20, "{": 40, "}": 41, "\\": 47, "[": 60, "~": 61, "]": 62, "|": 64, "€": 101}
ESCAPED_CHARACTERS = {"Æ": 28, "æ": 29, "ß": 30, "É": 31}

gsm7_text = st.text(st.sampled_from("".join(BASIC) + "".join(EXTENSION) + "ÆæßÉ"), max_size=700)
any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=400)


@pytest.mark.parametrize(
    ("character", "code"),
    [
        (character, row * 16 + column)
        for row, line in enumerate(BASIC)
        for column, character in enumerate(line)
    ]
    + list(ESCAPED_CHARACTERS.items()),
)
def test_a_character_of_the_default_alphabet_is_one_septet(character, code):
    assert segment(character).parts == (bytes([code]),)
    assert decode_gsm7(bytes([code])) == character


@pytest.mark.parametrize(("character", "code"), EXTENSION.items())
def test_a_character_of_the_extension_table_is_an_escape_pair(character, code):
    assert segment(character).parts == (bytes([0x1B, code]),)
    assert decode_gsm7(bytes([0x1B, code])) == character


@pytest.mark.parametrize(
    "character", ["`", "ç", "á", "ã", "ạ", "中", "😀", "\t", "\x1b", "‘", "’", "\x7f", "\xa0"]
)
def test_anything_else_makes_the_text_ucs2(character):
    assert segment(character).encoding == "ucs2"
    assert segment("plain " + character).parts == (("plain " + character).encode("utf-16-be"),)


@pytest.mark.parametrize(
    ("text", "encoding", "sizes"),
    [
        ("", "gsm7", [0]),
        ("a" * 160, "gsm7", [160]),
        ("a" * 161, "gsm7", [153, 8]),
        ("a" * 306, "gsm7", [153, 153]),
        ("a" * 307, "gsm7", [153, 153, 1]),
        ("€" * 80, "gsm7", [160]),
        ("€" * 81, "gsm7", [152, 10]),  # 153 would split a pair
        ("a" * 152 + "€" + "b" * 10, "gsm7", [152, 12]),
        ("ạ" * 70, "ucs2", [140]),
        ("ạ" * 71, "ucs2", [134, 8]),
        ("😀" * 35, "ucs2", [140]),
        ("😀" * 36, "ucs2", [132, 12]),  # 134 would split a pair
        ("ạ" * 66 + "😀" + "ạ" * 10, "ucs2", [132, 24]),
    ],
)
def test_sizes(text, encoding, sizes):
    cut = segment(text)
    assert cut.encoding == encoding
    assert [len(part) for part in cut.parts] == sizes
    assert count(text) == len(sizes)


@given(any_text | gsm7_text)
def test_nothing_is_lost_or_split(text):
    cut = segment(text)
    assert "".join(decode(part, cut.encoding) for part in cut.parts) == text
    assert count(text) == len(cut.parts)
    single, size, slack = (160, 153, 1) if cut.encoding == "gsm7" else (140, 134, 2)
    if len(cut.parts) == 1:
        assert len(cut.parts[0]) <= single
        return
    assert sum(map(len, cut.parts)) > single
    assert all(len(part) <= size for part in cut.parts)
    if not any(map(unicodedata.combining, text)):
        assert all(len(part) >= size - slack for part in cut.parts[:-1]), "no part is shorter than it must be"


@given(gsm7_text)
def test_the_alphabet_is_gsm7_wherever_it_can_be(text):
    assert segment(text).encoding == "gsm7"


@given(any_text)
def test_wide_headers_have_room(text):
    wide = Coding(wide=True)
    cut = segment(text, coding=wide)
    assert count(text, wide) == len(cut.parts)
    if len(cut.parts) > 1:
        for part in cut.parts:
            # 140 octets hold header and text: 160 septets, of which 7 octets cost 8.
            assert len(part) <= 152 if cut.encoding == "gsm7" else len(part) + 7 <= 140
    assert "".join(decode(part, cut.encoding) for part in cut.parts) == text


@pytest.mark.parametrize("text", ["\ud83d", "a\ude00b", "ạ\ud83d", "€\udc00"])
def test_half_a_surrogate_pair_is_an_error(text):
    for function in (segment, count):
        with pytest.raises(TextError) as error:
            function(text)
        assert error.value.code == "lone_surrogate"


def test_too_long_a_text_is_an_error_and_never_cut():
    assert len(segment("a" * 153 * MAX_PARTS).parts) == MAX_PARTS
    with pytest.raises(TextError) as error:
        segment("a" * (153 * MAX_PARTS + 1))
    assert error.value.code == "too_many_segments"
    with pytest.raises(ValueError, match="4 segments; at most 3"):
        segment("a" * 500, max_parts=3)
    assert len(segment("a" * 459, max_parts=3).parts) == 3


@pytest.mark.parametrize(
    ("arguments", "header"),
    [
        ((0x1234, 3, 0), "050003340301"),
        ((0x1234, 3, 2), "050003340303"),
        ((0xFF, 255, 254), "050003ffffff"),
        ((0x1234, 3, 0, True), "06080412340301"),
    ],
)
def test_concatenation_header(arguments, header):
    assert udh(*arguments).hex() == header


@pytest.mark.parametrize(("total", "index"), [(1, 1), (3, -1), (256, 0), (0, 0)])
def test_a_header_that_makes_no_sense_is_an_error(total, index):
    with pytest.raises(ValueError, match="segment"):
        udh(1, total, index)


@given(st.binary(max_size=200), st.sampled_from(["gsm7", "ucs2", "latin-1", "ascii", "iso2022_jp"]))
def test_decoding_never_fails_and_gives_text_that_can_be_stored(octets, encoding):
    text = decode(octets, encoding)
    assert "\x00" not in text
    text.encode("utf-8")  # no lone surrogates


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (b"\x1b\x41", "A"),  # an extension code that does not exist shows the basic character
        (b"\x1b\x1b\x65", "\ufffde"),
        (b"ab\x1b", "ab\ufffd"),
        (b"a\x80\xffb", "a\ufffd\ufffdb"),
        (b"\x1b\x3c\x1b\x3e", "[]"),
    ],
)
def test_gsm7_that_makes_little_sense(octets, text):
    assert decode_gsm7(octets) == text


def test_odd_utf16_shows_that_something_is_missing():
    assert decode(b"\x00a\x00", "ucs2") == "a\ufffd"
    assert decode(b"\xd8\x3d", "ucs2") == "\ufffd"
