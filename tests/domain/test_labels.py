"""Labels at the ends of a text: added once, never twice, and made of what the tenant has set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.countries import Packs
from app.domain.labels import Mark, Missing, ends
from app.domain.message import Category

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


def test_a_bad_mark_is_refused() -> None:
    for add, accepts, said in (
        ("{colour}", ("x",), "colour"),
        ("x", ("(",), "regular expression"),
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


PACKS = Packs.load()
