"""What a tenant has set for a country: narrower hours, the wider ones that the sources allow, words for labels.

Guarantee: nothing here opens an hour that the country's pack does not allow: `hours = "allowed"` chooses
between the pack's two windows, and `windows` only ever shuts.

Shape, as it stands in a tenant's settings: `{"FR": {...}, "*": {...}}`; a country's own entry goes before
"*", field by field.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec

from app.countries import calendars, schema
from app.domain import quiet
from app.domain.message import Category

log = logging.getLogger("volley.countries")

EVERYWHERE: Final = "*"
TERMS_KEPT: Final = 8_192
_CODE: Final = re.compile(r"\*|[A-Z]{2}")
_DOMAIN: Final = re.compile(
    r"(?=.{4,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]"
)


class CountryTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A tenant's own terms for one country. Hours are of marketing, in the recipient's local time."""

    hours: Literal["safe", "allowed"] | None = None
    windows: schema.Windows | None = None
    brand: str | None = None
    opt_out: str | None = None
    link_domains: list[str] | None = None

    def __post_init__(self) -> None:
        for domain in self.link_domains or ():
            if not _DOMAIN.fullmatch(domain):
                raise ValueError("link_domains has what is no domain in small letters")
        for name in ("brand", "opt_out"):
            value = getattr(self, name)
            if value is not None and (not value.strip() or len(value) > 160 or "\n" in value):
                raise ValueError(f"{name} is empty, has a line break or more than 160 characters")


class OwnHours(msgspec.Struct, frozen=True):
    """A tenant's terms on hours in one country, ready for use. `version`: a hash of what was set."""

    id: str  # "tenant.FR": the rule that the trace names
    version: str
    widen: bool
    rule: quiet.Rule | None


class TenantTerms:
    """One tenant's terms by country. Immutable but for its bounded cache."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """`settings` as stored. Raises ValueError with one line."""
        self._terms = read(settings)
        self._digest = hashlib.sha256(msgspec.json.encode(settings, order="deterministic")).hexdigest()[:8]
        self.own_hours = lru_cache(maxsize=TERMS_KEPT)(self._own_hours)
        self.of = lru_cache(maxsize=TERMS_KEPT)(self._of)

    def _of(self, country: str) -> CountryTerms:
        """The terms that hold for a country."""
        own, rest = self._terms.get(country), self._terms.get(EVERYWHERE)
        if own is None or rest is None:
            return own or rest or CountryTerms()
        merged = {
            name: getattr(rest, name) if getattr(own, name) is None else getattr(own, name)
            for name in CountryTerms.__struct_fields__
        }
        return CountryTerms(**merged)

    def _own_hours(self, country: str) -> OwnHours | None:
        """The terms on marketing hours there; None: the country's safe hours hold."""
        terms = self._of(country)
        if terms.hours is None and terms.windows is None:
            return None
        id_ = f"tenant.{country if country in self._terms else EVERYWHERE}"
        rule = None
        if terms.windows is not None:
            shut = terms.windows.holidays == "closed" and calendars.supported(country)
            blocked = calendars.calendar(country) if shut else None
            rule = quiet.Rule(f"{id_}.{Category.marketing.name}", self._digest, terms.windows.week(), blocked)
        return OwnHours(id_, self._digest, terms.hours == "allowed", rule)


def read(settings: Mapping[str, Any]) -> dict[str, CountryTerms]:
    """Check what a tenant sets. Raises ValueError with one line that names the country and the key."""
    found = {}
    for code, value in settings.items():
        if not _CODE.fullmatch(code):
            raise ValueError(f"{code!r} is no ISO 3166-1 alpha-2 code, nor '*'")
        try:
            found[code] = msgspec.convert(value, CountryTerms)
        except ValueError as error:
            raise ValueError(f"{code}: {' '.join(str(error).split())}") from None
    return found


def terms_of(tenants: Mapping[int, Mapping[str, Any]]) -> dict[int, TenantTerms]:
    """The terms of tenants by their settings; of those whose can't be read (stored by another version) none: the safe
    hours hold."""
    found = {}
    for tenant_id, settings in tenants.items():
        try:
            found[tenant_id] = TenantTerms(settings)
        except ValueError as error:
            log.error("tenant %d: its terms by country can't be read: %s", tenant_id, error)
    return found
