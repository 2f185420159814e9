"""/v1/regions: rates and pauses by region, and regions finer than a country."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, Field

from app.api.auth import Caller, require
from app.api.idempotency import IdempotentRoute
from app.api.reading import context_of
from app.api.resources.base import (
    PROBLEMS,
    Change,
    Flag,
    Number,
    Reason,
    Text,
    Whole,
    by,
    changing,
    demand_operator,
    given,
)
from app.store import config
from app.store.config import REGION

router = APIRouter(tags=["regions"], route_class=IdempotentRoute, responses=PROBLEMS)
Operator = Annotated[Caller, Depends(require("operate"))]
Code = Annotated[str, Path(pattern=r"^[A-Z]{2}(-[A-Z0-9]{1,3})?$", description="`VN`, `US-FL`")]


class Region(BaseModel):
    """A region with an entry. Without one a country has no rate of its own and is not paused."""

    code: str
    prefixes: list[str]
    rate: int | None
    paused: bool
    test_numbers: list[str]
    lead_s: int | None
    version: int
    updated_at: datetime


class RegionPage(BaseModel):
    """All regions that have an entry."""

    data: list[Region]


class RegionChange(Change):
    """What is left out stays. `rate` is in segments a second, in any sliding second; null or 0: no limit."""

    rate: Whole | None = None
    prefixes: Annotated[list[Text], Field(max_length=config.MAX_PREFIXES)] | None = None
    paused: Flag | None = None
    test_numbers: (
        Annotated[
            list[Number],
            Field(
                max_length=config.MAX_TEST_NUMBERS,
                description="Phones of your own, texted by `POST /v1/probes`.",
            ),
        ]
        | None
    ) = None
    lead_s: Annotated[
        int | None,
        Field(
            ge=0,
            le=config.MAX_LEAD_S,
            description="Seconds that a text takes to its phone: marketing stops so long before its hours end. "
            "null: 60.",
        ),
    ] = None


@router.get("/v1/regions", summary="List regions")
async def list_regions(request: Request, caller: Operator) -> RegionPage:
    """All regions that have an entry."""
    await demand_operator(request, caller)
    async with context_of(request).database.connect() as connection:
        rows = await config.rows(connection, REGION)
    return RegionPage(data=[Region.model_validate(row) for row in rows])


@router.get("/v1/regions/{code}", summary="One region")
async def get_region(code: Code, request: Request, caller: Operator) -> Region:
    """A region's entry."""
    await demand_operator(request, caller)
    with changing():
        async with context_of(request).database.connect() as connection:
            return Region.model_validate(await config.read(connection, REGION, {"code": code}))


@router.patch("/v1/regions/{code}", summary="Change a region")
async def change_region(code: Code, body: RegionChange, request: Request, caller: Operator) -> Region:
    """Set a region's rate, prefixes or pause; makes its entry if it has none. Holds within seconds."""
    await demand_operator(request, caller)
    values = given(body, "rate", "prefixes", "paused", "test_numbers", "lead_s")
    for name in ("prefixes", "paused", "test_numbers"):
        if name in values and values[name] is None:
            del values[name]
    actor = by(caller, body.reason)
    with changing():
        async with context_of(request).database.begin() as connection:
            if body.version is None and not await config.rows(connection, REGION, code=code):
                row = await config.create(connection, REGION, {"code": code, **values}, actor)
            else:
                row = await config.change(
                    connection, REGION, {"code": code}, values, actor, version=body.version
                )
            return Region.model_validate(row)


@router.delete("/v1/regions/{code}", summary="Remove a region's entry", status_code=204)
async def remove_region(
    code: Code, request: Request, caller: Operator, reason: Annotated[Reason, Query()]
) -> Response:
    """Without its entry a country has no rate; a finer region is no more."""
    await demand_operator(request, caller)
    with changing():
        async with context_of(request).database.begin() as connection:
            await config.remove(connection, REGION, {"code": code}, by(caller, reason))
    return Response(status_code=204)
