"""What all dispatchers counted of each gateway, in buckets of BUCKET_S. Advisory: without it each judges by its own.

Guarantees: a bucket is forgotten KEEP_S after its last count; nothing here is of the epoch, and nothing that is
promised depends on it. Fields are bounded by regions and counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from app.domain.health import BUCKET_S, FIELDS, RECEIPTS_S, Counts
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
