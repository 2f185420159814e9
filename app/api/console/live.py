"""What the live page shows, as one JSON document.

Guarantees: a key that doesn't operate gets its own tenant's figures and batches, nothing else; no text, number or
secret is in the document; however many pages are open, a process reads a tenant's part, and the operators' part,
at most once a FRESH_S, and one that takes long less often.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import asyncpg

from app.api.console.sessions import Session
from app.api.context import Context
from app.api.views import batch_view
from app.domain.message import Category, State
from app.queue import lanes, status
from app.queue.connection import Unavailable
from app.store import batches, stats, sweeps
from app.store.batches import BatchState

FRESH_S = 0.7  # the page asks once a second
REST = 10  # a reading that took t is not repeated for REST * t
SPAN_H = 24
BATCHES = 15
MAX_TENANTS = 256

T = TypeVar("T")
Document = dict[str, Any]


class Recent(Generic[T]):
    """The last reading, for as long as it is fresh; one reading at a time. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reading = asyncio.Lock()
        self._value: T | None = None
        self._fresh_until = float("-inf")

    async def get(self, read: Callable[[], Awaitable[T]]) -> T:
        """The last value, or what `read` gives now."""
        async with self._reading:
            if self._value is None or self._clock() >= self._fresh_until:
                began = self._clock()
                self._value = await read()
                ended = self._clock()
                self._fresh_until = ended + max(FRESH_S, REST * (ended - began))
            return self._value


class Live:
    """One a process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._tenants: dict[int, Recent[Document]] = {}
        self._operators: Recent[Document] = Recent()

    async def document(self, session: Session) -> Document:
        """What that session may see."""
        tenant_id = session.caller.tenant_id
        if tenant_id not in self._tenants and len(self._tenants) >= MAX_TENANTS:
            self._tenants.clear()
        recent = self._tenants.setdefault(tenant_id, Recent())
        document = {"now": self._context.clock(), **await recent.get(lambda: self._tenant(tenant_id))}
        if session.operator:
            document["operations"] = await self._operators.get(self._operations)
        return document

    # -- a tenant's own

    async def _tenant(self, tenant_id: int) -> Document:
        now_s = self._context.clock()
        hour = datetime.fromtimestamp(now_s, UTC).replace(minute=0, second=0, microsecond=0)
        since = hour - timedelta(hours=SPAN_H - 1)
        async with self._context.database.driver() as driver:
            entered = await stats.entered(driver, tenant_id, since)
            read_at = self._context.clock()
            page = await _listed(driver, tenant_id)
            counts = await batches.counts(driver, [one.id for one in page], now_s)
        shown = [_batch(one, counts[one.id]) for one in page]
        return {"read_at": read_at, "since": since.timestamp(), "totals": totals(entered), "batches": shown}

    # -- what belongs to no tenant

    async def _operations(self) -> Document:
        now = datetime.fromtimestamp(self._context.clock(), UTC)
        async with self._context.database.driver() as driver:
            stored_lanes = await stats.lanes(driver, now)
            dispatchers = await stats.dispatchers(driver)
            gateways = await stats.gateways(driver)
            async with driver.transaction(isolation="repeatable_read", readonly=True):
                accounting = await sweeps.accounting(driver)  # in one snapshot: its sides move all the time
        depths: dict[str, tuple[int, int, int]] = {}
        shown: dict[int, status.Status] = {}
        redis_up = True
        try:
            queue = self._context.queue
            shown = await status.shown(queue, [one.lease for one in dispatchers]) if dispatchers else {}
            names = await lanes.lanes(queue)
            depths = await lanes.depths(queue, names) if names else {}
        except (OSError, Unavailable):
            redis_up = False
        return {
            "redis_up": redis_up,
            "lanes": _lanes(stored_lanes, depths),
            "dispatchers": [_dispatcher(one, shown.get(one.lease)) for one in dispatchers],
            "gateways": [_gateway(*one, list(shown.values())) for one in gateways],
            "accounting": _accounting(accounting),
        }


async def _listed(driver: asyncpg.Connection, tenant_id: int) -> list[batches.Batch]:
    """The newest batches, and below them older ones that wait for somebody: paused, or not whole."""
    newest = await batches.page(driver, tenant_id, before=None, states=None, limit=BATCHES)
    if len(newest) < BATCHES:
        return newest
    waiting = (BatchState.paused, BatchState.loading)
    oldest = newest[-1].id.bytes
    return newest + await batches.page(driver, tenant_id, before=oldest, states=waiting, limit=BATCHES)


def totals(entered: Any) -> Document:
    """Accepted, handed over, delivered ... and the two shares, None without anything handed over.

    `submitted` counts acknowledgements of the carrier, `unknown` hand-overs without a clear answer.
    """
    submitted, unknown = entered.get(State.submitted, 0), entered.get(State.unknown, 0)
    delivered = entered.get(State.delivered, 0)
    handed_over = submitted + unknown
    return {
        "accepted": entered.get(State.accepted, 0),
        "submitted": submitted,
        "unknown": unknown,
        "final": {state.name: entered[state] for state in State if state.final and entered.get(state)},
        "delivered": delivered,
        "delivery_rate": delivered / submitted if submitted else None,
        "unknown_share": unknown / handed_over if handed_over else None,
    }


def _batch(batch: batches.Batch, counts: batches.Counts) -> Document:
    """A batch without its text."""
    view = batch_view(batch, counts)
    by_state = {
        name: getattr(view.counts, name)
        for name in view.counts.__struct_fields__
        if getattr(view.counts, name)
    }
    return {
        "id": view.id,
        "name": view.name,
        "campaign": view.campaign,
        "category": view.category,
        "state": view.state,
        "total": view.total,
        "rejected": view.rejected,
        "progress": view.progress,
        "counts": by_state,
        "difference": view.accounting.difference,
        "created_at": view.created_at,
    }


def _lanes(stored: list[stats.Lane], depths: dict[str, tuple[int, int, int]]) -> list[Document]:
    """PostgreSQL's open messages by lane, with Redis' parcels beside them; idle lanes are left out."""
    found = {lane.name: lane for lane in stored}
    names = sorted(found.keys() | {name for name, (total, _, _) in depths.items() if total})
    out = []
    for name in names:
        region, _, number = name.rpartition(":")
        lane = found.get(name)
        in_redis, _, claimed = depths.get(name, (0, 0, 0))
        waiting = lane.messages - lane.deferred if lane else 0
        out.append(
            {
                "region": region,
                "category": Category(int(number)).name,
                "waiting": waiting,
                "deferred": lane.deferred if lane else 0,
                "in_flight": lane.in_flight if lane else 0,
                "next_at": lane.next_at if lane else None,
                "reason": lane.reason if lane else None,
                "parcels": lane.parcels if lane else 0,
                "redis_parcels": in_redis,
                "claimed": claimed,
            }
        )
    return out


def _dispatcher(lease: stats.Dispatcher, shown: status.Status | None) -> Document:
    return {
        "lease": lease.lease,
        "name": lease.name,
        "started_at": lease.started_at,
        "silent_s": round(max(0.0, lease.silent_s), 1),
        "attached": shown.attached if shown else None,
        "parcels": shown.parcels if shown else None,
    }


def _gateway(
    name: str, url: str, enabled: bool, rate: int | None, dispatchers: list[status.Status]
) -> Document:
    """A gateway with the binds that its dispatchers show. Of its URL only the protocol and the host."""
    parts = urlsplit(url)
    binds = [
        {
            "lease": dispatcher.lease,
            "slot": bind.slot,
            "state": bind.state,
            "window": bind.window,
            "in_flight": bind.in_flight,
            "since": bind.since,
            "error": bind.error,
        }
        for dispatcher in dispatchers
        for bind in dispatcher.binds
        if bind.gateway == name
    ]
    return {
        "name": name,
        "kind": parts.scheme,
        "host": parts.hostname or "",
        "enabled": enabled,
        "rate": rate,
        "binds": binds,
    }


def _accounting(sides: dict[str, float]) -> Document:
    """Promise 1. `difference`: what waits by the transitions' deltas against what waits by the parcels."""
    return {
        "accepted": int(sides["accepted"]),
        "final": int(sides["final"]),
        "open": int(sides["open_by_tallies"]),
        "queued": int(sides["queued_by_parcels"]),
        "difference": int(sides["queued_by_tallies"] - sides["queued_by_parcels"]),
    }
