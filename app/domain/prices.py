"""Price lists: what a gateway charges for a segment, by number prefix, region, country, or everywhere.

Guarantees: amounts are exact decimals, read from text and kept as text; a float is refused, since it is not what was
written. An error names the entry.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from io import StringIO
from typing import Any

MAX_PRICES = 10_000
MAX_PLACES = 6  # behind the point
LIMIT = Decimal(1_000_000)

_PREFIX = re.compile(r"\+?[1-9][0-9]{0,14}")
_REGION = re.compile(r"[A-Z]{2}(-[A-Z0-9]{1,3})?")
_CURRENCY = re.compile(r"[A-Z]{3}")
_AMOUNT = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")


class BadPrice(ValueError):
    """One line: the entry, and what is wrong with it."""


def amount(value: Any, where: str = "price") -> Decimal:
    """An amount from text or a whole number. Raises BadPrice."""
    if isinstance(value, Decimal):
        value = f"{value:f}"
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadPrice(f'{where}: write the amount in quotes, "0.0075", so that it stays exact')
    text = str(value).strip()
    if not _AMOUNT.fullmatch(text):
        raise BadPrice(f"{where}: an amount has digits and a point, 0.0075")
    try:
        found = Decimal(text)
    except InvalidOperation:
        raise BadPrice(f"{where}: not an amount") from None
    if found >= LIMIT or -int(found.normalize().as_tuple().exponent) > MAX_PLACES:
        raise BadPrice(f"{where}: below {LIMIT:,}, with at most {MAX_PLACES} digits behind the point")
    return found


def rate(value: Any, where: str = "rate") -> Decimal:
    """A conversion rate: more than nothing. Raises BadPrice."""
    found = amount(value, where)
    if not found:
        raise BadPrice(f"{where}: a rate is more than 0")
    return found


def currency(value: Any, where: str = "currency") -> str:
    """An ISO 4217 code. Raises BadPrice."""
    if not isinstance(value, str) or not _CURRENCY.fullmatch(value):
        raise BadPrice(f"{where}: three capital letters (USD)")
    return value


def price_list(values: Mapping[str, Any], where: str = "prices") -> dict[str, str]:
    """The list as it is kept: each key '*', a region, or a prefix with its plus sign. Raises BadPrice."""
    if len(values) > MAX_PRICES:
        raise BadPrice(f"{where}: more than {MAX_PRICES:,}")
    found: dict[str, str] = {}
    for key, value in values.items():
        if not isinstance(key, str):
            raise BadPrice(f"{where}: a key is text")
        name = key if key == "*" or _REGION.fullmatch(key) else _prefix(key, where)
        if name in found:
            raise BadPrice(f"{where}.{name}: is priced twice")
        found[name] = f"{amount(value, f'{where}.{name}'):f}"
    return found


def read_csv(text: str) -> dict[str, str]:
    """A list from a file of two columns, `to,price`, with that header. Raises BadPrice, which names the line."""
    rows = csv.reader(StringIO(text.removeprefix("\ufeff")), strict=True)
    found: dict[str, str] = {}
    try:
        header = [cell.strip().lower() for cell in next(rows, [])]
        if header != ["to", "price"]:
            raise BadPrice("line 1: the header is to,price")
        for row in rows:
            if not row:
                continue
            line = f"line {rows.line_num}"
            if len(row) != len(header):
                raise BadPrice(f"{line}: two columns are wanted")
            if len(found) >= MAX_PRICES:
                raise BadPrice(f"{line}: more than {MAX_PRICES:,} prices")
            for key, value in price_list({row[0].strip(): row[1].strip()}, line).items():
                if key in found:
                    raise BadPrice(f"{line}: {key} is priced twice")
                found[key] = value
    except csv.Error as error:
        raise BadPrice(f"line {rows.line_num}: {error}") from None
    return found


def _prefix(key: str, where: str) -> str:
    if not _PREFIX.fullmatch(key):
        raise BadPrice(f"{where}.{key[:20]}: neither '*' nor a region nor a number prefix")
    return key if key[0] == "+" else f"+{key}"
