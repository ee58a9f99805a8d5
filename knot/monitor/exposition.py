"""The counts of a `Source` in Prometheus's text format (library: prometheus-client).

Only the names and the meaning of the metrics are here; nothing here counts, or knows HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from knot.monitor.metrics import BOUNDS, Counts
from knot.monitor.sources import Source

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST.encode()

OF_EACH: Final[Sequence[tuple[Callable[..., Any], str, str, Callable[[Counts], float]]]] = (
    (CounterMetricFamily, "requests", "Responses", lambda counts: sum(counts.buckets)),
    (CounterMetricFamily, "connections", "Connections accepted", lambda counts: counts.connections),
    (CounterMetricFamily, "cpu_seconds", "CPU seconds used", lambda counts: counts.cpu / 1e3),
    (GaugeMetricFamily, "cache_bytes", "Cached bytes", lambda counts: counts.cached),
)
"""The metrics that each process has of its own: kind, name, description, value."""


class Exposition:
    """The metrics of a source, read each time they are asked for."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._began = time.time()

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Any]:
        """Called by prometheus-client."""
        workers, total = self._source.counts(), Counts()
        total.add(self._source.ended)
        for counts in workers.values():
            total.add(counts)
        yield from of_all(total)
        yield gauge("knot_workers", "Number of processes that serve.", len(workers))
        yield gauge(
            "knot_start_time_seconds", "When the server started, as a Unix time.", self._began
        )
        yield from of_each(workers, self._source.memory)
        if self._source.starts:
            yield by_label(
                "knot_worker_starts",
                "Workers that have become ready, by the reason for starting them.",
                "reason",
                self._source.starts,
            )


def of_all(total: Counts) -> Iterator[Any]:
    """The metrics that are sums over all processes."""
    yield by_label("knot_requests", "Responses, by status.", "status", total.by_status())
    for name, text, value in (
        ("knot_connections", "Connections accepted.", total.connections),
        ("knot_turned_away", "Connections refused because too many were open.", total.turned_away),
        ("knot_sent_bytes", "Bytes of response content sent.", total.sent),
        ("knot_cache_hits", "Responses from files in the cache.", total.hits),
        ("knot_cache_misses", "Responses from files that had to be opened.", total.misses),
    ):
        yield counter(name, text, value)
    ends = [*map(str, BOUNDS), "+Inf"]
    yield HistogramMetricFamily(
        "knot_request_duration_seconds",
        "Time from reading a request to sending the last byte of its response.",
        buckets=list(zip(ends, accumulate(total.buckets), strict=True)),
        sum_value=total.lasted / 1e6,
    )


def of_each(workers: Mapping[int, Counts], memory: Callable[[int], int]) -> Iterator[Any]:
    """The metrics that each process has of its own."""
    states = GaugeMetricFamily(
        "knot_open_connections", "Open connections.", labels=["worker", "state"]
    )
    for pid, counts in workers.items():
        for state, number in counts.open.items():
            states.add_metric([str(pid), state], number)
    yield states
    for family, name, text, value in OF_EACH:
        metric = family(f"knot_worker_{name}", f"{text}, by process.", labels=["worker"])
        for pid, counts in workers.items():
            metric.add_metric([str(pid)], value(counts))
        yield metric
    resident = GaugeMetricFamily(
        "knot_worker_resident_bytes", "Resident memory, by process.", labels=["worker"]
    )
    for pid in workers:
        resident.add_metric([str(pid)], memory(pid))
    yield resident


def counter(name: str, text: str, value: float) -> Any:
    return CounterMetricFamily(name, text, value=value)


def gauge(name: str, text: str, value: float) -> Any:
    return GaugeMetricFamily(name, text, value=value)


def by_label(name: str, text: str, label: str, values: Mapping[str, int]) -> Any:
    metric = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        metric.add_metric([key], value)
    return metric
