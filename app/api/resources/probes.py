"""/v1/probes: before a launch, a text to our own phones by each gateway of a region.

Guarantees: the texts go the ordinary way, journalled and under every rule (who said stop gets none, a test number or
not, and no gateway is blamed for it); only to numbers that the operator has named
as test numbers of the region; one probe a region in EVERY_S, and at most MAX_TEXTS texts; each is in the audit log.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, Field

from app.api import openapi, posting, wire
from app.api.auth import Caller, require
from app.api.context import Context
from app.api.drafting import Drafting, Refused, pack_of, refused_problem, terms_of
from app.api.idempotency import IdempotentRoute
from app.api.problems import Problem, field_problem
from app.api.reading import context_of
from app.api.resources.base import PROBLEMS, Reason, Strict, Text, by, changing, demand_operator
from app.domain import ids, routing
from app.domain.message import State
from app.store import audit, config, probes
from app.store.config import GATEWAY, REGION
from app.store.engine import driver_in
from app.store.intake import Draft

EVERY_S = 60.0
MAX_TEXTS = 100
VALID_S = 900.0
PRIORITY = 3
BODY = "Test of the network. Please ignore."

router = APIRouter(
    tags=["probes"], route_class=IdempotentRoute, responses={**PROBLEMS, 429: openapi.problem(429)}
)
Operator = Annotated[Caller, Depends(require("operate"))]


class NewProbe(Strict):
    """A probe of a region. Without `gateways`: all those that a route to the region names."""

    region: Annotated[str, Field(pattern=r"^[A-Z]{2}(-[A-Z0-9]{1,3})?$")]
    gateways: Annotated[list[Text], Field(min_length=1, max_length=50)] | None = None
    sender: Annotated[Text, Field(max_length=69)] | None = None
    body: Annotated[Text, Field(min_length=1, max_length=300)] = BODY
    reason: Reason


class Made(BaseModel):
    """A probe under way: ask `url` for what came of it."""

    id: UUID
    region: str
    gateways: list[str]
    texts: int
    url: str


class GatewayResult(BaseModel):
    """What came of a gateway's texts. `stopped` are those that it was never given: a rule ended them (an opt-out, say,
    which holds for test numbers, too) or their 15 minutes did. `acceptance` and `receipt_rate` are shares of those
    that it was given and answered, of its accepted texts; null as long as there is nothing to divide. Times are
    medians."""

    gateway: str
    texts: int
    waiting: int
    stopped: int
    accepted: int
    refused: int
    unknown: int
    delivered: int
    acceptance: float | None
    receipt_rate: float | None
    answer_ms: int | None
    receipt_ms: int | None
    reasons: dict[str, int]
    messages: list[UUID]


class Result(BaseModel):
    """A probe. `complete`: every text has ended."""

    id: UUID
    region: str
    sender: str
    created_at: datetime
    complete: bool
    gateways: list[GatewayResult]


@router.post("/v1/probes", summary="Probe a region", status_code=202)
async def post_probe(body: NewProbe, request: Request, caller: Operator) -> Made:
    """Text each of the region's test numbers once by each gateway: transactional texts that expire in 15 minutes."""
    await demand_operator(request, caller)
    context = context_of(request)
    numbers, names = await _scope(context, body)
    if len(numbers) * len(names) > MAX_TEXTS:
        detail = f"{len(numbers)} numbers by {len(names)} gateways are more than {MAX_TEXTS} texts"
        raise field_problem("/gateways", "out_of_range", detail)
    now_s = context.clock()
    drafts = await _drafts(context, caller, body, numbers, names, now_s)
    probe_id = ids.new_id(now_s)
    async with context.database.begin() as connection:
        driver = await driver_in(connection)
        newest = await probes.lately(driver, body.region, now_s - EVERY_S)
        if newest is not None:
            wait_s = max(1, math.ceil(newest + EVERY_S - now_s))
            detail = f"a region is probed once in {EVERY_S:.0f} s"
            raise Problem(429, "rate_limited", detail, headers={"retry-after": str(wait_s)})
        sender = drafts[0].pack.sender
        messages = [
            (ids.message_id(d.pack_id, e.index), d.pack.gateway) for d in drafts for e in d.pack.entries
        ]
        await probes.insert(driver, (probe_id, caller.tenant_id, body.region, sender, now_s), messages)
        parcels = await context.intake.write(driver, drafts, now_s)
        after = {"gateways": names, "texts": len(messages)}
        subject = f"probe/{ids.text(probe_id)}"
        await audit.record(connection, by(caller, body.reason), "probe.create", subject, after=after)
    context.intake.offers.push(parcels)
    posting.count_accepted(context, drafts)
    return Made(
        id=UUID(bytes=probe_id),
        region=body.region,
        gateways=names,
        texts=len(messages),
        url=f"/v1/probes/{ids.text(probe_id)}",
    )


async def _scope(context: Context, body: NewProbe) -> tuple[list[str], list[str]]:
    """The test numbers, and the gateways. Raises Problem."""
    with changing():
        async with context.database.connect() as connection:
            known = {row["name"]: row["enabled"] for row in await config.rows(connection, GATEWAY)}
            regions = await config.rows(connection, REGION, code=body.region)
    numbers = list(regions[0]["test_numbers"]) if regions else []
    if not numbers:
        detail = "the region has no test numbers: set them with PATCH /v1/regions/{code}"
        raise field_problem("/region", "invalid_value", detail)
    async with context.database.driver() as driver:
        table = (await config.load(driver)).table()
    names = list(dict.fromkeys(body.gateways or _routed(table, body.region)))
    if not names:
        raise field_problem("/gateways", "invalid_value", "no route leads to the region")
    for place, name in enumerate(names):
        if not known.get(name):
            detail = "it is disabled" if name in known else "there is no such gateway"
            raise field_problem(f"/gateways/{place}", "invalid_value", detail)
    return numbers, names


def _routed(table: routing.Table, region: str) -> list[str]:
    """The gateways that some route to the region names."""
    country = region[:2]
    routes = [r for r in table.routes if r.to in (routing.ANYWHERE, region, country) or r.to[0] == "+"]
    return [name for route in routes for name in route.gateways]


async def _drafts(
    context: Context,
    caller: Caller,
    body: NewProbe,
    numbers: Sequence[str],
    names: Sequence[str],
    now_s: float,
) -> list[Draft]:
    """One pack a gateway and place. Raises Problem."""
    posted = wire.PostMessage(
        to="", category="transactional", body=body.body, sender=body.sender, priority=PRIORITY
    )
    terms = await posting.with_pool(terms_of(posted, caller, None, now_s), context)
    terms.expires_at = now_s + VALID_S
    tenant = msgspec.structs.replace(await context.references.ground(caller), sandbox_only=False)
    regions = await context.references.regions()
    drafts = []
    for name in names:
        for number in numbers:
            drafting = Drafting(terms, caller.hash_key, regions, tenant, None)
            try:
                place, entry = drafting.entry(number, None, None)
            except Refused as refused:
                raise refused_problem(refused) from None
            pack = pack_of(terms, None, place, [entry])
            pack.gateway = name
            drafts.append(Draft(ids.new_id(now_s), pack, terms.due_at, terms.priority))
    return drafts


@router.get("/v1/probes/{probe_id}", summary="What came of a probe")
async def get_probe(probe_id: Annotated[UUID, Path()], request: Request, caller: Operator) -> Result:
    """Acceptance, receipts and times by gateway, till now."""
    async with context_of(request).database.driver() as driver:
        found = await probes.find(driver, caller.tenant_id, probe_id.bytes)
        if found is None:
            raise Problem(404, "not_found", "there is no such probe")
        seen = await probes.seen(driver, found.id)
    by_gateway: dict[str, list[probes.Seen]] = {}
    for one in seen:
        by_gateway.setdefault(one.gateway, []).append(one)
    return Result(
        id=probe_id,
        region=found.region,
        sender=found.sender,
        created_at=found.created_at,
        complete=all(one.state is not None for one in seen),
        gateways=[_result(name, texts) for name, texts in by_gateway.items()],
    )


def _result(name: str, texts: Sequence[probes.Seen]) -> GatewayResult:
    accepted = [one for one in texts if one.accepted]
    ended = [one for one in accepted if one.state is not None and one.state != State.unconfirmed]
    stopped = [one for one in texts if one.state is not None and not one.sent]
    decided = [one for one in texts if one.accepted or one.unknown or one.refused or one.state is not None]
    tried = len(decided) - len(stopped)
    reasons: dict[str, int] = {}
    for one in texts:
        if one.reason is not None and not (one.accepted and one.state == State.delivered):
            reasons[one.reason] = reasons.get(one.reason, 0) + 1
    return GatewayResult(
        gateway=name,
        texts=len(texts),
        waiting=len(texts) - len(decided),
        stopped=len(stopped),
        accepted=len(accepted),
        refused=sum(one.refused for one in texts),
        unknown=sum(one.unknown for one in texts),
        delivered=sum(one.state == State.delivered for one in texts),
        acceptance=round(len(accepted) / tried, 4) if tried else None,
        receipt_rate=round(len(ended) / len(accepted), 4) if accepted else None,
        answer_ms=_median([one.answer_ms for one in accepted]),
        receipt_ms=_median([one.receipt_ms for one in ended]),
        reasons=reasons,
        messages=[UUID(bytes=one.message_id) for one in texts],
    )


def _median(values: Sequence[int | None]) -> int | None:
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else None
