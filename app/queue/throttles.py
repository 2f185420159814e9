"""Throttles: at most `rate` segments in any sliding second, whoever sends them.

Guarantee: a token is counted from its reservation until one second after the confirmation that its bytes
were written. The confirmation comes after the write, so the carrier never sees more than `rate` in any
sliding second; what a dead process had reserved ages out. A new epoch knows nothing of what the one before
it sent: it grants nothing until that is over.

One exception, by nature: the segments of one text go together, so a text of more segments than the rate goes
alone, when nothing else was sent for a second; all of it counts then. A text of several segments keeps its
place: while it waits for its tokens, shorter ones don't take them, unless they are urgent.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from app.queue.connection import EpochLost, Queue

WINDOW_MS = 1_000
HOLD_MS = 5_000  # a reservation that nobody confirms is dropped after this
BUCKET_MS = 10
SETTLE_MS = 500  # what the epoch before had decided may leave for so long after it is over
TURN_MS = 300  # a place in the line is kept so long after its tokens came: whoever held it may be gone


class Ask(msgspec.Struct, gc=False):
    """`wanted` segments of throttles (name, rate); `least` of them make up the first text, `who` is its id."""

    throttles: list[tuple[str, int]]
    wanted: int
    least: int = 1
    who: str = ""
    urgent: bool = False


class Grant(msgspec.Struct, gc=False):
    """What was reserved. `throttles` are (name, rate); `retry_ms` is when to ask for the rest."""

    throttles: list[tuple[str, int]]
    granted: int
    bucket: int
    retry_ms: int


def _key(queue: Queue, name: str) -> str:
    return f"v{queue.epoch}:{{throttles}}:{name}"


async def reserve(queue: Queue, asks: Sequence[Ask]) -> list[Grant]:
    """What of each may go now: at least the whole first text, or nothing. One round trip. Raises EpochLost."""
    pipe = queue.client.pipeline(transaction=False)
    for ask in asks:
        queue.queue_script(
            pipe,
            "reserve",
            [queue.key("whole"), *(_key(queue, name) for name, _ in ask.throttles)],
            [
                ask.wanted, WINDOW_MS, HOLD_MS, BUCKET_MS, ask.least, ask.who, int(ask.urgent), SETTLE_MS, TURN_MS,
                *(rate for _, rate in ask.throttles),
            ],
        )  # fmt: skip
    answers = await queue.execute(pipe)
    if any(a[0] < 0 for a in answers):
        raise EpochLost("the epoch's mark is gone")
    return [Grant(ask.throttles, a[0], a[1], a[2]) for ask, a in zip(asks, answers, strict=True)]


async def confirm(queue: Queue, items: Sequence[tuple[Grant, int, int]]) -> None:
    """For each (grant, segments written, segments given back). One round trip, after the write."""
    pipe = queue.client.pipeline(transaction=False)
    for grant, used, back in items:
        queue.queue_script(
            pipe,
            "confirm",
            [_key(queue, name) for name, _ in grant.throttles],
            [grant.bucket, used, back, BUCKET_MS],
        )
    await queue.execute(pipe)
