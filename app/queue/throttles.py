"""Throttles: at most `rate` segments in any sliding second, whoever sends them.

Guarantee: a token is counted from its reservation until one second after the confirmation that its bytes
were written. The confirmation comes after the write, so the carrier never sees more than `rate` in any
sliding second; what a dead process had reserved ages out.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from app.queue.connection import Queue

WINDOW_MS = 1_000
HOLD_MS = 5_000  # a reservation that nobody confirms is dropped after this
BUCKET_MS = 10


class Grant(msgspec.Struct, gc=False):
    """What was reserved. `throttles` are (name, rate); `retry_ms` is when to ask for the rest."""

    throttles: list[tuple[str, int]]
    granted: int
    bucket: int
    retry_ms: int


def _key(queue: Queue, name: str) -> str:
    return f"v{queue.epoch}:{{throttles}}:{name}"


async def reserve(queue: Queue, asks: Sequence[tuple[list[tuple[str, int]], int]]) -> list[Grant]:
    """For each (throttles, segments wanted): what may go now. One round trip."""
    pipe = queue.client.pipeline(transaction=False)
    for throttles, wanted in asks:
        queue.queue_script(
            pipe,
            "reserve",
            [_key(queue, name) for name, _ in throttles],
            [wanted, WINDOW_MS, HOLD_MS, BUCKET_MS, *(rate for _, rate in throttles)],
        )
    answers = await queue.execute(pipe)
    return [Grant(ask[0], a[0], a[1], a[2]) for ask, a in zip(asks, answers, strict=True)]


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
