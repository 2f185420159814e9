"""What each dispatcher shows of itself: its binds and what it has under way. For the console; nothing decides by it.

Guarantee: what is read is at most KEEP_S old; a dispatcher that says nothing more is gone after that.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from app.queue.connection import Queue

KEEP_S = 5.0


class Bind(msgspec.Struct, frozen=True):
    """One live session. `window` and `in_flight` in PDUs, `since` in Unix seconds."""

    gateway: str
    slot: str
    state: str  # connecting, bound, closing, down
    window: int
    in_flight: int
    since: float
    error: str = ""


class Circuit(msgspec.Struct, frozen=True):
    """A breaker that is not closed: `app.domain.health`. `region` '' is the gateway as a whole; Unix seconds."""

    gateway: str
    region: str
    state: str
    cause: str
    since: float
    until: float
    health: str


class Status(msgspec.Struct, frozen=True):
    """One dispatcher. `at` in Unix seconds; `attached`: it works from Redis; `parcels`: under way."""

    lease: int
    at: float
    attached: bool
    parcels: int
    binds: tuple[Bind, ...]
    circuits: tuple[Circuit, ...] = ()


def _key(lease: int) -> str:
    return f"volley:dispatcher:{lease}"


async def show(queue: Queue, status: Status) -> None:
    """Replace what is shown of this dispatcher. Raises RedisError."""
    await queue.client.set(_key(status.lease), msgspec.msgpack.encode(status), px=int(KEEP_S * 1000))


async def shown(queue: Queue, leases: Iterable[int]) -> dict[int, Status]:
    """What the dispatchers of these leases show, those that are silent left out. Raises RedisError."""
    pipe = queue.client.pipeline(transaction=False)
    for lease in leases:
        pipe.get(_key(lease))
    found = [_decode(value) for value in await pipe.execute() if value is not None]
    return {status.lease: status for status in found if status is not None}


def _decode(value: bytes) -> Status | None:
    """None for the form of another version, which a rolling update brings."""
    try:
        return msgspec.msgpack.decode(value, type=Status)
    except msgspec.DecodeError:
        return None
