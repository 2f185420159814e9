"""Country rule packs: what the rules of a recipient's country and state say, and since when.

Guarantees:

* `Packs.load` reads every file or raises `BadPack`; nothing is read afterwards.
* A country without a pack of its own gets the global default, and the rule's id says so
  (`default.marketing`).
* Every answer names its rule and the version of the file behind it: the day it was last
  reviewed and a hash of its content.

Pure once loaded: the time is an argument. Not legal advice: each file states its sources,
how sure they are and when they were read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Final

import msgspec

from app.countries import calendars, schema
from app.countries.places import Places, zone
from app.countries.schema import BadPack
from app.countries.texts import TextRules, rules_of
from app.domain import quiet
from app.domain.message import Category
from app.domain.quiet import Hours

DEFAULT: Final = "default"
RULES_KEPT: Final = 8_192
JURISDICTIONS_KEPT: Final = 8_192
TEXTS_KEPT: Final = 1_024
MAX_CAPS: Final = 8  # different ones in a file: a number that tells no state may be in all


class Jurisdiction(msgspec.Struct, frozen=True, cache_hash=True):
    """Where a recipient may be: the key under which verdicts on hours and caps can be shared.

    `subdivisions`: ISO 3166-2, those that the number may be in; all with rules of their own
    if it tells none. `zones`: every IANA zone in question.
    """

    country: str
    subdivisions: tuple[str, ...]
    zones: tuple[str, ...]


class Cap(msgspec.Struct, frozen=True):
    """At most `max` marketing texts to one recipient in any `per_s` seconds."""

    max: int
    per_s: int
    rule: str
    version: str


class ConsentRule(msgspec.Struct, frozen=True):
    """What marketing needs. `required`: a recorded consent; otherwise only that nobody objected."""

    required: bool
    type: schema.ConsentType
    soft_opt_in: bool
    rule: str
    version: str
    ages: tuple[int, int, int] = (0, -1, -1)
    """How old (s) an express, a soft (an earlier sale) and an inquiry consent may be. 0: any age; -1: does not do."""


class Pack(msgspec.Struct, frozen=True):
    """One country's rules. `data` is the whole file, to be shown as it is."""

    id: str  # ISO 3166-1 alpha-2 or "default": the first part of its rules' ids
    version: str
    data: schema.CountryFile


class Packs:
    """All packs. Immutable but for its bounded caches."""

    def __init__(self, packs: Mapping[str, Pack], places: Places) -> None:
        """`packs` by country; must hold `default`."""
        self._packs = dict(packs)
        self._default = self._packs[DEFAULT]
        self._places = places
        for pack in packs.values():
            for territory in pack.data.covers:
                if territory in self._packs:
                    raise BadPack(f"{pack.id}.toml: {territory} has a pack already - at `$.covers`")
                self._packs[territory] = pack
        self.version = _version(self._packs)
        self._rules = lru_cache(maxsize=RULES_KEPT)(self._rules_of)
        self._jurisdiction = lru_cache(maxsize=JURISDICTIONS_KEPT)(Jurisdiction)
        self._whole_country = lru_cache(maxsize=JURISDICTIONS_KEPT)(self._undivided)
        self._area = lru_cache(maxsize=JURISDICTIONS_KEPT)(self._north_american)
        self._elsewhere = lru_cache(maxsize=JURISDICTIONS_KEPT)(self._in_zone)
        self.texts = lru_cache(maxsize=TEXTS_KEPT)(self._texts)

    @classmethod
    def load(cls) -> Packs:
        """From the files in this package."""
        folder = files("app.countries").joinpath("rules")
        contents = {
            entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.name.endswith(".toml")
        }
        return cls.from_files(contents)

    @classmethod
    def from_files(cls, contents: Mapping[str, bytes]) -> Packs:
        """From file names and contents: `{"FR.toml": b"..."}`."""
        packs = {}
        for name, content in sorted(contents.items()):
            pack = _read(name, content)
            packs[pack.id] = pack
        if DEFAULT not in packs:
            raise BadPack(f"{DEFAULT}.toml: is missing")
        return cls._placed(packs)

    @classmethod
    def _placed(cls, packs: Mapping[str, Pack]) -> Packs:
        legal_zones = {pack.id: pack.data.zones for pack in packs.values() if pack.data.zones}
        return cls(packs, Places.load(legal_zones))

    def replaced(self, contents: Mapping[str, bytes]) -> Packs:
        """The same with those files in place of their countries', or beside them. Raises BadPack."""
        packs = {pack.id: pack for pack in self.all()}
        packs |= {pack.id: pack for pack in (_read(name, content) for name, content in contents.items())}
        return self._placed(packs)

    def alone(self, country: str) -> Packs:
        """That country's own pack beside the default: what its tests are about."""
        return self._placed({DEFAULT: self._default, country: self._packs[country]})

    def all(self) -> tuple[Pack, ...]:
        """Every pack once, the default too, by id."""
        return tuple(self._packs[id_] for id_ in sorted({pack.id for pack in self._packs.values()}))

    def pack(self, country: str) -> Pack:
        """The pack that holds for a country, or the default."""
        return self._packs.get(country, self._default)

    def jurisdiction(self, e164: str, country: str, known_zone: str | None = None) -> Jurisdiction:
        """Where the owner of a number may be; the same object for numbers of one place.

        `known_zone`: the IANA zone that the sender knows of its owner; it goes before the number's, and one that the
        country does not have beside it.
        """
        if known_zone is not None:
            return self._elsewhere(e164[:5] if e164[:2] == "+1" else "", country, known_zone)
        whole = self._whole_country(country)
        if whole is not None:
            return whole
        if e164[:2] == "+1":
            return self._area(e164[:5], country)
        return self._jurisdiction(country, (), self._places.zones(e164, country))

    def anywhere(self, country: str, known_zone: str | None = None) -> Jurisdiction:
        """A country of whose recipient no number is known: every zone, and every state with rules of its own."""
        if known_zone is None:
            zones = self._places.country_zones(country, "")
        else:
            zones = self._zones_with(country, "", known_zone)
        return self._jurisdiction(country, self._states("", country), zones)

    def hours(
        self,
        jurisdiction: Jurisdiction,
        category: Category,
        now: float,
        *,
        widen: bool = False,
        lead_s: int = 0,
        own: quiet.Rule | None = None,
    ) -> Hours:
        """Whether a text of that category may be handed over there at `now` (Unix seconds).

        Open only if every zone and every rule, the country's and each state's, is open.
        `widen`: by what the sources allow instead of the safe hours. `lead_s`: shut so many
        seconds early. `own`: a tenant's rule, which must be open, too. The verdict holds until
        `until`; a shut one that never opens has `inf`.
        """
        rules = self._rules(jurisdiction, category, widen)
        if not rules:
            pack = self.pack(jurisdiction.country)
            return Hours(True, math.inf, f"{pack.id}.{category.name}", pack.version)
        if own is not None:
            rules = (*rules, own)
        return quiet.hours(rules, [zone(name) for name in jurisdiction.zones], now, lead_s)

    def caps(self, jurisdiction: Jurisdiction) -> tuple[Cap, ...]:
        """The frequency caps on marketing there, the country's and each state's, the lowest rate first.

        All hold. One that another makes idle (no more texts in no shorter a span) is left out.
        """
        pack = self.pack(jurisdiction.country)
        stated = [(pack.id, pack.data.cap)]
        for name in jurisdiction.subdivisions:
            state = pack.data.subdivisions.get(name.partition("-")[2])
            stated.append((name, state.cap if state else None))
        caps = [Cap(cap.max, cap.per_s(), f"{id_}.cap", pack.version) for id_, cap in stated if cap]
        caps.sort(key=lambda cap: (cap.max / cap.per_s, cap.max))
        strict: list[Cap] = []
        for cap in caps:
            if not any(other.max <= cap.max and other.per_s >= cap.per_s for other in strict):
                strict.append(cap)
        return tuple(strict)

    def longest_cap_s(self) -> int:
        """The longest span that any frequency cap counts over: how much history the counters need."""
        caps = [pack.data.cap for pack in self.all()]
        caps += [state.cap for pack in self.all() for state in pack.data.subdivisions.values()]
        return max((cap.per_s() for cap in caps if cap), default=0)

    def consent_ages(self) -> list[tuple[str, str, int]]:
        """(country, kind, seconds) wherever a law lets a consent lapse, territories too."""
        return [
            (country, kind, age_s)
            for country, pack in self._packs.items()
            for kind, age_s in zip(("express", "soft", "inquiry"), pack.data.consent.ages(), strict=True)
            if age_s > 0
        ]

    def consent(self, country: str) -> ConsentRule:
        """What marketing to that country needs."""
        pack = self.pack(country)
        consent = pack.data.consent
        required = consent.type != "opt_out"
        rule = f"{pack.id}.consent"
        return ConsentRule(required, consent.type, consent.soft_opt_in, rule, pack.version, consent.ages())

    def _texts(self, country: str, category: Category) -> TextRules:
        """The rules on senders and texts of that category; as `texts`, remembered."""
        pack = self.pack(country)
        return rules_of(pack.id, pack.version, pack.data, category)

    def _undivided(self, country: str) -> Jurisdiction | None:
        """The one jurisdiction of a country whose numbers all have the same zone and rules."""
        zones = self._places.only_zones(country)
        pack = self.pack(country)
        divided = pack.id == country and pack.data.subdivisions
        return self._jurisdiction(country, (), zones) if zones and not divided else None

    def _north_american(self, area: str, country: str) -> Jurisdiction:
        """The jurisdiction of an area code, written "+1305"."""
        return self._jurisdiction(country, self._states(area, country), self._places.zones(area, country))

    def _in_zone(self, area: str, country: str, known_zone: str) -> Jurisdiction:
        """The jurisdiction of somebody whose zone is known; of states only the number tells."""
        zones = self._zones_with(country, "1" if area else "", known_zone)
        return self._jurisdiction(country, self._states(area, country), zones)

    def _states(self, area: str, country: str) -> tuple[str, ...]:
        """The states with rules of their own that an area code ("+1305"; "": unknown) may lie in."""
        pack = self.pack(country)
        if not pack.data.subdivisions or country != pack.id:
            return ()
        return self._places.subdivisions(area) or _all_subdivisions(pack)

    def _zones_with(self, country: str, code: str, known_zone: str) -> tuple[str, ...]:
        """A known zone alone, where the country or a territory under its rules has it; else beside every zone."""
        pack = self.pack(country)
        try:
            if self._places.keeps((country, pack.id, *pack.data.covers), code, known_zone):
                return (known_zone,)
        except KeyError:  # known when it was accepted, by another release of tzdata
            return self._places.country_zones(country, code)
        return (*self._places.country_zones(country, code), known_zone)

    def _rules_of(
        self, jurisdiction: Jurisdiction, category: Category, widen: bool
    ) -> tuple[quiet.Rule, ...]:
        """The rules on hours, states first."""
        pack = self.pack(jurisdiction.country)
        stated: list[tuple[str, str, str, schema.MarketingHours | None]] = []
        if category is Category.marketing:
            for name in jurisdiction.subdivisions:
                part = name.partition("-")[2]
                state = pack.data.subdivisions.get(part)
                stated.append((name, pack.id, part, state.marketing if state else None))
        own_calendar = jurisdiction.country if calendars.supported(jurisdiction.country) else pack.id
        stated.append((pack.id, own_calendar, "", getattr(pack.data, category.name)))
        rules = []
        for id_, country, part, hours in stated:
            if hours is None:
                continue
            windows = hours.allowed if widen and hours.allowed else hours.safe
            blocked = calendars.calendar(country, part) if windows.holidays == "closed" else None
            rules.append(quiet.Rule(f"{id_}.{category.name}", pack.version, windows.week(), blocked))
        return tuple(rules)


def _read(name: str, content: bytes) -> Pack:
    data = schema.read(name, content)
    _check_references(name, data)
    digest = hashlib.sha256(content).hexdigest()[:8]
    return Pack(data.country, f"{data.reviewed:%Y-%m-%d}.{digest}", data)


def _all_subdivisions(pack: Pack) -> tuple[str, ...]:
    return tuple(f"{pack.id}-{name}" for name in sorted(pack.data.subdivisions))


def _version(packs: Mapping[str, Pack]) -> str:
    """One version of all packs: the last day on which one was reviewed, and a hash of their versions."""
    versions = sorted({f"{pack.id}={pack.version}" for pack in packs.values()})
    reviewed = max(pack.data.reviewed for pack in packs.values())
    return f"{reviewed:%Y-%m-%d}.{hashlib.sha256(' '.join(versions).encode()).hexdigest()[:8]}"


def _check_references(name: str, data: schema.CountryFile) -> None:
    """Every zone and holiday calendar that a file relies on exists."""
    for zone_name in data.zones:
        try:
            zone(zone_name)
        except KeyError as error:
            raise BadPack(f"{name}: {zone_name!r} is no time zone - at `$.zones`") from error
    caps = {(cap.max, cap.per_s()) for cap in (data.cap, *(s.cap for s in data.subdivisions.values())) if cap}
    if len(caps) > MAX_CAPS:
        raise BadPack(f"{name}: more than {MAX_CAPS} different caps - at `$.subdivisions`")
    sections = {category.name: ("", getattr(data, category.name)) for category in Category}
    for part, state in data.subdivisions.items():
        sections[f"subdivisions.{part}.marketing"] = (part, state.marketing)
    for key, (part, hours) in sections.items():
        windows = [hours.safe, hours.allowed] if hours else []
        blocked = any(w is not None and w.holidays == "closed" for w in windows)
        if blocked and not calendars.supported(data.country, part):
            raise BadPack(f"{name}: no holiday calendar for {data.country} {part} - at `$.{key}`")
