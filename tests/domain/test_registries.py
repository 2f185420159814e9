"""Rows of do-not-call registers in their published forms, and of any other in one column."""

from __future__ import annotations

import pytest

from app.domain.phone import InvalidNumber
from app.domain.registries import FORMS, Format, Reader, UnknownColumn


@pytest.mark.parametrize(
    ("form", "row", "number"),
    [
        ("us_national", ["202", "5550111"], "+12025550111"),
        ("us_national", ["2025550111"], "+12025550111"),
        ("us_national", [" 202 ", " 5550111 "], "+12025550111"),
        ("us_national", ["202", "5550111", "A", "2027-02-01"], None),  # a change list adds and takes away
        ("us_national", ["202", "555011"], None),
        ("us_national", ["12025550111"], None),
        ("us_national", ["202", "555-0111"], None),
        ("us_national", ["416", "5550111"], None),  # Toronto
        ("us_national", [""], None),
        ("ca_national", ["416", "5550111"], "+14165550111"),
        ("ca_national", ["202", "5550111"], None),
        ("uk_tps", ["0207 3787244"], "+442073787244"),
        ("uk_tps", ["01635 506160"], "+441635506160"),
        ("uk_tps", ["0191  5657153"], "+441915657153"),
        ("uk_tps", ["07860338653 "], "+447860338653"),
        ("uk_tps", ["07860338653", "x"], None),
        ("uk_tps", ["TPS-2027-02"], None),
    ],
)
def test_rows_of_a_register_s_form(form: Format, row: list[str], number: str | None) -> None:
    reader = Reader(FORMS[form].country, form)
    if number is None:
        with pytest.raises(InvalidNumber):
            reader.number(row)
    else:
        assert reader.number(row) == number


@pytest.mark.parametrize(
    ("country", "written", "number"),
    [
        ("SG", "81234567", "+6581234567"),
        ("SG", "+65 8123 4567", "+6581234567"),
        ("VN", "0912345678", "+84912345678"),
        ("VN", "84912345678", "+84912345678"),
        ("IN", "9876543210", "+919876543210"),
        ("IN", "919876543210", "+919876543210"),
        ("IN", "9198765432", "+919198765432"),  # begins as the country's code does
        ("IN", "09876543210", "+919876543210"),
        ("NG", "08031234567", "+2348031234567"),
        ("NG", "2348031234567", "+2348031234567"),
        ("AU", "0412 345 678", "+61412345678"),
        ("AU", "61412345678", "+61412345678"),
        ("HK", "91234567", "+85291234567"),
    ],
)
def test_numbers_as_a_country_writes_them(country: str, written: str, number: str) -> None:
    assert Reader(country, "numbers").number([written]) == number


def test_a_form_belongs_to_its_country_and_names_its_source() -> None:
    with pytest.raises(ValueError, match="a form of US's register"):
        Reader("CA", "us_national")
    assert all(form.source for form in FORMS.values())


def test_headers() -> None:
    assert Reader("US", "us_national").header(["Area Code", "Phone"])
    assert not Reader("US", "us_national").header(["202", "5550111"])
    assert not Reader("US", "us_national").header(["202", "55501x1"]), (
        "a broken row is no header: it is reported"
    )
    assert not Reader("GB", "uk_tps").header(["0207 3787244"])
    reader = Reader("SG", "numbers", "Number", ("No Text Message", "Y"))
    assert reader.header(["number", "No Voice Call", "no text message"])
    assert reader.number(["81234567", "Y", "N"]) is None
    assert reader.number(["81234567", "N", "y"]) == "+6581234567"
    with pytest.raises(UnknownColumn):
        Reader("SG", "numbers", "Number").header(["81234567"])
