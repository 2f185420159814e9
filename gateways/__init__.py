"""Ways out. Each kind is a module here, named after the scheme of its URL, with a `build`.

`make` finds it: `smpp://…` is `gateways.smpp`, `twilio+https://…` would be `gateways.twilio`.
A scheme with a final `s` for TLS belongs to the same module: `smpps://…` is `gateways.smpp`.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from app.domain.text import Coding
from gateways.base import Gateway, Sink

_SCHEME = re.compile(r"([a-z][a-z0-9]*)(?:\+[a-z0-9]+)?:")


def make(name: str, url: str, settings: Mapping[str, Any], sink: Sink) -> Gateway:
    """The gateway of that URL, not yet open.

    `settings` are options beside those in the URL, and win over them. Raises ValueError, one
    line that names the scheme or option, and never the password.
    """
    gateway: Gateway = _kind(name, url).build(name, url, settings, sink)
    return gateway


def binds_wanted(url: str, settings: Mapping[str, Any] | None = None) -> int:
    """How many connections the gateway of that URL would hold open; 1 where there is nothing to choose."""
    kind = _kind("", url)
    wanted: int = kind.binds_wanted(url, settings or {}) if hasattr(kind, "binds_wanted") else 1
    return wanted


def codings(url: str, settings: Mapping[str, Any] | None = None) -> tuple[Coding, Coding]:
    """How the gateway of that URL cuts texts: in general, and those whose request allows shift tables."""
    kind = _kind("", url)
    if hasattr(kind, "codings_of"):
        found: tuple[Coding, Coding] = kind.codings_of(url, settings or {})
        return found
    coding: Coding = kind.parse("", url, settings or {}).dsn.coding
    return coding, coding


def takes_back(url: str, settings: Mapping[str, Any] | None = None) -> bool:
    """Whether the gateway of that URL can ask its carrier to take a text back: it then has `cancel`."""
    kind = _kind("", url)
    return hasattr(kind, "takes_back") and bool(kind.takes_back(url, settings or {}))


def query_after_s(url: str, settings: Mapping[str, Any] | None = None) -> float:
    """After how long without a final receipt the gateway of that URL wants to ask its carrier about a text: it then has
    `query`. 0: never."""
    kind = _kind("", url)
    wanted: float = kind.query_after_s(url, settings or {}) if hasattr(kind, "query_after_s") else 0.0
    return wanted


def account(url: str, settings: Mapping[str, Any] | None = None) -> str:
    """The carrier's account that the gateway of that URL uses, or "": gateways of one account see each other's
    receipts, and the carrier's ids are unique among them."""
    kind = _kind("", url)
    shared: str = kind.account(url, settings or {}) if hasattr(kind, "account") else ""
    return shared


def _kind(name: str, url: str) -> ModuleType:
    match = _SCHEME.match(url)
    scheme = match[1] if match else ""
    for module in (scheme, scheme.removesuffix("s")):
        if module and importlib.util.find_spec(f"gateways.{module}"):
            kind = importlib.import_module(f"gateways.{module}")
            if hasattr(kind, "build"):
                return kind
    raise ValueError(f"gateway {name}: there is no kind of gateway for {scheme or 'a URL without scheme'!r}")
