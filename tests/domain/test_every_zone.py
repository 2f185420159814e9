"""No send in a closed window: every zone in tzdata, simulated through a year.

The other computation asks nothing of `quiet`: it looks at the wall clock of the zone, every half hour and on
both sides of each change.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from app.countries.places import known_zones, zone
from app.domain.quiet import DAY_S, Rule, hours

LOOK_S = 1800
SHORT = (
    "Africa/Casablanca", "Africa/El_Aaiun", "America/St_Johns", "Asia/Kathmandu", "Australia/Lord_Howe",
    "Pacific/Chatham", "Antarctica/Troll", "America/New_York", "Asia/Gaza", "America/Nuuk",
)  # fmt: skip
# 22:30 to 01:30 crosses midnight; 08:30 to 12:00 and a day off between.
WINDOWS = {weekday: [(0, 90), (510, 720), (1350, 1440)] for weekday in range(7)} | {6: [(510, 720)]}
WEEK = tuple(tuple((a * 60, b * 60) for a, b in WINDOWS[weekday]) for weekday in range(7))


def allowed(name: str, at: float) -> bool:
    wall = datetime.fromtimestamp(at, zone(name))
    minute = wall.hour * 60 + wall.minute
    return any(a <= minute < b for a, b in WINDOWS[wall.weekday()])


def verdicts(name: str, start: datetime, days: int) -> Iterator[tuple[float, bool, float]]:
    """(from, open, until), one after the other, as a dispatcher would ask."""
    rule = Rule("XX.marketing", "1", WEEK)
    at = start.timestamp()
    end = at + days * DAY_S
    while at < end:
        found = hours([rule], [zone(name)], at)
        assert found.until > at
        yield at, found.open, found.until
        at = found.until


def assert_agrees(name: str, start: datetime, days: int) -> None:
    """Each verdict agrees with the wall clock throughout what it covers, and at both its ends."""
    for at, is_open, until in verdicts(name, start, days):
        moments = [at, *range(int(at // LOOK_S + 1) * LOOK_S, int(until), LOOK_S), until - 1]
        for moment in moments:
            assert allowed(name, moment) == is_open, (name, datetime.fromtimestamp(moment, UTC))
        assert allowed(name, until) != is_open, (name, datetime.fromtimestamp(until, UTC))


@pytest.mark.parametrize("name", SHORT)
def test_six_weeks_in_the_zones_that_are_odd(name: str) -> None:
    """From 25 February 2027: Ramadan ends, and with it Morocco's other time; clocks change in America and Europe."""
    assert_agrees(name, datetime(2027, 2, 25, tzinfo=UTC), 42)


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(known_zones()))
def test_a_year_in_every_zone(name: str) -> None:
    assert_agrees(name, datetime(2027, 1, 1, tzinfo=UTC), 365)
