"""Identifiers: UUIDv7 (RFC 9562, section 5.7), with the index of a message inside its pack in the last 10 bits.

Guarantee: `pack_of(message_id(pack, i)) == pack` and `index_of(message_id(pack, i)) == i` for 0 <= i < PACK_LIMIT.
Ids are 16 bytes inside Volley and the canonical text form outside.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from uuid import UUID

INDEX_BITS = 10
PACK_LIMIT = (1 << INDEX_BITS) - 1  # index 0 is the pack's own id, so messages count from 1

_TAILS = tuple((i + 1).to_bytes(2, "big") for i in range(PACK_LIMIT))
_PLACES = tuple((tail[0], tail[1:]) for tail in _TAILS)


def new_id(now_s: float) -> bytes:
    """A UUIDv7 of that instant (Unix seconds) whose last 10 bits are zero."""
    random = bytearray(os.urandom(10))
    random[0] = 0x70 | (random[0] & 0x0F)  # version 7
    random[2] = 0x80 | (random[2] & 0x3F)  # variant 10
    random[8] &= 0xFC
    random[9] = 0
    return int(now_s * 1000).to_bytes(6, "big") + bytes(random)


def message_ids(pack_id: bytes, count: int) -> list[bytes]:
    """The ids of a pack's first `count` messages, in order."""
    head, base = pack_id[:14], pack_id[14]
    if base:
        return [head + bytes((base | tail[0], tail[1])) for tail in _TAILS[:count]]
    return [head + tail for tail in _TAILS[:count]]


def message_id(pack_id: bytes, index: int) -> bytes:
    """The id of the message at `index` (from 0)."""
    tail = _TAILS[index]
    return pack_id[:14] + bytes((pack_id[14] | tail[0], tail[1]))


def message_ids_at(pack_id: bytes, indexes: Iterable[int]) -> list[bytes]:
    """The same for many of one pack, in a third of the time."""
    heads = [pack_id[:14] + bytes((pack_id[14] | high,)) for high in range(4)]
    return [heads[high] + low for high, low in [_PLACES[index] for index in indexes]]


def pack_of(message: bytes) -> bytes:
    """The pack that holds this message."""
    return message[:14] + bytes((message[14] & 0xFC, 0))


def index_of(message: bytes) -> int:
    """The message's index in its pack (from 0); -1 for the pack's own id."""
    return (((message[14] & 0x03) << 8) | message[15]) - 1


def created_at(identifier: bytes) -> float:
    """The instant in the id, Unix seconds (milliseconds kept)."""
    return int.from_bytes(identifier[:6], "big") / 1000


def first_id_at(instant_s: float) -> bytes:
    """The smallest id of that instant: a bound for ranges and partitions."""
    return int(instant_s * 1000).to_bytes(6, "big") + b"\x70\x00\x80" + bytes(7)


def text(identifier: bytes) -> str:
    """Canonical text form."""
    h = identifier.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def parse(value: str) -> bytes | None:
    """16 bytes of a canonical text form; None when it is none."""
    if len(value) != 36:
        return None
    try:
        return UUID(value).bytes
    except ValueError:
        return None
