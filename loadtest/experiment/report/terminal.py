"""The end of a run, on a terminal of 80 columns."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from loadtest.experiment.report.headlines import CONNECTIONS, figure7, headlines
from loadtest.experiment.report.numbers import kilobytes, kilobytes_each, microseconds, whole_number
from loadtest.experiment.report.page import GAP
from loadtest.experiment.rounds import (
    Rounds,
    added,
    connections_a_second,
    cpu_per_connection,
    gather,
    holding,
    of_memory,
)
from loadtest.results import PAPER, Result

COLUMNS = ("conn/s", "threads", "physical", "virtual", "added/c", "µs/c")


def show(result: Result, console: Console) -> None:
    """Prints what came out: the headlines, Figure 7, and what to be careful about."""
    if result.environment.loaded:
        console.print(f"[bold]The machine was not quiet:[/] {escape(result.environment.loaded)}")
    for headline in headlines(result):
        console.print(Text(f"• {headline}"))
    console.print(_figure7(result))
    console.print(
        "Memory in kB; added/c: private memory that one of 350 idle connections adds;\n"
        "µs/c: CPU per connection. The paper's: another machine, an unknown load.\n"
        f"{GAP}: not measured, or not given by the paper.",
        style="dim",
    )
    for mark, servers in _marked(result).items():
        console.print(Text(f"{mark}: {'; '.join(servers)}"))
    wrong = {group.server for group in gather(result.runs) if group.errors}
    if wrong:
        console.print(Text(f"Errors from {', '.join(sorted(wrong))}; the report has them."))
    for what, reason in result.missing.items():
        console.print(Text(f"Left out: {what}: {reason}"))


def _figure7(result: Result) -> Table:
    """Servers down, unlike the paper's table: eight columns of memory are wider than a terminal."""
    table = Table(
        title=f"{CONNECTIONS} connections, one request each", box=box.SIMPLE_HEAD, padding=(0, 1)
    )
    table.add_column("")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for paper in PAPER:
        values = (paper.throughput, paper.threads, paper.physical / 1000, paper.virtual / 1000)
        table.add_row(f"{paper.name} (paper)", *map(whole_number, values), GAP, GAP, style="dim")
    for server in result.servers:
        if server.kind == "model":
            table.add_row(escape(server.name), *_cells(result, server.name))
    return table


def _cells(result: Result, server: str) -> list[str]:
    group = figure7(result, server)
    each = added(holding(result.held), server, CONNECTIONS, lambda memory: memory.private)
    under_load = _of_runs(group) if group else [GAP] * 4
    cpu = group.median(cpu_per_connection) if group else None
    return [
        *under_load,
        GAP if each is None else kilobytes_each(each),
        GAP if cpu is None else microseconds(cpu),
    ]


def _of_runs(group: Rounds) -> list[str]:
    measures = (
        (connections_a_second, whole_number),
        (of_memory(lambda memory: memory.threads), whole_number),
        (of_memory(lambda memory: memory.rss), kilobytes),
        (of_memory(lambda memory: memory.virtual), kilobytes),
    )
    values = ((group.median(measure), show) for measure, show in measures)
    return [GAP if value is None else show(value) for value, show in values]


def _marked(result: Result) -> dict[str, list[str]]:
    """What bounded the rows above: servers by mark."""
    found: dict[str, list[str]] = {}
    for server in result.servers:
        group = figure7(result, server.name)
        for mark in group.marks if group else ():
            found.setdefault(mark, []).append(server.name)
    return found
