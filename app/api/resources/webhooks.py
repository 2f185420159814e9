"""/v1/webhooks: where a tenant's events go, their secrets, deliveries and replays."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal
from urllib.parse import urlsplit
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from app.api import limits
from app.api.auth import Caller, require
from app.api.idempotency import IdempotentRoute
from app.api.problems import Problem, field_problem
from app.api.reading import context_of, identifier
from app.api.resources.base import (
    NO_STORE,
    PROBLEMS,
    Cursor,
    Flag,
    Limit,
    Moment,
    Strict,
    Text,
    Whole,
    after,
    by,
    given,
    place,
)
from app.store import audit, config, tenants, webhook_endpoints, webhooks
from app.store.engine import driver_in

router = APIRouter(tags=["webhooks"], route_class=IdempotentRoute, responses=PROBLEMS)
Admin = Annotated[Caller, Depends(require("admin"))]
Url = Annotated[Text, Field(min_length=1, max_length=limits.MAX_URL_CHARS)]
EventName = Literal[
    "*",
    "message.submitted",
    "message.delivered",
    "message.undelivered",
    "message.rejected",
    "message.suppressed",
    "message.cancelled",
    "message.expired",
    "message.failed",
    "message.unconfirmed",
    "message.inbound",
]
Events = Annotated[list[EventName], Field(min_length=1, max_length=20)]
StateName = Literal["pending", "delivered", "given_up"]


class Endpoint(BaseModel):
    """Where events go. `secrets` is how many sign at present: two while a rotation overlaps."""

    id: UUID
    url: str
    events: list[EventName]
    enabled: bool
    disabled_reason: str | None
    failing_since: datetime | None
    secrets: int
    created_at: datetime


class ShownEndpoint(Endpoint):
    """An endpoint with its new secret: shown this once."""

    secret: str


class EndpointPage(BaseModel):
    """The tenant's endpoints, at most 20."""

    data: list[Endpoint]


def _every() -> list[EventName]:
    return ["*"]


class NewEndpoint(Strict):
    """An endpoint to be made. `*` stands for every final state and for inbound texts.

    `message.submitted` (a carrier took the text) is told to those alone that name it: it comes for nearly every
    message, and doubles what is delivered. It is told from the moment on at which dispatchers know of the wish, a
    second or so.
    """

    url: Url
    events: Events = Field(default_factory=_every)


class EndpointChange(Strict):
    """What is left out stays."""

    url: Url | None = None
    events: Events | None = None
    enabled: Flag | None = None


class Rotation(Strict):
    """For how long the old secret signs beside the new one."""

    overlap_s: Annotated[Whole, Field(ge=0, le=30 * 86_400)] = webhook_endpoints.OVERLAP_S


class Delivery(BaseModel):
    """One event on its way. `id` is the `webhook-id` header."""

    id: UUID
    event: str
    message_id: UUID | None
    state: StateName
    tries: int
    next_at: datetime | None
    last_status: int | None
    last_error: str | None
    created_at: datetime
    delivered_at: datetime | None


class DeliveryPage(BaseModel):
    """Newest first."""

    data: list[Delivery]
    next: str | None


class Replay(Strict):
    """Which deliveries are to be made again: all that ended and were created since then."""

    since: Moment


class Replayed(BaseModel):
    """How many deliveries will be made again, with the `webhook-id` that they had."""

    replayed: int


class CallbackSecrets(BaseModel):
    """What signs the calls to messages' own `callback_url`, the newest first."""

    secrets: list[str]


def _checked(url: str) -> str:
    """http or https, with a host and without credentials. What it resolves to is looked at when it is called."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    plain = url.isascii() and url.isprintable() and " " not in url
    if not host or parts.scheme not in ("http", "https") or "@" in parts.netloc or not plain:
        raise field_problem("/url", "invalid_value", "an http(s) URL without credentials is needed")
    return url


def _view(endpoint: webhook_endpoints.Endpoint, now_s: float) -> Endpoint:
    return Endpoint(
        id=endpoint.id,
        url=endpoint.url,
        events=list(endpoint.events),  # type: ignore[arg-type]  # stored from this very list
        enabled=endpoint.enabled,
        disabled_reason=endpoint.disabled_reason,
        failing_since=endpoint.failing_since,
        secrets=len(webhook_endpoints.signing(endpoint.secrets, now_s)),
        created_at=endpoint.created_at,
    )


def _shown(endpoint: webhook_endpoints.Endpoint, secret: str, now_s: float) -> ShownEndpoint:
    return ShownEndpoint(**_view(endpoint, now_s).model_dump(), secret=secret)


def _missing() -> Problem:
    return Problem(404, "not_found", "there is no such endpoint")


@router.get("/v1/webhooks", summary="List webhook endpoints")
async def list_endpoints(request: Request, caller: Admin) -> EndpointPage:
    """The tenant's endpoints."""
    context = context_of(request)
    async with context.database.driver() as driver:
        found = await webhook_endpoints.listed(driver, caller.tenant_id)
    return EndpointPage(data=[_view(one, context.clock()) for one in found])


@router.post("/v1/webhooks", summary="Create a webhook endpoint", status_code=201)
async def create_endpoint(
    body: NewEndpoint, request: Request, response: Response, caller: Admin
) -> ShownEndpoint:
    """A new endpoint. Its secret is shown this once; verify by it as Standard Webhooks says.

    Each event is delivered at least once: until a 2xx answers it, for 3.3 days; `webhook-id` tells a repetition. The
    events of one message come in their order, one after the other: while one is not taken, the next ones wait. Those of
    different messages come in any order.
    """
    context = context_of(request)
    url, events = _checked(body.url), list(dict.fromkeys(body.events))
    async with context.database.begin() as connection:
        made = await webhook_endpoints.create(
            await driver_in(connection), caller.tenant_id, url, events, context.clock()
        )
        if made is None:
            raise Problem(
                409, "conflict", f"a tenant has at most {webhook_endpoints.MAX_ENDPOINTS} endpoints"
            )
        actor = by(caller, "created over the API", caller.tenant_id)
        shown = {"url": url, "events": events}
        if webhooks.SUBMITTED in events:
            await config.begin(connection)  # dispatchers read it with the configuration
        await audit.record(connection, actor, "webhook.create", f"webhook/{made[0].id}", after=shown)
    response.headers.update(NO_STORE)
    return _shown(*made, context.clock())


@router.get("/v1/webhooks/callback-secret", summary="The secret of callback URLs")
async def get_callback_secret(request: Request, response: Response, caller: Admin) -> CallbackSecrets:
    """What signs the calls to `callback_url` of messages and batches."""
    context = context_of(request)
    async with context.database.connect() as connection:
        tenant = await tenants.read(connection, caller.tenant_id)
    assert tenant is not None
    response.headers.update(NO_STORE)
    found = webhook_endpoints.callback_secrets(tenant.hash_key, tenant.settings, context.clock())
    return CallbackSecrets(secrets=list(found))


@router.post("/v1/webhooks/callback-secret/rotate", summary="Rotate the secret of callback URLs")
async def rotate_callback_secret(
    request: Request, response: Response, caller: Admin, body: Rotation | None = None
) -> CallbackSecrets:
    """A new secret; the old one signs beside it for the overlap."""
    context = context_of(request)
    now_s = context.clock()
    until = now_s + (body or Rotation()).overlap_s
    actor = by(caller, "rotated over the API", caller.tenant_id)
    async with context.database.begin() as connection:
        tenant = await tenants.rotate_callback_secret(connection, caller.tenant_id, until, actor)
    response.headers.update(NO_STORE)
    found = webhook_endpoints.callback_secrets(tenant.hash_key, tenant.settings, now_s)
    return CallbackSecrets(secrets=list(found))


@router.get("/v1/webhooks/{endpoint_id}", summary="One webhook endpoint")
async def get_endpoint(endpoint_id: str, request: Request, caller: Admin) -> Endpoint:
    """An endpoint, without its secrets."""
    context = context_of(request)
    async with context.database.driver() as driver:
        found = await webhook_endpoints.read(driver, caller.tenant_id, identifier(endpoint_id))
    if found is None:
        raise _missing()
    return _view(found, context.clock())


@router.patch("/v1/webhooks/{endpoint_id}", summary="Change a webhook endpoint")
async def change_endpoint(
    endpoint_id: str, body: EndpointChange, request: Request, caller: Admin
) -> Endpoint:
    """Change its URL or events, disable or enable it. What waits for a disabled endpoint waits on."""
    context = context_of(request)
    values = {
        name: value for name, value in given(body, "url", "events", "enabled").items() if value is not None
    }
    if "url" in values:
        _checked(values["url"])
    one = identifier(endpoint_id)
    async with context.database.begin() as connection:
        driver = await driver_in(connection)
        old = await webhook_endpoints.read(driver, caller.tenant_id, one, lock=True)
        if old is None:
            raise _missing()
        before = {"url": old.url, "events": list(old.events), "enabled": old.enabled}
        wanted = {**before, **values}
        found = await webhook_endpoints.update(driver, caller.tenant_id, one, **wanted)
        assert found is not None
        if webhooks.SUBMITTED in {*old.events, *found.events}:
            await config.begin(connection)
        actor = by(caller, "changed over the API", caller.tenant_id)
        await audit.record(
            connection, actor, "webhook.change", f"webhook/{old.id}", before=before, after=wanted
        )
    return _view(found, context.clock())


@router.delete("/v1/webhooks/{endpoint_id}", summary="Remove a webhook endpoint", status_code=204)
async def remove_endpoint(endpoint_id: str, request: Request, caller: Admin) -> Response:
    """Take an endpoint away, with what waits for it."""
    one = identifier(endpoint_id)
    async with context_of(request).database.begin() as connection:
        if not await webhook_endpoints.remove(await driver_in(connection), caller.tenant_id, one):
            raise _missing()
        actor = by(caller, "removed over the API", caller.tenant_id)
        await audit.record(connection, actor, "webhook.remove", f"webhook/{UUID(bytes=one)}")
    return Response(status_code=204)


@router.post("/v1/webhooks/{endpoint_id}/rotate", summary="Rotate a webhook secret")
async def rotate_secret(
    endpoint_id: str, request: Request, response: Response, caller: Admin, body: Rotation | None = None
) -> ShownEndpoint:
    """A new secret, shown this once; the old one signs beside it for the overlap."""
    context = context_of(request)
    overlap_s = (body or Rotation()).overlap_s
    one = identifier(endpoint_id)
    async with context.database.begin() as connection:
        made = await webhook_endpoints.rotate(
            await driver_in(connection), caller.tenant_id, one, context.clock(), overlap_s
        )
        if made is None:
            raise _missing()
        actor = by(caller, "rotated over the API", caller.tenant_id)
        await audit.record(connection, actor, "webhook.rotate", f"webhook/{made[0].id}")
    response.headers.update(NO_STORE)
    return _shown(*made, context.clock())


@router.get("/v1/webhooks/{endpoint_id}/deliveries", summary="List deliveries")
async def list_deliveries(
    endpoint_id: str,
    request: Request,
    caller: Admin,
    state: StateName | None = None,
    cursor: Cursor = None,
    limit: Limit = limits.DEFAULT_PAGE,
) -> DeliveryPage:
    """What was, is and will be delivered to an endpoint; kept for 14 days."""
    one = identifier(endpoint_id)
    filters = f"deliveries {endpoint_id} {state}"
    before = place(cursor, caller, filters)
    number = next((n for n, name in webhooks.STATES.items() if name == state), None)
    async with context_of(request).database.driver() as driver:
        if await webhook_endpoints.read(driver, caller.tenant_id, one) is None:
            raise _missing()
        page = await webhooks.deliveries(
            driver, caller.tenant_id, one, state=number, before=before, limit=limit
        )
    last = page[-1].id.bytes if len(page) == limit else None
    return DeliveryPage(data=[_delivery(d) for d in page], next=after(last, caller, filters))


def _delivery(found: webhooks.Delivery) -> Delivery:
    return Delivery.model_validate(
        {
            **{name: getattr(found, name) for name in Delivery.model_fields},
            "state": webhooks.STATES[found.state],
            "next_at": found.next_at if found.state == webhooks.PENDING else None,
        }
    )


@router.post("/v1/webhooks/{endpoint_id}/replay", summary="Replay deliveries", status_code=202)
async def replay_since(endpoint_id: str, body: Replay, request: Request, caller: Admin) -> Replayed:
    """Make the deliveries since a time again, at most 100,000 a call."""
    return await _replay(request, caller, endpoint_id, since=body.since.astimezone(UTC))


@router.post(
    "/v1/webhooks/{endpoint_id}/deliveries/{delivery_id}/replay",
    summary="Replay one delivery",
    status_code=202,
)
async def replay_one(endpoint_id: str, delivery_id: str, request: Request, caller: Admin) -> Replayed:
    """Make one delivery again."""
    done = await _replay(request, caller, endpoint_id, delivery_id=identifier(delivery_id))
    if not done.replayed:
        raise Problem(404, "not_found", "there is no such delivery")
    return done


async def _replay(
    request: Request,
    caller: Caller,
    endpoint_id: str,
    *,
    delivery_id: bytes | None = None,
    since: datetime | None = None,
) -> Replayed:
    context = context_of(request)
    one = identifier(endpoint_id)
    now = datetime.fromtimestamp(context.clock(), UTC)
    async with context.database.driver() as driver:
        if await webhook_endpoints.read(driver, caller.tenant_id, one) is None:
            raise _missing()
        n = await webhooks.replay(
            driver, caller.tenant_id, one, now=now, delivery_id=delivery_id, since=since
        )
    return Replayed(replayed=n)
