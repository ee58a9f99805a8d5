"""Figure 7: the paper's rows and columns, with ours beside and below them."""

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
    marks_of,
    ratios,
    virtual,
    why,
)
from loadtest.experiment.rounds import (
    Gathered,
    Measure,
    Reading,
    Rounds,
    by_load,
    calls_per_request,
    connections_a_second,
    cpu_per_connection,
    cpu_per_request,
    generator_busy,
    of_memory,
    server_busy,
    switches_per_request,
    whole,
)
from loadtest.results import PAPER, Paper

NOT_IN_PAPER: Final = "the paper does not give it"
PAPERS: Final = (
    "The paper's columns are from its Figure 7: another machine, other programs, and an unknown "
    "load. They show what was compared, not what to expect from ours."
)
INTERVALS: Final = (
    "A ratio is the median of the ratios of single rounds; in brackets is its 95 % bootstrap "
    "interval over rounds (10,000 resamples). Fewer than three rounds have no interval; with three "
    "to five it is the range of the rounds, which for three has a confidence of only 75 %. “Equal” "
    "means that the interval contains 1 and stays within 3 % of it; “unclear” that it contains 1 "
    "and goes further."
)


@dataclass(frozen=True)
class Row:
    """A row of Figure 7; its name includes the unit."""

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


def figure7_section(gathered: Gathered) -> Section | None:
    tables: list[Table] = []
    for (scenario, clients), groups in by_load(gathered.part("figure7")).items():
        tables.append(figure7_table(gathered, groups, scenario, clients))
        tables.append(ratios(groups, THEIRS, f"Compared with {THEIRS}, scenario “{scenario}”"))
    if not tables:
        return None
    base = base_and_growth(gathered)
    if base:
        tables.insert(1, base)
    return Section("figure7", "Figure 7", text=(PAPERS, INTERVALS), tables=tuple(tables))


def figure7_table(
    gathered: Gathered, groups: Sequence[Rounds], scenario: str, clients: int
) -> Table:
    """The paper's four rows, then ours; the paper's two columns, then ours."""
    gaps = Gaps()
    columns = {name: find(groups, name) for name in gathered.models}
    rows = [
        (
            row.name,
            *(_paper_cell(row, paper, gaps) for paper in PAPER),
            *(_cell(gathered, name, group, row, gaps) for name, group in columns.items()),
        )
        for row in ROWS
    ]
    bound = (
        marks_of(group) if group else gaps.because(why(gathered, name))
        for name, group in columns.items()
    )
    rows.append(("Bound by", *(gaps.because(NOT_IN_PAPER) for _ in PAPER), *bound))
    return Table(
        f"{whole_number(clients)} clients, scenario “{scenario}”, medians of the rounds",
        ("", *(f"{paper.name} (paper)" for paper in PAPER), *columns),
        tuple(rows),
        gaps.notes(),
    )


def _paper_cell(row: Row, paper: Paper, gaps: Gaps) -> str:
    return row.show(row.paper(paper)) if row.paper else gaps.because(NOT_IN_PAPER)


def _cell(gathered: Gathered, server: str, group: Rounds | None, row: Row, gaps: Gaps) -> str:
    if group is None:
        return gaps.because(why(gathered, server))
    value = group.median(row.ours)
    return gaps.because(row.reason) if value is None else row.show(value)


MEMORY: Final[tuple[tuple[str, Reading], ...]] = (
    ("Physical", lambda memory: memory.rss),
    ("Private", lambda memory: memory.private),
    ("Private and kernel", whole),
    ("Virtual", virtual),
)


def base_and_growth(gathered: Gathered) -> Table | None:
    """The cost of a model before the first connection, and what the connections add."""
    if not gathered.idle:
        return None
    gaps, rows = Gaps(), []

    def shown(value: float | None, server: str) -> str:
        return gaps.because(why(gathered, server)) if value is None else kilobytes(value)

    for server in gathered.models:
        cells = []
        for _, reading in MEMORY:
            each = gathered.added(server, CONNECTIONS, reading)
            cells.append(shown(gathered.held(server, 0, reading), server))
            cells.append(shown(None if each is None else each * CONNECTIONS, server))
        rows.append((server, *cells))
    head = (column for name, _ in MEMORY for column in (f"{name}: base", "growth"))
    return Table(
        f"Base (no connections) and growth (with {CONNECTIONS} idle connections), kB",
        ("", *head),
        tuple(rows),
        (*gaps.notes(), "Kernel: the kernel stacks of the threads, and page tables."),
    )
