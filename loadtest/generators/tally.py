"""What a generator counts during the measured time.

A right answer counts if it came in that time or, at a constant rate, if its request was due in that
time, however late it came.  A failure counts if it was noticed in that time, or later for a request
that was begun in it, so that a server which stops answering is noticed.
"""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Iterable
from math import inf
from typing import Final

MAX_LATENCY: Final = 600_000_000
"""Microseconds, ten minutes: the highest latency in a histogram."""
DIGITS: Final = 3
"""Significant digits of a latency in a histogram."""


class Tally:
    """The counts of one generator."""

    def __init__(self, clients: int) -> None:
        self.answered = [0] * clients
        """Right answers of each client."""
        self.bytes = 0
        self.connections = 0
        self.errors = Counter[str]()
        self.latencies = Counter[int]()
        """Answers by latency in microseconds."""
        self.begun = self.ended = inf
        self.cpu = 0.0

    def begin(self, now: float) -> None:
        self.begun = now
        self.cpu = -cpu_seconds()

    def end(self, now: float) -> None:
        self.ended = now
        self.cpu += cpu_seconds()

    def connected(self, now: float) -> None:
        if self.begun <= now < self.ended:
            self.connections += 1

    def took(self, size: int, now: float) -> None:
        """Count bytes of an answer that is not complete: it may outlast the measured time."""
        if self.begun <= now < self.ended:
            self.bytes += size

    def right(self, client: int, counts: float, latency: float, size: int) -> None:
        """Count an answer of `size` bytes, without those that `took` has counted.

        `counts` is the time that decides whether the answer counts.
        """
        if self.begun <= counts < self.ended:
            self.answered[client] += 1
            self.bytes += size
            self.latencies[int(latency * 1e6)] += 1

    def failed(self, kind: str, began: float, now: float) -> None:
        if self.begun <= now and began < self.ended:
            self.errors[kind] += 1


def cpu_seconds() -> float:
    """User and system time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def jain(counts: Iterable[int]) -> float | None:
    """Jain's index of fairness: 1 if all are equal, 1/n if one has all; None if all are 0."""
    values = list(counts)
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else None


def histogram(latencies: Iterable[tuple[int, int]]) -> str:
    """An HdrHistogram in base64, from pairs of microseconds and their count."""
    from hdrh.histogram import HdrHistogram

    found = HdrHistogram(1, MAX_LATENCY, DIGITS)
    for value, count in latencies:
        found.record_value(min(value, MAX_LATENCY), count)
    return str(found.encode(), "ascii") if found.get_total_count() else ""
