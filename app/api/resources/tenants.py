"""/v1/tenants: the operator's register of tenants."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from app import rules
from app.api import limits
from app.api.auth import Caller, require
from app.api.idempotency import IdempotentRoute
from app.api.problems import Problem, field_problem
from app.api.reading import context_of
from app.api.resources.base import (
    MAX_INT,
    PROBLEMS,
    Cursor,
    Flag,
    Limit,
    Line,
    Reason,
    Strict,
    Text,
    Whole,
    after,
    by,
    changing,
    demand_operator,
    place,
)
from app.countries.tenants import read
from app.domain.contacts import MAX_CONTACTS, MAX_WINDOW_S, StopScope
from app.store import config, tenant_rules, tenants

router = APIRouter(tags=["tenants"], route_class=IdempotentRoute, responses=PROBLEMS)
Admin = Annotated[Caller, Depends(require("admin"))]
TenantId = Annotated[int, Path(ge=1, le=MAX_INT)]
_FILTERS = "tenants"


class ContactLimit(Strict):
    """At most `max` marketing texts to one person in any `per_s` seconds."""

    max: Annotated[Whole, Field(ge=1, le=MAX_CONTACTS)]
    per_s: Annotated[Whole, Field(ge=1, le=MAX_WINDOW_S)]


Clock = Annotated[str, Field(pattern=r"^([01]\d|2[0-4]):[0-5]\d$")]
Day = list[tuple[Clock, Clock]] | None


class Windows(Strict):
    """Hours of a week in the recipient's local time, half-open. A day that is not named is closed; a single day goes
    before a group; a window whose end is not after its start runs past midnight."""

    holidays: Literal["open", "closed"] = "open"
    daily: Day = None
    mon_fri: Day = None
    mon_sat: Day = None
    sat_sun: Day = None
    mon: Day = None
    tue: Day = None
    wed: Day = None
    thu: Day = None
    fri: Day = None
    sat: Day = None
    sun: Day = None


class CountryTerms(Strict):
    """What a tenant sets for one country. Nothing here opens an hour that the country's pack does not allow."""

    hours: Literal["safe", "allowed"] | None = Field(
        None,
        description="`allowed`: marketing in the hours that the pack's sources permit, in place of its safe ones.",
    )
    windows: Windows | None = Field(None, description="Marketing only in these hours, beside the pack's.")
    brand: Annotated[Text, Field(min_length=1, max_length=60)] | None = Field(
        None, description="The name in the labels that the country demands."
    )
    opt_out: Annotated[Text, Field(min_length=1, max_length=160)] | None = Field(
        None,
        description="How to opt out: what the pack adds to marketing that says nothing of it (a short code, a number).",
    )
    link_domains: Annotated[list[Annotated[Text, Field(max_length=253)]], Field(max_length=200)] | None = (
        Field(None, description="Domains that the country's networks have allow-listed for this tenant.")
    )


class Settings(Strict):
    """What a tenant may set. `brand`, `contact`, `program` and `frequency` stand in the answers to STOP, START, HELP.

    `stop_scope`: what a STOP to one sender closes: that sender, all senders of its brand, or all of the tenant.
    `frequency_cap` and `campaign_cap` (of the texts of one campaign) hold beside the country's cap. The same text to
    the same number within `duplicate_window_s` is stopped; of OTPs only with `duplicate_otp`. `organisation` is the
    id of the one whose contact budget the tenant shares. A longer window counts the texts of
    before, too, up to 31 days, but not those to which no limit applied when they went.
    """

    default_sender: Annotated[Text, Field(max_length=20)] | None = None
    brand: Annotated[Text, Field(min_length=1, max_length=60)] | None = None
    contact: Annotated[Text, Field(min_length=1, max_length=100)] | None = None
    max_segments: Annotated[
        Whole | None,
        Field(
            ge=1,
            le=limits.MAX_SEGMENTS,
            description="A text of more segments is rejected. A request may say less, never more.",
        ),
    ] = None
    program: Annotated[Text, Field(min_length=1, max_length=60)] | None = None
    frequency: Annotated[Text, Field(min_length=1, max_length=60)] | None = None
    help_text: Annotated[Text, Field(min_length=1, max_length=1_000)] | None = None
    stop_scope: StopScope | None = None
    frequency_cap: ContactLimit | None = None
    campaign_cap: ContactLimit | None = None
    duplicate_window_s: Annotated[Whole, Field(ge=0, le=MAX_WINDOW_S)] | None = None
    duplicate_otp: Flag | None = None
    organisation: Annotated[Whole, Field(ge=1, le=MAX_INT)] | None = None
    callback_http_hosts: (
        Annotated[
            list[Annotated[Text, Field(max_length=253)]],
            Field(max_length=20, description="Hosts to which a callback URL may be http."),
        ]
        | None
    ) = None
    countries: (
        Annotated[
            dict[str, CountryTerms],
            Field(
                max_length=300,
                description="Terms by ISO 3166-1 alpha-2 code; `*` holds where a country has none of its own. "
                "Replaces what was set.",
            ),
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
    if values.get("countries") is not None:
        values["countries"] = settings.model_dump(exclude_unset=True, exclude_none=True)["countries"]
        with changing():
            _check_countries(values["countries"])
    return values


def _check_countries(countries: dict[str, Any]) -> None:
    for terms in countries.values():
        if "windows" in terms:
            terms["windows"].setdefault("holidays", "open")
    try:
        read(countries)
    except ValueError as error:
        raise config.Invalid("settings/countries", str(error)) from None


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


async def _demand_organisation(connection: AsyncConnection, settings: dict[str, Any]) -> None:
    """422 unless the organisation that the settings name exists."""
    wanted = settings.get("organisation")
    if wanted is not None and await tenant_rules.read_organisation(connection, wanted) is None:
        raise field_problem("/settings/organisation", "invalid_value", "there is no such organisation")


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
            await _demand_organisation(connection, settings)
            tenant = await tenants.create(connection, body.name, settings, by(caller, body.reason))
            if "countries" in settings:
                await config.begin(connection)  # dispatchers read them with the configuration
    except tenants.NameTaken:
        raise Problem(409, "conflict", "there is a tenant of that name already") from None
    await rules.prepare(context.database, context.queue, tenant.id)
    return _view(tenant)


@router.patch("/v1/tenants/{tenant_id}", summary="Change a tenant")
async def change_tenant(tenant_id: TenantId, body: TenantChange, request: Request, caller: Admin) -> Tenant:
    """Change a tenant's name or settings."""
    await demand_operator(request, caller)
    try:
        values = _values(body.settings)
        async with context_of(request).database.begin() as connection:
            await _demand_organisation(connection, values)
            found = await tenants.change(
                connection, tenant_id, body.name, values, by(caller, body.reason, tenant_id)
            )
            return _view(_found(found))
    except tenants.NameTaken:
        raise Problem(409, "conflict", "there is a tenant of that name already") from None
