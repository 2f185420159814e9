"""A pack's own tests, written in words in its file, and what they say of it.

Grammar of a case:

    [to NUMBER, | in SUBDIVISION, ] WEEKDAY DATE TIME [ZONE], CATEGORY [widened]: VERDICT

    VERDICT = "send" | "send until WEEKDAY DATE TIME" | "hold until WEEKDAY DATE TIME" | "hold for ever"
    each, if wanted, with " by RULE"

Times are local; the zone may be left out where the recipient has but one. Without a number it is an example mobile
number of the country; `in FL` asks for that state and the zone named.

Guarantee: a case that can't be read fails, too.
"""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Final

import msgspec
import phonenumbers

from app.countries.packs import Jurisdiction, Packs
from app.countries.places import zone
from app.domain import phone
from app.domain.message import Category
from app.domain.quiet import DAY_S, HORIZON_DAYS, Hours

_CASE: Final = re.compile(
    r"(?:to (?P<number>\+\d{1,15}), |in (?P<state>\w{1,8}), )?(?P<when>\w+ [\d-]+ [\d:]+)(?: (?P<zone>[\w/+-]+))?, "
    r"(?P<category>otp|transactional|marketing)(?P<widen> widened)?: "
    r"(?P<verdict>send|hold)(?: until (?P<until>\w+ [\d-]+ [\d:]+))?(?P<never> for ever)?(?: by (?P<rule>\S+))?"
)


class Failure(msgspec.Struct, frozen=True):
    """A case that does not hold: which one of the file's (from 0), its words, and what is so instead."""

    place: int
    case: str
    instead: str


def failures(packs: Packs, country: str) -> list[Failure]:
    """The cases of that country's own pack that do not hold."""
    found = []
    for place, case in enumerate(packs.pack(country).data.tests):
        instead = contradiction(packs, country, case)
        if instead is not None:
            found.append(Failure(place, case, instead))
    return found


def contradiction(packs: Packs, country: str, case: str) -> str | None:
    """What is so instead of what the case says; None: it holds."""
    parts = _CASE.fullmatch(case)
    if parts is None:
        return "it is not in the grammar"
    try:
        place = _place(packs, country, parts["number"], parts["state"], parts["zone"])
        where = parts["zone"] or _only(place.zones)
        now = _at(parts["when"], where)
        if parts["until"]:
            _at(parts["until"], where)  # a wrong weekday is a slip, and no other time
    except ValueError as error:
        return str(error)
    verdict = packs.hours(place, Category[parts["category"]], now, widen=bool(parts["widen"]))
    return None if _holds(verdict, parts, where, now) else _words(verdict, where)


def _holds(verdict: Hours, parts: re.Match[str], where: str, now: float) -> bool:
    if verdict.open != (parts["verdict"] == "send"):
        return False
    if parts["until"] and _written(verdict.until, where) != parts["until"]:
        return False
    if parts["never"] and verdict.until != math.inf:
        return False
    if verdict.open and not parts["until"] and verdict.until < now + HORIZON_DAYS * DAY_S:
        return False
    return parts["rule"] in (None, verdict.rule)


def _words(verdict: Hours, where: str) -> str:
    until = " for ever" if verdict.until == math.inf else f" until {_written(verdict.until, where)}"
    if verdict.open and verdict.until == math.inf:
        until = ""
    return f"{'send' if verdict.open else 'hold'}{until} by {verdict.rule}"


def _place(
    packs: Packs, country: str, number: str | None, state: str | None, zone_name: str | None
) -> Jurisdiction:
    """Where the case plays. Raises ValueError."""
    if state is not None:
        if zone_name is None or state not in packs.pack(country).data.subdivisions:
            raise ValueError(f"{state} is no subdivision of the file, or its zone is not named")
        return Jurisdiction(country, (f"{country}-{state}",), (zone_name,))
    if number is None:
        example = phonenumbers.example_number_for_type(country, phonenumbers.PhoneNumberType.MOBILE)
        if example is None:
            raise ValueError("name a number: there is no example of one")
        number = phonenumbers.format_number(example, phonenumbers.PhoneNumberFormat.E164)
    try:
        parsed = phone.parse(number)
    except phone.InvalidNumber as error:
        raise ValueError(f"its number can't be texted: {error.detail}") from None
    return packs.jurisdiction(parsed.e164, parsed.country)


def _at(words: str, zone_name: str) -> float:
    """Unix seconds of local words. Raises ValueError."""
    weekday, _, rest = words.partition(" ")
    try:
        local = datetime.strptime(rest, "%Y-%m-%d %H:%M").replace(tzinfo=zone(zone_name))
    except KeyError:
        raise ValueError(f"{zone_name} is no time zone") from None
    if weekday != local.strftime("%A"):
        raise ValueError(f"{rest} is a {local:%A}")
    return local.timestamp()


def _written(at: float, zone_name: str) -> str:
    return datetime.fromtimestamp(at, zone(zone_name)).strftime("%A %Y-%m-%d %H:%M:%S").removesuffix(":00")


def _only(zones: tuple[str, ...]) -> str:
    if len(zones) != 1:
        raise ValueError(f"name the zone: {', '.join(zones)}")
    return zones[0]
