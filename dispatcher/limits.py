"""Rates and frequency caps of a portion: taken before the journal, returned for what does not go.

Guarantee: what has no token is not journalled. What becomes of the tokens of what is journalled: `dispatcher.slots`.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.domain.message import Category
from app.queue import rules, throttles
from app.queue.connection import EpochLost, Queue, Unavailable
from app.store import dispatch
from app.store.intake import signed
from dispatcher.fleet import Fleet
from dispatcher.portions import Portion
from dispatcher.recorder import Tag

CYCLE_SEGMENTS = 1_000  # the most that one cycle claims


class Limits:
    """`closed`: throttles with nothing free, until (Unix seconds); this adds to it."""

    def __init__(self, queue: Queue, fleet: Fleet, closed: dict[str, float]) -> None:
        self.queue = queue
        self.throttles = throttles.Throttles(queue)
        self.fleet = fleet
        self.closed = closed

    def worth(self, region: str) -> int:
        """About how many segments of a region one cycle gets tokens for; more would be claimed for nothing."""
        rate = self.fleet.region_rate(region)
        return CYCLE_SEGMENTS if rate is None else int(rate * throttles.SPREAD * throttles.AHEAD_MS / 1000)

    async def reserve(self, portions: Sequence[Portion], now_s: float) -> None:
        asks = []
        for portion in portions:
            if portion.submissions:
                limits = self.fleet.rates(portion.decision.parcel.pack, portion.open.row.name)
                if limits:
                    first = portion.submissions[0]
                    urgent = portion.decision.parcel.pack.category == Category.otp
                    ask = throttles.Ask(
                        limits, portion.segments, first.mask.bit_count(), first.message_id, urgent
                    )
                    asks.append((portion, ask))
        if not asks:
            return
        grants = await self.throttles.reserve([ask for _, ask in asks])
        for (portion, ask), grant in zip(asks, grants, strict=True):
            portion.grant = grant
            if grant.granted < ask.wanted:
                self._shorten(portion, ask, grant, now_s)

    def _shorten(self, portion: Portion, ask: throttles.Ask, grant: throttles.Grant, now_s: float) -> None:
        """Only so many segments have tokens: the rest goes back to the head, and its lane rests."""
        until = now_s + grant.retry_ms / 1000
        keep, used = 0, 0
        for submission in portion.submissions:
            if used + submission.mask.bit_count() > grant.granted:
                break
            used += submission.mask.bit_count()
            keep += 1
        rest = [s.tag.entry for s in portion.submissions[keep:]]  # type: ignore[attr-defined]
        portion.submissions = portion.submissions[:keep]
        portion.open.gateway.give_back(portion.segments - used)
        portion.segments = used
        # A long text that waits for several tokens waits by itself: there may be one for an urgent text.
        if len(ask.throttles) == 1 and (ask.least == 1 or keep):
            name, _ = ask.throttles[0]
            if not name.startswith("sender:"):
                self.closed[name] = until
        decision = portion.decision
        if not keep and not decision.stops and not decision.waits and not portion.held:
            portion.untouched = until
        else:
            portion.held.append((rest, until, "throttled", True))

    async def unused_tokens(self, portions: Sequence[Portion]) -> None:
        back = [
            throttles.Spent(p.grant.throttles, slot, 0, n)
            for p in portions
            if p.grant is not None
            for slot, n in p.grant.slots
        ]
        if back:
            try:
                await self.throttles.confirm(back)
            except (EpochLost, Unavailable):
                return  # they age out

    async def uncount(self, portion: Portion, kept: frozenset[int] = frozenset()) -> None:
        """Counts against frequency caps and budgets of entries that will not go now."""
        decision = portion.decision
        own, shared = [], []
        organisation_id = 0
        for index, (asked, place) in decision.counted.items():
            if index not in kept:
                question = asked.question
                own.append((question.recipients[place], question.tokens[place]))
                if question.budget is not None:
                    organisation_id = question.budget.organisation_id
                    shared.append((question.budget.recipients[place], question.tokens[place]))
        await rules.uncount(self.queue, decision.parcel.pack.tenant_id, own)
        await rules.uncount_budget(self.queue, organisation_id, shared)

    async def uncount_unsent(self, portions: Sequence[Portion], won: set[bytes]) -> None:
        """Give back what was counted and did not go."""
        for portion in portions:
            if portion.decision.counted:
                gone = {s.tag.entry.index for s in portion.submissions if s.tag.message_id in won}  # type: ignore[attr-defined]
                await self.uncount(portion, frozenset(gone))

    @staticmethod
    def contacts(portion: Portion) -> list[dispatch.Contact]:
        """What of a portion counts against caps and budgets, or is looked at for the same text."""
        counted, tenant_id = portion.decision.counted, portion.decision.parcel.pack.tenant_id
        if not counted:
            return []
        found = []
        for submission in portion.submissions:
            tag: Tag = submission.tag  # type: ignore[assignment]
            if tag.entry.index in counted:
                asked, place = counted[tag.entry.index]
                q = asked.question
                shared = None if q.budget is None else signed(q.budget.recipients[place])
                found.append(
                    dispatch.Contact(
                        tenant_id,
                        signed(tag.entry.recipient),
                        tag.message_id,
                        q.contact,
                        q.campaign,
                        q.contents[place] if q.contents else None,
                        None if q.budget is None else q.budget.organisation_id,
                        shared,
                    )
                )
        return found
