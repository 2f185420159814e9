"""The fast copy of suppressions, do-not-call lists, consents and contact history: one set of keys a tenant, one an
organisation.

Guarantees: `check` answers only from a copy that was built whole (a sentinel member says so) in the current
epoch; otherwise it raises `EpochLost`. PostgreSQL stays the book of record. What is asked together is counted
atomically; what was counted and did not go is given back by `uncount`.

Memory: README of `loadtests/` has the bytes an entry, measured.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec

from app.domain.contacts import BRAND, NO_CAMPAIGN, NO_CONTENT
from app.queue.connection import EpochLost, Queue

SENTINEL = b"whole"
PASS, SUPPRESSED, LISTED, NO_CONSENT, EXPIRED_CONSENT, REPEATED = ".", "s", "d", "n", "x", "r"
CAPPED, TENANT_CAPPED, CAMPAIGN_CAPPED, BUDGET_SPENT = "c", "t", "g", "o"
UNREADY = "h"  # the history of a tenant or its organisation does not reach back far enough yet
COUNTRY_CAPS = (CAPPED, *"2345678")  # where country and states have several
LIMITS = frozenset((*COUNTRY_CAPS, TENANT_CAPPED, CAMPAIGN_CAPPED, BUDGET_SPENT, UNREADY))
EXPRESS, SOFT, INQUIRY, WITHDRAWN = "e", "s", "i", "w"
CHUNK = 5_000
REACH_MS = 86_400_000  # the least that histories reach back
PAGE = 500  # histories looked at in one call: others wait for it, between pages they get their turn
TOKEN_BYTES = 8  # the last of a message's id: random, and its place in the pack
PLAIN = b"\x01" + NO_CAMPAIGN + NO_CONTENT  # the rest of a record of a contact of which nothing else counts
_RECORD = struct.Struct(">Q")
_WORD = struct.Struct(">cII")


class Cap(msgspec.Struct, frozen=True):
    """At most `max` contacts within `window_ms`, of all or of this campaign; `letter` is its verdict."""

    letter: str
    max: int
    window_ms: int
    of_campaign: bool = False


class Budget(msgspec.Struct, frozen=True):
    """An organisation's contact budget: the recipients by the organisation's hash, and how many contacts may be."""

    organisation_id: int
    recipients: Sequence[bytes]
    max: int
    window_ms: int


class Question(msgspec.Struct, kw_only=True):
    """One parcel's recipients. Contacts are counted, or held against limits, only with `keep_ms`.

    `ages`: how old (s) an express, a soft and an inquiry consent may be; 0: any age; -1: it does not do here.
    `keep_ms` is at least the longest window of any limit in it: histories must reach back as far. `tokens` are message
    ids, `contents` say what is the same text; `registry` is the country whose do-not-call list is asked.
    """

    tenant_id: int
    sender: str
    recipients: Sequence[bytes]
    brand: str = ""
    need_consent: bool = False
    heed_withdrawal: bool = False  # where no consent is needed: who took one back is not asked again
    ages: tuple[int, int, int] = (0, -1, -1)
    registry: str = ""
    keep_ms: int = 0
    caps: tuple[Cap, ...] = ()
    duplicate_ms: int = 0
    contact: bool = True
    campaign: bytes = NO_CAMPAIGN
    tokens: Sequence[bytes] = ()
    contents: Sequence[bytes] = ()
    budget: Budget | None = None
    only_ask: bool = False


class Answer(msgspec.Struct):
    """A letter for each recipient; `free_at_s`: when the limit that holds one is free again (Unix seconds)."""

    letters: str
    free_at_s: Mapping[int, float] = {}


def _key(queue: Queue, owner: str, part: str) -> bytes:
    return f"v{queue.epoch}:{{{owner}}}:{part}".encode()


def of_tenant(tenant_id: int) -> str:
    """Whose copy it is: a tenant's."""
    return f"t{tenant_id}"


def of_organisation(organisation_id: int) -> str:
    """An organisation's."""
    return f"o{organisation_id}"


async def check(queue: Queue, questions: Sequence[Question]) -> list[Answer]:
    """An answer for each question, in order: one round trip, and another one if budgets are shared."""
    pipe = queue.client.pipeline(transaction=False)
    for q in questions:
        queue.queue_script(pipe, "check", *_call(queue, of_tenant(q.tenant_id), q))
    answers = [_answer(raw) for raw in await queue.execute(pipe)]
    if any(q.budget is not None for q in questions):
        await _ask_budgets(queue, questions, answers)
    return answers


def _call(queue: Queue, owner: str, q: Question) -> tuple[list[bytes], list[object]]:
    parts = (
        "suppressed", f"suppressed:{q.sender}", f"suppressed:{q.brand}", f"listed:{q.registry}",
        "consents", "histories", "reach",
    )  # fmt: skip
    keys = [_key(queue, owner, part) for part in parts]
    args: list[object] = [
        SENTINEL, q.brand, b"1" if q.registry else b"0", _consent(q), *q.ages,
        b"".join(q.recipients), q.keep_ms,
    ]  # fmt: skip
    if q.keep_ms:
        args += (b"1" if q.only_ask else b"0", q.duplicate_ms, _records(q))
        for cap in q.caps:
            args += (cap.letter, cap.max, cap.window_ms, b"1" if cap.of_campaign else b"0")
    return keys, args


def _records(q: Question) -> bytes:
    """Of each recipient what its history keeps but for the time; see check.lua."""
    kind = (b"\x01" if q.contact else b"\x00") + q.campaign
    if not q.contents:
        kind += NO_CONTENT
        return b"".join([token[-TOKEN_BYTES:] + kind for token in q.tokens])
    return b"".join(
        [token[-TOKEN_BYTES:] + kind + content for token, content in zip(q.tokens, q.contents, strict=True)]
    )


def _consent(q: Question) -> bytes:
    return b"1" if q.need_consent else b"2" if q.heed_withdrawal else b"0"


def _answer(raw: list | None) -> Answer:
    if not raw:
        raise EpochLost("the copy of the suppressions is not whole")
    if len(raw) == 1:
        return Answer(raw[0].decode())
    return Answer(raw[0].decode(), {place: at / 1000 for place, at in zip(raw[1::2], raw[2::2], strict=True)})


async def _ask_budgets(queue: Queue, questions: Sequence[Question], answers: list[Answer]) -> None:
    """Who passed everything else is counted against the organisation; who can't be is given back to the tenant."""
    pipe = queue.client.pipeline(transaction=False)
    asked: list[tuple[int, list[int]]] = []
    for number, (q, answer) in enumerate(zip(questions, answers, strict=True)):
        places = [place for place, letter in enumerate(answer.letters) if letter == PASS]
        if q.budget is None or not places:
            continue
        asked.append((number, places))
        question = Question(
            tenant_id=q.tenant_id,
            sender="",
            recipients=[q.budget.recipients[place] for place in places],
            keep_ms=q.budget.window_ms,
            caps=(Cap(BUDGET_SPENT, q.budget.max, q.budget.window_ms),),
            tokens=[q.tokens[place] for place in places],
            only_ask=q.only_ask,
        )
        queue.queue_script(pipe, "check", *_call(queue, of_organisation(q.budget.organisation_id), question))
    if not asked:
        return
    for (number, places), raw in zip(asked, await queue.execute(pipe), strict=True):
        found, q, answer = _answer(raw), questions[number], answers[number]
        said = {p: letter for p, letter in zip(places, found.letters, strict=True) if letter != PASS}
        if not said:
            continue
        letters = list(answer.letters)
        for place, letter in said.items():
            letters[place] = letter
        frees = {places[index]: at for index, at in found.free_at_s.items()}
        answers[number] = Answer("".join(letters), {**answer.free_at_s, **frees})
        if not q.only_ask:
            await uncount(queue, q.tenant_id, [(q.recipients[place], q.tokens[place]) for place in said])


async def uncount(queue: Queue, tenant_id: int, items: Sequence[tuple[bytes, bytes]]) -> None:
    """Give back counts of (recipient, message id) that were not handed over after all."""
    await _uncount(queue, of_tenant(tenant_id), items)


async def uncount_budget(queue: Queue, organisation_id: int, items: Sequence[tuple[bytes, bytes]]) -> None:
    """The same for an organisation's budget, by its own hashes."""
    await _uncount(queue, of_organisation(organisation_id), items)


async def _uncount(queue: Queue, owner: str, items: Sequence[tuple[bytes, bytes]]) -> None:
    if items:
        people = b"".join([recipient for recipient, _ in items])
        tokens = b"".join([token[-TOKEN_BYTES:] for _, token in items])
        await queue.script("uncount", [_key(queue, owner, "histories")], [people, tokens])


# -- writing what PostgreSQL has


def member(recipient: bytes, scope: str) -> bytes:
    """A suppression: of one sender, of a brand, or ('') of every sender of the tenant. Or a consent's field."""
    return recipient + scope.encode()


def word(kind: str, said_s: float, ends_s: float | None) -> bytes:
    """A consent's value: its kind, when it was said, and when it ends by its own terms."""
    return _WORD.pack(kind.encode(), int(said_s), 0 if ends_s is None else max(1, int(ends_s)))


async def suppress(queue: Queue, tenant_id: int, members: Sequence[bytes]) -> None:
    """Add to the copy; PostgreSQL has it already. `members`: by `member`."""
    for key, people in _by_scope(queue, tenant_id, members):
        await _in_chunks(queue, "sadd", key, people)


async def release(queue: Queue, tenant_id: int, members: Sequence[bytes]) -> None:
    """Take suppressions off the copy."""
    for key, people in _by_scope(queue, tenant_id, members):
        await _in_chunks(queue, "srem", key, people)


def _by_scope(
    queue: Queue, tenant_id: int, members: Sequence[bytes]
) -> Iterable[tuple[bytes, Sequence[bytes]]]:
    """The sets that have these members: of every sender, and one of each scope."""
    scopes: dict[bytes, list[bytes]] = defaultdict(list)
    for one in members:
        scopes[one[8:]].append(one[:8])
    key = _key(queue, of_tenant(tenant_id), "suppressed")
    return ((key + b":" + scope if scope else key, people) for scope, people in scopes.items())


async def enlist(queue: Queue, tenant_id: int, country: str, recipients: Sequence[bytes]) -> None:
    """Put numbers on the copy of a country's do-not-call list."""
    await _in_chunks(queue, "sadd", _key(queue, of_tenant(tenant_id), f"listed:{country}"), recipients)


async def delist(queue: Queue, tenant_id: int, country: str, recipients: Sequence[bytes]) -> None:
    """Take numbers off it."""
    await _in_chunks(queue, "srem", _key(queue, of_tenant(tenant_id), f"listed:{country}"), recipients)


async def _in_chunks(queue: Queue, command: str, key: bytes, members: Sequence[bytes]) -> None:
    for chunk in _chunks(members):
        await getattr(queue.client, command)(key, *chunk)


def _chunks(items: Sequence[bytes]) -> Iterable[Sequence[bytes]]:
    bounds = [*range(0, len(items), CHUNK), len(items)]
    return (items[start:end] for start, end in pairwise(bounds))


async def set_consents(queue: Queue, tenant_id: int, words: Mapping[bytes, bytes]) -> None:
    """What people said about marketing: `member` of person and brand to `word`."""
    key, items = _key(queue, of_tenant(tenant_id), "consents"), list(words.items())
    for start in range(0, len(items), CHUNK):
        await queue.client.hset(key, mapping=dict(items[start : start + CHUNK]))  # type: ignore[arg-type]


async def forget_consents(queue: Queue, tenant_id: int, members: Sequence[bytes]) -> None:
    """Nothing is known of these any more."""
    await _in_chunks(queue, "hdel", _key(queue, of_tenant(tenant_id), "consents"), members)


async def forget_person(queue: Queue, tenant_id: int, recipient: bytes) -> None:
    """A person's contact history in a tenant's copy."""
    await _in_chunks(queue, "hdel", _key(queue, of_tenant(tenant_id), "histories"), [recipient])


class Contact(msgspec.Struct, frozen=True):
    """A text that counts: whose, to whom, by which message, when, as what."""

    owner: str
    recipient: bytes
    message_id: bytes
    at_ms: int
    contact: bool = True
    campaign: bytes = NO_CAMPAIGN
    content: bytes = NO_CONTENT

    @property
    def record(self) -> bytes:
        mark = b"\x01" if self.contact else b"\x00"
        stamp = _RECORD.pack(self.at_ms)[2:]
        return stamp + self.message_id[-TOKEN_BYTES:] + mark + self.campaign + self.content


def tenants_contact(tenant_id: int, *of: object) -> Contact:
    """A contact in a tenant's own history; the rest as `Contact` has it."""
    return Contact(of_tenant(tenant_id), *of)  # type: ignore[arg-type]


def organisations_contact(organisation_id: int, recipient: bytes, message_id: bytes, at_ms: int) -> Contact:
    """A contact in an organisation's history."""
    return Contact(of_organisation(organisation_id), recipient, message_id, at_ms)


async def enrol(queue: Queue, tenant_id: int, scope: str, people: bytes) -> None:
    """Suppressions while an epoch is built: recipients, 8 bytes each, of one scope."""
    of_all = _key(queue, of_tenant(tenant_id), "suppressed")
    key = of_all + b":" + scope.encode() if scope else of_all
    await queue.script("enrol", [key], [people])


async def enlist_packed(queue: Queue, tenant_id: int, country: str, people: bytes) -> None:
    """A do-not-call list while an epoch is built: recipients, 8 bytes each."""
    await queue.script("enrol", [_key(queue, of_tenant(tenant_id), f"listed:{country}")], [people])


async def record_words(queue: Queue, tenant_id: int, scope: str, said: bytes) -> None:
    """Consents while an epoch is built: recipient and `word`, 17 bytes each, of one brand's scope."""
    await queue.script("record", [_key(queue, of_tenant(tenant_id), "consents")], [scope, said])


async def remember(queue: Queue, by_owner: Mapping[str, list[bytes]], *, before: bool = False) -> None:
    """Contacts from PostgreSQL, oldest first: recipient (8 bytes), then its record (24), in turns. `before`: what is
    older than the histories, newest first.
    """
    pipe = queue.client.pipeline(transaction=False)
    for owner, items in by_owner.items():
        for start in range(0, len(items), 2 * PAGE):
            people, records = items[start : start + 2 * PAGE : 2], items[start + 1 : start + 2 * PAGE : 2]
            args = [b"".join(people), b"".join(records), b"1" if before else b"0"]
            queue.queue_script(pipe, "remember", [_key(queue, owner, "histories")], args)
    await queue.execute(pipe)


async def remember_contacts(queue: Queue, contacts: Iterable[Contact]) -> None:
    """The same of contacts that aren't packed."""
    by_owner: dict[str, list[bytes]] = defaultdict(list)
    for contact in contacts:
        by_owner[contact.owner] += (contact.recipient, contact.record)
    await remember(queue, by_owner)


async def forget_contacts(queue: Queue, tenant_ids: Iterable[int], organisation_ids: Iterable[int]) -> None:
    """Drop histories whose newest contact no limit counts any more. A page a call."""
    for owner in [*map(of_tenant, tenant_ids), *map(of_organisation, organisation_ids)]:
        cursor: Any = b"0"
        while True:
            keys = [_key(queue, owner, "histories"), _key(queue, owner, "reach")]
            cursor = await queue.script("forget", keys, [cursor, PAGE])
            if cursor == b"0":
                break


async def mark_whole(queue: Queue, tenant_ids: Iterable[int], organisation_ids: Iterable[int] = ()) -> None:
    """The copy of these tenants is complete: from now on it may answer."""
    pipe = queue.client.pipeline(transaction=False)
    for owner in [*map(of_tenant, tenant_ids), *map(of_organisation, organisation_ids)]:
        for field in ("kept", "whole"):  # of one that was built these are set already; a new one has no past
            pipe.hsetnx(_key(queue, owner, "reach"), field, str(REACH_MS))
        pipe.sadd(_key(queue, owner, "suppressed"), SENTINEL)
    await queue.execute(pipe)


# how far back histories reach: nothing newer than `kept` is trimmed, everything newer than `whole` is there


async def set_kept(queue: Queue, reaches: Mapping[str, int]) -> None:
    """From now on keep histories for so many ms; by owner (`of_tenant`, `of_organisation`)."""
    await _set_reach(queue, "kept", reaches)


async def set_reach(queue: Queue, reaches: Mapping[str, int]) -> None:
    """The histories have all that was counted in the last so many ms; by owner."""
    await _set_reach(queue, "whole", reaches)


async def _set_reach(queue: Queue, field: str, reaches: Mapping[str, int]) -> None:
    pipe = queue.client.pipeline(transaction=False)
    for owner, reach_ms in reaches.items():
        pipe.hset(_key(queue, owner, "reach"), field, str(reach_ms))
    await queue.execute(pipe)


async def reaches(queue: Queue, owners: Sequence[str]) -> dict[str, int]:
    """How many ms back the histories of these are whole; 0: of whom the copy knows nothing."""
    pipe = queue.client.pipeline(transaction=False)
    for owner in owners:
        pipe.hget(_key(queue, owner, "reach"), "whole")
    return {owner: int(found or 0) for owner, found in zip(owners, await queue.execute(pipe), strict=True)}


# what a copy that is over still tells


async def suppressed(queue: Queue, tenant_id: int) -> AsyncIterator[list[tuple[bytes, str]]]:
    """(recipient, scope) of every suppression, in pages."""
    of_all = _key(queue, of_tenant(tenant_id), "suppressed")
    keys = [of_all] + [key async for key in queue.client.scan_iter(of_all + b":*", count=CHUNK)]
    for key in keys:
        scope, cursor = key[len(of_all) + 1 :].decode(), 0
        while True:
            answer: Any = await queue.client.sscan(key, cursor, count=CHUNK)
            cursor, found = answer
            page = [(one, scope) for one in found if one != SENTINEL]
            if page:
                yield page
            if not cursor:
                break


async def withdrawn(queue: Queue, tenant_id: int) -> AsyncIterator[list[tuple[bytes, str, int]]]:
    """(recipient, brand, when it was said) of every withdrawn consent, in pages."""
    cursor = 0
    while True:
        answer: Any = await queue.client.hscan(
            _key(queue, of_tenant(tenant_id), "consents"), cursor, count=CHUNK
        )
        cursor, found = answer
        words = [(field, _WORD.unpack(value)) for field, value in found.items()]
        page = [
            (f[:8], f[8:].decode().removeprefix(BRAND), said)
            for f, (kind, said, _) in words
            if kind == WITHDRAWN.encode()
        ]
        if page:
            yield page
        if not cursor:
            return
