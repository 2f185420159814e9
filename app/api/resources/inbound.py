"""/v1/inbound: texts that people sent in."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from app.api import limits
from app.api.auth import Caller, require
from app.api.idempotency import IdempotentRoute
from app.api.problems import Problem
from app.api.reading import context_of, identifier
from app.api.resources.base import PROBLEMS, Cursor, Limit, Text, after, e164, place
from app.store import inbound

router = APIRouter(tags=["inbound"], route_class=IdempotentRoute, responses=PROBLEMS)
Reader = Annotated[Caller, Depends(require("read"))]


class Inbound(BaseModel):
    """A text that came in. `action` is what its keyword asked for, and was done; `keyword` and `answer` are the
    tenant's own. `doubtful`: a stop that was heeded and should be looked at. `reply`: what was answered, if anything.
    `port`: of the application that it was addressed to; such a text is heeded as a stop only, and never answered.
    """

    model_config = ConfigDict(populate_by_name=True)

    id: UUID
    sender: str = Field(serialization_alias="from")
    to: str
    text: str
    action: str | None
    keyword: str | None
    doubtful: bool
    gateway: str
    at: datetime
    reply: str | None
    port: int | None


class InboundPage(BaseModel):
    """Newest first."""

    data: list[Inbound]
    next: str | None


@router.get("/v1/inbound", summary="List inbound texts")
async def list_inbound(
    request: Request,
    caller: Reader,
    sender: Annotated[Text | None, Query(alias="from", max_length=64, description="The person.")] = None,
    to: Annotated[Text | None, Query(max_length=20, description="Our address.")] = None,
    action: Literal["stop", "start", "help", "keyword", "answer"] | None = None,
    doubtful: Annotated[bool | None, Query(description="Those that a person should look at.")] = None,
    cursor: Cursor = None,
    limit: Limit = limits.DEFAULT_PAGE,
) -> InboundPage:
    """The tenant's inbound texts."""
    person = None if sender is None else e164(sender, "query/from")
    address = None if to is None else to.removeprefix("+")
    filters = f"inbound {person} {address} {action} {doubtful}"
    before = place(cursor, caller, filters)
    async with context_of(request).database.driver() as driver:
        page = await inbound.page(
            driver, caller.tenant_id, before=before, sender=person, to=address, action=action,
            doubtful=doubtful, limit=limit,
        )  # fmt: skip
    last = page[-1].id.bytes if len(page) == limit else None
    data = [Inbound.model_validate(one, from_attributes=True) for one in page]
    return InboundPage(data=data, next=after(last, caller, filters))


@router.get("/v1/inbound/{inbound_id}", summary="One inbound text")
async def get_inbound(inbound_id: str, request: Request, caller: Reader) -> Inbound:
    """An inbound text."""
    async with context_of(request).database.driver() as driver:
        found = await inbound.read(driver, caller.tenant_id, identifier(inbound_id))
    if found is None:
        raise Problem(404, "not_found", "there is no such text")
    return Inbound.model_validate(found, from_attributes=True)
