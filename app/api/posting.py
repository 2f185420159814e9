"""POST /v1/messages and POST /v1/batches: the hot routes, without a framework around them.

Guarantees: a 202 says that everything is committed; the work of a large batch is cut into stretches, so
that other requests have their turn within a few milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from app.api import decoding, limits, views, wire
from app.api.auth import Caller
from app.api.context import Context
from app.api.drafting import (
    Drafting,
    Refused,
    StoredTemplate,
    Terms,
    extra_of,
    pack_of,
    refused_problem,
    terms_of,
)
from app.api.entrance import Answer, Request
from app.api.ground import Warned
from app.api.idempotency import REPLAYED, checked_key, judged, request_hash
from app.api.problems import FieldError, Problem, field_problem
from app.domain import ids
from app.domain.routing import POOL_MARK
from app.domain.template import parse as parse_template
from app.intake import Full, Keyed, Single
from app.store import idempotency
from app.store.batches import BatchState, NewBatch, RejectionRow
from app.store.idempotency import Kept, Slot, StoredAnswer, encode_answer, slot_of
from app.store.intake import Draft

MESSAGES = "/v1/messages"
BATCHES = "/v1/batches"
_ONCE = {b'"to"': 1, b'"body"': 1, b'"category"': 1, b'"sender"': 1, b'"template"': 1, b'"variables"': 1}
DUE_STEP_S = 0.1  # messages due at once share a due time, so that they can share a pack


async def post_message(request: Request, context: Context) -> Answer:
    """One message."""
    caller = request.caller
    caller.demand("send")
    request.demand_json()
    key = checked_key(header_text(request.headers.idempotency_key))
    raw = await request.body(limits.MAX_MESSAGE_BYTES)
    slot = None if key is None else slot_of(caller.tenant_id, caller.hash_key, f"POST {MESSAGES}", key)
    try:
        single, warnings, smart_asked = await _single(raw, caller, context)
    except Problem as problem:
        if slot is not None and (kept := await accepted_before(slot, request_hash(raw), context)):
            return _replayed(kept, kept.request_hash, context)
        context.metrics.rejected[problem.code] += 1
        raise
    entry, due_at, now_s = single.pack.entries[0], single.due_at, context.clock()
    state: wire.OpenState = "deferred" if due_at > now_s else "queued"
    shown = smart_view(single) if smart_asked else None
    if slot is not None:
        single.keyed = Keyed(
            slot,
            request_hash(raw),
            202,
            partial(_stored_posted, state=state, segments=entry.segments, warnings=warnings, shown=shown),
        )
    try:
        found = await context.intake.post(single)
    except Full:
        raise Problem(503, "overloaded", "too many messages are waiting to be accepted") from None
    if isinstance(found, Kept):
        assert single.keyed is not None
        return _replayed(found, single.keyed.request_hash, context)
    context.metrics.accepted[(single.pack.region, single.pack.category)] += 1
    return Answer(202, _posted(found, state, entry.segments, warnings, shown))


async def _single(raw: bytes, caller: Caller, context: Context) -> tuple[Single, list[Warned], bool]:
    """The message, checked, what is to be warned of, and whether smart encoding was asked for. Raises Problem."""
    posted = decoding.decode(raw, wire.decode_message)
    decoding.refuse_doubles(raw, _ONCE)
    now_s = context.clock() // DUE_STEP_S * DUE_STEP_S
    template = await template_of(posted.template, caller, context)
    terms = await with_pool(terms_of(posted, caller, template, now_s), context)
    references = context.references
    tenant = await references.ground(caller)
    drafting = Drafting(terms, caller.hash_key, await references.regions(), tenant, None)
    try:
        place, entry = drafting.entry(
            posted.to, posted.variables, posted.client_reference, extra_of(posted, caller), posted.timezone
        )
    except Refused as refused:
        raise refused_problem(refused) from None
    single = Single(pack_of(terms, None, place, [entry]), terms.due_at, terms.priority)
    return single, drafting.warnings, terms.smart is not None


def smart_view(single: Single) -> wire.SmartView:
    """The text that goes, and what smart encoding replaced in it."""
    entry = single.pack.entries[0]
    body = parse_template(single.pack.body).render(entry.variables)
    return wire.SmartView(body, views.replaced((entry.extra or {}).get("replaced")))


def _posted(
    message_id: bytes,
    state: wire.OpenState,
    segments: int,
    warnings: list[Warned],
    shown: wire.SmartView | None,
) -> bytes:
    name = ids.text(message_id)
    return wire.encode(wire.Posted(name, state, segments, f"{MESSAGES}/{name}", warnings, shown))


def _stored_posted(
    message_id: bytes,
    state: wire.OpenState,
    segments: int,
    warnings: list[Warned],
    shown: wire.SmartView | None,
) -> bytes:
    return encode_answer(StoredAnswer(_posted(message_id, state, segments, warnings, shown), {}))


class _Batch(NamedTuple):
    """A batch, checked: its row, its messages, and the rest of what its answer says."""

    batch: NewBatch
    drafting: Drafting
    rejected: list[wire.Rejection]
    terms: Terms


async def post_batch(request: Request, context: Context) -> Answer:
    """One text to many recipients."""
    caller = request.caller
    caller.demand("send")
    request.demand_json()
    key = checked_key(header_text(request.headers.idempotency_key))
    raw = await request.body(limits.MAX_BATCH_BYTES)
    slot = None if key is None else slot_of(caller.tenant_id, caller.hash_key, f"POST {BATCHES}", key)
    now_s = context.clock()
    try:
        batch, drafting, rejected, terms = await _batch(raw, caller, context, now_s)
    except Problem:
        if slot is not None and (kept := await accepted_before(slot, request_hash(raw), context)):
            return _replayed(kept, kept.request_hash, context)
        raise
    body = batch_answer(batch.id, batch.total, batch.rejected, rejected, drafting.warnings, terms)
    keyed = None
    if slot is not None:
        stored = encode_answer(StoredAnswer(body, {}))
        keyed = Keyed(slot, request_hash(raw), 202, lambda _: stored)
    drafts = list(drafting.drafts(now_s))
    found = await context.intake.accept_batch(batch, drafts, [rejection_row(r) for r in rejected], keyed)
    if found is not None:
        assert keyed is not None
        return _replayed(found, keyed.request_hash, context)
    count_accepted(context, drafts)
    return Answer(202, body)


async def _batch(raw: bytes, caller: Caller, context: Context, now_s: float) -> _Batch:
    """The batch, checked. Raises Problem."""
    posted, undecoded = _decoded(raw)
    decoding.refuse_doubles(raw, _at_most(len(posted.recipients)))
    if not posted.recipients and not undecoded:
        raise field_problem("/recipients", "too_short", "a batch has at least one recipient")
    template = await template_of(posted.template, caller, context)
    terms = await with_pool(terms_of(posted, caller, template, now_s), context)
    extra = extra_of(posted, caller)
    batch_id = ids.new_id(now_s)
    references = context.references
    tenant = await references.ground(caller)
    drafting = Drafting(terms, caller.hash_key, await references.regions(), tenant, batch_id)
    await _add_all(drafting, posted.recipients, undecoded)
    rejected = sorted(drafting.rejected, key=lambda one: one.index)
    count_rejected(context, rejected)
    if not drafting.accepted:
        errors = [FieldError(r.pointer, r.code, r.detail, r.index, r.reason) for r in rejected]
        raise Problem(422, "no_valid_recipients", "no recipient can be accepted", errors)
    batch = new_batch(posted, terms, batch_id, now_s, extra)
    batch = msgspec.structs.replace(batch, total=drafting.accepted, rejected=len(rejected))
    return _Batch(batch, drafting, rejected, terms)


def _at_most(recipients: int) -> dict[bytes, int]:
    """How often a batch's keys may be found."""
    return {**_ONCE, b'"to"': recipients, b'"variables"': recipients, b'"recipients"': 1}


Undecoded = dict[int, FieldError]


def _decoded(raw: bytes) -> tuple[wire.PostBatch, Undecoded]:
    """The batch, and its recipients that aren't recipients, by index. These cost a second, slower pass."""
    try:
        posted = decoding.decode(raw, wire.decode_batch)
    except Problem as problem:
        errors = problem.errors
        first = errors[0] if errors else None
        if not isinstance(first, FieldError) or not first.pointer.startswith("/recipients/"):
            raise
        return _decoded_one_by_one(raw)
    _demand_count(len(posted.recipients))
    return posted, {}


def _decoded_one_by_one(raw: bytes) -> tuple[wire.PostBatch, Undecoded]:
    item: Callable[[msgspec.Raw], bytes] = bytes
    try:
        posted = decoding.decode(raw, wire.decode_batch_raw)
    except Problem as problem:
        if problem.code != "lone_surrogate":
            raise
        posted = decoding.decode(decoding.escaped(raw, "recipients"), wire.decode_batch_raw)
        item = decoding.unescaped
    _demand_count(len(posted.recipients))
    recipients: list[wire.Recipient] = []
    undecoded: Undecoded = {}
    nothing = wire.Recipient("")
    for index, one in enumerate(posted.recipients):
        try:
            recipients.append(decoding.decode(item(one), wire.decode_recipient))
        except Problem as problem:
            errors = problem.errors
            fault = errors[0] if errors else FieldError("", problem.code, problem.detail)
            assert isinstance(fault, FieldError)
            undecoded[index] = fault
            recipients.append(nothing)
    fields = {name: getattr(posted, name) for name in wire.BatchTerms.__struct_fields__}
    return wire.PostBatch(recipients=recipients, **fields), undecoded


def _demand_count(count: int) -> None:
    if count > limits.MAX_RECIPIENTS:
        raise field_problem(
            "/recipients", "too_many_recipients", f"a batch has at most {limits.MAX_RECIPIENTS} recipients"
        )


async def _add_all(drafting: Drafting, recipients: Sequence[wire.Recipient], undecoded: Undecoded) -> None:
    step = limits.ROWS_A_STRETCH
    for start in range(0, len(recipients), step):
        add(drafting, recipients[start : start + step], start, undecoded, "/recipients")
        await asyncio.sleep(0)


def add(
    drafting: Drafting, recipients: Sequence[wire.Recipient], first: int, undecoded: Undecoded, base: str
) -> None:
    """Draft a stretch of recipients; those that couldn't be decoded are rejected in their place."""
    if not undecoded:
        drafting.add(recipients, first, base)
        return
    for index, recipient in enumerate(recipients, first):
        fault = undecoded.get(index)
        if fault is None:
            drafting.add((recipient,), index, base)
        else:
            drafting.reject(index, base, Refused(fault.pointer, fault.code, fault.detail))


def new_batch(
    posted: wire.BatchTerms, terms: Terms, batch_id: bytes, now_s: float, extra: dict[str, object] | None
) -> NewBatch:
    """The batch's row, running and empty."""
    settings = dict(extra or {})
    if terms.retry_unknown:
        settings["retry_unknown"] = True
    if terms.test:
        settings["test"] = True
    if terms.smart is not None:
        settings["smart_encoding"] = msgspec.to_builtins(terms.smart.replaced)
    if terms.shift_tables:
        settings["shift_tables"] = True
    if posted.max_segments is not None:
        settings["max_segments"] = posted.max_segments
    return NewBatch(
        id=batch_id,
        tenant_id=terms.tenant_id,
        name=posted.name,
        campaign=posted.campaign,
        category=terms.category,
        sender=terms.sender,
        body=terms.body,
        template=terms.template,
        priority=terms.priority,
        state=BatchState.running,
        total=0,
        rejected=0,
        scheduled_at=terms.scheduled_at,
        expires_at=terms.expires_at,
        settings=settings,
        created_at=now_s,
    )


def batch_answer(
    batch_id: bytes,
    accepted: int,
    rejected_count: int,
    rejected: Sequence[wire.Rejection],
    warnings: list[Warned],
    terms: Terms,
) -> bytes:
    """The 202 of a batch."""
    asked = terms.smart
    shown = None if asked is None else wire.SmartBatchView(terms.body, views.replaced(asked.replaced))
    name = ids.text(batch_id)
    url = f"{BATCHES}/{name}"
    return wire.encode(
        wire.PostedBatch(
            id=name,
            state="running",
            accepted=accepted,
            rejected=list(rejected),
            rejected_count=rejected_count,
            url=url,
            rejections_url=f"{url}/rejections",
            warnings=warnings,
            smart_encoding=shown,
        )
    )


def rejection_row(rejected: wire.Rejection) -> RejectionRow:
    """As it is stored."""
    return RejectionRow(rejected.index, rejected.pointer, rejected.code, rejected.detail)


def count_accepted(context: Context, drafts: Sequence[Draft]) -> None:
    """Into the metrics."""
    for draft in drafts:
        context.metrics.accepted[(draft.pack.region, draft.pack.category)] += len(draft.pack.entries)


def count_rejected(context: Context, rejected: Sequence[wire.Rejection]) -> None:
    """Into the metrics."""
    for one in rejected:
        context.metrics.rejected[one.code] += 1


async def template_of(label: str | None, caller: Caller, context: Context) -> StoredTemplate | None:
    """The template that a request names."""
    return None if label is None else await context.references.template(caller.tenant_id, label)


async def with_pool(terms: Terms, context: Context) -> Terms:
    """The terms with the pool that their sender names. Raises Problem (422)."""
    if terms.sender.startswith(POOL_MARK):
        terms.pool = await context.references.pool(terms.tenant_id, terms.sender.removeprefix(POOL_MARK))
    return terms


async def accepted_before(slot: Slot, wanted: bytes, context: Context) -> Kept | None:
    """The answer to this very request, when it came before and was accepted. Asked where it would now be refused:
    its time has passed since, its template is archived, a country's rules have changed."""
    async with context.database.driver() as driver:
        kept = await idempotency.kept(driver, slot)
    if kept is None or kept.status is None or kept.request_hash != wanted:
        return None
    return kept


def _replayed(kept: Kept, wanted: bytes, context: Context) -> Answer:
    status, stored = judged(kept, wanted)
    context.metrics.replayed += 1
    return Answer(status, stored.body, {**stored.headers, REPLAYED: "true"})


def header_text(header: bytes | None) -> str | None:
    """A header's value."""
    return None if header is None else header.decode("latin-1")
