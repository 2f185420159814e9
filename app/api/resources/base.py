"""What the routers of all resources share: types on the wire, pages, who acts, and changes as problems.

Guarantees: a string that PostgreSQL can't store never gets there; a list's cursor belongs to its tenant and
filters; what belongs to no tenant (gateways, routes, regions, tenants) is reached by the operator's keys alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, TypeVar
from uuid import UUID

import asyncpg
from fastapi import Query, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from app.api import cursors, limits, openapi, reading
from app.api.auth import Caller
from app.api.problems import FieldError, Problem
from app.api.reading import context_of
from app.domain.masking import SecretLost
from app.domain.phone import InvalidNumber, parse
from app.store import config, tenants
from app.store.audit import By

Row = TypeVar("Row")
MAX_INT = 2**31 - 1
PROBLEMS: dict[int | str, dict[str, Any]] = {status: openapi.problem(status) for status in (404, 409)}
NO_STORE = {"cache-control": "no-store"}  # an answer that shows a secret


def _storable(value: str) -> str:
    if "\x00" in value:
        raise ValueError("NUL can't be stored")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair is not a character") from None
    return value


EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)


def _within_reach(value: datetime) -> datetime:
    if not EARLIEST <= value < LATEST:  # calendars and time zones end somewhere
        raise ValueError("times are from 1970 to 2199")
    return value


Moment = Annotated[reading.Moment, AfterValidator(_within_reach)]
Whole = Annotated[int, Field(strict=True)]  # of a body: no "1", no true
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, AfterValidator(_storable)]
Line = Annotated[Text, StringConstraints(min_length=1, max_length=200)]
Reason = Annotated[Text, StringConstraints(min_length=1, max_length=500)]
Number = Annotated[Text, StringConstraints(max_length=64)]
Version = Annotated[
    Whole | None,
    Field(ge=1, le=MAX_INT, description="The version that was read; another one now is a 409."),
]
Limit = Annotated[int, Query(ge=1, le=limits.MAX_PAGE)]
Cursor = Annotated[str | None, Query(max_length=128)]
CategoryName = Literal["otp", "transactional", "marketing"]


class Strict(BaseModel):
    """A request body: no field that isn't ours."""

    model_config = ConfigDict(extra="forbid")


class Change(Strict):
    """Every change of what all messages depend on says why."""

    reason: Reason
    version: Version = None


def by(caller: Caller, reason: str, tenant_id: int | None = None) -> By:
    """Who changes something, for the audit log."""
    return By(caller.actor, reason, tenant_id)


async def demand_operator(request: Request, caller: Caller) -> None:
    """403 unless the key is one of the operator's own tenant."""
    async with context_of(request).database.connect() as connection:
        if await tenants.operator_id(connection) != caller.tenant_id:
            raise Problem(403, "forbidden", "only the operator's own keys reach this")


def place(cursor: str | None, caller: Caller, filters: str) -> bytes | None:
    """Where a list goes on. Raises Problem (400)."""
    return None if cursor is None else cursors.decode(cursor, key=caller.hash_key, filters=filters)


def after(last: bytes | None, caller: Caller, filters: str) -> str | None:
    """The cursor behind a page's last element; None when there is no more."""
    return None if last is None else cursors.encode(last, key=caller.hash_key, filters=filters)


async def page_of(
    request: Request,
    caller: Caller,
    filters: str,
    cursor: str | None,
    limit: int,
    read: Callable[[asyncpg.Connection, bytes | None], Awaitable[Sequence[Row]]],
    name: Callable[[Row], UUID],
) -> tuple[Sequence[Row], str | None]:
    """A list's page of rows that are found by an id, and the cursor behind it. `read` gives at most `limit` of them
    past that id. Raises Problem (400)."""
    start = place(cursor, caller, filters)
    async with context_of(request).database.driver() as driver:
        rows = await read(driver, start)
    last = name(rows[-1]).bytes if len(rows) == limit else None
    return rows, after(last, caller, filters)


def e164(raw: str, pointer: str = "/to") -> str:
    """A number in E.164. Raises Problem (422)."""
    try:
        return parse(raw).e164
    except InvalidNumber as error:
        fault = FieldError(pointer, "invalid_number", error.detail, reason=error.code)
        raise Problem(422, "invalid_number", error.detail, [fault]) from None


@contextmanager
def changing() -> Iterator[None]:
    """What `app.store.config` and the masking refuse, as problems."""
    try:
        yield
    except config.Invalid as error:
        pointer = f"/{error.field}"
        raise Problem(
            422, "invalid_value", error.detail, [FieldError(pointer, "invalid_value", error.detail)]
        ) from None
    except config.NotFound:
        raise Problem(404, "not_found", "there is no such thing") from None
    except config.Exists:
        raise Problem(409, "conflict", "there is one of that name already") from None
    except config.StaleVersion as error:
        raise Problem(
            409, "conflict", f"it was changed meanwhile: its version is {error.current} now"
        ) from None
    except SecretLost as error:
        raise Problem(
            422, "invalid_value", str(error), [FieldError("/url", "invalid_value", str(error))]
        ) from None


def given(change: BaseModel, *names: str) -> dict[str, Any]:
    """The fields that the request has, of these."""
    return {name: getattr(change, name) for name in names if name in change.model_fields_set}
