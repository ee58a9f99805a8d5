"""`make bench-tame`: what the operations of Tame cost, beside asyncio's.

Times on a shared machine drift by a factor of two within minutes, so every candidate runs once in
each round, and what counts is the ratio to its neighbour.  What is measured stands in
`tame_operations.py`, `tame_primitives.py` and, for memory, in `tame_memory.py`; this file runs it
and makes the tables.
"""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from statistics import median, quantiles
from typing import Any

import click
import uvloop
from tabulate import tabulate

import tame
from knot.process.spawn import python
from loadtest.micro import tame_operations as ops
from loadtest.micro import tame_primitives as primitives
from loadtest.micro.tame_memory import BLOCKED, CALLS
from tame.drivers import DRIVERS

ROUNDS = 11
MEMORY_ROUNDS = 3

HEAD = """\
Tame beside asyncio: Python {python}, uvloop {uvloop}, {rounds} rounds.

How to read it.  Each figure is CPU time (user and system) for one operation in ns: the median of
the rounds, and in brackets the quartiles.  In each round every candidate runs once, on a loop of
its own, uvloop unless the line says otherwise, with the garbage collector as Python sets it.  The
ratio is that of the medians, with the quartiles of the ratios round by round; below 1 Tame is
cheaper.  The goal is never to be dearer than asyncio, and to cost half where a wait or a call
need not block.
"""


# -- what is compared ---------------------------------------------------------------------------


Function = Callable[[int, ops.Clock], Any]
"""Does so many operations and times them."""


@dataclass(frozen=True)
class Candidate:
    """Something to measure."""

    function: Function
    operations: int
    driver: str | None = None
    """The driver that Tame runs it on; None for a coroutine, which uvloop runs."""


@dataclass(frozen=True)
class Comparison:
    """One line of a table: an operation in Tame, and one way to say the same in asyncio."""

    operation: str
    tame: Candidate
    words: str
    """The asyncio way, in a few words."""
    peer: Candidate
    goal: float
    """What the ratio Tame/asyncio is to be at most."""


def compare(
    operation: str,
    operations: int,
    function: Function,
    peers: Mapping[str, Function],
    goal: float = 1.0,
    driver: str = "uvloop",
) -> list[Comparison]:
    """An operation of Tame beside each of its peers."""
    ours = Candidate(function, operations, driver)
    return [
        Comparison(operation, ours, words, Candidate(peer, operations), goal)
        for words, peer in peers.items()
    ]


crowd_of_tasks = partial(ops.sleeping_tasks, ops.CROWD)

MAKING = [
    *compare(
        "make and trigger an event",
        50_000,
        ops.make_events,
        {"create_future(), set_result()": ops.make_futures},
    ),
    *compare(
        "make and trigger an event with a slot",
        50_000,
        ops.make_events_with_slot,
        {"create_future(), set_result(), result()": ops.make_futures_with_result},
    ),
]

BLOCKING = [
    *compare(
        "`with twait:` over an event that blocks, a crowd of 1,000 closures",
        50_000,
        partial(ops.sleepers, ops.CROWD),
        {"await future, a crowd of 1,000 tasks": crowd_of_tasks},
    ),
    *compare(
        "the same, two closures that wake each other",
        30_000,
        partial(ops.sleepers, 2),
        {"two tasks": partial(ops.sleeping_tasks, 2)},
    ),
    *compare(
        "`with twait:` over 100 events that block, for each",
        100_000,
        ops.wait_for_batches,
        {"gather(*futures)": ops.gather_batches},
    ),
    *compare(
        "a window of 100 over 10,000 events, for each",
        10_000,
        ops.window,
        {
            "100 worker tasks": ops.window_of_workers,
            "10,000 tasks, semaphore": ops.window_of_tasks,
            "as_completed(), semaphore": ops.window_as_completed,
        },
    ),
    *compare(
        "call a tamed function that blocks once, to its end",
        20_000,
        ops.closures_that_block_once,
        {"create_task(), await future, gather()": ops.tasks_that_block_once},
    ),
]

NOT_BLOCKING = [
    *compare(
        "`with twait:` over an event that need not block",
        50_000,
        ops.wait_for_spent_events,
        {"await a future that blocks": crowd_of_tasks, "await done future": ops.await_done_futures},
        goal=0.5,
    ),
    *compare(
        "the same, its value into a slot",
        50_000,
        ops.wait_for_answers,
        {"value = await coroutine()": ops.await_answers},
        goal=0.5,
    ),
    *compare(
        "`twait(r)` for an event that has triggered",
        50_000,
        ops.wait_for_spent_rendezvous,
        {"await done future": ops.await_done_futures},
        goal=0.5,
    ),
    *compare(
        "`with twait:` over 100 events that need not block, for each",
        100_000,
        ops.wait_for_spent_batches,
        {"gather(*futures), all done": ops.gather_done_batches},
        goal=0.5,
    ),
    *compare(
        "call a tamed function that waits, but not now",
        50_000,
        ops.call_cached,
        {"await coroutine()": ops.await_cached, "await create_task()": ops.await_task},
        goal=0.5,
    ),
    *compare(
        "call a tamed function without a wait",
        50_000,
        ops.call_plain,
        {"await coroutine()": ops.await_plain},
        goal=0.5,
    ),
]


def bytes_over(pairs: int) -> dict[str, Function]:
    players = {
        "add_reader() once, await future": primitives.play_with_reader,
        "sock_recv(), sock_sendall()": primitives.play_with_sock_recv,
    }
    return {
        words: partial(primitives.play_pairs_with, player, pairs)
        for words, player in players.items()
    }


def naps(seconds: float, crowd: int) -> dict[str, Function]:
    return {"call_later(), await future": partial(primitives.napping_tasks, seconds, crowd)}


@dataclass(frozen=True)
class Primitive:
    """An operation on descriptors or time, to be measured on each driver."""

    operation: str
    operations: int
    function: Function
    peers: Mapping[str, Function]


PRIMITIVES = [
    Primitive(
        "wait for a byte, read it, answer; one pair of sockets",
        5_000,
        partial(primitives.play_pairs, 1),
        bytes_over(1),
    ),
    Primitive(
        "the same, 100 pairs",
        10_000,
        partial(primitives.play_pairs, 100),
        bytes_over(100),
    ),
    Primitive(
        "timer(0), one closure",
        5_000,
        partial(primitives.naps, 0, 1),
        naps(0, 1),
    ),
    Primitive(
        "timer(0), 1,000 closures",
        20_000,
        partial(primitives.naps, 0, ops.CROWD),
        naps(0, ops.CROWD),
    ),
    Primitive(
        "timer(0.001), 1,000 closures",
        20_000,
        partial(primitives.naps, 0.001, ops.CROWD),
        naps(0.001, ops.CROWD),
    ),
]


def on_each_driver(primitive: Primitive) -> list[Comparison]:
    return [
        comparison
        for driver in DRIVERS
        for comparison in compare(
            f"{primitive.operation}: {driver}",
            primitive.operations,
            primitive.function,
            primitive.peers,
            driver=driver,
        )
    ]


TABLES = {
    "Events": MAKING,
    "Waits that block": BLOCKING,
    "Waits and calls that need not block": NOT_BLOCKING,
    "Descriptors and time, by driver": [
        comparison for primitive in PRIMITIVES for comparison in on_each_driver(primitive)
    ],
}


# -- measuring ----------------------------------------------------------------------------------

Figures = dict[Candidate, list[float]]
"""ns for one operation, round by round."""


def measure(rounds: int) -> Figures:
    """Every candidate in every round, by turns forwards and backwards."""
    comparisons = [comparison for table in TABLES.values() for comparison in table]
    figures: Figures = {}
    for comparison in comparisons:
        figures[comparison.tame] = []
        figures[comparison.peer] = []
    with click.progressbar(range(rounds), label="Rounds", file=sys.stderr) as bar:
        for number in bar:
            for candidate in list(figures)[:: 1 if number % 2 else -1]:
                figures[candidate].append(once(candidate))
    return figures


def once(candidate: Candidate) -> float:
    """ns for one operation."""
    clock = ops.Clock()
    gc.collect()  # what the one before left is not this one's to pay for
    if candidate.driver is None:
        uvloop.run(candidate.function(candidate.operations, clock))
    else:
        tame.run(candidate.function, candidate.operations, clock, driver=candidate.driver)
    return clock.elapsed / candidate.operations


def probe(name: str) -> list[float]:
    """What the probe `name` of `tame_memory` finds, in a fresh process."""
    command = python("-m", "loadtest.micro.tame_memory", name)
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [float(number) for number in found.stdout.split()]


# -- showing ------------------------------------------------------------------------------------


def spread(values: list[float], digits: int, middle: float | None = None) -> str:
    """The median, or what is to stand for it, and the quartiles."""
    low, _, high = quantiles(values, n=4, method="inclusive")
    shown = median(values) if middle is None else middle
    return f"{shown:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def line(comparison: Comparison, figures: Figures) -> list[str]:
    """The cells of one comparison."""
    ours, theirs = figures[comparison.tame], figures[comparison.peer]
    ratio = median(ours) / median(theirs)
    return [
        comparison.operation,
        spread(ours, 0),
        comparison.words,
        spread(theirs, 0),
        spread([a / b for a, b in zip(ours, theirs, strict=True)], 2, middle=ratio),
        f"≤ {comparison.goal}",
        "yes" if ratio <= comparison.goal else "no",
    ]


def show(title: str, head: list[str], lines: Iterable[list[str]]) -> None:
    click.echo(f"\n### {title}\n")
    click.echo(tabulate(list(lines), head, tablefmt="pipe", disable_numparse=True))


def show_memory() -> None:
    closures = [probe("blocked-closures")[0] for _ in range(MEMORY_ROUNDS)]
    tasks = [probe("blocked-tasks")[0] for _ in range(MEMORY_ROUNDS)]
    ratio = median(closures) / median(tasks)
    show(
        f"Private memory of what waits for one event, in bytes ({BLOCKED:,} of each, a fresh"
        f" process each, {MEMORY_ROUNDS} rounds)",
        ["Tame: a blocked closure", "asyncio on uvloop: a task", "Tame/asyncio", "goal", "met"],
        [
            [
                spread(closures, 0),
                spread(tasks, 0),
                f"{ratio:.2f}",
                "≤ 1.0",
                "yes" if ratio <= 1 else "no",
            ]
        ],
    )
    [left] = probe("growth")
    click.echo(f"\nAfter {CALLS:,} calls that block once: {left:,.0f} bytes more (tracemalloc).")
    programs = {
        "Python with `functools` and `typing`": "python",
        "Tame on epoll": "tame-epoll",
        "Tame on asyncio": "tame-asyncio",
        "Tame on uvloop": "tame-uvloop",
        "a coroutine on asyncio": "asyncio",
        "a coroutine on uvloop": "uvloop",
    }
    show(
        "Memory of a process that has waited once, in kB",
        ["program", "private", "resident"],
        [
            [program, *(f"{number / 1024:,.0f}" for number in probe(name))]
            for program, name in programs.items()
        ],
    )
    click.echo("\nPages of files that another process has mapped, too, are resident, not private.")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(min=2))
def main(rounds: int) -> None:
    """Measure the operations of Tame beside asyncio's and print tables for the documentation."""
    click.echo(
        HEAD.format(python=platform.python_version(), uvloop=version("uvloop"), rounds=rounds)
    )
    figures = measure(rounds)
    head = ["operation", "Tame, ns", "asyncio on uvloop", "ns", "Tame/asyncio", "goal", "met"]
    for title, comparisons in TABLES.items():
        show(title, head, [line(comparison, figures) for comparison in comparisons])
    show_memory()


if __name__ == "__main__":
    main()
