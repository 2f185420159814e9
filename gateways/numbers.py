"""Addresses that carriers and providers write, as numbers in E.164 where they are some. Pure."""

from __future__ import annotations

from app.domain.phone import InvalidNumber, calling_code_of, parse
from app.domain.text import decode

# TON, SMPP 3.4 section 5.2.5: of the others none is a number that could be texted.
_UNKNOWN, _INTERNATIONAL, _NATIONAL = 0, 1, 2
# What a person texts from: a service number of a country looks like a short code.
_PERSONS = frozenset({"mobile", "fixed_line", "fixed_line_or_mobile"})


def has_numbers(country: str) -> bool:
    """Whether it is a country (ISO 3166-1 alpha-2, capital letters) with phone numbers."""
    try:
        calling_code_of(country)
    except KeyError:
        return False
    return True


def written_in(country: str, number: str) -> str:
    """A number as one with its plus sign that a provider of that country may write as it is dialled there; what is none
    as it stands."""
    digits = number.removeprefix("+")
    if not (digits.isascii() and digits.isdigit()):
        return number
    found = phone(_UNKNOWN, digits.encode(), country)
    return found if found[0] == "+" else number


def phone(ton: int, digits: bytes, country: str = "") -> str:
    """An address with its plus sign where it is an international number; else as it stands.

    `country` (ISO 3166-1 alpha-2) is that of the national numbers that the carrier may write. Then a number is what
    the TON says, if that can be, else the other.
    """
    text = decode(digits, "latin-1")
    if country and text.isdigit() and ton in (_UNKNOWN, _INTERNATIONAL, _NATIONAL):
        abroad, at_home = f"+{text.removeprefix('00')}", f"+{calling_code_of(country)}{text}"
        for reading in (abroad, at_home) if ton == _INTERNATIONAL else (at_home, abroad):
            try:
                number = parse(reading)
            except InvalidNumber:
                continue
            if number.kind in _PERSONS:
                return number.e164
    if ton == _INTERNATIONAL and text.isdigit():
        return "+" + text
    return text
