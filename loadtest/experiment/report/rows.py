"""What the tables of several sections share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from loadtest.experiment.intervals import paired
from loadtest.experiment.report.numbers import counted, spread
from loadtest.experiment.report.page import GAP, Gaps, Table
from loadtest.experiment.rounds import GENERATOR_BOUND, Rounds, cpu_per_request, requests_a_second
from loadtest.results import Memory, Result

Show = Callable[[float], str]

NO_ANSWER: Final = "no request had the right answer"
NO_COUNT: Final = "not counted in these runs"


def ratios(groups: Sequence[Rounds], base: str, caption: str) -> Table:
    """Every server's throughput and CPU beside those of `base`, round by round."""
    gaps = Gaps()
    theirs = find(groups, base)
    rows = []
    for group in groups:
        if group.server == base:
            continue
        bound = any(side.generator_bound for side in (group, theirs) if side)
        cells: list[str] = []
        for measure in (requests_a_second, cpu_per_request):
            other = theirs.values(measure) if theirs else {}
            ratio = paired(group.values(measure), other)
            if ratio is None:
                cells += [gaps.because(f"no round in common with {base}")] * 2
            elif bound and measure is requests_a_second:
                cells += [spread(ratio), GENERATOR_BOUND]  # it says nothing of the servers
            else:
                cells += [spread(ratio), ratio.verdict]
        rows.append((group.server, *cells))
    names = (f"{what}: ratio to {base}" for what in ("Requests/s", "CPU per request"))
    head = ("", *(column for name in names for column in (name, "Verdict")))
    return Table(caption, head, tuple(rows), gaps.notes())


def why(result: Result, server: str) -> str:
    """The reasons that the experiment gives for what this server lacks: those under its name, or
    under a name that begins with its own, as ``pool, 1,024 connections``."""
    names = [server, *(one.name for one in result.servers)]

    def owner(what: str) -> str:
        return max((name for name in names if what.startswith(name)), key=len, default="")

    reasons = [f"{what}: {why}" for what, why in result.missing.items() if owner(what) == server]
    if reasons:
        return "; ".join(reasons)
    return "not in this result" + ("; see “What is missing”" if result.missing else "")


def virtual(memory: Memory) -> float:
    return memory.virtual


def find(groups: Sequence[Rounds], server: str) -> Rounds | None:
    return next((group for group in groups if group.server == server), None)


def marks_said(group: Rounds | None) -> str:
    return (counted(group.marks, len(group.runs)) if group else "") or GAP


def models(result: Result) -> list[str]:
    return [server.name for server in result.servers if server.kind == "model"]


def servers(result: Result, groups: Sequence[Rounds], *, all_models: bool = False) -> list[str]:
    """In the result's order; with `all_models` those without a run, too, which then are gaps."""
    there = {group.server for group in groups} | set(models(result) if all_models else ())
    return [server.name for server in result.servers if server.name in there]


def held_servers(result: Result) -> list[str]:
    there = {one.server for one in result.held} | set(models(result))
    return [server.name for server in result.servers if server.name in there]
