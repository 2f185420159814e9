"""How often a person may be contacted, and by which rules of the tenant's own.

A tenant may only be stricter than the country: these limits hold beside the country's.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Literal
from zlib import crc32

import msgspec

StopScope = Literal["sender", "brand", "tenant"]
BRAND = "brand\t"  # no sender has a tab, so a brand's scope is never a sender's
CONTENT_BYTES = 5
CAMPAIGN_BYTES = 4
NO_CONTENT = bytes(CONTENT_BYTES)
NO_CAMPAIGN = bytes(CAMPAIGN_BYTES)
MAX_CONTACTS = 100  # of one limit: a person's history is read whole at each hand-over
MAX_WINDOW_S = 31 * 86_400


class Limit(msgspec.Struct, frozen=True):
    """At most `max` marketing texts to one person in any `per_s` seconds."""

    max: int
    per_s: int


class Organisation(msgspec.Struct, frozen=True):
    """Tenants that share a contact budget. `hash_key` keys the recipients' hashes that they count by.

    The last `reserved` contacts of the budget are for texts of priority `reserved_priority` and more urgent ones
    (0 is first), so that a department's newsletter can't use up what another one's recall needs.
    """

    id: int
    hash_key: bytes
    limit: Limit | None = None
    reserved: int = 0
    reserved_priority: int = 0

    def __repr__(self) -> str:
        return f"Organisation({self.id})"

    def allowed(self, priority: int) -> int:
        """How many contacts there may be in the window for a text of that priority to be one more."""
        assert self.limit is not None
        return self.limit.max if priority <= self.reserved_priority else self.limit.max - self.reserved


class TenantRules(msgspec.Struct, frozen=True):
    """What a tenant has set. `brands`: the brand of a sender; `registries`: countries with a do-not-call list."""

    cap: Limit | None = None
    campaign_cap: Limit | None = None
    duplicate_s: int = 0
    duplicate_otp: bool = False
    stop_scope: StopScope = "sender"
    brands: Mapping[str, str] = {}
    registries: frozenset[str] = frozenset()
    organisation: Organisation | None = None

    @property
    def longest_s(self) -> int:
        """How much history its own limits look at."""
        limits = [one.per_s for one in (self.cap, self.campaign_cap) if one is not None]
        return max([self.duplicate_s, *limits])


NO_RULES = TenantRules()


def limit_of(value: Any) -> Limit | None:
    """A limit as the settings keep it."""
    return None if not value else Limit(int(value["max"]), int(value["per_s"]))


def brand_scope(brand: str) -> str:
    """The scope of a suppression, or of a consent, that is about a brand."""
    return BRAND + brand if brand else ""


def content_of(text: str) -> bytes:
    """By what the same text is known again, among the few that one person got: a checksum, and what is left of its
    length."""
    data = text.encode()
    return (crc32(data) << 8 | len(data) & 255).to_bytes(CONTENT_BYTES, "big")


def campaign_of(name: str | None) -> bytes:
    """By what a campaign's contacts are counted; zeros: of none."""
    return blake2b(name.encode(), digest_size=CAMPAIGN_BYTES).digest() if name else NO_CAMPAIGN
