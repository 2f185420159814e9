"""Hours against a computation written the other way round: quarter by quarter, from the wall clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.quiet import DAY_S, HORIZON_DAYS, Hours, Rule, Week, hours

DAY_MIN = 1440
QUARTER_S = 900
ZONES = [
    "Europe/Paris", "America/New_York", "America/Adak", "America/St_Johns", "Asia/Kolkata", "Asia/Kathmandu",
    "Australia/Lord_Howe", "Australia/Eucla", "Pacific/Chatham", "Pacific/Apia", "Africa/Casablanca",
    "Antarctica/Troll", "America/Santiago", "Asia/Tehran", "Pacific/Kiritimati",
]  # fmt: skip

Written = Sequence[tuple[int, int, int]]  # (weekday, start, end) in minutes; an end past 1440 is the next day


def as_week(written: Written) -> Week:
    """Cut at midnight and join what overlaps, as a reader of data files would."""
    minutes = [[False] * DAY_MIN for _ in range(7)]
    for weekday, start, end in written:
        for minute in range(start, end):
            minutes[(weekday + minute // DAY_MIN) % 7][minute % DAY_MIN] = True
    week = []
    for day in minutes:
        edges = [m for m in range(DAY_MIN + 1) if (m > 0 and day[m - 1]) != (m < DAY_MIN and day[m])]
        week.append(tuple((a * 60, b * 60) for a, b in zip(edges[::2], edges[1::2], strict=True)))
    return tuple(week)


class Brute:
    """The definition: the wall clock stands in a window of today or in one that began yesterday."""

    def __init__(self, rules: Sequence[tuple[Written, frozenset[date]]], zones: Sequence[str]) -> None:
        self.rules = rules
        self.zones = [ZoneInfo(name) for name in zones]

    def open(self, at: float) -> bool:
        return all(self.one_open(w, h, z, at) for w, h in self.rules for z in self.zones)

    @staticmethod
    def one_open(written: Written, holidays: frozenset[date], zone: ZoneInfo, at: float) -> bool:
        wall = datetime.fromtimestamp(at, zone)
        if wall.date() in holidays:
            return False
        minute = wall.hour * 60 + wall.minute
        return any(
            (weekday == wall.weekday() and start <= minute < end)
            or ((weekday + 1) % 7 == wall.weekday() and start <= minute + DAY_MIN < end)
            for weekday, start, end in written
        )


def assert_true(verdict: Hours, brute: Brute, now: float, lead_s: int = 0) -> None:
    """The verdict holds at now and every quarter of an hour until its end, and not at its end.

    Here all windows, offsets and changes of clocks fall on quarters, so none is passed over.
    """
    looks_ahead = [*range(0, lead_s, QUARTER_S), lead_s]

    def is_open(at: float) -> bool:
        return all(brute.open(at + ahead) for ahead in looks_ahead)

    assert is_open(now) == verdict.open
    quarter = (now // QUARTER_S + 1) * QUARTER_S
    while quarter < min(verdict.until, now + 5 * DAY_S):
        assert is_open(quarter) == verdict.open, datetime.fromtimestamp(quarter, UTC)
        quarter += QUARTER_S
    if verdict.until < now + (HORIZON_DAYS - 1) * DAY_S:
        assert is_open(verdict.until - 1) == verdict.open
        assert is_open(verdict.until) != verdict.open


def rule(written: Written, holidays: frozenset[date] = frozenset(), name: str = "XX.marketing") -> Rule:
    return Rule(name, "1", as_week(written), holidays.__contains__ if holidays else None)


def daily(start: int, end: int) -> Written:
    return [(weekday, start * 60, end * 60) for weekday in range(7)]


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


windows = st.tuples(st.integers(0, 6), st.integers(0, 95), st.integers(1, 120)).map(
    lambda w: (w[0], w[1] * 15, min(w[1] + w[2], 2 * 96 - 1) * 15)
)
instants = st.floats(at("2026-01-01"), at("2030-01-01")).map(lambda t: round(t, 1))
changes = st.sampled_from(
    ["2027-03-14 07:00", "2027-03-28 01:00", "2027-04-03 15:00", "2027-10-02 15:30", "2027-10-31 01:00",
     "2027-11-07 06:00", "2027-02-07 02:00", "2027-03-14 02:00"]  # the last two: Morocco's Ramadan
).map(at)  # fmt: skip
around_changes = st.builds(lambda change, off: change + off * 60.0, changes, st.integers(-2000, 2000))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(windows, min_size=1, max_size=9), min_size=1, max_size=2),
    st.lists(st.sampled_from(ZONES), min_size=1, max_size=2, unique=True),
    st.frozensets(st.dates(date(2027, 1, 1), date(2027, 12, 31)), max_size=40),
    instants | around_changes,
    st.sampled_from([0, 0, 60, 900, 7200]),
)
def test_equals_the_definition_at_every_quarter(
    weeks: list[Written], zones: list[str], holidays: frozenset[date], now: float, lead_s: int
) -> None:
    brute = Brute([(written, holidays) for written in weeks], zones)
    rules = [rule(written, holidays) for written in weeks]
    assert_true(hours(rules, brute.zones, now, lead_s), brute, now, lead_s)


@pytest.mark.parametrize(
    "zones", [["Europe/Paris"], ["America/New_York", "America/Chicago"], ["Australia/Sydney"]]
)
def test_a_year_of_verdicts_meets_without_gap_or_overlap(zones: list[str]) -> None:
    christmas = frozenset({date(2027, 12, 25), date(2027, 1, 1)})
    written = [(weekday, 510, 1200) for weekday in range(6)]
    brute = Brute([(written, christmas)], zones)
    now, end = at("2027-01-01"), at("2028-01-01")
    spans = []
    while now < end:
        verdict = hours([rule(written, christmas)], brute.zones, now)
        assert not spans or spans[-1][2] != verdict.open, "two verdicts in a row say the same"
        spans.append((now, verdict.until, verdict.open))
        now = verdict.until
    assert len([span for span in spans if span[2]]) in (310, 311, 312)  # 2027 but Sundays and holidays
    for start, until, is_open in spans:
        for moment in range(int(start), int(until), 1800):
            assert brute.open(moment) == is_open


@pytest.mark.parametrize(
    ("zone", "window", "now", "is_open", "until"),
    [
        # Paris, 2027-03-28: 02:00 becomes 03:00; a window inside the skipped hour does not exist that day
        ("Europe/Paris", (120, 180), "2027-03-28 00:30", False, "2027-03-29 02:00"),
        # a window that begins in the skipped hour opens when the clock arrives behind it
        ("Europe/Paris", (150, 240), "2027-03-28 00:30", False, "2027-03-28 03:00"),
        # Paris, 2027-10-31: 03:00 becomes 02:00; a window that ends at 02:30 opens a second time
        ("Europe/Paris", (60, 150), "2027-10-31 01:00", True, "2027-10-31 02:30"),
        # New York, 2027-03-14 and 2027-11-07
        ("America/New_York", (540, 1200), "2027-03-13 20:00", False, "2027-03-14 09:00"),
        ("America/New_York", (540, 1200), "2027-11-06 20:00", False, "2027-11-07 09:00"),
        # Lord Howe moves by half an hour: 2027-04-04
        ("Australia/Lord_Howe", (540, 1200), "2027-04-03 20:00", False, "2027-04-04 09:00"),
        # Morocco is on UTC+0 in Ramadan (2027-02-07 to 2027-03-14), else on UTC+1
        ("Africa/Casablanca", (540, 1200), "2027-02-06 20:00", False, "2027-02-07 09:00"),
        # India's half hour
        ("Asia/Kolkata", (600, 1260), "2027-02-17 21:00", False, "2027-02-18 10:00"),
        # past midnight: 22:00 to 02:00
        ("Europe/Paris", (1320, 1560), "2027-02-17 22:00", True, "2027-02-18 02:00"),
        ("Europe/Paris", (1320, 1560), "2027-02-17 01:59", True, "2027-02-17 02:00"),
    ],
)
def test_days_on_which_clocks_change(
    zone: str, window: tuple[int, int], now: str, is_open: bool, until: str
) -> None:
    every_day = [(weekday, *window) for weekday in range(7)]
    verdict = hours([rule(every_day)], [ZoneInfo(zone)], at(now, zone))
    assert (verdict.open, verdict.until) == (is_open, at(until, zone))


def test_an_hour_that_comes_twice_opens_twice() -> None:
    paris = ZoneInfo("Europe/Paris")
    rules = [rule([(weekday, 60, 150) for weekday in range(7)])]  # 01:00 to 02:30
    shut = hours(rules, [paris], at("2027-10-31 02:45", "Europe/Paris"))  # summer time still
    assert shut == Hours(False, at("2027-10-31 01:00"), "XX.marketing", "1")  # 02:00 for the second time
    assert hours(rules, [paris], shut.until).until == at("2027-10-31 01:30")


def test_every_zone_and_every_rule_must_be_open() -> None:
    zones = [ZoneInfo("America/New_York"), ZoneInfo("America/Chicago")]
    state, country = rule(daily(9, 18), name="US-RI.marketing"), rule(daily(8, 21), name="US.marketing")
    now = at("2027-02-17 09:30", "America/New_York")  # 08:30 in Chicago
    assert hours([state, country], zones, now) == Hours(
        False, at("2027-02-17 09:00", "America/Chicago"), "US-RI.marketing", "1"
    )
    assert hours([country], zones, now) == Hours(
        True, at("2027-02-17 21:00", "America/New_York"), "US.marketing", "1"
    )


def test_the_rule_named_is_the_one_that_is_shut() -> None:
    state, country = rule(daily(0, 24), name="US-FL.marketing"), rule(daily(9, 20), name="US.marketing")
    now = at("2027-02-17 21:00")
    assert hours([state, country], [ZoneInfo("UTC")], now).rule == "US.marketing"


def test_the_rule_named_under_a_lead_is_the_one_about_to_shut() -> None:
    state, country = rule(daily(0, 24), name="US-FL.marketing"), rule(daily(9, 20), name="US.marketing")
    verdict = hours([state, country], [ZoneInfo("UTC")], at("2027-02-17 19:50"), 900)
    assert verdict == Hours(False, at("2027-02-18 09:00"), "US.marketing", "1")


def test_holidays_in_a_row_and_the_weekend_after_them() -> None:
    weekdays = [(weekday, 540, 1200) for weekday in range(5)]
    holidays = frozenset({date(2027, 12, 23), date(2027, 12, 24)})  # Thursday and Friday
    verdict = hours([rule(weekdays, holidays)], [ZoneInfo("UTC")], at("2027-12-22 20:00"))
    assert verdict.until == at("2027-12-27 09:00")


def test_lead_shuts_early_and_skips_a_window_shorter_than_itself() -> None:
    utc = [ZoneInfo("UTC")]
    short_and_long = [(weekday, *window) for weekday in range(7) for window in ((540, 550), (600, 1200))]
    assert hours([rule(short_and_long)], utc, at("2027-02-17 10:00"), 900).until == at("2027-02-17 19:45")
    assert not hours([rule(short_and_long)], utc, at("2027-02-17 19:45"), 900).open
    assert hours([rule(short_and_long)], utc, at("2027-02-17 08:00"), 900).until == at("2027-02-17 10:00")


def test_never_open_is_for_ever_and_always_open_ends_at_the_horizon() -> None:
    now = at("2027-02-17 12:00")
    far_apart = [ZoneInfo("UTC"), ZoneInfo("Etc/GMT-12")]
    assert hours([rule(daily(9, 20))], far_apart, now) == Hours(False, math.inf, "XX.marketing", "1")
    always = hours([rule(daily(0, 24))], [ZoneInfo("UTC")], now, 900)
    assert always == Hours(True, now + timedelta(days=HORIZON_DAYS).total_seconds(), "XX.marketing", "1")


def test_a_rule_and_a_zone_are_needed() -> None:
    with pytest.raises(ValueError, match="a rule and a zone"):
        hours([], [ZoneInfo("UTC")], 0)
