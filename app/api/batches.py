"""/v1/batches: reading, pausing, resuming and cancelling them. Posting is in `posting.py` and `upload.py`.

Guarantees: counts never scan messages; pause, resume and cancel are one committed change of the batch's row
with its line in the audit log: from that commit on the dispatcher hands over nothing of a batch that
isn't running, and a resumed one goes on where it stood.
"""

from __future__ import annotations

import time
from typing import Annotated

import asyncpg
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from app.api import cursors, limits, openapi, views, wire
from app.api.auth import Caller, require
from app.api.forecasting import forecast
from app.api.idempotency import IdempotentRoute
from app.api.problems import Problem
from app.api.reading import Reader, change_of, context_of, identifier, json
from app.domain import ids
from app.store import batches, forecasts
from app.store.batches import Batch, BatchState

router = APIRouter(tags=["batches"], route_class=IdempotentRoute)
Operator = Annotated[Caller, Depends(require("operate"))]
_CHANGE = openapi.optional_body("Change")
_ANSWERS = openapi.answers(200, "Batch", 404, 409)


class ListQuery(BaseModel):
    """The query of a list of batches."""

    model_config = ConfigDict(extra="forbid")

    state: wire.BatchStateName | None = Field(
        None, description="`running` and `paused` have those completed, too; `completed` has only those."
    )
    cursor: str | None = Field(None, max_length=128)
    limit: int = Field(limits.DEFAULT_PAGE, ge=1, le=limits.MAX_PAGE)


@router.get("/v1/batches", summary="List batches", responses=openapi.answers(200, "BatchPage"))
async def list_batches(request: Request, caller: Reader, query: Annotated[ListQuery, Query()]) -> Response:
    """Batches, newest first. A page of `completed` ones may be short, or empty, and have a next one."""
    before = None
    filters = f"batches {query.state}"
    if query.cursor is not None:
        before = cursors.decode(query.cursor, key=caller.hash_key, filters=filters)
    async with context_of(request).database.driver() as driver:
        page = await batches.page(
            driver, caller.tenant_id, before=before, states=_states(query.state), limit=query.limit
        )
        counts = await batches.counts(driver, [one.id for one in page], time.time())
    shown = [views.batch_view(one, counts[one.id]) for one in page]
    if query.state == "completed":
        shown = [one for one in shown if one.state == query.state]
    following = None
    if len(page) == query.limit:
        following = cursors.encode(page[-1].id.bytes, key=caller.hash_key, filters=filters)
    return json(wire.BatchPage(shown, following))


def _states(state: str | None) -> list[BatchState] | None:
    if state is None:
        return None
    return [BatchState.running, BatchState.paused] if state == "completed" else [BatchState[state]]


@router.get("/v1/batches/{batch_id}", summary="One batch", responses=openapi.answers(200, "Batch", 404))
async def get_batch(batch_id: str, request: Request, caller: Reader) -> Response:
    """A batch with its counts by state, its accounting, and a forecast of when it will be through."""
    context = context_of(request)
    async with context.database.driver() as driver:
        batch = await _found(driver, caller, identifier(batch_id))
        view = await _view(driver, batch)
        queued = await forecasts.backlogs(driver, batch.id) if batch.state is BatchState.running else []
        rates = await forecasts.limits(driver, caller.tenant_id, batch.sender) if queued else None
    if rates is not None:
        ground = await context.references.ground(caller)
        view.forecast = forecast(queued, rates, ground.packs, ground.terms, time.time())
    return json(view)


async def _found(driver: asyncpg.Connection, caller: Caller, batch_id: bytes) -> Batch:
    found = await batches.get(driver, caller.tenant_id, batch_id)
    if found is None:
        raise Problem(404, "not_found", "there is no such batch")
    return found


async def _view(driver: asyncpg.Connection, batch: Batch) -> wire.Batch:
    """The whole and its regions of one moment, so that these add up to it."""
    now_s = time.time()
    async with driver.transaction(isolation="repeatable_read", readonly=True):
        counts = await batches.counts(driver, [batch.id], now_s)
        regions = await batches.by_region(driver, batch.id, now_s)
    return views.batch_view(batch, counts[batch.id], regions)


@router.get(
    "/v1/batches/{batch_id}/rejections",
    summary="Recipients that were not accepted",
    responses=openapi.answers(200, "RejectionPage", 400, 404),
)
async def list_rejections(
    batch_id: str,
    request: Request,
    caller: Reader,
    cursor: Annotated[str | None, Query(max_length=128)] = None,
    limit: Annotated[int, Query(ge=1, le=limits.MAX_PAGE)] = limits.DEFAULT_PAGE,
) -> Response:
    """The first 10,000 rejections are kept; `total` counts all."""
    one = identifier(batch_id)
    filters = f"rejections {one.hex()}"
    after = -1
    if cursor is not None:
        after = int.from_bytes(cursors.decode(cursor, key=caller.hash_key, filters=filters), "big")
    async with context_of(request).database.driver() as driver:
        batch = await _found(driver, caller, one)
        rows = await batches.rejections(driver, one, after=after, limit=limit)
    following = None
    if len(rows) == limit:
        following = cursors.encode(rows[-1].index.to_bytes(8, "big"), key=caller.hash_key, filters=filters)
    shown = [wire.RejectionView(row.index, row.pointer, row.code, row.detail) for row in rows]
    return json(wire.RejectionPage(shown, batch.rejected, following))


@router.post(
    "/v1/batches/{batch_id}/pause", summary="Pause a batch", responses=_ANSWERS, openapi_extra=_CHANGE
)
async def pause(batch_id: str, request: Request, caller: Operator) -> Response:
    """Nothing more of it is handed over until it is resumed. Paused already: the same answer."""
    return await _moved(request, caller, identifier(batch_id), (BatchState.running,), BatchState.paused)


@router.post(
    "/v1/batches/{batch_id}/resume", summary="Resume a batch", responses=_ANSWERS, openapi_extra=_CHANGE
)
async def resume(batch_id: str, request: Request, caller: Operator) -> Response:
    """It goes on where it stood. Running already: the same answer."""
    one = identifier(batch_id)
    answer = await _moved(request, caller, one, (BatchState.paused,), BatchState.running)
    context_of(request).intake.offer_batch(one)
    return answer


@router.post(
    "/v1/batches/{batch_id}/cancel", summary="Cancel a batch", responses=_ANSWERS, openapi_extra=_CHANGE
)
async def cancel(batch_id: str, request: Request, caller: Operator) -> Response:
    """What wasn't handed over never will be. Its messages become `cancelled` within moments."""
    allowed = (BatchState.loading, BatchState.running, BatchState.paused)
    return await _moved(request, caller, identifier(batch_id), allowed, BatchState.cancelled)


async def _moved(
    request: Request, caller: Caller, batch_id: bytes, allowed: tuple[BatchState, ...], to: BatchState
) -> Response:
    change = await change_of(request)
    async with context_of(request).database.driver() as driver:
        before = await _found(driver, caller, batch_id)
        counts = await batches.counts(driver, [before.id], time.time())
        if views.batch_view(before, counts[before.id]).state == "completed":
            raise Problem(409, "too_late", "the batch is completed")
        if before.state is not to:
            async with driver.transaction():
                if not await batches.move(driver, caller.tenant_id, batch_id, allowed, to):
                    raise Problem(409, "batch_state", f"the batch is {before.state.name}")
                await batches.audit(
                    driver,
                    tenant_id=caller.tenant_id,
                    actor=change.actor or caller.actor,
                    reason=change.reason or "",
                    action=f"batch.{to.name}",
                    subject=ids.text(batch_id),
                    before={"state": before.state.name},
                    after={"state": to.name},
                )
        return json(await _view(driver, await _found(driver, caller, batch_id)))
