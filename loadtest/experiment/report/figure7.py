"""Figure 7: the paper's rows and columns, and ours beside and below them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from loadtest.experiment.report.headlines import CONNECTIONS, THEIRS
from loadtest.experiment.report.numbers import kilobytes, microseconds, percent, short, whole_number
from loadtest.experiment.report.page import Gaps, Section, Table
from loadtest.experiment.report.rows import (
    NO_ANSWER,
    NO_COUNT,
    Show,
    find,
    marks_said,
    models,
    ratios,
    virtual,
    why,
)
from loadtest.experiment.rounds import (
    Measure,
    Rounds,
    added,
    calls_per_request,
    connections_a_second,
    cpu_per_connection,
    cpu_per_request,
    generator_busy,
    held_bytes,
    holding,
    of_memory,
    server_busy,
    switches_per_request,
    whole,
)
from loadtest.results import PAPER, Paper, Result

NOT_IN_PAPER: Final = "the paper does not give it"
PAPERS: Final = (
    "The paper's columns are from its Figure 7: another machine, other programs, and a load that "
    "is not known. They show what was compared, not what to expect beside ours."
)
INTERVALS: Final = (
    "Ratios are medians of the ratios of single rounds; in brackets the 95 % bootstrap interval "
    "over rounds (10,000 resamples). Of fewer than three rounds there is none; of three to five it "
    "is the range of the rounds, and of three it holds only 75 %. “Equal” means that it holds 1 "
    "and stays within 3 % of it, “unclear” that it holds 1 and does not."
)


@dataclass(frozen=True)
class Row:
    """A measurement of Figure 7, named with its unit."""

    name: str
    ours: Measure
    show: Show
    paper: Callable[[Paper], float] | None = None
    reason: str = "not read in these runs"


ROWS: Final = (
    Row(
        "Throughput (connections/s)",
        connections_a_second,
        whole_number,
        lambda paper: paper.throughput,
    ),
    Row(
        "Number of threads",
        of_memory(lambda memory: memory.threads),
        whole_number,
        lambda paper: paper.threads,
    ),
    Row(
        "Physical memory (kB)",
        of_memory(lambda memory: memory.rss),
        kilobytes,
        lambda paper: paper.physical,
    ),
    Row(
        "Virtual memory (kB)",
        of_memory(lambda memory: memory.virtual),
        kilobytes,
        lambda paper: paper.virtual,
    ),
    Row("Private memory (kB)", of_memory(lambda memory: memory.private), kilobytes),
    Row("Kernel stacks (kB)", of_memory(lambda memory: memory.kernel_stacks), kilobytes),
    Row("Page tables (kB)", of_memory(lambda memory: memory.page_tables), kilobytes),
    Row("CPU per connection (µs)", cpu_per_connection, microseconds, reason=NO_ANSWER),
    Row("CPU per request (µs)", cpu_per_request, microseconds, reason=NO_ANSWER),
    Row("System calls per request", calls_per_request, short, reason=NO_COUNT),
    Row("Context switches per request", switches_per_request, short, reason=NO_COUNT),
    Row("Server busy (of a core)", server_busy, percent),
    Row("Generator busy", generator_busy, percent),
)


def figure7_section(result: Result, groups: Sequence[Rounds]) -> Section | None:
    mine = [group for group in groups if group.part == "figure7"]
    tables: list[Table] = []
    for scenario, clients in dict.fromkeys((one.scenario, one.clients) for one in mine):
        these = [one for one in mine if (one.scenario, one.clients) == (scenario, clients)]
        tables.append(figure7_table(result, these, scenario, clients))
        tables.append(ratios(these, THEIRS, f"Beside {THEIRS}, scenario “{scenario}”"))
    if not tables:
        return None
    base = base_and_growth(result)
    if base:
        tables.insert(1, base)
    return Section("figure7", "Figure 7", text=(PAPERS, INTERVALS), tables=tuple(tables))


def figure7_table(result: Result, groups: Sequence[Rounds], scenario: str, clients: int) -> Table:
    """The paper's four rows, then ours; the paper's two columns, then ours."""
    gaps = Gaps()
    models = [server.name for server in result.servers if server.kind == "model"]
    columns = {name: find(groups, name) for name in models}
    rows = [
        (
            row.name,
            *(_paper_cell(row, paper, gaps) for paper in PAPER),
            *(_cell(result, name, group, row, gaps) for name, group in columns.items()),
        )
        for row in ROWS
    ]
    bound = (
        marks_said(group) if group else gaps.because(why(result, name))
        for name, group in columns.items()
    )
    rows.append(("Bound by", *(gaps.because(NOT_IN_PAPER) for _ in PAPER), *bound))
    return Table(
        f"{whole_number(clients)} clients, scenario “{scenario}”, medians of the rounds",
        ("", *(f"{paper.name} (paper)" for paper in PAPER), *models),
        tuple(rows),
        gaps.notes(),
    )


def _paper_cell(row: Row, paper: Paper, gaps: Gaps) -> str:
    return row.show(row.paper(paper)) if row.paper else gaps.because(NOT_IN_PAPER)


def _cell(result: Result, server: str, group: Rounds | None, row: Row, gaps: Gaps) -> str:
    if group is None:
        return gaps.because(why(result, server))
    value = group.median(row.ours)
    return gaps.because(row.reason) if value is None else row.show(value)


def base_and_growth(result: Result) -> Table | None:
    """What a model costs before the first connection, and what the connections add."""
    if not result.held:
        return None
    gaps, held, rows = Gaps(), holding(result.held), []

    def shown(value: float | None, server: str) -> str:
        return gaps.because(why(result, server)) if value is None else kilobytes(value)

    for server in models(result):
        measures = (lambda memory: memory.rss, lambda memory: memory.private, whole, virtual)
        cells = []
        for measure in measures:
            base = held_bytes(held, server, 0, measure)
            each = added(held, server, CONNECTIONS, measure)
            grown = None if each is None else each * CONNECTIONS
            cells += [shown(base, server), shown(grown, server)]
        rows.append((server, *cells))
    names = ("Physical", "Private", "Private and kernel's", "Virtual")
    head = (column for name in names for column in (f"{name}: base", "growth"))
    return Table(
        f"Base (no connection) and growth (with {CONNECTIONS} idle ones), kB",
        ("", *head),
        tuple(rows),
        (*gaps.notes(), "The kernel's: the threads' stacks in the kernel, and page tables."),
    )
