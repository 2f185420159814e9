"""/v1/countries: the country packs, their sources, and what they would do at a time; an operator's own packs.

Guarantee: a pack that can't be read is refused with one line that names the key, and the one before holds on.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from app import notices
from app.api.auth import Caller, require
from app.api.idempotency import IdempotentRoute
from app.api.problems import FieldError, Problem, field_problem
from app.api.reading import context_of
from app.api.resources.base import (
    PROBLEMS,
    CategoryName,
    Change,
    Moment,
    Reason,
    Text,
    by,
    changing,
    demand_operator,
)
from app.countries import cases
from app.countries.cases import Failure
from app.countries.packs import Jurisdiction, Pack, Packs
from app.countries.pages import NOTICE, is_linked
from app.countries.places import known_zones
from app.countries.schema import BadPack
from app.countries.tenants import TenantTerms
from app.domain.message import Category
from app.domain.phone import InvalidNumber, parse
from app.policy import LEAD_S
from app.store import config
from app.store.config import COUNTRY_PACK, REGION

router = APIRouter(tags=["countries"], route_class=IdempotentRoute, responses=PROBLEMS)
Reader = Annotated[Caller, Depends(require("read"))]
Operator = Annotated[Caller, Depends(require("operate"))]
Code = Annotated[str, Path(pattern=r"^([A-Z]{2}|default)$", description="ISO 3166-1 alpha-2, or `default`")]
MAX_PACK_CHARS = 60_000
_NUMBER = re.compile(r"\+\d{6,}")


class Country(BaseModel):
    """A country pack. `sourced`: whether a source can be followed; a rule without one is custom or caution."""

    code: str
    name: str
    version: str
    reviewed: date
    confidence: Literal["high", "medium", "low"]
    sourced: bool


class CountryPage(BaseModel):
    """All packs. A country that is not among them has the rules of `default`."""

    notice: str = NOTICE
    version: str
    data: list[Country]


class Cap(BaseModel):
    """At most `max` marketing texts to one recipient in any `per_s` seconds."""

    max: int
    per_s: int
    rule: str


class Verdict(BaseModel):
    """What the hours say of a text at a time: open, and till when; or shut, and when they open (null: never).

    `zones`: all must be open; `subdivisions`: those whose rules hold beside the country's. `widened`: by the
    tenant's terms, the allowed hours and not the safe ones hold. All `caps` hold.
    """

    at: datetime
    category: CategoryName
    zones: list[str]
    subdivisions: list[str]
    open: bool
    until: datetime | None
    rule: str
    version: str
    widened: bool
    lead_s: int
    caps: list[Cap]


class CountryRules(Country):
    """A pack with all that it says. `pack`: whose rules hold; `default` where the country has none of its own."""

    pack: str
    notice: str = NOTICE
    rules: dict[str, Any]
    verdict: Verdict


class PackChange(Change):
    """A country's rules in place of those that came with Volley, in the form of the files in `app/countries/rules`."""

    toml: Annotated[Text, Field(min_length=1, max_length=MAX_PACK_CHARS)]


class OwnPack(BaseModel):
    """An operator's own pack. `version` counts its changes; the pack's own version is in its rules."""

    code: str
    version: int
    updated_at: datetime


def _view(pack: Pack) -> dict[str, Any]:
    data = pack.data
    return {
        "code": pack.id,
        "name": data.name,
        "version": pack.version,
        "reviewed": data.reviewed,
        "confidence": data.confidence,
        "sourced": any(is_linked(source) for source in data.sources),
    }


@router.get("/v1/countries", summary="List country packs")
async def list_countries(request: Request, caller: Reader) -> CountryPage:
    """The packs in force. Research, not law: see `notice`."""
    packs = await context_of(request).references.packs()
    return CountryPage(version=packs.version, data=[Country(**_view(pack)) for pack in packs.all()])


@router.get("/v1/countries/{code}", summary="A country's rules")
async def get_country(
    code: Code,
    request: Request,
    caller: Reader,
    at: Annotated[Moment | None, Query(description="Now, if left out.")] = None,
    category: CategoryName = "marketing",
    to: Annotated[
        str | None, Query(max_length=64, description="A number there: its area tells zone and state.")
    ] = None,
    timezone: Annotated[
        str | None, Query(max_length=64, description="The recipient's IANA zone, if known.")
    ] = None,
) -> CountryRules:
    """What holds for texts there, with sources and confidence, and what it would do at a time."""
    context = context_of(request)
    packs = await context.references.packs()
    pack = packs.pack(code)
    place = _place(packs, code, to, timezone)
    async with context.database.connect() as connection:
        lead_s = await _lead_s(connection, code)
    ground = await context.references.ground(caller)
    when = at.timestamp() if at is not None else time.time()
    verdict = _verdict(packs, place, Category[category], when, ground.terms, lead_s)
    rules = msgspec.to_builtins(pack.data)
    del rules["tests"]
    return CountryRules(**{**_view(pack), "code": code}, pack=pack.id, rules=rules, verdict=verdict)


def _place(packs: Packs, code: str, to: str | None, known_zone: str | None) -> Jurisdiction:
    if known_zone is not None and known_zone not in known_zones():
        raise field_problem("query/timezone", "invalid_timezone", "there is no such IANA time zone")
    if to is None:
        return packs.anywhere(code, known_zone)
    try:
        number = parse(f"+{to[1:]}" if to.startswith(" ") else to)  # a plus sign that was not escaped
    except InvalidNumber as error:
        raise field_problem("query/to", "invalid_number", error.detail, reason=error.code) from None
    if code not in (number.country, "default"):
        raise field_problem("query/to", "invalid_number", "the number is another country's")
    return packs.jurisdiction(number.e164, number.country, known_zone)


async def _lead_s(connection: AsyncConnection, code: str) -> int:
    rows = await config.rows(connection, REGION, code=code)
    return LEAD_S if not rows or rows[0]["lead_s"] is None else int(rows[0]["lead_s"])


def _verdict(
    packs: Packs, place: Jurisdiction, category: Category, when: float, terms: TenantTerms, lead_s: int
) -> Verdict:
    own = terms.own_hours(place.country) if category is Category.marketing else None
    widen = own is not None and own.widen
    rule = own.rule if own is not None else None
    hours = packs.hours(place, category, when, widen=widen, lead_s=lead_s, own=rule)
    caps = packs.caps(place) if category is Category.marketing else ()
    return Verdict(
        at=datetime.fromtimestamp(when, UTC),
        category=category.name,  # type: ignore[arg-type]
        zones=list(place.zones),
        subdivisions=list(place.subdivisions),
        open=hours.open,
        until=None if hours.until == math.inf else datetime.fromtimestamp(hours.until, UTC),
        rule=hours.rule,
        version=hours.version,
        widened=widen,
        lead_s=lead_s,
        caps=[Cap(max=cap.max, per_s=cap.per_s, rule=cap.rule) for cap in caps],
    )


@router.put("/v1/countries/{code}", summary="Put a pack of your own in place")
async def put_country(code: Code, body: PackChange, request: Request, caller: Operator) -> OwnPack:
    """Replace a country's rules, for all tenants. Holds within seconds, without a restart; is in the audit log.

    The pack's own `tests` are run; one that does not hold refuses it, and is named with what is so instead.
    """
    await demand_operator(request, caller)
    context = context_of(request)
    packs = await context.references.packs()
    try:
        failures = await asyncio.to_thread(_tried, packs, code, body.toml)
    except BadPack as error:
        raise field_problem("/toml", "invalid_value", str(error)) from None
    if failures:
        raise _failed(code, failures)
    actor = by(caller, body.reason)
    with changing():
        async with context.database.begin() as connection:
            key = {"code": code}
            if body.version is None and not await config.rows(connection, COUNTRY_PACK, code=code):
                row = await config.create(connection, COUNTRY_PACK, {**key, "content": body.toml}, actor)
            else:
                values = {"content": body.toml}
                row = await config.change(connection, COUNTRY_PACK, key, values, actor, version=body.version)
    return OwnPack(code=code, version=row["version"], updated_at=row["updated_at"])


def _tried(packs: Packs, code: str, content: str) -> list[Failure]:
    """The pack read beside the others, and its own tests run. Raises BadPack."""
    replaced = packs.replaced({f"{code}.toml": content.encode()})
    notices.language_of(replaced)
    return cases.failures(replaced.alone(code), code)


def _failed(code: str, failures: list[Failure]) -> Problem:
    """Each test that does not hold, numbers in it cut short."""
    found = [
        FieldError(
            "/toml",
            "pack_test_failed",
            f"tests[{one.place}]: {_NUMBER.sub(lambda number: number[0][:5] + '…', one.case)!r} - it is: {one.instead}",
            index=one.place,
        )
        for one in failures
    ]
    return Problem(422, "pack_test_failed", f"{code}.toml: {found[0].detail}", found)


@router.delete("/v1/countries/{code}", summary="Take a pack of your own away", status_code=204)
async def remove_country(
    code: Code, request: Request, caller: Operator, reason: Annotated[Reason, Query()]
) -> Response:
    """The rules that came with Volley hold again."""
    await demand_operator(request, caller)
    with changing():
        async with context_of(request).database.begin() as connection:
            await config.remove(connection, COUNTRY_PACK, {"code": code}, by(caller, reason))
    return Response(status_code=204)
