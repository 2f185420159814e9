"""/v1/templates: named bodies, versioned; a batch or message names one, or one version of it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, Field, StringConstraints

from app.api import limits
from app.api.auth import Caller, require
from app.api.idempotency import IdempotentRoute
from app.api.problems import Problem, field_problem
from app.api.reading import context_of
from app.api.resources.base import MAX_INT, PROBLEMS, Cursor, Flag, Limit, Strict, Text, after, place
from app.domain.template import TemplateError, parse
from app.store import templates

router = APIRouter(tags=["templates"], route_class=IdempotentRoute, responses=PROBLEMS)
Reader = Annotated[Caller, Depends(require("read"))]
Writer = Annotated[Caller, Depends(require("send"))]
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}$"
Name = Annotated[str, Path(pattern=NAME)]
Number = Annotated[int, Path(ge=1, le=MAX_INT)]
Body = Annotated[
    Text,
    Field(
        min_length=1,
        max_length=limits.MAX_BODY_CHARS,
        description="`{name}` is filled from the variables; `{{` and `}}` are literal braces.",
    ),
]
Variables = Annotated[list[Text], Field(max_length=limits.MAX_VARIABLES)]


class Template(BaseModel):
    """One version of a template; a version never changes."""

    id: UUID
    name: str
    version: int
    body: str
    variables: list[str]
    created_at: datetime
    created_by: str
    archived_at: datetime | None
    smart_encoding: bool


class TemplatePage(BaseModel):
    """Templates, or versions of one."""

    data: list[Template]
    next: str | None


class NewVersion(Strict):
    """A body. `variables` declares its places; when given, it must name exactly those that the body has.
    `smart_encoding` holds for messages that don't say themselves."""

    body: Body
    variables: Variables | None = None
    smart_encoding: Flag = False


class NewTemplate(NewVersion):
    """A template to be made."""

    name: Annotated[str, StringConstraints(pattern=NAME)]


def _view(template: templates.Template) -> Template:
    return Template.model_validate(template, from_attributes=True)


def _variables(body: NewVersion) -> tuple[str, ...]:
    """The places of the body, which are those declared. Raises Problem (422)."""
    try:
        names = parse(body.body).names
    except TemplateError as error:
        raise field_problem("/body", error.code, error.detail) from None
    if body.variables is None:
        return names
    for number, name in enumerate(body.variables):
        if name not in names:
            raise field_problem(f"/variables/{number}", "invalid_value", "the body has no such variable")
    for name in names:
        if name not in body.variables:
            raise field_problem(
                "/variables", "missing_variable", f"the body's variable {name!r} is not declared"
            )
    return tuple(dict.fromkeys(body.variables))


def _found(template: templates.Template | None) -> templates.Template:
    if template is None:
        raise Problem(404, "not_found", "there is no such template")
    return template


@router.get("/v1/templates", summary="List templates")
async def list_templates(
    request: Request,
    caller: Reader,
    archived: bool = False,
    cursor: Cursor = None,
    limit: Limit = limits.DEFAULT_PAGE,
) -> TemplatePage:
    """The newest version of each, by name; with `archived`, archived ones too."""
    filters = f"templates {archived}"
    start = place(cursor, caller, filters)
    async with context_of(request).database.driver() as driver:
        page = await templates.page(
            driver, caller.tenant_id, after=(start or b"").decode(), archived=archived, limit=limit
        )
    last = page[-1].name.encode() if len(page) == limit else None
    return TemplatePage(data=[_view(one) for one in page], next=after(last, caller, filters))


@router.get("/v1/templates/{name}", summary="One template")
async def get_template(name: Name, request: Request, caller: Reader) -> Template:
    """The newest version."""
    async with context_of(request).database.driver() as driver:
        return _view(_found(await templates.read(driver, caller.tenant_id, name)))


@router.get("/v1/templates/{name}/versions", summary="List a template's versions")
async def list_versions(
    name: Name, request: Request, caller: Reader, cursor: Cursor = None, limit: Limit = limits.DEFAULT_PAGE
) -> TemplatePage:
    """All versions, newest first."""
    filters = f"versions {name}"
    start = place(cursor, caller, filters)
    below = None if start is None else int(start)
    async with context_of(request).database.driver() as driver:
        page = await templates.versions(driver, caller.tenant_id, name, below=below, limit=limit)
    if not page and below is None:
        raise Problem(404, "not_found", "there is no such template")
    last = b"%d" % page[-1].version if len(page) == limit else None
    return TemplatePage(data=[_view(one) for one in page], next=after(last, caller, filters))


@router.get("/v1/templates/{name}/versions/{version}", summary="One version of a template")
async def get_version(name: Name, version: Number, request: Request, caller: Reader) -> Template:
    """That version, archived or not."""
    async with context_of(request).database.driver() as driver:
        return _view(_found(await templates.read(driver, caller.tenant_id, name, version)))


@router.post("/v1/templates", summary="Create a template", status_code=201)
async def create_template(body: NewTemplate, request: Request, caller: Writer) -> Template:
    """A new template. A name that is in use is a 409: make a new version of it with PUT."""
    made = await _add(request, caller, body.name, body, first=True)
    if made is None:
        raise Problem(409, "conflict", "there is a template of that name; PUT makes a new version of it")
    return _view(made)


@router.put("/v1/templates/{name}", summary="Make a new version of a template")
async def put_template(name: Name, body: NewVersion, request: Request, caller: Writer) -> Template:
    """The next version, or the first. The same as the newest version makes none."""
    async with context_of(request).database.driver() as driver:
        newest = await templates.read(driver, caller.tenant_id, name)
    _variables(body)
    if (
        newest is not None
        and newest.archived_at is None
        and (newest.body, newest.smart_encoding) == (body.body, body.smart_encoding)
    ):
        return _view(newest)
    return _view(_found(await _add(request, caller, name, body, first=False)))


async def _add(
    request: Request, caller: Caller, name: str, body: NewVersion, *, first: bool
) -> templates.Template | None:
    variables = _variables(body)
    context = context_of(request)
    async with context.database.driver() as driver, driver.transaction():
        return await templates.add(
            driver,
            caller.tenant_id,
            name,
            body.body,
            variables,
            actor=caller.actor,
            now_s=context.clock(),
            first=first,
            smart_encoding=body.smart_encoding,
        )


@router.delete("/v1/templates/{name}", summary="Archive a template", status_code=204)
async def archive_template(name: Name, request: Request, caller: Writer) -> Response:
    """No new message may name it; what was accepted with it goes out."""
    async with context_of(request).database.driver() as driver:
        if not await templates.archive(driver, caller.tenant_id, name):
            raise Problem(404, "not_found", "there is no such template")
    return Response(status_code=204)
