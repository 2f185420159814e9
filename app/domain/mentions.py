"""A number as people write it inside of a text: to be found, and taken out, where it was not expected."""

from __future__ import annotations

import re

from app.domain.phone import calling_code

REPLACEMENT = "0"  # stands in JSON as a string's content and as a number
_BETWEEN = r"[-. ()/]{0,2}"  # none of JSON's own signs
_ALONE = 7  # digits from which a national number is told from any other figure


def pattern(e164: str) -> str:
    """A regular expression, the same in Python and PostgreSQL, for a number with and without its calling code.

    Found: "+84 912-345-678", "0084912345678", "0912 345 678", "%2B84912345678"; not found: longer runs of digits.
    """
    code = calling_code(e164)
    national = _BETWEEN.join(e164[1 + len(code) :])
    abroad = rf"(?:(?:[+]|00|011){_BETWEEN})?{_BETWEEN.join(code)}{_BETWEEN}(?:0{_BETWEEN})?"
    alone = len(e164) - 1 - len(code) >= _ALONE
    before = rf"(?:{abroad}|[0-9]{{1,2}}{_BETWEEN})?" if alone else f"(?:{abroad})"
    return rf"(?<![0-9]){before}{national}(?![0-9])"


def without(text: str, e164: str) -> str:
    """The text with the number taken out."""
    return re.sub(pattern(e164), REPLACEMENT, text)
