"""/v1/pools: senders of a tenant that share its traffic. A message names one as `"sender": "pool:<name>"`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, Field

from app.api.auth import Caller, require
from app.api.idempotency import IdempotentRoute
from app.api.reading import context_of
from app.api.resources.base import PROBLEMS, Change, Reason, Strict, Text, by, changing
from app.store import config
from app.store.config import POOL

router = APIRouter(tags=["senders"], route_class=IdempotentRoute, responses=PROBLEMS)
Operator = Annotated[Caller, Depends(require("operate"))]
Reader = Annotated[Caller, Depends(require("read"))]
Name = Annotated[str, Path(max_length=64, pattern=r"^[a-z0-9][a-z0-9_.\-]*$")]


class Member(Strict):
    """A registered sender, and the countries whose people it texts. A number without any texts those of its own
    country; a name or short code without any, those that no other member is for."""

    address: Annotated[Text, Field(max_length=20)]
    countries: Annotated[list[Text], Field(max_length=250, description="ISO 3166-1: `VN`")] = Field(
        default_factory=list
    )


class Pool(BaseModel):
    """The same person is always texted from the same member."""

    name: str
    members: list[Member]
    version: int
    updated_at: datetime


class PoolPage(BaseModel):
    """All pools of the tenant."""

    data: list[Pool]


class NewPool(Change):
    """All members. One that is taken away leaves its people to the others; the others keep theirs. A STOP to any
    member, also a former one, holds for all senders of the tenant."""

    members: Annotated[list[Member], Field(min_length=1, max_length=config.MAX_MEMBERS)]


@router.get("/v1/pools", summary="List sender pools")
async def list_pools(request: Request, caller: Reader) -> PoolPage:
    """The tenant's pools."""
    async with context_of(request).database.connect() as connection:
        rows = await config.rows(connection, POOL, tenant_id=caller.tenant_id)
    return PoolPage(data=[_view(row) for row in rows])


@router.get("/v1/pools/{name}", summary="One sender pool")
async def get_pool(name: Name, request: Request, caller: Reader) -> Pool:
    """A pool."""
    with changing():
        async with context_of(request).database.connect() as connection:
            return _view(await config.read(connection, POOL, _key(caller, name)))


@router.put("/v1/pools/{name}", summary="Set a sender pool")
async def put_pool(name: Name, body: NewPool, request: Request, caller: Operator) -> Pool:
    """Make a pool, or replace its members. Messages accepted from the next second on follow it."""
    values: dict[str, Any] = {"members": [one.model_dump() for one in body.members]}
    actor, key = by(caller, body.reason, caller.tenant_id), _key(caller, name)
    with changing():
        async with context_of(request).database.begin() as connection:
            if body.version is None and not await config.rows(connection, POOL, **key):
                return _view(await config.create(connection, POOL, {**key, **values}, actor))
            return _view(await config.change(connection, POOL, key, values, actor, version=body.version))


@router.delete("/v1/pools/{name}", summary="Remove a sender pool", status_code=204)
async def remove_pool(
    name: Name, request: Request, caller: Operator, reason: Annotated[Reason, Query()]
) -> Response:
    """Its senders stay; messages that name the pool are refused from now on."""
    with changing():
        async with context_of(request).database.begin() as connection:
            actor = by(caller, reason, caller.tenant_id)
            await config.remove(connection, POOL, _key(caller, name), actor)
    return Response(status_code=204)


def _view(row: Mapping[str, Any]) -> Pool:
    members = [
        Member(address=m["address"], countries=m["countries"]) for m in row["members"] if not m.get("retired")
    ]
    return Pool(name=row["name"], members=members, version=row["version"], updated_at=row["updated_at"])


def _key(caller: Caller, name: str) -> dict[str, Any]:
    return {"tenant_id": caller.tenant_id, "name": name}
