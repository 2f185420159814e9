"""/v1/gateways: the ways out. Passwords are written, never read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, Field, StringConstraints

import gateways
from app.api.auth import Caller, require
from app.api.idempotency import IdempotentRoute
from app.api.problems import FieldError, Problem
from app.api.reading import context_of
from app.api.resources.base import PROBLEMS, Change, Text, by, changing, demand_operator, given
from app.domain.masking import mask_settings, mask_url, same_place, unmask_settings, unmask_url
from app.store import config
from app.store.config import GATEWAY
from gateways.base import Inbound, Outcome, Receipt, Submission

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
    rate: int | None = None
    enabled: bool = True
    currency: Text | None = None
    health: dict[str, Any] = Field(default_factory=dict)


class GatewayChange(Change):
    """What is left out stays."""

    url: Url | None = None
    settings: dict[str, Any] | None = None
    rate: int | None = None
    enabled: bool | None = None
    currency: Text | None = None
    health: dict[str, Any] | None = None


class _NoSink:
    """A gateway that is made only to see whether its settings are right reports to nobody."""

    def outcomes(self, batch: Sequence[tuple[Submission, int, Outcome]]) -> None:
        """Nothing was submitted."""

    def ready(self) -> None:
        """It is never opened."""

    async def receipts(self, gateway: str, batch: Sequence[Receipt]) -> None:
        """It is never opened."""

    async def inbound(self, gateway: str, batch: Sequence[Inbound]) -> None:
        """It is never opened."""


def check(name: str, url: str, settings: Mapping[str, Any]) -> None:
    """Whether a gateway can be made of this. Raises Problem (422), which repeats no secret."""
    try:
        gateways.make(name, url, settings, _NoSink())
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
