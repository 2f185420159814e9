"""/v1/reports/delivery: how many, what became of them, how long it took; from the hourly rollups.

Guarantee: figures are sums of the deltas that the moving transactions wrote, at most a few seconds old; never
a count over messages. Delivery rate is delivered / submitted, with the unknown share beside it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from app.api.auth import Caller, require
from app.api.idempotency import IdempotentRoute
from app.api.problems import field_problem
from app.api.reading import Moment, context_of, json
from app.domain.message import Category, State
from app.store import reports

DEFAULT_SPAN = timedelta(days=1)
MAX_SPAN = timedelta(days=400)

router = APIRouter(tags=["reports"], route_class=IdempotentRoute)


class ReportQuery(BaseModel):
    """Which figures. Times are rounded down to the hour."""

    model_config = ConfigDict(extra="forbid")

    start: Moment | None = None
    end: Moment | None = None
    group_by: str = ""  # names of reports.GROUPS, separated by commas
    campaign: str | None = None
    region: str | None = None


@router.get("/v1/reports/delivery", summary="Delivery figures")
async def delivery(
    request: Request,
    caller: Annotated[Caller, Depends(require("read"))],
    query: Annotated[ReportQuery, Query()],
) -> Response:
    """Accepted, submitted and final messages by hour, day, region, category, gateway or campaign."""
    now = datetime.now(UTC)
    end = query.end or now + timedelta(hours=1)
    start = query.start or end - DEFAULT_SPAN
    if not start < end or end - start > MAX_SPAN:
        raise field_problem("query/start", "invalid_value", f"a span of up to {MAX_SPAN.days} days is wanted")
    for name in ("campaign", "region"):
        if "\x00" in (getattr(query, name) or ""):
            raise field_problem(f"query/{name}", "invalid_value", "a NUL character")
    names = [name for name in query.group_by.split(",") if name]
    if len(set(names)) != len(names) or not set(names) <= reports.GROUPS.keys():
        raise field_problem(
            "query/group_by", "invalid_value", f"any of {', '.join(reports.GROUPS)}, each once"
        )
    start = start.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    async with context_of(request).database.driver() as driver:
        found = await reports.delivery(
            driver,
            tenant_id=caller.tenant_id,
            start=start,
            end=end,
            group_by=names,
            campaign=query.campaign,
            region=query.region,
        )
    return json({"start": start, "end": end, "data": [_row(names, figure) for figure in found]})


def _row(names: list[str], figure: reports.Figure) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip(names, figure.key, strict=True))
    if "category" in row:
        row["category"] = Category(row["category"]).name
    states = figure.states
    submitted = states.get(State.submitted, 0)
    received = sum(states.get(s, 0) for s in (State.delivered, State.undelivered))
    row["accepted"] = states.get(State.accepted, 0)
    row["states"] = {
        State(number).name: n for number, n in sorted(states.items()) if State(number) is not State.accepted
    }
    row["delivery_rate"] = round(states.get(State.delivered, 0) / submitted, 4) if submitted else None
    handed_over = submitted + states.get(State.unknown, 0)
    unknown = states.get(State.unknown, 0) + states.get(State.unconfirmed, 0)
    row["unknown_share"] = round(min(1.0, unknown / handed_over), 4) if handed_over else None
    row["receipt_latency_s"] = round(figure.receipt_latency_ms / received / 1000, 3) if received else None
    return row
