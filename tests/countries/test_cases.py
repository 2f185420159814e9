"""Every pack is held to the cases written in its own file, in words.

Grammar of a case:

    [to NUMBER, | in SUBDIVISION, ] WEEKDAY DATE TIME [ZONE], CATEGORY [widened]: VERDICT

    VERDICT = "send" | "send until WEEKDAY DATE TIME" | "hold until WEEKDAY DATE TIME" | "hold for ever"
    each, if wanted, with " by RULE"

Times are local; the zone may be left out where the recipient has but one. Without a number
it is an example mobile number of the country; `in FL` asks for that state and the zone named.
"""

from __future__ import annotations

import math
import re
from datetime import datetime

import phonenumbers
import pytest

from app.countries import Jurisdiction, Packs
from app.countries.places import zone
from app.domain import phone
from app.domain.message import Category
from app.domain.quiet import DAY_S, HORIZON_DAYS

CASE = re.compile(
    r"(?:to (?P<number>\+\d+), |in (?P<state>\w+), )?(?P<when>\w+ \S+ \S+)(?: (?P<zone>[\w/]+))?, "
    r"(?P<category>\w+)(?P<widen> widened)?: (?P<verdict>send|hold)(?: until (?P<until>\w+ \S+ \S+))?"
    r"(?P<never> for ever)?(?: by (?P<rule>\S+))?"
)

PACKS = Packs.load()
CASES = [pytest.param(p.id, case, id=f"{p.id}: {case}") for p in PACKS.all() for case in p.data.tests]


@pytest.mark.parametrize(("country", "case"), CASES)
def test_case(country: str, case: str) -> None:
    parts = CASE.fullmatch(case)
    assert parts, f"not in the grammar: {case}"
    place = jurisdiction(country, parts["number"], parts["state"], parts["zone"])
    where = parts["zone"] or only(place.zones)

    now, category = at(parts["when"], where), Category[parts["category"]]

    verdict = PACKS.hours(place, category, now, widen=bool(parts["widen"]))

    assert verdict.open == (parts["verdict"] == "send")
    if parts["until"]:
        assert words(verdict.until, where) == parts["until"]
    if parts["never"]:
        assert verdict.until == math.inf
    if verdict.open and not parts["until"]:
        assert verdict.until >= now + HORIZON_DAYS * DAY_S
    if parts["rule"]:
        assert verdict.rule == parts["rule"]


def test_every_pack_has_cases_for_each_category() -> None:
    for pack in PACKS.all():
        for category in Category:
            assert any(f"{category.name}" in case for case in pack.data.tests), (pack.id, category)


def jurisdiction(country: str, number: str | None, state: str | None, zone_name: str | None) -> Jurisdiction:
    if state and zone_name:
        return Jurisdiction(country, (f"{country}-{state}",), (zone_name,))
    if number is None:
        example = phonenumbers.example_number_for_type(country, phonenumbers.PhoneNumberType.MOBILE)
        number = phonenumbers.format_number(example, phonenumbers.PhoneNumberFormat.E164)
    parsed = phone.parse(number)
    return PACKS.jurisdiction(parsed.e164, parsed.country)


def at(words: str, zone_name: str) -> float:
    local = datetime.strptime(words.partition(" ")[2], "%Y-%m-%d %H:%M").replace(tzinfo=zone(zone_name))
    assert local.strftime("%A") == words.partition(" ")[0], f"{words} is a {local:%A}"
    return local.timestamp()


def words(at: float, zone_name: str) -> str:
    return datetime.fromtimestamp(at, zone(zone_name)).strftime("%A %Y-%m-%d %H:%M:%S").removesuffix(":00")


def only(zones: tuple[str, ...]) -> str:
    assert len(zones) == 1, f"name the zone: {zones}"
    return zones[0]
