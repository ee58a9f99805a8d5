"""The runs of a result, gathered over rounds: what the report and the comparison count with.

A measure takes one run to one number, or to None where that run has none; nothing is filled in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Final

from hdrh.histogram import HdrHistogram

from loadtest.results import Held, Memory, Run

GENERATOR_BOUND: Final = "generator-bound"
"""The mark of a run whose throughput is the generator's, not the server's."""

Measure = Callable[[Run], float | None]


def connections_a_second(run: Run) -> float | None:
    return run.load.connections / run.load.seconds


def requests_a_second(run: Run) -> float | None:
    return run.load.requests / run.load.seconds


def bytes_a_second(run: Run) -> float | None:
    return run.load.bytes / run.load.seconds


def cpu_per_request(run: Run) -> float | None:
    """Seconds of all of the server's processes; None if no request had the right answer."""
    return _share(run.cost.cpu, run.load.requests)


def cpu_per_connection(run: Run) -> float | None:
    return _share(run.cost.cpu, run.load.connections)


def switches_per_request(run: Run) -> float | None:
    counts = run.counts
    return None if counts is None else _share(counts.switches, counts.requests)


def calls_per_request(run: Run) -> float | None:
    counts = run.counts
    return None if counts is None else _share(counts.system_calls, counts.requests)


def server_busy(run: Run) -> float | None:
    """Share of one core; a server of several processes can pass 1."""
    return run.cost.busy


def generator_busy(run: Run) -> float | None:
    return run.load.busy


def fairness(run: Run) -> float | None:
    return run.load.fairness


def of_memory(measure: Callable[[Memory], float]) -> Measure:
    return lambda run: None if run.memory is None else measure(run.memory)


private = of_memory(lambda memory: memory.private)


def whole(memory: Memory) -> int:
    """Bytes that exist only because this server runs, those that the kernel holds for it, too."""
    return memory.private + memory.kernel_stacks + memory.page_tables


def _share(spent: float, over: int) -> float | None:
    return spent / over if over else None


@dataclass(frozen=True)
class Rounds:
    """Every run of one server under one load."""

    server: str
    part: str
    scenario: str
    clients: int
    share: float | None
    """Of the server's maximum, at a constant rate."""
    rate: float | None
    """Requests a second asked for, of the first round; None if as many as can be."""
    runs: tuple[Run, ...]

    def values(self, measure: Measure) -> dict[int, float]:
        """By round.  A server that a round measures twice (A B B A) has the mean of the two."""
        found: defaultdict[int, list[float]] = defaultdict(list)
        for run in self.runs:
            value = measure(run)
            if value is not None:
                found[run.round].append(value)
        return {number: fmean(values) for number, values in found.items()}

    def median(self, measure: Measure) -> float | None:
        return middle(self.values(measure).values())

    @property
    def marks(self) -> dict[str, int]:
        """How many of the runs have each mark."""
        counts: dict[str, int] = {}
        for run in self.runs:
            for mark in run.marks:
                counts[mark] = counts.get(mark, 0) + 1
        return counts

    @property
    def generator_bound(self) -> bool:
        """Whether any of the runs was."""
        return GENERATOR_BOUND in self.marks

    @property
    def errors(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for run in self.runs:
            for kind, count in run.load.errors.items():
                if count:
                    counts[kind] = counts.get(kind, 0) + count
        return counts

    @property
    def requests(self) -> int:
        return sum(run.load.requests for run in self.runs)

    def latencies(self) -> HdrHistogram | None:
        """All rounds' answers in one histogram of microseconds; None if nothing was recorded."""
        merged = HdrHistogram(1, 3_600_000_000, 3)
        for run in self.runs:
            if run.load.latency:
                merged.add(HdrHistogram.decode(run.load.latency))
        return merged if merged.get_total_count() else None


def percentile(histogram: HdrHistogram, share: float) -> float | None:
    """Seconds; None if there are so few answers that none lies beyond it."""
    if share < 100 and histogram.get_total_count() < round(100 / (100 - share)):
        return None
    return float(histogram.get_value_at_percentile(share)) / 1e6


def p99(run: Run) -> float | None:
    """Seconds, of one run."""
    if not run.load.latency:
        return None
    return percentile(HdrHistogram.decode(run.load.latency), 99)


def gather(runs: Iterable[Run]) -> tuple[Rounds, ...]:
    """In the order in which their first runs stand."""
    found: defaultdict[tuple[object, ...], list[Run]] = defaultdict(list)
    for run in runs:
        load = run.load
        level = load.rate if run.share is None else run.share
        found[run.server, run.part, load.scenario, load.clients, level].append(run)
    return tuple(_rounds(group) for group in found.values())


def _rounds(runs: Sequence[Run]) -> Rounds:
    first = runs[0]
    return Rounds(
        server=first.server,
        part=first.part,
        scenario=first.load.scenario,
        clients=first.load.clients,
        share=first.share,
        rate=first.load.rate,
        runs=tuple(runs),
    )


def middle(values: Iterable[float]) -> float | None:
    found = list(values)
    return median(found) if found else None


Holding = Mapping[str, Mapping[int, Sequence[Memory]]]
"""By server and number of open connections: each reading."""


def holding(held: Iterable[Held]) -> Holding:
    found: dict[str, dict[int, list[Memory]]] = {}
    for one in held:
        readings = found.setdefault(one.server, {})
        readings.setdefault(one.memory.connections, []).append(one.memory)
    return found


def held_bytes(
    held: Holding, server: str, connections: int, measure: Callable[[Memory], float]
) -> float | None:
    return middle(measure(memory) for memory in held.get(server, {}).get(connections, ()))


def added(
    held: Holding, server: str, connections: int, measure: Callable[[Memory], float]
) -> float | None:
    """What each of so many open connections added to the server that had none."""
    base = held_bytes(held, server, 0, measure)
    full = held_bytes(held, server, connections, measure)
    if base is None or full is None or not connections:
        return None
    return (full - base) / connections
