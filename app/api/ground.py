"""What the countries' packs and the tenant's settings make of one request: labels, refusals, warnings.

Guarantees: asked once per country and request for what the recipients share; a text that is accepted has
every label that its country's pack adds, counted into its segments. What only the sandbox will get is spared
what would refuse it, and warned of it instead: whoever accepts it must see that no other gateway gets it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from app.countries.packs import Packs
from app.countries.tenants import TenantTerms
from app.countries.texts import Finding, Refusal, Said, TextRules
from app.domain.message import Category


class SenderTerms(msgspec.Struct, frozen=True):
    """What a tenant has declared of a sender: where it is registered, and the name in its labels."""

    registered: frozenset[str] = frozenset()
    signature: str = ""


_UNKNOWN = SenderTerms()


class TenantGround(msgspec.Struct, frozen=True):
    """What the rules on texts may ask of a tenant. `settings` are the tenant's.

    `sandbox_only`: texts reach nothing but the sandbox, by their key or because there is no other gateway.
    """

    packs: Packs
    settings: Mapping[str, Any]
    terms: TenantTerms
    senders: Mapping[str, SenderTerms]
    sandbox_only: bool = False


class Warned(msgspec.Struct):
    """What will be accepted and may yet not arrive as it is. `count`: how many messages it is said of."""

    code: str
    rule: str
    detail: str
    count: int = 1


class Ground:
    """One country's rules on one request."""

    def __init__(self, tenant: TenantGround, category: Category, country: str, sender: str) -> None:
        self._rules: TextRules = tenant.packs.texts(country, category)
        terms = tenant.terms.of(country)
        own = tenant.senders.get(sender, _UNKNOWN)
        self._said = Said(
            own.signature or terms.brand or tenant.settings.get("brand") or "",
            terms.opt_out or "",
            frozenset(terms.link_domains or ()),
            country in own.registered,
        )
        self._spare = tenant.sandbox_only
        found = self._judged(self._rules.of_sender(sender, self._said))
        self.refusal: Finding | None = next((one for one in found if one.refuse), None)
        self.warnings = [one for one in found if not one.refuse]
        self.silent = self._rules.silent

    def fit(self, text: str) -> tuple[str, str, list[Finding]]:
        """What goes before and behind a text, and what is to be warned of. Raises Refusal."""
        if self.silent:
            return "", "", []
        before, behind, missing = self._rules.ends(text, self._said)
        found = self._judged([*self._rules.of_text(text, self._said), *missing])
        for one in found:
            if one.refuse:
                raise Refusal(one)
        return before, behind, found

    def _judged(self, found: list[Finding]) -> list[Finding]:
        """What a country forbids is stopped on its way whatever the gateway: only the rest can be spared."""
        if not self._spare:
            return found
        return [_spared(one) if one.refuse and one.code != "forbidden_category" else one for one in found]


def _spared(one: Finding) -> Finding:
    detail = f"would be refused over a real gateway: {one.detail}"
    return msgspec.structs.replace(one, refuse=False, spared=True, detail=detail)
