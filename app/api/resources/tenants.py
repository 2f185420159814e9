"""/v1/tenants: the operator's register of tenants."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, Field

from app import rules
from app.api import limits
from app.api.auth import Caller, require
from app.api.idempotency import IdempotentRoute
from app.api.problems import Problem
from app.api.reading import context_of
from app.api.resources.base import (
    MAX_INT,
    PROBLEMS,
    Cursor,
    Limit,
    Line,
    Reason,
    Strict,
    Text,
    after,
    by,
    changing,
    demand_operator,
    place,
)
from app.store import config, tenants

router = APIRouter(tags=["tenants"], route_class=IdempotentRoute, responses=PROBLEMS)
Admin = Annotated[Caller, Depends(require("admin"))]
TenantId = Annotated[int, Path(ge=1, le=MAX_INT)]
_FILTERS = "tenants"


class Settings(Strict):
    """What a tenant may set. `brand` and `contact` stand in the answers to STOP."""

    default_sender: Annotated[Text, Field(max_length=20)] | None = None
    brand: Annotated[Text, Field(min_length=1, max_length=60)] | None = None
    contact: Annotated[Text, Field(min_length=1, max_length=100)] | None = None
    callback_http_hosts: (
        Annotated[
            list[Annotated[Text, Field(max_length=253)]],
            Field(max_length=20, description="Hosts to which a callback URL may be http."),
        ]
        | None
    ) = None


class Tenant(BaseModel):
    """Who messages, keys and rules belong to."""

    id: int
    name: str
    settings: Settings
    created_at: datetime


class TenantPage(BaseModel):
    """Tenants by id."""

    data: list[Tenant]
    next: str | None


class NewTenant(Strict):
    """A tenant to be made."""

    name: Line
    settings: Settings = Field(default_factory=Settings)
    reason: Reason = "created over the API"


class TenantChange(Strict):
    """What is left out stays; a setting of null is taken away."""

    name: Line | None = None
    settings: Settings = Field(default_factory=Settings)
    reason: Reason


def _view(tenant: tenants.Tenant) -> Tenant:
    known = {name: tenant.settings.get(name) for name in Settings.model_fields}
    return Tenant(id=tenant.id, name=tenant.name, settings=Settings(**known), created_at=tenant.created_at)


def _values(settings: Settings) -> dict[str, Any]:
    values = settings.model_dump(exclude_unset=True)
    if values.get("default_sender") is not None:
        with changing():
            values["default_sender"] = config.address(values["default_sender"])
    return values


@router.get("/v1/tenants", summary="List tenants")
async def list_tenants(
    request: Request, caller: Admin, cursor: Cursor = None, limit: Limit = limits.DEFAULT_PAGE
) -> TenantPage:
    """All tenants."""
    await demand_operator(request, caller)
    start = place(cursor, caller, _FILTERS)
    async with context_of(request).database.connect() as connection:
        page = await tenants.page(connection, after_id=int(start or b"0"), limit=limit)
    last = b"%d" % page[-1].id if len(page) == limit else None
    return TenantPage(data=[_view(one) for one in page], next=after(last, caller, _FILTERS))


@router.get("/v1/tenants/{tenant_id}", summary="One tenant")
async def get_tenant(tenant_id: TenantId, request: Request, caller: Admin) -> Tenant:
    """A tenant; one's own, or for the operator any."""
    if tenant_id != caller.tenant_id:
        await demand_operator(request, caller)
    async with context_of(request).database.connect() as connection:
        return _view(_found(await tenants.read(connection, tenant_id)))


def _found(tenant: tenants.Tenant | None) -> tenants.Tenant:
    if tenant is None:
        raise Problem(404, "not_found", "there is no such tenant")
    return tenant


@router.post("/v1/tenants", summary="Create a tenant", status_code=201)
async def create_tenant(body: NewTenant, request: Request, caller: Admin) -> Tenant:
    """A new tenant. Make a key for it with `POST /v1/keys`."""
    await demand_operator(request, caller)
    context = context_of(request)
    try:
        async with context.database.begin() as connection:
            settings = {name: value for name, value in _values(body.settings).items() if value is not None}
            tenant = await tenants.create(connection, body.name, settings, by(caller, body.reason))
    except tenants.NameTaken:
        raise Problem(409, "conflict", "there is a tenant of that name already") from None
    await rules.prepare(context.database, context.queue, tenant.id)
    return _view(tenant)


@router.patch("/v1/tenants/{tenant_id}", summary="Change a tenant")
async def change_tenant(tenant_id: TenantId, body: TenantChange, request: Request, caller: Admin) -> Tenant:
    """Change a tenant's name or settings."""
    await demand_operator(request, caller)
    try:
        async with context_of(request).database.begin() as connection:
            found = await tenants.change(
                connection, tenant_id, body.name, _values(body.settings), by(caller, body.reason, tenant_id)
            )
            return _view(_found(found))
    except tenants.NameTaken:
        raise Problem(409, "conflict", "there is a tenant of that name already") from None
