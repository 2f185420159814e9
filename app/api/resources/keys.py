"""/v1/keys: API keys, each shown once.

Guarantees: a key's secret is in the answer that made it and nowhere else; an admin's key reaches the keys of
its own tenant, the operator's those of any.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

import asyncpg
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from app.api.auth import Caller, Scope, require
from app.api.idempotency import IdempotentRoute
from app.api.problems import Problem, field_problem
from app.api.reading import context_of, identifier
from app.api.resources.base import (
    MAX_INT,
    NO_STORE,
    PROBLEMS,
    Flag,
    Line,
    Reason,
    Strict,
    Whole,
    by,
    demand_operator,
)
from app.store import audit, keys, tenants
from app.store.engine import driver_in

router = APIRouter(tags=["keys"], route_class=IdempotentRoute, responses=PROBLEMS)
Admin = Annotated[Caller, Depends(require("admin"))]
TenantId = Annotated[int | None, Query(ge=1, le=MAX_INT, description="Another tenant: the operator only.")]


class Key(BaseModel):
    """A key, without its secret."""

    id: UUID
    tenant_id: int
    name: str
    prefix: str
    scopes: list[Scope]
    test: bool
    created_at: datetime
    created_by: str
    revoked_at: datetime | None


class ShownKey(Key):
    """A key with its secret: shown this once."""

    key: str


class KeyPage(BaseModel):
    """A tenant's keys, newest first."""

    data: list[Key]


class NewKey(Strict):
    """A key to be made. A `test` key's messages reach only the sandbox. `admin` holds every scope."""

    name: Line
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=5)]
    test: Flag = False
    tenant_id: Annotated[Whole, Field(ge=1, le=MAX_INT)] | None = None
    reason: Reason = "created over the API"


class Rotation(Strict):
    """For how long the old key goes on beside the new one."""

    overlap_s: Annotated[Whole, Field(ge=0, le=30 * 86_400)] = 86_400
    reason: Reason = "rotated over the API"


class Revocation(Strict):
    """Why a key ends."""

    reason: Reason = "revoked over the API"


async def _tenant(request: Request, caller: Caller, tenant_id: int | None) -> int:
    """Whose keys are meant. Raises Problem (403)."""
    if tenant_id is None or tenant_id == caller.tenant_id:
        return caller.tenant_id
    await demand_operator(request, caller)
    return tenant_id


def _view(row: keys.KeyRow) -> Key:
    return Key.model_validate(row, from_attributes=True)


def _shown(row: keys.KeyRow, secret: str) -> ShownKey:
    return ShownKey(**_view(row).model_dump(), key=secret)


def _found(row: keys.KeyRow | None) -> keys.KeyRow:
    if row is None:
        raise Problem(404, "not_found", "there is no such key")
    return row


@router.get("/v1/keys", summary="List keys")
async def list_keys(
    request: Request, caller: Admin, tenant_id: TenantId = None, revoked: bool = False
) -> KeyPage:
    """The tenant's keys; with `revoked`, those too."""
    wanted = await _tenant(request, caller, tenant_id)
    async with context_of(request).database.driver() as driver:
        return KeyPage(data=[_view(row) for row in await keys.listed(driver, wanted, revoked=revoked)])


@router.get("/v1/keys/{key_id}", summary="One key")
async def get_key(key_id: str, request: Request, caller: Admin, tenant_id: TenantId = None) -> Key:
    """A key, without its secret."""
    wanted = await _tenant(request, caller, tenant_id)
    async with context_of(request).database.driver() as driver:
        return _view(_found(await keys.get(driver, wanted, identifier(key_id))))


@router.post("/v1/keys", summary="Create a key", status_code=201)
async def create_key(body: NewKey, request: Request, response: Response, caller: Admin) -> ShownKey:
    """A new key. Its secret is shown this once."""
    wanted = await _tenant(request, caller, body.tenant_id)
    context = context_of(request)
    async with context.database.begin() as connection:
        if await tenants.read(connection, wanted) is None:
            raise field_problem("/tenant_id", "invalid_value", "there is no such tenant")
        row, secret = await keys.create(
            await driver_in(connection),
            tenant_id=wanted,
            name=body.name,
            scopes=sorted(set(body.scopes)),
            test=body.test,
            created_by=caller.actor,
            now_s=context.clock(),
        )
        after = {"name": body.name, "scopes": sorted(set(body.scopes)), "test": body.test}
        actor = by(caller, body.reason, wanted)
        await audit.record(connection, actor, "key.create", f"key/{row.id}", after=after)
    response.headers.update(NO_STORE)
    return _shown(row, secret)


@router.post("/v1/keys/{key_id}/rotate", summary="Rotate a key", status_code=201)
async def rotate_key(
    key_id: str,
    request: Request,
    response: Response,
    caller: Admin,
    body: Rotation | None = None,
    tenant_id: TenantId = None,
) -> ShownKey:
    """A new key of the same name and scopes; the old one ends after the overlap."""
    body = body or Rotation()
    wanted = await _tenant(request, caller, tenant_id)
    context = context_of(request)
    now_s = context.clock()
    ends = datetime.fromtimestamp(now_s, UTC) + timedelta(seconds=body.overlap_s)
    async with context.database.begin() as connection:
        driver = await driver_in(connection)
        old = _found(await keys.get(driver, wanted, identifier(key_id)))
        if old.revoked_at is not None:
            raise Problem(409, "conflict", "the key was revoked or rotated already")
        row, secret = await keys.create(
            driver,
            tenant_id=wanted,
            name=old.name,
            scopes=old.scopes,
            test=old.test,
            created_by=caller.actor,
            now_s=now_s,
        )
        await keys.revoke(driver, wanted, old.id.bytes, ends)
        after = {"successor": str(row.id), "ends_at": ends.isoformat()}
        actor = by(caller, body.reason, wanted)
        await audit.record(connection, actor, "key.rotate", f"key/{old.id}", after=after)
    response.headers.update(NO_STORE)
    return _shown(row, secret)


@router.post("/v1/keys/{key_id}/revoke", summary="Revoke a key")
async def revoke_key(
    key_id: str, request: Request, caller: Admin, body: Revocation | None = None, tenant_id: TenantId = None
) -> Key:
    """End a key now. Every process refuses it within a second or two."""
    reason = (body or Revocation()).reason
    return _view(await _revoke(request, caller, key_id, tenant_id, reason))


@router.delete("/v1/keys/{key_id}", summary="Revoke a key (DELETE)", status_code=204)
async def delete_key(key_id: str, request: Request, caller: Admin, tenant_id: TenantId = None) -> Response:
    """The same as revoking it."""
    await _revoke(request, caller, key_id, tenant_id, "revoked over the API")
    return Response(status_code=204)


async def _revoke(
    request: Request, caller: Caller, key_id: str, tenant_id: int | None, reason: str
) -> keys.KeyRow:
    wanted = await _tenant(request, caller, tenant_id)
    async with context_of(request).database.begin() as connection:
        driver: asyncpg.Connection = await driver_in(connection)
        row = _found(await keys.revoke(driver, wanted, identifier(key_id)))
        actor = by(caller, reason, wanted)
        await audit.record(connection, actor, "key.revoke", f"key/{row.id}", before={"name": row.name})
    return row
