"""The API's counters: plain ints while serving, Prometheus' text when asked.

Guarantee: nothing here takes a lock or costs more than a dictionary update on the way of a request.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.intake import Intake

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics(Collector):
    """One process's counters."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self.registry = CollectorRegistry(auto_describe=False)
        self.accepted: Counter[tuple[str, int]] = Counter()  # (region, category)
        self.rejected: Counter[str] = Counter()  # code
        self.in_flight = 0
        self.bytes_in_flight = 0
        self.uploads = 0
        self.replayed = 0
        self._durations: dict[tuple[str, str, str], list[float]] = {}
        self.registry.register(self)

    def request(self, method: str, route: str, status: int, duration_s: float) -> None:
        """One request was answered."""
        key = (method, route, f"{status // 100}xx")
        cells = self._durations.get(key)
        if cells is None:
            cells = self._durations[key] = [0.0] * (len(BOUNDS_S) + 2)
        cells[bisect_left(BOUNDS_S, duration_s)] += 1
        cells[-1] += duration_s

    def collect(self) -> Iterator[Metric]:
        """For prometheus-client."""
        accepted = CounterMetricFamily(
            "volley_messages_accepted", "Messages accepted.", labels=("region", "category")
        )
        for (region, category), n in self.accepted.items():
            accepted.add_metric((region, _CATEGORIES[category]), n)
        yield accepted
        rejected = CounterMetricFamily(
            "volley_messages_rejected", "Messages and recipients that were not accepted.", labels=("code",)
        )
        for code, n in self.rejected.items():
            rejected.add_metric((code,), n)
        yield rejected
        duration = HistogramMetricFamily(
            "volley_http_request_duration_seconds",
            "From the request's first byte to the answer's last.",
            labels=("method", "route", "status"),
        )
        for labels, cells in self._durations.items():
            duration.add_metric(labels, *_histogram(cells))
        yield duration
        for name, text, value in (
            ("volley_http_requests_in_flight", "Requests being served.", self.in_flight),
            ("volley_uploads_in_flight", "Files being read.", self.uploads),
            ("volley_http_bytes_in_flight", "Bytes of bodies being worked on.", self.bytes_in_flight),
        ):
            yield GaugeMetricFamily(name, text, value)
        for name, text, value in (
            ("volley_intake_groups", "Transactions that accepted single messages.", self._intake.groups),
            ("volley_intake_grouped_messages", "Single messages accepted by them.", self._intake.grouped),
            (
                "volley_intake_offered_parcels",
                "Parcels offered to Redis after their commit.",
                self._intake.offers.offered,
            ),
            ("volley_intake_left_parcels", "Parcels left to the sweeper to offer.", self._intake.offers.left),
            ("volley_idempotency_replays", "Requests that got a stored answer.", self.replayed),
        ):
            yield CounterMetricFamily(name, text, value)

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)


_CATEGORIES = {1: "otp", 2: "transactional", 3: "marketing"}


def _histogram(cells: list[float]) -> tuple[list[tuple[str, float]], float]:
    """Cumulated buckets, and the sum."""
    total, buckets = 0.0, []
    for bound, n in zip((*map(str, BOUNDS_S), "+Inf"), cells[:-1], strict=True):
        total += n
        buckets.append((bound, total))
    return buckets, cells[-1]
