"""What all dispatchers counted of each gateway, in buckets of BUCKET_S; what its breakers are, and who probes it.
Advisory: without it each judges and probes by its own.

Guarantees: a bucket is forgotten KEEP_S after its last count; nothing here is of the epoch, and nothing that is
promised depends on it. Fields are bounded by regions and counts. While one dispatcher probes, no other one does,
unless the probe takes longer than was said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

import msgspec

from app.domain.health import BUCKET_S, FIELDS, RECEIPTS_S, Breaker, Counts
from app.queue.connection import Queue

KEEP_S = RECEIPTS_S + 3_600 + BUCKET_S  # the longest wait for receipts that a gateway may have

Buckets = dict[tuple[str, str, int], Counts]
"""Counts by gateway, region and bucket."""


def _key(gateway: str, bucket: int) -> str:
    return f"volley:health:{gateway}:{bucket}"


def bucket_of(instant_s: float) -> int:
    """The bucket of a moment."""
    return int(instant_s // BUCKET_S)


async def add(queue: Queue, counted: Mapping[tuple[str, str, int], Counts]) -> None:
    """Add to the counts of all. One round trip. Raises RedisError."""
    if not counted:
        return
    pipe = queue.client.pipeline(transaction=False)
    for (gateway, region, bucket), counts in counted.items():
        key = _key(gateway, bucket)
        for name in FIELDS:
            n = getattr(counts, name)
            if n:
                pipe.hincrby(key, f"{region}/{name}", n)
        pipe.expire(key, KEEP_S)
    await pipe.execute()


async def read(queue: Queue, gateways: Iterable[str], buckets: Iterable[int]) -> Buckets:
    """The counts of all for these gateways and buckets. One round trip. Raises RedisError."""
    places = [(gateway, bucket) for gateway in gateways for bucket in buckets]
    if not places:
        return {}
    pipe = queue.client.pipeline(transaction=False)
    for gateway, bucket in places:
        pipe.hgetall(_key(gateway, bucket))
    found: Buckets = {}
    for (gateway, bucket), fields in zip(places, await pipe.execute(), strict=True):
        for field, n in fields.items():
            region, _, name = field.decode().rpartition("/")
            if name in FIELDS:
                counts = found.setdefault((gateway, region, bucket), Counts())
                setattr(counts, name, int(n))
    return found


_encode, _decode = msgspec.msgpack.encode, msgspec.msgpack.Decoder(Breaker).decode


def _circuits(gateway: str) -> str:
    return f"volley:health:{gateway}:circuits"


def _lead(gateway: str) -> str:
    return f"volley:health:{gateway}:probe"


async def tell(queue: Queue, breakers: Mapping[tuple[str, str], Breaker]) -> None:
    """Breakers that have opened or closed here. One round trip. Raises RedisError."""
    if not breakers:
        return
    pipe = queue.client.pipeline(transaction=False)
    for (gateway, region), breaker in breakers.items():
        pipe.hset(_circuits(gateway), region, _encode(breaker))
        pipe.expire(_circuits(gateway), KEEP_S)
    await pipe.execute()


async def told(queue: Queue, gateways: Iterable[str]) -> dict[tuple[str, str], Breaker]:
    """What was last told of each breaker, by whomever; what can't be read, of another version, is left out. One round
    trip. Raises RedisError."""
    names = list(gateways)
    if not names:
        return {}
    pipe = queue.client.pipeline(transaction=False)
    for gateway in names:
        pipe.hgetall(_circuits(gateway))
    found: dict[tuple[str, str], Breaker] = {}
    for gateway, fields in zip(names, await pipe.execute(), strict=True):
        for region, value in fields.items():
            with suppress(msgspec.DecodeError):
                found[gateway, region.decode()] = _decode(value)
    return found


async def lead(queue: Queue, gateway: str, name: bytes, lasts_s: float) -> bool:
    """Whether it is `name` who probes this gateway, in all regions: nobody else does for so long, or until it leaves.
    Raises RedisError."""
    lasts_ms, key = int(lasts_s * 1000), _lead(gateway)
    if await queue.client.set(key, name, nx=True, px=lasts_ms):
        return True
    return await queue.client.get(key) == name and bool(await queue.client.pexpire(key, lasts_ms))


async def leave(queue: Queue, gateway: str, name: bytes) -> None:
    """The probe of `name` has ended. Raises RedisError."""
    if await queue.client.get(_lead(gateway)) == name:
        await queue.client.delete(_lead(gateway))
