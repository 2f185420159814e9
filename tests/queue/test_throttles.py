"""Throttles against an oracle: never above the rate in any sliding second, and nearly all of it when asked."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest

from app.queue import throttles
from app.queue.connection import Queue


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[Queue]:
    queue = Queue(redis_url)
    await queue.client.flushdb()
    queue.attach(1)
    await queue.load()
    yield queue
    await queue.close()


def peak(events: list[tuple[float, int]]) -> int:
    """The most in any window (t - 1 s, t], by going through them all."""
    most = start = inside = 0
    for at, n in events:
        inside += n
        while events[start][0] <= at - 1.0:
            inside -= events[start][1]
            start += 1
        most = max(most, inside)
    return most


@pytest.mark.parametrize("seed", range(2))
async def test_no_sliding_second_passes_the_rate(queue: Queue, seed: int) -> None:
    """Several takers with random sizes, delays before the write, and parts given back."""
    chance = random.Random(seed)
    rate = chance.choice([7, 50, 300])
    limit = [(f"region:{seed}", rate)]
    events: list[tuple[float, int]] = []
    ends = time.monotonic() + 2.2

    async def taker() -> None:
        while time.monotonic() < ends:
            (grant,) = await throttles.reserve(queue, [(limit, chance.randint(1, rate))])
            assert 0 <= grant.granted <= rate
            used = chance.choice([grant.granted, grant.granted, chance.randint(0, grant.granted)])
            await asyncio.sleep(chance.random() * 0.02)
            if used:
                events.append((time.time(), used))
            await throttles.confirm(queue, [(grant, used, grant.granted - used)])
            await asyncio.sleep(max(0.001, min(grant.retry_ms / 1000, 0.02)))

    await asyncio.gather(*(taker() for _ in range(3)))
    assert peak(sorted(events)) <= rate
    assert sum(n for _, n in events) > rate, "and it does go on after the first second"


async def test_the_tightest_of_several_decides(queue: Queue) -> None:
    both = [("region:US", 100), ("sender:1:x", 10)]
    (first,) = await throttles.reserve(queue, [(both, 60)])
    assert first.granted == 10
    (second,) = await throttles.reserve(queue, [([("region:US", 100)], 100)])
    assert second.granted == 90, "what the sender did not allow was not taken from the region"
    (third,) = await throttles.reserve(queue, [(both, 1)])
    assert third.granted == 0
    assert third.retry_ms > 0


async def test_what_is_given_back_is_free_at_once(queue: Queue) -> None:
    limit = [("gateway:g", 10)]
    (grant,) = await throttles.reserve(queue, [(limit, 10)])
    await throttles.confirm(queue, [(grant, 3, 7)])
    (again,) = await throttles.reserve(queue, [(limit, 10)])
    assert again.granted == 7


async def test_a_new_rate_holds_from_the_next_call(queue: Queue) -> None:
    (grant,) = await throttles.reserve(queue, [([("region:US", 10)], 10)])
    await throttles.confirm(queue, [(grant, 10, 0)])
    (more,) = await throttles.reserve(queue, [([("region:US", 25)], 100)])
    assert more.granted == 15
    (fewer,) = await throttles.reserve(queue, [([("region:US", 5)], 100)])
    assert fewer.granted == 0


async def test_a_reservation_that_nobody_confirms_ages_out(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttles, "HOLD_MS", 150)
    limit = [("region:US", 10)]
    await throttles.reserve(queue, [(limit, 10)])
    assert (await throttles.reserve(queue, [(limit, 10)]))[0].granted == 0
    deadline = time.monotonic() + 2
    while (await throttles.reserve(queue, [(limit, 10)]))[0].granted == 0:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_confirmation_after_the_reservation_aged_out_still_counts(queue: Queue) -> None:
    """The bytes left late: the second after them is held all the same."""
    limit = [("region:US", 10)]
    (grant,) = await throttles.reserve(queue, [(limit, 10)])
    await queue.client.flushdb()
    await throttles.confirm(queue, [(grant, 10, 0)])
    assert (await throttles.reserve(queue, [(limit, 10)]))[0].granted == 0
