"""From outcomes to PostgreSQL: each answer is recorded, each parcel with all answers in is settled.

Guarantees: a flush is one transaction, the next one is what came in while it committed; PostgreSQL knows the
new parcel before Redis forgets the old one; what could not be written is kept and written again, unless
the lease was lost: then the process must end, and its successor reads the journal.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import asyncpg
import msgspec
from asyncpg.pgproto.pgproto import UUID as PgUUID

from app import rules
from app.domain import ids, retry, text
from app.domain.message import State
from app.domain.pack import Entry, Parcel, Rest, narrowed
from app.domain.storable import word
from app.queue import lanes
from app.queue.connection import EpochLost, Queue, Unavailable
from app.store import dispatch
from app.store.engine import UNSTORABLE, Database
from app.store.intake import at
from app.store.parcels import HORIZON_S
from app.store.webhooks import Change, Publisher
from dispatcher.metrics import Metrics
from dispatcher.slots import Slot
from gateways.base import Accepted, Outcome, Rejected, Retry, Submission, Unknown

FLUSH_EVERY_S = 0.01
RETRY_WRITE_S = 0.5
RELEASE_S = 1.0
PLAIN_CHARACTERS = 255
KINDS = {"accepted": 1, "rejected": 2, "again": 3, "unknown": 4}
ACCEPTED = KINDS["accepted"]
OPTED_OUT = "opted_out"  # the adapters' reason for a recipient who said stop to the carrier
_SUBMITTING = int(State.submitting)

log = logging.getLogger("volley.dispatcher")


class Work:
    """A parcel under way. `left` counts the segments without an outcome."""

    __slots__ = (
        "again",
        "attempt",
        "base",
        "gateway_id",
        "gateway_name",
        "jitter",
        "left",
        "multi",
        "parcel",
        "submitted",
    )

    def __init__(self, parcel: Parcel, gateway_id: int, gateway_name: str, segments: int) -> None:
        pack = parcel.pack
        self.parcel = parcel
        self.attempt = parcel.attempt
        self.gateway_id = gateway_id
        self.gateway_name = gateway_name
        self.left = segments
        # one for all: what of a parcel goes again goes together, or it would fall apart into parcels of a few
        self.jitter = random.random()  # noqa: S311 - spreads load, guards nothing
        self.base = (pack.tenant_id, pack.batch_id, pack.region, pack.category, gateway_id)
        self.submitted: dispatch.Tally = (*self.base, _SUBMITTING, int(State.submitted))
        self.again: dict[tuple[int, str, dispatch.Tally], list[tuple[Entry, Rest | None]]] = {}
        self.multi: dict[bytes, list[retry.Part | None]] = {}


class Tag(msgspec.Struct, gc=False):
    """What a submission carries through the gateway."""

    work: Work
    entry: Entry
    message_id: bytes
    check: int
    total: int  # segments of the whole text
    join: str  # what ties them together (`app.domain.text.Coding`)
    slot: Slot | None = None  # of a throttled one
    unsent: int = 0  # segments of a throttled one that did not leave


class Recorder:
    """Collects outcomes and flushes them. `on_lost` is called when the lease is gone."""

    def __init__(
        self,
        database: Database,
        queue: Queue,
        lease_id: int,
        metrics: Metrics,
        publisher: Publisher,
        on_lost: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._queue = queue
        self._lease_id = lease_id
        self._metrics = metrics
        self._publisher = publisher
        self._on_lost = on_lost
        self._clock = clock
        self._next = self._empty()
        self._settled: list[Work] = []
        self._blocked: list[tuple[Tag, str]] = []  # refused since they opted out, with the carrier's words
        self._wake = asyncio.Event()
        self._flushed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.under_way: set[bytes] = set()  # parcels that may have been handed over

    @staticmethod
    def _empty() -> dispatch.Record:
        return dispatch.Record([], [], {}, [], [], [], [])

    def start(self) -> asyncio.Task[None]:
        """Begin. The task ends by itself only when it fails; who has it must not go on then."""
        self._task = asyncio.create_task(self._run(), name="recorder")
        return self._task

    async def stop(self) -> None:
        """Flush what is there and end. What Redis does not learn within `RELEASE_S`, the successor tells it."""
        if self._task is not None:
            await self.barrier()
            self._ending = True
            self._wake.set()
            await asyncio.wait([self._task], timeout=RELEASE_S)
            self._task.cancel()

    @property
    def in_flight(self) -> int:
        """Parcels under way."""
        return len(self.under_way)

    async def barrier(self) -> None:
        """Returns when everything reported so far is committed."""
        if self._next.outcomes or self._settled or self._flushing:
            target = self._generation + (2 if self._flushing else 1)
            self._wake.set()
            while self._generation < target and not self._lost:
                self._flushed.clear()
                await self._flushed.wait()

    _ending = False
    _generation = 0
    _flushing = False
    _lost = False

    def begin(self, work: Work) -> None:
        """A parcel is under our lease. One of which nothing was left to send is settled at once."""
        self.under_way.add(work.parcel.id)
        if work.left == 0:
            self._settled.append(work)
            self._wake.set()

    # The hot path: called by gateways with all outcomes of one read.

    def outcomes(self, batch: Sequence[tuple[Submission, int, Outcome]]) -> None:
        now_s = self._clock()
        now = at(now_s)
        seen_s = time.monotonic()
        rows, tallies = self._next.outcomes, self._next.tallies
        for submission, segment, outcome in batch:
            tag: Tag = submission.tag  # type: ignore[assignment]
            work = tag.work
            if tag.slot is not None:
                tag.slot.ended(submission, outcome, seen_s)
            if type(outcome) is Accepted:
                rows.append(
                    (
                        PgUUID(tag.message_id),
                        work.attempt,
                        segment,
                        tag.total,
                        work.gateway_id,
                        ACCEPTED,
                        tag.check,
                        outcome.gateway_message_id,
                        None,
                        None,
                        now,
                    )
                )
                if tag.total == 1 and work.attempt == 1:
                    tallies[work.submitted] = tallies.get(work.submitted, 0) + 1
                else:
                    self._part(submission, segment, outcome, now_s)
            else:
                self._not_accepted(submission, segment, outcome, now_s)
            work.left -= 1
            if work.left == 0:
                self._settled.append(work)
        if self._publisher.followers:
            self._tell(batch)
        self._wake.set()

    def _tell(self, batch: Sequence[tuple[Submission, int, Outcome]]) -> None:
        """Those that want to hear of it: of texts of one segment at the first attempt, of others see `_conclude`."""
        for submission, _, outcome in batch:
            tag: Tag = submission.tag  # type: ignore[assignment]
            work = tag.work
            if type(outcome) is Accepted and tag.total == 1 and work.attempt == 1:
                self._submitted(work, tag.message_id)

    def _submitted(self, work: Work, message_id: bytes) -> None:
        tenant_id = work.parcel.pack.tenant_id
        if tenant_id in self._publisher.followers:
            self._next.changes.append(Change(tenant_id, message_id, State.submitted, None, work.gateway_id))

    def _not_accepted(self, submission: Submission, segment: int, outcome: Outcome, now_s: float) -> None:
        tag: Tag = submission.tag  # type: ignore[assignment]
        work, part = tag.work, part_of(outcome)
        row = (
            PgUUID(tag.message_id), work.attempt, segment, tag.total, work.gateway_id, KINDS[part.kind],
            tag.check, None, part.reason, part.raw or None, at(now_s),
        )  # fmt: skip
        self._next.outcomes.append(row)
        self._metrics.outcome(work.gateway_name, outcome)
        if part.kind == "rejected" and part.reason == OPTED_OUT:
            self._blocked.append((tag, part.raw))
        self._part(submission, segment, outcome, now_s)

    def _part(self, submission: Submission, segment: int, outcome: Outcome, now_s: float) -> None:
        """The message moves when all of its segments that were sent have their outcome."""
        tag: Tag = submission.tag  # type: ignore[assignment]
        if tag.total == 1:
            self._conclude(submission, [part_of(outcome)], now_s)
            return
        parts = tag.work.multi.setdefault(tag.message_id, [None] * tag.total)
        parts[segment] = part_of(outcome)
        if all(parts[i] is not None for i in range(tag.total) if submission.mask >> i & 1):
            del tag.work.multi[tag.message_id]
            self._conclude(submission, parts, now_s)

    def _conclude(self, submission: Submission, parts: Sequence[retry.Part | None], now_s: float) -> None:
        tag: Tag = submission.tag  # type: ignore[assignment]
        work, pack = tag.work, tag.work.parcel.pack
        end = retry.conclude(
            parts,
            category=pack.category,
            allowed=pack.retry_unknown,
            attempt=work.attempt,
            now_s=now_s,
            expires_s=pack.expires_at,
            jitter=work.jitter,
        )
        moves: list[dispatch.Tally] = [(*work.base, int(before), int(after)) for before, after in end.moves]
        if end.again_s is not None:
            # One parcel for all that wait about as long, for the same reason. The move back to the queue is
            # counted with the parcel: a receipt may come in between and end the message.
            slot = (int(end.again_s * 4), end.reason or "retry", moves.pop())
            rest = None
            if end.mask:
                cut = submission
                rest = Rest(end.mask, text.form(cut.encoding, cut.header, cut.parts, tag.join))
            work.again.setdefault(slot, []).append((tag.entry, rest))
        if work.attempt == 1:
            for key in moves:
                self._next.tallies[key] = self._next.tallies.get(key, 0) + 1
        else:
            self._next.later.append((tag.message_id, moves))
        if end.state is State.submitted and self._publisher.followers:
            self._submitted(work, tag.message_id)
        if end.state.final:
            self._next.finals.append((tag.message_id, int(end.state), end.reason, end.raw))
            self._next.changes.append(
                Change(pack.tenant_id, tag.message_id, end.state, end.reason, work.gateway_id)
            )

    # Flushing

    async def _run(self) -> None:
        while not self._ending:
            await self._wake.wait()
            self._wake.clear()
            self._flushing = True
            batch, settled, blocked = self._next, self._settled, self._blocked
            self._next, self._settled, self._blocked = self._empty(), [], []
            now_s = self._clock()
            for work in settled:
                batch.settled.append(work.parcel.id)
                batch.again += self._again(work, now_s)
            nothing = not (settled or batch.outcomes)
            if not nothing and not await self._write(batch, blocked):
                self._lost = True
                self._flushed.set()
                self._on_lost()
                return
            self._generation += 1
            self._flushing = False
            self._flushed.set()
            self._metrics.recorded(batch)
            await self._release(settled, [again.parcel for again in batch.again], now_s)
            self.under_way.difference_update(work.parcel.id for work in settled)
            await asyncio.sleep(FLUSH_EVERY_S)

    async def _write(self, batch: dispatch.Record, blocked: Sequence[tuple[Tag, str]]) -> bool:
        also = partial(self._suppress, blocked, self._clock()) if blocked else None
        in_doubt = cleaned = False
        while True:
            try:
                async with self._database.driver() as driver:
                    if in_doubt and await dispatch.recorded(driver, batch, self._lease_id):
                        return True
                    await dispatch.record(driver, batch, self._lease_id, self._clock(), self._publisher, also)
                return True
            except dispatch.LeaseLost:
                return False
            except UNSTORABLE as error:
                # Rolled back, and the same again would fail again. The carriers' words are all that isn't ours.
                self._metrics.write_failures += 1
                log.error("outcomes can't be stored: %s", type(error).__name__)
                if cleaned:  # a bug: our successor reads from the journal what left; going on would stop all
                    return False
                _make_storable(batch)
                cleaned = True
            except Exception:
                in_doubt = True  # the answer to the commit may be all that was lost
                self._metrics.write_failures += 1
                log.exception("outcomes could not be recorded; trying again")
                await asyncio.sleep(RETRY_WRITE_S)

    def _again(self, work: Work, now_s: float) -> list[dispatch.Again]:
        out = []
        for (quarter_s, reason, move), items in work.again.items():
            old = work.parcel
            parcel = Parcel(
                ids.new_id(now_s),
                old.pack_id,
                1,
                old.attempt + 1,
                old.priority,
                now_s + (quarter_s + 1) / 4,
                narrowed(old.pack, [e.index for e, _ in items]),
                {e.index: rest for e, rest in items if rest is not None},
            )
            out.append(dispatch.Again(parcel, reason, move))
        return out

    async def _suppress(
        self, blocked: Sequence[tuple[Tag, str]], now_s: float, driver: asyncpg.Connection
    ) -> None:
        """Whom a carrier refuses since they opted out there, we don't ask it to text again."""
        people = []
        for tag, raw in blocked:
            pack, entry = tag.work.parcel.pack, tag.entry
            evidence = {
                "message_id": ids.text(tag.message_id),
                "gateway": tag.work.gateway_name,
                "raw": _plain(raw),
            }
            if not pack.test:
                people.append(rules.Blocked(pack.tenant_id, entry.recipient, pack.sender, entry.to, evidence))
        await rules.suppress_blocked_within(driver, self._queue, people, now_s=now_s)

    async def _release(self, settled: list[Work], again: list[Parcel], now_s: float) -> None:
        """Redis learns what PostgreSQL knows. What fails here the sweeper makes good."""
        try:
            await lanes.offer(self._queue, [p for p in again if p.due_at <= now_s + HORIZON_S], head=True)
            await lanes.settle(self._queue, [(w.parcel.lane, w.parcel.id) for w in settled], self._lease_id)
        except (EpochLost, Unavailable):
            self._metrics.release_failures += 1


def _make_storable(batch: dispatch.Record) -> None:
    """The last resort for a batch that PostgreSQL refuses: strings in ASCII, bounded, without control characters."""
    batch.outcomes = [tuple(_plain(value) for value in row) for row in batch.outcomes]
    batch.finals = [(message_id, state, _plain(r), _plain(raw)) for message_id, state, r, raw in batch.finals]
    for change in batch.changes:
        change.reason = _plain(change.reason)
    for again in batch.again:
        again.reason = _plain(again.reason)


def _plain(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return word(value.encode("ascii", "replace").decode("ascii"), PLAIN_CHARACTERS)


def part_of(outcome: Outcome) -> retry.Part:
    """A gateway's outcome in the words of the rules."""
    if type(outcome) is Accepted:
        return retry.Part("accepted")
    if type(outcome) is Rejected:
        return retry.Part("rejected", outcome.reason, outcome.raw)
    if type(outcome) is Retry:
        return retry.Part("again", outcome.reason, outcome.raw, outcome.sent, outcome.delay_s)
    assert type(outcome) is Unknown
    return retry.Part("unknown", outcome.reason, outcome.raw)
