"""What every request looks up, remembered for a moment: region prefixes, sender pools and templates.

Guarantee: a change is seen within KEPT_S; a template that isn't found is asked for each time.
"""

from __future__ import annotations

from collections.abc import Callable

from app.api.drafting import Regions, StoredTemplate
from app.api.problems import field_problem
from app.domain.routing import Member
from app.store import config, reference
from app.store.engine import Database

KEPT_S = 1.0
MAX_TEMPLATES = 10_000
MAX_POOLS = 1_000


class References:
    """One a process. `clock` is monotonic seconds."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
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
        stored = StoredTemplate(f"{name}@{found[0]}", found[1])
        self._templates[(tenant_id, label)] = (until, stored)
        return stored


def _parts(label: str) -> tuple[str, int | None]:
    name, at, version = label.rpartition("@")
    if at and version.isascii() and version.isdigit() and len(version) < 10:
        return name, int(version)
    return label, None
