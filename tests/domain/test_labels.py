"""Labels at the ends of a text: added once, never twice, and made of what the tenant has set."""

from __future__ import annotations

from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.countries import BadPack, Packs
from app.domain.labels import Mark, Missing, ends
from app.domain.message import Category

PACKS = Packs.load()
RULES = files("app.countries").joinpath("rules")
WORDS = {"brand": "Acme", "opt_out": "36180"}
START = Mark("[QC] ", (r"\[(QC|AD)\]",))
END = Mark(" STOP {opt_out}", (r"\bSTOP \d{5}\b",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sale today", ("[QC] ", " STOP 36180")),
        ("[AD] Sale today", ("", " STOP 36180")),
        ("Sale [QC] today", ("[QC] ", " STOP 36180")),  # not at the start
        ("[QC] Sale. STOP 38123", ("", "")),
        ("[QC] Sale. To leave: 36180", ("", "")),  # the tenant's own words
        ("[QC] Sale, STOPPER 38123", ("", " STOP 36180")),
    ],
)
def test_what_is_missing_is_added(text: str, expected: tuple[str, str]) -> None:
    assert ends(text, START, END, WORDS) == expected


def test_a_word_that_is_not_set_is_named_or_done_without() -> None:
    with pytest.raises(Missing, match="opt_out"):
        ends("Sale", None, END, {"brand": "Acme"})
    otherwise = Mark("RM0 {brand}: ", ("RM0",), "RM0 ")
    assert ends("Sale", otherwise, None, {}) == ("RM0 ", "")
    assert ends("Sale", otherwise, None, WORDS) == ("RM0 Acme: ", "")


def test_values_are_not_read_as_marks() -> None:
    assert ends("Sale", Mark("[{brand}] ", (r"\[",)), None, {"brand": "{opt_out}"}) == ("[{opt_out}] ", "")


@pytest.mark.parametrize(
    ("country", "text", "added"),
    [
        ("VN", "[qc] Sale. Tu choi: TC gui 9241", ("", "")),
        ("VN", "［ＱＣ］ Sale TC", ("", "")),
        ("VN", "［AD］ Sale ＴＣ", ("", "")),
        ("VN", " \ufeff[QC] Sale tu  choi", ("", "")),
        ("VN", "[QC Sale tc", ("[QC] ", "")),
        ("VN", "QC: Sale, hủy: 36180", ("[QC] ", "")),
        ("KR", "（광고） Acme Sale 무료 수신거부 080", ("", "")),
        ("KR", "(광고)Sale 무료거부 080", ("", "")),
        ("CN", "【Acme】Sale 拒收请回复Ｒ", ("", "")),
        ("CN", "【Acme】Sale 拒收请回复r", ("", "")),
        ("MY", "rm0 Acme: Sale", ("", "")),
        ("MY", "ＲＭ０ Acme: Sale", ("", "")),
        ("MY", "RM0.50 off", ("RM0 Acme: ", "")),
        ("TW", "［Acme］ Sale", ("", "")),
        ("TW", "Acme：Sale", ("", "")),
        ("FR", "Sale. stop 36180", ("", "")),
        ("FR", "Sale. ＳＴＯＰ au ３６１８０", ("", "")),
        ("ZA", "Sale. Reply stop", ("", "")),
        ("ZA", "Non-stop sale", ("", " 36180")),  # is nothing to reply
        ("CA", "Cancel any time, no end of fun", ("", " 36180")),
        ("CA", "Sale. Reply QUIT", ("", "")),
        ("CA", "Soldes. ARRÊT 36180", ("", "")),
        ("HK", "Sale 取消 1234", ("", "")),
        ("TR", "Indirim b001", ("", "")),
    ],
)
def test_marks_are_recognised_however_they_are_written(
    country: str, text: str, added: tuple[str, str]
) -> None:
    rules = PACKS.texts(country, Category.marketing)
    assert ends(text, rules.start, rules.end, WORDS) == added


def test_the_tenant_s_words_are_recognised_in_any_form() -> None:
    words = {"brand": "Acme", "opt_out": "Reply OUT"}
    assert ends("Sale. ｒｅｐｌｙ out", None, Mark(" {opt_out}", ("never",)), words) == ("", "")
    assert ends("［ＱＣ］Sale", Mark("[QC] ", ("never",)), None, words) == ("", "")


def test_a_countrys_own_opt_out_words_are_asked_for_and_recognised() -> None:
    """An operator's pack that has words of its own needs them in one place alone."""
    zambia = (
        RULES.joinpath("ZA.toml").read_text("utf-8").replace('"STOP"]', '"KLAAR", "TERUG TREK", "退出"]', 1)
    )
    rules = PACKS.replaced({"ZA.toml": zambia.encode()}).texts("ZA", Category.marketing)
    for text in ("Sale. Reply KLAAR", "Sale. klaar!", "Sale: terug  trek", "买一送一退出"):
        assert ends(text, rules.start, rules.end, {}) == ("", ""), text
    for text in ("Sale", "Sale. Reply STOP", "Sale klaarstaan", "terug"):
        assert ends(text, rules.start, rules.end, {}) == ("", " Reply KLAAR to opt out, standard rate"), text
    with pytest.raises(BadPack, match=r"\{keyword\} needs an opt-out word"):
        PACKS.replaced({"ZA.toml": zambia.replace('"KLAAR", "TERUG TREK", "退出"', "").encode()})


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(.*a){25}", r"(\w+\s?)+x", "(a*)*b"])
def test_no_pattern_takes_longer_than_the_text_is_long(pattern: str) -> None:
    """Each of these takes Python's own engine for ever."""
    assert ends("a" * 5_000 + "!", None, Mark("x", (pattern,)), {})[1] in ("", "x")


def test_a_bad_mark_is_refused() -> None:
    for add, accepts, said in (
        ("{colour}", ("x",), "colour"),
        ("x", ("(",), "no pattern that RE2 takes: missing"),
        ("", ("x",), "something to add"),
        ("x", (), "something to accept"),
    ):
        with pytest.raises(ValueError, match=said):
            Mark(add, accepts)


@given(st.text(max_size=60), st.sampled_from([p.id for p in Packs.load().all()]), st.sampled_from(Category))
def test_a_labelled_text_is_left_alone(text: str, country: str, category: Category) -> None:
    """For every shipped pack and any text."""
    rules = PACKS.texts(country, category)
    before, behind = ends(text, rules.start, rules.end, WORDS)
    assert ends(before + text + behind, rules.start, rules.end, WORDS) == ("", "")
