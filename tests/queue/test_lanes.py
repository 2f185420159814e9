"""Lanes on a real server: what is offered stays until it is settled, and is shared fairly."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from app.domain import ids
from app.domain.pack import Entry, Pack, Parcel, Rest, subqueue_of
from app.queue import lanes
from app.queue.connection import WAKE, EpochLost, Queue

LEASE, OTHER = 7, 8


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[Queue]:
    """An epoch of this test's own."""
    queue = Queue(redis_url)
    await queue.client.flushdb()
    queue.attach(1)
    await queue.load()
    yield queue
    await queue.close()


def parcel(
    *,
    region: str = "US",
    category: int = 3,
    batch: int = 0,
    sender: str = "1",
    priority: int = 5,
    segments: int = 10,
    due_in_s: float = -1.0,
) -> Parcel:
    now = time.time()
    entries = [Entry(i, f"+1415200{i:04}", bytes(8), 1) for i in range(segments)]
    batch_id = batch.to_bytes(16, "big") if batch else None
    pack = Pack(1, batch_id, region, "US", category, sender, "hi", None, None, False, entries)
    return Parcel(ids.new_id(now), ids.new_id(now), 1, 1, priority, now + due_in_s, pack)


async def ready(queue: Queue, at_s: float | None = None) -> list[str]:
    found, _ = await lanes.ready(queue, int((time.time() if at_s is None else at_s) * 1000) + 5, 100)
    return found


async def claim(queue: Queue, lane: str = "US:3", cost: int = 1000, lease: int = LEASE, limit: int = 100):
    return await lanes.claim(queue, [lane], lease, {lane: cost}, limit)


async def test_offering_twice_leaves_one(queue: Queue) -> None:
    one = parcel()
    assert await lanes.offer(queue, [one, one]) == 1
    assert await lanes.offer(queue, [one]) == 0
    assert [p.id for p in await claim(queue)] == [one.id]
    assert await lanes.offer(queue, [one]) == 0, "a claimed parcel is still there"
    assert await claim(queue) == []
    await lanes.settle(queue, [(one.lane, one.id)], LEASE)
    assert await lanes.offer(queue, [one]) == 1, "settled, so gone"


async def test_what_stands_in_no_list_is_put_back_and_what_stands_in_one_is_not(queue: Queue) -> None:
    """A list, an entry of one, or a subqueue's place in the ring is lost; what is claimed or deferred needs none."""
    lost, same, other, gone = parcel(), parcel(), parcel(batch=1), parcel(batch=2)
    claimed, deferred = parcel(priority=1), parcel(due_in_s=60.0)
    await lanes.offer(queue, [claimed])
    assert [one.id for one in await claim(queue)] == [claimed.id]
    await lanes.offer(queue, [lost, same, other, gone, deferred])
    assert await lanes.mend(queue, ["US:3"]) == 0
    prefix = "v1:{US:3}:"
    await queue.client.lrem(f"{prefix}q:{subqueue_of(lost)}", 1, lost.id)
    await queue.client.zrem(f"{prefix}ring", subqueue_of(other))
    await queue.client.delete(f"{prefix}q:{subqueue_of(gone)}")
    assert await lanes.mend(queue, ["US:3"]) == 2
    assert await lanes.mend(queue, ["US:3"]) == 0
    taken = [one.id for one in await claim(queue)]
    assert sorted(taken) == sorted([lost.id, same.id, other.id, gone.id])
    assert await lanes.mend(queue, ["US:3"]) == 0


async def test_what_comes_out_is_what_went_in(queue: Queue) -> None:
    one = parcel()
    one.masks = {3: Rest(0b101, 77)}
    await lanes.offer(queue, [one])
    assert await claim(queue) == [one]


async def test_only_its_owner_settles_or_gives_back(queue: Queue) -> None:
    one = parcel()
    await lanes.offer(queue, [one])
    await claim(queue)
    await lanes.settle(queue, [(one.lane, one.id)], OTHER)
    await lanes.give_back(queue, [(one.lane, one.id)], OTHER)
    assert await lanes.known(queue, one.lane, [one.id]) == [True]
    assert await claim(queue, lease=OTHER) == []
    await lanes.give_back(queue, [(one.lane, one.id)], LEASE)
    assert [p.id for p in await claim(queue, lease=OTHER)] == [one.id]


async def test_a_dead_owner_loses_all_it_held_and_others_nothing(queue: Queue) -> None:
    mine, theirs = parcel(), parcel(region="VN")
    await lanes.offer(queue, [mine, theirs])
    await claim(queue, "US:3", lease=LEASE)
    await claim(queue, "VN:3", lease=OTHER)
    assert await lanes.retake(queue, await lanes.lanes(queue), LEASE) == 1
    assert [p.id for p in await claim(queue, "US:3", lease=OTHER)] == [mine.id]
    assert await claim(queue, "VN:3", lease=LEASE) == []


async def test_given_back_parcels_keep_their_place(queue: Queue) -> None:
    parcels = [parcel() for _ in range(4)]
    await lanes.offer(queue, parcels)
    first = await claim(queue, cost=11)  # two of them: one may pass the cost
    await lanes.give_back(queue, [(p.lane, p.id) for p in first], LEASE)
    assert [p.id for p in await claim(queue)] == [p.id for p in parcels]


async def test_a_claim_stops_at_its_cost_and_at_its_number(queue: Queue) -> None:
    await lanes.offer(queue, [parcel(segments=10) for _ in range(20)])
    assert len(await claim(queue, cost=30)) == 3
    assert len(await claim(queue, cost=1000, limit=5)) == 5
    assert len(await claim(queue, cost=25)) == 3, "the last one may pass the cost"


async def test_subqueues_share_by_segments(queue: Queue) -> None:
    await lanes.offer(queue, [parcel(batch=1, segments=20) for _ in range(40)])
    await lanes.offer(queue, [parcel(batch=2, segments=10) for _ in range(80)])
    took: Counter[int] = Counter()
    for _ in range(20):
        for one in await claim(queue, cost=20, limit=1):
            took[one.pack.batch_id[-1]] += one.segments
    assert abs(took[1] - took[2]) <= 20, took


async def test_a_newcomer_neither_waits_for_the_backlog_nor_catches_up_on_it(queue: Queue) -> None:
    await lanes.offer(queue, [parcel(batch=1) for _ in range(60)])
    for _ in range(20):
        await claim(queue, cost=10, limit=1)
    await lanes.offer(queue, [parcel(batch=2) for _ in range(60)])
    took = Counter([(await claim(queue, cost=10, limit=1))[0].pack.batch_id[-1] for _ in range(20)])
    assert 9 <= took[2] <= 11, took


async def test_urgent_priorities_go_first(queue: Queue) -> None:
    await lanes.offer(queue, [parcel(batch=1, priority=5) for _ in range(3)])
    await lanes.offer(queue, [parcel(batch=2, priority=0)])
    assert [p.priority for p in await claim(queue)] == [0, 5, 5, 5]


async def test_a_parcel_due_later_comes_out_when_it_is_due(queue: Queue) -> None:
    soon = parcel(due_in_s=0.15)
    await lanes.offer(queue, [soon])
    assert await claim(queue) == []
    _, next_ms = await lanes.ready(queue, int(time.time() * 1000), 10)
    assert next_ms is not None
    assert abs(next_ms / 1000 - soon.due_at) < 0.01
    assert await ready(queue) == []
    while time.time() < soon.due_at + 0.005:
        pass
    assert await ready(queue) == ["US:3"]
    assert [p.id for p in await claim(queue)] == [soon.id]


async def test_a_blocked_subqueue_does_not_hold_up_its_lane(queue: Queue) -> None:
    slow, quick = parcel(sender="slow"), [parcel(sender="quick") for _ in range(3)]
    await lanes.offer(queue, [slow])
    await claim(queue)
    await lanes.offer(queue, quick)
    await lanes.give_back(queue, [(slow.lane, slow.id)], LEASE, until_ms=int((time.time() + 0.2) * 1000))
    assert await ready(queue) == ["US:3"], "the others of the lane are ready now"
    assert [p.pack.sender for p in await claim(queue)] == ["quick"] * 3
    assert await ready(queue) == []
    _, next_ms = await lanes.ready(queue, int(time.time() * 1000), 10)
    assert next_ms is not None, "the lane comes back with its blocked subqueue"
    while time.time() * 1000 <= next_ms + 2:
        pass
    assert [p.id for p in await claim(queue)] == [slow.id]


async def test_offering_to_a_blocked_subqueue_does_not_unblock_it(queue: Queue) -> None:
    first, second = parcel(), parcel()
    await lanes.offer(queue, [first])
    await claim(queue)
    await lanes.give_back(queue, [(first.lane, first.id)], LEASE, until_ms=int((time.time() + 60) * 1000))
    await lanes.offer(queue, [second])
    assert await claim(queue) == []
    assert await ready(queue) == []


async def test_an_older_view_of_a_lane_never_hides_it(queue: Queue) -> None:
    """A claim that found the lane empty reports late, after an offer made it ready."""
    one = parcel()
    await lanes.offer(queue, [one])
    version = int(await queue.client.hget(queue.key("versions"), "US:3"))
    await lanes._index(queue, [("US:3", version - 1, -1)])
    assert await ready(queue) == ["US:3"]


async def test_a_lane_that_fell_out_of_the_index_comes_back(queue: Queue) -> None:
    """Whoever offered died between the lane and the index."""
    await lanes.offer(queue, [parcel()])
    await queue.client.delete(queue.key("ready"))
    assert await ready(queue) == []
    await lanes.reindex(queue, ["US:3"])
    assert await ready(queue) == ["US:3"]


async def test_forgotten_parcels_are_gone_wherever_they_were(queue: Queue) -> None:
    waiting, deferred, claimed = parcel(), parcel(due_in_s=60), parcel(region="VN")
    await lanes.offer(queue, [waiting, deferred, claimed])
    await claim(queue, "VN:3")
    await lanes.forget(queue, [(p.lane, p.id) for p in (waiting, deferred, claimed)])
    assert await claim(queue) == []
    assert await lanes.depths(queue, ["US:3", "VN:3"]) == {"US:3": (0, 0, 0), "VN:3": (0, 0, 0)}


async def test_depths_count_parcels_deferred_and_claimed(queue: Queue) -> None:
    await lanes.offer(queue, [parcel(), parcel(), parcel(due_in_s=60)])
    await claim(queue, cost=1)
    assert await lanes.depths(queue, ["US:3"]) == {"US:3": (3, 1, 1)}


async def test_no_epoch_sees_another_ones_parcels(queue: Queue) -> None:
    await lanes.offer(queue, [parcel()])
    queue.attach(2)
    assert await ready(queue) == []
    assert await claim(queue) == []


async def test_a_restarted_server_answers_no_script(queue: Queue) -> None:
    await queue.client.script_flush()
    with pytest.raises(EpochLost):
        await lanes.offer(queue, [parcel()])


async def test_an_offer_wakes_whoever_listens(queue: Queue) -> None:
    wakes = lanes.wakes(queue)
    heard = asyncio.ensure_future(anext(wakes))
    while not (await queue.client.pubsub_numsub(WAKE))[0][1]:
        await asyncio.sleep(0.005)
    await lanes.offer(queue, [parcel()])
    await asyncio.wait_for(heard, 30)
    await wakes.aclose()
