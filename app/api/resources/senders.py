"""/v1/senders: the from-addresses of a tenant, with their rates and where they are registered; answers to them come
back to it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from app.api.auth import Caller, require
from app.api.idempotency import IdempotentRoute
from app.api.problems import Problem
from app.api.reading import context_of
from app.api.resources.base import PROBLEMS, Change, Reason, Text, Whole, by, changing, given
from app.store import config, tenants
from app.store.config import SENDER

router = APIRouter(tags=["senders"], route_class=IdempotentRoute, responses=PROBLEMS)
Operator = Annotated[Caller, Depends(require("operate"))]
Reader = Annotated[Caller, Depends(require("read"))]
Address = Annotated[str, Path(max_length=20)]


class Sender(BaseModel):
    """A number or short code without plus sign, or a name."""

    address: str
    rate: int | None
    registered: list[str]
    signature: str
    brand: str
    version: int
    updated_at: datetime


class SenderPage(BaseModel):
    """All senders of the tenant."""

    data: list[Sender]


Countries = Annotated[
    list[Annotated[Text, Field(pattern=r"^[A-Z]{2}$")]],
    Field(max_length=250, description="Countries whose authorities or networks have this sender registered."),
]
Signature = Annotated[
    Text,
    Field(
        max_length=60,
        pattern=r"^[^\n\r]*$",
        description="The name in the labels that countries demand (【name】); it goes before the tenant's brand.",
    ),
]


class NewSender(Change):
    """An address to be registered. `rate` is in segments a second; null or 0: no limit.

    `brand`: the senders of one brand share its stops and consents, as the tenant's `stop_scope` says.
    """

    address: Text
    rate: Whole | None = None
    registered: Countries = Field(default_factory=list)
    signature: Signature = ""
    brand: Annotated[Text, Field(max_length=64)] | None = None


class SenderChange(Change):
    """What is left out stays; a brand of null is taken away."""

    rate: Whole | None = None
    registered: Countries | None = None
    signature: Signature | None = None
    brand: Annotated[Text, Field(max_length=64)] | None = None


@router.get("/v1/senders", summary="List senders")
async def list_senders(request: Request, caller: Reader) -> SenderPage:
    """The tenant's registered senders."""
    async with context_of(request).database.connect() as connection:
        rows = await config.rows(connection, SENDER, tenant_id=caller.tenant_id)
    return SenderPage(data=[Sender.model_validate(row) for row in rows])


@router.get("/v1/senders/{address}", summary="One sender")
async def get_sender(address: Address, request: Request, caller: Reader) -> Sender:
    """A sender."""
    with changing():
        key = {"tenant_id": caller.tenant_id, "address": config.address(address)}
        async with context_of(request).database.connect() as connection:
            return Sender.model_validate(await config.read(connection, SENDER, key))


@router.post("/v1/senders", summary="Register a sender", status_code=201)
async def create_sender(body: NewSender, request: Request, caller: Operator) -> Sender:
    """Register an address. One that another tenant has is a 409, unless the operator shares it."""
    with changing():
        key = {"tenant_id": caller.tenant_id, "address": config.address(body.address)}
        async with context_of(request).database.begin() as connection:
            await _demand_free(connection, caller, key["address"])
            actor = by(caller, body.reason, caller.tenant_id)
            values = {
                "rate": body.rate,
                "registered": body.registered,
                "signature": body.signature,
                "brand": body.brand,
            }
            row = await config.create(connection, SENDER, {**key, **values}, actor)
            return Sender.model_validate(row)


async def _demand_free(connection: AsyncConnection, caller: Caller, address: object) -> None:
    """Who registers an address gets the answers to it, so it can't be taken from another tenant."""
    taken = await config.rows(connection, SENDER, address=address)
    others = any(row["tenant_id"] != caller.tenant_id for row in taken)
    if others and await tenants.operator_id(connection) != caller.tenant_id:
        raise Problem(409, "conflict", "another tenant has this address")


@router.patch("/v1/senders/{address}", summary="Change a sender")
async def change_sender(address: Address, body: SenderChange, request: Request, caller: Operator) -> Sender:
    """Set a sender's rate, its signature, or where it is registered. Holds within seconds."""
    values = given(body, "rate", "registered", "signature", "brand")
    for name in ("registered", "signature", "brand"):
        if name in values and values[name] is None:
            del values[name]
    with changing():
        key = {"tenant_id": caller.tenant_id, "address": config.address(address)}
        async with context_of(request).database.begin() as connection:
            row = await config.change(
                connection,
                SENDER,
                key,
                values,
                by(caller, body.reason, caller.tenant_id),
                version=body.version,
            )
            return Sender.model_validate(row)


@router.delete("/v1/senders/{address}", summary="Remove a sender", status_code=204)
async def remove_sender(
    address: Address, request: Request, caller: Operator, reason: Annotated[Reason, Query()]
) -> Response:
    """Unregister an address."""
    with changing():
        key = {"tenant_id": caller.tenant_id, "address": config.address(address)}
        async with context_of(request).database.begin() as connection:
            await config.remove(connection, SENDER, key, by(caller, reason, caller.tenant_id))
    return Response(status_code=204)
