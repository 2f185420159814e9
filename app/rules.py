"""Changing suppressions and consents: in PostgreSQL, and in the copy that the dispatcher asks.

Guarantee: whatever fails or crashes, and in whatever order changes of the same number arrive, the copy never
lets through what PostgreSQL forbids.

* What forbids (suppress, withdraw) is written to the copy before its transaction commits: a crash between
  leaves the copy too strict. If the copy can't be written, the same transaction spoils the epoch, and
  nothing is handed over until it is rebuilt.
* What allows (release, grant) is committed first; the copy follows in a second transaction that looks at
  what PostgreSQL says by then. A crash between leaves the copy too strict; repeating the request mends it.
* All of it holds the tenant's lock while it writes, so the copy gets the changes in PostgreSQL's order, and
  `load_copy` reads and writes each page with no change between. Each change is written to the epoch that is
  current under that lock, which may be one that is just being built.
"""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec

from app.domain.recipient import hash_of
from app.queue import rules as fast
from app.queue.connection import EpochLost, Queue, Unavailable
from app.store import epochs
from app.store import rules as book
from app.store.engine import Database
from app.store.intake import at as instant

CAP_WINDOW_S = 86_400
MAX_BULK = 10_000


class Owner(msgspec.Struct, frozen=True):
    """A tenant, as far as rules need it."""

    tenant_id: int
    hash_key: bytes

    def __repr__(self) -> str:
        return f"Owner({self.tenant_id})"


class Stop(msgspec.Struct, frozen=True):
    """A number (E.164) not to be sent to: by one sender, or ('') by any."""

    e164: str
    sender: str = ""
    reason: str = "requested"
    evidence: Mapping[str, Any] = {}


class Word(msgspec.Struct, frozen=True):
    """What a person said about one purpose, and when (Unix seconds; None: now)."""

    e164: str
    purpose: str = book.MARKETING
    evidence: Mapping[str, Any] = {}
    at_s: float | None = None


# -- changes, each a transaction of its own


async def suppress(
    database: Database,
    queue: Queue,
    owner: Owner,
    stops: Sequence[Stop],
    *,
    source: str,
    actor: str,
    now_s: float,
) -> int:
    """Never again to these; gives how many were not suppressed yet. It holds when this returns."""
    async with database.driver() as driver, driver.transaction():
        return await suppress_within(driver, queue, owner, stops, source=source, actor=actor, now_s=now_s)


async def release(
    database: Database,
    queue: Queue,
    owner: Owner,
    places: Sequence[tuple[str, str]],
    *,
    actor: str,
    now_s: float,
    evidence: Mapping[str, Any] | None = None,
) -> int:
    """Lift the suppressions of (number, sender); gives how many there were."""
    async with database.driver() as driver:
        async with driver.transaction():
            released = await release_within(
                driver, owner, places, actor=actor, now_s=now_s, evidence=evidence or {}
            )
        await follow_release(driver, queue, owner, places)
    return released


async def grant(
    database: Database, queue: Queue, owner: Owner, words: Sequence[Word], *, actor: str, now_s: float
) -> int:
    """Consents; gives how many took effect (a newer word about the same purpose outweighs)."""
    async with database.driver() as driver:
        async with driver.transaction():
            await book.lock_for_change(driver, [owner.tenant_id])
            taken = await _put(driver, owner, words, granted=True, actor=actor, now_s=now_s)
        async with driver.transaction():
            await book.lock_for_change(driver, [owner.tenant_id])
            await _mirror_consents(driver, queue, owner, words)
    return taken


async def withdraw(
    database: Database, queue: Queue, owner: Owner, words: Sequence[Word], *, actor: str, now_s: float
) -> int:
    """Withdrawals of consent; gives how many took effect. They hold when this returns."""
    async with database.driver() as driver, driver.transaction():
        await book.lock_for_change(driver, [owner.tenant_id])
        taken = await _put(driver, owner, words, granted=False, actor=actor, now_s=now_s)
        await _mirror_consents(driver, queue, owner, words)
    return taken


async def prepare(database: Database, queue: Queue, tenant_id: int) -> None:
    """A new tenant has no rules yet, and the copy may say so: call it after the tenant's commit."""
    async with database.driver() as driver, driver.transaction():
        await book.lock_for_change(driver, [tenant_id])
        await _write(driver, queue, lambda current: fast.mark_whole(current, [tenant_id]))


# -- the same inside a transaction of the caller's


async def suppress_within(
    driver: asyncpg.Connection,
    queue: Queue,
    owner: Owner,
    stops: Sequence[Stop],
    *,
    source: str,
    actor: str,
    now_s: float,
) -> int:
    """`suppress` in the caller's transaction, which should end soon: it holds the tenant's lock."""
    await book.lock_for_change(driver, [owner.tenant_id])
    rows = [
        (hash_of(owner.hash_key, stop.e164), stop.sender, stop.e164, stop.reason, dict(stop.evidence))
        for stop in stops
    ]
    fresh = await book.suppress(driver, owner.tenant_id, rows, source=source, actor=actor, at=_time(now_s))
    members = [fast.member(row[0], row[1]) for row in rows]
    await _write(driver, queue, lambda current: fast.suppress(current, owner.tenant_id, members))
    return fresh


async def release_within(
    driver: asyncpg.Connection,
    owner: Owner,
    places: Sequence[tuple[str, str]],
    *,
    actor: str,
    now_s: float,
    evidence: Mapping[str, Any],
    only_source: str | None = None,
) -> int:
    """The first half of `release`; after the commit call `follow_release`."""
    await book.lock_for_change(driver, [owner.tenant_id])
    return await book.release(
        driver,
        owner.tenant_id,
        [(hash_of(owner.hash_key, e164), sender) for e164, sender in places],
        only_source=only_source,
        evidence=dict(evidence),
        actor=actor,
        at=_time(now_s),
    )


async def follow_release(
    driver: asyncpg.Connection, queue: Queue, owner: Owner, places: Sequence[tuple[str, str]]
) -> None:
    """The second half: take off the copy what PostgreSQL no longer has."""
    rows = [(hash_of(owner.hash_key, e164), sender) for e164, sender in places]
    async with driver.transaction():
        await book.lock_for_change(driver, [owner.tenant_id])
        still = await book.suppressed(driver, owner.tenant_id, rows)
        members = [fast.member(*row) for row in rows if row not in still]
        await _write(driver, queue, lambda current: fast.release(current, owner.tenant_id, members))


async def _put(
    driver: asyncpg.Connection,
    owner: Owner,
    words: Sequence[Word],
    *,
    granted: bool,
    actor: str,
    now_s: float,
) -> int:
    rows = [
        (
            hash_of(owner.hash_key, word.e164),
            word.purpose,
            word.e164,
            dict(word.evidence),
            _time(now_s if word.at_s is None else word.at_s),
        )
        for word in words
    ]
    return await book.consent(
        driver, owner.tenant_id, rows, granted=granted, actor=actor, recorded_at=_time(now_s)
    )


async def _mirror_consents(
    driver: asyncpg.Connection, queue: Queue, owner: Owner, words: Sequence[Word]
) -> None:
    """Make the copy say what PostgreSQL says about these people's marketing consent."""
    people = [hash_of(owner.hash_key, word.e164) for word in words if word.purpose == book.MARKETING]
    if not people:
        return
    holding = await book.consented(driver, owner.tenant_id, people, book.MARKETING)

    async def mirror(current: Queue) -> None:
        await fast.withdraw(current, owner.tenant_id, [one for one in people if one not in holding])
        await fast.grant(current, owner.tenant_id, list(holding))

    await _write(driver, queue, mirror)


async def _write(driver: asyncpg.Connection, queue: Queue, write: Callable[[Queue], Awaitable[None]]) -> None:
    """Write to the copy of the current epoch; if that fails, spoil the epoch in the same transaction."""
    current = await epochs.current(driver)
    if current.run_id == "":  # never built, or spoiled: whoever builds the next one reads what we commit
        return
    view = copy.copy(queue)  # the same connections, in the epoch that PostgreSQL names
    view.attach(current.epoch)
    try:
        await write(view)
    except (Unavailable, EpochLost, OSError):
        await epochs.spoil(driver, current.epoch)


def _time(instant_s: float) -> datetime:
    made = instant(instant_s)
    assert made is not None
    return made


# -- building the copy


async def load_copy(
    driver: asyncpg.Connection, queue: Queue, *, cap_window_s: int = CAP_WINDOW_S, now_s: float | None = None
) -> None:
    """Fill the epoch that `queue` is attached to from PostgreSQL, in pages, and mark it whole.

    The caller has begun that epoch (`epochs.start`, committed) and finishes it. On Unavailable begin again.
    """
    await _copy_suppressions(driver, queue)
    await _copy_consents(driver, queue)
    since = datetime.fromtimestamp(time.time() if now_s is None else now_s, UTC) - timedelta(
        seconds=cap_window_s
    )
    async for page in book.caps_to_copy(driver, since):
        await fast.remember_caps(queue, page, cap_window_s * 1000)
    async with driver.transaction():
        await book.lock_for_copy(driver)
        await fast.mark_whole(queue, await book.tenant_ids(driver))


async def _copy_suppressions(driver: asyncpg.Connection, queue: Queue) -> None:
    after: tuple[int, bytes, str] | None = None
    while True:
        async with driver.transaction():
            await book.lock_for_copy(driver)
            page = await book.suppressions_to_copy(driver, after)
            by_tenant: dict[int, list[bytes]] = defaultdict(list)
            for tenant_id, recipient, sender in page:
                by_tenant[tenant_id].append(fast.member(recipient, sender))
            for tenant_id, members in by_tenant.items():
                await fast.suppress(queue, tenant_id, members)
        if not page:
            return
        after = page[-1]


async def _copy_consents(driver: asyncpg.Connection, queue: Queue) -> None:
    after: tuple[int, bytes] | None = None
    while True:
        async with driver.transaction():
            await book.lock_for_copy(driver)
            page = await book.consents_to_copy(driver, after)
            by_tenant: dict[int, list[bytes]] = defaultdict(list)
            for tenant_id, recipient in page:
                by_tenant[tenant_id].append(recipient)
            for tenant_id, recipients in by_tenant.items():
                await fast.grant(queue, tenant_id, recipients)
        if not page:
            return
        after = page[-1]
