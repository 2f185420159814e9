"""Texts of which no final receipt comes: their carrier is asked (query_sm), where the gateway's settings say so.

Guarantees: a final state that the carrier tells is stored as a receipt would be, under the same rules, with `query_sm`
in its raw status, so a message ends once; silence, a refusal and an intermediate state change nothing. A gateway
is asked about at most PAGE texts in EVERY_S by a dispatcher, one after the other: its window is for texts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import cast

from app.store import questions as store
from app.store.engine import AWAY, Database
from app.store.receipts import FINAL_OF, Match, Slip
from dispatcher.fleet import Fleet
from dispatcher.recalls import by_id, match_of
from dispatcher.receipts import Receiver
from gateways import query_after_s
from gateways.base import Tells

EVERY_S = 5.0
PAGE = 50
PATIENCE_S = 60.0  # with one page: a carrier that takes longer is asked about the rest another time

log = logging.getLogger("volley.dispatcher")


class Asker:
    """See the head of this file."""

    def __init__(self, database: Database, fleet: Fleet, receiver: Receiver) -> None:
        self._database = database
        self._fleet = fleet
        self._receiver = receiver

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._round()
            except AWAY:
                log.warning("texts without a receipt can't be read; trying again")
            await asyncio.sleep(EVERY_S)

    async def _round(self) -> None:
        asked = []
        for name, held in self._fleet.open.items():
            after_s = query_after_s(held.row.url, held.row.settings)
            if after_s and self._fleet.usable(name) is not None:
                asked.append(self._ask_all(cast(Tells, held.gateway), held.row.id, after_s))
        await asyncio.gather(*asked)

    async def _ask_all(self, gateway: Tells, gateway_id: int, after_s: float) -> None:
        """One page of a gateway's."""
        async with self._database.driver() as driver:
            due = await store.claim(driver, gateway_id, after_s, time.time(), PAGE)
        ends = time.monotonic() + PATIENCE_S
        told: list[tuple[Slip, Match]] = []
        for question in due:
            if time.monotonic() > ends:
                break
            told += await self._ask(gateway, gateway_id, question)
        if told:
            await self._receiver.take_answers(told)

    @staticmethod
    async def _ask(gateway: Tells, gateway_id: int, question: store.Question) -> list[tuple[Slip, Match]]:
        told = []
        for found in by_id(question.taken):
            name = found[0].gateway_message_id
            said = await gateway.query(name, question.sender)
            if said is not None and said.state in FINAL_OF:
                slip = Slip(
                    gateway_id, name, said.state, f"query_sm {said.raw}", said.error, said.done_at, None, None,
                    time.time(),
                )  # fmt: skip
                told.append((slip, match_of(question.message_id, gateway_id, found)))
        return told
