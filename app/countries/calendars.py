"""Public holidays, from the `holidays` package.

Guarantee: `calendar` exists for a country exactly when `supported` says so; days observed in
place of a holiday on a weekend are holidays, too.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from functools import lru_cache
from typing import Final

import holidays

YEARS_KEPT: Final = 4_096  # (country, subdivision, year) triples, some 20 dates each


def supported(country: str, subdivision: str = "") -> bool:
    """Asks for that one calendar: the package's list of all would load all of them."""
    try:
        holidays.country_holidays(country, subdiv=subdivision or None)
    except NotImplementedError:
        return False
    return True


def calendar(country: str, subdivision: str = "") -> Callable[[date], bool]:
    """Whether a local date is a public holiday there."""

    def is_holiday(day: date) -> bool:
        return day in _dates(country, subdivision, day.year)

    return is_holiday


@lru_cache(maxsize=YEARS_KEPT)
def _dates(country: str, subdivision: str, year: int) -> frozenset[date]:
    return frozenset(holidays.country_holidays(country, subdiv=subdivision or None, years=year))
