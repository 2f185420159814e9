"""/v1/erasures: a person's data removed or made unreadable, on request and provably.

Guarantee: when the request is answered nothing more goes to that number, and what waited is cancelled; the number
itself is nowhere but in what is under way at that moment, and goes from there, too (`done_at`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel

from app import erasure
from app.api import limits
from app.api.auth import Caller, require
from app.api.idempotency import IdempotentRoute
from app.api.problems import Problem, field_problem
from app.api.reading import context_of, identifier
from app.api.resources.base import PROBLEMS, Cursor, Limit, Number, Reason, Strict, Text, e164, page_of
from app.api.resources.suppressions import owner_of
from app.domain import mentions
from app.store import erasures

router = APIRouter(tags=["erasures"], route_class=IdempotentRoute, responses=PROBLEMS)
Ruler = Annotated[Caller, Depends(require("rules"))]


class NewErasure(Strict):
    """The person to be forgotten. `reason` is kept for ever: it must not name them."""

    to: Number
    reason: Reason = "requested by the person"


class Erasure(BaseModel):
    """A request. `recipient` is the keyed hash that stays; `done_at` null: something is still under way.

    `matches`: whether it was about the number that was asked for with `to`.
    """

    id: UUID
    recipient: str
    actor: str
    reason: str
    asked_at: datetime
    done_at: datetime | None
    counts: dict[str, int]
    matches: bool | None = None


class ErasurePage(BaseModel):
    """Newest first."""

    data: list[Erasure]
    next: str | None


def _view(one: erasures.Erasure, matches: bool | None = None) -> Erasure:
    return Erasure(
        id=one.id, recipient=one.recipient.hex(), actor=one.actor, reason=one.reason, asked_at=one.asked_at,
        done_at=one.done_at, counts=one.counts, matches=matches,
    )  # fmt: skip


@router.post("/v1/erasures", summary="Erase a person's data", status_code=201)
async def create_erasure(body: NewErasure, request: Request, caller: Ruler) -> Erasure:
    """Forget this number: messages, inbound texts, evidence, webhooks, answers kept. It can't be undone."""
    context, number = context_of(request), e164(body.to)
    if mentions.without(body.reason, number) != body.reason:
        raise field_problem("/reason", "invalid_value", "the reason is kept: it must not name the person")
    made = await erasure.ask(
        context.database, context.queue, owner_of(caller), number, actor=caller.actor, reason=body.reason,
        now_s=context.clock(),
    )  # fmt: skip
    async with context.database.driver() as driver:
        found = await erasures.read(driver, caller.tenant_id, made)
    assert found is not None
    return _view(found)


@router.get("/v1/erasures", summary="List erasures")
async def list_erasures(
    request: Request, caller: Ruler, cursor: Cursor = None, limit: Limit = limits.DEFAULT_PAGE
) -> ErasurePage:
    """The tenant's requests, newest first."""
    page, following = await page_of(
        request, caller, "erasures", cursor, limit,
        lambda driver, start: erasures.page(driver, caller.tenant_id, before=start, limit=limit), lambda one: one.id,
    )  # fmt: skip
    return ErasurePage(data=[_view(one) for one in page], next=following)


@router.get("/v1/erasures/{erasure_id}", summary="One erasure")
async def get_erasure(
    erasure_id: str,
    request: Request,
    caller: Ruler,
    to: Annotated[Text | None, Query(max_length=64, description="A number to hold against it.")] = None,
) -> Erasure:
    """How far it is; with `to`, whether it was about that number: the proof for who asked."""
    number = None if to is None else e164(to, "query/to")
    async with context_of(request).database.driver() as driver:
        found = await erasures.read(driver, caller.tenant_id, identifier(erasure_id))
    if found is None:
        raise Problem(404, "not_found", "there is no such erasure")
    matches = None if number is None else erasure.proves(found, caller.hash_key, number)
    return _view(found, matches)
