"""What came out, in sentences.  The goals were set before anything was measured; a missed goal is
said as plainly as one that was met."""

from __future__ import annotations

from dataclasses import dataclass

from loadtest.experiment.intervals import Ratio, paired
from loadtest.experiment.report.numbers import interval, kilobytes_each, short, whole_number
from loadtest.experiment.rounds import (
    Rounds,
    added,
    connections_a_second,
    cpu_per_connection,
    gather,
    held_bytes,
    holding,
    of_memory,
)
from loadtest.results import Memory, Result

OURS, THEIRS = "events", "threads"
CONNECTIONS = 350
"""As many threads as the paper's Figure 7 has."""
CROWD = 5_000


@dataclass(frozen=True)
class Goal:
    bound: float
    text: str
    at_least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


FASTER = Goal(3, "at least 3 times", at_least=True)
THIRD = Goal(1 / 3, "at most a third")
TENTH = Goal(1 / 10, "at most a tenth")
SEVENTH = Goal(1 / 7, "at most a seventh")


def headlines(result: Result) -> tuple[str, ...]:
    return (
        throughput(result),
        grown(result, CONNECTIONS, THIRD),
        virtual(result),
        grown(result, CROWD, SEVENTH),
    )


def throughput(result: Result) -> str:
    what = f"{CONNECTIONS} connections, one request each"
    ours, theirs = (figure7(result, server) for server in (OURS, THEIRS))
    if ours is None or theirs is None:
        return _gap(what)
    measure = connections_a_second
    ratio = paired(ours.values(measure), theirs.values(measure))
    if ratio is None:
        return f"{what}: {OURS} and {THEIRS} have no round in common."
    return (
        f"{what}: {OURS} served {whole_number(ours.median(measure) or 0)} connections a second, "
        f"{THEIRS} {whole_number(theirs.median(measure) or 0)}: {short(ratio.value)} times as many "
        f"({rounds_said(ratio)}). {_faster(ratio.value, ours)}{_cheaper(ours, theirs)}"
        f"{_bound(ours, theirs)}"
    )


def _faster(value: float, ours: Rounds) -> str:
    """The verdict; a generator that could not ask for more proves a goal met, but never missed."""
    if not ours.generator_bound:
        return _judged(value, FASTER)
    limit = f"The generator was the limit of {OURS}, so it is that many at least."
    if FASTER.met(value):
        return f"{limit} {_judged(value, FASTER)}"
    return f"{limit} These runs cannot tell whether the goal, {FASTER.text}, is met."


def _cheaper(ours: Rounds, theirs: Rounds) -> str:
    ratio = paired(theirs.values(cpu_per_connection), ours.values(cpu_per_connection))
    if ratio is None:
        return ""
    times = f"{short(ratio.value)} times the CPU time"
    return f" A connection cost {THEIRS} {times} ({rounds_said(ratio)})."


def grown(result: Result, connections: int, goal: Goal) -> str:
    what = f"{whole_number(connections)} idle connections"
    held = holding(result.held)
    ours, theirs = (
        added(held, server, connections, lambda memory: memory.private) for server in (OURS, THEIRS)
    )
    if ours is None or theirs is None:
        return _gap(what)
    if theirs <= 0:
        return f"{what}: {THEIRS} added no private memory, so there is no ratio."
    return (
        f"{what}: each added {kilobytes_each(ours)} kB of private memory to {OURS} and "
        f"{kilobytes_each(theirs)} kB to {THEIRS}: {short(ours / theirs)} of it. "
        f"{_judged(ours / theirs, goal)}"
    )


def virtual(result: Result) -> str:
    what = f"Virtual memory at {CONNECTIONS} connections"
    ours, theirs = (virtual_bytes(result, server) for server in (OURS, THEIRS))
    if ours is None or theirs is None:
        return _gap(what)
    return (
        f"{what}: {whole_number(ours / 1e6)} MB for {OURS}, {whole_number(theirs / 1e6)} MB for "
        f"{THEIRS}: {short(ours / theirs)} of it. {_judged(ours / theirs, TENTH)}"
    )


def figure7(result: Result, server: str) -> Rounds | None:
    """The runs that the paper's table is set beside; None if there are none."""
    for group in gather(result.runs):
        key = group.server, group.part, group.scenario, group.clients
        if key == (server, "figure7", "one", CONNECTIONS):
            return group
    return None


def virtual_bytes(result: Result, server: str) -> float | None:
    """Under load, as the paper's; while idle if there is no reading under load."""

    def measure(memory: Memory) -> float:
        return memory.virtual

    group = figure7(result, server)
    under_load = None if group is None else group.median(of_memory(measure))
    if under_load is not None:
        return under_load
    return held_bytes(holding(result.held), server, CONNECTIONS, measure)


def rounds_said(ratio: Ratio) -> str:
    rounds = f"{ratio.rounds} round{'' if ratio.rounds == 1 else 's'}"
    if ratio.low is None:
        return f"{rounds}, too few for an interval"
    return f"{interval(ratio)} in {rounds}"


def _judged(value: float, goal: Goal) -> str:
    return f"The goal, {goal.text}, is {'met' if goal.met(value) else 'missed'}."


def _bound(*sides: Rounds) -> str:
    marks = [f"{side.server}: {', '.join(side.marks)}" for side in sides if side.marks]
    return f" Marks: {'; '.join(marks)}." if marks else ""


def _gap(what: str) -> str:
    return f"{what}: not measured for both {OURS} and {THEIRS}, so nothing is said here."
