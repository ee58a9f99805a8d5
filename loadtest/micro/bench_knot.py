"""`make bench-knot`: the cost of a request to Knot, nginx and the other servers of Python.

Each server runs on one core and wrk on the other.  Every server has a turn in each round, because
the speed of a shared machine drifts by a factor of two within minutes; the ratio of the medians
over the rounds is compared.  CPU per request is the user and system time of all processes of a
server, divided by the requests that wrk counted: it is valid even where wrk was the limit.  The
cases are in `knot_cases.py`, the servers in `loadtest.servers`, and `knot_load.py` measures; this
file makes the tables.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median, quantiles
from typing import Final

import click
from tabulate import tabulate

from loadtest.micro.knot_cases import (
    CASES,
    CONNECTIONS,
    IDLE,
    IDLE_TLS,
    START,
    Case,
    chosen,
    describe_mix,
    write_files,
)
from loadtest.micro.knot_load import (
    Figures,
    Memory,
    Row,
    measure,
    measure_memory,
)
from loadtest.processes import raise_descriptors
from loadtest.servers import Server, ServerError, knot, nginx, peers

ROUNDS: Final = 5
SECONDS: Final = 2
BUSY: Final = 0.9
"""Share of a core: a server below that waited for wrk."""

HEAD: Final = """\
Rounds: {rounds} of {seconds} s, {connections} connections unless the case says otherwise, each
server on one core, wrk on the other. Python {python}, {nginx}. A process may have {descriptors:,}
descriptors.

CPU per request is the user and system time of all processes of a server, divided by the requests
that wrk counted: the median of the rounds. The ratio is that of the medians, with the quartiles of
the ratios of single rounds. *Generator-bound* marks a row in which a server was less than 90 %
busy: its CPU per request is valid, but its throughput is that of wrk.

{mix}
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(min=1))
@click.option("--seconds", default=SECONDS, show_default=True, type=click.IntRange(min=1))
@click.option("--only", default="", help="Measure only cases whose names contain this.")
def main(rounds: int, seconds: int, only: str) -> None:
    """Compare Knot with nginx and others, and print tables for the documentation."""
    for program, package in {"wrk": "wrk", "taskset": "util-linux"}.items():
        if shutil.which(program) is None:
            sys.exit(f"bench-knot needs {program}: install the Debian package {package}")
    descriptors = raise_descriptors()
    ours, reference = knot("Knot", environment={"TAME_DRIVER": "uvloop"}), nginx()
    drivers = [
        knot(f"Knot on {driver}", environment={"TAME_DRIVER": driver})
        for driver in ("asyncio", "epoll")
    ]
    others, missing = peers()
    pair = [ours, *([reference] if reference else [])]
    everyone = [*pair, *drivers, *others]
    click.echo(
        HEAD.format(
            rounds=rounds,
            seconds=seconds,
            connections=CONNECTIONS,
            python=platform.python_version(),
            nginx=reference.label if reference else "no nginx",
            descriptors=descriptors,
            mix=describe_mix(),
        )
    )
    if reference is None:
        click.echo("nginx is left out: install the Debian package nginx-light.\n")
    with tempfile.TemporaryDirectory() as work:
        os.chmod(work, 0o755)
        root = Path(work, "root")
        write_files(root)
        try:
            figures = measure(chosen(only), pair, everyone, root, rounds, seconds)
            memory = measure_memory(only, pair, everyone, root)
        except ServerError as error:
            sys.exit(str(error))
    show("Knot beside nginx", MAIN_HEAD, main_lines(figures, memory))
    for note in notes(figures):
        click.echo(f"\n{note}")
    show("The other servers of Python", OTHERS_HEAD, lines_of([ours, *others], figures, memory))
    if missing:
        click.echo(f"\nLeft out: {', '.join(missing)}; pip install '.[peers]' installs them.")
    show("Knot on each driver", OTHERS_HEAD, lines_of([ours, *drivers], figures, memory))


# -- showing ------------------------------------------------------------------------------------

MAIN_HEAD: Final = [
    "case",
    "Knot",
    "nginx",
    "Knot/nginx",
    "goal",
    "met",
    "Knot, requests/s",
    "nginx, requests/s",
    "busy: Knot, nginx",
]
OTHERS_HEAD: Final = ["case", "server", "CPU/request", "of nginx", "requests/s", "busy"]
UNKNOWN: Final = "-"


def show(title: str, head: list[str], lines: list[list[str]]) -> None:
    if lines:
        click.echo(f"\n### {title}\n")
        click.echo(tabulate(lines, head, tablefmt="github", disable_numparse=True))


def main_lines(figures: Figures, memory: Memory) -> list[list[str]]:
    lines = [main_line(case, figures) for case in CASES if (case.name, "Knot") in figures]
    for case in (IDLE, IDLE_TLS, START):
        if (case.name, "Knot") in memory:
            lines.append(memory_line(case, memory))
    return lines


def main_line(case: Case, figures: Figures) -> list[str]:
    both = [figures[case.name, name] for name in ("Knot", "nginx") if (case.name, name) in figures]
    other = (case.against, "Knot") if case.against else (case.name, "nginx")
    ours, theirs = figures[case.name, "Knot"], figures.get(other)
    measured = [f"{middle(rows, 'cpu'):,.1f} µs" for rows in both]
    rates = [f"{middle(rows, 'rate'):,.0f}" for rows in both]
    return [
        case.name,
        *pad(measured),
        ratio(ours, theirs),
        f"≤ {case.goal:.2f}",
        met(middle(ours, "cpu") / middle(theirs, "cpu") <= case.goal) if theirs else UNKNOWN,
        *pad(rates),
        busy(*both),
    ]


def memory_line(case: Case, memory: Memory) -> list[str]:
    ours, theirs = memory[case.name, "Knot"], memory.get((case.name, "nginx"))
    return [
        case.name,
        amount(ours),
        amount(theirs) if theirs is not None else UNKNOWN,
        f"{ours / theirs:.2f}" if theirs else UNKNOWN,
        f"≤ {amount(case.goal)}",
        met(ours <= case.goal),
        *[""] * 3,
    ]


def lines_of(servers: list[Server], figures: Figures, memory: Memory) -> list[list[str]]:
    """These servers compared with nginx, in the cases for all servers."""
    lines = []
    for case in CASES:
        for server in servers if case.everyone else []:
            if rows := figures.get((case.name, server.name)):
                cost, rate = middle(rows, "cpu"), middle(rows, "rate")
                of_nginx = ratio(rows, figures.get((case.name, "nginx")))
                lines.append(
                    [
                        case.name,
                        server.label,
                        f"{cost:,.1f} µs",
                        of_nginx,
                        f"{rate:,.0f}",
                        busy(rows),
                    ]
                )
    for server in servers:
        if (found := memory.get((START.name, server.name))) is not None:
            theirs = memory.get((START.name, "nginx"))
            of_nginx = f"{found / theirs:.2f}" if theirs else UNKNOWN
            lines.append([START.name, server.label, amount(found), of_nginx, "", ""])
    return lines


def notes(figures: Figures) -> list[str]:
    """What the tables have no column for: connections held, and errors."""
    found = []
    for case in CASES:
        for (name, server), rows in figures.items():
            if name != case.name:
                continue
            if case.against:
                own = ratio(rows, figures[case.against, server])
                held = f"{median(row.held for row in rows):,.0f} connections"
                found.append(f"{case.name}: {server} held {held}; {own} of its own cost.")
            if errors := sum((row.errors for row in rows), Counter[str]()):
                kinds = ", ".join(f"{kind} {number:,}" for kind, number in errors.items())
                found.append(f"{case.name}: {server} had socket errors in wrk: {kinds}.")
    return found


def ratio(ours: list[Row], theirs: list[Row] | None) -> str:
    """The ratio of the medians, and the quartiles of the ratios of single rounds."""
    if theirs is None:
        return UNKNOWN
    ratios = [a.cpu / b.cpu for a, b in zip(ours, theirs, strict=True)]
    low, _, high = quantiles(ratios if len(ratios) > 1 else ratios * 2, n=4, method="inclusive")
    return f"{middle(ours, 'cpu') / middle(theirs, 'cpu'):.2f} ({low:.2f}-{high:.2f})"


def middle(rows: list[Row], column: str) -> float:
    return median(float(getattr(row, column)) for row in rows)


def busy(*each: list[Row]) -> str:
    shares = [middle(rows, "busy") for rows in each]
    shown = ", ".join(f"{share:.0%}" for share in shares)
    return shown + (" (generator-bound)" if min(shares) < BUSY else "")


def amount(number: float) -> str:
    return f"{number / 2**20:.1f} MiB" if number >= 2**20 else f"{number:,.0f} B"


def met(is_met: bool) -> str:
    return "yes" if is_met else "no"


def pad(cells: list[str]) -> list[str]:
    return cells if len(cells) == 2 else [*cells, UNKNOWN]


if __name__ == "__main__":
    main()
