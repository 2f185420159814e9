"""Every pack is held to the cases written in its own file, in words: see `app/countries/cases.py`."""

from __future__ import annotations

from importlib.resources import files

import pytest

from app.countries import Packs
from app.countries.cases import contradiction, failures
from app.domain.message import Category

PACKS = Packs.load()
CASES = [pytest.param(p.id, case, id=f"{p.id}: {case}") for p in PACKS.all() for case in p.data.tests]
FR = files("app.countries").joinpath("rules", "FR.toml").read_text("utf-8")


@pytest.mark.parametrize(("country", "case"), CASES)
def test_case(country: str, case: str) -> None:
    assert contradiction(PACKS, country, case) is None


def test_every_pack_has_cases_for_each_category() -> None:
    for pack in PACKS.all():
        for category in Category:
            assert any(f"{category.name}" in case for case in pack.data.tests), (pack.id, category)


@pytest.mark.parametrize(
    ("case", "instead"),
    [
        ("Wednesday 2027-02-17 12:00, marketing: hold until Thursday 2027-02-18 08:30",
         "send until Wednesday 2027-02-17 20:00 by FR.marketing"),
        ("Sunday 2027-02-21 12:00, marketing: send", "hold until Monday 2027-02-22 08:30 by FR.marketing"),
        ("Wednesday 2027-02-17 12:00, marketing: send until Wednesday 2027-02-17 20:01",
         "send until Wednesday 2027-02-17 20:00 by FR.marketing"),
        ("Wednesday 2027-02-17 12:00, marketing: send", "send until Wednesday 2027-02-17 20:00 by FR.marketing"),
        ("Wednesday 2027-02-17 12:00, marketing: send until Wednesday 2027-02-17 20:00 by FR.otp",
         "send until Wednesday 2027-02-17 20:00 by FR.marketing"),
        ("Sunday 2027-02-21 12:00, marketing: hold for ever", "hold until Monday 2027-02-22 08:30 by FR.marketing"),
        ("Wednesday 2027-02-17 12:00, otp: hold for ever", "send by FR.otp"),
        ("Tuesday 2027-02-17 12:00, otp: send", "2027-02-17 12:00 is a Wednesday"),
        ("Wednesday 2027-02-17 12:00, marketing: send until Monday 2027-02-17 20:00", "is a Wednesday"),
        ("Wednesday 2027-02-31 12:00, otp: send", "day is out of range"),
        ("Wednesday 2027-02-17 12:00 Mars/Base, otp: send", "Mars/Base is no time zone"),
        ("to +33, Wednesday 2027-02-17 12:00, otp: send", "can't be texted"),
        ("in IDF, Wednesday 2027-02-17 12:00 Europe/Paris, otp: send", "IDF is no subdivision"),
        ("send whenever you like", "not in the grammar"),
        ("", "not in the grammar"),
    ],
)  # fmt: skip
def test_a_case_that_does_not_hold_says_what_is_so_instead(case: str, instead: str) -> None:
    found = contradiction(PACKS, "FR", case)
    assert found is not None
    assert instead in found


def test_the_failing_lines_of_a_changed_pack_are_named() -> None:
    assert failures(PACKS, "FR") == []
    changed = PACKS.replaced({"FR.toml": FR.replace('["08:30", "20:00"]', '["08:30", "19:00"]').encode()})
    found = failures(changed, "FR")
    assert found
    for one in found:
        assert changed.pack("FR").data.tests[one.place] == one.case
        assert "19:00" in one.instead or "hold" in one.instead
