"""The settings of a process: the only place that reads the environment.

Guarantees: every setting is checked before anything starts; a wrong value, or a variable that
starts with VOLLEY_ and isn't one of ours, is one line that names it and says why, without
repeating a secret. An empty variable is as good as none.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

PREFIX = "VOLLEY_"
MAX_KEY_LENGTH = 256
MAX_WORKERS = 64

LOG_LEVELS = ("debug", "info", "warning", "error")


class SettingsError(Exception):
    """One line for the person at the terminal: the variable, and what is wrong with it."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the environment says, with defaults. `ports` of 0 mean: any free one (`volley up` only)."""

    host: str = "127.0.0.1"  # the API's; 0.0.0.0 for every interface
    port: int = 8000
    data_dir: Path = Path(".volley")  # of the embedded engines, the logs and the first key
    api_key: str | None = None  # the first key's value; for `send` and `batch`: the key to use
    url: str | None = None  # `send` and `batch`: where the API is
    database_url: str | None = None  # None: the embedded PostgreSQL
    redis_url: str | None = None  # None: the embedded Valkey
    config: Path | None = None  # volley.toml; None: the shipped one, with the sandbox
    api_workers: int = 1
    dispatcher_host: str = "127.0.0.1"  # of the dispatcher's /healthz, /readyz and /metrics
    dispatcher_port: int = 8001
    sandbox_port: int | None = None  # None: 2775, or what the last start used
    drain_s: int = 10  # how long a stopping dispatcher waits for the carriers' answers; under `volley up` 2
    webhook_allow_private: bool = False  # whether webhooks may go to private and loopback addresses
    log_level: str = "info"

    @property
    def api_url(self) -> str:
        """Where the commands that are clients find the API."""
        if self.url is not None:
            return self.url
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


def _port(value: str) -> int:
    return _whole_number(value, 1, 65535)


def _whole_number(value: str, low: int, high: int) -> int:
    try:
        number = int(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a whole number") from None
    if not low <= number <= high:
        raise ValueError(f"{number} is not between {low} and {high}")
    return number


def _workers(value: str) -> int:
    return _whole_number(value, 1, MAX_WORKERS)


def _host(value: str) -> str:
    if "/" in value or any(letter.isspace() for letter in value):
        raise ValueError("a host name or an address is wanted, without scheme or path")
    return value


def _data_dir(value: str) -> Path:
    path = Path(value).expanduser()
    try:
        if path.exists() and not path.is_dir():
            raise ValueError(f"{value} is not a folder")
    except OSError as error:  # of a folder above it that we may not enter
        raise ValueError(f"{value} can't be reached: {error.strerror}") from None
    return path


def _config(value: str) -> Path:
    path = Path(value).expanduser()
    if not path.is_file():
        raise ValueError(f"{value} is not a file" if path.exists() else f"there is no file {value}")
    return path


def _key(value: str) -> str:
    """Its characters must fit into an HTTP header. How strong it is, is its owner's choice."""
    if len(value) > MAX_KEY_LENGTH:
        raise ValueError(f"a key has at most {MAX_KEY_LENGTH} characters")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("a key has only visible ASCII characters")
    return value


def _url_of(*schemes: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        expected = " or ".join(f"{scheme}://" for scheme in schemes)
        try:
            parts = urlsplit(value)
            _ = parts.port
        except ValueError:
            raise ValueError(f"not a URL; {expected}host:port is wanted") from None
        if parts.scheme not in schemes:
            raise ValueError(f"{expected} is wanted")
        if not parts.hostname and "host=" not in parts.query and not parts.path:
            raise ValueError("the URL names no host")
        return value

    return check


def _database_url(value: str) -> str:
    url = _url_of("postgresql", "postgres")(value)
    if len(urlsplit(url).path) < 2:
        raise ValueError("the URL names no database")
    return url


def _yes_or_no(value: str) -> bool:
    if value.lower() not in ("1", "true", "yes", "0", "false", "no"):
        raise ValueError(f"{value!r} is neither true nor false")
    return value.lower() in ("1", "true", "yes")


def _log_level(value: str) -> str:
    if value.lower() not in LOG_LEVELS:
        raise ValueError(f"{value!r} is none of {', '.join(LOG_LEVELS)}")
    return value.lower()


# The variable is PREFIX and the upper-case name of the field.
READERS: Mapping[str, Callable[[str], object]] = {
    "host": _host,
    "port": _port,
    "data_dir": _data_dir,
    "api_key": _key,
    "url": _url_of("http", "https"),
    "database_url": _database_url,
    "redis_url": _url_of("redis", "rediss", "unix"),
    "config": _config,
    "api_workers": _workers,
    "dispatcher_host": _host,
    "dispatcher_port": _port,
    "sandbox_port": _port,
    "drain_s": lambda value: _whole_number(value, 1, 300),
    "webhook_allow_private": _yes_or_no,
    "log_level": _log_level,
}


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process (`environ` None), or of a given environment. Raises SettingsError."""
    given = {
        name: value
        for name, value in (os.environ if environ is None else environ).items()
        if name.startswith(PREFIX) and value != ""
    }
    known = {PREFIX + field.upper(): field for field in READERS}
    fields: dict[str, Any] = {}
    for name, value in sorted(given.items()):
        if name not in known:
            raise SettingsError(f"{name}: there is no such setting{_suggestion(name, known)}")
        try:
            fields[known[name]] = READERS[known[name]](value)
        except ValueError as error:
            raise SettingsError(f"{name}: {error}") from None
    return Settings(**fields)


def _suggestion(name: str, known: Mapping[str, str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(sorted(known))}"


def explicit(environ: Mapping[str, str] | None = None) -> frozenset[str]:
    """The names of the fields that the environment sets."""
    source = os.environ if environ is None else environ
    return frozenset(field for field in READERS if source.get(PREFIX + field.upper()))


def child_environment(settings: Settings, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a role that this process starts: ours, with the settings as they are now.

    The key is left out: a role needs none, and what it doesn't know it can't leak.
    """
    source = os.environ if environ is None else environ
    result = {name: value for name, value in source.items() if not name.startswith(PREFIX)}
    for field in READERS:
        value = getattr(settings, field)
        if value is not None and field not in ("api_key", "url"):
            result[PREFIX + field.upper()] = str(value)
    return result
