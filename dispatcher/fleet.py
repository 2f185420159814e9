"""The gateways that are open here, and the way to the right one.

Guarantees: a gateway has, over all dispatchers, no more binds than its settings say (slots are leased in
PostgreSQL); a change of its settings opens the new one and drains the old one, which takes nothing more from the
moment on at which the change is known; a route that names no gateway that is open and well leaves the message
waiting, never lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence

import msgspec

from app.domain import routing
from app.domain.contacts import TenantRules
from app.domain.health import limits_of
from app.domain.pack import Entry, Pack
from app.domain.routing import Asked, Choice, Health, Plan, asked_of
from app.policy import Step
from app.store import binds as bind_slots
from app.store import config as configuration
from app.store import tenant_rules
from app.store.engine import Database
from dispatcher.health import Watch
from gateways import account, binds_wanted, make
from gateways.base import BindStatus, Gateway, Sink

DRAIN_S = 5.0
NO_ROUTE_S = 30.0
NO_GATEWAY_S = 1.0
SOON_S = 0.05

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

    def at_once(self) -> int:
        """The most credit that it ever grants with these connections."""
        bound = (bind for bind in self.gateway.binds() if bind.state == "bound")
        return sum(bind.window if bind.at_once is None else bind.at_once for bind in bound)


class Way(msgspec.Struct, gc=False):
    """Where entries go now: `entries` by `open`; `others` another gateway takes; the `stuck` ones wait, `wait_s` and
    for that reason. Without `open` all are stuck. `probes`: the gateway is being probed, and counts these."""

    open: Open | None
    entries: list[Entry]
    others: list[Entry] = []
    stuck: list[Entry] = []
    reason: str = ""
    wait_s: float = 0.0
    probes: int = 0
    choices: list[Choice] = []  # why `entries` go there: one for all, or one each


class Fleet:
    """Gateways by name, routes in order, rates by name."""

    def __init__(self, database: Database, sink: Sink, lease_id: int, watch: Watch) -> None:
        self._database = database
        self._sink = sink
        self._lease_id = lease_id
        self.config = configuration.Config(0, (), (), (), ())
        self.open: dict[str, Open] = {}
        self._reopening = asyncio.Lock()
        self._sharing = asyncio.Lock()  # a new configuration and the timer must not open a gateway at once
        self._leaving: list[Gateway] = []  # drained since they are configured no more
        self._closed = False
        self._rates: dict[str, int] = {}
        self._siblings: dict[int, tuple[int, ...]] = {}
        self._stale: frozenset[str] = frozenset()  # open, and no longer as they are configured
        self.watch = watch
        self.table = routing.Table()
        self.paused_regions: frozenset[str] = frozenset()
        self.tenants: dict[int, TenantRules] = {}

    async def refresh(self) -> bool:
        """Take over the configuration in force: routes, prices, rates and pauses at once. True if it is a new one:
        `reopen` then opens and closes what differs."""
        async with self._database.driver() as driver:
            if await configuration.version_of(driver) == self.config.version:
                return False
            config = await configuration.load(driver)
            self.tenants = await tenant_rules.load(driver)
        self.config = config
        self.table = config.table()
        self.watch.follow({g.name: limits_of(g.health) for g in config.gateways if g.enabled})
        rates = {f"region:{r.code}": r.rate for r in config.regions}
        rates |= {f"gateway:{g.name}": g.rate for g in config.gateways}
        rates |= {f"sender:{s.tenant_id}:{s.address}": s.rate for s in config.senders}
        self._rates = {name: rate for name, rate in rates.items() if rate}
        self._siblings = _shared_accounts(config.gateways)
        self.paused_regions = frozenset(r.code for r in config.regions if r.paused)
        wanted = self._wanted()
        self._stale = frozenset(name for name, held in self.open.items() if _differs(held, wanted.get(name)))
        return True

    def siblings(self, gateway_id: int) -> tuple[int, ...]:
        """The gateways of its account at the carrier, itself first: each may get the others' receipts."""
        return self._siblings.get(gateway_id, (gateway_id,))

    def _wanted(self) -> dict[str, configuration.Gateway]:
        return {row.name: row for row in self.config.gateways if row.enabled}

    async def reopen(self) -> None:
        """Open what is new, drain what is no more, both where something changed. Takes as long as they drain."""
        async with self._reopening:
            wanted = self._wanted()
            for name, held in list(self.open.items()):
                if _differs(held, wanted.get(name)):
                    del self.open[name]
                    self._leaving.append(held.gateway)
                else:
                    held.row = wanted[name]
            await asyncio.gather(*(gateway.close(DRAIN_S) for gateway in self._leaving))
            self._leaving.clear()
            if self._closed:
                return
            for name, row in wanted.items():
                if name not in self.open:
                    try:
                        self.open[name] = Open(row, make(name, row.url, row.settings, self._sink))
                    except ValueError as error:
                        log.error("gateway %s can't be opened: %s", name, error)
            current = self._wanted()  # what has changed meanwhile is the next call's work
            self._stale = frozenset(n for n, held in self.open.items() if _differs(held, current.get(n)))
            await self.share_binds()

    async def share_binds(self) -> None:
        """Take this dispatcher's share of each gateway's binds, give back what is over it."""
        async with self._sharing:
            await self._share_binds()

    async def _share_binds(self) -> None:
        for name, held in list(self.open.items()):
            if name in self._stale:
                continue  # `reopen` closes it, and asks by its new settings
            total, version = binds_wanted(held.row.url, held.row.settings), self.config.version
            while True:
                async with self._database.driver() as driver:
                    mine = await bind_slots.share(
                        driver, held.row.id, total, self._lease_id, held.binds, version
                    )
                if mine == held.binds or self.open.get(name) is not held:
                    break
                fewer = mine < held.binds
                if held.binds:  # another number of binds is another gateway: the old one drains
                    await held.gateway.close(DRAIN_S)
                    if self.open.get(name) is not held:
                        break  # `reopen` has taken it meanwhile: a new one would be closed by nobody
                    held.gateway = make(held.row.name, held.row.url, held.row.settings, self._sink)
                if self._closed:
                    return
                held.binds = mine
                await held.gateway.open(mine)
                if not fewer:
                    break

    async def close(self, drain_s: float) -> None:
        """Drain all, those that are leaving too; what is under way elsewhere opens nothing any more."""
        self._closed = True
        closing = [*(held.gateway for held in self.open.values()), *self._leaving]
        await asyncio.gather(*(gateway.close(drain_s) for gateway in closing))
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

    def region_rate(self, region: str) -> int | None:
        """The region's own rate, if it has one."""
        return self._rates.get(f"region:{region}")

    def lane_gateways(self, region: str, category: int) -> Sequence[str]:
        """The gateways that a lane's messages would take by the first route that holds for everybody, those first
        that are up and well; without one those of all routes."""
        usual = self._plan_of_lane(region, category).usual()
        names = usual or tuple(name for route in self.config.routes for name in route.gateways)
        return routing.ranked(names, self._health(names, region)).usable

    def side_gateways(self, region: str, category: int) -> set[str]:
        """The gateways that some of a lane's messages may take beside the first of the usual ones."""
        found = {routing.TEST_GATEWAY}
        for route in self.config.routes:
            if route.category not in (None, category):
                continue
            # a two-letter route is a country's: it does not hold for the lane of another one
            if route.to in ("*", region, region[:2]) or route.to[0] == "+":
                usual = route.tenant_id is None and route.sender is None and route.to[0] != "+"
                if not usual or route.strategy != "preference":
                    found.update(route.gateways)
        return found

    def most_rate(self, region: str, category: int) -> float:
        """What a lane can get at most, in segments a second: of its region and of all gateways that a route may lead
        it to. `inf`: no bound is set."""
        rates = [self._rates.get(f"region:{region}", math.inf)]
        names = routing.reached(self.config.routes, region, category)
        if names:
            rates.append(sum(self._rates.get(f"gateway:{name}", math.inf) for name in names))
        return min(rates)

    def sender_rate(self, tenant_id: int, sender: str) -> float:
        """A sender's own rate; `inf`: it has none."""
        return self._rates.get(f"sender:{tenant_id}:{sender}", math.inf)

    def _plan_of_lane(self, region: str, category: int) -> Plan:
        return self.table.plan(Asked(0, category, "", region, region[:2]))

    def _health(self, names: Sequence[str], region: str) -> Mapping[str, Health]:
        return {name: self.watch.standing(name, region) for name in names if self.usable(name) is not None}

    def way(
        self, pack: Pack, entries: list[Entry], attempt: int, closed: Mapping[str, float], now_s: float
    ) -> Way:
        """The gateway that the first entry takes, with all that take the same one.

        `closed`: throttles with nothing free, until (Unix seconds).
        """
        plan = self.table.plan(asked_of(pack))
        heads: dict[tuple[str, ...], str | None] = {}  # the gateway to take, by the choice's gateways
        if plan.uniform is not None:
            names = plan.uniform.gateways
            name = self._head(names, pack.region, attempt, closed, heads)
            way = (
                Way(None, entries, choices=[plan.uniform])
                if name
                else self._waiting(names, pack, entries, closed, now_s)
            )
        else:
            way, name = self._split(plan, pack, entries, attempt, closed, now_s)
        if name is None:
            return way
        way.open = self.open[name]
        if self.watch.standing(name, pack.region) == "probing":
            way.probes = self.watch.admit(name, pack.region, len(way.entries))
            way.others = [*way.entries[way.probes :], *way.others]
            way.entries = way.entries[: way.probes]
            way.choices = way.choices[: max(1, way.probes)]
        return way

    def way_of_rests(
        self,
        pack: Pack,
        entries: list[Entry],
        closed: Mapping[str, float],
        now_s: float,
        fits: Callable[[Open], bool],
    ) -> Way | None:
        """The way of texts of which a carrier has a part: the first of their gateways that fits. None: each of these
        is up, and none does. Health is no reason to wait: no other gateway can help."""
        plan = self.table.plan(asked_of(pack))
        choice = plan.uniform or plan.choice(entries[0].to, entries[0].recipient)
        absent = []
        for name in choice.gateways:
            held = self.usable(name)
            if held is None or f"gateway:{name}" in closed:
                absent.append(name)
            elif fits(held):
                return Way(held, entries, choices=[choice])
        if choice.gateways and not absent:
            return None
        return self._waiting(tuple(absent), pack, entries, closed, now_s)

    def _split(
        self,
        plan: Plan,
        pack: Pack,
        entries: list[Entry],
        attempt: int,
        closed: Mapping[str, float],
        now_s: float,
    ) -> tuple[Way, str | None]:
        """The way of the first entry that can go, and its gateway."""
        heads: dict[tuple[str, ...], str | None] = {}
        ours: list[Entry] = []
        choices: list[Choice] = []
        others: list[Entry] = []
        stuck: list[Entry] = []
        name = None
        waiting: tuple[str, ...] = ()
        for entry in entries:
            choice = plan.choice(entry.to, entry.recipient)
            gateways = choice.gateways
            head = self._head(gateways, pack.region, attempt, closed, heads)
            if head is None:
                stuck.append(entry)
                waiting = waiting or gateways
            elif name is None or head == name:
                name = head
                ours.append(entry)
                choices.append(choice)
            else:
                others.append(entry)
        way = self._waiting(waiting, pack, stuck, closed, now_s) if stuck else Way(None, [])
        way.entries, way.others, way.choices = ours, others, choices
        return way, name

    def _head(
        self,
        gateways: tuple[str, ...],
        region: str,
        attempt: int,
        closed: Mapping[str, float],
        known: dict[tuple[str, ...], str | None],
    ) -> str | None:
        """The first of these that is up, well and not out of tokens."""
        if gateways not in known:
            usable = routing.ranked(gateways, self._health(gateways, region), attempt).usable
            known[gateways] = next((name for name in usable if f"gateway:{name}" not in closed), None)
        return known[gateways]

    def _waiting(
        self,
        gateways: tuple[str, ...],
        pack: Pack,
        entries: list[Entry],
        closed: Mapping[str, float],
        now_s: float,
    ) -> Way:
        """Why these don't go, and when to look again."""
        if not gateways:
            return Way(None, [], stuck=entries, reason="no_route", wait_s=NO_ROUTE_S)
        bound = [name for name in gateways if self.usable(name)]
        opens = [closed[f"gateway:{name}"] for name in bound if f"gateway:{name}" in closed]
        if opens:  # each one that is up and well has a throttle with nothing free
            return Way(None, [], stuck=entries, reason="throttled", wait_s=max(0.001, min(opens) - now_s))
        if bound:
            again = min(self.watch.opens_at(name, pack.region) for name in bound)
            return Way(
                None,
                [],
                stuck=entries,
                reason="gateway_failing",
                wait_s=min(NO_GATEWAY_S, max(SOON_S, again - now_s)),
            )
        return Way(None, [], stuck=entries, reason="no_gateway", wait_s=NO_GATEWAY_S)

    def route_step(self, choice: Choice, name: str, pack: Pack, to: str, closed: Mapping[str, float]) -> Step:
        """The step of a trace that tells why that gateway was taken."""
        standing: dict[str, str] = {}
        for one in choice.gateways:
            found = self.watch.standing(one, pack.region) if self.usable(one) is not None else "down"
            if found != "well":
                standing[one] = found
            elif f"gateway:{one}" in closed:
                standing[one] = "throttled"
        rule, verdict = routing.described(self.table, choice, name, pack, to, standing)
        return ("route", rule, str(self.config.version), verdict)

    def in_flight(self) -> dict[str, int]:
        """Segments without an answer, by gateway."""
        return {n: sum(b.in_flight for b in held.gateway.binds()) for n, held in self.open.items()}

    def usable(self, name: str) -> Open | None:
        """The gateway of that name, if a bind of it is up."""
        held = self.open.get(name)
        if (
            held is None
            or name in self._stale
            or not any(bind.state == "bound" for bind in held.gateway.binds())
        ):
            return None
        return held


def _differs(held: Open, row: configuration.Gateway | None) -> bool:
    """Whether a gateway must be closed: it is no more, or is made otherwise."""
    return row is None or (row.url, row.settings) != (held.row.url, held.row.settings)


def _shared_accounts(rows: Sequence[configuration.Gateway]) -> dict[int, tuple[int, ...]]:
    """For each gateway whose account others have, too: all of them, itself first. One that is disabled counts:
    what left by it before has its receipt still to come."""
    accounts: dict[str, list[int]] = {}
    for row in rows:
        with contextlib.suppress(ValueError):  # said when it was to be opened
            if name := account(row.url, row.settings):
                accounts.setdefault(name, []).append(row.id)
    return {
        one: (one, *(other for other in members if other != one))
        for members in accounts.values()
        if len(members) > 1
        for one in members
    }
