"""What a generator counts, from the begin of the measured time to its end.

The rules of what counts: a right answer does if it came in the measured time, or, at a constant
rate, if it was due in it, however late it came.  A failure does if it showed in that time, or
afterwards to a request that was begun in it, so that a server which falls silent is found out.
"""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Iterable
from math import inf
from typing import Final

HIGHEST: Final = 600_000_000
"""Microseconds, ten minutes: the longest latency that a histogram holds."""
DIGITS: Final = 3
"""Of a latency, that a histogram keeps."""


class Tally:
    def __init__(self, clients: int) -> None:
        self.answered = [0] * clients
        """Right answers of each client."""
        self.bytes = 0
        self.connections = 0
        self.errors = Counter[str]()
        self.latencies = Counter[int]()
        """How often there was a latency of so many microseconds."""
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
        """Bytes of an answer that is not whole yet: of one that takes longer than is measured."""
        if self.begun <= now < self.ended:
            self.bytes += size

    def right(self, client: int, counts: float, latency: float, size: int) -> None:
        """An answer of `size` bytes, those that `took` has counted not among them.

        `counts` is the time that decides whether it counts.
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
    """Jain's index of fairness: 1 if all are equal, 1/n if one has all; None without anything."""
    values = list(counts)
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else None


def histogram(latencies: Iterable[tuple[int, int]]) -> str:
    """An HdrHistogram in its base64 form, of microseconds and how often there were so many."""
    from hdrh.histogram import HdrHistogram

    found = HdrHistogram(1, HIGHEST, DIGITS)
    for value, count in latencies:
        found.record_value(min(value, HIGHEST), count)
    return str(found.encode(), "ascii") if found.get_total_count() else ""
