"""The API's counters: plain ints while serving, Prometheus' text when asked.

Guarantees: nothing here takes a lock or costs more than a dictionary update on the way of a request. With
several worker processes, any of them answers for all: each leaves its counters in a shared folder once a
second, and those of a worker that ended stay, so that no counter goes back.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.intake import Intake

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LEAVE_S = 1.0
STALE_S = 5.0  # a worker that left nothing for so long serves nothing

_CATEGORIES = {1: "otp", 2: "transactional", 3: "marketing"}
_GAUGES = {
    "volley_http_requests_in_flight": "Requests being served.",
    "volley_http_bytes_in_flight": "Bytes of bodies being worked on.",
    "volley_uploads_in_flight": "Files being read.",
}
_COUNTERS = {
    "volley_intake_groups": "Transactions that accepted single messages.",
    "volley_intake_grouped_messages": "Single messages accepted by them.",
    "volley_intake_offered_parcels": "Parcels offered to Redis after their commit.",
    "volley_intake_left_parcels": "Parcels left to the sweeper to offer.",
    "volley_idempotency_replays": "Requests that got a stored answer.",
}


class Snapshot(msgspec.Struct, array_like=True):
    """One process's counters at one moment."""

    accepted: dict[tuple[str, int], int]
    rejected: dict[str, int]
    durations: dict[tuple[str, str, str], list[float]]
    gauges: dict[str, int]
    counters: dict[str, int]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Snapshot).decode


class Metrics(Collector):
    """One process's counters. `folder` is where the workers leave theirs for each other."""

    def __init__(self, intake: Intake, folder: Path | None = None) -> None:
        self._intake = intake
        self._folder = folder
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

    def snapshot(self) -> Snapshot:
        """The counters now."""
        intake = self._intake
        gauges = (self.in_flight, self.bytes_in_flight, self.uploads)
        counters = (intake.groups, intake.grouped, intake.offers.offered, intake.offers.left, self.replayed)
        return Snapshot(
            dict(self.accepted),
            dict(self.rejected),
            self._durations,
            dict(zip(_GAUGES, gauges, strict=True)),
            dict(zip(_COUNTERS, counters, strict=True)),
        )

    def leave(self) -> None:
        """Leave the counters to the other workers. A few hundred bytes; call it once a second and at the end."""
        if self._folder is None:
            return
        temporary = self._folder / f".{os.getpid()}"
        temporary.write_bytes(_encode(self.snapshot()))
        temporary.replace(self._folder / f"{os.getpid()}")

    def _others(self) -> Iterator[Snapshot]:
        if self._folder is None:
            return
        for path in self._folder.iterdir():
            if path.name.startswith(".") or path.name == str(os.getpid()):
                continue
            found = _decode(path.read_bytes())
            if time.time() - path.stat().st_mtime > STALE_S:
                found.gauges = {}
            yield found

    def collect(self) -> Iterator[Metric]:
        """For prometheus-client."""
        yield from _families(_sum([self.snapshot(), *self._others()]))

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)


def _sum(snapshots: Sequence[Snapshot]) -> Snapshot:
    accepted: Counter[tuple[str, int]] = Counter()
    rejected: Counter[str] = Counter()
    gauges: Counter[str] = Counter()
    counters: Counter[str] = Counter()
    durations: dict[tuple[str, str, str], list[float]] = {}
    for one in snapshots:
        accepted.update(one.accepted)
        rejected.update(one.rejected)
        gauges.update(one.gauges)
        counters.update(one.counters)
        for key, cells in one.durations.items():
            known = durations.get(key)
            durations[key] = cells if known is None else [a + b for a, b in zip(known, cells, strict=True)]
    return Snapshot(accepted, rejected, durations, gauges, counters)


def _families(found: Snapshot) -> Iterator[Metric]:
    accepted = CounterMetricFamily(
        "volley_messages_accepted", "Messages accepted.", labels=("region", "category")
    )
    for (region, category), n in found.accepted.items():
        accepted.add_metric((region, _CATEGORIES[category]), n)
    yield accepted
    rejected = CounterMetricFamily(
        "volley_messages_rejected", "Messages and recipients that were not accepted.", labels=("code",)
    )
    for code, n in found.rejected.items():
        rejected.add_metric((code,), n)
    yield rejected
    duration = HistogramMetricFamily(
        "volley_http_request_duration_seconds",
        "From the request's first byte to the answer's last.",
        labels=("method", "route", "status"),
    )
    for labels, cells in found.durations.items():
        duration.add_metric(labels, *_histogram(cells))
    yield duration
    for name, text in _GAUGES.items():
        yield GaugeMetricFamily(name, text, found.gauges.get(name, 0))
    for name, text in _COUNTERS.items():
        yield CounterMetricFamily(name, text, found.counters.get(name, 0))


def _histogram(cells: list[float]) -> tuple[list[tuple[str, float]], float]:
    """Cumulated buckets, and the sum."""
    total, buckets = 0.0, []
    for bound, n in zip((*map(str, BOUNDS_S), "+Inf"), cells[:-1], strict=True):
        total += n
        buckets.append((bound, total))
    return buckets, cells[-1]
