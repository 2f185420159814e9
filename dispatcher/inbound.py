"""Texts that came in: whose they are, what they ask for, and a stop that holds before the carrier is told.

Guarantees: `take` returns only when everything is committed: the text, the suppressions that it asks for (of
every tenant that uses the address), the webhook events and the answer to be sent; if it raises, nothing
is, and the carrier delivers again. A start lifts only what a stop by text had set; one that is in doubt (a mere yes)
counts only where a question to confirm a consent went to this person; a stop holds also in doubt, and goes before a
tenant's own keywords.

A carrier's repetition changes nothing: it is known by its id, or, where there is none, as an equal text of the
same person within the gateway's `repeat_s`. What says stop is never taken for one: a stop after a start counts, however
fast, and a start that a carrier repeats after a stop does not. Of a long text whose parts come apart a part that says
stop counts at once; the text says stop then, too, and is not waited for longer than STOP_WAIT_S.

Behind an application's port a machine reads and writes: a stop to it holds, also in doubt; nothing else that it says is
looked at, no start, help, keyword or survey's answer, and nothing is answered.

An answer is an ordinary transactional text in the outbox. Those to STOP and HELP carry `{"confirms": ...}`: the only
texts that the suppression check lets pass. One confirmation goes out for all the stops of a person to an address
within CONFIRM_EVERY_S. Nobody gets more than MAX_REPLIES a day from a tenant, and no machine gets one: neither a short
code, nor a name, nor a number of ours.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import asyncpg
import msgspec

from app import notices, rules
from app.domain import ids
from app.domain.contacts import brand_scope
from app.domain.keywords import Keywords, Match, normalise
from app.domain.pack import Parcel
from app.domain.phone import InvalidNumber, parse
from app.domain.recipient import hash_of
from app.domain.text import TextError
from app.notices import Language
from app.queue import lanes
from app.queue.connection import EpochLost, Queue, Unavailable
from app.store import config, consent_requests, keywords, reference, webhooks
from app.store import inbound as store
from app.store import inbound_parts as parts
from app.store import rules as book
from app.store.engine import Database
from app.store.inbound import Owner
from app.store.inbound_parts import Key
from app.store.intake import accept, at
from dispatcher import inbound_parts
from dispatcher.inbound_parts import Arrived
from gateways.base import Inbound

CONFIRM_EVERY_S = (
    300  # also how long a confirmation may wait: 47 CFR 64.1200(a)(12) wants it within 5 minutes
)
STOP_ALL = frozenset({"stopall", "stop all"})
ACTOR = "recipient"
MAX_TEXT_CHARS = 20_000
MAX_REPLIES = 10  # to one person by one tenant in REPLIES_S
REPLIES_S = 86_400
STOP_WAIT_S = 60  # for the rest of a text of which a part says stop: the confirmation comes with it
MAX_WORDS = 3  # of a text whose first word is a tenant's keyword

log = logging.getLogger("volley.inbound")


class InboundResult(msgspec.Struct, frozen=True):
    """What became of one text. `stopped` are the tenants for which it set a suppression.

    `action`: stop, start, help, keyword, answer (of a survey). `reply`: what was answered, named as the action.
    """

    id: bytes | None  # None: the carrier's repetition of one that is stored
    tenant_id: int | None
    action: str | None
    keyword: str | None
    doubtful: bool
    stopped: tuple[int, ...] = ()
    reply: str | None = None

    @property
    def confirmed(self) -> bool:
        """Whether a stop was confirmed."""
        return self.reply == "stop"


class _Lift(msgspec.Struct):
    """What the copy learns after the commit: suppressions lifted, consents given."""

    owner: Owner
    places: list[tuple[str, str]]
    words: list[rules.Word] = []


class _Text(msgspec.Struct):
    """One text with what was found out about it."""

    row_id: bytes
    sender: str
    to: str
    text: str
    gateway_message_id: str
    country: str
    port: int | None
    match: Match | None
    users: list[int]
    pooled: frozenset[int] = frozenset()  # tenants that have, or had, the address in a sender pool
    brands: dict[int, str] = {}  # the brand of the address, by tenant
    own: keywords.Keyword | None = None  # the tenant's own keyword, if it is one
    reply: str | None = None
    alone: Key | None = None  # a part that is no text yet
    stray: bool = False  # it came to an address by which nobody texted this person
    answer_from: str = ""

    @property
    def action(self) -> str | None:
        if self.own is not None:
            return "answer" if self.own.survey_id else "keyword"
        return self.match.action if self.match else None

    @property
    def keyword(self) -> str | None:
        if self.own is not None:
            return self.own.keyword
        return self.match.keyword if self.match else None

    def scope(self, owner: Owner) -> str:
        """What a stop is about: one sender, a brand, or ('') all of the tenant."""
        assert self.match is not None
        wanted = owner.settings.get("stop_scope") or "sender"
        # who is texted from a pool knows one address of several, and a pool that changes may choose another
        everything = self.match.keyword.casefold() in STOP_ALL or owner.id in self.pooled or self.stray
        if wanted == "tenant" or everything:
            return ""
        brand = self.brands.get(owner.id, "")
        return brand_scope(brand) if wanted == "brand" and brand else self.to

    def places(self, owner: Owner) -> list[tuple[str, str]]:
        """Every suppression that a stop to this address may have set: what a start lifts."""
        scopes = dict.fromkeys((self.to, "", brand_scope(self.brands.get(owner.id, ""))))
        return [(self.sender, scope) for scope in scopes]


async def take(
    database: Database, queue: Queue, gateway_id: int, batch: Sequence[Inbound], now_s: float
) -> list[InboundResult]:
    """Store these texts and do what they ask for; one result each, in order. A part of a text has one if it completes
    that, or says stop."""

    async def arrived(driver: asyncpg.Connection) -> list[Arrived]:
        return await inbound_parts.put_together(driver, gateway_id, _numbered(batch), now_s)

    return await _take(database, queue, gateway_id, arrived, now_s)


async def give_up(database: Database, queue: Queue, gateway_id: int, now_s: float) -> list[InboundResult]:
    """Take what there is of texts whose other parts did not come in time."""

    async def arrived(driver: asyncpg.Connection) -> list[Arrived]:
        return await inbound_parts.overdue(driver, gateway_id, now_s)

    return await _take(database, queue, gateway_id, arrived, now_s)


async def _take(
    database: Database,
    queue: Queue,
    gateway_id: int,
    arriving: Callable[[asyncpg.Connection], Awaitable[list[Arrived]]],
    now_s: float,
) -> list[InboundResult]:
    parcels: list[Parcel] = []
    lifts: list[_Lift] = []
    async with database.driver() as driver:
        own = frozenset((await config.country_packs(driver)).items())
        words = await asyncio.to_thread(notices.language, own)
        async with driver.transaction():
            await store.lock(driver, gateway_id)
            batch = await arriving(driver)
            tenants = await store.owners(driver)
            texts = await _fresh(driver, words.keywords, gateway_id, batch, now_s)
            await _find_users(driver, [t for t in texts if t], tenants, now_s)
            await book.lock_for_change(driver, _acted_on(texts))
            results = []
            for text in texts:
                if text is None:
                    results.append(InboundResult(None, None, None, None, False))
                    continue
                if text.alone is not None:
                    await _part(driver, queue, text, gateway_id, tenants, now_s)
                    continue
                body = await _act(driver, queue, text, tenants, words, now_s, lifts)
                if body is not None:
                    parcels += await _reply(driver, text, body, tenants[text.users[0]], now_s)
                results.append(_result(text))
                await store.insert(driver, [_row(text, gateway_id, now_s)])
                if text.own is not None and text.own.survey_id is not None:
                    recipient = hash_of(tenants[text.users[0]].hash_key, text.sender)
                    await keywords.answer(driver, text.own, recipient, text.row_id, now_s)
            await _tell(driver, [t for t in texts if t and t.alone is None], gateway_id, now_s)
        for lift in lifts:
            if lift.places:
                await rules.follow_release(driver, queue, _owner(lift.owner), lift.places)
            if lift.words:
                await rules.follow_grant(driver, queue, _owner(lift.owner), lift.words)
    try:
        await lanes.offer(queue, parcels)
    except (EpochLost, Unavailable, OSError):
        log.info("an answer waits in PostgreSQL for Redis")
    return results


# -- reading


async def _fresh(
    driver: asyncpg.Connection, keywords: Keywords, gateway_id: int, batch: Sequence[Arrived], now_s: float
) -> list[_Text | None]:
    """Each text read; None for one that is stored already, or twice in this batch."""
    base = ids.new_id(now_s)
    numbers = [_number(one.inbound.sender) for one in batch]
    known = await store.repeats(
        driver,
        gateway_id,
        [(one.inbound.gateway_message_id, sender) for one, (sender, _) in zip(batch, numbers, strict=True)],
        now_s,
    )
    equal = await _equal(driver, gateway_id, batch, numbers, now_s)
    texts: list[_Text | None] = []
    for place, (arrived, (sender, country)) in enumerate(zip(batch, numbers, strict=True)):
        one = arrived.inbound
        if place and place % ids.PACK_LIMIT == 0:
            base = ids.new_id(now_s)
        text = _Text(
            ids.message_id(base, place % ids.PACK_LIMIT),
            sender,
            one.to.removeprefix("+"),
            _storable(one.text),
            one.gateway_message_id,
            country,
            one.port,
            _match(keywords, arrived, country),
            [],
            alone=arrived.alone,
        )
        if text.alone is None:
            name, content = (one.gateway_message_id, sender), (sender, text.to, text.text, one.port)
            stops = text.match is not None and text.match.action == "stop"
            again = one.repeat_s > 0 and not stops and content in equal
            repeated = name in known if one.gateway_message_id else again
            known.add(name)
            equal.add(content)
            if repeated:
                texts.append(None)
                continue
        texts.append(text)
    return texts


async def _equal(
    driver: asyncpg.Connection,
    gateway_id: int,
    batch: Sequence[Arrived],
    numbers: Sequence[tuple[str, str]],
    now_s: float,
) -> set[tuple[str, str, str, int | None]]:
    """(sender, to, text, port) of what these may repeat, having no id."""
    asked = [
        (sender, one.inbound.repeat_s)
        for one, (sender, _) in zip(batch, numbers, strict=True)
        if one.inbound.repeat_s and not one.inbound.gateway_message_id and one.alone is None
    ]
    if not asked:
        return set()
    within_s = max(repeat_s for _, repeat_s in asked)  # a gateway has one for all
    return await store.equal_lately(driver, gateway_id, [sender for sender, _ in asked], now_s, within_s)


def _match(keywords: Keywords, arrived: Arrived, country: str) -> Match | None:
    """What a text asks for; one of which a part said stop by itself says stop, in doubt."""
    whole = keywords.match(_storable(arrived.inbound.text), country)
    if whole is not None and whole.action == "stop":
        return whole
    found = (keywords.match(piece, country) for piece in arrived.pieces)
    stop = next((match for match in found if match is not None and match.action == "stop"), None)
    if stop is not None:
        return msgspec.structs.replace(stop, doubtful=True)
    return whole if arrived.inbound.port is None else None


def _storable(text: str) -> str:
    return text.replace("\0", "")[:MAX_TEXT_CHARS]


def _numbered(batch: Sequence[Inbound]) -> list[Inbound]:
    """The parts with their addresses as they are stored: they are found by them, also when a person is erased."""
    return [
        one
        if one.part is None
        else msgspec.structs.replace(one, sender=_number(one.sender)[0], to=one.to.removeprefix("+"))
        for one in batch
    ]


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
    """Who uses the address that a text came to: its owner first, who is the one that last sent there.

    Where nobody does (an answer to a name comes to the carrier's own number, and some providers tell no address at
    all) a stop is for everybody who texted this person lately, whatever by; what comes to no address is for the last.
    """
    registered = await store.registered(driver, [text.to for text in texts])
    pooled = await store.pooled(driver, [text.to for text in texts])
    for text in texts:
        text.pooled = frozenset(tenant_id for tenant_id, address in pooled if address == text.to)
        text.brands = registered.get(text.to, {})
        belongs = list(text.brands)
        stop = text.match is not None and text.match.action == "stop"
        if len(belongs) == 1 and not stop:  # no need to look at what was sent
            text.users = belongs
            continue
        sent = await store.senders_to(driver, text.sender, text.to, tenants, now_s)
        first = [one for one in sent if not belongs or one in belongs]
        text.users = list(dict.fromkeys([*first, *belongs, *sent]))
        if not text.users and (stop or not text.to):
            by_tenant = await store.texted(driver, text.sender, tenants, now_s)
            text.stray = True
            text.users = list(by_tenant) if stop else list(by_tenant)[:1]
            text.answer_from = next(iter(by_tenant.values()), "")
        text.users = text.users or list(tenants)[:1]


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
    lifts: list[_Lift],
) -> str | None:
    """Do what the text asks for; what is to be answered, if anything is."""
    match = text.match
    if not text.users:
        return None
    owner = tenants[text.users[0]]
    if match is not None and match.action == "stop":
        return await _stop(driver, queue, text, tenants, words, now_s)
    if text.port is not None:
        return None
    if match is not None and match.action == "help":
        text.reply = "help"
        own = await keywords.help_of(driver, owner.id, text.to)
        return own or owner.settings.get("help_text") or _words(words, owner, text, "help")
    if match is not None and await _start(driver, text, tenants, lifts, now_s):
        text.reply = "start"
        return _words(words, owner, text, "start")
    if match is None or match.doubtful:  # a mere yes that nobody asked for may be a survey's answer
        keys = normalise(text.text)
        first = [split[0] for key in keys if 1 < len(split := key.split()) <= MAX_WORDS]
        text.own = await keywords.find(driver, owner.id, text.to, keys, first, now_s)
        if text.own is not None and text.own.reply:
            text.reply = text.action
            return text.own.reply
    return None


async def _part(
    driver: asyncpg.Connection,
    queue: Queue,
    text: _Text,
    gateway_id: int,
    tenants: Mapping[int, Owner],
    now_s: float,
) -> None:
    """A part whose text is not whole yet: a stop in it holds from now on, and is confirmed with the text."""
    assert text.alone is not None
    if text.match is not None and text.match.action == "stop":
        await _suppress(driver, queue, text, tenants, now_s)
        await parts.hurry(driver, gateway_id, text.alone, now_s + STOP_WAIT_S)


async def _suppress(
    driver: asyncpg.Connection, queue: Queue, text: _Text, tenants: Mapping[int, Owner], now_s: float
) -> None:
    """For every tenant that uses the address."""
    now = at(now_s)
    assert now is not None
    for tenant_id in text.users:
        one = _owner(tenants[tenant_id])
        stop = rules.Stop(text.sender, text.scope(tenants[tenant_id]), "stop_keyword", _evidence(text))
        await rules.suppress_within(driver, queue, one, [stop], source=book.KEYWORD, actor=ACTOR, now_s=now_s)
        await consent_requests.drop(driver, tenant_id, hash_of(one.hash_key, text.sender), now)


async def _stop(
    driver: asyncpg.Connection,
    queue: Queue,
    text: _Text,
    tenants: Mapping[int, Owner],
    words: Language,
    now_s: float,
) -> str | None:
    """The suppressions, for every tenant that uses the address; the confirmation, if one is due."""
    await _suppress(driver, queue, text, tenants, now_s)
    owner = tenants[text.users[0]]
    since = now_s - CONFIRM_EVERY_S
    if text.port is not None or await store.stopped_lately(driver, owner.id, text.sender, text.to, since):
        return None
    text.reply = "stop"
    return _words(words, owner, text, "stop")


async def _start(
    driver: asyncpg.Connection,
    text: _Text,
    tenants: Mapping[int, Owner],
    lifts: list[_Lift],
    now_s: float,
) -> bool:
    """Lift what a stop by text set, confirm what this person was asked; whether there was something of either."""
    assert text.match is not None
    now = at(now_s)
    assert now is not None
    done = False
    for tenant_id in text.users:
        owner = tenants[tenant_id]
        one, lift = _owner(owner), _Lift(owner, [])
        person = hash_of(one.hash_key, text.sender)
        asked = [
            (request, request.handed_at)
            for request in await consent_requests.open_of(driver, tenant_id, person, text.to, now)
            if request.handed_at is not None and request.handed_at <= now
        ]
        if not text.match.doubtful:
            lift.places = text.places(owner)
            done |= bool(
                await rules.release_within(
                    driver, one, lift.places, actor=ACTOR, now_s=now_s, evidence=_evidence(text),
                    only_sources=book.BY_TEXT,
                )
            )  # fmt: skip
        lift.words = [
            rules.Word(
                text.sender,
                request.purpose,
                {
                    **request.evidence, **_evidence(text), "request_id": str(request.id), "sender": text.to,
                    "asked_at": request.asked_at.isoformat(), "handed_at": handed_at.isoformat(), "double_opt_in": True,
                },
                brand=request.brand,
            )
            for request, handed_at in asked
        ]  # fmt: skip
        if lift.words:
            await rules.grant_within(driver, one, lift.words, actor=ACTOR, now_s=now_s)
            await consent_requests.answered(driver, [request.id for request, _ in asked], now)
            done = True
        lifts.append(lift)
    return done


def _evidence(text: _Text) -> dict[str, object]:
    assert text.match is not None
    # a part has no row of its own: its text's follows
    name = {} if text.alone is not None else {"inbound_id": ids.text(text.row_id)}
    return {**name, "keyword": text.match.keyword, "doubtful": text.match.doubtful}


def _words(words: Language, owner: Owner, text: _Text, kind: notices.Kind) -> str:
    """In the language of the word, else of the country, else in English."""
    assert text.match is not None
    spoken = words.keywords.spoken(text.country)
    return notices.text(words, _writer(owner), kind, text.to, (text.match.language, *spoken))


async def _reply(
    driver: asyncpg.Connection, text: _Text, body: str, owner: Owner, now_s: float
) -> list[Parcel]:
    """The answer, from the address that the text came to, or where it is none of ours from the one last used; none to
    a machine, and none that is one too many."""
    sender = text.answer_from or text.to
    machine = not text.country or not sender or await store.is_ours(driver, text.sender)
    if machine or await store.replies(driver, owner.id, text.sender, now_s - REPLIES_S) >= MAX_REPLIES:
        text.reply = None
        return []
    prefixes = await reference.region_prefixes(driver)
    extra = {"confirms": text.reply} if text.reply in ("stop", "help") else {"answers": text.reply}
    try:
        draft = notices.draft(
            prefixes, _writer(owner), to=text.sender, country=text.country, sender=sender, body=body,
            extra=extra, valid_s=CONFIRM_EVERY_S, now_s=now_s,
        )  # fmt: skip
    except TextError:  # a brand or contact that makes it longer than a text may be
        log.error("the answer to a text is too long to be sent: tenant %d", owner.id)
        text.reply = None
        return []
    return await accept(driver, [draft], now_s)


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
                    "port": text.port,
                    "text": text.text,
                    "action": text.action,
                    "keyword": text.keyword,
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
    return store.Row(
        text.row_id,
        text.users[0] if text.users else None,
        gateway_id,
        text.sender,
        text.to,
        text.text,
        text.action,
        text.keyword,
        bool(text.match and text.match.doubtful),
        text.gateway_message_id,
        now_s,
        text.reply,
        text.port,
    )


def _result(text: _Text) -> InboundResult:
    match = text.match
    return InboundResult(
        text.row_id,
        text.users[0] if text.users else None,
        text.action,
        text.keyword,
        bool(match and match.doubtful),
        tuple(text.users) if match and match.action == "stop" else (),
        text.reply,
    )


def _writer(tenant: Owner) -> notices.Writer:
    return notices.Writer(tenant.id, tenant.name, tenant.hash_key, tenant.settings)


def _owner(tenant: Owner) -> rules.Owner:
    return rules.Owner(tenant.id, tenant.hash_key)
