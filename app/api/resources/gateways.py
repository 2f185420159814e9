"""/v1/gateways: the ways out. Passwords are written, never read back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, Field, StringConstraints

import gateways
from app.api.auth import Caller, require
from app.api.explaining import NoSink
from app.api.idempotency import IdempotentRoute
from app.api.problems import FieldError, Problem
from app.api.reading import context_of
from app.api.resources.base import PROBLEMS, Change, Flag, Text, Whole, by, changing, demand_operator, given
from app.domain import health
from app.domain.masking import mask_settings, mask_url, same_place, unmask_settings, unmask_url
from app.queue import health as shared
from app.queue import status
from app.queue.connection import Queue, Unavailable
from app.store import config, dispatch
from app.store.config import GATEWAY

MAX_REGIONS = 500

router = APIRouter(tags=["gateways"], route_class=IdempotentRoute, responses=PROBLEMS)
Operator = Annotated[Caller, Depends(require("operate"))]
Name = Annotated[str, Path(max_length=64, pattern=r"^[a-z0-9][a-z0-9_.\-]*$")]
Url = Annotated[Text, StringConstraints(max_length=4096)]


class Gateway(BaseModel):
    """A way out. Secrets in `url` and `settings` are shown as `***`; sent back so, they stay as they are."""

    name: str
    url: str
    settings: dict[str, Any]
    rate: int | None
    enabled: bool
    currency: str | None
    health: dict[str, Any]
    version: int
    updated_at: datetime


class GatewayPage(BaseModel):
    """All gateways."""

    data: list[Gateway]


class NewGateway(Change):
    """A gateway to be made. `rate` is in segments a second, in any sliding second; null or 0: no limit. `currency`
    is that of its price list; `health` says from when on it is not well (`GET /v1/gateways/{name}/health`)."""

    name: Text
    url: Url
    settings: dict[str, Any] = Field(default_factory=dict)
    rate: Whole | None = None
    enabled: Flag = True
    currency: Text | None = None
    health: dict[str, Any] = Field(default_factory=dict)


class GatewayChange(Change):
    """What is left out stays."""

    url: Url | None = None
    settings: dict[str, Any] | None = None
    rate: Whole | None = None
    enabled: Flag | None = None
    currency: Text | None = None
    health: dict[str, Any] | None = None


def check(name: str, url: str, settings: Mapping[str, Any]) -> None:
    """Whether a gateway can be made of this. Raises Problem (422), which repeats no secret."""
    try:
        gateways.make(name, url, settings, NoSink())
    except ValueError as error:
        raise Problem(
            422, "invalid_value", str(error), [FieldError("/url", "invalid_value", str(error))]
        ) from None


def _view(row: Mapping[str, Any]) -> Gateway:
    shown = {**row, "url": mask_url(row["url"]), "settings": mask_settings(row["settings"])}
    return Gateway.model_validate(shown)


@router.get("/v1/gateways", summary="List gateways")
async def list_gateways(request: Request, caller: Operator) -> GatewayPage:
    """All gateways, also disabled ones."""
    await demand_operator(request, caller)
    async with context_of(request).database.connect() as connection:
        return GatewayPage(data=[_view(row) for row in await config.rows(connection, GATEWAY)])


@router.get("/v1/gateways/{name}", summary="One gateway")
async def get_gateway(name: Name, request: Request, caller: Operator) -> Gateway:
    """A gateway's settings."""
    await demand_operator(request, caller)
    async with context_of(request).database.connect() as connection:
        with changing():
            return _view(await config.read(connection, GATEWAY, {"name": name}))


@router.post("/v1/gateways", summary="Create a gateway", status_code=201)
async def create_gateway(body: NewGateway, request: Request, caller: Operator) -> Gateway:
    """A new way out; dispatchers open it within seconds."""
    await demand_operator(request, caller)
    values = body.model_dump(include={"name", "url", "settings", "rate", "enabled", "currency", "health"})
    with changing():
        values = {name: GATEWAY.check(name, value) for name, value in values.items()}
        check(body.name, body.url, body.settings)
        async with context_of(request).database.begin() as connection:
            return _view(await config.create(connection, GATEWAY, values, by(caller, body.reason)))


def _unmasked(values: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """URL and settings with the secrets that `***` stands for. Raises SecretLost.

    Where the URL goes to another place, the secrets of the settings must be given again, too.
    """
    url = unmask_url(values.get("url", old["url"]), old["url"])
    known = old["settings"] if same_place(url, old["url"]) else {}
    shown = values.get("settings", mask_settings(old["settings"]))
    return {"url": url, "settings": unmask_settings(shown, known)}


@router.patch("/v1/gateways/{name}", summary="Change a gateway")
async def change_gateway(name: Name, body: GatewayChange, request: Request, caller: Operator) -> Gateway:
    """Change, disable or enable a gateway. Dispatchers follow within seconds."""
    await demand_operator(request, caller)
    values = given(body, "url", "settings", "rate", "enabled", "currency", "health")
    with changing():
        async with context_of(request).database.begin() as connection:
            old = await config.read(connection, GATEWAY, {"name": name})
            values = {field: GATEWAY.check(field, value) for field, value in values.items()}
            if "url" in values or "settings" in values:
                values |= _unmasked(values, old)
                check(name, values.get("url", old["url"]), values.get("settings", old["settings"]))
            row = await config.change(
                connection,
                GATEWAY,
                {"name": name},
                values,
                by(caller, body.reason),
                version=old["version"] if body.version is None else body.version,
            )
            return _view(row)


class Judged(BaseModel):
    """How a gateway does, by what all dispatchers saw: answers of the last 30 s, and receipts of texts accepted in the
    5 minutes before the last `receipt_after_s`. Shares are 0 to 1; null: nothing to divide."""

    answers: int
    failed_share: float | None
    throttled_share: float | None
    slow_share: float | None
    answer_ms: int | None
    texts: int
    receipt_share: float | None
    delivered_share: float | None
    receipt_ms: int | None


class Breaker(BaseModel):
    """A breaker that is not closed, of one dispatcher (each judges for itself). `region` null: the whole gateway."""

    dispatcher: int
    region: str | None
    state: str
    cause: str
    health: str
    since: datetime
    until: datetime


class GatewayHealth(BaseModel):
    """`health` is the worst that a dispatcher makes of it: `well`, `probing`, `worse` (it is the last choice),
    `failing` (it takes nothing but a few texts that probe it), `down` (no bind is up)."""

    name: str
    health: str
    binds: int
    limits: dict[str, Any]
    total: Judged
    regions: dict[str, Judged]
    breakers: list[Breaker]


@router.get("/v1/gateways/{name}/health", summary="How a gateway does")
async def gateway_health(name: Name, request: Request, caller: Operator) -> GatewayHealth:
    """Its binds, the shares by which it is judged, by region, and its breakers."""
    await demand_operator(request, caller)
    context = context_of(request)
    with changing():
        async with context.database.connect() as connection:
            row = await config.read(connection, GATEWAY, {"name": name})
    async with context.database.driver() as driver:
        leases = await dispatch.live_leases(driver)
    limits = health.limits_of(row["health"])
    try:
        shown = await status.shown(context.queue, leases)
        recent, old = await _counts(context.queue, name, limits, context.clock())
    except Unavailable:
        raise Problem(503, "unavailable", "Redis can't be asked now") from None
    binds = sum(b.gateway == name and b.state == "bound" for one in shown.values() for b in one.binds)
    breakers = [(lease, c) for lease, one in shown.items() for c in one.circuits if c.gateway == name]
    regions = sorted({*recent, *old})[:MAX_REGIONS]
    return GatewayHealth(
        name=name,
        health=str(max((c.health for _, c in breakers), key=_gravity, default="well")) if binds else "down",
        binds=binds,
        limits=msgspec.to_builtins(limits),
        total=_judged(health.total(recent.values()), health.total(old.values())),
        regions={r: _judged(recent.get(r, health.Counts()), old.get(r, health.Counts())) for r in regions},
        breakers=[
            Breaker(
                dispatcher=lease,
                region=c.region or None,
                state=c.state,
                cause=c.cause,
                health=c.health,
                since=datetime.fromtimestamp(c.since, UTC),
                until=datetime.fromtimestamp(c.until, UTC),
            )
            for lease, c in breakers
        ],
    )


def _gravity(name: str) -> int:
    return health.GRAVITY.index(name) if name in health.GRAVITY else 0  # type: ignore[arg-type]


async def _counts(
    queue: Queue, name: str, limits: health.Limits, now_s: float
) -> tuple[dict[str, health.Counts], dict[str, health.Counts]]:
    """By region: what the answers are judged by, and the texts that should have receipts. Raises Unavailable."""
    last = now_s - limits.receipt_after_s
    bucket_of = shared.bucket_of
    found = []
    for buckets in (
        range(bucket_of(now_s - health.WINDOW_S), bucket_of(now_s) + 1),
        range(bucket_of(last - health.RECEIPTS_S), bucket_of(last)),
    ):
        sums: dict[str, health.Counts] = {}
        for (_, region, _), counts in (await shared.read(queue, [name], buckets)).items():
            sums.setdefault(region, health.Counts()).add(counts)
        found.append(sums)
    return found[0], found[1]


def _judged(seen: health.Counts, old: health.Counts) -> Judged:
    def share(n: int, of: int) -> float | None:
        return round(n / of, 4) if of else None

    return Judged(
        answers=seen.answers,
        failed_share=share(seen.failed, seen.answers),
        throttled_share=share(seen.throttled, seen.answers),
        slow_share=share(seen.slow, seen.answers),
        answer_ms=seen.answer_ms // seen.answers if seen.answers else None,
        texts=old.texts,
        receipt_share=share(old.receipts, old.texts),
        delivered_share=share(old.delivered, old.texts),
        receipt_ms=old.receipt_ms // old.receipts if old.receipts else None,
    )
