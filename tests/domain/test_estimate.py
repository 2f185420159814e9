"""What a text costs, and what would make it cheaper."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import estimate
from app.domain.text import PLAIN, Coding, segment

TURKISH = Coding(shifts=(1,))


@pytest.mark.parametrize(
    ("text", "coding", "size"),
    [
        ("hello", PLAIN, ("gsm7", 1, 5, 155, 0)),
        ("€" * 80, PLAIN, ("gsm7", 1, 160, 0, 0)),
        ("a" * 161, PLAIN, ("gsm7", 2, 161, 145, 1)),
        ("a" * 310, PLAIN, ("gsm7", 3, 310, 149, 4)),
        ("ạ" * 70, PLAIN, ("ucs2", 1, 70, 0, 0)),
        ("ạ" * 75, PLAIN, ("ucs2", 2, 75, 59, 5)),
        ("😀" * 36, PLAIN, ("ucs2", 2, 72, 61, 2)),
        ("é" * 141, Coding(("latin-1",)), ("latin-1", 2, 141, 127, 1)),
        ("ş" * 100, TURKISH, ("gsm7", 1, 100, 55, 0)),
        ("a" * 161, Coding(wide=True), ("gsm7", 2, 161, 143, 1)),
    ],
)
def test_sizes(text, coding, size):
    found = estimate.measure(text, coding)
    assert (found.encoding, found.segments, found.units, found.units_left, found.units_over) == size
    assert found.languages == (("turkish",) if coding is TURKISH else ())


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300),
    st.sampled_from([PLAIN, TURKISH]),
)
def test_what_is_left_fits_and_what_is_over_saves(text, coding):
    size = estimate.measure(text, coding)
    plain = "a" if size.encoding == "gsm7" else "ạ"
    if not size.languages and size.units_left:
        assert len(segment(text + plain * size.units_left, coding=coding).parts) <= size.segments + 1
    if (
        size.encoding == "gsm7"
        and not size.languages
        and "\x1b" not in str(segment(text).parts)
        and size.units_over
    ):
        assert len(segment(text[: -size.units_over], coding=coding).parts) == size.segments - 1


def test_the_characters_that_force_ucs2_and_where():
    found = estimate.forcing("“Hi” bạn “x” 😀")
    assert [(one.character, one.times, one.positions, one.replacement) for one in found] == [
        ("“", 2, [0, 9], '"'),
        ("”", 2, [3, 11], '"'),
        ("ạ", 1, [6], None),
        ("😀", 1, [13], None),
    ]
    assert (found[2].code_point, found[2].name) == ("U+1EA1", "LATIN SMALL LETTER A WITH DOT BELOW")
    assert estimate.forcing("plain €") == []
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 200)))
    assert len(estimate.forcing(many * 2)) == estimate.MAX_FORCING


def kinds(text, coding=PLAIN):
    return {one.kind: (one.size.segments, one.changes) for one in estimate.alternatives(text, coding)}


def test_vietnamese_shows_what_accents_cost():
    text = "Xin chào bạn, đơn hàng của bạn đã được giao thành công lúc 10 giờ sáng nay. Cảm ơn bạn!"
    assert estimate.measure(text, PLAIN).segments == 2
    (one,) = estimate.alternatives(text, PLAIN)
    assert (one.kind, one.size.segments, one.size.encoding, one.changes) == (
        "without_accents",
        1,
        "gsm7",
        "accents",
    )
    assert (
        one.text == "Xin chao ban, don hang cua ban da duoc giao thanh cong luc 10 gio sang nay. Cam on ban!"
    )


def test_other_ways():
    assert kinds("“" + "a" * 90 + "”") == {"smart_encoding": (1, "typography")}
    assert kinds("ş" * 100) == {"without_accents": (1, "accents"), "shift_tables": (1, "nothing")}
    assert kinds("Sale today! 🎉 " + "a" * 90)["without_characters"] == (1, "characters")
    assert kinds("你好" * 60) == {}
    assert kinds("plain " * 40) == {}
    assert kinds("नमस्ते " * 20)["shift_tables"] == (1, "nothing")
