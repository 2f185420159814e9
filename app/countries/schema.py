"""The shape of a country's data file, and what is checked when one is read.

Guarantee: a file that `read` returns is complete and consistent: unknown keys, times that
are none, windows that overlap, rules without a source and holidays without a calendar are
refused with one line that names the file and the key.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from typing import Final, Literal

import msgspec

from app.domain import labels
from app.domain.quiet import DAY_S, Week, Window

Confidence = Literal["high", "medium", "low"]
ConsentType = Literal[
    "opt_in", "opt_out", "written", "express_or_implied", "opt_in_registry", "opt_in_or_dnc_checked",
]  # fmt: skip

CategoryName = Literal["otp", "transactional", "marketing"]
SenderPolicy = Literal["allowed", "registered", "replaced", "refused"]
Breach = Literal["warn", "refuse"]

MAX_TESTS: Final = 200

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_GROUPS: Final = {"daily": range(7), "mon_fri": range(5), "mon_sat": range(6), "sat_sun": range(5, 7)}
_TIME: Final = re.compile(r"([01]\d|2[0-4]):([0-5]\d)")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": DAY_S}


class BadPack(ValueError):
    """A data file that can't be used; the message is one line with file and key."""


class Windows(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Hours of a week in local time: `[["09:00", "20:00"]]`, half-open, for groups and single days.

    A day that is not named is closed; a single day goes before a group. A window whose end is
    not after its start runs past midnight. `holidays`: whether public holidays are closed.
    """

    holidays: Literal["open", "closed"]
    daily: list[tuple[str, str]] | None = None
    mon_fri: list[tuple[str, str]] | None = None
    mon_sat: list[tuple[str, str]] | None = None
    sat_sun: list[tuple[str, str]] | None = None
    mon: list[tuple[str, str]] | None = None
    tue: list[tuple[str, str]] | None = None
    wed: list[tuple[str, str]] | None = None
    thu: list[tuple[str, str]] | None = None
    fri: list[tuple[str, str]] | None = None
    sat: list[tuple[str, str]] | None = None
    sun: list[tuple[str, str]] | None = None

    def __post_init__(self) -> None:
        self.week()

    def week(self) -> Week:
        """The same as seconds of each day; windows past midnight are cut there."""
        written: list[list[tuple[str, str]]] = [[] for _ in range(7)]
        for group, days in _GROUPS.items():
            for day in days:
                written[day] = getattr(self, group) or written[day]
        for day, name in enumerate(_DAYS):
            own = getattr(self, name)
            written[day] = written[day] if own is None else own
        week: list[list[Window]] = [[] for _ in range(7)]
        for day, windows in enumerate(written):
            for opens, shuts in windows:
                start, end = _seconds(opens), _seconds(shuts)
                if start < end:
                    week[day].append((start, end))
                else:
                    week[day].append((start, DAY_S))
                    week[(day + 1) % 7].append((0, end))
        return tuple(_sorted_apart(windows, _DAYS[day]) for day, windows in enumerate(week))


class MarketingHours(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`safe` holds unless a tenant widens it to `allowed`, which is what the source permits.

    `allowed` missing: no source permits more than `safe`.
    """

    basis: str  # what the hours rest on: a law, a regulator, an operator, a vendor, a custom
    safe: Windows
    allowed: Windows | None = None

    def __post_init__(self) -> None:
        if not self.basis.strip():
            raise ValueError("basis is empty")
        if self.allowed is not None and not _inside(self.safe.week(), self.allowed.week()):
            raise ValueError("safe reaches past allowed")
        if self.allowed is not None and (self.safe.holidays, self.allowed.holidays) == ("open", "closed"):
            raise ValueError("safe is open on holidays, allowed is not")


class Cap(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """At most `max` marketing texts to one recipient within `per` ("24h", "7d"), a sliding span."""

    max: int
    per: str
    scope: str = ""

    def __post_init__(self) -> None:
        if self.max < 1 or self.per_s() < 1:
            raise ValueError("max and per are at least 1")

    def per_s(self) -> int:
        return _span_s(self.per)


class Consent(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What must stand behind a marketing text. `soft_opt_in`: an earlier sale of the like may do.

    `expires`, `soft_expires` (after a sale), `inquiry_expires` (after a question asked; without it an inquiry does
    not do) are spans like "730d"; "": the source states no end.
    """

    type: ConsentType
    soft_opt_in: bool = False
    expires: str = ""
    soft_expires: str = ""
    inquiry_expires: str = ""
    detail: str = ""

    def __post_init__(self) -> None:
        if (self.soft_expires or self.inquiry_expires) and not self.soft_opt_in:
            raise ValueError("soft_expires and inquiry_expires need soft_opt_in")
        self.ages()

    def ages(self) -> tuple[int, int, int]:
        """How old (s) an express, a soft and an inquiry consent may be; 0: any age; -1: does not do."""
        soft = _span_s(self.soft_expires) if self.soft_opt_in else -1
        inquiry = _span_s(self.inquiry_expires) if self.inquiry_expires else -1
        return _span_s(self.expires), soft, inquiry


class OptOut(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`keywords` beside those of the country's languages; `deadline` the law's, ours is at once."""

    keywords: list[str]
    deadline: str = ""


class MarkFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What one end of a text carries: `add`, unless one of the patterns `accepts` (RE2's syntax) finds it there.

    `{brand}` and `{opt_out}` in `add` are the tenant's; `otherwise` is added when the tenant has not set them.
    `{keyword}` in either is the first of the file's own opt-out words. `accepts` count from the first character at the
    start and search all of the text for the end, in any case of letters; `{keywords}` there is any of the file's words.
    """

    add: str
    accepts: list[str]
    otherwise: str | None = None
    categories: list[CategoryName] = msgspec.field(default_factory=lambda: ["marketing"])

    def __post_init__(self) -> None:
        self.mark(("STOP",))

    def mark(self, keywords: Sequence[str]) -> labels.Mark:
        """The same, compiled, with the country's opt-out words."""
        return labels.Mark(self.add, tuple(self.accepts), self.otherwise, tuple(keywords))


class SenderMark(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How the name that marketing comes from must start or end."""

    start: str = ""
    end: str = ""


class Label(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What marks a text as advertising, and where it stands.

    `prefix`, `suffix` and `detail` are the source's words; `start`, `end` and `sender` what Volley does about it.
    """

    required: bool = False
    where: Literal["", "body", "sender_id"] = ""
    prefix: str = ""
    suffix: str = ""
    detail: str = ""
    start: MarkFile | None = None
    end: MarkFile | None = None
    sender: SenderMark | None = None


class SenderId(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which senders the country's networks take. `alphanumeric` and `registration` are the source's words.

    `names` and `numbers` are what Volley does about it: `registered` senders are those that the tenant says so
    of, others are warned of or, by `unregistered`, refused; `replaced` ones arrive as another; `refused` never.
    """

    alphanumeric: bool | None = None
    registration: str = ""
    two_way: bool | None = None  # whether people can answer
    names: SenderPolicy = "allowed"
    numbers: SenderPolicy = "allowed"
    marketing_numbers: SenderPolicy | None = None  # where marketing is treated otherwise
    unregistered: Breach = "warn"
    refused_words: list[str] = []  # names that no network takes, in any case of letters


class Links(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a text may link to. `detail` is the source's words.

    `no_shorteners`: not to public shorteners; `allow_list`: to the domains that the tenant has named alone;
    `refused`: to nothing. `breach`: whether the text is refused or only warned of.
    """

    detail: str
    policy: Literal["any", "no_shorteners", "allow_list", "refused"] = "any"
    breach: Breach = "refuse"
    phone_numbers: Literal["allow", "warn", "refuse"] = "allow"  # in the text
    categories: list[CategoryName] = msgspec.field(default_factory=lambda: ["transactional", "marketing"])


class Forbidden(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Categories that may not be sent there at all."""

    categories: list[CategoryName]
    basis: str

    def __post_init__(self) -> None:
        if not self.categories or not self.basis.strip():
            raise ValueError("forbidden names a category and its basis")


class Subdivision(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A state with rules of its own, which hold beside the country's: both must be open."""

    name: str
    confidence: Confidence
    marketing: MarketingHours | None = None
    cap: Cap | None = None


class CountryFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One data file. `covers`: territories with ISO codes of their own under the same rules.
    `zones`: the zones in legal use, where tzdata names others too."""

    country: str  # ISO 3166-1 alpha-2, or "default"
    name: str
    reviewed: date
    confidence: Confidence
    sources: list[str]
    marketing: MarketingHours
    consent: Consent
    opt_out: OptOut
    tests: list[str]  # see app/countries/cases.py for their grammar
    covers: list[str] = []
    zones: list[str] = []
    languages: list[str] = []  # BCP 47, as in keywords.toml
    field_confidence: dict[str, Confidence] = {}
    conflicts: list[str] = []  # where sources disagree
    notes: str = ""
    label: Label = Label()
    cap: Cap | None = None
    sender_id: SenderId = SenderId()
    links: Links | None = None
    forbidden: Forbidden | None = None
    do_not_contact: str = ""  # registers to check
    do_not_contact_days: int = 0  # for how long a list drawn from them may be used; 0: no source says
    transactional: MarketingHours | None = None
    otp: MarketingHours | None = None
    subdivisions: dict[str, Subdivision] = {}

    def __post_init__(self) -> None:
        for key in ("sources", "tests"):
            if not getattr(self, key):
                raise ValueError(f"{key} is empty")
        if len(self.tests) > MAX_TESTS:
            raise ValueError(f"more than {MAX_TESTS} tests")
        for mark in (self.label.start, self.label.end):
            if mark is not None:
                mark.mark(self.opt_out.keywords)
        for code in [self.country, *self.covers]:
            if not re.fullmatch(r"[A-Z]{2}|default", code):
                raise ValueError(f"{code!r} is no ISO 3166-1 alpha-2 code")


def read(name: str, content: bytes) -> CountryFile:
    """Decode the file called `name`; `BadPack` with one line if it is not in order."""
    try:
        file = msgspec.toml.decode(content, type=CountryFile)
    except ValueError as error:  # DecodeError and ValidationError; the latter ends in the key's path
        raise BadPack(f"{name}: {' '.join(str(error).split())}") from error
    if file.country != name.removesuffix(".toml"):
        raise BadPack(f"{name}: country is {file.country!r}, unlike the file's name - at `$.country`")
    return file


def _span_s(written: str) -> int:
    """ "24h" in seconds; "" is 0."""
    if not written:
        return 0
    match = re.fullmatch(r"(\d+)([smhd])", written)
    if match is None:
        raise ValueError(f"{written!r} is no duration such as 30m, 24h or 7d")
    return int(match[1]) * _UNITS[match[2]]


def _seconds(time: str) -> int:
    match = _TIME.fullmatch(time)
    if match is None or time > "24:00":
        raise ValueError(f"{time!r} is no time from 00:00 to 24:00")
    return int(match[1]) * 3600 + int(match[2]) * 60


def _sorted_apart(windows: list[Window], day: str) -> tuple[Window, ...]:
    ordered = sorted(window for window in windows if window[0] < window[1])
    for (_, end), (start, _) in pairwise(ordered):
        if start < end:
            raise ValueError(f"windows of {day} overlap")
    return tuple(ordered)


def _inside(inner: Week, outer: Week) -> bool:
    return all(
        any(opens <= start and end <= shuts for opens, shuts in outer[day])
        for day in range(7)
        for start, end in inner[day]
    )
