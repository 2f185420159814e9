"""Texts that came in: whose they are, what they ask for, and a stop that holds before the carrier is told.

Guarantees: `take` returns only when everything is committed: the text, the suppressions that it asks for (of
every tenant that uses the address), the webhook events and the confirmation to be sent; if it raises, nothing
is, and the carrier delivers again. A carrier's repetition changes nothing. A start lifts only what a stop by
text had set, and not when it is in doubt; a stop holds also in doubt.

The confirmation is an ordinary transactional text in the outbox, whose entry carries `{"confirms": "stop"}`: the
one text that the suppression check lets pass. One goes out for all the stops of a person to an address within
CONFIRM_EVERY_S.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import cache

import asyncpg
import msgspec

from app import rules
from app.countries.keywords import Confirmations, load_file, matcher
from app.countries.packs import Packs
from app.domain import ids
from app.domain.keywords import Keywords, Match
from app.domain.message import Category
from app.domain.pack import Entry, Pack, Parcel
from app.domain.phone import InvalidNumber, parse
from app.domain.recipient import hash_of
from app.domain.text import count
from app.queue import lanes
from app.queue.connection import EpochLost, Queue, Unavailable
from app.store import inbound as store
from app.store import reference, webhooks
from app.store import rules as book
from app.store.engine import Database
from app.store.inbound import Owner
from app.store.intake import Draft, accept
from gateways.base import Inbound

CONFIRM_EVERY_S = (
    300  # also how long a confirmation may wait: 47 CFR 64.1200(a)(12) wants it within 5 minutes
)
STOP_ALL = frozenset({"stopall", "stop all"})
ACTOR = "recipient"
MAX_TEXT_CHARS = 20_000

log = logging.getLogger("volley.inbound")


class InboundResult(msgspec.Struct, frozen=True):
    """What became of one text. `stopped` are the tenants for which it set a suppression."""

    id: bytes | None  # None: the carrier's repetition of one that is stored
    tenant_id: int | None
    action: str | None  # stop, start, help
    keyword: str | None
    doubtful: bool
    stopped: tuple[int, ...] = ()
    confirmed: bool = False


class Language(msgspec.Struct, frozen=True):
    """What texts are understood and answered by."""

    keywords: Keywords
    confirmations: Mapping[str, Confirmations]
    packs: Packs


class _Text(msgspec.Struct):
    """One text with what was found out about it."""

    row_id: bytes
    sender: str
    to: str
    text: str
    gateway_message_id: str
    country: str
    match: Match | None
    users: list[int]
    pooled: frozenset[int] = frozenset()  # tenants that have, or had, the address in a sender pool

    def sender_scope(self, tenant_id: int) -> str:
        """The sender that a stop is about; '' for all of the tenant: who is texted from a pool knows one address of
        several, and a pool that changes may choose another."""
        assert self.match is not None
        everything = self.match.keyword.casefold() in STOP_ALL or tenant_id in self.pooled
        return "" if everything else self.to


@cache
def language() -> Language:
    """The lists of `app.countries`, compiled once."""
    packs, data = Packs.load(), load_file()
    return Language(matcher(data, packs), data.confirmations, packs)


async def take(
    database: Database, queue: Queue, gateway_id: int, batch: Sequence[Inbound], now_s: float
) -> list[InboundResult]:
    """Store these texts and do what they ask for; one result each, in order."""
    words = await asyncio.to_thread(language)
    parcels: list[Parcel] = []
    lifted: list[tuple[Owner, _Text]] = []
    async with database.driver() as driver:
        async with driver.transaction():
            await store.lock(driver, gateway_id)
            tenants = await store.owners(driver)
            texts = await _fresh(driver, words.keywords, gateway_id, batch, now_s)
            await _find_users(driver, [t for t in texts if t], tenants, now_s)
            await book.lock_for_change(driver, _acted_on(texts))
            results = []
            for text in texts:
                if text is None:
                    results.append(InboundResult(None, None, None, None, False))
                    continue
                confirmation = await _act(driver, queue, text, tenants, words, now_s, lifted)
                if confirmation is not None:
                    parcels += await accept(driver, [confirmation], now_s)
                results.append(_result(text, confirmation is not None))
                await store.insert(driver, [_row(text, gateway_id, now_s)])
            await _tell(driver, [t for t in texts if t], gateway_id, now_s)
        for owner, text in lifted:
            await rules.follow_release(
                driver, queue, _owner(owner), [(text.sender, text.to), (text.sender, "")]
            )
    try:
        await lanes.offer(queue, parcels)
    except (EpochLost, Unavailable, OSError):
        log.info("a confirmation waits in PostgreSQL for Redis")
    return results


# -- reading


async def _fresh(
    driver: asyncpg.Connection, keywords: Keywords, gateway_id: int, batch: Sequence[Inbound], now_s: float
) -> list[_Text | None]:
    """Each text read; None for one that is stored already, or twice in this batch."""
    base = ids.new_id(now_s)
    numbers = [_number(one.sender) for one in batch]
    known = await store.repeats(
        driver,
        gateway_id,
        [(one.gateway_message_id, sender) for one, (sender, _) in zip(batch, numbers, strict=True)],
        now_s,
    )
    texts: list[_Text | None] = []
    for place, (one, (sender, country)) in enumerate(zip(batch, numbers, strict=True)):
        name = (one.gateway_message_id, sender)
        if one.gateway_message_id and name in known:
            texts.append(None)
            continue
        known.add(name)
        if place and place % ids.PACK_LIMIT == 0:
            base = ids.new_id(now_s)
        text = one.text.replace("\0", "")[:MAX_TEXT_CHARS]
        texts.append(
            _Text(
                ids.message_id(base, place % ids.PACK_LIMIT),
                sender,
                one.to.removeprefix("+"),
                text,
                one.gateway_message_id,
                country,
                keywords.match(text, country),
                [],
            )
        )
    return texts


def _number(sender: str) -> tuple[str, str]:
    """(the number in E.164, its country); a short code or name as it is, of no country."""
    try:
        number = parse(sender if sender.startswith("+") else f"+{sender}")
    except InvalidNumber:
        return sender, ""
    return number.e164, number.country


async def _find_users(
    driver: asyncpg.Connection, texts: Sequence[_Text], tenants: Mapping[int, Owner], now_s: float
) -> None:
    """Who uses the address that a text came to: its owner first, who is the one that last sent there."""
    registered = await store.registered(driver, [text.to for text in texts])
    pooled = await store.pooled(driver, [text.to for text in texts])
    for text in texts:
        text.pooled = frozenset(tenant_id for tenant_id, address in pooled if address == text.to)
        belongs = registered.get(text.to, [])
        stop = text.match is not None and text.match.action == "stop"
        if len(belongs) == 1 and not stop:  # no need to look at what was sent
            text.users = belongs
            continue
        sent = await store.senders_to(driver, text.sender, text.to, tenants, now_s)
        first = [one for one in sent if not belongs or one in belongs]
        text.users = list(dict.fromkeys([*first, *belongs, *sent])) or list(tenants)[:1]


# -- acting


def _acted_on(texts: Sequence[_Text | None]) -> list[int]:
    """The tenants whose rules may change: all are locked at once, in one order, so that none waits in a circle."""
    return [one for text in texts if text is not None and text.match is not None for one in text.users]


async def _act(
    driver: asyncpg.Connection,
    queue: Queue,
    text: _Text,
    tenants: Mapping[int, Owner],
    words: Language,
    now_s: float,
    lifted: list[tuple[Owner, _Text]],
) -> Draft | None:
    """Do what the text asks for; the confirmation to be sent, if one is due."""
    match = text.match
    if match is None or match.action == "help" or not text.users:
        return None
    evidence = {"inbound_id": ids.text(text.row_id), "keyword": match.keyword, "doubtful": match.doubtful}
    if match.action == "start":
        if not match.doubtful:
            for tenant_id in text.users:
                await rules.release_within(
                    driver,
                    _owner(tenants[tenant_id]),
                    [(text.sender, text.to), (text.sender, "")],
                    actor=ACTOR,
                    now_s=now_s,
                    evidence=evidence,
                    only_source=book.KEYWORD,
                )
                lifted.append((tenants[tenant_id], text))
        return None
    for tenant_id in text.users:
        stop = rules.Stop(text.sender, text.sender_scope(tenant_id), "stop_keyword", evidence)
        await rules.suppress_within(
            driver, queue, _owner(tenants[tenant_id]), [stop], source=book.KEYWORD, actor=ACTOR, now_s=now_s
        )
    owner = tenants[text.users[0]]
    since = now_s - CONFIRM_EVERY_S
    if not text.country or await store.stopped_lately(driver, owner.id, text.sender, text.to, since):
        return None
    return await _confirmation(driver, text, owner, words, now_s)


async def _confirmation(
    driver: asyncpg.Connection, text: _Text, owner: Owner, words: Language, now_s: float
) -> Draft:
    """The one answer to a stop, from the address that it came to."""
    body = confirmation_text(text, owner, words)
    recipient = hash_of(owner.hash_key, text.sender)
    entry = Entry(0, text.sender, recipient, count(body), extra={"confirms": "stop"})
    pack = Pack(
        tenant_id=owner.id,
        batch_id=None,
        region=_region(await reference.region_prefixes(driver), text.sender, text.country),
        country=text.country,
        category=Category.transactional,
        sender=text.to,
        body=body.replace("{", "{{").replace("}", "}}"),
        template=None,
        expires_at=now_s + CONFIRM_EVERY_S,
        retry_unknown=False,
        entries=[entry],
    )
    return Draft(ids.new_id(now_s), pack, now_s, 0)


def confirmation_text(text: _Text, owner: Owner, words: Language) -> str:
    """In the language of the word, else of the country, else in English; brand and contact are the tenant's."""
    assert text.match is not None
    spoken = words.packs.pack(text.country).data.languages
    for code in (text.match.language, *spoken):
        if code in words.confirmations:
            break
    else:
        code = "en"
    return words.confirmations[code].stop.format(
        brand=owner.settings.get("brand") or owner.name, contact=owner.settings.get("contact") or text.to
    )


def _region(prefixes: Sequence[tuple[str, Sequence[str]]], e164: str, country: str) -> str:
    """The longest prefix of the region table, else the country."""
    matching = [(len(p), code) for code, of in prefixes for p in of if e164.startswith(f"+{p.lstrip('+')}")]
    return max(matching)[1] if matching else country


# -- writing


async def _tell(driver: asyncpg.Connection, texts: Sequence[_Text], gateway_id: int, now_s: float) -> None:
    """`message.inbound` for the owner of each text."""
    name = await driver.fetchval("SELECT name FROM gateways WHERE id = $1", gateway_id)
    await webhooks.enqueue(
        driver,
        [
            webhooks.Event(
                text.users[0],
                text.row_id,
                webhooks.INBOUND,
                {
                    "id": ids.text(text.row_id),
                    "from": text.sender,
                    "to": text.to,
                    "text": text.text,
                    "action": text.match.action if text.match else None,
                    "keyword": text.match.keyword if text.match else None,
                    "doubtful": bool(text.match and text.match.doubtful),
                    "gateway": name,
                    "at": webhooks.stamp(now_s),
                },
                now_s,
            )
            for text in texts
            if text.users
        ],
    )


def _row(text: _Text, gateway_id: int, now_s: float) -> store.Row:
    match = text.match
    return store.Row(
        text.row_id,
        text.users[0] if text.users else None,
        gateway_id,
        text.sender,
        text.to,
        text.text,
        match.action if match else None,
        match.keyword if match else None,
        bool(match and match.doubtful),
        text.gateway_message_id,
        now_s,
    )


def _result(text: _Text, confirmed: bool) -> InboundResult:
    match = text.match
    return InboundResult(
        text.row_id,
        text.users[0] if text.users else None,
        match.action if match else None,
        match.keyword if match else None,
        bool(match and match.doubtful),
        tuple(text.users) if match and match.action == "stop" else (),
        confirmed,
    )


def _owner(tenant: Owner) -> rules.Owner:
    return rules.Owner(tenant.id, tenant.hash_key)
