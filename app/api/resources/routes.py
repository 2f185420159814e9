"""/v1/routes: which messages go by which gateways. The first route that matches holds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, Field

from app.api.auth import Caller, require
from app.api.idempotency import IdempotentRoute
from app.api.reading import context_of
from app.api.resources.base import (
    MAX_INT,
    PROBLEMS,
    CategoryName,
    Change,
    Reason,
    Text,
    Whole,
    by,
    changing,
    demand_operator,
    given,
)
from app.domain.message import Category
from app.store import config
from app.store.config import ROUTE

router = APIRouter(tags=["routes"], route_class=IdempotentRoute, responses=PROBLEMS)
Operator = Annotated[Caller, Depends(require("operate"))]
RouteId = Annotated[int, Path(ge=1, le=MAX_INT)]
Position = Annotated[Whole, Field(ge=1, le=MAX_INT, description="From 1; later routes move on.")]
Gateways = Annotated[list[Text], Field(min_length=1, max_length=50, description="By preference.")]
Strategy = Annotated[
    Literal["preference", "weight", "cost"],
    Field(
        description="`preference`: as listed. `weight`: split by `weights`, each recipient always to the same one. "
        "`cost`: the cheapest first, by the gateways' price lists."
    ),
]
Weights = Annotated[
    list[Annotated[int, Field(ge=0, le=config.MAX_WEIGHT)]],
    Field(max_length=50, description="One for each of `gateways`; 0: only when no other can take it."),
]
From = Annotated[Text, Field(max_length=20, description="Only messages from this sender.")]
To = Annotated[Text, Field(max_length=32, description="`*`, a region, or a number prefix.")]


class Route(BaseModel):
    """Messages to `to` (of one category, sender, tenant) go by `gateways`, in the order of the strategy: the first
    of them that is up and well."""

    id: int
    position: int
    to: str
    category: CategoryName | None
    tenant_id: int | None
    sender: str | None
    gateways: list[str]
    strategy: Strategy
    weights: list[int]
    version: int
    updated_at: datetime


class RoutePage(BaseModel):
    """All routes, in the order in which they are tried."""

    data: list[Route]


class NewRoute(Change):
    """A route to be made; without `position` it is the last."""

    to: To
    gateways: Gateways
    strategy: Strategy = "preference"
    weights: Weights = Field(default_factory=list)
    category: CategoryName | None = None
    sender: From | None = None
    tenant_id: Annotated[Whole, Field(ge=1, le=MAX_INT)] | None = None
    position: Position | None = None


class RouteChange(Change):
    """What is left out stays."""

    to: To | None = None
    gateways: Gateways | None = None
    strategy: Strategy | None = None
    weights: Weights | None = None
    category: CategoryName | None = None
    sender: From | None = None
    tenant_id: Annotated[Whole, Field(ge=1, le=MAX_INT)] | None = None
    position: Position | None = None


def _view(row: Mapping[str, Any]) -> Route:
    category = None if row["category"] is None else Category(row["category"]).name
    return Route.model_validate({**row, "category": category})


def _values(body: NewRoute | RouteChange) -> dict[str, Any]:
    values = given(
        body, "to", "gateways", "strategy", "weights", "category", "sender", "tenant_id", "position"
    )
    if values.get("category") is not None:
        values["category"] = Category[values["category"]].value
    for name in ("to", "gateways", "strategy", "weights", "position"):
        if name in values and values[name] is None:
            del values[name]
    return values


@router.get("/v1/routes", summary="List routes")
async def list_routes(request: Request, caller: Operator) -> RoutePage:
    """All routes, in order."""
    await demand_operator(request, caller)
    async with context_of(request).database.connect() as connection:
        return RoutePage(data=[_view(row) for row in await config.rows(connection, ROUTE)])


@router.get("/v1/routes/{route_id}", summary="One route")
async def get_route(route_id: RouteId, request: Request, caller: Operator) -> Route:
    """A route."""
    await demand_operator(request, caller)
    with changing():
        async with context_of(request).database.connect() as connection:
            return _view(await config.read(connection, ROUTE, {"id": route_id}))


@router.post("/v1/routes", summary="Create a route", status_code=201)
async def create_route(body: NewRoute, request: Request, caller: Operator) -> Route:
    """A new route."""
    await demand_operator(request, caller)
    with changing():
        async with context_of(request).database.begin() as connection:
            return _view(await config.create(connection, ROUTE, _values(body), by(caller, body.reason)))


@router.patch("/v1/routes/{route_id}", summary="Change a route")
async def change_route(route_id: RouteId, body: RouteChange, request: Request, caller: Operator) -> Route:
    """Change a route, or move it."""
    await demand_operator(request, caller)
    with changing():
        async with context_of(request).database.begin() as connection:
            row = await config.change(
                connection,
                ROUTE,
                {"id": route_id},
                _values(body),
                by(caller, body.reason),
                version=body.version,
            )
            return _view(row)


@router.delete("/v1/routes/{route_id}", summary="Remove a route", status_code=204)
async def remove_route(
    route_id: RouteId, request: Request, caller: Operator, reason: Annotated[Reason, Query()]
) -> Response:
    """Take a route away."""
    await demand_operator(request, caller)
    with changing():
        async with context_of(request).database.begin() as connection:
            await config.remove(connection, ROUTE, {"id": route_id}, by(caller, reason))
    return Response(status_code=204)
