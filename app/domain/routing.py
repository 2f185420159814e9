"""Which gateways a message may take, in what order, and why. Pure: a table of routes and prices, no clock.

Guarantees: the first route that matches holds, in the order that the operator gave them (there is no "longest
match" among routes; of a price list the longest prefix holds). A route's gateways are ordered

* by `preference`: as they are listed;
* by `weight`: by a draw that the recipient's hash decides (weighted rendezvous), so that the same person keeps
  the same gateway on every text and every retry, in every process, and a gateway that is added or taken away
  moves only its own share. A weight of 0 is taken when no other can be;
* by `cost`: the cheapest first, in the currency that all prices are converted to; what has no price comes last.

`ranked` then puts those that are up and well first. Amounts are `Decimal`; nothing here is a float but the draw.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from hashlib import blake2b
from typing import Literal, Protocol

import msgspec
from phonenumbers.phonenumberutil import COUNTRY_CODE_TO_REGION_CODE

from app.domain.pack import Pack
from app.domain.phone import calling_code

Strategy = Literal["preference", "weight", "cost"]
STRATEGIES: tuple[Strategy, ...] = ("preference", "weight", "cost")
TEST_GATEWAY = "sandbox"  # where texts of test keys go, and nothing else does it for them
_SANDBOX_URL = re.compile(r"smpp://([^@/?#]*@)?(127\.0\.0\.1|localhost|\[::1\]|sandbox)(:[0-9]+)?([/?#]|\Z)")
ANYWHERE = "*"
MEMO_LIMIT = 50_000
POOL_MARK = "pool:"  # before a pool's name, in the place of a sender
SWITCH_AFTER = 2  # attempts with the first choice; from then on a refused text begins with the next one


class Route(msgspec.Struct, frozen=True):
    """A row of the route table. None means any. `to` is '*', a region, a country, or a prefix with plus sign."""

    id: int
    position: int
    to: str
    category: int | None
    sender: str | None
    tenant_id: int | None
    gateways: tuple[str, ...]
    strategy: Strategy = "preference"
    weights: tuple[int, ...] = ()  # one a gateway, where the strategy is `weight`


class Leading(Protocol):
    """What of a route says where it may lead."""

    @property
    def to(self) -> str: ...
    @property
    def category(self) -> int | None: ...
    @property
    def gateways(self) -> Sequence[str]: ...


def reached(routes: Iterable[Leading], region: str, category: int) -> set[str]:
    """Every gateway that some route may lead a lane's messages to."""
    return {
        name
        for route in routes
        if route.category in (None, category)
        and (route.to in (ANYWHERE, region, region[:2]) or route.to[0] == "+")
        for name in route.gateways
    }


class Tariff(msgspec.Struct, frozen=True):
    """What a gateway charges a segment: by number prefix with plus sign, region, country, or '*', in `currency`."""

    currency: str
    prices: Mapping[str, Decimal]


class Price(msgspec.Struct, frozen=True):
    """The price of one segment: `per` is the entry of the list that it comes from."""

    amount: Decimal
    currency: str
    per: str


def sandbox_only(gateways: Sequence[tuple[str, str]]) -> bool:
    """Whether the sandbox is the only way out, by (name, URL) of the enabled gateways: a gateway of its name that
    speaks SMPP with this machine, or with the container of that name."""
    return bool(gateways) and all(name == TEST_GATEWAY and _SANDBOX_URL.match(url) for name, url in gateways)


class Asked(msgspec.Struct, frozen=True):
    """What of a message decides its route, but for its number. `gateway` is forced: a probe's."""

    tenant_id: int
    category: int
    sender: str
    region: str
    country: str
    test: bool = False
    gateway: str = ""


def asked_of(pack: Pack) -> Asked:
    """What decides the route of a pack's messages."""
    return Asked(
        pack.tenant_id, pack.category, pack.sender, pack.region, pack.country, pack.test, pack.gateway
    )


class Choice(msgspec.Struct, frozen=True):
    """Gateways in order. `route` is the id of the route that holds; None: none did, or none was asked."""

    gateways: tuple[str, ...]
    route: int | None
    why: str  # forced, test_key, no_route, preference, weight, cost


class _Tariff:
    """A price list made ready: prefixes by length."""

    def __init__(self, tariff: Tariff) -> None:
        self.currency = tariff.currency
        self.prices = tariff.prices
        self.lengths = sorted({len(key) for key in tariff.prices if key[0] == "+"}, reverse=True)

    def price(self, to: str, region: str, country: str) -> Price | None:
        for length in self.lengths:
            found = self.prices.get(to[:length])
            if found is not None:
                return Price(found, self.currency, to[:length])
        for key in (region, country, ANYWHERE):
            found = self.prices.get(key)
            if found is not None:
                return Price(found, self.currency, key)
        return None


class Plan:
    """The routes that messages with the same `Asked` may take: `choice` answers for one number.

    `uniform` is the answer where it is the same for all of them.
    """

    def __init__(self, table: Table, asked: Asked) -> None:
        self._table = table
        self._asked = asked
        self._routes: tuple[Route, ...] = ()
        self._digits = 0  # the answer depends on so many characters of the number at most
        self._memo: dict[str, Choice] = {}
        self._weighed: dict[int, bool] = {}
        self.uniform: Choice | None = None
        forced = asked.gateway or (TEST_GATEWAY if asked.test else "")
        if forced:
            self.uniform = Choice((forced,), None, "forced" if asked.gateway else "test_key")
            return
        self._routes = tuple(table.candidates(asked))
        prefixes = [len(route.to) for route in self._routes if route.to[0] == "+"]
        priced = [
            length
            for route in self._routes
            if route.strategy == "cost"
            for name in route.gateways
            for length in table.price_lengths(name)
        ]
        self._digits = max([0, *prefixes, *priced])
        weighed = any(route.strategy == "weight" and len(route.gateways) > 1 for route in self._routes)
        if not self._digits and not weighed:
            self.uniform = self._choose("", b"")

    def choice(self, to: str, recipient: bytes) -> Choice:
        """The gateways for one number: `to` in E.164 with its plus sign, `recipient` its keyed hash."""
        if self.uniform is not None:
            return self.uniform
        head = to[: self._digits]
        known = self._memo.get(head)
        if known is None:
            if len(self._memo) >= MEMO_LIMIT:
                self._memo.clear()
            known = self._memo[head] = self._choose(to, recipient)
        if known.why == "weight":
            return self._choose(to, recipient)
        return known

    def usual(self) -> tuple[str, ...]:
        """The gateways that most of these take: those of the route without a prefix, else of all of them."""
        if self.uniform is not None:
            return self.uniform.gateways
        for route in self._routes:
            if route.to[0] != "+":
                return tuple(self._ordered(route, "", b""))
        return tuple(dict.fromkeys(name for route in self._routes for name in route.gateways))

    def every(self) -> tuple[str, ...]:
        """Every gateway that one of these may take."""
        if self.uniform is not None:
            return self.uniform.gateways
        return tuple(dict.fromkeys(name for route in self._routes for name in route.gateways))

    def _choose(self, to: str, recipient: bytes) -> Choice:
        for route in self._routes:
            if route.to[0] != "+" or to.startswith(route.to):
                return Choice(tuple(self._ordered(route, to, recipient)), route.id, route.strategy)
        return Choice((), None, "no_route")

    def _ordered(self, route: Route, to: str, recipient: bytes) -> Sequence[str]:
        if route.strategy == "weight" and len(route.gateways) > 1:
            return drawn(route.gateways, route.weights, recipient)
        if route.strategy == "cost":
            asked = self._asked
            return self._table.cheapest(route.gateways, to, asked.region, asked.country)
        return route.gateways


class Table:
    """Routes, tariffs and conversion rates of one version of the configuration, with the plans made from it."""

    def __init__(
        self,
        routes: Iterable[Route] = (),
        tariffs: Mapping[str, Tariff] | None = None,
        rates: Mapping[str, Decimal] | None = None,
    ) -> None:
        """`rates`: what one unit of a currency is worth in the one that all are compared in."""
        self.routes = tuple(routes)
        self._tariffs = {name: _Tariff(tariff) for name, tariff in (tariffs or {}).items()}
        self._rates = dict(rates or {})
        self._plans: dict[Asked, Plan] = {}

    def plan(self, asked: Asked) -> Plan:
        """The plan for these messages, made once."""
        known = self._plans.get(asked)
        if known is None:
            if len(self._plans) >= MEMO_LIMIT:
                self._plans.clear()
            known = self._plans[asked] = Plan(self, asked)
        return known

    def candidates(self, asked: Asked) -> Iterable[Route]:
        """The routes that some number with these may take, in order: up to the first that takes every number."""
        for route in self.routes:
            if (
                route.tenant_id in (None, asked.tenant_id)
                and route.category in (None, asked.category)
                and route.sender in (None, asked.sender)
            ):
                if route.to in (ANYWHERE, asked.region, asked.country):
                    yield route
                    return
                if route.to[0] == "+" and _may_hold(route.to, asked.country):
                    yield route

    def price(self, gateway: str, to: str, region: str, country: str) -> Price | None:
        """What a segment to that number costs by that gateway, in its own currency."""
        tariff = self._tariffs.get(gateway)
        return None if tariff is None else tariff.price(to, region, country)

    def price_lengths(self, gateway: str) -> Sequence[int]:
        """The lengths of the prefixes in a gateway's price list."""
        tariff = self._tariffs.get(gateway)
        return () if tariff is None else tariff.lengths

    def cheapest(self, gateways: Sequence[str], to: str, region: str, country: str) -> list[str]:
        """The cheapest first; equal ones as listed; those whose price can't be compared last, as listed."""
        prices = {name: self.price(name, to, region, country) for name in gateways}
        currencies = {price.currency for price in prices.values() if price is not None}
        compared: list[tuple[Decimal, int, str]] = []
        for place, name in enumerate(gateways):
            price = prices[name]
            if price is None:
                continue
            rate = Decimal(1) if len(currencies) == 1 else self._rates.get(price.currency)
            if rate is not None:
                compared.append((price.amount * rate, place, name))
        first = [name for _, _, name in sorted(compared)]
        return [*first, *(name for name in gateways if name not in first)]


def _may_hold(prefix: str, country: str) -> bool:
    """Whether a number of that country may begin so."""
    code = calling_code(prefix)
    return not code or country in COUNTRY_CODE_TO_REGION_CODE.get(int(code), (country,))


def drawn(names: Sequence[str], weights: Sequence[int], recipient: bytes) -> list[str]:
    """Weighted rendezvous hashing: each is first with the probability of its weight, always the same for the same
    recipient. One call of blake2b a name."""
    scores: list[tuple[float, int, str]] = []
    for place, (name, weight) in enumerate(zip(names, weights, strict=True)):
        if weight == 0:
            scores.append((0.0, place, name))
            continue
        digest = blake2b(recipient, digest_size=8, key=name.encode()).digest()
        share = (int.from_bytes(digest, "big") + 0.5) / 2.0**64
        scores.append((math.log(share) / weight, place, name))  # at most 0: the nearest to it wins
    heavy = [one for one in scores if weights[one[1]]]
    light = [one for one in scores if not weights[one[1]]]
    return [name for _, _, name in [*sorted(heavy, key=lambda one: (-one[0], one[1])), *light]]


# -- which of them can take it now


Health = Literal["well", "probing", "worse", "failing", "down"]
"""`probing`: it was failing or worse, and a few texts shall show whether it still is; `worse`: it works, and another
one is to be preferred; `failing`: it takes nothing until it was probed; `down`: not open, or no bind is up."""


class Ranked(msgspec.Struct, frozen=True):
    """`usable` in the order in which they are to be tried; `passed_over` with what is wrong with each."""

    usable: tuple[str, ...]
    passed_over: tuple[tuple[str, Health], ...] = ()


def ranked(gateways: Sequence[str], health: Mapping[str, Health], attempt: int = 1) -> Ranked:
    """Those that may be used now. A gateway without an entry is down.

    A text that was refused SWITCH_AFTER times begins with the next gateway, whatever the first one's health.
    """
    groups: dict[Health, list[str]] = {"well": [], "worse": [], "failing": [], "down": []}
    for name in gateways:
        found = health.get(name, "down")
        groups["well" if found == "probing" else found].append(name)
    usable = groups["well"]
    shift = max(0, attempt - SWITCH_AFTER) % len(usable) if usable else 0
    usable = [*usable[shift:], *usable[:shift], *groups["worse"]]
    passed = [(name, health.get(name, "down")) for name in gateways if name not in groups["well"]]
    return Ranked(tuple(usable), tuple(passed))


# -- why


def described(
    table: Table, choice: Choice, name: str, pack: Pack, to: str, standing: Mapping[str, str]
) -> tuple[str, str]:
    """(rule, verdict) of a trace: the route that holds, and why its gateway `name` was taken. `standing`: how those do
    that were not to be taken first; of one that is well nothing is said, unless it would have come first."""
    rule = choice.why if choice.route is None else f"routes.{choice.route}"
    words = [name]
    if choice.route is not None:
        words.append(f"by {choice.why}")
    if choice.why == "cost":
        price = table.price(name, to, pack.region, pack.country)
        words.append("without a price" if price is None else f"at {price.amount:f} {price.currency}")
    if choice.why == "weight":
        route = next(one for one in table.routes if one.id == choice.route)
        words.append(f"{route.weights[route.gateways.index(name)]} of {sum(route.weights)}")
    before = choice.gateways[: choice.gateways.index(name)] if name in choice.gateways else ()
    passed = [f"{one} {standing.get(one, 'refused it')}" for one in before]
    return rule, ", ".join([" ".join(words), *passed])


# -- sender pools


class Member(msgspec.Struct, frozen=True):
    """A from-address of a pool, and the countries that it is for; none: it is for those that no other is for."""

    address: str
    countries: tuple[str, ...] = ()


def sender_for(pool: Sequence[Member], country: str, recipient: bytes) -> str:
    """The one address of the pool from which this person is texted: of those for the country, else of those for no
    country in particular, else of all, the one that the recipient's hash draws. The hash is keyed by tenant.

    Always the same one: nothing is stored, and a pool that grows or shrinks by one changes it for that one's share.
    """
    assert pool
    near = [one for one in pool if country in one.countries]
    candidates = near or [one for one in pool if not one.countries] or pool
    names = [one.address for one in candidates]
    return drawn(names, [1] * len(names), recipient)[0]
