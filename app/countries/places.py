"""Where a number may be: its time zones and, in the United States, its states.

Guarantee: the answer names every zone in which the owner of the number may be, as far as a
number can tell. What is known only of the country gives every zone of the country; what is
known of nothing (satellite phones) gives every zone of the world.

Three sources: tzdata's zone.tab says which zones a country has; the prefix table of
`phonenumbers` says where fixed lines and, in North America and a few other countries,
mobiles belong; `nanp.toml` adds the states. Zones of one country that keep the same time
are one zone here, so that millions of numbers fall into a few hundred places.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from importlib.resources import files
from typing import Final
from zoneinfo import ZoneInfo

import msgspec
from phonenumbers.tzdata import TIMEZONE_DATA

from app.countries.schema import BadPack, Confidence
from app.domain import phone

PLACES_KEPT: Final = 16_384
# Zones of one country that agree in every week of these years keep the same time: no country with several
# zones changes its clocks on different days of one week, and what lies further ahead repeats these rules.
_COMPARED_FROM: Final = datetime(2026, 1, 1, tzinfo=UTC)
_COMPARED_WEEKS: Final = 5 * 52
# Mexico, Argentina and Brazil number mobiles by area. phonenumbers names Indonesia and China too, where the
# blocks are an operator's and say little of the owner.
_MOBILES_BY_AREA: Final = frozenset(("52", "54", "55"))
_EVERYWHERE: Final = ("Etc/UTC", *(f"Etc/GMT{hours:+d}" for hours in range(-14, 13) if hours))


class NanpFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`nanp.toml`: area codes by state, and those laid over another one."""

    reviewed: date
    confidence: Confidence
    sources: list[str]
    states: dict[str, list[int]]
    overlays: dict[str, int]


@cache  # every zone that a country or a pack names: some 420
def zone(name: str) -> ZoneInfo:
    """The zone as the `tzdata` package has it, not the machine's own files; `KeyError` if it is none."""
    try:
        with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
            return ZoneInfo.from_file(file, key=name)
    except (OSError, ValueError) as error:
        raise KeyError(name) from error


@cache  # once
def known_zones() -> frozenset[str]:
    """Every name that `zone` knows."""
    return frozenset(files("tzdata").joinpath("zones").read_text("utf-8").split())


class Places:
    """Numbers to zones and states. Immutable but for its bounded caches."""

    def __init__(self, nanp: NanpFile, zone_tab: Mapping[str, Sequence[str]]) -> None:
        """`zone_tab`: ISO country to its zones, most important first."""
        self._zone_tab = zone_tab
        self._states: dict[str, list[str]] = defaultdict(list)  # "305" -> ["US-FL"]
        for state, codes in nanp.states.items():
            for code in codes:
                self._states[str(code)].append(f"US-{state}")
        self._area_zones = _area_zones(nanp.overlays)
        self.country_zones = lru_cache(maxsize=PLACES_KEPT)(self._country_zones)
        self._known_zones = lru_cache(maxsize=PLACES_KEPT)(self._zones_known_as)

    @classmethod
    def load(cls, legal_zones: Mapping[str, Sequence[str]]) -> Places:
        """From the data in this package and in tzdata; `legal_zones` goes before tzdata's list."""
        content = files("app.countries").joinpath("nanp.toml").read_bytes()
        try:
            nanp = msgspec.toml.decode(content, type=NanpFile)
        except ValueError as error:
            raise BadPack(f"nanp.toml: {' '.join(str(error).split())}") from error
        zone_tab: dict[str, list[str]] = defaultdict(list)
        for line in files("tzdata").joinpath("zoneinfo", "zone.tab").read_text("utf-8").splitlines():
            if not line.startswith("#"):
                country, _, name, *_ = line.split("\t")
                zone_tab[country].append(name)
        return cls(nanp, {**zone_tab, **legal_zones})

    def zones(self, e164: str, country: str) -> tuple[str, ...]:
        """The IANA zones in which the number's owner may be."""
        code = phone.calling_code(e164)
        everywhere = self.country_zones(country, code)
        if len(everywhere) == 1:
            return everywhere
        if code == "1":
            known = self._area_zones.get(e164[2:5], ())
        elif _is_geographic(e164, code):
            known = _longest_match(e164, code)
        else:
            known = ()
        return self._known_zones(country, code, known) if known else everywhere

    def only_zones(self, country: str) -> tuple[str, ...]:
        """The country's zones where all its numbers share them; empty where the number matters."""
        zones = self.country_zones(country, "") if country in self._zone_tab else ()
        return zones if len(zones) == 1 else ()

    def keeps(self, countries: Sequence[str], code: str, name: str) -> bool:
        """Whether a zone keeps the time of one of these countries. `KeyError` if there is no such zone."""
        time = _timekeeping(name)
        return any(
            time == _timekeeping(own)
            for country in countries
            if country in self._zone_tab
            for own in self.country_zones(country, code)
        )

    def subdivisions(self, e164: str) -> tuple[str, ...]:
        """The US states of a number's area code ("US-FL"); empty when it tells none."""
        return tuple(self._states.get(e164[2:5], ())) if e164[:2] == "+1" else ()

    def _country_zones(self, country: str, code: str) -> tuple[str, ...]:
        """One zone for each different time that the country keeps."""
        listed = TIMEZONE_DATA.get(code, ())
        own = self._zone_tab.get(country) or [name for name in listed if name != "Etc/Unknown"]
        # phonenumbers chose the well-known names: Australia/Sydney, not Antarctica/Macquarie.
        ordered = sorted(own, key=lambda name: name not in listed)
        return tuple({_timekeeping(name): name for name in reversed(ordered)}.values())[::-1] or _EVERYWHERE

    def _zones_known_as(self, country: str, code: str, known: tuple[str, ...]) -> tuple[str, ...]:
        """The country's own zones that keep the time of the `known` ones, which may be a neighbour's.

        One that the country doesn't have makes the whole answer doubtful: then every zone.
        """
        everywhere = self.country_zones(country, code)
        own = {_timekeeping(name): name for name in everywhere}
        found = {own.get(_timekeeping(name)) for name in known}
        return everywhere if None in found else tuple(name for name in everywhere if name in found)


def _is_geographic(e164: str, code: str) -> bool:
    """Whether the prefix says where a number is: fixed lines, and mobiles where they have area codes."""
    try:
        kind = phone.parse(e164).kind
    except phone.InvalidNumber:  # valid when it was accepted, before an update of the plans
        return False
    return kind == "fixed_line" or (kind in ("mobile", "fixed_line_or_mobile") and code in _MOBILES_BY_AREA)


def _longest_match(e164: str, code: str) -> tuple[str, ...]:
    """The zones of the longest prefix that says more than the calling code."""
    for length in _prefix_lengths(code):
        found = TIMEZONE_DATA.get(e164[1 : 1 + length])
        if found is not None:
            return found if "Etc/Unknown" not in found else ()
    return ()


@cache  # one per calling code
def _prefix_lengths(code: str) -> tuple[int, ...]:
    """The lengths of the prefixes that divide a calling code into zones, longest first."""
    lengths = {len(prefix) for prefix in TIMEZONE_DATA if prefix.startswith(code)}
    return tuple(sorted(lengths - {len(code)}, reverse=True))


def _area_zones(overlays: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """North American area codes to all zones of their ground.

    Exchanges within an area code say nothing: mobile numbers are handed out across the area.
    """
    zones: dict[str, set[str]] = defaultdict(set)
    for prefix, names in TIMEZONE_DATA.items():
        if prefix[0] == "1" and len(prefix) >= 4:
            zones[prefix[1:4]].update(names)
    for overlay, below in overlays.items():
        zones[overlay] |= zones[str(below)]
    return {area: tuple(sorted(names)) for area, names in zones.items() if "Etc/Unknown" not in names}


@cache  # as many as `zone`
def _timekeeping(name: str) -> tuple[float, ...]:
    """What a zone's clocks show: equal for zones that keep the same time."""
    info = zone(name)
    weeks = (_COMPARED_FROM + timedelta(weeks=week) for week in range(_COMPARED_WEEKS))
    return tuple(week.astimezone(info).utcoffset().total_seconds() for week in weeks)  # type: ignore[union-attr]
