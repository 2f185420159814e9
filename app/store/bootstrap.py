"""A database's first key and first configuration, and `volley apply`.

Guarantees: the first key is made once, however many processes start at the same time; a database that has any
configuration is never seeded; `plan` shows exactly what `apply` would do, and `apply` does it in one
transaction through `app.store.config`, the same way as the API, or not at all.

volley.toml is declarative: what it says holds after `apply`. A gateway that it doesn't name is disabled
(messages name it, so its row stays), a region is removed; a tenant's route, made over the API, is left alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app import config_file
from app.domain.message import Category
from app.store import audit, config, keys, locks, tables
from app.store.audit import By
from app.store.config import CURRENCY, GATEWAY, REGION, ROUTE, Kind
from app.store.engine import Database, driver_in

_LOCK = locks.BOOTSTRAP
ACTOR = "bootstrap"
T = TypeVar("T")

# Name, URL and settings of a gateway; raises ValueError with one line that repeats no secret.
GatewayCheck = Callable[[str, str, Mapping[str, Any]], object]


class Change(msgspec.Struct, frozen=True):
    """A difference of volley.toml and the database; `fields` are name: (before, after), secrets masked."""

    action: Literal["create", "change", "remove", "disable"]
    subject: str  # "gateway/sandbox", "region/VN", "route/+84"
    fields: dict[str, tuple[Any, Any]]


class _Step(msgspec.Struct, frozen=True):
    """A change and what it takes to make it. `before_id` is the route that a new one comes before."""

    change: Change
    kind: Kind
    key: dict[str, Any]
    values: dict[str, Any] = {}
    before_id: int | None = None


# -- for callers without an event loop


def first_key(database_url: str, wanted: str | None) -> str | None:
    """`first_key_async`."""
    return asyncio.run(first_key_async(database_url, wanted))


def seed(database_url: str, toml_path: Path, check: GatewayCheck | None = None) -> bool:
    """`seed_async`."""
    return asyncio.run(seed_async(database_url, toml_path, check))


def sandbox_port(database_url: str) -> int | None:
    """The port of the enabled gateway `sandbox`, where there is one on this machine."""

    async def read(connection: AsyncConnection) -> int | None:
        table = tables.gateways
        query = select(table.c.url).where(table.c.name == config_file.SANDBOX, table.c.enabled)
        url = await connection.scalar(query)
        return None if url is None else config_file.port_here(url)

    return asyncio.run(_alone(database_url, read))


def plan(database_url: str, toml_path: Path, check: GatewayCheck | None = None) -> list[Change]:
    """`plan_async`."""
    return asyncio.run(plan_async(database_url, toml_path, check))


def apply(
    database_url: str,
    toml_path: Path,
    actor: str,
    reason: str,
    *,
    check: GatewayCheck | None = None,
) -> list[Change]:
    """`apply_async`."""
    return asyncio.run(apply_async(database_url, toml_path, actor, reason, check=check))


# -- the first key


async def first_key_async(database_url: str, wanted: str | None) -> str | None:
    """The tenant "default" and an admin key with all scopes, if there is no key yet.

    `wanted` is the value that the key shall have; one that the database doesn't know is added later, too.
    Gives the plain key when it made one: the only time that it can be seen.
    """

    async def make(connection: AsyncConnection) -> str | None:
        driver = await driver_in(connection)
        made = await keys.bootstrap(driver, secret=wanted, now_s=time.time())
        if made is not None:
            reason = "the first start" if wanted is None else "VOLLEY_API_KEY names a new key"
            after = {"scopes": list(keys.SCOPES)}
            await audit.record(connection, By(ACTOR, reason), "key.create", "key", after=after)
        return made

    return await _alone(database_url, make)


# -- the configuration


async def seed_async(database_url: str, toml_path: Path, check: GatewayCheck | None = None) -> bool:
    """Put volley.toml into a database without any configuration; False if it has one.

    Raises config_file.ConfigError, also for what `check` or the database refuses.
    """

    async def fill(connection: AsyncConnection) -> bool:
        for table in (tables.gateways, tables.routes, tables.regions):
            if await connection.scalar(select(func.count()).select_from(table)):
                return False
        await _make(connection, await _steps(connection, wanted), By(ACTOR, "the first start"))
        return True

    with _of_file(toml_path):
        wanted = _read(toml_path, check)
        return await _alone(database_url, fill)


async def plan_async(database_url: str, toml_path: Path, check: GatewayCheck | None = None) -> list[Change]:
    """What `apply_async` would change now. Raises as `seed_async`."""

    async def look(connection: AsyncConnection) -> list[Change]:
        return [step.change for step in await _steps(connection, wanted)]

    with _of_file(toml_path):
        wanted = _read(toml_path, check)
        return await _alone(database_url, look)


async def apply_async(
    database_url: str,
    toml_path: Path,
    actor: str,
    reason: str,
    *,
    check: GatewayCheck | None = None,
) -> list[Change]:
    """Make the database's configuration what volley.toml says; gives the changes. Raises as `seed_async`."""

    async def run(connection: AsyncConnection) -> list[Change]:
        await connection.execute(select(tables.config_version.c.version).with_for_update())
        steps = await _steps(connection, wanted)
        await _make(connection, steps, By(actor, reason))
        return [step.change for step in steps]

    with _of_file(toml_path):
        wanted = _read(toml_path, check)
        return await _alone(database_url, run)


def _read(path: Path, check: GatewayCheck | None) -> config_file.Config:
    wanted = config_file.load(path)
    if check is not None:
        for gateway in wanted.gateways:
            check(gateway.name, gateway.url, gateway.settings)
    return wanted


@asynccontextmanager
async def _locked(database: Database) -> Any:
    """A transaction in which no other process bootstraps or applies."""
    async with database.begin() as connection:
        await connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        yield connection


async def _alone(database_url: str, work: Callable[[AsyncConnection], Coroutine[Any, Any, T]]) -> T:
    database = Database(database_url, pool=1, name="volley bootstrap")
    try:
        async with _locked(database) as connection:
            return await work(connection)
    finally:
        await database.dispose()


async def _make(connection: AsyncConnection, steps: list[_Step], by: By) -> None:
    for step in steps:
        with _named(step.change.subject.replace("/", "s.", 1)):
            await _make_one(connection, step, by)


async def _make_one(connection: AsyncConnection, step: _Step, by: By) -> None:
    if step.change.action == "create":
        values = {**step.key, **step.values}
        if step.before_id is not None:
            before = await config.read(connection, ROUTE, {"id": step.before_id})
            values["position"] = before["position"]
        await config.create(connection, step.kind, values, by)
    elif step.change.action == "remove":
        await config.remove(connection, step.kind, step.key, by)
    else:
        await config.change(connection, step.kind, step.key, step.values, by)


async def _steps(connection: AsyncConnection, wanted: config_file.Config) -> list[_Step]:
    """In an order in which each can be made: routes name gateways that exist by then."""
    return [
        *await _gateway_steps(connection, wanted),
        *await _currency_steps(connection, wanted),
        *await _region_steps(connection, wanted),
        *await _route_steps(connection, wanted),
    ]


@contextmanager
def _of_file(path: Path) -> Iterator[None]:
    """A value that a gateway or the database refuses is a mistake in the file: one line that names it."""
    try:
        yield
    except ValueError as error:
        raise config_file.ConfigError(f"{path.name}: {error}") from None


@contextmanager
def _named(where: str) -> Iterator[None]:
    """... and the place in it."""
    try:
        yield
    except config.Invalid as error:
        raise ValueError(f"{where}.{error}") from None


async def _gateway_steps(connection: AsyncConnection, wanted: config_file.Config) -> list[_Step]:
    present = {row["name"]: row for row in await config.rows(connection, GATEWAY)}
    steps = []
    for gateway in wanted.gateways:
        values = {"url": gateway.url, "settings": gateway.settings, "rate": gateway.rate, "enabled": True}
        values |= {"currency": gateway.currency, "prices": gateway.prices, "health": gateway.health}
        steps += _row_steps(GATEWAY, {"name": gateway.name}, values, present.pop(gateway.name, None))
    for name, row in present.items():
        if row["enabled"]:
            change = Change("disable", f"gateway/{name}", {"enabled": (True, False)})
            steps.append(_Step(change, GATEWAY, {"name": name}, {"enabled": False}))
    return steps


async def _currency_steps(connection: AsyncConnection, wanted: config_file.Config) -> list[_Step]:
    present = {row["code"]: row for row in await config.rows(connection, CURRENCY)}
    steps = []
    for code, rate in wanted.currencies.items():
        steps += _row_steps(CURRENCY, {"code": code}, {"rate": rate}, present.pop(code, None))
    for code, row in present.items():
        steps.append(_Step(_removal(CURRENCY, row), CURRENCY, {"code": code}))
    return steps


async def _region_steps(connection: AsyncConnection, wanted: config_file.Config) -> list[_Step]:
    present = {row["code"]: row for row in await config.rows(connection, REGION)}
    steps = []
    for code, region in wanted.regions.items():
        values = {"rate": region.rate, "prefixes": list(region.prefixes), "paused": region.paused}
        values["test_numbers"] = list(region.test_numbers)
        steps += _row_steps(REGION, {"code": code}, values, present.pop(code, None))
    for code, row in present.items():
        steps.append(_Step(_removal(REGION, row), REGION, {"code": code}))
    return steps


async def _route_steps(connection: AsyncConnection, wanted: config_file.Config) -> list[_Step]:
    """The file's routes against those of no tenant, matched in order by (to, category, sender)."""
    rows = await config.rows(connection, ROUTE, tenant_id=None)
    files = [_route_values(number, route) for number, route in enumerate(wanted.routes, 1)]
    old_keys = [(row["to"], row["category"], row["sender"]) for row in rows]
    new_keys = [(route["to"], route["category"], route["sender"]) for route in files]
    steps: list[_Step] = []
    for tag, i, i_end, j, j_end in SequenceMatcher(None, old_keys, new_keys, autojunk=False).get_opcodes():
        if tag == "equal":
            for row, route in zip(rows[i:i_end], files[j:j_end], strict=True):
                values = {name: route[name] for name in ("gateways", "strategy", "weights")}
                steps += _row_steps(ROUTE, {"id": row["id"]}, values, row)
            continue
        steps += [_Step(_removal(ROUTE, row), ROUTE, {"id": row["id"]}) for row in rows[i:i_end]]
        before_id = rows[i_end]["id"] if i_end < len(rows) else None
        for route in files[j:j_end]:
            fields = {name: (None, value) for name, value in route.items()}
            change = Change("create", f"route/{route['to']}", fields)
            steps.append(_Step(change, ROUTE, {}, route, before_id))
    return steps


def _route_values(number: int, route: config_file.Route) -> dict[str, Any]:
    with _named(f"routes entry {number}"):
        return {
            "to": ROUTE.check("to", route.to),
            "category": Category[route.category].value if route.category else None,
            "sender": None if route.sender is None else ROUTE.check("sender", route.sender),
            "gateways": list(route.gateways),
            "strategy": route.strategy or ("weight" if route.weights else "preference"),
            "weights": ROUTE.check("weights", list(route.weights)),
        }


def _row_steps(
    kind: Kind, key: dict[str, Any], values: dict[str, Any], row: dict[str, Any] | None
) -> list[_Step]:
    with _named(f"{kind.name}s.{next(iter(key.values()))}"):
        values = {name: kind.check(name, value) for name, value in values.items()}
    shown = config.shown(kind, {**(row or {}), **key, **values})
    if row is None:
        fields = {name: (None, shown[name]) for name in values}
        return [_Step(Change("create", config.subject(kind, key), fields), kind, key, values)]
    differing = {name: value for name, value in values.items() if row[name] != value}
    if not differing:
        return []
    before = config.shown(kind, row)
    fields = {name: (before[name], shown[name]) for name in differing}
    return [_Step(Change("change", _title(kind, row), fields), kind, key, differing)]


def _removal(kind: Kind, row: dict[str, Any]) -> Change:
    fields = {name: (value, None) for name, value in config.shown(kind, row).items() if name in kind.fields}
    return Change("remove", _title(kind, row), fields)


def _title(kind: Kind, row: dict[str, Any]) -> str:
    return f"route/{row['to']}" if kind is ROUTE else config.subject(kind, row)
