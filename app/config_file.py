"""volley.toml: gateways, routes, regions and currencies, typed and checked.

Guarantees: what `load` returns is consistent (names are unique, routes name gateways that
exist); a mistake is one line that names the file, the table and the key, and repeats neither
passwords nor URLs.

    [[gateways]]   name, url, rate?, currency?, prices? or prices_file?, health?
                   further tables in it go to the gateway's adapter as they are
    [[routes]]     to, gateways, category?, sender?, strategy?, weights?     first match wins
    [regions.XX]   rate?, prefixes?, paused?, test_numbers?    XX: an ISO 3166-1 code, or with subdivision, US-FL
    [currencies]   EUR = "1.08"        what one unit is worth in the currency that prices are compared in
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from app.domain import health, phone, prices

MAX_FILE_BYTES = 4 * 1024 * 1024
SANDBOX = "sandbox"
SANDBOX_PORT = 2775

_NAME = re.compile(r"[a-z0-9][a-z0-9_.\-]{0,63}")
_REGION = re.compile(r"[A-Z]{2}(-[A-Z0-9]{1,3})?")
_PREFIX = re.compile(r"\+?[1-9][0-9]{0,14}")
_SCHEME = re.compile(r"[a-z][a-z0-9+.\-]*")


class ConfigError(Exception):
    """One line: the file, the table, the key, and what is wrong."""


class Gateway(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A way out. `settings` holds the tables that only its adapter understands."""

    name: str
    url: str
    rate: int | None = None  # segments a second; None or 0: no limit
    settings: dict[str, Any] = {}
    currency: str | None = None
    prices: dict[str, Any] = {}  # of a segment, by prefix, region, country or '*'
    prices_file: str | None = None  # to,price as CSV, beside volley.toml
    health: dict[str, Any] = {}  # `app.domain.health.Limits`, where they differ


class Route(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where messages go: to a region or a number prefix, `*` for all; gateways by preference."""

    to: str
    gateways: tuple[str, ...]
    category: Literal["otp", "transactional", "marketing"] | None = None
    sender: str | None = None
    strategy: Literal["preference", "weight", "cost"] | None = None  # None: by weight where there are any
    weights: tuple[int, ...] = ()


class Region(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A region's rate in segments a second (None or 0: no limit), and prefixes where it isn't a country."""

    rate: int | None = None
    prefixes: tuple[str, ...] = ()
    paused: bool = False
    test_numbers: tuple[str, ...] = ()


Table = TypeVar("Table", Gateway, Route, Region)


class Config(msgspec.Struct, frozen=True):
    """The whole file."""

    gateways: tuple[Gateway, ...] = ()
    routes: tuple[Route, ...] = ()
    regions: dict[str, Region] = {}
    currencies: dict[str, str] = {}


def load(path: Path) -> Config:
    """The file's content, checked. Raises ConfigError."""
    return parse(_read(path), path.name, path.parent)


def shipped(port: int = SANDBOX_PORT) -> str:
    """The text of a first start's file: everything goes to the sandbox, which listens on `port`."""
    return files("app").joinpath("volley.toml").read_text().replace(f":{SANDBOX_PORT}?", f":{port}?")


def is_shipped(text: str) -> bool:
    """Whether it is a first start's file that nobody has changed since."""
    port = re.search(r"@127\.0\.0\.1:(\d+)\?", text)
    return port is not None and text == shipped(int(port[1]))


def sandbox_port(config: Config) -> int | None:
    """The port of the gateway named `sandbox`, where there is one on this machine."""
    for gateway in config.gateways:
        if gateway.name == SANDBOX:
            return port_here(gateway.url)
    return None


def port_here(url: str) -> int | None:
    """The port of a gateway that is on this machine."""
    parts = urlsplit(url)
    return parts.port if parts.hostname in ("127.0.0.1", "localhost", "::1") else None


def parse(text: str, source: str, folder: Path | None = None) -> Config:
    """The content of a file named `source`; price files are in `folder`. Raises ConfigError."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: {error}") from None
    try:
        return _config(document, folder)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from None


def _read(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: not a file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
        return path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8") from None


def _config(document: dict[str, Any], folder: Path | None) -> Config:
    for key in document:
        if key not in ("gateways", "routes", "regions", "currencies"):
            raise ValueError(
                f"{key}: there is no such table; there are gateways, routes, regions and currencies"
            )
    gateways = tuple(_gateway(where, table, folder) for where, table in _tables(document, "gateways"))
    names: set[str] = set()
    for gateway in gateways:
        if gateway.name in names:
            raise ValueError(f"gateways.{gateway.name}: the name is used twice")
        names.add(gateway.name)
    routes = tuple(_route(where, table, names) for where, table in _tables(document, "routes"))
    regions = document.get("regions", {})
    if not isinstance(regions, dict):
        raise ValueError("regions: write [regions.XX]")
    found = {code: _region(code, table) for code, table in regions.items()}
    return Config(gateways, routes, found, _currencies(document.get("currencies", {})))


def _currencies(table: object) -> dict[str, str]:
    if not isinstance(table, dict):
        raise ValueError("currencies: write [currencies]")
    return {
        prices.currency(code, f"currencies.{code}"): f"{prices.rate(value, f'currencies.{code}'):f}"
        for code, value in table.items()
    }


def _tables(document: dict[str, Any], key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    tables = document.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError(f"{key}: write [[{key}]], with two brackets")
    for number, table in enumerate(tables, 1):
        name = table.get("name")
        yield (f"{key}.{name}" if isinstance(name, str) and name else f"{key} entry {number}"), table


def _gateway(where: str, table: dict[str, Any], folder: Path | None) -> Gateway:
    extra = {
        key: value
        for key, value in table.items()
        if (isinstance(value, dict) or _are_tables(value)) and key not in ("prices", "health")
    }
    plain = {key: value for key, value in table.items() if key not in extra}
    if "settings" in plain:
        raise ValueError(f"{where}.settings: there is no such key")
    gateway = _convert(where, {**plain, "settings": extra}, Gateway)
    if not _NAME.fullmatch(gateway.name):
        raise ValueError(f"{where}.name: small letters, digits, '-', '_' and '.', at most 64")
    _check_rate(where, gateway.rate)
    _check_url(where, gateway.url)
    try:
        health.limits_of(gateway.health)
    except ValueError as error:
        raise ValueError(f"{where}.health: {error}") from None
    return _priced(where, gateway, folder)


def _priced(where: str, gateway: Gateway, folder: Path | None) -> Gateway:
    """With its prices as they are kept, and those of its file."""
    found = prices.price_list(gateway.prices, f"{where}.prices")
    if gateway.prices_file is not None:
        if found:
            raise ValueError(f"{where}: prices and prices_file exclude each other")
        try:
            found = prices.read_csv(_read((folder or Path()) / gateway.prices_file))
        except prices.BadPrice as error:
            raise ValueError(f"{where}.prices_file: {error}") from None
    if gateway.currency is not None:
        prices.currency(gateway.currency, f"{where}.currency")
    elif found:
        raise ValueError(f"{where}.currency: prices need a currency")
    return msgspec.structs.replace(gateway, prices=found, prices_file=None)


def _are_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(inner, dict) for inner in value)


def _check_url(where: str, url: str) -> None:
    """The URL has a scheme and a host; what else it must say, the adapter of its scheme knows."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(f"{where}.url: not a URL") from None
    if not _SCHEME.fullmatch(parts.scheme) or "://" not in url:
        raise ValueError(f"{where}.url: it has no scheme (smpp://, https://, twilio://)")
    if not parts.hostname:
        raise ValueError(f"{where}.url: it names no host")


def _route(where: str, table: dict[str, Any], gateways: set[str]) -> Route:
    route = _convert(where, table, Route)
    if route.to != "*" and not _REGION.fullmatch(route.to) and not _PREFIX.fullmatch(route.to):
        raise ValueError(f"{where}.to: {route.to!r} is neither '*' nor a region nor a number prefix")
    if not route.gateways:
        raise ValueError(f"{where}.gateways: name at least one")
    for name in route.gateways:
        if name not in gateways:
            raise ValueError(f"{where}.gateways: there is no gateway {name!r}")
    if len(set(route.gateways)) < len(route.gateways):
        raise ValueError(f"{where}.gateways: one is named twice")
    strategy = route.strategy or ("weight" if route.weights else "preference")
    if strategy != "weight" and route.weights:
        raise ValueError(f"{where}.weights: only a route with the strategy 'weight' has any")
    if strategy == "weight" and (len(route.weights) != len(route.gateways) or not any(route.weights)):
        raise ValueError(
            f"{where}.weights: one for each gateway, in their order, at least one of them above 0"
        )
    if any(weight < 0 for weight in route.weights):
        raise ValueError(f"{where}.weights: a weight is 0 or more")
    return route


def _region(code: str, table: object) -> Region:
    where = f"regions.{code}"
    if not _REGION.fullmatch(code):
        raise ValueError(f"{where}: {code!r} is no region code (VN, US-FL)")
    if not isinstance(table, dict):
        raise ValueError(f"{where}: write [regions.{code}]")
    region = _convert(where, table, Region)
    _check_rate(where, region.rate)
    for prefix in region.prefixes:
        if not _PREFIX.fullmatch(prefix):
            raise ValueError(f"{where}.prefixes: {prefix!r} is no number prefix")
    if not region.prefixes and not phone.is_country(code):
        raise ValueError(f"{where}.prefixes: {code} is no country (ISO 3166-1): say which numbers are in it")
    for place, number in enumerate(region.test_numbers, 1):
        try:
            phone.parse(number)
        except phone.InvalidNumber as error:
            raise ValueError(f"{where}.test_numbers: number {place}: {error.detail}") from None
    return region


def _check_rate(where: str, rate: int | None) -> None:
    if rate is not None and rate < 0:
        raise ValueError(f"{where}.rate: {rate} is negative")


def _convert(where: str, table: dict[str, Any], kind: type[Table]) -> Table:
    """A table as its type. msgspec names the place as `$.key`; here it becomes `table.key`."""
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        raise ValueError(f"{where}{place.rstrip('`')}: {message[:1].lower()}{message[1:]}") from None
