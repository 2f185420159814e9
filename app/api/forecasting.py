"""When a batch will be through: backlog, rates and hours of each of its lanes together.

Guarantee: it is a forecast, in segments as they were counted at acceptance: what is queued before the batch in its
lanes is counted as going first, and a region in several zones as open only when all are. It promises nothing earlier
than the hours allow, and the rates of the region, of the gateways together that routes may lead to, and of the batch's
sender. The numbers of a pool share no rate, so a pool's is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from app.api import wire
from app.countries.packs import Packs
from app.countries.tenants import TenantTerms
from app.domain.forecast import finish
from app.domain.message import Category
from app.policy import LEAD_S
from app.store.forecasts import Backlog, Limit, Limits


def forecast(
    backlogs: Sequence[Backlog], limits: Limits, packs: Packs, terms: TenantTerms, now_s: float
) -> wire.Forecast | None:
    """None when nothing of the batch is queued."""
    if not backlogs:
        return None
    by_sender = sum(one.by_sender for one in backlogs)  # a sender's rate is one for all its lanes
    ends, later = [], 0
    for one in backlogs:
        limit = limits.regions.get(one.region, Limit(None, None, False))
        if limit.paused:
            ends.append(math.inf)
            later += one.own
            continue
        hours = _Hours(one, packs, terms, LEAD_S if limit.lead_s is None else limit.lead_s)
        start = max(now_s, one.due_s)
        bounds = [(one.ahead, limits.rate(one.region, one.category))]
        if limits.sender is not None:
            bounds.append((by_sender, limits.sender))
        found = [(units, finish(units, rate, start, hours)) for units, rate in bounds]
        ends.append(max(each.finish for _, each in found))
        missing = max(units - each.now for units, each in found)
        later += min(one.own, math.ceil(missing * one.own / one.own_segments))
    last = max(ends)
    return wire.Forecast(
        finish=None if last == math.inf else datetime.fromtimestamp(last, UTC),
        queued=sum(one.own for one in backlogs),
        after_these_hours=later,
    )


class _Hours:
    """A lane's hours, by time."""

    def __init__(self, lane: Backlog, packs: Packs, terms: TenantTerms, lead_s: int) -> None:
        self._packs = packs
        self._category = Category(lane.category)
        self._place = packs.anywhere(lane.region.partition("-")[0])
        own = terms.own_hours(self._place.country) if self._category is Category.marketing else None
        self._widen = own is not None and own.widen
        self._rule = own.rule if own is not None else None
        self._lead_s = lead_s

    def __call__(self, at: float) -> tuple[bool, float]:
        hours = self._packs.hours(
            self._place, self._category, at, widen=self._widen, lead_s=self._lead_s, own=self._rule
        )
        return hours.open, hours.until
