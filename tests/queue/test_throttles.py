"""Throttles against an oracle: never above the rate in any sliding second, and nearly all of it when asked."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest

from app.queue import cleaning, throttles
from app.queue.connection import EpochLost, Queue


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[Queue]:
    queue = Queue(redis_url)
    await queue.client.flushdb()
    queue.attach(1)
    await queue.load()
    await queue.client.set(queue.key("whole"), 0)  # long ago
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
            (grant,) = await throttles.reserve(queue, [throttles.Ask(limit, chance.randint(1, rate))])
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
    (first,) = await throttles.reserve(queue, [throttles.Ask(both, 60)])
    assert first.granted == 10
    (second,) = await throttles.reserve(queue, [throttles.Ask([("region:US", 100)], 100)])
    assert second.granted == 90, "what the sender did not allow was not taken from the region"
    (third,) = await throttles.reserve(queue, [throttles.Ask(both, 1)])
    assert third.granted == 0
    assert third.retry_ms > 0


async def test_what_is_given_back_is_free_at_once(queue: Queue) -> None:
    limit = [("gateway:g", 10)]
    (grant,) = await throttles.reserve(queue, [throttles.Ask(limit, 10)])
    await throttles.confirm(queue, [(grant, 3, 7)])
    (again,) = await throttles.reserve(queue, [throttles.Ask(limit, 10)])
    assert again.granted == 7


async def test_a_new_rate_holds_from_the_next_call(queue: Queue) -> None:
    (grant,) = await throttles.reserve(queue, [throttles.Ask([("region:US", 10)], 10)])
    await throttles.confirm(queue, [(grant, 10, 0)])
    (more,) = await throttles.reserve(queue, [throttles.Ask([("region:US", 25)], 100)])
    assert more.granted == 15
    (fewer,) = await throttles.reserve(queue, [throttles.Ask([("region:US", 5)], 100)])
    assert fewer.granted == 0


async def test_a_reservation_that_nobody_confirms_ages_out(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttles, "HOLD_MS", 150)
    limit = [("region:US", 10)]
    await throttles.reserve(queue, [throttles.Ask(limit, 10)])
    assert (await throttles.reserve(queue, [throttles.Ask(limit, 10)]))[0].granted == 0
    deadline = time.monotonic() + 2
    while (await throttles.reserve(queue, [throttles.Ask(limit, 10)]))[0].granted == 0:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_confirmation_after_the_reservation_aged_out_still_counts(queue: Queue) -> None:
    """The bytes left late: the second after them is held all the same."""
    limit = [("region:US", 10)]
    (grant,) = await throttles.reserve(queue, [throttles.Ask(limit, 10)])
    await queue.client.delete("v1:{throttles}:region:US")
    await throttles.confirm(queue, [(grant, 10, 0)])
    assert (await throttles.reserve(queue, [throttles.Ask(limit, 10)]))[0].granted == 0


async def confirmed(queue: Queue, n: int, **ask: object) -> throttles.Grant:
    """Ask, and use what was granted at once."""
    (grant,) = await throttles.reserve(queue, [throttles.Ask(wanted=n, **ask)])  # type: ignore[arg-type]
    if grant.granted:
        await throttles.confirm(queue, [(grant, grant.granted, 0)])
    return grant


async def test_a_text_longer_than_the_rate_goes_when_the_window_is_empty(queue: Queue) -> None:
    slow = [("region:US", 2)]
    assert (await confirmed(queue, 3, throttles=slow, least=3, who="long")).granted == 3
    (next_one,) = await throttles.reserve(queue, [throttles.Ask(slow, 1)])
    assert next_one.granted == 0
    assert 900 <= next_one.retry_ms <= throttles.WINDOW_MS + throttles.BUCKET_MS
    await queue.client.delete("v1:{throttles}:region:US")
    await confirmed(queue, 1, throttles=slow)
    grant = await confirmed(queue, 3, throttles=slow, least=3, who="long")
    assert grant.granted == 0
    assert grant.retry_ms >= 900


async def test_less_than_the_first_text_needs_is_not_taken(queue: Queue) -> None:
    limit = [("region:US", 10)]
    await confirmed(queue, 8, throttles=limit)
    assert (await confirmed(queue, 9, throttles=limit, least=3, who="a")).granted == 0
    await queue.client.hdel("v1:{throttles}:region:US", "w")
    assert (await confirmed(queue, 10, throttles=limit)).granted == 2, "nothing of the rest was held"


async def test_a_long_text_keeps_its_place_before_single_ones(queue: Queue) -> None:
    limit = [("region:US", 2)]
    await confirmed(queue, 2, throttles=limit)
    assert (await confirmed(queue, 2, throttles=limit, least=2, who="long")).granted == 0
    (spent,) = await _spent(queue)
    await queue.client.hincrby("v1:{throttles}:region:US", spent, -1)  # type: ignore[misc, arg-type]
    assert (await confirmed(queue, 1, throttles=limit, who="single")).granted == 0, "one is free, not for it"
    assert (await confirmed(queue, 1, throttles=limit, who="otp", urgent=True)).granted == 1
    await queue.client.hdel("v1:{throttles}:region:US", *await _spent(queue))  # type: ignore[misc]
    assert (await confirmed(queue, 1, throttles=limit, who="single")).granted == 0
    assert (await confirmed(queue, 2, throttles=limit, least=2, who="long")).granted == 2


async def _spent(queue: Queue) -> list[bytes]:
    fields = await queue.client.hkeys("v1:{throttles}:region:US")  # type: ignore[misc]
    return [f for f in fields if f.startswith(b"u")]


async def test_a_place_in_the_line_ends_when_its_holder_is_gone(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttles, "WINDOW_MS", 50)
    monkeypatch.setattr(throttles, "TURN_MS", 50)
    limit = [("region:US", 2)]
    await confirmed(queue, 2, throttles=limit)
    assert (await confirmed(queue, 3, throttles=limit, least=3, who="gone")).granted == 0
    deadline = time.monotonic() + 2
    while not (await confirmed(queue, 1, throttles=limit)).granted:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_new_epoch_grants_nothing_until_the_window_before_it_is_over(queue: Queue) -> None:
    limit = [("region:US", 10)]
    await cleaning.mark(queue)
    (grant,) = await throttles.reserve(queue, [throttles.Ask(limit, 10)])
    assert grant.granted == 0
    assert throttles.WINDOW_MS <= grant.retry_ms <= throttles.WINDOW_MS + throttles.SETTLE_MS


async def test_nothing_is_granted_on_a_server_that_was_flushed(queue: Queue) -> None:
    await queue.client.flushdb()
    with pytest.raises(EpochLost):
        await throttles.reserve(queue, [throttles.Ask([("region:US", 10)], 1)])
