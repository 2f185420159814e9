"""What every request looks up, remembered for a moment: region prefixes, sender pools, templates, country packs.

Guarantee: a change is seen within KEPT_S; a template that isn't found is asked for each time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from app.api.auth import Caller
from app.api.drafting import Regions, StoredTemplate
from app.api.ground import SenderTerms, TenantGround
from app.api.problems import field_problem
from app.countries.packs import Packs
from app.countries.shelf import Shelf
from app.countries.tenants import TenantTerms
from app.domain.routing import Member, sandbox_only
from app.store import config, reference
from app.store.engine import Database

KEPT_S = 1.0
log = logging.getLogger(__name__)

MAX_TEMPLATES = 10_000
MAX_POOLS = 1_000
MAX_TENANTS = 10_000


class References:
    """One a process. `clock` is monotonic seconds."""

    def __init__(self, database: Database, clock: Callable[[], float], shipped: Packs | None = None) -> None:
        """`shipped` None: the packs that come with Volley."""
        self._database = database
        self._clock = clock
        self._shelf = Shelf(shipped or Packs.load())
        self._shelf_until = -math.inf
        self._sandbox_only = False
        self._senders: dict[int, tuple[float, dict[str, SenderTerms]]] = {}
        self._tenants: dict[int, tuple[Mapping[str, Any], TenantTerms]] = {}
        self._regions: tuple[float, Regions] | None = None
        self._pools: dict[tuple[int, str], tuple[float, tuple[Member, ...]]] = {}
        self._templates: dict[tuple[int, str], tuple[float, StoredTemplate]] = {}

    async def regions(self) -> Regions:
        """The region table."""
        if self._regions is not None and self._regions[0] >= self._clock():
            return self._regions[1]
        until = self._clock() + KEPT_S
        async with self._database.driver() as driver:
            found = Regions.of(await reference.region_prefixes(driver))
        self._regions = (until, found)
        return found

    async def pool(self, tenant_id: int, name: str) -> tuple[Member, ...]:
        """A tenant's sender pool. Raises Problem (422)."""
        known = self._pools.get((tenant_id, name))
        if known is not None and known[0] >= self._clock():
            return known[1]
        until = self._clock() + KEPT_S
        found = None
        if "\x00" not in name:
            async with self._database.driver() as driver:
                found = await config.pool(driver, tenant_id, name)
        if found is None:
            raise field_problem("/sender", "invalid_sender", "there is no such sender pool")
        if len(self._pools) >= MAX_POOLS:
            self._pools.clear()
        self._pools[(tenant_id, name)] = (until, found)
        return found

    async def packs(self) -> Packs:
        """The country packs in force."""
        if self._shelf_until < self._clock():
            until = self._clock() + KEPT_S
            async with self._database.driver() as driver:
                version = await config.version_of(driver)
                if version != self._shelf.version:
                    self._sandbox_only = sandbox_only(await reference.ways_out(driver))
                    await self._shelf.put(version, await config.country_packs(driver))
            self._shelf_until = until
        return self._shelf.packs

    async def ground(self, caller: Caller) -> TenantGround:
        """What the rules on texts may ask of a tenant and its senders."""
        packs = await self.packs()
        known = self._senders.get(caller.tenant_id)
        if known is None or known[0] < self._clock():
            until = self._clock() + KEPT_S
            async with self._database.driver() as driver:
                rows = await reference.senders(driver, caller.tenant_id)
            terms = {one: SenderTerms(frozenset(where), name) for one, (where, name) in rows.items()}
            if len(self._senders) >= MAX_TENANTS:
                self._senders.clear()
            known = self._senders[caller.tenant_id] = (until, terms)
        spare = caller.test or self._sandbox_only
        return TenantGround(packs, caller.settings, self._terms(caller), known[1], spare)

    def _terms(self, caller: Caller) -> TenantTerms:
        """The tenant's terms by country, read again only when they are others."""
        settings = caller.settings.get("countries") or {}
        known = self._tenants.get(caller.tenant_id)
        if known is None or known[0] != settings:
            if len(self._tenants) >= MAX_TENANTS:
                self._tenants.clear()
            try:
                terms = TenantTerms(settings)
            except ValueError as error:  # stored by another version
                log.error("tenant %d: its terms by country can't be read: %s", caller.tenant_id, error)
                terms = TenantTerms({})
            known = self._tenants[caller.tenant_id] = (settings, terms)
        return known[1]

    async def template(self, tenant_id: int, label: str) -> StoredTemplate:
        """A template by `name` (its newest version) or `name@version`. Raises Problem (422)."""
        known = self._templates.get((tenant_id, label))
        if known is not None and known[0] >= self._clock():
            return known[1]
        until = self._clock() + KEPT_S
        name, version = _parts(label)
        found = None
        if "\x00" not in label:
            async with self._database.driver() as driver:
                found = await reference.template(driver, tenant_id, name, version)
        if found is None:
            raise field_problem("/template", "unknown_template", "there is no such template")
        if len(self._templates) >= MAX_TEMPLATES:
            self._templates.clear()
        stored = StoredTemplate(f"{name}@{found[0]}", found[1], found[2])
        self._templates[(tenant_id, label)] = (until, stored)
        return stored


def _parts(label: str) -> tuple[str, int | None]:
    name, at, version = label.rpartition("@")
    if at and version.isascii() and version.isdigit() and len(version) < 10:
        return name, int(version)
    return label, None
