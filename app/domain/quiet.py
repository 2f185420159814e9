"""When a text may be handed over: weekly windows in local time, over time zones and rules.

Guarantees, held against a computation from the wall clock by `tests/domain/test_quiet.py`:

* A rule is open at an instant exactly when the wall clock of the zone, at that instant, stands
  in one of the day's windows (half-open: open at the start, shut at the end) and the local date
  is no blocked holiday. This also defines the days on which clocks change: an hour that comes
  twice is judged twice, an hour that is skipped opens nothing.
* A verdict is open only if *every* rule is open in *every* zone.
* `Hours.until` is the exact instant at which the verdict ends.

Pure: zones, holidays and the time come in as arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, tzinfo
from typing import Final

import msgspec

DAY_S: Final = 86_400
HORIZON_DAYS: Final = 60  # how far ahead an opening is searched; nothing found: never
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()
_EPOCH_WEEKDAY: Final = 3  # 1970-01-01 was a Thursday; Monday is 0

Window = tuple[int, int]  # seconds of the local day, half-open; (0, 86400) is the whole day
Week = tuple[tuple[Window, ...], ...]  # seven days, Monday first; windows sorted and apart
Span = tuple[int, int]  # Unix seconds, half-open


class Rule(msgspec.Struct, frozen=True):
    """One rule on hours. `blocked` says of a local date whether it is a holiday that shuts the rule."""

    id: str  # "FR.marketing"
    version: str
    week: Week
    blocked: Callable[[date], bool] | None = None


class Hours(msgspec.Struct, frozen=True):
    """Whether now is inside the hours, and until when that is so (Unix seconds; `inf`: for good).

    Open: `until` is when it shuts. Shut: the first instant at which it opens. `rule` is the
    rule that decides: shut, the most specific one that is shut; open, the most specific one.
    """

    open: bool
    until: float
    rule: str
    version: str


def hours(rules: Sequence[Rule], zones: Sequence[tzinfo], now: float, lead_s: int = 0) -> Hours:
    """The verdict at `now` (Unix seconds) under rules ordered from the most specific on.

    `lead_s` shuts every open span so many seconds early, for what takes its time to arrive.
    """
    if not rules or not zones:
        raise ValueError("hours need a rule and a zone")
    start = math.floor(now)
    end = start + HORIZON_DAYS * DAY_S
    for opens, shuts in _joint_spans(rules, zones, start, end):
        last = shuts if shuts == end else shuts - lead_s
        if last <= max(opens, now):
            continue
        if opens <= now:
            return Hours(True, last, rules[0].id, rules[0].version)
        shut = _shut_rule(rules, zones, start + lead_s)
        return Hours(False, opens, shut.id, shut.version)
    shut = _shut_rule(rules, zones, start)
    return Hours(False, math.inf, shut.id, shut.version)


def _shut_rule(rules: Sequence[Rule], zones: Sequence[tzinfo], at: int) -> Rule:
    return next((r for r in rules if any(not _spans(r, z, at, at + 1) for z in zones)), rules[0])


def _joint_spans(rules: Sequence[Rule], zones: Sequence[tzinfo], start: int, end: int) -> Iterator[Span]:
    """The spans in which everything is open, in order, those that touch joined; worked out day by day."""
    pending: Span | None = None
    for day_start in range(start, end, DAY_S):
        spans = [(day_start, day_start + DAY_S)]
        for zone in zones:
            for rule in rules:
                spans = _intersection(spans, _spans(rule, zone, day_start, day_start + DAY_S))
        for span in spans:
            if pending is not None and pending[1] == span[0]:
                pending = (pending[0], span[1])
                continue
            if pending is not None:
                yield pending
            pending = span
        if pending is not None and pending[1] < day_start + DAY_S:
            yield pending
            pending = None
    if pending is not None:
        yield pending


def _spans(rule: Rule, zone: tzinfo, start: int, end: int) -> list[Span]:
    """Where `rule` is open in `zone` between two instants."""
    spans: list[Span] = []
    for first, last, offset in _constant_offsets(zone, start, end):
        for day in range((first + offset) // DAY_S, (last - 1 + offset) // DAY_S + 1):
            windows = rule.week[(day + _EPOCH_WEEKDAY) % 7]
            if not windows or (rule.blocked and rule.blocked(date.fromordinal(_EPOCH_ORDINAL + day))):
                continue
            midnight = day * DAY_S - offset
            for opens, shuts in windows:
                _append(spans, max(first, midnight + opens), min(last, midnight + shuts))
    return spans


def _append(spans: list[Span], opens: int, shuts: int) -> None:
    if opens >= shuts:
        return
    if spans and spans[-1][1] == opens:
        spans[-1] = (spans[-1][0], shuts)
    else:
        spans.append((opens, shuts))


def _constant_offsets(zone: tzinfo, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(from, to, offset from UTC in seconds): the pieces of a day in which clocks don't change.

    A day has one change at most: zones change their clocks weeks apart.
    """
    before, after = _offset(zone, start), _offset(zone, end - 1)
    if before == after:
        yield start, end, before
        return
    low, high = start, end - 1  # the change lies in (low, high]
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(zone, middle) == before:
            low = middle
        else:
            high = middle
    yield start, high, before
    yield high, end, after


def _offset(zone: tzinfo, at: int) -> int:
    offset = datetime.fromtimestamp(at, UTC).astimezone(zone).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())


def _intersection(left: list[Span], right: list[Span]) -> list[Span]:
    both: list[Span] = []
    i = j = 0
    while i < len(left) and j < len(right):
        _append(both, max(left[i][0], right[j][0]), min(left[i][1], right[j][1]))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return both
