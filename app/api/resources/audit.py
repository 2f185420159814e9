"""/v1/audit: who changed what, why, before and after."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel

from app.api import limits
from app.api.auth import Caller, require
from app.api.idempotency import IdempotentRoute
from app.api.reading import context_of
from app.api.resources.base import PROBLEMS, Cursor, Limit, Text, after, place
from app.store import audit, tenants

router = APIRouter(tags=["audit"], route_class=IdempotentRoute, responses=PROBLEMS)
Admin = Annotated[Caller, Depends(require("admin"))]


class Entry(BaseModel):
    """One change. Secrets in `before` and `after` are masked."""

    id: int
    at: datetime
    tenant_id: int | None
    actor: str
    reason: str
    action: str
    subject: str
    before: Any
    after: Any


class AuditPage(BaseModel):
    """Newest first."""

    data: list[Entry]
    next: str | None


@router.get("/v1/audit", summary="Read the audit log")
async def list_audit(
    request: Request,
    caller: Admin,
    subject: Annotated[Text | None, Query(max_length=200, description="`gateway/sandbox`")] = None,
    cursor: Cursor = None,
    limit: Limit = limits.DEFAULT_PAGE,
) -> AuditPage:
    """The tenant's entries; for the operator all."""
    filters = f"audit {subject}"
    start = place(cursor, caller, filters)
    async with context_of(request).database.connect() as connection:
        operator = await tenants.operator_id(connection) == caller.tenant_id
        page = await audit.page(
            connection,
            tenant_id=None if operator else caller.tenant_id,
            before_id=None if start is None else int(start),
            subject=subject,
            limit=limit,
        )
    last = b"%d" % page[-1].id if len(page) == limit else None
    data = [Entry.model_validate(one, from_attributes=True) for one in page]
    return AuditPage(data=data, next=after(last, caller, filters))
