"""What the dispatcher tells Prometheus. Plain ints on the hot path; made into samples when scraped.

Labels are region, gateway and category: bounded sets. Never a tenant, batch, campaign or number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.domain.message import Category, State

if TYPE_CHECKING:
    from app.store.dispatch import Record
    from dispatcher.health import Watch
    from gateways.base import BindStatus, Outcome

WAIT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
HEALTHS = ("well", "probing", "worse", "failing")
RECEIPT_BUCKETS_S = (0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 21600, 86400)


class Histogram:
    """Counts in buckets, by label values."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts: dict[tuple[str, ...], list[int]] = {}
        self.sums: dict[tuple[str, ...], float] = defaultdict(float)

    def observe(self, labels: tuple[str, ...], value: float, n: int = 1) -> None:
        counts = self.counts.get(labels)
        if counts is None:
            counts = self.counts[labels] = [0] * (len(self.bounds) + 1)
        counts[bisect_left(self.bounds, value)] += n
        self.sums[labels] += value * n

    def observe_all(self, labels: tuple[str, ...], values: Sequence[float]) -> None:
        """Many of the same labels at once."""
        counts = self.counts.get(labels)
        if counts is None:
            counts = self.counts[labels] = [0] * (len(self.bounds) + 1)
        bounds = self.bounds
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        self.sums[labels] += sum(values)

    def family(self, name: str, text: str, label_names: list[str]) -> HistogramMetricFamily:
        family = HistogramMetricFamily(name, text, labels=label_names)
        for labels, counts in self.counts.items():
            total, buckets = 0, []
            for bound, count in zip((*map(str, self.bounds), "+Inf"), counts, strict=True):
                total += count
                buckets.append((bound, total))
            family.add_metric(list(labels), buckets, self.sums[labels])
        return family


class Metrics(Collector):
    """One of them a dispatcher. Counters are public attributes: whoever counts adds to them."""

    def __init__(self) -> None:
        self.moves: dict[tuple[str, str, str, str], int] = defaultdict(
            int
        )  # region, category, gateway, state
        self.outcomes: dict[tuple[str, str, str], int] = defaultdict(int)  # gateway, kind, reason
        self.held: dict[tuple[str, str, str], int] = defaultdict(int)  # region, category, reason
        self.receipts: dict[tuple[str, str], int] = defaultdict(int)  # gateway, what became of it
        self.inbound: dict[tuple[str, str], int] = defaultdict(int)  # gateway, action
        self.wait = Histogram(WAIT_BUCKETS_S)
        self.receipt_latency = Histogram(RECEIPT_BUCKETS_S)
        self.write_failures = 0
        self.release_failures = 0
        self.epochs_built = 0
        self.leases_retaken = 0
        self.refused_parcels = 0
        self.gauges: dict[str, float] = {
            "attached": 0.0,
            "clock_skew_seconds": 0.0,
            "parcels_in_flight": 0.0,
            # When it last happened, as Unix time, 0: not in this process. What happens seconds after a start is in a
            # counter's first sample already, and no increase of it: alerts ask these.
            "lease_retaken_timestamp_seconds": 0.0,
            "parcels_reoffered_timestamp_seconds": 0.0,
        }
        self.lanes: dict[str, tuple[int, int, int]] = {}
        self.accounting: dict[str, float] = {}
        self.differences: dict[str, float] = {}  # promise 1's sides by tallies, less by rows
        self.reoffered_parcels = 0
        self.binds: list[BindStatus] = []
        self.gateway_names: dict[int, str] = {}
        self.watch: Watch | None = None

    def outcome(self, gateway: str, outcome: Outcome) -> None:
        """An outcome that is not `Accepted` (those are counted by the batch)."""
        reason = getattr(outcome, "reason", "")
        self.outcomes[(gateway, type(outcome).__name__.lower(), reason)] += 1

    def recorded(self, batch: Record) -> None:
        """A flush was committed."""
        for (_, _, region, category, gateway_id, _, to_state), n in batch.written.items():
            gateway = self.gateway_names.get(gateway_id or 0, "")
            self.moves[(region, Category(category).name, gateway, State(to_state).name)] += n

    def collect(self) -> Iterator[Metric]:
        moves = CounterMetricFamily(
            "volley_messages",
            "Messages that entered a state",
            labels=["region", "category", "gateway", "state"],
        )
        for labels, n in list(self.moves.items()):
            moves.add_metric(list(labels), n)
        yield moves
        yield from self._labelled(
            "volley_outcomes",
            "Segments that were not accepted",
            ["gateway", "outcome", "reason"],
            self.outcomes,
        )
        yield from self._labelled(
            "volley_held", "Messages held, by reason", ["region", "category", "reason"], self.held
        )
        yield from self._labelled(
            "volley_receipts", "Delivery receipts", ["gateway", "result"], self.receipts
        )
        yield from self._labelled("volley_inbound", "Inbound texts", ["gateway", "action"], self.inbound)
        yield self.wait.family(
            "volley_accept_to_submit_seconds", "From acceptance to hand-over", ["region", "category"]
        )
        yield self.receipt_latency.family(
            "volley_receipt_latency_seconds",
            "From the carrier's answer to its receipt, by our clock",
            ["region", "gateway", "category"],
        )
        for name, text, value in (
            (
                "volley_record_failures",
                "Writes of outcomes that failed and were repeated",
                self.write_failures,
            ),
            ("volley_release_failures", "Settled parcels that Redis was not told of", self.release_failures),
            ("volley_epochs_built", "Rebuilds of Redis' copy", self.epochs_built),
            ("volley_leases_retaken", "Dead dispatchers whose work was taken over", self.leases_retaken),
            (
                "volley_reoffered_parcels",
                "Open parcels that Redis should have held and did not",
                self.reoffered_parcels,
            ),
            ("volley_refused_parcels", "Claims that PostgreSQL refused", self.refused_parcels),
        ):
            yield CounterMetricFamily(name, text, value=value)
        for name, gauge in self.gauges.items():
            yield GaugeMetricFamily(f"volley_{name}", name.replace("_", " "), value=gauge)
        yield from self._lanes()
        yield from self._binds()
        if self.watch is not None:
            yield from _health(self.watch)
        accounting = GaugeMetricFamily(
            "volley_accounting", "The sides of accepted = final + open", labels=["side"]
        )
        for side, gauge in self.accounting.items():
            accounting.add_metric([side], gauge)
        yield accounting
        differences = GaugeMetricFamily(
            "volley_accounting_difference",
            "Messages by the tallies less messages by their rows, in one snapshot",
            labels=["side"],
        )
        for side, gauge in self.differences.items():
            differences.add_metric([side], gauge)
        yield differences

    @staticmethod
    def _labelled(name: str, text: str, names: list[str], values: dict[Any, int]) -> Iterator[Metric]:
        family = CounterMetricFamily(name, text, labels=names)
        for labels, n in list(values.items()):
            family.add_metric(list(labels), n)
        yield family

    def _lanes(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "volley_lane_parcels", "Parcels in Redis by lane", labels=["region", "category", "state"]
        )
        for lane, (total, deferred, claimed) in self.lanes.items():
            region, _, number = lane.rpartition(":")
            category = Category(int(number)).name
            family.add_metric([region, category, "waiting"], total - deferred - claimed)
            family.add_metric([region, category, "deferred"], deferred)
            family.add_metric([region, category, "claimed"], claimed)
        yield family

    def _binds(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("volley_bind_up", "Whether a bind is bound", labels=["gateway", "bind"])
        window = GaugeMetricFamily(
            "volley_bind_in_flight", "Segments without an answer", labels=["gateway", "bind"]
        )
        for bind in self.binds:
            gateway, _, slot = bind.name.rpartition("/")
            up.add_metric([gateway, slot], float(bind.state == "bound"))
            window.add_metric([gateway, slot], bind.in_flight)
        yield up
        yield window


def _health(watch: Watch) -> Iterator[Metric]:
    """How the gateways do, over all regions."""
    state = GaugeMetricFamily(
        "volley_gateway_health",
        "As this dispatcher judges it: 0 well, 1 probing, 2 worse, 3 failing",
        labels=["gateway"],
    )
    shares = GaugeMetricFamily(
        "volley_gateway_share",
        "Of the answers of the last half minute: failed, throttled, slow; receipts: of the accepted texts",
        labels=["gateway", "what"],
    )
    for name in watch.gateways:
        state.add_metric([name], HEALTHS.index(watch.gateway_health(name)))
        seen, waited = watch.sums(name)
        for what, n, of in (
            ("failed", seen.failed, seen.answers),
            ("throttled", seen.throttled, seen.answers),
            ("slow", seen.slow, seen.answers),
            ("receipts", waited.receipts, waited.texts),
        ):
            if of:
                shares.add_metric([name, what], n / of)
    yield state
    yield shares
    trips = CounterMetricFamily(
        "volley_gateway_trips", "Breakers opened, by cause", labels=["gateway", "cause"]
    )
    for (name, cause), n in watch.trips.items():
        trips.add_metric([name, cause], n)
    yield trips
