"""The packs in force: those that came with Volley, and an operator's own in their place.

Guarantee: what can't be read changes nothing but its own country, where the pack that held before holds on;
it is said once, in one line.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from app.countries.packs import Packs
from app.countries.schema import BadPack

log = logging.getLogger(__name__)


class Shelf:
    """One a process. `packs` is replaced as a whole; `version` is the configuration's that it was made from."""

    def __init__(self, shipped: Packs) -> None:
        self._shipped = shipped
        self._own: Mapping[str, str] = {}
        self._good: dict[str, str] = {}  # what was last read without fault, by country
        self.packs = shipped
        self.version = -1

    async def put(self, version: int, own: Mapping[str, str]) -> bool:
        """Take over an operator's packs (TOML by country); True if others hold now than before."""
        if own == self._own:
            self.version = version
            return False
        changed = await asyncio.to_thread(self._made, own)
        self._own, self.version = dict(own), version
        return changed

    def _made(self, own: Mapping[str, str]) -> bool:
        good: dict[str, str] = {}
        packs = self._shipped
        for country, content in own.items():
            for candidate in (content, self._good.get(country)):
                if candidate is None:
                    continue
                try:
                    packs = packs.replaced({f"{country}.toml": candidate.encode()})
                except BadPack as error:
                    log.error("a country pack can't be used, the one before holds: %s", error)
                    continue
                good[country] = candidate
                break
        changed = packs.version != self.packs.version
        self._good, self.packs = good, packs
        return changed
