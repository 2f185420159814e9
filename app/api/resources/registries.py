"""/v1/registries: national do-not-call lists, by file, under the tenant's own licence.

Guarantees: a number of a list gets no marketing text from the tenant from the moment its row is committed; a new list
takes the place of the old one only when it was read whole, and until then both hold; only hashes are kept.
"""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel

from app import rules
from app.api.auth import Caller, require
from app.api.idempotency import IdempotentRoute
from app.api.problems import FieldError, Problem, field_problem
from app.api.reading import context_of
from app.api.resources.base import PROBLEMS, Moment, Reason, Text, by
from app.api.resources.imports import FILE, Intake, Taken, router_of_files
from app.api.resources.suppressions import owner_of
from app.api.rows import CSV, Records
from app.domain.phone import InvalidNumber
from app.domain.registries import Format, Reader, UnknownColumn
from app.store import audit, config, registries
from app.store.engine import driver_in

router = APIRouter(tags=["registries"], route_class=IdempotentRoute, responses=PROBLEMS)
files = router_of_files("registries")
Ruler = Annotated[Caller, Depends(require("rules"))]
Country = Annotated[str, Path(pattern=r"^[A-Z]{2}$", description="ISO 3166-1 alpha-2.")]
FALLBACK_DAYS = 30  # how long a list is taken to be good where the country's rules say nothing
ALL = 2**31 - 1  # a generation above every import's


class Registry(BaseModel):
    """A country's list. `stale`: older than it may be; it still holds, and should be drawn anew."""

    country: str
    format: str
    entries: int
    as_of: datetime | None
    valid_until: datetime | None
    imported_at: datetime | None
    stale: bool


class RegistryPage(BaseModel):
    """The tenant's lists by country."""

    data: list[Registry]


def _view(one: registries.Registry, now: datetime) -> Registry:
    stale = one.valid_until is None or one.valid_until < now
    return Registry(
        country=one.country, format=one.format, entries=one.entries, as_of=one.as_of, valid_until=one.valid_until,
        imported_at=one.imported_at, stale=stale,
    )  # fmt: skip


@router.get("/v1/registries", summary="Do-not-call lists")
async def list_registries(request: Request, caller: Ruler) -> RegistryPage:
    """The tenant's lists and how fresh they are."""
    context = context_of(request)
    now = datetime.fromtimestamp(context.clock(), UTC)
    async with context.database.driver() as driver:
        found = await registries.of_tenant(driver, caller.tenant_id)
    return RegistryPage(data=[_view(one, now) for one in found])


@files.post("/v1/registries/{country}/import", summary="Import a do-not-call list", openapi_extra=FILE)
async def import_registry(
    country: Country,
    request: Request,
    caller: Ruler,
    file_format: Annotated[Format, Query(alias="format")] = "numbers",
    column: Annotated[
        Text | None, Query(max_length=100, description="The header's name of the number.")
    ] = None,
    only: Annotated[
        Text | None,
        Query(
            max_length=200, pattern=r"^[^=]+=.+$", description="Rows with this column and value: `No Text=Y`."
        ),
    ] = None,
    as_of: Annotated[Moment | None, Query(description="When it was drawn; now.")] = None,
    valid_days: Annotated[int | None, Query(ge=1, le=366)] = None,
) -> Taken:
    """CSV, streamed. `numbers`: the first column, or the one named; the others are the published forms of registers.

    Numbers may be written nationally. A file that broke off may be sent again, whole. The list replaces the one before.
    """
    context = context_of(request)
    now = datetime.fromtimestamp(context.clock(), UTC)
    drawn = now if as_of is None else as_of.astimezone(UTC)
    if drawn > now + timedelta(minutes=1):
        raise field_problem("query/as_of", "invalid_time", "a list was drawn in the past")
    packs = await context_of(request).references.packs()
    days = valid_days or packs.pack(country).data.do_not_contact_days or FALLBACK_DAYS
    name, _, value = (only or "").partition("=")
    try:
        reader = Reader(country, file_format, column, (name, value) if only else None)
    except KeyError:
        raise field_problem("path/country", "invalid_value", "no country that has numbers") from None
    except ValueError as error:
        raise field_problem("query/format", "invalid_value", str(error)) from None
    if _media(request) not in CSV:
        raise Problem(415, "unsupported_media_type", "send text/csv")
    owner = owner_of(caller)
    generation = await _begin(request, caller, country, file_format)

    async def take(numbers: list[str | None]) -> int:
        listed = [one for one in numbers if one is not None]
        return await rules.enlist(context.database, context.queue, owner, country, listed, generation)

    intake: Intake[list[str], str | None] = Intake(lambda fields: _number(reader, fields), take)
    async for line, row in _rows(request, reader):
        await intake.row(line, row)
    await intake.flush()
    await rules.delist_outdated(context.database, context.queue, owner, country, generation)
    async with context.database.driver() as driver:
        await registries.finish(
            driver,
            caller.tenant_id,
            country,
            as_of=drawn,
            valid_until=drawn + timedelta(days=days),
            imported_at=now,
        )
    return intake.taken


def _media(request: Request) -> bytes:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower().encode("latin-1")


def _number(reader: Reader, fields: list[str]) -> str | None:
    try:
        return reader.number(fields)
    except InvalidNumber as error:
        fault = FieldError("/to", "invalid_number", error.detail, reason=error.code)
        raise Problem(422, "invalid_number", error.detail, [fault]) from None


async def _begin(request: Request, caller: Caller, country: str, name: str) -> int:
    """The import's generation; dispatchers learn that the tenant has this list."""
    async with context_of(request).database.begin() as connection:
        await config.begin(connection)
        generation = await registries.begin(await driver_in(connection), caller.tenant_id, country, name)
        await audit.record(
            connection,
            by(caller, "a do-not-call list was imported", caller.tenant_id),
            "registry.import",
            f"registry/{country}",
            after={"format": name, "generation": generation},
        )
    return generation


async def _rows(request: Request, reader: Reader) -> AsyncIterator[tuple[int, list[str] | FieldError]]:
    records, first = Records(quoted=True), True
    async for data in _chunks(request):
        for record in records.finish() if data is None else records.feed(data):
            try:
                fields = next(csv.reader([record.raw.decode()])) if record.whole else None
            except (UnicodeDecodeError, csv.Error, StopIteration):
                fields = None
            if fields is None:
                yield record.line, FieldError("", "malformed_row", "the row can't be read")
                continue
            if first:
                first = False
                try:
                    if reader.header(fields):
                        continue
                except UnknownColumn as error:
                    detail = f"the header has no column {error}"
                    raise Problem(
                        422, "malformed_row", detail, [FieldError("/header", "malformed_row", detail)]
                    ) from None
            yield record.line, fields


async def _chunks(request: Request) -> AsyncIterator[bytes | None]:
    async for data in request.stream():
        yield data
    yield None


@router.delete("/v1/registries/{country}", summary="Remove a do-not-call list", status_code=204)
async def remove_registry(
    country: Country, request: Request, caller: Ruler, reason: Annotated[Reason, Query()]
) -> Response:
    """The list holds no more."""
    context = context_of(request)
    async with context.database.begin() as connection:
        await config.begin(connection)
        if not await registries.remove(await driver_in(connection), caller.tenant_id, country):
            raise Problem(404, "not_found", "there is no such list")
        actor = by(caller, reason, caller.tenant_id)
        await audit.record(connection, actor, "registry.remove", f"registry/{country}")
    await rules.delist_outdated(context.database, context.queue, owner_of(caller), country, ALL)
    return Response(status_code=204)
