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
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import asyncpg
import msgspec

from app.domain.contacts import brand_scope
from app.domain.phone import InvalidNumber, parse
from app.domain.recipient import hash_of
from app.queue import rules as fast
from app.queue.connection import EpochLost, Queue, Unavailable, in_our_layout
from app.store import epochs, registries, tenant_rules
from app.store import rules as book
from app.store.engine import Database
from app.store.intake import at as instant

CAP_WINDOW_S = 86_400
EDGE_MS = 3_600_000
MAX_BULK = 10_000
FAILOVER = "failover"  # the source of what PostgreSQL had lost


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
    """What a person said about one purpose, and when (Unix seconds; None: now).

    `brand` '': about all of the tenant's; `kind`: express, soft (an earlier sale), inquiry; `ends_s`: till when.
    """

    e164: str
    purpose: str = book.MARKETING
    evidence: Mapping[str, Any] = {}
    at_s: float | None = None
    brand: str = ""
    kind: str = "express"
    ends_s: float | None = None


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
            taken = await grant_within(driver, owner, words, actor=actor, now_s=now_s)
        await follow_grant(driver, queue, owner, words)
    return taken


async def withdraw(
    database: Database, queue: Queue, owner: Owner, words: Sequence[Word], *, actor: str, now_s: float
) -> int:
    """Withdrawals of consent; gives how many took effect. They hold when this returns."""
    async with database.driver() as driver, driver.transaction():
        return await withdraw_within(driver, queue, owner, words, actor=actor, now_s=now_s)


async def prepare(database: Database, queue: Queue, tenant_id: int) -> None:
    """A new tenant has no rules yet, and the copy may say so: call it after the tenant's commit."""
    async with database.driver() as driver, driver.transaction():
        await book.lock_for_change(driver, [tenant_id])
        await _write(driver, queue, lambda current: fast.mark_whole(current, [tenant_id]))


async def prepare_organisation(database: Database, queue: Queue, organisation_id: int) -> None:
    """The same for a new organisation: nobody was contacted yet."""
    async with database.driver() as driver, driver.transaction():
        await book.lock_for_change(driver, [])
        await _write(driver, queue, lambda current: fast.mark_whole(current, [], [organisation_id]))


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


class Blocked(msgspec.Struct, frozen=True):
    """A person whom a carrier refuses since they opted out there: of a text by `sender`."""

    tenant_id: int
    recipient: bytes
    sender: str
    e164: str
    evidence: Mapping[str, Any]


async def suppress_blocked_within(
    driver: asyncpg.Connection, queue: Queue, blocked: Sequence[Blocked], *, now_s: float
) -> int:
    """Whom a carrier refuses we don't ask it to text again; in the caller's transaction. Gives how many are new."""
    by_tenant: dict[int, list[Blocked]] = defaultdict(list)
    for one in blocked:
        by_tenant[one.tenant_id].append(one)
    await book.lock_for_change(driver, list(by_tenant))
    fresh = 0
    for tenant_id, of_tenant in sorted(by_tenant.items()):
        rows = [(o.recipient, o.sender, o.e164, "carrier_opted_out", dict(o.evidence)) for o in of_tenant]
        fresh += await book.suppress(
            driver, tenant_id, rows, source=book.CARRIER, actor=book.CARRIER, at=_time(now_s)
        )
        members = [fast.member(one.recipient, one.sender) for one in of_tenant]
        await _write(driver, queue, partial(_suppress, tenant_id, members))
    return fresh


async def _suppress(tenant_id: int, members: Sequence[bytes], current: Queue) -> None:
    await fast.suppress(current, tenant_id, members)


async def suppress_hashed_within(
    driver: asyncpg.Connection,
    queue: Queue,
    owner: Owner,
    recipient: bytes,
    *,
    reason: str,
    source: str,
    actor: str,
    now_s: float,
) -> None:
    """The same for one person of every sender, of whom nothing but the hash is kept."""
    await book.lock_for_change(driver, [owner.tenant_id])
    row = (recipient, "", None, reason, {"source": source})
    await book.suppress(driver, owner.tenant_id, [row], source=source, actor=actor, at=_time(now_s))
    members = [fast.member(recipient, "")]
    await _write(driver, queue, lambda current: fast.suppress(current, owner.tenant_id, members))


async def forget_person_within(
    driver: asyncpg.Connection,
    queue: Queue,
    tenant_id: int,
    recipient: bytes,
    brands: Sequence[str],
    shared: Sequence[tuple[int, bytes, bytes]],
) -> None:
    """Consents and contacts that PostgreSQL no longer has are taken off the copy, in the caller's transaction.

    `shared`: contacts that count for an organisation: (organisation, its hash of the person, message id).
    """
    fields = [fast.member(recipient, brand_scope(brand)) for brand in brands]
    items: dict[int, list[tuple[bytes, bytes]]] = defaultdict(list)
    for organisation_id, person, message_id in shared:
        items[organisation_id].append((person, message_id))

    async def forget(current: Queue) -> None:
        await fast.forget_consents(current, tenant_id, fields)
        await fast.forget_person(current, tenant_id, recipient)
        for organisation_id, of_one in items.items():
            await fast.uncount_budget(current, organisation_id, of_one)

    await _write(driver, queue, forget)


async def release_within(
    driver: asyncpg.Connection,
    owner: Owner,
    places: Sequence[tuple[str, str]],
    *,
    actor: str,
    now_s: float,
    evidence: Mapping[str, Any],
    only_sources: Sequence[str] | None = None,
) -> int:
    """The first half of `release`; after the commit call `follow_release`."""
    await book.lock_for_change(driver, [owner.tenant_id])
    return await book.release(
        driver,
        owner.tenant_id,
        [(hash_of(owner.hash_key, e164), sender) for e164, sender in places],
        only_sources=only_sources,
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


async def grant_within(
    driver: asyncpg.Connection, owner: Owner, words: Sequence[Word], *, actor: str, now_s: float
) -> int:
    """The first half of `grant`; after the commit call `follow_grant`."""
    await book.lock_for_change(driver, [owner.tenant_id])
    return await _put(driver, owner, words, granted=True, actor=actor, now_s=now_s)


async def follow_grant(driver: asyncpg.Connection, queue: Queue, owner: Owner, words: Sequence[Word]) -> None:
    """The second half: the copy learns what PostgreSQL says by now."""
    async with driver.transaction():
        await book.lock_for_change(driver, [owner.tenant_id])
        await _mirror_consents(driver, queue, owner, words)


async def withdraw_within(
    driver: asyncpg.Connection,
    queue: Queue,
    owner: Owner,
    words: Sequence[Word],
    *,
    actor: str,
    now_s: float,
) -> int:
    """`withdraw` in the caller's transaction, which should end soon: it holds the tenant's lock."""
    await book.lock_for_change(driver, [owner.tenant_id])
    taken = await _put(driver, owner, words, granted=False, actor=actor, now_s=now_s)
    await _mirror_consents(driver, queue, owner, words)
    return taken


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
        book.Said(
            hash_of(owner.hash_key, word.e164),
            word.purpose,
            word.brand,
            word.e164,
            _country(word.e164),
            _time(now_s if word.at_s is None else word.at_s),
            None if word.ends_s is None else _time(word.ends_s),
            word.kind,
            dict(word.evidence),
            granted,
        )
        for word in words
    ]
    return await book.consent(driver, owner.tenant_id, rows, actor=actor, recorded_at=_time(now_s))


async def _mirror_consents(
    driver: asyncpg.Connection, queue: Queue, owner: Owner, words: Sequence[Word]
) -> None:
    """Make the copy say what PostgreSQL says about these people's marketing consent."""
    people = [hash_of(owner.hash_key, word.e164) for word in words if word.purpose == book.MARKETING]
    if not people:
        return
    holding = await book.words_of(driver, owner.tenant_id, people, book.MARKETING)
    fields = dict(map(_field, holding.values()))
    await _write(driver, queue, lambda current: fast.set_consents(current, owner.tenant_id, fields))


KINDS = {"express": fast.EXPRESS, "soft": fast.SOFT, "inquiry": fast.INQUIRY}


def _field(one: book.Consent) -> tuple[bytes, bytes]:
    """A consent as the copy has it."""
    kind = KINDS[one.kind] if one.granted else fast.WITHDRAWN
    ends_s = None if one.ends_at is None else one.ends_at.timestamp()
    return fast.member(one.recipient, brand_scope(one.brand)), fast.word(kind, one.at.timestamp(), ends_s)


async def _write(driver: asyncpg.Connection, queue: Queue, write: Callable[[Queue], Awaitable[None]]) -> None:
    """Write to the copy of the current epoch; if that fails, spoil the epoch in the same transaction."""
    current = await epochs.current(driver)
    if current.run_id == "":  # never built, or spoiled: whoever builds the next one reads what we commit
        return
    if not in_our_layout(current.run_id):  # while another Volley's dispatchers go on, they would not find it
        await epochs.spoil(driver, current.epoch)
        return
    view = copy.copy(queue)  # the same connections, in the epoch that PostgreSQL names
    view.attach(current.epoch)
    try:
        await write(view)
    except (Unavailable, EpochLost, OSError):
        await epochs.spoil(driver, current.epoch)


def _country(e164: str) -> str:
    """Whose law on the age of consents holds; '' when the number is of none."""
    try:
        return parse(e164).country
    except InvalidNumber:
        return ""


def _time(instant_s: float) -> datetime:
    made = instant(instant_s)
    assert made is not None
    return made


# -- do-not-call lists


async def enlist(
    database: Database, queue: Queue, owner: Owner, country: str, e164s: Sequence[str], generation: int
) -> int:
    """Numbers of an import of a country's list; gives how many are new. They hold when this returns."""
    people = [hash_of(owner.hash_key, e164) for e164 in e164s]
    return await enlist_hashed(database, queue, owner, country, people, generation)


async def enlist_hashed(
    database: Database, queue: Queue, owner: Owner, country: str, people: Sequence[bytes], generation: int
) -> int:
    """The same by hashes that the tenant made itself."""
    async with database.driver() as driver, driver.transaction():
        await book.lock_for_change(driver, [owner.tenant_id])
        fresh = await registries.put(driver, owner.tenant_id, country, people, generation)
        await _write(driver, queue, lambda current: fast.enlist(current, owner.tenant_id, country, people))
    return fresh


async def delist_outdated(
    database: Database, queue: Queue, owner: Owner, country: str, generation: int
) -> int:
    """Take off what an older import had and this one has not, in pages; gives how many."""
    gone = 0
    async with database.driver() as driver:
        while True:
            async with driver.transaction():
                await book.lock_for_change(driver, [owner.tenant_id])
                page = await registries.outdated(driver, owner.tenant_id, country, generation)
            if not page:
                return gone
            async with driver.transaction():  # after the commit: a crash between leaves the copy too strict
                await book.lock_for_change(driver, [owner.tenant_id])
                still = await registries.still_listed(driver, owner.tenant_id, country, page)
                off = [one for one in page if one not in still]
                await _write(driver, queue, partial(_delist, owner.tenant_id, country, off))
            gone += len(page)


async def _delist(tenant_id: int, country: str, people: Sequence[bytes], current: Queue) -> None:
    await fast.delist(current, tenant_id, country, people)


# -- building the copy


async def load_copy(
    driver: asyncpg.Connection, queue: Queue, *, cap_window_s: int = CAP_WINDOW_S, now_s: float | None = None
) -> None:
    """Fill the epoch that `queue` is attached to from PostgreSQL, in pages, and mark it whole.

    The caller has begun that epoch (`epochs.start`, committed), loaded the scripts, and finishes it. On
    Unavailable begin again. `cap_window_s`: how far back the countries' caps look; the tenants' are read here.
    """
    await _copy_suppressions(driver, queue)
    await _copy_listed(driver, queue)
    await _copy_consents(driver, queue)
    await _copy_contacts(driver, queue, cap_window_s, time.time() if now_s is None else now_s)
    async with driver.transaction():
        await book.lock_for_copy(driver)
        organisations = await tenant_rules.organisation_ids(driver)
        await fast.mark_whole(queue, await book.tenant_ids(driver), organisations)


async def _copy_contacts(driver: asyncpg.Connection, queue: Queue, cap_window_s: int, now_s: float) -> None:
    wanted = {owner: reach.ms for owner, reach in (await _reaches(driver, cap_window_s)).items()}
    oldest = {owner: (int(now_s * 1000) - ms).to_bytes(6, "big") for owner, ms in wanted.items()}
    await fast.set_kept(queue, wanted)
    async for page in book.contacts_to_copy(driver, _ago(now_s, max(wanted.values(), default=0))):
        by_owner: dict[str, list[bytes]] = defaultdict(list)
        for text in page:
            for owner, items in _records(text):
                if text.stamp > oldest.get(owner, b""):
                    by_owner[owner] += items
        await fast.remember(queue, by_owner)
    await fast.set_reach(queue, wanted)


def _records(text: book.CountedText) -> Iterator[tuple[str, tuple[bytes, bytes]]]:
    """Whose histories have a text, each with the recipient and the record that go there."""
    yield fast.of_tenant(text.tenant_id), (text.recipient, text.stamp + text.rest)
    if text.organisation_id is not None and text.organisation_recipient is not None:
        owner = fast.of_organisation(text.organisation_id)
        yield owner, (text.organisation_recipient, text.stamp + fast.PLAIN)


def _ago(now_s: float, ms: int) -> datetime:
    return datetime.fromtimestamp(now_s, UTC) - timedelta(milliseconds=ms)


class _Reach(NamedTuple):
    """How many ms back the histories of a tenant, or of an organisation, must reach."""

    of: book.Owner
    ms: int


async def _reaches(driver: asyncpg.Connection, cap_window_s: int) -> dict[str, _Reach]:
    tenants, organisations = await tenant_rules.spans(driver)
    wanted = {
        fast.of_tenant(one): _Reach(("tenant_id", one), max(cap_window_s, span_s) * 1000)
        for one, span_s in tenants.items()
    }
    for one, span_s in organisations.items():
        wanted[fast.of_organisation(one)] = _Reach(("organisation_id", one), span_s * 1000)
    return {owner: reach._replace(ms=max(fast.REACH_MS, reach.ms)) for owner, reach in wanted.items()}


async def deepen(
    driver: asyncpg.Connection, queue: Queue, *, cap_window_s: int = CAP_WINDOW_S, now_s: float | None = None
) -> int:
    """Histories that a limit has grown beyond get what is older from PostgreSQL; gives how many did. Only texts that
    ask for so much history wait for it. Doing it twice, or in two processes, does nothing more. Raises EpochLost,
    Unavailable.
    """
    epoch = copy.copy(queue)  # while a next one is built nothing may come between
    wanted = await _reaches(driver, cap_window_s)
    reached = await fast.reaches(epoch, list(wanted))
    now_s = time.time() if now_s is None else now_s
    short = {owner: reach for owner, reach in wanted.items() if reached[owner] < reach.ms}
    for owner, (of, ms) in short.items():
        await fast.set_kept(epoch, {owner: ms})
        # those at the edge may be there or not, by whose clock trimmed them
        to = _ago(now_s, max(0, reached[owner] - EDGE_MS))
        async for page in book.older_contacts(driver, of, _ago(now_s, ms), to):
            items = [item for text in page for one, pair in _records(text) if one == owner for item in pair]
            await fast.remember(epoch, {owner: items}, before=True)
            if queue.epoch != epoch.epoch:
                raise EpochLost("another epoch has begun")
        await fast.set_reach(epoch, {owner: ms})
    return len(short)


async def _copy_suppressions(driver: asyncpg.Connection, queue: Queue) -> None:
    after: tuple[int, int, str] | None = book.LEAST
    while after is not None:
        async with driver.transaction():
            await book.lock_for_copy(driver)
            page, after = await book.suppressions_to_copy(driver, after)
            for tenant_id, scope, people in page:
                await fast.enrol(queue, tenant_id, scope, people)


async def _copy_listed(driver: asyncpg.Connection, queue: Queue) -> None:
    after: tuple[int, str, int] | None = registries.LEAST
    while after is not None:
        async with driver.transaction():
            await book.lock_for_copy(driver)
            page, after = await registries.to_copy(driver, after)
            for tenant_id, country, people in page:
                await fast.enlist_packed(queue, tenant_id, country, people)


async def _copy_consents(driver: asyncpg.Connection, queue: Queue) -> None:
    after: tuple[int, int, str] | None = book.LEAST
    while after is not None:
        async with driver.transaction():
            await book.lock_for_copy(driver)
            page, after = await book.consents_to_copy(driver, after)
            for tenant_id, brand, said in page:
                await fast.record_words(queue, tenant_id, brand_scope(brand), said)


async def forget_contacts(driver: asyncpg.Connection, queue: Queue) -> None:
    """Histories that no limit counts any more: off the copy."""
    organisations = await tenant_rules.organisation_ids(driver)
    await fast.forget_contacts(queue, await book.tenant_ids(driver), organisations)


# -- after a failover


async def merge_back(driver: asyncpg.Connection, queue: Queue, now_s: float) -> tuple[int, int]:
    """Write to PostgreSQL the opt-outs that the epoch `queue` is attached to has and PostgreSQL lost; gives how many
    suppressions and withdrawals. Never the other way: what PostgreSQL has stays, and a release or a grant that was
    lost is not made good: nobody is sent a text for want of a row.
    """
    suppressed = withdrawn = 0
    for tenant_id in await book.tenant_ids(driver):
        async for members in fast.suppressed(queue, tenant_id):
            suppressed += await _resuppress(driver, tenant_id, members, now_s)
        async for words in fast.withdrawn(queue, tenant_id):
            withdrawn += await _rewithdraw(driver, tenant_id, words, now_s)
    return suppressed, withdrawn


async def _resuppress(
    driver: asyncpg.Connection, tenant_id: int, members: Sequence[tuple[bytes, str]], now_s: float
) -> int:
    async with driver.transaction():
        await book.lock_for_change(driver, [tenant_id])
        known = await book.suppressed(driver, tenant_id, members)
        rows: list[tuple[bytes, str, str | None, str, dict[str, Any]]] = [
            (recipient, scope, None, FAILOVER, {})
            for recipient, scope in members
            if (recipient, scope) not in known
        ]
        if not rows:
            return 0
        return await book.suppress(driver, tenant_id, rows, source=FAILOVER, actor="volley", at=_time(now_s))


async def _rewithdraw(
    driver: asyncpg.Connection, tenant_id: int, words: Sequence[tuple[bytes, str, int]], now_s: float
) -> int:
    async with driver.transaction():
        await book.lock_for_change(driver, [tenant_id])
        known = await book.words_of(driver, tenant_id, [one for one, _, _ in words], book.MARKETING)
        lost = []
        for recipient, brand, said_s in words:
            held = known.get((recipient, brand))
            said = _time(said_s + 1)  # the copy has whole seconds
            if held is None or (held.granted and held.at < said):
                lost.append(_lost_word(recipient, brand, said, held.country if held else ""))
        return (
            await book.consent(driver, tenant_id, lost, actor="volley", recorded_at=_time(now_s))
            if lost
            else 0
        )


def _lost_word(recipient: bytes, brand: str, said: datetime, country: str) -> book.Said:
    return book.Said(
        recipient=recipient,
        purpose=book.MARKETING,
        brand=brand,
        address=None,
        country=country,
        at=said,
        ends_at=None,
        kind="express",
        evidence={"reason": FAILOVER},
        granted=False,
    )
