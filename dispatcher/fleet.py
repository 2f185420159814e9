"""The gateways that are open here, and the way to the right one.

Guarantees: a gateway has, over all dispatchers, no more binds than its settings say (slots are leased in
PostgreSQL); a change of its settings opens the new one and drains the old one; a route that names no
gateway that is open leaves the message waiting, never lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from app.domain.pack import Entry, Pack
from app.store import binds as bind_slots
from app.store import config as configuration
from app.store.engine import Database
from gateways import binds_wanted, make
from gateways.base import BindStatus, Gateway, Sink

DRAIN_S = 5.0
TEST_GATEWAY = "sandbox"  # where texts of test keys go, and nothing else does it for them

log = logging.getLogger("volley.dispatcher")


class Open(msgspec.Struct, gc=False):
    """A gateway in use. `row` is the configuration that it was made from."""

    row: configuration.Gateway
    gateway: Gateway
    binds: int = 0

    def free(self) -> int:
        """Room in the windows, whatever the pace."""
        return sum(bind.window - bind.in_flight for bind in self.gateway.binds() if bind.state == "bound")

    def window(self) -> int:
        """Everything that the gateway's bound connections may have unanswered."""
        return sum(bind.window for bind in self.gateway.binds() if bind.state == "bound")


class Fleet:
    """Gateways by name, routes in order, rates by name."""

    def __init__(self, database: Database, sink: Sink, lease_id: int) -> None:
        self._database = database
        self._sink = sink
        self._lease_id = lease_id
        self.config = configuration.Config(0, (), (), (), ())
        self.open: dict[str, Open] = {}
        self._sharing = asyncio.Lock()  # a new configuration and the timer must not open a gateway at once
        self._rates: dict[str, int] = {}
        self.prefix_routes = False
        self.paused_regions: frozenset[str] = frozenset()

    async def refresh(self) -> bool:
        """Take over the configuration in force; True if it is a new one."""
        async with self._database.driver() as driver:
            config = await configuration.load(driver)
        if config.version == self.config.version:
            return False
        await self._reopen(config)
        self.config = config
        rates = {f"region:{r.code}": r.rate for r in config.regions}
        rates |= {f"gateway:{g.name}": g.rate for g in config.gateways}
        rates |= {f"sender:{s.tenant_id}:{s.address}": s.rate for s in config.senders}
        self._rates = {name: rate for name, rate in rates.items() if rate}
        self.prefix_routes = any(r.to[0] == "+" for r in config.routes)
        self.paused_regions = frozenset(r.code for r in config.regions if r.paused)
        return True

    async def _reopen(self, config: configuration.Config) -> None:
        wanted = {row.name: row for row in config.gateways if row.enabled}
        for name, held in list(self.open.items()):
            row = wanted.get(name)
            if row is None or (row.url, row.settings) != (held.row.url, held.row.settings):
                del self.open[name]
                await held.gateway.close(DRAIN_S)
            else:
                held.row = row
        for name, row in wanted.items():
            if name not in self.open:
                try:
                    self.open[name] = Open(row, make(name, row.url, row.settings, self._sink))
                except ValueError as error:
                    log.error("gateway %s can't be opened: %s", name, error)
        await self.share_binds()

    async def share_binds(self) -> None:
        """Take this dispatcher's share of each gateway's binds, give back what is over it."""
        async with self._sharing:
            await self._share_binds()

    async def _share_binds(self) -> None:
        for held in list(self.open.values()):
            total = binds_wanted(held.row.url, held.row.settings)
            while True:
                async with self._database.driver() as driver:
                    mine = await bind_slots.share(driver, held.row.id, total, self._lease_id, held.binds)
                if mine == held.binds:
                    break
                fewer = mine < held.binds
                if held.binds:  # another number of binds is another gateway: the old one drains
                    await held.gateway.close(DRAIN_S)
                    held.gateway = make(held.row.name, held.row.url, held.row.settings, self._sink)
                held.binds = mine
                await held.gateway.open(mine)
                if not fewer:
                    break

    async def close(self, drain_s: float) -> None:
        await asyncio.gather(*(held.gateway.close(drain_s) for held in self.open.values()))
        self.open.clear()

    def binds(self) -> list[BindStatus]:
        return [status for held in self.open.values() for status in held.gateway.binds()]

    def rates(self, pack: Pack, gateway: str) -> list[tuple[str, int]]:
        """The throttles that hold for this pack by that gateway: (name, segments a second)."""
        if not self._rates:
            return []
        names = (f"region:{pack.region}", f"gateway:{gateway}", f"sender:{pack.tenant_id}:{pack.sender}")
        return [(name, self._rates[name]) for name in names if name in self._rates]

    def region_throttle(self, region: str) -> str | None:
        """The name of the region's own throttle, if it has a rate."""
        name = f"region:{region}"
        return name if name in self._rates else None

    def lane_gateways(self, region: str, category: int) -> Sequence[str]:
        """The gateways that a lane's messages would take by the first route that is not a tenant's own."""
        for route in self.config.routes:
            if route.tenant_id is None and route.category in (None, category) and route.to in ("*", region):
                return route.gateways
        return [name for route in self.config.routes for name in route.gateways]

    def side_gateways(self, region: str, category: int) -> set[str]:
        """The gateways that some of a lane's messages may take by another route than the lane's usual one."""
        found = {TEST_GATEWAY}
        for route in self.config.routes:
            usual = route.tenant_id is None and route.to in ("*", region)
            # a two-letter route is a country's: it holds for the lane of a region that has another name
            elsewhere = len(region) == len(route.to) == 2 and route.to != region
            if not usual and not elsewhere and route.category in (None, category):
                found.update(route.gateways)
        return found

    def gateways_for(self, pack: Pack, entry: Entry) -> Sequence[str]:
        """The gateways of the first route that matches, by preference; empty: there is none."""
        if pack.test:
            return (TEST_GATEWAY,)
        for route in self.config.routes:
            if route.tenant_id not in (None, pack.tenant_id) or route.category not in (None, pack.category):
                continue
            if route.to in ("*", pack.region, pack.country) or (
                route.to[0] == "+" and entry.to.startswith(route.to)
            ):
                return route.gateways
        return ()

    def usable(self, name: str) -> Open | None:
        """The gateway of that name, if a bind of it is up."""
        held = self.open.get(name)
        if held is None or not any(bind.state == "bound" for bind in held.gateway.binds()):
            return None
        return held
