"""Lanes: rings of subqueues of parcels, one lane for each region and category.

Guarantees: offering a parcel twice leaves one; a claimed parcel stays until it is settled or given back;
within a lane, subqueues of the same priority share by cost (start-time fair queueing in segments); a lane
with something ready is in the index, whoever put it there.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from app.domain.pack import Parcel, decode_parcel, encode, subqueue_of
from app.queue.connection import WAKE, Queue

PROMOTE_LIMIT = 200  # deferred parcels that one claim makes ready
WAKE_POLL_S = 1.0  # below the socket's time-out
OFFER_LIMIT = 200  # parcels in one script call: bounds how long it holds the server


def _lane_key(queue: Queue, lane: str, part: str) -> str:
    return f"v{queue.epoch}:{{{lane}}}:{part}"


def _keys(queue: Queue, lane: str, *parts: str) -> list[str]:
    return [_lane_key(queue, lane, part) for part in parts]


async def offer(queue: Queue, parcels: Iterable[Parcel], *, head: bool = False) -> int:
    """Put parcels into their lanes; gives the number that were not there yet."""
    by_lane: dict[str, list[Parcel]] = defaultdict(list)
    batches: set[bytes] = set()
    for parcel in parcels:
        by_lane[parcel.lane].append(parcel)
        if parcel.pack.batch_id is not None:
            batches.add(parcel.pack.batch_id)
    if not by_lane:
        return 0
    if batches:
        now_ms = int(time.time() * 1000)
        await queue.client.zadd(
            queue.key("batches"), dict.fromkeys(batches, now_ms)
        )  # before the first claim
    pipe = queue.client.pipeline(transaction=False)
    lanes = []
    for lane, items in by_lane.items():
        for start in range(0, len(items), OFFER_LIMIT):
            args: list[object] = [0, _lane_key(queue, lane, "q:")]
            for parcel in items[start : start + OFFER_LIMIT]:
                args += (
                    parcel.id,
                    subqueue_of(parcel),
                    parcel.priority,
                    parcel.segments,
                    int(parcel.due_at * 1000),
                    "1" if head else "0",
                    encode(parcel),
                )
            queue.queue_script(
                pipe, "offer", _keys(queue, lane, "payloads", "meta", "ring", "due", "blocked", "state"), args
            )
            lanes.append(lane)
    answers = await queue.execute(pipe)
    await _index(queue, [(lane, a[0], a[1]) for lane, a in zip(lanes, answers, strict=True)])
    return sum(a[2] for a in answers)


async def ready(queue: Queue, now_ms: int, limit: int) -> tuple[list[str], int | None]:
    """Lanes that have something now, longest ready first; and when the next one will (ms), if none."""
    key = queue.key("ready")
    pipe = queue.client.pipeline(transaction=False)
    pipe.zrangebyscore(key, "-inf", now_ms, start=0, num=limit)
    pipe.zrangebyscore(key, f"({now_ms}", "+inf", start=0, num=1, withscores=True)
    now, later = await queue.execute(pipe)
    return [lane.decode() for lane in now], int(later[0][1]) if later else None


async def wakes(queue: Queue) -> AsyncIterator[None]:
    """One item whenever a lane has something earlier than was known. Best effort: a missed one costs a poll."""
    pubsub = queue.client.pubsub(ignore_subscribe_messages=True)
    try:
        await pubsub.subscribe(WAKE)
        while True:
            if await pubsub.get_message(timeout=WAKE_POLL_S) is not None:
                yield
    finally:
        await pubsub.aclose()


async def claim(
    queue: Queue, lanes: Sequence[str], lease: int, costs: Mapping[str, int], max_parcels: int
) -> list[Parcel]:
    """Take parcels of each lane worth up to `costs[lane]` segments (one parcel may pass it)."""
    pipe = queue.client.pipeline(transaction=False)
    for lane in lanes:
        queue.queue_script(
            pipe,
            "claim",
            _keys(queue, lane, "payloads", "meta", "ring", "due", "blocked", "state", "claimed"),
            [_lane_key(queue, lane, "q:"), lease, costs[lane], max_parcels, PROMOTE_LIMIT],
        )
    answers = await queue.execute(pipe)
    await _index(queue, [(lane, a[0], a[1]) for lane, a in zip(lanes, answers, strict=True)])
    return [decode_parcel(payload) for answer in answers for payload in answer[2:]]


async def settle(queue: Queue, done: Iterable[tuple[str, bytes]], lease: int) -> None:
    """Forget claimed parcels (lane, id). PostgreSQL has settled them already."""
    by_lane: dict[str, list[bytes]] = defaultdict(list)
    for lane, parcel_id in done:
        by_lane[lane].append(parcel_id)
    if not by_lane:
        return
    pipe = queue.client.pipeline(transaction=False)
    for lane, parcel_ids in by_lane.items():
        queue.queue_script(
            pipe, "settle", _keys(queue, lane, "payloads", "meta", "claimed"), [lease, *parcel_ids]
        )
    await queue.execute(pipe)


async def give_back(
    queue: Queue, items: Iterable[tuple[str, bytes]], lease: int, *, until_ms: int = 0
) -> None:
    """Claimed parcels return to the head, untouched; with `until_ms` their subqueues leave the ring until then."""
    by_lane: dict[str, list[bytes]] = defaultdict(list)
    for lane, parcel_id in items:
        by_lane[lane].append(parcel_id)
    if by_lane:
        await _give_back(queue, by_lane, lease, until_ms)


async def retake(
    queue: Queue, lanes: Iterable[str], lease: int, under_way: Collection[bytes] = frozenset()
) -> int:
    """Everything that a lease had claimed returns to the head, but what is under way: that may have been handed
    over, and what waits in a lane never was. Gives the number of parcels."""
    if not under_way:
        return await _give_back(queue, {lane: [] for lane in lanes}, lease, 0)
    owner, by_lane = str(lease).encode(), {}
    for lane in lanes:
        claims: Any = await queue.client.hgetall(_lane_key(queue, lane, "claimed"))
        idle = [one for one, holder in claims.items() if holder == owner and one not in under_way]
        if idle:
            by_lane[lane] = idle
    return await _give_back(queue, by_lane, lease, 0)


async def _give_back(queue: Queue, by_lane: Mapping[str, list[bytes]], lease: int, until_ms: int) -> int:
    if not by_lane:
        return 0
    pipe = queue.client.pipeline(transaction=False)
    for lane, parcel_ids in by_lane.items():
        queue.queue_script(
            pipe,
            "give_back",
            _keys(queue, lane, "meta", "ring", "due", "blocked", "state", "claimed"),
            [_lane_key(queue, lane, "q:"), lease, until_ms, *parcel_ids],
        )
    answers = await queue.execute(pipe)
    await _index(queue, [(lane, a[0], a[1]) for lane, a in zip(by_lane, answers, strict=True)])
    return sum(a[2] for a in answers)


async def reindex(queue: Queue, lanes: Iterable[str]) -> None:
    """Put lanes into the index as they stand: whoever touched them last may have died before telling it."""
    names = list(lanes)
    if not names:
        return
    pipe = queue.client.pipeline(transaction=False)
    for lane in names:
        keys = _keys(queue, lane, "payloads", "meta", "ring", "due", "blocked", "state")
        queue.queue_script(pipe, "offer", keys, [0, _lane_key(queue, lane, "q:")])
    answers = await queue.execute(pipe)
    await _index(queue, [(lane, a[0], a[1]) for lane, a in zip(names, answers, strict=True)])


async def mend(queue: Queue, names: Sequence[str]) -> int:
    """Put back what lanes hold and no list of them names, so that nobody would ever claim it; gives how many."""
    if not names:
        return 0
    pipe = queue.client.pipeline(transaction=False)
    for lane in names:
        keys = _keys(queue, lane, "payloads", "meta", "ring", "due", "blocked", "state", "claimed")
        queue.queue_script(pipe, "mend", keys, [_lane_key(queue, lane, "q:")])
    answers = await queue.execute(pipe)
    await reindex(queue, [lane for lane, n in zip(names, answers, strict=True) if n])
    return sum(answers)


async def _index(queue: Queue, views: Sequence[tuple[str, int, int]]) -> None:
    if views:
        args: list[object] = [WAKE]
        for lane, version, next_ms in views:
            args += (lane, version, next_ms)
        await queue.script("index", [queue.key("ready"), queue.key("versions")], args)


async def known(queue: Queue, lane: str, parcel_ids: Sequence[bytes]) -> list[bool]:
    """Which of these parcels the lane holds, waiting or claimed."""
    pipe = queue.client.pipeline(transaction=False)
    key = _lane_key(queue, lane, "payloads")
    for parcel_id in parcel_ids:
        pipe.hexists(key, parcel_id)
    found = await queue.execute(pipe)
    return [bool(one) for one in found]


async def lanes(queue: Queue) -> list[str]:
    """Every lane of this epoch that ever had a parcel."""
    names = await queue.client.hkeys(queue.key("versions"))
    return [bytes(name).decode() for name in names]  # type: ignore[arg-type]


async def depths(queue: Queue, names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """For each lane: parcels in all, of these deferred, of these claimed."""
    pipe = queue.client.pipeline(transaction=False)
    for lane in names:
        pipe.hlen(_lane_key(queue, lane, "payloads"))
        pipe.zcard(_lane_key(queue, lane, "due"))
        pipe.hlen(_lane_key(queue, lane, "claimed"))
    flat = await queue.execute(pipe)
    return {lane: (flat[3 * i], flat[3 * i + 1], flat[3 * i + 2]) for i, lane in enumerate(names)}


async def forget(queue: Queue, items: Iterable[tuple[str, bytes]]) -> None:
    """Remove parcels that PostgreSQL has closed, whoever holds them; their ids in lists lead to nothing."""
    pipe = queue.client.pipeline(transaction=False)
    for lane, parcel_id in items:
        for part in ("payloads", "meta", "claimed"):
            pipe.hdel(_lane_key(queue, lane, part), parcel_id)
        pipe.zrem(_lane_key(queue, lane, "due"), parcel_id)
    await queue.execute(pipe)


# What stands behind what


class Pile(msgspec.Struct, gc=False):
    """A subqueue as it waits. `ahead`: segments before each of its first parcels; `known`: of all that were looked at,
    which may be less than wait."""

    name: str
    length: int
    ahead: list[int]
    known: int

    @property
    def priority(self) -> int:
        """Lower goes first."""
        return int(self.name.partition("/")[0])


async def subqueues(queue: Queue, lane: str, most: int) -> list[str]:
    """Those of the lane that have something, resting ones too."""
    pipe = queue.client.pipeline(transaction=False)
    pipe.zrange(_lane_key(queue, lane, "ring"), 0, most - 1)
    pipe.zrange(_lane_key(queue, lane, "blocked"), 0, most - 1)
    ring, blocked = await queue.execute(pipe)
    return [one.decode() for one in dict.fromkeys([*ring, *blocked])][:most]


async def tail(queue: Queue, lane: str, sub: str, most: int) -> tuple[int, list[Parcel]]:
    """How many parcels wait in a subqueue, and the last ones, from the last on, as far as each is there."""
    key = _lane_key(queue, lane, "q:") + sub
    pipe = queue.client.pipeline(transaction=True)
    pipe.llen(key)
    pipe.lrange(key, -most, -1)
    length, found = await queue.execute(pipe)
    if not found:
        return length, []
    found.reverse()
    payloads: Any = await queue.client.hmget(_lane_key(queue, lane, "payloads"), found)
    parcels = []
    for payload in payloads:
        if payload is None:
            break
        parcels.append(decode_parcel(payload))
    return length, parcels


async def pile(queue: Queue, lane: str, sub: str, worth: float, most: int) -> Pile:
    """A subqueue's parcels from its head on, until they are worth so many segments, or so many were looked at."""
    key = _lane_key(queue, lane, "q:") + sub
    length: Any = await queue.client.llen(key)
    ahead: list[int] = []
    total = 0
    while len(ahead) < min(length, most) and total <= worth:
        found: Any = await queue.client.lrange(key, len(ahead), len(ahead) + OFFER_LIMIT - 1)
        if not found:
            break
        metas: Any = await queue.client.hmget(_lane_key(queue, lane, "meta"), found)
        for meta in metas:
            ahead.append(total)
            total += 0 if meta is None else int(meta.split(b" ", 2)[1])
    return Pile(sub, length, ahead, total)


async def withdraw(queue: Queue, lane: str, sub: str, parcel_ids: Sequence[bytes]) -> int:
    """Take these off the tail, the last one first, as far as they still are the last ones; gives how many were.

    PostgreSQL has them still: whoever does nothing more has only made them wait for the next look for missing ones.
    """
    keys = [*_keys(queue, lane, "payloads", "meta", "claimed"), _lane_key(queue, lane, "q:") + sub]
    return int(await queue.script("withdraw", keys, list(parcel_ids)))


# What an epoch that is over still tells


class Head(msgspec.Struct, array_like=True, gc=False):
    """The first fields of a parcel."""

    id: bytes
    pack_id: bytes
    generation: int


_HEAD = msgspec.msgpack.Decoder(Head)


async def close(queue: Queue) -> list[str]:
    """Nobody claims from this epoch's lanes any more; gives their names."""
    names = await lanes(queue)
    pipe = queue.client.pipeline(transaction=False)
    for name in names:
        pipe.hset(_lane_key(queue, name, "state"), "closed", 1)
    await queue.execute(pipe)
    return names


async def waiting(queue: Queue, lane: str, parcels: Sequence[tuple[bytes, int]]) -> list[bool]:
    """Which of these (id, generation) wait in the lane, unclaimed: nobody handed them over."""
    if not parcels:
        return []
    found = [parcel_id for parcel_id, _ in parcels]
    pipe = queue.client.pipeline()  # at one moment
    pipe.hmget(_lane_key(queue, lane, "payloads"), found)
    pipe.hmget(_lane_key(queue, lane, "claimed"), found)
    payloads, claims = await queue.execute(pipe)
    return [
        payload is not None and claim is None and _HEAD.decode(payload).generation == generation
        for (_, generation), payload, claim in zip(parcels, payloads, claims, strict=True)
    ]


async def entries(queue: Queue, lane: str) -> AsyncIterator[list[Parcel]]:
    """Everything that waits in the lane, unclaimed, in pages."""
    cursor = 0
    while True:
        answer: Any = await queue.client.hscan(_lane_key(queue, lane, "payloads"), cursor, count=OFFER_LIMIT)
        cursor, page = answer
        found = list(page)
        claims: Any = await queue.client.hmget(_lane_key(queue, lane, "claimed"), found) if found else []
        yield [decode_parcel(page[one]) for one, claim in zip(found, claims, strict=True) if claim is None]
        if not cursor:
            return


async def offered_at(queue: Queue, batch_ids: Sequence[bytes]) -> dict[bytes, float]:
    """When parcels of these batches were last offered (Unix seconds); those that were, in the last day or two."""
    if not batch_ids:
        return {}
    scores: Any = await queue.client.zmscore(queue.key("batches"), list(batch_ids))  # type: ignore[arg-type]
    return {
        one: float(score) / 1000 for one, score in zip(batch_ids, scores, strict=True) if score is not None
    }


async def forget_batches(queue: Queue, before_s: float) -> None:
    """Batches that were not offered since."""
    await queue.client.zremrangebyscore(queue.key("batches"), "-inf", int(before_s * 1000))
