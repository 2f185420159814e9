"""/v1/messages: reading them and stopping one. Posting is in `posting.py`.

Guarantee: what was answered with 202 is found from then on; a tenant sees its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import asyncpg
import msgspec
from fastapi import APIRouter, Depends, Query, Request
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from app.api import cursors, limits, openapi, views, wire
from app.api.auth import Caller, require
from app.api.context import Context
from app.api.decoding import decode, demand_json
from app.api.idempotency import IdempotentRoute
from app.api.problems import Problem, field_problem
from app.domain import ids
from app.domain.message import State
from app.domain.phone import InvalidNumber, parse
from app.store import batches, messages, recalls
from app.store.messages import Stored
from gateways import takes_back

FIRST_PACKS, MAX_PACKS = 4, 32  # read in one statement
SCAN_PACKS = 64  # looked through for one page
END = b"\xff" * 16

router = APIRouter(tags=["messages"], route_class=IdempotentRoute)
Reader = Annotated[Caller, Depends(require("read"))]
Sender = Annotated[Caller, Depends(require("send"))]


class Filter(msgspec.Struct, frozen=True):
    """Which messages a list has: ids from `low` on, below `high`, newest first."""

    batch_id: bytes | None
    recipient: bytes | None
    reference: str | None
    state: str | None
    low: bytes
    high: bytes

    def takes(self, message: Stored) -> bool:
        """Whether the content fits."""
        return (
            (self.batch_id is None or message.pack.batch_id == self.batch_id)
            and (self.recipient is None or message.entry.recipient == self.recipient)
            and (self.reference is None or message.entry.reference == self.reference)
        )


def context_of(request: Request) -> Context:
    """The process' context."""
    return request.app.state.context


def identifier(value: str) -> bytes:
    """An id in a path. Raises Problem (404): what is no id names nothing."""
    found = ids.parse(value)
    if found is None:
        raise Problem(404, "not_found", "there is no such thing")
    return found


def json(document: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(wire.encode(document), status, media_type="application/json")


@router.get(
    "/v1/messages/{message_id}", summary="One message", responses=openapi.answers(200, "Message", 404)
)
async def get_message(message_id: str, request: Request, caller: Reader) -> Response:
    """A message with its state, its decision trace and its attempts. Found from its 202 on."""
    async with context_of(request).database.driver() as driver:
        return json(await _view(driver, caller.tenant_id, identifier(message_id)))


async def _view(driver: asyncpg.Connection, tenant_id: int, message_id: bytes) -> wire.Message:
    found = await messages.find(driver, tenant_id, message_id)
    if found is None:
        raise Problem(404, "not_found", "there is no such message")
    known = await messages.facts(driver, [found])
    standing = messages.fold(found, known, datetime.now(UTC))
    several = views.segments_of(found, standing) > 1
    segments = await messages.segment_states(driver, found.id) if several else {}
    return views.message_view(
        found,
        standing,
        await messages.gateway_names(driver),
        await messages.trace(driver, found),
        segments,
        await recalls.answer_of(driver, found.id) if standing.attempts else None,
    )


@router.post(
    "/v1/messages/{message_id}/cancel",
    summary="Cancel a message",
    responses=openapi.answers(200, "Message", 404, 409) | openapi.answers(202, "Message"),
    openapi_extra=openapi.optional_body("Change"),
)
async def cancel_message(message_id: str, request: Request, caller: Sender) -> Response:
    """Stop a message that wasn't handed over. One that was `submitted` by a gateway whose carrier takes texts back
    is asked for: 202, `recall` says what the carrier answered, and the message ends as `cancelled` only where it
    took back all of it. 409 `too_late` otherwise."""
    one = identifier(message_id)
    change = await change_of(request)
    async with context_of(request).database.driver() as driver:
        found = await messages.find(driver, caller.tenant_id, one)
        if found is None:
            raise Problem(404, "not_found", "there is no such message")
        async with driver.transaction():
            done = await messages.cancel(driver, found, "requested", time.time())
            asked = not done and await _ask_back(driver, found)
            if done or asked:
                await batches.audit(
                    driver,
                    tenant_id=caller.tenant_id,
                    actor=change.actor or caller.actor,
                    reason=change.reason or "",
                    action="message.cancel" if done else "message.recall",
                    subject=ids.text(one),
                )
        view = await _view(driver, caller.tenant_id, one)
    if view.state == "cancelled":
        return json(view)
    if view.recall != "asked":
        raise Problem(409, "too_late", f"the message is {view.state}")
    return json(view, 202)


async def _ask_back(driver: asyncpg.Connection, message: Stored) -> bool:
    """Ask the carrier for a message, if it has it, and one carrier all of it; in the caller's transaction."""
    standing = messages.fold(message, await messages.facts(driver, [message]), datetime.now(UTC))
    answers = [answer for attempt in standing.attempts for answer in attempt.outcomes]
    # what may have left by an attempt that was never answered has no id, and can't be asked for
    in_doubt = any(answer.kind == messages.UNKNOWN for answer in answers)
    by = {answer.gateway_id for answer in answers if answer.kind == messages.ACCEPTED}
    if standing.state is not State.submitted or in_doubt or len(by) != 1:
        return False
    row = await driver.fetchrow("SELECT id, url, settings FROM gateways WHERE id = $1 AND enabled", *by)
    if row is None or not takes_back(row["url"], row["settings"]):
        return False
    if await recalls.answer_of(driver, message.id) not in (None, "unanswered"):
        return False
    await recalls.ask(driver, message.id, row["id"], time.time())
    return True


async def change_of(request: Request) -> wire.Change:
    """The optional body of a change. Raises Problem."""
    raw = await request.body()
    if not raw.strip():
        return wire.Change()
    demand_json(raw, request.headers.get("content-type"))
    return decode(raw, wire.decode_change)


NO_TIME = "invalid_time"
_WRITTEN = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d")


def _rfc3339(value: object) -> object:
    """A time as RFC 3339 writes it: pydantic would take seconds, too. A plus sign that was not escaped in
    the URL arrives as a space."""
    if not isinstance(value, str) or not _WRITTEN.match(value):
        raise PydanticCustomError(NO_TIME, "a time as in RFC 3339 with its offset from UTC is expected")
    return value.replace(" ", "+")


Moment = Annotated[AwareDatetime, BeforeValidator(_rfc3339)]


class ListQuery(BaseModel):
    """The query of a list of messages; a parameter that isn't here is refused, not overlooked."""

    model_config = ConfigDict(extra="forbid")

    batch: str | None = Field(None, description="Of that batch.")
    to: str | None = Field(None, max_length=64, description="To that number.")
    reference: str | None = Field(
        None, max_length=limits.MAX_REFERENCE_CHARS, description="With that client_reference."
    )
    state: wire.StateName | None = Field(None, description="Only with `batch` or `created_from`.")
    created_from: Moment | None = Field(None, description="Accepted at or after.")
    created_until: Moment | None = Field(None, description="Accepted before.")
    cursor: str | None = Field(None, max_length=128)
    limit: int = Field(limits.DEFAULT_PAGE, ge=1, le=limits.MAX_PAGE)


@router.get("/v1/messages", summary="List messages", responses=openapi.answers(200, "MessagePage"))
async def list_messages(request: Request, caller: Reader, query: Annotated[ListQuery, Query()]) -> Response:
    """Messages, newest first. A page that filters by state may be short, or empty, and have a next one."""
    if query.state is not None and query.batch is None and query.created_from is None:
        raise field_problem("query/state", "invalid_request", "a state needs a batch or created_from")
    wanted = Filter(
        _batch_id(query.batch),
        _recipient(query.to, caller),
        _reference(query.reference),
        query.state,
        _bound(query.created_from, bytes(16)),
        _bound(query.created_until, END),
    )
    filters = repr(msgspec.structs.astuple(wanted))
    if query.cursor is not None:
        place = cursors.decode(query.cursor, key=caller.hash_key, filters=filters)
        wanted = msgspec.structs.replace(wanted, high=place)
    async with context_of(request).database.driver() as driver:
        shown, more = await _page(driver, caller.tenant_id, wanted, query.limit)
    following = cursors.encode(more, key=caller.hash_key, filters=filters) if more else None
    return json(wire.MessagePage(shown, following))


def _batch_id(value: str | None) -> bytes | None:
    if value is None:
        return None
    found = ids.parse(value)
    if found is None:
        raise field_problem("query/batch", "invalid_value", "not an id")
    return found


def _reference(value: str | None) -> str | None:
    if value is not None and "\x00" in value:
        raise field_problem("query/reference", "nul_character", "NUL can't be stored")
    return value


def _recipient(to: str | None, caller: Caller) -> bytes | None:
    """The recipient's hash. A plus sign that was not escaped in the URL arrives as a space."""
    if to is None:
        return None
    try:
        number = parse("+" + to[1:] if to.startswith(" ") else to)
    except InvalidNumber as error:
        raise field_problem("query/to", "invalid_number", error.detail, reason=error.code) from None
    return hashlib.blake2b(number.e164.encode(), key=caller.hash_key, digest_size=8).digest()


def _bound(moment: datetime | None, otherwise: bytes) -> bytes:
    if moment is None:
        return otherwise
    instant_s = min(max(moment.timestamp(), 0.0), 253_402_300_799.0)
    return ids.first_id_at(instant_s)[:6] + bytes(10)


async def _page(
    driver: asyncpg.Connection, tenant_id: int, wanted: Filter, limit: int
) -> tuple[list[wire.MessageSummary], bytes | None]:
    """Up to `limit` messages, and the id below which the next page goes on; None at the end."""
    gateways = await messages.gateway_names(driver)
    shown: list[wire.MessageSummary] = []
    high: bytes | None = wanted.high
    packs, scanned = FIRST_PACKS, 0
    while high is not None and scanned < SCAN_PACKS:
        found, rest = await _candidates(driver, tenant_id, wanted, high, packs, limit)
        scanned += packs
        packs = min(packs * 2, MAX_PACKS)
        high = rest
        kept = [one for one in found if wanted.takes(one)]
        if wanted.state is None and len(kept) > limit - len(shown):
            kept = kept[: limit - len(shown)]
            high = kept[-1].id
        for one, view in await _views(driver, kept, gateways):
            if wanted.state is None or view.state == wanted.state:
                shown.append(view)
                if len(shown) == limit:
                    return shown, one.id
        await asyncio.sleep(0)
    return shown, high


async def _candidates(
    driver: asyncpg.Connection, tenant_id: int, wanted: Filter, high: bytes, packs: int, limit: int
) -> tuple[list[Stored], bytes | None]:
    """The next messages below `high` by the narrowest filter, and where to go on."""
    found: list[bytes]
    if wanted.recipient is not None:
        found = await messages.by_recipient(
            driver, tenant_id, wanted.recipient, low=wanted.low, high=high, limit=limit + 1
        )
    elif wanted.reference is not None:
        found = await messages.by_reference(
            driver, tenant_id, wanted.reference, low=wanted.low, high=high, limit=limit + 1
        )
    else:
        return await messages.newest(
            driver, tenant_id, batch_id=wanted.batch_id, low=wanted.low, high=high, packs=packs
        )
    rest = found[-1] if len(found) > limit else None
    return await messages.stored(driver, tenant_id, found), rest


async def _views(
    driver: asyncpg.Connection, found: Sequence[Stored], gateways: dict[int, str]
) -> list[tuple[Stored, wire.MessageSummary]]:
    if not found:
        return []
    known = await messages.facts(driver, found)
    now = datetime.now(UTC)
    return [
        (
            one,
            wire.MessageSummary(**views.summary(one, messages.fold(one, known, now), gateways)),  # type: ignore[arg-type]
        )
        for one in found
    ]
