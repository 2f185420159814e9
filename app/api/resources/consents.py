"""/v1/consents: who may be sent marketing, and what stands behind it.

Guarantees: a withdrawal holds when its request is answered; the newest word about a purpose and brand holds, in
whatever order they are told; every word stays in the ledger with its evidence; a consent that is `pending` becomes
one only by a YES from that number to that sender, in time, after our question was handed over.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from app import notices, rules
from app.api import limits
from app.api.auth import Caller, require
from app.api.idempotency import IdempotentRoute
from app.api.problems import Problem, field_problem
from app.api.reading import Moment as Written
from app.api.reading import context_of
from app.api.resources import exports
from app.api.resources.base import (
    PROBLEMS,
    Cursor,
    Limit,
    Moment,
    Number,
    Strict,
    Text,
    Whole,
    after,
    changing,
    e164,
    place,
)
from app.api.resources.imports import FILE, Intake, Taken, router_of_files, take_file
from app.api.resources.suppressions import Event, owner_of, storable
from app.countries.packs import Packs
from app.domain import ids
from app.domain.phone import parse
from app.domain.recipient import hash_of
from app.domain.text import TextError
from app.queue import lanes
from app.queue.connection import EpochLost, Unavailable
from app.store import config, consent_requests, reference, tenants
from app.store import rules as book
from app.store.intake import accept

router = APIRouter(tags=["consents"], route_class=IdempotentRoute, responses=PROBLEMS)
files = router_of_files("consents")
Ruler = Annotated[Caller, Depends(require("rules"))]
EVIDENCE = ("text_shown", "form", "url", "ip")  # what a consent usually rests on: columns of a file, too
COLUMNS = ("status", "purpose", "brand", "kind", "source", "at", "expires_at", "evidence", *EVIDENCE)
BESIDE = ("kind", "expires_at")  # the ledger keeps them with the evidence
PURPOSE = r"^[a-z][a-z0-9_\-]{0,63}$"
BRAND = r"^[a-z0-9][a-z0-9_.\-]{0,63}$"
FUTURE_LEEWAY_S = 60.0
MAX_ASKED_S = 7 * 86_400
ASK_EVERY_S = 86_400.0  # the same person for the same consent: a question must not become a campaign
ASK_VALID_S = 3_600.0  # a question that is late is not asked
KINDS = ("express", "soft", "inquiry")
Status = Literal["granted", "withdrawn"]
Kind = Literal["express", "soft", "inquiry"]
Purpose = Annotated[str, Field(pattern=PURPOSE)]
Brand = Annotated[str, Field(pattern=BRAND)]


class Confirm(Strict):
    """The question of a double opt-in: sent to the number at once; YES from there to `sender` confirms.

    It is Volley's own text, with the tenant's `brand`, `program` and `frequency`, in `language` or the country's, else
    in English. The answer counts for `within_s` from now, and only if the question was handed to a carrier.
    """

    sender: Annotated[Text, Field(max_length=20)]
    language: Annotated[Text, Field(max_length=35)] | None = None
    within_s: Annotated[Whole, Field(ge=60, le=MAX_ASKED_S)] = 86_400


class NewConsent(Strict):
    """A person's word. `purpose` `marketing` is what marketing texts need; `at` is when it was said.

    `brand` null: about all of the tenant's texts. `kind`: `soft` is an earlier sale of the like, `inquiry` a question
    asked; they do only where the country's rules say so. `pending` needs `confirm`, and holds only once confirmed.
    """

    to: Number
    status: Literal["granted", "withdrawn", "pending"] = "granted"
    purpose: Purpose = book.MARKETING
    brand: Brand | None = None
    kind: Kind = "express"
    source: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    evidence: dict[str, Any] = Field(default_factory=dict)
    at: Written | None = None
    expires_at: Written | None = None
    confirm: Confirm | None = None


class Bulk(Strict):
    """Up to 10,000 at once; grants and withdrawals may be mixed."""

    consents: Annotated[list[NewConsent], Field(min_length=1, max_length=rules.MAX_BULK)]


_Word = Annotated[str, msgspec.Meta(max_length=2_000)]


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """One row of a file. `evidence` is an object (in a CSV: JSON)."""

    to: Annotated[str, msgspec.Meta(max_length=64)]
    status: Status = "granted"
    purpose: Annotated[str, msgspec.Meta(pattern=PURPOSE)] = book.MARKETING
    brand: Annotated[str, msgspec.Meta(pattern=BRAND)] | None = None
    kind: Kind = "express"
    source: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] = "import"
    at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    evidence: dict[str, Any] | str | None = None
    text_shown: _Word | None = None
    form: _Word | None = None
    url: _Word | None = None
    ip: _Word | None = None


class Consent(BaseModel):
    """What holds for one purpose and brand. `to` null: kept as a hash alone. `pending` until it is confirmed."""

    to: str | None
    purpose: str
    brand: str | None
    status: Literal["granted", "withdrawn", "pending"]
    kind: Kind
    at: datetime
    expires_at: datetime | None


class ConsentPage(BaseModel):
    """In a stable order."""

    data: list[Consent]
    next: str | None


class Held(BaseModel):
    """Whether a consent was held at a moment, and by which event.

    `reason`: `granted`, `withdrawn`, `expired`, `not_accepted` (of a kind that the country doesn't take) or `none`.
    `recorded_by_then`: the event was told to Volley before that moment. `suppressed`: the stops that stood then.
    """

    to: str
    purpose: str
    brand: str | None
    at: datetime
    held: bool
    reason: Literal["granted", "withdrawn", "expired", "not_accepted", "none"]
    event: Event | None
    expires_at: datetime | None
    recorded_by_then: bool | None
    rule: str
    suppressed: list[Event]


Told = tuple[bool, rules.Word]
"""(granted, word)"""


def _told(one: NewConsent | Row, now_s: float) -> Told:
    at_s = None if one.at is None else _seconds(one.at, "/at")
    if at_s is not None and (at_s > now_s + FUTURE_LEEWAY_S or at_s < 0):
        raise field_problem("/at", "invalid_time", "a consent was given in the past")
    if at_s is not None:
        at_s = min(at_s, now_s)  # a clock ahead of ours: or it would outweigh a withdrawal of this minute
    if one.status == "pending":
        raise field_problem("/status", "invalid_value", "a pending consent is recorded one by one")
    if isinstance(one, NewConsent) and one.confirm is not None:
        raise field_problem("/confirm", "invalid_value", "only a pending consent is confirmed")
    ends_s = None if one.expires_at is None else _seconds(one.expires_at, "/expires_at")
    if ends_s is not None and not (now_s if at_s is None else at_s) < ends_s < 2**32:
        raise field_problem("/expires_at", "invalid_time", "it ends after it was given, and before 2106")
    return one.status == "granted", rules.Word(
        e164(one.to), one.purpose, _evidence(one), at_s, one.brand or "", one.kind, ends_s
    )


def _seconds(at: datetime, pointer: str) -> float:
    """Unix seconds; of a time that UTC has no date for a problem."""
    try:
        return at.astimezone(UTC).timestamp()
    except OverflowError:
        raise field_problem(pointer, "invalid_time", "there is no such time") from None


def _evidence(one: NewConsent | Row) -> dict[str, Any]:
    evidence = one.evidence
    if isinstance(evidence, str):
        try:
            evidence = msgspec.json.decode(evidence, type=dict[str, Any])
        except ValueError:
            raise field_problem("/evidence", "wrong_type", "no JSON object") from None
    found = dict(evidence or {})
    for name in BESIDE:
        if name in found:
            raise field_problem("/evidence", "invalid_value", f"`{name}` stands beside the evidence")
    if isinstance(one, Row):
        found |= {name: getattr(one, name) for name in EVIDENCE if getattr(one, name) is not None}
    return storable(found if one.source is None else {"source": one.source, **found})


async def _take(request: Request, caller: Caller, told: list[Told]) -> int:
    """Withdrawals first: of two words at the same moment they hold."""
    context = context_of(request)
    new = 0
    for granted, change in ((False, rules.withdraw), (True, rules.grant)):
        words = [word for is_grant, word in told if is_grant is granted]
        if words:
            new += await change(
                context.database,
                context.queue,
                owner_of(caller),
                words,
                actor=caller.actor,
                now_s=context.clock(),
            )
    return new


def _intake(request: Request, caller: Caller) -> Intake[NewConsent | Row, Told]:
    now_s = context_of(request).clock()

    async def take(told: list[Told]) -> int:
        return await _take(request, caller, told)

    return Intake(lambda one: _told(one, now_s), take)


def _view(one: book.Consent, packs: Packs) -> Consent:
    status: Status = "granted" if one.granted else "withdrawn"
    return Consent(
        to=one.address,
        purpose=one.purpose,
        brand=one.brand or None,
        status=status,
        kind=one.kind,  # type: ignore[arg-type]  # as the table has it
        at=one.at,
        expires_at=_ends(one, packs) if one.granted else one.ends_at,
    )


def _ends(one: book.Consent, packs: Packs) -> datetime | None:
    """When it lapses: by its own terms or the country's law, whichever is first."""
    law_s = _age_s(packs, one.country, one.kind)
    by_law = one.at + timedelta(seconds=law_s) if law_s > 0 else None
    return min((end for end in (one.ends_at, by_law) if end is not None), default=None)


def _age_s(packs: Packs, country: str, kind: str) -> int:
    """How old a consent of that kind may be there; 0: any age; -1: it does not do."""
    ages = packs.consent(country).ages
    return ages[KINDS.index(kind) if kind in KINDS else 0]


async def _of_number(request: Request, caller: Caller, number: str) -> list[Consent]:
    packs = await context_of(request).references.packs()
    async with context_of(request).database.driver() as driver:
        page = await book.consents_page(
            driver, caller.tenant_id, recipient=hash_of(caller.hash_key, number), limit=limits.MAX_PAGE
        )
    return [_view(one, packs) for one in page]


@router.post("/v1/consents", summary="Record a consent or its withdrawal", status_code=201)
async def create_consent(body: NewConsent, request: Request, caller: Ruler) -> Consent:
    """Record what a person said; the answer is what holds then: a newer word outweighs this one.

    With `pending` the person is asked to confirm by a text, sent now as transactional.
    """
    if body.status == "pending":
        return await _ask(body, request, caller)
    told = _told(body, context_of(request).clock())
    await _take(request, caller, [told])
    return await _one(request, caller, told[1].e164, body.purpose, body.brand)


async def _one(request: Request, caller: Caller, number: str, purpose: str, brand: str | None) -> Consent:
    found = await _of_number(request, caller, number)
    return next(one for one in found if (one.purpose, one.brand) == (purpose, brand))


async def _ask(body: NewConsent, request: Request, caller: Caller) -> Consent:
    """The question of a double opt-in: the ledger, the open question and the text in one transaction."""
    context = context_of(request)
    now_s = context.clock()
    if body.confirm is None or body.at is not None or body.expires_at is not None or body.kind != "express":
        detail = "a pending consent is express, has `confirm`, and neither `at` nor `expires_at`"
        raise field_problem("/confirm", "required", detail)
    number = parse(e164(body.to))
    with changing():
        sender = config.address(body.confirm.sender)
    words = await asyncio.to_thread(notices.language_of, await context.references.packs())
    async with context.database.connect() as connection:
        tenant = await tenants.read(connection, caller.tenant_id)
    assert tenant is not None
    writer = notices.Writer(tenant.id, tenant.name, tenant.hash_key, tenant.settings)
    spoken: Sequence[str] = words.keywords.spoken(number.country)
    if body.confirm.language is not None:
        if not notices.asks_in(words, body.confirm.language):
            raise field_problem("/confirm/language", "invalid_value", "there is no question in that language")
        spoken = [body.confirm.language]
    text = notices.text(words, writer, "question", sender, spoken)
    recipient = hash_of(tenant.hash_key, number.e164)
    request_id, now = ids.new_id(now_s), datetime.fromtimestamp(now_s, UTC)
    until = now + timedelta(seconds=body.confirm.within_s)
    async with context.database.driver() as driver, driver.transaction():
        since = now - timedelta(seconds=ASK_EVERY_S)
        if await consent_requests.asked_since(
            driver, tenant.id, recipient, body.purpose, body.brand or "", since
        ):
            raise Problem(409, "asked_already", "this person was asked within the last day")
        try:
            draft = notices.draft(
                await reference.region_prefixes(driver), writer, to=number.e164, country=number.country,
                sender=sender, body=text, extra={"asks": ids.text(request_id)},
                valid_s=min(ASK_VALID_S, body.confirm.within_s), now_s=now_s,
            )  # fmt: skip
        except TextError as error:
            raise field_problem("/confirm", "body_too_long", str(error)) from None
        evidence = {**_evidence(body), "confirmation_text": text}
        await consent_requests.insert(
            driver, request_id, tenant.id, recipient, purpose=body.purpose,
            brand=body.brand or "", sender=sender, evidence=msgspec.json.encode(evidence).decode(),
            actor=caller.actor, message_id=ids.message_id(draft.pack_id, 0), asked_at=now, until=until,
        )  # fmt: skip
        parcels = await accept(driver, [draft], now_s)
    with contextlib.suppress(EpochLost, Unavailable, OSError):  # PostgreSQL has it: the sweeper offers it
        await lanes.offer(context.queue, parcels)
    return Consent(
        to=number.e164, purpose=body.purpose, brand=body.brand, status="pending", kind="express", at=now,
        expires_at=until,
    )  # fmt: skip


@router.post("/v1/consents/bulk", summary="Record many consents")
async def create_consents(body: Bulk, request: Request, caller: Ruler) -> Taken:
    """Up to 10,000. Those that can't be taken are listed and hinder no other."""
    intake = _intake(request, caller)
    for index, one in enumerate(body.consents):
        await intake.row(index, one, f"/consents/{index}")
    await intake.flush()
    return intake.taken


@files.post(
    "/v1/consents/import",
    summary="Record a file of consents",
    openapi_extra=FILE,
)
async def import_consents(request: Request, caller: Ruler) -> Taken:
    """Consents and withdrawals with their evidence, as CSV with a header (`to`, and if wanted `status`, `purpose`,
    `brand`, `kind`, `source`, `at`, `expires_at`, `text_shown`, `form`, `url`, `ip`, `evidence`) or NDJSON; streamed.

    A file that broke off may be sent again, whole: a row that is taken twice changes nothing.
    """
    return await take_file(request, Row, COLUMNS, _intake(request, caller))


@router.get("/v1/consents/at", summary="Was a consent held at a moment?")
async def consent_at(
    request: Request,
    caller: Ruler,
    to: Annotated[Text, Query(max_length=64)],
    at: Moment,
    purpose: Annotated[str, Query(pattern=PURPOSE)] = book.MARKETING,
    brand: Annotated[str | None, Query(pattern=BRAND)] = None,
) -> Held:
    """By the ledger, with the event that made it so, and the country's rules on its age as they are today."""
    number = parse(e164(to, "query/to"))
    recipient, when = hash_of(caller.hash_key, number.e164), at.astimezone(UTC)
    packs = await context_of(request).references.packs()
    async with context_of(request).database.driver() as driver:
        said = await book.words_until(driver, caller.tenant_id, recipient, purpose, brand or "", when)
        stops = await book.stops_until(driver, caller.tenant_id, recipient, when)
    # the newer of the brand's and the tenant's word; of two of one moment the withdrawal
    event = max(said, key=lambda one: (one.at, one.kind == "withdrawn"), default=None)
    reason: str = "none"
    ends: datetime | None = None
    if event is not None:
        reason = event.kind
        if event.kind == "granted":
            ends, reason = _standing(event, packs, number.country, when)
    return Held(
        to=number.e164, purpose=purpose, brand=brand, at=at, held=reason == "granted", reason=reason,  # type: ignore[arg-type]
        event=None if event is None else Event.model_validate(event, from_attributes=True), expires_at=ends,
        recorded_by_then=None if event is None else event.recorded_at <= when,
        rule=packs.consent(number.country).rule,
        suppressed=[Event.model_validate(one, from_attributes=True) for one in stops],
    )  # fmt: skip


def _standing(event: book.Event, packs: Packs, country: str, when: datetime) -> tuple[datetime | None, str]:
    """When a granted consent lapses, and whether it stood at that moment."""
    age_s = _age_s(packs, country, event.evidence.get("kind", "express"))
    if age_s < 0:
        return None, "not_accepted"
    own = event.evidence.get("expires_at")
    ends = [] if own is None else [datetime.fromisoformat(own)]
    if age_s:
        ends.append(event.at + timedelta(seconds=age_s))
    end = min(ends, default=None)
    return end, "expired" if end is not None and end <= when else "granted"


class Ending(Consent):
    """A consent that ends soon: `expires_at` says when."""


class EndingPage(BaseModel):
    """In a stable order."""

    data: list[Ending]
    next: str | None


@router.get("/v1/consents/expiring", summary="Consents that end soon")
async def expiring(
    request: Request,
    caller: Ruler,
    within_days: Annotated[int, Query(ge=1, le=366)] = 30,
    cursor: Cursor = None,
    limit: Limit = limits.DEFAULT_PAGE,
) -> EndingPage:
    """Marketing consents that lapse within so many days, by their own end or the country's law (KR: two years)."""
    context = context_of(request)
    now = datetime.fromtimestamp(context.clock(), UTC)
    packs = await context.references.packs()
    filters = f"expiring {within_days}"
    start = exports.split(place(cursor, caller, filters))
    async with context.database.driver() as driver:
        page = await book.ending_page(
            driver, caller.tenant_id, packs.consent_ages(), now + timedelta(days=within_days),
            since=now, after=start, limit=limit,
        )  # fmt: skip
    last = exports.joined(page[-1][0]) if len(page) == limit else None
    data = [Ending(**{**_view(one, packs).model_dump(), "expires_at": ends}) for one, ends in page]
    return EndingPage(data=data, next=after(last, caller, filters))


@router.get(
    "/v1/consents/export", summary="All consents with their evidence", response_class=StreamingResponse
)
async def export_consents(
    request: Request, caller: Ruler, file: Annotated[Literal["ndjson", "csv"], Query()] = "ndjson"
) -> StreamingResponse:
    """The whole ledger of consents, each word with its evidence, as a file that `/import` takes; streamed.

    Words about people whose number is kept as a hash alone have `to` null, and are not in the CSV.
    """
    lines = _lines(context_of(request).database, caller.tenant_id)
    return exports.answer(lines, file, ("to", *COLUMNS))


async def _lines(database: Any, tenant_id: int) -> AsyncIterator[list[dict[str, Any]]]:
    async with database.driver() as driver:
        async for page in book.ledger(driver, tenant_id):
            yield [_line(one) for one in page]


def _line(one: book.Line) -> dict[str, Any]:
    """A word as `/import` takes it: what there is nothing of is left out."""
    event, evidence = one.event, dict(one.event.evidence)
    kind, source, ends = (evidence.pop(name, None) for name in ("kind", "source", "expires_at"))
    return {
        "to": one.address,
        **{
            name: value
            for name, value in (
                ("status", event.kind),
                ("purpose", event.scope),
                ("brand", event.brand),
                ("kind", kind),
                ("source", source),
                ("at", event.at.isoformat()),
                ("expires_at", ends),
                ("evidence", evidence),
            )
            if value
        },
    }


@router.get("/v1/consents", summary="List consents")
async def list_consents(
    request: Request,
    caller: Ruler,
    to: Annotated[Text | None, Query(max_length=64, description="One number's.")] = None,
    cursor: Cursor = None,
    limit: Limit = limits.DEFAULT_PAGE,
) -> ConsentPage:
    """The tenant's consents, withdrawn ones too."""
    recipient = None if to is None else hash_of(caller.hash_key, e164(to, "query/to"))
    filters = f"consents {recipient.hex() if recipient else None}"
    start = exports.split(place(cursor, caller, filters))
    packs = await context_of(request).references.packs()
    async with context_of(request).database.driver() as driver:
        page = await book.consents_page(
            driver, caller.tenant_id, recipient=recipient, after=start, limit=limit
        )
    last = exports.joined(page[-1]) if len(page) == limit else None
    return ConsentPage(data=[_view(one, packs) for one in page], next=after(last, caller, filters))


@router.get("/v1/consents/{number}", summary="A number's consents")
async def get_consents(number: str, request: Request, caller: Ruler) -> ConsentPage:
    """What a person said, by purpose and brand; and what they were asked and have not answered."""
    found = e164(number, "path/number")
    data = await _of_number(request, caller, found)
    now = datetime.fromtimestamp(context_of(request).clock(), UTC)
    async with context_of(request).database.driver() as driver:
        recipient = hash_of(caller.hash_key, found)
        asked = await consent_requests.open_of(driver, caller.tenant_id, recipient, None, now)
    data += [
        Consent(
            to=found, purpose=one.purpose, brand=one.brand or None, status="pending", kind="express",
            at=one.asked_at, expires_at=one.until,
        )
        for one in asked
    ]  # fmt: skip
    return ConsentPage(data=data, next=None)


@router.delete("/v1/consents/{number}", summary="Withdraw a consent")
async def withdraw_consent(
    number: str,
    request: Request,
    caller: Ruler,
    purpose: Annotated[str, Query(pattern=PURPOSE)] = book.MARKETING,
    brand: Annotated[str | None, Query(pattern=BRAND)] = None,
    reason: Annotated[Text, Query(min_length=1, max_length=500)] = "withdrawn over the API",
) -> Consent:
    """Withdraw now. 404 when nothing is known of this person, purpose and brand."""
    found = e164(number, "path/number")
    known = await _of_number(request, caller, found)
    if not any((one.purpose, one.brand) == (purpose, brand) for one in known):
        raise Problem(404, "not_found", "there is no such consent")
    await _take(request, caller, [(False, rules.Word(found, purpose, {"reason": reason}, brand=brand or ""))])
    return await _one(request, caller, found, purpose, brand)
