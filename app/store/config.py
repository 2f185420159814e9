"""Gateways, routes, regions, currencies, senders, their pools, country packs: versioned rows, and the one way to
change them.

Guarantees: every change, by the API or by `volley apply`, is checked here, names its actor and reason, raises
the row's version and the configuration's, is in the audit log with before and after (secrets masked), and is
announced on the channel CHANNEL, all in the caller's transaction. Changes are serialised by the
configuration's version, so what `load` gives is always one committed whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import asyncpg
import msgspec
from sqlalchemy import Table, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import health, prices, routing
from app.domain.masking import mask_settings, mask_url
from app.domain.message import Category
from app.domain.phone import InvalidNumber, is_country, masked, parse
from app.store import audit, tables
from app.store.audit import By

CHANNEL = "volley_config"
MAX_RATE = 1_000_000
MAX_ROUTES = 10_000
MAX_PREFIXES = 5_000
MAX_TEST_NUMBERS = 50
MAX_MEMBERS = 200
MAX_WEIGHT = 10_000
MAX_LEAD_S = 3 * 3600

_NAME = re.compile(r"[a-z0-9][a-z0-9_.\-]{0,63}")
_REGION = re.compile(r"[A-Z]{2}(-[A-Z0-9]{1,3})?")
_PREFIX = re.compile(r"\+?[1-9][0-9]{0,14}")
_COUNTRY = re.compile(r"[A-Z]{2}")
_NUMBER = re.compile(r"\+?[0-9]{1,15}")
_NAMED_SENDER = re.compile(r"(?=.*[A-Za-z])[\x20-\x7e]{1,11}")


class Gateway(msgspec.Struct, frozen=True):
    """A way out. `url` holds its password: never show it but through `app.domain.masking`."""

    id: int
    name: str
    url: str
    settings: dict[str, Any]
    rate: int | None  # segments in any sliding second
    enabled: bool
    version: int
    updated_at: datetime
    currency: str | None = None
    prices: dict[str, str] = {}  # of a segment, as `app.domain.prices` keeps them
    health: dict[str, Any] = {}  # `app.domain.health.Limits`, where they differ

    def __repr__(self) -> str:
        return f"Gateway({self.name})"


class Route(msgspec.Struct, frozen=True):
    """Messages to `to` ('*', a region, or a number prefix with plus sign): see `app.domain.routing`."""

    id: int
    position: int
    to: str
    category: int | None
    tenant_id: int | None
    gateways: tuple[str, ...]
    version: int
    updated_at: datetime
    sender: str | None = None
    strategy: routing.Strategy = "preference"
    weights: tuple[int, ...] = ()


class Region(msgspec.Struct, frozen=True):
    """A country, or finer: then `prefixes` say which numbers (with plus sign) belong to it."""

    code: str
    prefixes: tuple[str, ...]
    rate: int | None
    paused: bool
    version: int
    updated_at: datetime
    test_numbers: tuple[str, ...] = ()
    lead_s: int | None = None  # how long a text takes to its phone: hours shut so much earlier


class Sender(msgspec.Struct, frozen=True):
    """A from-address of a tenant."""

    tenant_id: int
    address: str
    rate: int | None
    version: int
    updated_at: datetime
    brand: str = ""  # a stop may be about all senders of a brand
    registered: tuple[str, ...] = ()  # countries
    signature: str = ""  # the name in the labels that countries demand


class Currency(msgspec.Struct, frozen=True):
    """What one unit is worth in the currency that prices are compared in."""

    code: str
    rate: Decimal
    version: int
    updated_at: datetime


class Config(msgspec.Struct, frozen=True):
    """Everything that the dispatcher routes and throttles by. The first route that matches holds."""

    version: int
    gateways: tuple[Gateway, ...]
    routes: tuple[Route, ...]
    regions: tuple[Region, ...]
    senders: tuple[Sender, ...]
    currencies: tuple[Currency, ...] = ()

    def table(self) -> routing.Table:
        """Routes and prices, made ready for look-ups."""
        return routing.Table(
            (
                routing.Route(
                    r.id,
                    r.position,
                    r.to,
                    r.category,
                    r.sender,
                    r.tenant_id,
                    r.gateways,
                    r.strategy,
                    r.weights,
                )
                for r in self.routes
            ),
            {
                g.name: routing.Tariff(g.currency, {to: Decimal(price) for to, price in g.prices.items()})
                for g in self.gateways
                if g.currency and g.prices
            },
            {c.code: c.rate for c in self.currencies},
        )

    country_packs: dict[str, str] = {}  # TOML by country
    tenants: dict[int, dict[str, Any]] = {}  # what tenants have set by country, of those that have


class Invalid(ValueError):
    """A value that can't be: `field` names it, `detail` says why, without repeating secrets."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.field = field
        self.detail = detail


class NotFound(LookupError):
    """There is no such row."""


class Exists(ValueError):
    """There is such a row already."""


class StaleVersion(ValueError):
    """Somebody changed the row since the caller read it; `current` is its version now."""

    def __init__(self, current: int) -> None:
        super().__init__(f"the version is {current} now")
        self.current = current


class Kind(msgspec.Struct, frozen=True):
    """What differs between them: table, key, the fields that may be set, and how they are checked."""

    name: str
    table: Table
    key: tuple[str, ...]
    fields: tuple[str, ...]
    check: Callable[[str, Any], Any]


# -- reading


async def load(driver: asyncpg.Connection) -> Config:
    """The configuration, of one moment."""
    async with driver.transaction(isolation="repeatable_read", readonly=True):
        version = await driver.fetchval("SELECT version FROM config_version")
        gateways = await driver.fetch("SELECT * FROM gateways ORDER BY id")
        routes = await driver.fetch("SELECT * FROM routes ORDER BY position")
        regions = await driver.fetch("SELECT * FROM regions ORDER BY code")
        senders = await driver.fetch("SELECT * FROM senders ORDER BY tenant_id, address")
        currencies = await driver.fetch("SELECT * FROM currencies ORDER BY code")
        packs = await country_packs(driver)
        tenants = await driver.fetch(
            "SELECT id, settings->'countries' AS countries FROM tenants"
            " WHERE jsonb_typeof(settings->'countries') = 'object'"
        )
    return Config(
        version,
        tuple(Gateway(**row) for row in gateways),
        tuple(Route(**_with_tuples(row, "gateways", "weights")) for row in routes),
        tuple(Region(**_with_tuples(row, "prefixes", "test_numbers")) for row in regions),
        tuple(Sender(**_with_tuples(row, "registered")) for row in senders),
        tuple(Currency(**row) for row in currencies),
        packs,
        {row["id"]: row["countries"] for row in tenants},
    )


def _with_tuples(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {**row, **{name: tuple(row[name]) for name in names}}


async def version_of(driver: asyncpg.Connection) -> int:
    """The configuration's version, to see whether there is a newer one."""
    return await driver.fetchval("SELECT version FROM config_version")


async def pool(driver: asyncpg.Connection, tenant_id: int, name: str) -> tuple[routing.Member, ...] | None:
    """A sender pool's members, those that were taken away left out; None: the tenant has no such pool."""
    members = await driver.fetchval(
        "SELECT members FROM sender_pools WHERE tenant_id = $1 AND name = $2", tenant_id, name
    )
    if members is None:
        return None
    return msgspec.convert([one for one in members if not one.get("retired")], tuple[routing.Member, ...])


async def country_packs(driver: asyncpg.Connection) -> dict[str, str]:
    """The packs that stand in place of shipped ones, as TOML by country."""
    rows = await driver.fetch("SELECT code, content FROM country_packs ORDER BY code")
    return {row["code"]: row["content"] for row in rows}


async def rows(connection: AsyncConnection, kind: Kind, **where: object) -> list[dict[str, Any]]:
    """Every row of a kind, in its order; `where` are columns and the value that they must have."""
    order = kind.table.c.position if kind is ROUTE else kind.table.c[kind.key[-1]]
    query = select(kind.table).order_by(order)
    for name, value in where.items():
        query = query.where(kind.table.c[name] == value)
    return [dict(row) for row in (await connection.execute(query)).mappings()]


async def read(connection: AsyncConnection, kind: Kind, key: Mapping[str, Any]) -> dict[str, Any]:
    """One row. Raises NotFound."""
    found = await rows(connection, kind, **key)
    if not found:
        raise NotFound(subject(kind, key))
    return found[0]


def subject(kind: Kind, key: Mapping[str, Any]) -> str:
    """How the audit log names a row: `gateway/sandbox`."""
    return "/".join([kind.name, *(str(key[name]) for name in kind.key)])


def shown(kind: Kind, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row's fields as people may see them: secrets masked."""
    out = {name: row[name] for name in (*kind.key, *kind.fields) if name in row}
    if kind is GATEWAY:
        out["url"] = mask_url(out["url"])
        out["settings"] = mask_settings(out["settings"])
    if kind is CURRENCY:
        out["rate"] = f"{out['rate']:f}"
    if kind is REGION and "test_numbers" in out:
        out["test_numbers"] = [masked(number) for number in out["test_numbers"]]
    return out


# -- changing


async def begin(connection: AsyncConnection) -> int:
    """Wait for other changes to end, raise the configuration's version and announce it; gives the version."""
    version = await connection.scalar(
        text("UPDATE config_version SET version = version + 1 RETURNING version")
    )
    assert version is not None
    await connection.execute(select(func.pg_notify(CHANNEL, str(version))))
    return version


async def create(
    connection: AsyncConnection, kind: Kind, values: Mapping[str, Any], by: By
) -> dict[str, Any]:
    """A new row. `values` has the key (the database gives a route's) and fields. Raises Invalid, Exists."""
    await begin(connection)
    checked = {name: kind.check(name, value) for name, value in values.items()}
    _check_whole(kind, checked)
    if kind is POOL:
        await _check_members(connection, checked["tenant_id"], checked["members"])
    if kind is ROUTE:
        await _check_gateways(connection, checked)
        checked["position"] = await _make_room(connection, checked.get("position"))
    else:
        key = {name: checked[name] for name in kind.key}
        if await rows(connection, kind, **key):
            raise Exists(subject(kind, key))
    made = await connection.execute(insert(kind.table).values(**checked).returning(*kind.table.c))
    row = dict(made.mappings().one())
    await audit.record(connection, by, f"{kind.name}.create", subject(kind, row), after=shown(kind, row))
    return row


async def change(
    connection: AsyncConnection,
    kind: Kind,
    key: Mapping[str, Any],
    values: Mapping[str, Any],
    by: By,
    *,
    version: int | None = None,
) -> dict[str, Any]:
    """Set some fields of a row; the row as it is then. No field that differs: no new version, no entry.

    `version` is the one that the caller has seen (None: whichever). Raises Invalid, NotFound, StaleVersion.
    """
    checked = {name: kind.check(name, value) for name, value in values.items()}
    await _lock(connection)
    old = await _current(connection, kind, key, version)
    if kind is POOL:
        checked["members"] = _with_retired(checked["members"], old["members"])
    fresh = {name: value for name, value in checked.items() if old[name] != value}
    if not fresh:
        return old
    await begin(connection)
    _check_whole(kind, {**old, **fresh})
    if kind is POOL:
        await _check_members(connection, old["tenant_id"], fresh["members"])
    if kind is ROUTE:
        await _check_gateways(connection, fresh)
        if "position" in fresh:
            fresh["position"] = await _move(connection, old["position"], fresh["position"])
    done = await connection.execute(
        update(kind.table)
        .where(*(kind.table.c[name] == key[name] for name in kind.key))
        .values(**fresh, version=old["version"] + 1, updated_at=func.now())
        .returning(*kind.table.c)
    )
    row = dict(done.mappings().one())
    await audit.record(
        connection,
        by,
        f"{kind.name}.change",
        subject(kind, key),
        before=shown(kind, old),
        after=shown(kind, row),
    )
    return row


async def remove(
    connection: AsyncConnection, kind: Kind, key: Mapping[str, Any], by: By, version: int | None = None
) -> None:
    """Take a row away. A gateway stays, since messages name it: disable it. Raises NotFound, StaleVersion."""
    assert kind is not GATEWAY, "gateways are disabled, not removed"
    await begin(connection)
    old = await _current(connection, kind, key, version)
    if kind is SENDER:
        await _check_unused(connection, old)
    await connection.execute(
        delete(kind.table).where(*(kind.table.c[name] == key[name] for name in kind.key))
    )
    await audit.record(connection, by, f"{kind.name}.remove", subject(kind, key), before=shown(kind, old))


async def _lock(connection: AsyncConnection) -> None:
    """Wait for other changes to end, before reading what is to be changed."""
    await connection.execute(text("SELECT version FROM config_version FOR UPDATE"))


async def _current(
    connection: AsyncConnection, kind: Kind, key: Mapping[str, Any], version: int | None
) -> dict[str, Any]:
    row = await read(connection, kind, key)
    if version is not None and row["version"] != version:
        raise StaleVersion(row["version"])
    return row


async def _check_gateways(connection: AsyncConnection, route: Mapping[str, Any]) -> None:
    """A route names gateways that exist and a tenant that exists."""
    if "gateways" in route:
        known = set(await connection.scalars(select(tables.gateways.c.name)))
        for name in route["gateways"]:
            if name not in known:
                raise Invalid("gateways", f"there is no gateway {name!r}")
    tenant_id = route.get("tenant_id")
    if tenant_id is not None:
        found = select(tables.tenants.c.id).where(tables.tenants.c.id == tenant_id)
        if await connection.scalar(found) is None:
            raise Invalid("tenant", "there is no such tenant")


def _check_whole(kind: Kind, row: Mapping[str, Any]) -> None:
    """What one field says about another."""
    if kind is ROUTE:
        weights = row.get("weights") or []
        if row.get("strategy", "preference") != "weight":
            if weights:
                raise Invalid("weights", "only a route with the strategy 'weight' has any")
        elif len(weights) != len(row["gateways"]) or not any(weights):
            raise Invalid("weights", "one for each gateway, in their order, at least one of them above 0")
    if kind is GATEWAY and row.get("prices") and not row.get("currency"):
        raise Invalid("currency", "prices need a currency")
    if kind is REGION and not row.get("prefixes") and not is_country(row["code"]):
        raise Invalid("prefixes", f"{row['code']} is no country (ISO 3166-1): say which numbers are in it")


async def _check_members(
    connection: AsyncConnection, tenant_id: int, members: Sequence[Mapping[str, Any]]
) -> None:
    """A pool's addresses are the tenant's: who answers to one of them is heard by that tenant."""
    ours = {row["address"] for row in await rows(connection, SENDER, tenant_id=tenant_id)}
    for place, member in enumerate(members):
        if member["address"] not in ours and not member.get("retired"):
            raise Invalid(f"members/{place}/address", "register the sender first")


def _with_retired(
    members: Sequence[Mapping[str, Any]], old: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Who was texted from an address that the pool no longer uses may still answer STOP to it: it stays known."""
    kept = {member["address"] for member in members}
    gone = [{**member, "retired": True} for member in old if member["address"] not in kept]
    return [*map(dict, members), *gone[-MAX_MEMBERS:]]


async def _check_unused(connection: AsyncConnection, sender: Mapping[str, Any]) -> None:
    for row in await rows(connection, POOL, tenant_id=sender["tenant_id"]):
        if any(m["address"] == sender["address"] and not m.get("retired") for m in row["members"]):
            raise Invalid("address", f"the pool {row['name']!r} uses it")


async def _make_room(connection: AsyncConnection, wanted: int | None) -> int:
    """The position of a new route: the last, or the wanted one, from which the others move on."""
    position = tables.routes.c.position
    last = await connection.scalar(select(func.coalesce(func.max(position), 0))) or 0
    if last >= MAX_ROUTES:
        raise Invalid("position", f"there may be {MAX_ROUTES} routes")
    if wanted is None or wanted > last:
        return last + 1
    await connection.execute(update(tables.routes).where(position >= wanted).values(position=position + 1))
    return wanted


async def _move(connection: AsyncConnection, old: int, wanted: int) -> int:
    """A route goes from `old` to `wanted`; those between move by one."""
    position = tables.routes.c.position
    last = await connection.scalar(select(func.max(position))) or 1
    wanted = min(wanted, last)
    between = position.between(old + 1, wanted) if wanted > old else position.between(wanted, old - 1)
    step = -1 if wanted > old else 1
    await connection.execute(update(tables.routes).where(between).values(position=position + step))
    return wanted


# -- checks: a value as it is stored, or Invalid


def _rate(value: Any) -> int | None:
    if value is None or value == 0:
        return None  # no limit; to stop a region, pause it; to stop a gateway, disable it
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_RATE:
        raise Invalid("rate", f"a whole number of segments a second, 0 (no limit) to {MAX_RATE}")
    return value


def _flag(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise Invalid(field, "true or false")
    return value


def _prefix(field: str, value: Any) -> str:
    if not isinstance(value, str) or not _PREFIX.fullmatch(value):
        raise Invalid(field, "a number prefix has 1 to 15 digits, with or without plus sign")
    return value if value[0] == "+" else f"+{value}"


def _check_gateway(field: str, value: Any) -> Any:
    if field == "name" and not (isinstance(value, str) and _NAME.fullmatch(value)):
        raise Invalid(field, "small letters, digits, '-', '_' and '.', at most 64")
    if field == "url" and not (isinstance(value, str) and "://" in value and len(value) <= 4096):
        raise Invalid(field, "not a URL")
    if field == "settings" and not (isinstance(value, dict) and _storable(value)):
        raise Invalid(field, "a table without NUL characters")
    if field == "enabled":
        return _flag(field, value)
    if field in ("currency", "prices") and value is not None:
        return _priced(field, value)
    if field == "health":
        return _limits(value)
    return _rate(value) if field == "rate" else value


def _priced(field: str, value: Any) -> Any:
    try:
        return prices.currency(value) if field == "currency" else prices.price_list(value)
    except prices.BadPrice as error:
        raise Invalid(field, str(error)) from None


def _limits(value: Any) -> dict[str, Any]:
    try:
        if not isinstance(value, dict):
            raise ValueError("a table")
        health.limits_of(value)
    except ValueError as error:
        raise Invalid("health", str(error)) from None
    return value


def _storable(value: dict[str, Any]) -> bool:
    """Whether PostgreSQL takes it as jsonb."""
    try:
        return b"\\u0000" not in msgspec.json.encode(value)
    except (ValueError, RecursionError):  # half of a surrogate pair
        return False


def _check_route(field: str, value: Any) -> Any:
    if field == "to":
        if value == "*" or (isinstance(value, str) and _REGION.fullmatch(value)):
            return value
        return _prefix(field, value)
    if field == "gateways":
        names = list(value) if isinstance(value, list | tuple) else []
        if not names or not all(isinstance(name, str) for name in names):
            raise Invalid(field, "name at least one")
        if len(set(names)) < len(names):
            raise Invalid(field, "one is named twice")
        return names
    if field == "strategy" and value not in routing.STRATEGIES:
        raise Invalid(field, f"one of {', '.join(routing.STRATEGIES)}")
    if field == "weights":
        return _weights(value)
    if field == "sender" and value is not None:
        return address(value, "sender")
    if field == "category" and value is not None:
        return int(Category(value))
    if field == "position" and value is not None and not (isinstance(value, int) and value >= 1):
        raise Invalid(field, "a whole number from 1")
    return value


def _weights(value: Any) -> list[int]:
    found = list(value) if isinstance(value, list | tuple) else [-1]
    if not all(
        isinstance(one, int) and not isinstance(one, bool) and 0 <= one <= MAX_WEIGHT for one in found
    ):
        raise Invalid("weights", f"whole numbers from 0 to {MAX_WEIGHT:,}")
    return found


def _check_region(field: str, value: Any) -> Any:
    if field == "code" and not (isinstance(value, str) and _REGION.fullmatch(value)):
        raise Invalid(field, "no region code (VN, US-FL)")
    if field == "prefixes":
        prefixes = [_prefix(field, one) for one in value]
        if len(prefixes) > MAX_PREFIXES:
            raise Invalid(field, f"more than {MAX_PREFIXES}")
        return sorted(set(prefixes))
    if field == "test_numbers":
        return _test_numbers(value)
    if field == "paused":
        return _flag(field, value)
    if field == "lead_s" and value is not None and not (isinstance(value, int) and 0 <= value <= MAX_LEAD_S):
        raise Invalid(field, f"a whole number of seconds from 0 to {MAX_LEAD_S}")
    return _rate(value) if field == "rate" else value


def _test_numbers(value: Any) -> list[str]:
    if not isinstance(value, list | tuple) or len(value) > MAX_TEST_NUMBERS:
        raise Invalid("test_numbers", f"a list of at most {MAX_TEST_NUMBERS} numbers")
    found = []
    for place, one in enumerate(value, 1):
        try:
            found.append(parse(one if isinstance(one, str) else "").e164)
        except InvalidNumber as error:
            raise Invalid("test_numbers", f"number {place}: {error.detail}") from None
    return list(dict.fromkeys(found))


def _check_currency(field: str, value: Any) -> Any:
    try:
        return prices.currency(value, "code") if field == "code" else prices.rate(value)
    except prices.BadPrice as error:
        raise Invalid(field, str(error)) from None


def _check_pool(field: str, value: Any) -> Any:
    if field == "name" and not (isinstance(value, str) and _NAME.fullmatch(value)):
        raise Invalid(field, "small letters, digits, '-', '_' and '.', at most 64")
    if field == "members":
        return _members(value)
    return value


def _members(value: Any) -> list[dict[str, Any]]:
    """A number without countries is for the country that it belongs to; a name or short code for all others."""
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_MEMBERS:
        raise Invalid("members", f"1 to {MAX_MEMBERS}")
    found: dict[str, dict[str, Any]] = {}
    for place, one in enumerate(value):
        name = address(one["address"], f"members/{place}/address")
        countries = list(one.get("countries") or ())
        if not all(isinstance(c, str) and _COUNTRY.fullmatch(c) for c in countries):
            raise Invalid(f"members/{place}/countries", "ISO 3166-1 codes (VN)")
        if not countries and name.isdigit():
            countries = _home(name)
        if name in found:
            raise Invalid(f"members/{place}/address", "is in the pool twice")
        found[name] = {"address": name, "countries": countries}
    return list(found.values())


def _home(number: str) -> list[str]:
    """The country of a number; none for a short code."""
    try:
        return [parse(f"+{number}").country]
    except InvalidNumber:
        return []


def _check_sender(field: str, value: Any) -> Any:
    if field == "address":
        return address(value)
    if field == "brand":
        return brand(value)
    if field == "registered":
        if not all(isinstance(code, str) and _COUNTRY.fullmatch(code) for code in value):
            raise Invalid(field, "ISO 3166-1 alpha-2 codes")
        return sorted(set(value))
    return _rate(value) if field == "rate" else value


def _check_country_pack(field: str, value: Any) -> Any:
    """The content's own rules are held by `app.countries`, before it gets here."""
    if field == "code" and not (value == "default" or _COUNTRY.fullmatch(value)):
        raise Invalid(field, "an ISO 3166-1 alpha-2 code, or default")
    return value


def address(value: Any, field: str = "address") -> str:
    """A from-address as it is kept: a number or short code without plus sign, or a name. Raises Invalid."""
    if isinstance(value, str):
        if _NUMBER.fullmatch(value):
            return value.removeprefix("+")
        if _NAMED_SENDER.fullmatch(value) and value.strip() == value:
            return value
    raise Invalid(field, "a number or short code of up to 15 digits, or a name of up to 11 characters")


def brand(value: Any) -> str:
    """A brand's name as it is kept; '' for none. Raises Invalid."""
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise Invalid("brand", "small letters, digits, '-', '_' and '.', at most 64")
    return value


GATEWAY = Kind(
    "gateway",
    tables.gateways,
    ("name",),
    ("url", "settings", "rate", "enabled", "currency", "prices", "health"),
    _check_gateway,
)
ROUTE = Kind(
    "route",
    tables.routes,
    ("id",),
    ("position", "to", "category", "sender", "tenant_id", "gateways", "strategy", "weights"),
    _check_route,
)
REGION = Kind(
    "region",
    tables.regions,
    ("code",),
    ("prefixes", "rate", "paused", "test_numbers", "lead_s"),
    _check_region,
)
SENDER = Kind(
    "sender",
    tables.senders,
    ("tenant_id", "address"),
    ("rate", "brand", "registered", "signature"),
    _check_sender,
)
POOL = Kind("pool", tables.sender_pools, ("tenant_id", "name"), ("members",), _check_pool)
CURRENCY = Kind("currency", tables.currencies, ("code",), ("rate",), _check_currency)
COUNTRY_PACK = Kind("country_pack", tables.country_packs, ("code",), ("content",), _check_country_pack)
