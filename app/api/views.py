"""Stored things as the wire shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from app.api import wire
from app.domain import ids
from app.domain.message import Category, State
from app.domain.template import parse
from app.store import batches, messages
from app.store.batches import BatchState


def moment(instant_s: float | None) -> datetime | None:
    """Unix seconds as a time."""
    return None if instant_s is None else datetime.fromtimestamp(instant_s, UTC)


def summary(
    message: messages.Stored, standing: messages.Standing, gateways: dict[int, str]
) -> dict[str, object]:
    """The fields of a MessageSummary."""
    pack, entry = message.pack, message.entry
    gateway_id, gateway_message_id = _last_gateway(standing)
    return {
        "id": ids.text(message.id),
        "batch_id": ids.text(pack.batch_id) if pack.batch_id else None,
        "to": entry.to,
        "sender": pack.sender,
        "category": Category(pack.category).name,
        "state": standing.state.name,
        "reason": standing.reason,
        "carrier_status": standing.raw or None,
        "until": standing.until,
        "segments": segments_of(message, standing),
        "gateway": gateways.get(gateway_id) if gateway_id is not None else None,
        "gateway_message_id": gateway_message_id,
        "region": pack.region,
        "country": pack.country,
        "client_reference": entry.reference,
        "template": pack.template,
        "test": pack.test,
        "created_at": moment(ids.created_at(message.id)),
        "changed_at": standing.at,
        "expires_at": moment(pack.expires_at),
    }


def segments_of(message: messages.Stored, standing: messages.Standing) -> int:
    """As the last gateway that answered had cut the text; before that, as it was counted at acceptance."""
    answered = (one.outcomes[0].segments for one in reversed(standing.attempts) if one.outcomes)
    return next(answered, message.entry.segments)


def _last_gateway(standing: messages.Standing) -> tuple[int | None, str | None]:
    """The gateway of the newest hand-over, and its id of the first segment that it took."""
    for attempt in reversed(standing.attempts):
        if attempt.kind == messages.HANDED_OVER:
            named = (one.gateway_message_id for one in attempt.outcomes if one.gateway_message_id)
            return attempt.gateway_id, next(named, None)
    return None, None


def body_of(message: messages.Stored) -> str:
    """The text as it is sent."""
    entry, pack = message.entry, message.pack
    try:
        return parse(entry.body if entry.body is not None else pack.body).render(entry.variables)
    except (KeyError, ValueError):  # erased
        return ""


def message_view(
    message: messages.Stored,
    standing: messages.Standing,
    gateways: dict[int, str],
    trace: list[messages.Check],
    segment_states: dict[int, tuple[State, str | None]],
    recall: str | None,
) -> wire.Message:
    """A message with everything."""
    extra = message.entry.extra or {}
    return wire.Message(
        **summary(message, standing, gateways),  # type: ignore[arg-type]
        body=body_of(message),
        replaced=replaced(extra.get("replaced")),
        metadata=extra.get("metadata"),
        callback_url=extra.get("callback_url"),
        trace=[
            wire.TraceLine(t.check, t.rule, t.version, t.verdict, t.at, t.attempt, t.until) for t in trace
        ],
        attempts=[_attempt(one, gateways) for one in standing.attempts],
        segment_states=[
            wire.SegmentView(segment + 1, state.name, raw)  # type: ignore[arg-type]
            for segment, (state, raw) in sorted(segment_states.items())
        ],
        recall=recall,  # type: ignore[arg-type]
    )


def replaced(found: Sequence[Any] | None) -> list[wire.ReplacedView]:
    """What smart encoding replaced, as it is stored or as it was found."""
    return [wire.ReplacedView(*msgspec.to_builtins(one)) for one in found or ()]


def _attempt(attempt: messages.Attempt, gateways: dict[int, str]) -> wire.AttemptView:
    kind = "submitted" if attempt.kind == messages.HANDED_OVER else State(attempt.kind).name
    return wire.AttemptView(
        attempt.attempt,
        kind,
        gateways.get(attempt.gateway_id) if attempt.gateway_id is not None else None,
        attempt.at,
        [
            wire.SegmentOutcome(
                one.segment + 1,
                messages.OUTCOMES[one.kind],  # type: ignore[arg-type]
                one.gateway_message_id,
                one.reason,
                one.raw or None,
                one.at,
            )
            for one in attempt.outcomes
        ],
        attempt.outcomes[0].segments if attempt.outcomes else None,
    )


def batch_view(
    batch: batches.Batch, counts: batches.Counts, regions: Mapping[str, batches.Counts] | None = None
) -> wire.Batch:
    """A batch with its counts, by region too where they are given."""
    shown = _shown(batch, counts)
    books = _accounting(batch, counts)
    final, complete = books.final, batch.total and not books.open and not books.difference
    state: str = batch.state.name
    if batch.state in (BatchState.running, BatchState.paused) and complete:
        state = "completed"
    upload = batch.upload
    return wire.Batch(
        id=str(batch.id),
        state=state,  # type: ignore[arg-type]
        name=batch.name,
        campaign=batch.campaign,
        category=Category(batch.category).name,  # type: ignore[arg-type]
        sender=batch.sender,
        body=batch.body,
        template=batch.template,
        priority=batch.priority,
        total=batch.total,
        rejected=batch.rejected,
        counts=shown,
        accounting=books,
        progress=round(final / batch.total, 4) if batch.total else 0.0,
        scheduled_at=batch.scheduled_at,
        expires_at=batch.expires_at,
        metadata=batch.settings.get("metadata"),
        callback_url=batch.settings.get("callback_url"),
        retry_unknown=bool(batch.settings.get("retry_unknown")),
        smart_encoding=(
            wire.SmartBatchView(batch.body, replaced(batch.settings["smart_encoding"]))
            if "smart_encoding" in batch.settings
            else None
        ),
        shift_tables=bool(batch.settings.get("shift_tables")),
        max_segments=batch.settings.get("max_segments"),
        test=bool(batch.settings.get("test")),
        upload=wire.UploadProgress(upload["rows"], batch.sealed_at is not None) if upload else None,
        created_at=batch.created_at,
        sealed_at=batch.sealed_at,
        rejections_url=f"/v1/batches/{batch.id}/rejections",
        regions=None if regions is None else {name: _present(batch, one) for name, one in regions.items()},
    )


def _present(batch: batches.Batch, counts: batches.Counts) -> dict[str, int]:
    """The states in which there is anything."""
    shown = msgspec.structs.asdict(_shown(batch, counts))
    return {state: n for state, n in shown.items() if n}


def _accounting(batch: batches.Batch, counts: batches.Counts) -> wire.Accounting:
    """`difference` is what the states don't account for, or, if that is more, what they count below nothing: a
    move that was counted twice takes one state up and another down, and would hide in the sum."""
    final = sum(n for state, n in counts.by_state.items() if state.final)
    open_ = sum(n for state, n in counts.by_state.items() if not state.final)
    below = -sum(n for n in counts.by_state.values() if n < 0)
    missing = batch.total - final - open_
    return wire.Accounting(batch.total, final, open_, missing if abs(missing) >= below else below)


def _shown(batch: batches.Batch, counts: batches.Counts) -> wire.StateCounts:
    """Counts by the API's states: what is queued by the tallies is split by its parcels."""
    shown = wire.StateCounts(**{state.name: max(0, n) for state, n in counts.by_state.items()})
    queued = shown.queued
    if batch.state is BatchState.loading:
        shown.accepted, shown.queued = queued, 0
    else:
        shown.deferred = min(queued, counts.deferred)
        shown.queued = queued - shown.deferred
    return shown
