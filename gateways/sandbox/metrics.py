"""The sandbox's counters as Prometheus' text. Nothing here costs the SMSC anything until it is asked."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateways.sandbox.smsc import Smsc

CONTENT_TYPE = "text/plain; version=0.0.4"


class Exporter(Collector):
    """Reads one SMSC. POST /reset sets its counters to 0, as a restart would."""

    def __init__(self, smsc: Smsc) -> None:
        self._smsc = smsc
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """For prometheus-client."""
        smsc = self._smsc
        for name, n in msgspec.structs.asdict(smsc.counters).items():
            yield CounterMetricFamily(f"volley_sandbox_{name}", f"{_words(name)} since the start.", n)
        binds = GaugeMetricFamily("volley_sandbox_binds", "Bound connections.", labels=("system_id",))
        queued = GaugeMetricFamily(
            "volley_sandbox_deliveries_queued", "Receipts and texts not yet sent.", labels=("system_id",)
        )
        for account in smsc.accounts.values():
            binds.add_metric((account.system_id,), len(account.peers))
            queued.add_metric((account.system_id,), len(account.queue))
        yield binds
        yield queued
        yield GaugeMetricFamily(
            "volley_sandbox_submits_per_second",
            "Submits in the last second.",
            smsc.speed.current(time.monotonic()),
        )

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._registry)


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()
