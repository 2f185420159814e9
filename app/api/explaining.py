"""What explanations stand on: the country rules, the configuration of the last second, and how the gateways do.

Guarantee: what the dispatchers decide by, read where they read it; nothing here decides.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

import gateways
from app.countries.packs import Packs
from app.countries.tenants import terms_of
from app.domain import routing
from app.domain.health import GRAVITY, worst
from app.domain.routing import Health
from app.domain.text import PLAIN, Coding
from app.policy import Desk
from app.queue import status
from app.queue.connection import Queue
from app.store import config, dispatch, tenant_rules
from app.store.engine import Database
from gateways.base import Gateway, Inbound, Outcome, Receipt, Submission

KEPT_S = 1.0


class NoSink:
    """A gateway that is made only to see what it would do reports to nobody."""

    def outcomes(self, batch: Sequence[tuple[Submission, int, Outcome]]) -> None:
        """Nothing was submitted."""

    def ready(self) -> None:
        """It is never opened."""

    async def receipts(self, gateway: str, batch: Sequence[Receipt]) -> None:
        """It is never opened."""

    async def inbound(self, gateway: str, batch: Sequence[Inbound]) -> None:
        """It is never opened."""


class Standing(msgspec.Struct, frozen=True):
    """What the dispatchers show: by gateway, each one's circuits where it has a bind up."""

    circuits: Mapping[str, Sequence[Mapping[str, Health]]]

    def health(self, gateway: str, region: str) -> Health:
        """The best that one of the dispatchers makes of it: that one hands over."""
        found = [
            worst((one.get("", "well"), one.get(region, "well"))) for one in self.circuits.get(gateway, ())
        ]
        return min(found, key=GRAVITY.index, default="down")


class Explainer:
    """One a process: the country rules, and the configuration of the last second."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._desk: Desk | None = None
        self._packs: Packs | None = None
        self._until = 0.0
        self._config = config.Config(0, (), (), (), ())
        self._codings: dict[str, Gateway | None] = {}
        self.table = routing.Table()

    async def refresh(self, packs: Packs) -> tuple[Desk, config.Config]:
        """The desk and the configuration in force."""
        if self._desk is None:
            self._desk = Desk(packs)
        elif packs is not self._packs:
            self._desk.replace(packs)
        self._packs = packs
        if time.monotonic() >= self._until:
            until = time.monotonic() + KEPT_S
            async with self._database.driver() as driver:
                if await config.version_of(driver) != self._config.version:
                    self._config = await config.load(driver)
                    self._desk.tenants = await tenant_rules.load(driver)
                    leads = {r.code: r.lead_s for r in self._config.regions if r.lead_s is not None}
                    self._desk.set_hours(terms_of(self._config.tenants), leads)
                    self.table, self._codings = self._config.table(), {}
            self._until = until
        return self._desk, self._config

    @property
    def version(self) -> int:
        """Of the configuration."""
        return self._config.version

    async def standing(self, queue: Queue) -> Standing:
        """How the gateways do. Raises Unavailable."""
        async with self._database.driver() as driver:
            leases = await dispatch.live_leases(driver)
        shown = await status.shown(queue, leases)
        found: dict[str, list[dict[str, Health]]] = {}
        for one in shown.values():
            for name in {bind.gateway for bind in one.binds if bind.state == "bound"}:
                circuits: dict[str, Any] = {c.region: c.health for c in one.circuits if c.gateway == name}
                found.setdefault(name, []).append(circuits)
        return Standing(found)

    def coding(self, name: str | None, *, shifted: bool) -> Coding:
        """How a gateway cuts texts; without one, as one does that has no ways of its own."""
        if name is None:
            return PLAIN
        if name not in self._codings:
            row = next((g for g in self._config.gateways if g.name == name), None)
            self._codings[name] = None
            if row is not None:
                with suppress(ValueError):
                    self._codings[name] = gateways.make(row.name, row.url, row.settings, NoSink())
        made = self._codings[name]
        return PLAIN if made is None else made.asked_coding if shifted else made.coding
