"""Smart encoding: only what nobody would miss, only where it wins something, and never in silence."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.smart import REPLACEMENTS, Replaced, smarten, without_accents, written, written_body
from app.domain.template import escaped, parse
from app.domain.text import segment


@pytest.mark.parametrize(
    ("text", "goes"),
    [
        ("“Hi” – it’s…", '"Hi" - it\'s...'),
        ("1\xa0000\u202f€", "1 000 €"),
        ("a\u200bb\ufeffc\xadd", "abcd"),
        ("• one\n• two", "- one\n- two"),
        ("ＡＢＣ　１２３！", "ABC 123!"),
        ("5′ 10″ `x`", "5' 10\" 'x'"),
        ("e\u0301a\u0300 ok", "éà ok"),
        ("ﬁnal oﬃce", "final office"),
        ("a\tb\u2028c", "a b\nc"),
        ("−5 °", None),  # the degree sign is not GSM-7
    ],
)
def test_typography(text, goes):
    assert segment(text).encoding == "ucs2"
    found = smarten(text)
    assert (found and found[0]) == goes
    if found:
        assert segment(found[0]).encoding == "gsm7"
        assert found[1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain text: {}[] €",
        "“你好”",  # stays UCS-2, so nothing would be won
        "Xin chào bạn – “An”",
        "1½ cups – 2 eggs",  # would read "11/2"
        "नमस्ते…",
        "👩\u200d👧…",
        "\ud83d…",
    ],
)
def test_what_would_not_become_gsm7_is_left_alone(text):
    assert smarten(text) is None


def test_what_was_replaced_is_told():
    assert smarten("“a” e\u0301 “b”")[1] == [
        Replaced("e\u0301", "é", 1),
        Replaced("“", '"', 2),
        Replaced("”", '"', 2),
    ]


def test_no_letter_or_digit_is_read_as_another():
    for old, new in REPLACEMENTS.items():
        category = unicodedata.category(old)
        if category[0] in "LN" and not "\uff01" <= old <= "\uff5e":
            assert unicodedata.normalize("NFKC", old) == new or category in ("Lm", "Lo"), old
        assert all(segment(char).encoding == "gsm7" for char in new)


@given(st.text(max_size=80))
def test_once_is_enough_and_the_tale_is_complete(text):
    found = smarten(text)
    if found is None:
        return
    goes, replaced = found
    assert smarten(goes) is None
    told = unicodedata.normalize("NFC", text)
    for one in replaced:
        if len(one.old) == 1:
            told = told.replace(one.old, one.new)
    assert told == goes


@given(st.text(st.sampled_from("a{}“”｛｝… "), max_size=30))
def test_a_body_keeps_its_places(text):
    body = escaped(text)
    assert parse(written_body(body)).render(None) == written(text)


def test_the_names_of_places_are_not_touched():
    assert parse(written_body("“{name}” – {{x}}")).render({"name": "A"}) == '"A" - {x}'


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("Xin chào bạn, đơn hàng ĐÃ giao", "Xin chao ban, don hang DA giao"),
        ("Zażółć gęślą jaźń", "Zazolc gesla jazn"),
        ("Grüße aus Köln", "Grüße aus Köln"),  # GSM-7 has them
        ("Ça va être – ici", "Ça va etre - ici"),
        ("你好 ạ", "你好 a"),
        ("ệ ỗ ữ Ằ", "e o u A"),
    ],
)
def test_without_accents(text, bare):
    assert without_accents(text) == bare


def test_no_vietnamese_letter_is_left():
    for code in (*range(0x1EA0, 0x1EFA), *map(ord, "đĐơƠưƯăĂâÂêÊôÔáàãéèíìĩóòõúùũý")):
        bare = without_accents("ạ" + chr(code))
        assert bare.isascii(), chr(code)
        assert len(bare) == 2
