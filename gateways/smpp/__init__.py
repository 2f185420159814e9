"""SMPP 3.4 gateways, `smpp://` and `smpps://`. Options: `gateways.smpp.config.Options`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateways.base import Gateway, Sink
from gateways.smpp.config import account, binds_wanted, codings_of, parse, query_after_s, takes_back
from gateways.smpp.gateway import SMPPGateway

__all__ = ["account", "binds_wanted", "build", "codings_of", "query_after_s", "takes_back"]


def build(name: str, url: str, settings: Mapping[str, Any], sink: Sink) -> Gateway:
    """A gateway from its settings; not connected yet. ValueError names the setting that makes no sense."""
    return SMPPGateway(name, parse(name, url, settings), sink)
