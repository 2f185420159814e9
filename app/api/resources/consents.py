"""/v1/consents: who may be sent marketing, and what stands behind it.

Guarantees: a withdrawal holds when its request is answered; the newest word about a purpose holds, in whatever
order they are told; every word stays in the ledger with its evidence.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from pydantic import AwareDatetime, BaseModel, Field

from app import rules
from app.api import limits
from app.api.auth import Caller, require
from app.api.idempotency import IdempotentRoute
from app.api.problems import Problem, field_problem
from app.api.reading import context_of
from app.api.resources.base import PROBLEMS, Cursor, Limit, Number, Strict, Text, after, e164, place
from app.api.resources.imports import FILE, Intake, Taken, router_of_files, take_file
from app.api.resources.suppressions import owner_of, storable
from app.domain.recipient import hash_of
from app.store import rules as book

router = APIRouter(tags=["consents"], route_class=IdempotentRoute, responses=PROBLEMS)
files = router_of_files("consents")
Ruler = Annotated[Caller, Depends(require("rules"))]
COLUMNS = ("purpose", "source", "at")
PURPOSE = r"^[a-z][a-z0-9_\-]{0,63}$"
FUTURE_LEEWAY_S = 60.0
Status = Literal["granted", "withdrawn"]


class NewConsent(Strict):
    """A person's word. `purpose` `marketing` is what marketing texts need; `at` is when it was said."""

    to: Number
    status: Status = "granted"
    purpose: Annotated[str, Field(pattern=PURPOSE)] = book.MARKETING
    source: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    evidence: dict[str, Any] = Field(default_factory=dict)
    at: AwareDatetime | None = None


class Bulk(Strict):
    """Up to 10,000 at once; grants and withdrawals may be mixed."""

    consents: Annotated[list[NewConsent], Field(min_length=1, max_length=rules.MAX_BULK)]


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """One row of a file."""

    to: Annotated[str, msgspec.Meta(max_length=64)]
    purpose: Annotated[str, msgspec.Meta(pattern=PURPOSE)] = book.MARKETING
    source: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] = "import"
    at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class Consent(BaseModel):
    """What holds for one purpose. `to` null: kept as a hash alone."""

    to: str | None
    purpose: str
    status: Status
    at: datetime


class ConsentPage(BaseModel):
    """In a stable order."""

    data: list[Consent]
    next: str | None


Told = tuple[bool, rules.Word]
"""(granted, word)"""


def _told(one: NewConsent | Row, now_s: float) -> Told:
    at_s = None if one.at is None else one.at.astimezone(UTC).timestamp()
    if at_s is not None and (at_s > now_s + FUTURE_LEEWAY_S or at_s < 0):
        raise field_problem("/at", "invalid_time", "a consent was given in the past")
    evidence = storable(one.evidence) if isinstance(one, NewConsent) else {}
    if one.source is not None:
        evidence = {"source": one.source, **evidence}
    granted = not isinstance(one, NewConsent) or one.status == "granted"
    return granted, rules.Word(e164(one.to), one.purpose, evidence, at_s)


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


def _view(one: book.Consent) -> Consent:
    status: Status = "granted" if one.granted else "withdrawn"
    return Consent(to=one.address, purpose=one.purpose, status=status, at=one.at)


async def _of_number(request: Request, caller: Caller, number: str) -> list[Consent]:
    async with context_of(request).database.driver() as driver:
        page = await book.consents_page(
            driver, caller.tenant_id, recipient=hash_of(caller.hash_key, number), limit=limits.MAX_PAGE
        )
    return [_view(one) for one in page]


@router.post("/v1/consents", summary="Record a consent or its withdrawal", status_code=201)
async def create_consent(body: NewConsent, request: Request, caller: Ruler) -> Consent:
    """Record what a person said; the answer is what holds then: a newer word outweighs this one."""
    told = _told(body, context_of(request).clock())
    await _take(request, caller, [told])
    return next(one for one in await _of_number(request, caller, told[1].e164) if one.purpose == body.purpose)


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
    """Grants, as CSV with a header (`to`, and if wanted `purpose`, `source`, `at`) or NDJSON; streamed.

    A file that broke off may be sent again, whole: a row that is taken twice changes nothing.
    """
    return await take_file(request, Row, COLUMNS, _intake(request, caller))


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
    start = place(cursor, caller, filters)
    async with context_of(request).database.driver() as driver:
        page = await book.consents_page(
            driver,
            caller.tenant_id,
            recipient=recipient,
            after=None if start is None else (start[:8], start[8:].decode()),
            limit=limit,
        )
    last = page[-1].recipient + page[-1].purpose.encode() if len(page) == limit else None
    return ConsentPage(data=[_view(one) for one in page], next=after(last, caller, filters))


@router.get("/v1/consents/{number}", summary="A number's consents")
async def get_consents(number: str, request: Request, caller: Ruler) -> ConsentPage:
    """What a person said, by purpose."""
    found = await _of_number(request, caller, e164(number, "path/number"))
    return ConsentPage(data=found, next=None)


@router.delete("/v1/consents/{number}", summary="Withdraw a consent")
async def withdraw_consent(
    number: str,
    request: Request,
    caller: Ruler,
    purpose: Annotated[str, Query(pattern=PURPOSE)] = book.MARKETING,
    reason: Annotated[Text, Query(min_length=1, max_length=500)] = "withdrawn over the API",
) -> Consent:
    """Withdraw now. 404 when nothing is known of this person and purpose."""
    found = e164(number, "path/number")
    if not any(one.purpose == purpose for one in await _of_number(request, caller, found)):
        raise Problem(404, "not_found", "there is no such consent")
    await _take(request, caller, [(False, rules.Word(found, purpose, {"reason": reason}))])
    return next(one for one in await _of_number(request, caller, found) if one.purpose == purpose)
