"""/v1/organisations: tenants that share a contact budget. They share counts, never data.

Guarantee: a person is counted by a hash of the organisation's own key, which no tenant's hash can be held against.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, Field, model_validator

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
    Whole,
    after,
    by,
    changing,
    demand_operator,
    given,
    place,
)
from app.domain.contacts import MAX_CONTACTS, MAX_WINDOW_S
from app.store import tenant_rules

router = APIRouter(tags=["organisations"], route_class=IdempotentRoute, responses=PROBLEMS)
Admin = Annotated[Caller, Depends(require("admin"))]
OrganisationId = Annotated[int, Path(ge=1, le=MAX_INT)]


class Budget(Strict):
    """At most `max` marketing texts to one person in any `per_s` seconds, by all tenants together.

    The last `reserved` of them are for texts of priority `reserved_priority` and more urgent ones (0 is first).
    """

    max: Annotated[Whole, Field(ge=1, le=MAX_CONTACTS)]
    per_s: Annotated[Whole, Field(ge=1, le=MAX_WINDOW_S)]
    reserved: Annotated[Whole, Field(ge=0, le=MAX_CONTACTS)] = 0
    reserved_priority: Annotated[Whole, Field(ge=0, le=9)] = 0

    @model_validator(mode="after")
    def _some_for_all(self) -> Budget:
        if self.reserved >= self.max:
            raise ValueError("reserved is below max")
        return self


class NewOrganisation(Strict):
    """Name a tenant's organisation in the tenant's settings."""

    name: Line
    budget: Budget | None = None
    reason: Reason = "created over the API"


class OrganisationChange(Strict):
    """What is left out stays; a budget of null is taken away."""

    name: Line | None = None
    budget: Budget | None = None
    reason: Reason


class Organisation(BaseModel):
    """An organisation with its tenants."""

    id: int
    name: str
    budget: Budget | None
    tenants: list[int]
    created_at: datetime


class OrganisationPage(BaseModel):
    """By id."""

    data: list[Organisation]
    next: str | None


async def _view(connection: object, one: tenant_rules.Stored) -> Organisation:
    members = await tenant_rules.members(connection, one.id)  # type: ignore[arg-type]
    budget = None if one.budget is None else Budget(**one.budget)
    return Organisation(id=one.id, name=one.name, budget=budget, tenants=members, created_at=one.created_at)


@router.get("/v1/organisations", summary="List organisations")
async def list_organisations(
    request: Request, caller: Admin, cursor: Cursor = None, limit: Limit = limits.DEFAULT_PAGE
) -> OrganisationPage:
    """All organisations."""
    await demand_operator(request, caller)
    start = place(cursor, caller, "organisations")
    async with context_of(request).database.connect() as connection:
        page = await tenant_rules.organisations(connection, after_id=int(start or b"0"), limit=limit)
        data = [await _view(connection, one) for one in page]
    last = b"%d" % page[-1].id if len(page) == limit else None
    return OrganisationPage(data=data, next=after(last, caller, "organisations"))


@router.post("/v1/organisations", summary="Create an organisation", status_code=201)
async def create_organisation(body: NewOrganisation, request: Request, caller: Admin) -> Organisation:
    """A new organisation."""
    await demand_operator(request, caller)
    context = context_of(request)
    budget = None if body.budget is None else body.budget.model_dump()
    async with context.database.begin() as connection:
        made = await tenant_rules.create_organisation(connection, body.name, budget, by(caller, body.reason))
    if made is None:
        raise Problem(409, "conflict", "there is an organisation of that name already")
    await rules.prepare_organisation(context.database, context.queue, made.id)
    return Organisation(
        id=made.id, name=made.name, budget=body.budget, tenants=[], created_at=made.created_at
    )


@router.get("/v1/organisations/{organisation_id}", summary="One organisation")
async def get_organisation(organisation_id: OrganisationId, request: Request, caller: Admin) -> Organisation:
    """An organisation with its tenants."""
    await demand_operator(request, caller)
    async with context_of(request).database.connect() as connection:
        found = await tenant_rules.read_organisation(connection, organisation_id)
        if found is None:
            raise Problem(404, "not_found", "there is no such organisation")
        return await _view(connection, found)


@router.patch("/v1/organisations/{organisation_id}", summary="Change an organisation")
async def change_organisation(
    organisation_id: OrganisationId, body: OrganisationChange, request: Request, caller: Admin
) -> Organisation:
    """Change its name or budget. A longer window counts from now on: what is older was not kept."""
    await demand_operator(request, caller)
    values = given(body, "name", "budget")
    if values.get("name", "") is None:
        del values["name"]
    if values.get("budget") is not None:
        values["budget"] = values["budget"].model_dump()
    async with context_of(request).database.begin() as connection:
        with changing():
            changed = await tenant_rules.change_organisation(
                connection, organisation_id, values, by(caller, body.reason)
            )
        if changed is None:
            raise Problem(404, "not_found", "there is no such organisation")
        return await _view(connection, changed)
