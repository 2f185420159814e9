"""/v1/gateways/{name}/prices and /v1/currencies: what routes by cost compare.

Guarantee: amounts are decimals in quotes, on the way in and out; a list is replaced whole, or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, Field, StringConstraints

from app.api.auth import Caller, require
from app.api.idempotency import IdempotentRoute
from app.api.problems import Problem, field_problem
from app.api.reading import context_of
from app.api.resources.base import (
    MAX_INT,
    PROBLEMS,
    Change,
    Reason,
    Text,
    by,
    changing,
    demand_operator,
)
from app.api.resources.gateways import Name
from app.domain.prices import MAX_PRICES, BadPrice, read_csv
from app.store import config
from app.store.config import CURRENCY, GATEWAY

router = APIRouter(tags=["gateways"], route_class=IdempotentRoute, responses=PROBLEMS)
Operator = Annotated[Caller, Depends(require("operate"))]
Code = Annotated[str, Path(pattern=r"^[A-Z]{3}$", description="ISO 4217: `EUR`")]
Amount = Annotated[Text, StringConstraints(max_length=32)]
CSV = "text/csv"
FILE: dict[str, Any] = {"requestBody": {"required": True, "content": {CSV: {"schema": {"type": "string"}}}}}


class PriceList(BaseModel):
    """What a gateway charges for one segment, by number prefix, region, country, or `*`: the longest prefix holds,
    then region, country, `*`."""

    currency: str | None
    prices: dict[str, str]
    version: int


class NewPriceList(Change):
    """The whole list. Amounts are strings, so that they stay exact: `"0.0075"`."""

    prices: Annotated[dict[Text, Amount], Field(max_length=MAX_PRICES)]
    currency: Text | None = None


class Currency(BaseModel):
    """What one unit is worth in the currency that prices are compared in."""

    code: str
    rate: str
    version: int
    updated_at: datetime


class CurrencyPage(BaseModel):
    """All currencies that have a rate."""

    data: list[Currency]


class NewCurrency(Change):
    """`rate` is a string: `"1.08"`."""

    rate: Amount


def _list(row: Mapping[str, Any]) -> PriceList:
    return PriceList(currency=row["currency"], prices=row["prices"], version=row["version"])


def _currency(row: Mapping[str, Any]) -> Currency:
    return Currency(
        code=row["code"], rate=f"{row['rate']:f}", version=row["version"], updated_at=row["updated_at"]
    )


@router.get("/v1/gateways/{name}/prices", summary="A gateway's price list")
async def get_prices(name: Name, request: Request, caller: Operator) -> PriceList:
    """The price list; empty where there is none."""
    await demand_operator(request, caller)
    with changing():
        async with context_of(request).database.connect() as connection:
            return _list(await config.read(connection, GATEWAY, {"name": name}))


@router.put("/v1/gateways/{name}/prices", summary="Set a gateway's price list")
async def put_prices(name: Name, body: NewPriceList, request: Request, caller: Operator) -> PriceList:
    """Replace the list; in force within a second."""
    await demand_operator(request, caller)
    values: dict[str, Any] = {"prices": dict(body.prices)}
    if body.currency is not None:
        values["currency"] = body.currency
    return await _replace(request, name, values, caller, body.reason, body.version)


@router.put(
    "/v1/gateways/{name}/prices.csv", summary="Set a gateway's price list from a file", openapi_extra=FILE
)
async def put_price_file(
    name: Name,
    request: Request,
    caller: Operator,
    reason: Annotated[Reason, Query()],
    currency: Annotated[str | None, Query(pattern=r"^[A-Z]{3}$")] = None,
    version: Annotated[int | None, Query(ge=1, le=MAX_INT)] = None,
) -> PriceList:
    """Replace the list by a CSV file with the header `to,price`. One line that can't be taken: nothing is."""
    await demand_operator(request, caller)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != CSV:
        raise Problem(415, "unsupported_media_type", "send text/csv")
    try:
        values: dict[str, Any] = {"prices": read_csv((await request.body()).decode("utf-8"))}
    except UnicodeDecodeError:
        raise Problem(400, "invalid_utf8", "the file is not UTF-8") from None
    except BadPrice as error:
        raise field_problem("/prices", "invalid_value", str(error)) from None
    if currency is not None:
        values["currency"] = currency
    return await _replace(request, name, values, caller, reason, version)


async def _replace(
    request: Request, name: str, values: dict[str, Any], caller: Caller, reason: str, version: int | None
) -> PriceList:
    with changing():
        async with context_of(request).database.begin() as connection:
            row = await config.change(
                connection, GATEWAY, {"name": name}, values, by(caller, reason), version=version
            )
            return _list(row)


@router.get("/v1/currencies", summary="List conversion rates")
async def list_currencies(request: Request, caller: Operator) -> CurrencyPage:
    """All rates."""
    await demand_operator(request, caller)
    async with context_of(request).database.connect() as connection:
        return CurrencyPage(data=[_currency(row) for row in await config.rows(connection, CURRENCY)])


@router.put("/v1/currencies/{code}", summary="Set a conversion rate")
async def put_currency(code: Code, body: NewCurrency, request: Request, caller: Operator) -> Currency:
    """Set what one unit is worth in the currency that prices are compared in (whose own rate is 1)."""
    await demand_operator(request, caller)
    actor, values = by(caller, body.reason), {"rate": body.rate}
    with changing():
        async with context_of(request).database.begin() as connection:
            if body.version is None and not await config.rows(connection, CURRENCY, code=code):
                return _currency(await config.create(connection, CURRENCY, {"code": code, **values}, actor))
            key = {"code": code}
            return _currency(
                await config.change(connection, CURRENCY, key, values, actor, version=body.version)
            )


@router.delete("/v1/currencies/{code}", summary="Remove a conversion rate", status_code=204)
async def remove_currency(
    code: Code, request: Request, caller: Operator, reason: Annotated[Reason, Query()]
) -> Response:
    """Prices in it can no longer be compared with those of others."""
    await demand_operator(request, caller)
    with changing():
        async with context_of(request).database.begin() as connection:
            await config.remove(connection, CURRENCY, {"code": code}, by(caller, reason))
    return Response(status_code=204)
