"""/v1/suppressions: addresses that are never sent to.

Guarantee: when a request that suppresses is answered, no dispatcher hands over another text to that number.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from app import rules
from app.api import limits
from app.api.auth import Caller, require
from app.api.idempotency import IdempotentRoute
from app.api.problems import Problem, field_problem
from app.api.reading import context_of
from app.api.resources import exports
from app.api.resources.base import PROBLEMS, Cursor, Limit, Number, Strict, Text, after, changing, e164, place
from app.api.resources.imports import FILE, Intake, Taken, router_of_files, take_file
from app.domain.contacts import BRAND, brand_scope
from app.domain.recipient import hash_of
from app.store import config
from app.store import rules as book
from app.store.engine import Database

router = APIRouter(tags=["suppressions"], route_class=IdempotentRoute, responses=PROBLEMS)
files = router_of_files("suppressions")
Ruler = Annotated[Caller, Depends(require("rules"))]
COLUMNS = ("sender", "brand", "reason", "source", "created_at")
BRAND_NAME = r"^[a-z0-9][a-z0-9_.\-]{0,63}$"
MAX_EVIDENCE_BYTES = 8_192


class NewSuppression(Strict):
    """A number never to be sent to again: from one sender, from those of a brand, or, without both, from any."""

    to: Number
    sender: Annotated[Text, Field(max_length=20)] | None = None
    brand: Annotated[str, Field(pattern=BRAND_NAME)] | None = None
    reason: Annotated[Text, Field(min_length=1, max_length=200)] = "requested"
    evidence: dict[str, Any] = Field(default_factory=dict)


class Bulk(Strict):
    """Up to 10,000 at once."""

    suppressions: Annotated[list[NewSuppression], Field(min_length=1, max_length=rules.MAX_BULK)]


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """One row of a file. What an export says beside it is read over: this is an import, and now."""

    to: Annotated[str, msgspec.Meta(max_length=64)]
    sender: Annotated[str, msgspec.Meta(max_length=20)] | None = None
    brand: Annotated[str, msgspec.Meta(pattern=BRAND_NAME)] | None = None
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] = "imported"
    source: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    created_at: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class Suppression(BaseModel):
    """`sender` and `brand` null: every sender of the tenant. `to` null: kept as a hash alone."""

    to: str | None
    sender: str | None
    brand: str | None
    reason: str
    source: str
    created_at: datetime


class SuppressionPage(BaseModel):
    """In a stable order."""

    data: list[Suppression]
    next: str | None


class Event(BaseModel):
    """One line of the ledger. `at` is when it was said, `recorded_at` when Volley was told."""

    kind: str
    scope: str
    brand: str
    evidence: dict[str, Any]
    actor: str
    at: datetime
    recorded_at: datetime


class Standing(BaseModel):
    """What holds for a number, and what made it so, newest first."""

    to: str
    suppressed: list[Suppression]
    events: list[Event]


class Released(BaseModel):
    """How many suppressions were lifted."""

    released: int


def owner_of(caller: Caller) -> rules.Owner:
    """The caller's tenant, for the rules."""
    return rules.Owner(caller.tenant_id, caller.hash_key)


def storable(evidence: dict[str, Any]) -> dict[str, Any]:
    """Evidence as PostgreSQL takes it. Raises Problem (422)."""
    try:
        raw = msgspec.json.encode(evidence)
    except (ValueError, RecursionError):
        raise field_problem("/evidence", "invalid_value", "it can't be stored") from None
    if len(raw) > MAX_EVIDENCE_BYTES:
        raise field_problem("/evidence", "too_long", f"more than {MAX_EVIDENCE_BYTES} bytes")
    if b"\\u0000" in raw:
        raise field_problem("/evidence", "nul_character", "NUL can't be stored")
    return evidence


def _scope(sender: str | None, brand: str | None) -> str:
    """What a suppression is about, as it is stored. Raises Problem (422)."""
    if sender and brand:
        raise field_problem("/brand", "invalid_value", "a suppression is of a sender or of a brand")
    if brand:
        return brand_scope(brand)
    if not sender:
        return ""
    try:
        return config.address(sender)
    except config.Invalid as error:
        raise field_problem("/sender", "invalid_sender", error.detail) from None


def _stop(one: NewSuppression | Row) -> rules.Stop:
    evidence = storable(one.evidence) if isinstance(one, NewSuppression) else {}
    return rules.Stop(e164(one.to), _scope(one.sender, one.brand), one.reason, evidence)


def _view(one: book.Suppression) -> Suppression:
    of_brand = one.sender.startswith(BRAND)
    return Suppression(
        to=one.address,
        sender=None if of_brand else one.sender or None,
        brand=one.sender.removeprefix(BRAND) if of_brand else None,
        reason=one.reason,
        source=one.source,
        created_at=one.created_at,
    )


@router.post("/v1/suppressions", summary="Suppress a number", status_code=201)
async def create_suppression(body: NewSuppression, request: Request, caller: Ruler) -> Suppression:
    """Never again to this number. Holds when the answer is sent. Suppressing it again changes nothing."""
    stop = _stop(body)
    context = context_of(request)
    await rules.suppress(
        context.database,
        context.queue,
        owner_of(caller),
        [stop],
        source="api",
        actor=caller.actor,
        now_s=context.clock(),
    )
    recipient = hash_of(caller.hash_key, stop.e164)
    async with context.database.driver() as driver:
        page = await book.suppressions_page(driver, caller.tenant_id, recipient=recipient)
    return next(_view(one) for one in page if one.sender == stop.sender)


@router.post("/v1/suppressions/bulk", summary="Suppress many numbers")
async def create_suppressions(body: Bulk, request: Request, caller: Ruler) -> Taken:
    """Up to 10,000. Those that can't be taken are listed and hinder no other."""
    intake = _intake(request, caller, "api")
    for index, one in enumerate(body.suppressions):
        await intake.row(index, one, f"/suppressions/{index}")
    await intake.flush()
    return intake.taken


@files.post(
    "/v1/suppressions/import",
    summary="Suppress a file of numbers",
    openapi_extra=FILE,
)
async def import_suppressions(request: Request, caller: Ruler) -> Taken:
    """CSV with a header (`to`, and if wanted `sender` or `brand`, `reason`), or NDJSON with these fields; streamed.

    A file that broke off may be sent again, whole: a row that is taken twice changes nothing.
    """
    return await take_file(request, Row, COLUMNS, _intake(request, caller, "import"))


def _intake(request: Request, caller: Caller, source: str) -> Intake[NewSuppression | Row, rules.Stop]:
    context = context_of(request)

    async def take(stops: list[rules.Stop]) -> int:
        return await rules.suppress(
            context.database,
            context.queue,
            owner_of(caller),
            stops,
            source=source,
            actor=caller.actor,
            now_s=context.clock(),
        )

    return Intake(_stop, take)


@router.get("/v1/suppressions", summary="List suppressions")
async def list_suppressions(
    request: Request,
    caller: Ruler,
    to: Annotated[Text | None, Query(max_length=64, description="One number's.")] = None,
    cursor: Cursor = None,
    limit: Limit = limits.DEFAULT_PAGE,
) -> SuppressionPage:
    """The tenant's suppressions."""
    recipient = None if to is None else hash_of(caller.hash_key, e164(to, "query/to"))
    filters = f"suppressions {recipient.hex() if recipient else None}"
    start = place(cursor, caller, filters)
    async with context_of(request).database.driver() as driver:
        page = await book.suppressions_page(
            driver,
            caller.tenant_id,
            recipient=recipient,
            after=None if start is None else (start[:8], start[8:].decode()),
            limit=limit,
        )
    last = page[-1].recipient + page[-1].sender.encode() if len(page) == limit else None
    return SuppressionPage(data=[_view(one) for one in page], next=after(last, caller, filters))


@router.get("/v1/suppressions/export", summary="All suppressions", response_class=StreamingResponse)
async def export_suppressions(
    request: Request, caller: Ruler, file: Annotated[Literal["ndjson", "csv"], Query()] = "ndjson"
) -> StreamingResponse:
    """All that stand, as a file that `/import` takes; streamed.

    Those of people whose number is kept as a hash alone have `to` null, and are not in the CSV.
    """
    lines = _lines(context_of(request).database, caller.tenant_id)
    return exports.answer(lines, file, ("to", *COLUMNS))


async def _lines(database: Database, tenant_id: int) -> AsyncIterator[list[dict[str, Any]]]:
    async with database.driver() as driver:
        async for page in book.all_suppressions(driver, tenant_id):
            yield [
                _view(one).model_dump(mode="json", exclude_none=True) | {"to": one.address} for one in page
            ]


@router.get("/v1/suppressions/{number}", summary="What holds for a number")
async def get_suppressions(number: str, request: Request, caller: Ruler) -> Standing:
    """A number's suppressions, and the ledger of its stops, starts, grants and withdrawals."""
    found = e164(number, "path/number")
    recipient = hash_of(caller.hash_key, found)
    async with context_of(request).database.driver() as driver:
        page = await book.suppressions_page(driver, caller.tenant_id, recipient=recipient)
        events = await book.events_of(driver, caller.tenant_id, recipient)
    return Standing(
        to=found,
        suppressed=[_view(one) for one in page],
        events=[Event.model_validate(one, from_attributes=True) for one in events],
    )


@router.delete("/v1/suppressions/{number}", summary="Release a number")
async def release_number(
    number: str,
    request: Request,
    caller: Ruler,
    sender: Annotated[
        Text | None, Query(max_length=20, description="Of this sender; without: the one of all senders.")
    ] = None,
    brand: Annotated[str | None, Query(pattern=BRAND_NAME, description="Of this brand.")] = None,
    reason: Annotated[Text, Query(min_length=1, max_length=500)] = "released over the API",
) -> Released:
    """Lift one suppression. 404 when there is none. Who said STOP should be released by their own START."""
    found = e164(number, "path/number")
    context = context_of(request)
    with changing():
        scope = _scope(sender, brand)
    released = await rules.release(
        context.database,
        context.queue,
        owner_of(caller),
        [(found, scope)],
        actor=caller.actor,
        now_s=context.clock(),
        evidence={"reason": reason},
    )
    if not released:
        raise Problem(
            404, "not_found", "there is no suppression that could be lifted; an erased person's stands"
        )
    return Released(released=released)
