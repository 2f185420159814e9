"""Throttles: at most `rate` segments in any sliding second, whoever sends them, as the carrier sees it.

Guarantee: a token counts from its reservation until one second after the moment by which the carrier had seen its
segment; what a dead process had reserved ages out. So that no token lies idle while its next use is decided and
journalled, a reservation also takes those that will have come free shortly, each with the moment (its slot)
before which it must not be used. Why no sliding second can pass the rate: ADR 2.

A new epoch knows nothing of what the one before it sent: it grants nothing until that is over.

One exception, by nature: the segments of one text go together, so a text of more segments than the rate goes
alone, when nothing else was sent for a second; all of it counts then. A text of several segments keeps its
place: while it waits for its tokens, shorter ones don't take them, unless they are urgent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from app.queue.clock import ServerClock
from app.queue.connection import EpochLost, Queue

WINDOW_MS = 1_000
AHEAD_MS = 160  # how far ahead slots are given: a cycle's length, and some
PAUSE_MS = (
    50  # when all slots that far ahead are given, the next question waits so long: one cycle for several
)
HOLD_MS = 5_000  # a reservation that nobody confirms is dropped so long after its slot
BUCKET_MS = 5  # moments are rounded up to this
SPREAD = 1.5  # times the rate: what is free at once goes at this pace, unless it is urgent
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
    """What was reserved: (slot, tokens), soonest first; `retry_ms` is when to ask for the rest.

    A slot is a moment in ms by Redis' clock; `Throttles.due` maps it. A token may be used later than its slot,
    never before.
    """

    throttles: list[tuple[str, int]]
    slots: list[tuple[int, int]]
    retry_ms: int

    @property
    def granted(self) -> int:
        """Tokens in all."""
        return sum(n for _, n in self.slots)


class Spent(msgspec.Struct, gc=False):
    """What became of tokens of one slot: `used` were seen by the carrier at `seen_s` (monotonic) at the latest, `back`
    were not used."""

    throttles: list[tuple[str, int]]
    slot: int
    used: int
    back: int
    seen_s: float = 0.0


class Throttles:
    """One process's way to them."""

    def __init__(self, queue: Queue, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue = queue
        self._clock = clock
        self._server = ServerClock()

    async def reserve(self, asks: Sequence[Ask]) -> list[Grant]:
        """What of each may go shortly: at least the whole first text, or nothing. One script call. Raises EpochLost."""
        keys: dict[str, int] = {}
        rates: list[int] = []
        args: list[object] = []
        for ask in asks:
            args += (ask.wanted, ask.least, ask.who, int(ask.urgent), len(ask.throttles))
            for name, rate in ask.throttles:
                place = keys.get(name)
                if place is None:
                    place = keys[name] = len(keys) + 1
                    rates.append(rate)
                args.append(place)
        limits = (WINDOW_MS, HOLD_MS, SETTLE_MS, TURN_MS, AHEAD_MS, PAUSE_MS, BUCKET_MS, SPREAD)
        sent_s = self._clock()
        now_us, *answers = await self._queue.script(
            "reserve", [self._queue.key("whole"), *map(self._key, keys)], [*limits, *rates, *args]
        )
        if now_us < 0:
            raise EpochLost("the epoch's mark is gone")
        self._server.sample(sent_s, now_us / 1e6, self._clock())
        return [
            Grant(ask.throttles, list(zip(a[1::2], a[2::2], strict=True)), a[0])
            for ask, a in zip(asks, answers, strict=True)
        ]

    async def confirm(self, spent: Iterable[Spent]) -> None:
        """Say what became of tokens; one script call, some time after the write and well within the second after it."""
        keys: dict[str, int] = {}
        args: list[object] = []
        for one in spent:
            seen_us = int(self._server.no_later(one.seen_s) * 1e6)
            args += (one.slot, one.used, one.back, seen_us, len(one.throttles))
            args += (keys.setdefault(name, len(keys) + 1) for name, _ in one.throttles)
        sent_s = self._clock()
        now_us = await self._queue.script(
            "confirm", list(map(self._key, keys)), [WINDOW_MS, HOLD_MS, BUCKET_MS, *args]
        )
        self._server.sample(sent_s, now_us / 1e6, self._clock())

    def due(self, slot: int) -> float:
        """The monotonic instant from which on a slot of the last `reserve` may be used."""
        return self._server.no_sooner(slot / 1000)

    def _key(self, name: str) -> str:
        return _key(self._queue, name)


async def used(queue: Queue, names: Sequence[str]) -> dict[str, int]:
    """Segments that count against each of these throttles now, reserved ones too. One round trip, nothing is taken.

    Raises RedisError.
    """
    if not names:
        return {}
    pipe = queue.client.pipeline(transaction=False)
    pipe.time()
    for name in names:
        pipe.hgetall(_key(queue, name))
    (seconds, micros), *hashes = await queue.execute(pipe)
    now_ms = seconds * 1000 + micros // 1000
    return {name: sum(_live(fields, now_ms)) for name, fields in zip(names, hashes, strict=True)}


def _key(queue: Queue, name: str) -> str:
    return f"v{queue.epoch}:{{throttles}}:{name}"


def _live(fields: dict[bytes, bytes], now_ms: int) -> list[int]:
    """The tokens of a throttle's hash that have neither ended nor aged out, as `reserve.lua` keeps them."""
    found = []
    for field, n in fields.items():
        kind, bucket = field[:1], field[1:]
        if kind in (b"e", b"r") and bucket.isdigit():
            ends = int(bucket) * BUCKET_MS + (HOLD_MS if kind == b"r" else 0)
            if ends > now_ms:
                found.append(int(n))
    return found
