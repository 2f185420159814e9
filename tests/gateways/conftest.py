"""What the tests of all gateways share: a sink that remembers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import pytest

from app.domain.text import segment
from gateways.base import Inbound, Outcome, Receipt, Submission

PATIENCE_S = 10.0  # for what happens at once; only a failing test waits so long


class Recorder:
    """A sink. `hold` keeps receipts and texts waiting until it is set; `fail` makes them raise."""

    def __init__(self) -> None:
        self.ended: list[tuple[Submission, int, Outcome]] = []
        self.batches: list[int] = []
        self.receipts_seen: list[Receipt] = []
        self.receipt_batches: list[int] = []
        self.inbound_seen: list[Inbound] = []
        self.readies = 0
        self.fail = 0
        self.hold = asyncio.Event()
        self.hold.set()
        self._changed = asyncio.Event()

    def outcomes(self, batch: Sequence[tuple[Submission, int, Outcome]]) -> None:
        self.ended += batch
        self.batches.append(len(batch))
        self._changed.set()

    def ready(self) -> None:
        self.readies += 1
        self._changed.set()

    async def receipts(self, gateway: str, batch: Sequence[Receipt]) -> None:
        await self._store()
        self.receipts_seen += batch
        self.receipt_batches.append(len(batch))
        self._changed.set()

    async def inbound(self, gateway: str, batch: Sequence[Inbound]) -> None:
        await self._store()
        self.inbound_seen += batch
        self._changed.set()

    async def _store(self) -> None:
        await self.hold.wait()
        if self.fail:
            self.fail -= 1
            self._changed.set()
            raise RuntimeError("the database is away")

    async def until(self, condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
        """Wait for the condition, looked at whenever something is reported (and now and then)."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                waiter = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait([waiter], timeout=0.05)
                waiter.cancel()

    def outcome_of(self, message_id: str) -> list[Outcome]:
        """By segment; fails when a segment has not exactly one."""
        found = [
            (index, outcome)
            for submission, index, outcome in self.ended
            if submission.message_id == message_id
        ]
        indexes = [index for index, _ in found]
        assert len(set(indexes)) == len(indexes), f"a segment of {message_id} ended twice: {found}"
        return [outcome for _, outcome in sorted(found, key=lambda pair: pair[0])]


@pytest.fixture
async def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def submission() -> Callable[..., Submission]:
    """Makes submissions; every field can be given."""

    def make(message_id: str = "m-1", text: str = "hello", **fields: object) -> Submission:
        cut = segment(text)
        given: dict[str, object] = {
            "tag": message_id,
            "message_id": message_id,
            "to": "+12025550101",
            "sender": "12025550199",
            "text": text,
            "encoding": cut.encoding,
            "parts": cut.parts,
            "mask": (1 << len(cut.parts)) - 1,
            "reference": 0x1234,
            "send_before": time.monotonic() + 30,
        }
        return Submission(**{**given, **fields})  # type: ignore[arg-type]

    return make
