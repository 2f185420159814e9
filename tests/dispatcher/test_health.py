"""Two dispatchers that watch one gateway over a real Valkey: the same breakers, and one probe."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from app.domain.health import PROBES, REST_S, RUN, Limits
from app.domain.message import State
from app.queue import health as shared
from app.queue.connection import Queue
from dispatcher.health import Watch
from gateways.base import Accepted, Outcome, Unknown

FAILED = Unknown("timeout", "")


class Two:
    """Two of them, with one clock."""

    def __init__(self, queues: list[Queue]) -> None:
        self.now_s = 1_000_000.0
        self.watches = [Watch(queue, lambda: self.now_s) for queue in queues]
        for watch in self.watches:
            watch.follow({"g": Limits(receipt_after_s=1)})

    def answers(self, which: int, outcome: Outcome, n: int) -> None:
        work = SimpleNamespace(gateway_name="g", parcel=SimpleNamespace(pack=SimpleNamespace(region="US")))
        text: Any = SimpleNamespace(tag=SimpleNamespace(work=work), send_before=time.monotonic() + 0.5)
        self.watches[which].outcomes([(text, 0, outcome)] * n)

    async def flush(self) -> None:
        """Both, twice: what one told is with the other."""
        for _ in range(2):
            await asyncio.gather(*(watch.flush({}) for watch in self.watches))

    async def standings(self) -> list[str]:
        await self.flush()
        return [watch.standing("g", "US") for watch in self.watches]

    async def rest(self) -> None:
        """Until it may be probed, and both have texts for it."""
        self.now_s = max(watch.opens_at("g", "US") for watch in self.watches) + 0.1
        for watch in self.watches:
            watch.standing("g", "US")

    async def prober(self) -> int:
        """The one that probes."""
        assert sorted(await self.standings()) == ["failing", "probing"]
        admitted = [watch.admit("g", "US", 100) if watch.standing("g", "US") == "probing" else 0
                    for watch in self.watches]  # fmt: skip
        assert sorted(admitted) == [0, PROBES]
        return admitted.index(PROBES)


@pytest.fixture
async def two(redis_url: str) -> AsyncIterator[Two]:
    queues = [Queue(redis_url), Queue(redis_url)]
    await queues[0].client.flushdb()
    yield Two(queues)
    for queue in queues:
        await queue.close()


async def test_what_one_sees_fail_fails_for_both_and_one_probes_for_both(two: Two) -> None:
    two.answers(0, FAILED, RUN)
    assert await two.standings() == ["failing", "failing"]
    assert two.watches[0].opens_at("g", "US") == two.watches[1].opens_at("g", "US") == two.now_s + REST_S
    await two.rest()
    prober = await two.prober()
    two.now_s += 1
    two.answers(prober, FAILED, 1)
    assert await two.standings() == ["failing", "failing"]
    assert {watch.opens_at("g", "US") for watch in two.watches} == {two.now_s + 2 * REST_S}
    await two.rest()
    prober = await two.prober()
    two.answers(prober, Accepted("1"), PROBES)
    assert await two.standings() == ["well", "well"]
    two.now_s += 3  # nor do the counts of before bring it back
    assert await two.standings() == ["well", "well"]


async def test_who_has_nothing_to_send_does_not_probe(two: Two) -> None:
    two.answers(0, FAILED, RUN)
    await two.flush()
    two.now_s += REST_S + 0.1
    await two.flush()
    shown = {(circuit.state, circuit.health) for watch in two.watches for circuit in watch.circuits()}
    assert shown == {("open", "probing")}  # as what comes next would find it
    two.watches[1].standing("g", "US")
    await two.flush()
    shown_by = [{(one.state, one.health) for one in watch.circuits()} for watch in two.watches]
    assert shown_by == [{("open", "probing")}, {("half_open", "probing")}]
    two.watches[0].standing("g", "US")
    await two.flush()
    assert {(one.state, one.health) for one in two.watches[0].circuits()} == {("open", "failing")}


async def test_a_prober_that_dies_is_followed_by_the_other(two: Two) -> None:
    two.answers(0, FAILED, RUN)
    await two.flush()
    await two.rest()
    prober = await two.prober()
    other = two.watches[1 - prober]
    two.now_s += 2
    other.standing("g", "US")
    await other.flush({})
    assert other.standing("g", "US") == "failing"
    key = shared._lead("g")
    client = other._queue.client
    assert 30_000 < await client.pttl(key) <= 40_000
    await client.pexpire(key, 1)
    while await client.exists(key):
        await asyncio.sleep(0.01)
    two.now_s += 2
    other.standing("g", "US")
    await other.flush({})
    assert other.standing("g", "US") == "probing"


async def test_who_comes_later_knows_it_at_once(two: Two) -> None:
    two.answers(0, FAILED, RUN)
    await two.flush()
    client = two.watches[0]._queue.client
    for word in (b"", b"\xc1", b"\x81\xa5cause\xa7unheard"):  # as another version might write it
        await client.hset("volley:health:g:circuits", "XX", word)
        await two.flush()
    late = Watch(two.watches[0]._queue, lambda: two.now_s)
    late.follow({"g": Limits()})
    await late.flush({})
    assert late.standing("g", "US") == "failing"
    assert late.opens_at("g", "US") == two.watches[0].opens_at("g", "US")


async def test_a_receipt_of_the_probe_may_come_by_the_other(two: Two) -> None:
    two.answers(0, Accepted("1"), 40)
    await two.flush()
    for watch in two.watches:  # what waits for receipts is read each time
        watch.follow({"g": Limits(receipt_after_s=1)})
    two.now_s += 5
    assert await two.standings() == ["worse", "worse"]
    await two.rest()
    assert sorted(await two.standings()) == ["probing", "worse"]
    prober = [watch.standing("g", "US") for watch in two.watches].index("probing")
    assert two.watches[prober].admit("g", "US", 9) == PROBES
    two.answers(prober, Accepted("2"), PROBES)
    two.now_s += 0.5
    moved: Any = SimpleNamespace(
        gateway_id=1, origin=SimpleNamespace(region="US"), latency_s=0.4, state=State.delivered
    )
    two.watches[1 - prober].receipts([moved], {1: "g"})
    assert await two.standings() == ["well", "well"]


async def test_without_redis_each_judges_and_probes_by_itself() -> None:
    queues = [Queue("redis://127.0.0.1:1"), Queue("redis://127.0.0.1:1")]
    two = Two(queues)
    two.answers(0, FAILED, RUN)
    assert await two.standings() == ["failing", "well"]
    two.now_s += REST_S + 0.1
    assert await two.standings() == ["probing", "well"]
    for queue in queues:
        await queue.close()
