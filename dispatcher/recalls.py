"""Texts that a carrier is asked to take back: by the dispatcher that holds a bind of their gateway.

Guarantees: the carrier's yes is committed as a receipt would be, under the same rules, so a message ends once; a
text is `cancelled` only where the carrier took back all of it; a carrier's silence changes no state.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator
from typing import cast

from app.domain.message import State
from app.store import recalls as store
from app.store.engine import AWAY, Database
from app.store.receipts import Match, Slip
from dispatcher.fleet import Fleet
from dispatcher.receipts import Receiver
from gateways import takes_back
from gateways.base import TakesBack

POLL_S = 0.5
PATIENCE_S = 60.0  # a dispatcher that has not answered by then is gone; also the pause after silence
MAX_TRIES = 3
FORGET_EVERY_S = 3_600.0

log = logging.getLogger("volley.dispatcher")


class Recaller:
    """See the head of this file."""

    def __init__(self, database: Database, fleet: Fleet, receiver: Receiver) -> None:
        self._database = database
        self._fleet = fleet
        self._receiver = receiver
        self._forgotten_at = float("-inf")

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._round()
            except AWAY:
                log.warning("recalls can't be read; trying again")
            await asyncio.sleep(POLL_S)

    async def _round(self) -> None:
        able = {
            held.row.id: cast(TakesBack, held.gateway)
            for name, held in self._fleet.open.items()
            if takes_back(held.row.url, held.row.settings) and self._fleet.usable(name) is not None
        }
        async with self._database.driver() as driver:
            if time.monotonic() - self._forgotten_at > FORGET_EVERY_S:
                self._forgotten_at = time.monotonic()
                await store.forget(driver, time.time())
            due = await store.claim(driver, list(able), time.time(), PATIENCE_S) if able else []
        # one after the other: a carrier's window is for texts
        for recall in due:
            await self._ask(able[recall.gateway_id], recall)

    async def _ask(self, gateway: TakesBack, recall: store.Recall) -> None:
        said: list[bool | None] = []
        matched = []
        for found in by_id(recall.taken):
            answer = await gateway.cancel(found[0].gateway_message_id, recall.sender, recall.to)
            said.append(answer)
            if answer:
                slip = Slip(
                    recall.gateway_id, found[0].gateway_message_id, "cancelled", "cancel_sm", "", time.time(),
                    None, None, time.time(),
                )  # fmt: skip
                matched.append((slip, match_of(recall.message_id, recall.gateway_id, found)))
        word: str | None
        if not said:
            word = "too_late"
        elif None in said:
            word = "unanswered" if recall.tries >= MAX_TRIES else None
        else:
            word = "taken_back" if all(said) else "refused"
        await self._receiver.take_answers(matched, (recall.message_id, word) if word else None)


def by_id(taken: Iterable[store.Taken]) -> Iterator[list[store.Taken]]:
    """A text's segments by the carrier's id: a carrier that put the parts together has one for all of them."""
    found: dict[str, list[store.Taken]] = {}
    for one in taken:
        found.setdefault(one.gateway_message_id, []).append(one)
    return iter(found.values())


def match_of(message_id: bytes, gateway_id: int, found: list[store.Taken]) -> Match:
    """The attempt that the carrier's answer about these segments speaks of."""
    first, *others = found
    return Match(
        message_id,
        first.segment,
        first.segments,
        first.answered_at,
        State.submitted,
        gateway_id,
        [one.segment for one in others],
    )
