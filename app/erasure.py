"""Making Volley forget a person of one tenant, on request and provably.

Guarantees: when `ask` returns, nothing more is handed over to that number, and its keyed hash alone says so; what waits
is cancelled; what is with a dispatcher at that moment is erased when it is settled (`advance`, by the sweeper).
The request, who made it and what was erased stay, with the hash: whoever has the number can be shown that it was done.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime

import asyncpg

from app import rules
from app.domain import ids
from app.domain.recipient import hash_of
from app.queue import lanes
from app.queue.connection import EpochLost, Queue, Unavailable
from app.store import erasures, messages, parcels
from app.store.engine import Database
from app.store.erasures import Erasure

SOURCE = "erasure"


async def ask(
    database: Database, queue: Queue, owner: rules.Owner, e164: str, *, actor: str, reason: str, now_s: float
) -> bytes:
    """Suppress for ever, note the request, and erase what can be erased now; gives the request's id."""
    recipient, erasure_id = hash_of(owner.hash_key, e164), ids.new_id(now_s)
    now = datetime.fromtimestamp(now_s, UTC)
    async with database.driver() as driver, driver.transaction():
        await rules.suppress_hashed_within(
            driver, queue, owner, recipient, reason="erased", source=SOURCE, actor=actor, now_s=now_s
        )
        await erasures.insert(
            driver, erasure_id, owner.tenant_id, recipient, actor=actor, reason=reason, now=now
        )
        erasure = await erasures.read(driver, owner.tenant_id, erasure_id)
        assert erasure is not None
        await erasures.proof(driver, erasure, "erasure.ask", {})
        await erasures.proof(driver, erasure, "erasure.rules", await _forget_rules(driver, queue, erasure))
        counts = await erasures.forget_number(driver, owner.tenant_id, e164)
        await erasures.advanced(driver, erasure, counts, None)
    await advance(database, queue, owner.tenant_id, erasure_id, now_s)
    return erasure_id


async def _forget_rules(driver: asyncpg.Connection, queue: Queue, erasure: Erasure) -> dict[str, int]:
    known = await erasures.known_to_copy(driver, erasure.tenant_id, erasure.recipient)
    counts = await erasures.forget_rules(driver, erasure.tenant_id, erasure.recipient)
    await rules.forget_person_within(
        driver, queue, erasure.tenant_id, erasure.recipient, known.brands, known.shared
    )
    return counts


async def advance(database: Database, queue: Queue, tenant_id: int, erasure_id: bytes, now_s: float) -> bool:
    """Erase that person's messages, those that are settled; whether nothing is left."""
    counts: dict[str, int] = defaultdict(int)
    batches: dict[bytes, int] = defaultdict(int)
    after = bytes(16)
    async with database.driver() as driver:
        erasure = await erasures.read(driver, tenant_id, erasure_id)
        if erasure is None or erasure.done_at is not None:
            return True
        hash_key = await erasures.key_of(driver, tenant_id)
        numbers, left = await erasures.came_in(driver, erasure, hash_key)
        while page := await erasures.messages(driver, tenant_id, erasure.recipient, after):
            after = page[-1]
            left |= not await _erase(driver, queue, erasure, page, counts, numbers, batches, now_s)
        async with driver.transaction():
            await erasures.forget_batches(driver, tenant_id, batches)
            for number in sorted(numbers):
                for kind, n in (await erasures.forget_number(driver, tenant_id, number)).items():
                    counts[kind] += n
            if not left:  # what was under way may have left a contact, or a stop by text
                for kind, n in (await _forget_rules(driver, queue, erasure)).items():
                    counts[kind] += n
            done_at = None if left else datetime.fromtimestamp(now_s, UTC)
            total = await erasures.advanced(driver, erasure, counts, done_at)
            if not left:
                await erasures.proof(driver, erasure, "erasure.done", total)
    return not left


async def _erase(
    driver: asyncpg.Connection,
    queue: Queue,
    erasure: Erasure,
    page: list[bytes],
    counts: dict[str, int],
    numbers: set[str],
    batches: dict[bytes, int],
    now_s: float,
) -> bool:
    """One page of messages; False: some are under way."""
    packs: dict[bytes, set[int]] = defaultdict(set)
    for message_id in page:
        packs[ids.pack_of(message_id)].add(ids.index_of(message_id))
    async with driver.transaction():
        waiting = await erasures.open_parcels(
            driver, list(packs)
        )  # before they are cancelled: Redis has them
        for one in await messages.stored(driver, erasure.tenant_id, page):
            counts["cancelled"] += await messages.cancel(driver, one, "erased", now_s)
            if one.pack.batch_id is not None:
                batches[one.pack.batch_id] += 1
        busy = await erasures.under_way(driver, list(packs))
        gone = [one for one in page if ids.pack_of(one) not in busy]
        for pack_id, indexes in packs.items():
            if pack_id not in busy:
                entries = await erasures.blank(driver, pack_id, indexes)
                numbers |= {entry.to for entry in entries if entry.to}
                counts["messages"] += len(entries)
        await erasures.forget_messages(driver, erasure.tenant_id, erasure.recipient, gone)
        # before the commit: as long as Redis can't be reached, nothing of this page counts as erased
        await lanes.forget(queue, [(lane, parcel_id) for parcel_id, lane in waiting])
    await _offer_again(driver, queue, waiting)
    return not busy


async def _offer_again(driver: asyncpg.Connection, queue: Queue, waiting: list[tuple[bytes, str]]) -> None:
    """Redis' copies of what others of the same packs still wait for, without that person."""
    if not waiting:
        return
    try:
        await lanes.offer(queue, await parcels.open_by_id(driver, [parcel_id for parcel_id, _ in waiting]))
    except (EpochLost, Unavailable, OSError):
        return  # the sweeper offers what Redis misses


def proves(erasure: Erasure, hash_key: bytes, e164: str) -> bool:
    """Whether this request was about that number."""
    return erasure.recipient == hash_of(hash_key, e164)
