"""POST /v1/messages/explain: what would become of a message now, and why. Nothing is sent, stored or counted.

Guarantee: checks, route, gateway and segments come from the code that the dispatcher runs (`app.policy`,
`app.domain.routing`, `app.domain.content`), on the same rules and the same copy in Redis; how well the gateways do is
what the dispatchers show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from app.api import decoding, openapi, posting, wire
from app.api.auth import Caller, require
from app.api.context import Context
from app.api.drafting import Drafting, Refused, Terms, pack_of, refused_problem, terms_of
from app.api.explaining import Explainer, Standing
from app.api.idempotency import IdempotentRoute
from app.api.problems import Problem, field_problem
from app.api.reading import context_of, json
from app.countries.packs import Packs
from app.domain import ids, routing, template
from app.domain.content import TOO_MANY_SEGMENTS, content
from app.domain.message import Category
from app.domain.pack import Entry, Pack, Parcel
from app.domain.phone import masked
from app.domain.routing import Choice, Health, Ranked, asked_of
from app.policy import Decision, Step, ask
from app.queue import throttles
from app.queue.connection import EpochLost, Unavailable
from app.store import config

MAX_RECIPIENTS = 100

router = APIRouter(tags=["messages"], route_class=IdempotentRoute)
Sender = Annotated[Caller, Depends(require("send"))]


class _Several(msgspec.Struct):
    """Whether the body is a batch's."""

    recipients: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@router.post(
    "/v1/messages/explain",
    summary="Explain a message",
    responses=openapi.answers(200, "Explanations", 413),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"anyOf": [openapi.schema("PostMessage"), openapi.schema("PostBatch")]}
                }
            },
        }
    },
)
async def explain(request: Request, caller: Sender) -> Response:
    """What the message (or each recipient of a batch, at most 100) would get if it were accepted now: checks, route,
    gateway, sender, encoding, segments, price; and if it is held, until when. Nothing is sent and nothing counted.
    """
    context = context_of(request)
    decoding.demand_media(request.headers.get("content-type"))
    raw = await request.body()
    several = decoding.decode(raw, msgspec.json.Decoder(_Several).decode).recipients is not msgspec.UNSET
    posted: wire.PostMessage | wire.PostBatch
    if several:  # noqa: SIM108  as one expression it has no type
        posted = decoding.decode(raw, wire.decode_batch)
    else:
        posted = decoding.decode(raw, wire.decode_message)
    if isinstance(posted, wire.PostBatch) and not 1 <= len(posted.recipients) <= MAX_RECIPIENTS:
        raise field_problem("/recipients", "too_many_recipients", f"1 to {MAX_RECIPIENTS} can be explained")
    now_s = context.clock()
    stored = await posting.template_of(posted.template, caller, context)
    terms = await posting.with_pool(terms_of(posted, caller, stored, now_s), context)
    tenant = await context.references.ground(caller)
    drafting = Drafting(terms, caller.hash_key, await context.references.regions(), tenant, None)
    parcels, rejected = _parcels(posted, terms, drafting, now_s)
    explanations = await _explained(context, tenant.packs, parcels, now_s)
    return json(wire.Explanations(explanations, rejected, drafting.warnings))


def _parcels(
    posted: wire.PostMessage | wire.PostBatch, terms: Terms, drafting: Drafting, now_s: float
) -> tuple[list[Parcel], list[wire.Rejection]]:
    """What would be accepted, a message a parcel, and who would not be."""
    if isinstance(posted, wire.PostMessage):
        people = [wire.Recipient(posted.to, posted.variables, posted.client_reference)]
    else:
        people = posted.recipients
    parcels: list[Parcel] = []
    for index, one in enumerate(people):
        try:
            place, entry = drafting.entry(one.to, one.variables, one.client_reference)
        except Refused as refused:
            if isinstance(posted, wire.PostMessage):
                raise refused_problem(refused) from None
            drafting.reject(index, "/recipients", refused)
            continue
        pack = pack_of(terms, None, place, [entry])
        parcels.append(Parcel(ids.new_id(now_s), ids.new_id(now_s), 1, 1, terms.priority, terms.due_at, pack))
    return parcels, drafting.rejected


async def _explained(
    context: Context, packs: Packs, parcels: Sequence[Parcel], now_s: float
) -> list[wire.Explanation]:
    explainer = context.explainer
    desk, configured = await explainer.refresh(packs)
    if not context.intake.offers.attached:
        raise Problem(503, "unavailable", "the copy of the rules is being built: ask again")
    decisions = [desk.first(parcel, max(now_s, parcel.due_at)) for parcel in parcels]
    try:
        await ask(desk, context.queue, decisions, now_s, only_ask=True)
        standing = await explainer.standing(context.queue)
        rates = _rates(configured)
        names = sorted({name for p in parcels for name in _throttles(p.pack, None) if name in rates})
        names += [name for name in rates if name.startswith("gateway:")]
        used = await throttles.used(context.queue, names)
    except (EpochLost, Unavailable):
        raise Problem(503, "unavailable", "Redis can't be asked now") from None
    paused = {region.code for region in configured.regions if region.paused}
    return [
        _one(
            explainer, decision, standing, paused, {name: (rates[name], used[name]) for name in names}, now_s
        )
        for decision in decisions
    ]


def _rates(configured: config.Config) -> dict[str, int]:
    rates = {f"region:{r.code}": r.rate for r in configured.regions}
    rates |= {f"gateway:{g.name}": g.rate for g in configured.gateways}
    rates |= {f"sender:{s.tenant_id}:{s.address}": s.rate for s in configured.senders}
    return {name: rate for name, rate in rates.items() if rate}


def _throttles(pack: Pack, gateway: str | None) -> list[str]:
    """The names of what may slow a message down."""
    found = [f"region:{pack.region}", f"sender:{pack.tenant_id}:{pack.sender}"]
    return found if gateway is None else [*found, f"gateway:{gateway}"]


def _one(
    explainer: Explainer,
    decision: Decision,
    standing: Standing,
    paused: set[str],
    rates: Mapping[str, tuple[int, int]],
    now_s: float,
) -> wire.Explanation:
    pack, entry = decision.parcel.pack, decision.parcel.pack.entries[0]
    plan = explainer.table.plan(asked_of(pack))
    choice = plan.choice(entry.to, entry.recipient)
    health = {name: standing.health(name, pack.region) for name in choice.gateways}
    ranked = routing.ranked(choice.gateways, health)
    usable = ranked.usable[0] if ranked.usable else None
    likely = usable or (choice.gateways[0] if choice.gateways else None)
    verdict, reason, until = _verdict(decision, choice, ranked, paused, health, now_s)
    words, cut = _content(explainer, pack, entry, likely)
    segments = len(cut.parts) if cut is not None else entry.segments
    if verdict == "send" and cut is None:
        verdict, reason = "stop", "unrenderable"
    elif verdict == "send" and 0 < pack.max_segments < segments:
        verdict, reason = "stop", TOO_MANY_SEGMENTS
    steps = [*_steps(decision, entry)]
    if verdict == "send" and likely is not None:
        passed = {name: one for name, one in health.items() if one != "well"}
        rule, why = routing.described(explainer.table, choice, likely, pack, entry.to, passed)
        steps.append(("route", rule, str(explainer.version), why))
    throttled = [(name, *rates[name]) for name in _throttles(pack, likely) if name in rates]
    return wire.Explanation(
        to=masked(entry.to),
        region=pack.region,
        country=pack.country,
        verdict=verdict,
        reason=reason,
        until=None if until is None else datetime.fromtimestamp(until, UTC),
        sender=pack.sender,
        gateway=likely,
        route=_route(explainer, choice, pack.tenant_id),
        gateways=[_option(explainer, name, health[name], pack, entry, segments) for name in choice.gateways],
        encoding=None if cut is None else cut.encoding,
        segments=segments,
        text=words,
        price=None if likely is None else _price(explainer, likely, pack, entry, segments),
        checks=[wire.ExplainedCheck(*step) for step in steps],
        throttles=[
            wire.ExplainedThrottle(name.partition(":")[0], rate, used) for name, rate, used in throttled
        ],
    )


def _verdict(
    decision: Decision,
    choice: Choice,
    ranked: Ranked,
    paused: set[str],
    health: Mapping[str, Health],
    now_s: float,
) -> tuple[Literal["send", "hold", "stop"], str | None, float | None]:
    """What happens, why, and when it is looked at again."""
    parcel = decision.parcel
    if decision.stops:
        _, _, reason = decision.stops[0]
        return "stop", reason, None
    if decision.waits:
        return "hold", decision.waits[0].reason, decision.waits[0].until
    if parcel.due_at > now_s:
        return "hold", "scheduled", parcel.due_at
    if parcel.pack.region in paused:
        return "hold", "region_paused", None
    if not choice.gateways:
        return "hold", "no_route", None
    if not ranked.usable:
        up = any(one != "down" for one in health.values())
        return "hold", "gateway_failing" if up else "no_gateway", None
    return "send", None, None


def _steps(decision: Decision, entry: Entry) -> Sequence[Step]:
    return next((trace for indexes, trace, _ in decision.traces if entry.index in indexes), ())


def _content(explainer: Explainer, pack: Pack, entry: Entry, gateway: str | None) -> tuple[str, Any]:
    coding = explainer.coding(gateway, shifted=pack.shift_tables)
    try:
        return content(template.parse(pack.body), entry, coding)
    except (KeyError, ValueError):
        return "", None


def _route(explainer: Explainer, choice: Choice, tenant_id: int) -> wire.ExplainedRoute | None:
    """The position is not the table's, which would tell of other tenants' routes."""
    own = [route for route in explainer.table.routes if route.tenant_id in (None, tenant_id)]
    position, found = next(((n, r) for n, r in enumerate(own, 1) if r.id == choice.route), (0, None))
    if found is None:
        return None
    category: Any = None if found.category is None else Category(found.category).name
    return wire.ExplainedRoute(found.id, position, found.to, category, found.sender, found.strategy)


def _option(
    explainer: Explainer, name: str, health: Health, pack: Pack, entry: Entry, segments: int
) -> wire.ExplainedGateway:
    return wire.ExplainedGateway(name, health, _price(explainer, name, pack, entry, segments))


def _price(
    explainer: Explainer, name: str, pack: Pack, entry: Entry, segments: int
) -> wire.ExplainedPrice | None:
    found = explainer.table.price(name, entry.to, pack.region, pack.country)
    if found is None:
        return None
    return wire.ExplainedPrice(f"{found.amount * segments:f}", f"{found.amount:f}", found.currency, found.per)
