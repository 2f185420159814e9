"""What a carrier delivers: receipts and inbound texts, from socket to sink and back.

Guarantees:

* a delivery is acknowledged only after the sink's coroutine has returned; if it raises, the
  answer is ESME_RX_T_APPN, so that the carrier delivers again;
* while the sink works, what comes in gathers, and goes to it as the next batch: one call at a
  time for receipts, one for texts, however many there are;
* a connection with `MAX_UNANSWERED` deliveries under way is not read from until half of them
  are answered.

One part of a long text is no text yet. It is acknowledged with the whole, or, where the rest is missing for
`HOLD_PART_S`, after the sink has stored it as a part: an SMSC with a window of one sends no second part before that,
and another bind may bring it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

import msgspec

from gateways import cleaning
from gateways.base import Receipt, Sink
from gateways.smpp import pdu
from gateways.smpp.reassembly import Complete, Reassembler
from gateways.smpp.receipts import ReceiptReader, is_receipt

MAX_BATCH = 1_000  # receipts or texts given to the sink in one call
MAX_UNANSWERED = 5_000  # deliveries of one connection
HOLD_PART_S = 2.0

_log = logging.getLogger(__name__)

Item = TypeVar("Item")


class Source(Protocol):
    """The connection that a delivery came by."""

    unanswered: int

    def acknowledge(self, deliveries: Sequence[tuple[int, int]], status: int) -> None:
        """Answer deliveries, given as (sequence, command); does nothing once the connection is gone."""


Delivery = tuple[Source, int, int]  # connection, sequence, command


class IntakeCounters(msgspec.Struct):
    """Plain ints for the metrics."""

    receipts: int = 0
    inbound: int = 0
    unreadable_receipts: int = 0
    failed_batches: int = 0


class _Batcher(Generic[Item]):
    """One call of the sink at a time; what comes meanwhile is the next batch."""

    def __init__(
        self,
        deliver: Callable[[Sequence[Item]], Awaitable[None]],
        counters: IntakeCounters,
        failed: Callable[[Sequence[Item]], None] = lambda _: None,
    ) -> None:
        self._deliver = deliver
        self._failed = failed
        self._counters = counters
        self._waiting: list[tuple[Item, Sequence[Delivery]]] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, item: Item, deliveries: Sequence[Delivery]) -> None:
        self._waiting.append((item, deliveries))

    def start(self) -> None:
        if self._waiting and self._task is None:
            self._task = asyncio.create_task(self._run())

    async def drained(self) -> None:
        while self._task is not None:
            await asyncio.shield(self._task)

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                status = pdu.ESME_ROK
                try:
                    await self._deliver([item for item, _ in batch])
                except Exception as error:  # whatever it is: the carrier has to deliver again
                    status = pdu.ESME_RX_T_APPN
                    self._counters.failed_batches += 1
                    _log.warning("a batch of %d was not stored: %s", len(batch), type(error).__name__)
                    self._failed([item for item, _ in batch])
                answer([delivery for _, deliveries in batch for delivery in deliveries], status)
        finally:
            self._task = None


class Intake:
    """The deliveries of one gateway, over all its connections."""

    def __init__(
        self,
        name: str,
        sink: Sink,
        reader: ReceiptReader,
        reassembler: Reassembler,
        *,
        unmarked_receipts: bool = False,
    ) -> None:
        self._unmarked = unmarked_receipts
        self.counters = IntakeCounters()
        self._reader = reader
        self._reassembler = reassembler

        async def receipts(batch: Sequence[Receipt]) -> None:
            await sink.receipts(name, batch)

        async def inbound(batch: Sequence[Complete]) -> None:
            await sink.inbound(name, [cleaning.inbound(text.inbound) for text in batch if text.inbound])

        def take_back(batch: Sequence[Complete]) -> None:
            for text in batch:
                reassembler.take_back(text)

        self._receipts = _Batcher[Receipt](receipts, self.counters)
        self._inbound = _Batcher[Complete](inbound, self.counters, take_back)

    def add(self, source: Source, messages: Sequence[tuple[int, int, pdu.Message]], now: float) -> None:
        """The deliveries of one read."""
        source.unanswered += len(messages)
        unreadable: list[Delivery] = []
        for sequence, command, message in messages:
            delivery = (source, sequence, command)
            if not is_receipt(message, unmarked=self._unmarked):
                self._add_texts(self._reassembler.add(message, delivery, now))
                continue
            receipt = self._reader.read(message)
            if receipt is None:
                unreadable.append(delivery)
            else:
                self.counters.receipts += 1
                self._receipts.add(receipt, (delivery,))
        if unreadable:
            # Names no message: delivered again it would name none either.
            self.counters.unreadable_receipts += len(unreadable)
            _log.warning("%d receipts named no message", len(unreadable))
            answer(unreadable, pdu.ESME_ROK)
        self._start()

    def tick(self, now: float) -> None:
        """Hand on the parts that have waited long enough for the rest of their text."""
        if not self._reassembler.idle:
            self._add_texts(self._reassembler.release(now - HOLD_PART_S))
            self._reassembler.forget(now)
            self._start()

    async def drained(self) -> None:
        """Give everything to the sink, the parts of incomplete texts included, and wait until it is answered."""
        self._add_texts(self._reassembler.flush())
        self._start()
        await self._receipts.drained()
        await self._inbound.drained()

    def _add_texts(self, completed: Sequence[Complete]) -> None:
        for text in completed:
            if text.inbound is None:
                answer(text.deliveries, pdu.ESME_ROK)
                continue
            self.counters.inbound += text.inbound.part is None
            self._inbound.add(text, text.deliveries)

    def _start(self) -> None:
        self._receipts.start()
        self._inbound.start()


def answer(deliveries: Sequence[Delivery], status: int) -> None:
    """Answer deliveries, with one write for each connection that they came by."""
    by_source: dict[Source, list[tuple[int, int]]] = {}
    for source, sequence, command in deliveries:
        by_source.setdefault(source, []).append((sequence, command))
    for source, answered in by_source.items():
        source.unanswered -= len(answered)
        source.acknowledge(answered, status)
