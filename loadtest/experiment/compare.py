"""Two results of the experiment beside each other: has something become worse?

The two were made at different times, so no round of one belongs to a round of the other, and both
sides' rounds are resampled on their own.  A machine, too, is faster on one day than on another;
what shows that is what did not change in between: the peers and the null server, if their versions
are the same in both results.  They are the measure of the noise.

**Beyond noise** is a change for the worse whose whole interval lies further from 1 than the margin.
The margin is 3 %, or, where that is more, the largest change that the same measure shows for any
server that did not change.  Rows without an interval (fewer than three rounds on a side), and
throughput that the generator bounded, are shown and never judged.

A comparison has hundreds of rows, so chance has hundreds of tries: measure again what fails by one
row.  Simulated, with nothing changed and rounds that differ by 5 %, 1 of 24 comparisons of three
rounds failed, and none of 24 of five.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from loadtest import results
from loadtest.experiment.intervals import EQUAL, Ratio, independent
from loadtest.experiment.report.numbers import (
    interval,
    kilobytes,
    microseconds,
    percent,
    short,
    whole_number,
)
from loadtest.experiment.rounds import (
    GENERATOR_BOUND,
    Measure,
    Rounds,
    cpu_per_request,
    gather,
    holding,
    of_memory,
    requests_a_second,
)
from loadtest.results import Result

CPU: Final = "CPU per request"
THROUGHPUT: Final = "throughput"
PRIVATE: Final = "private memory"

MEASURES: Final[Mapping[str, Measure]] = {
    CPU: cpu_per_request,
    THROUGHPUT: requests_a_second,
    PRIVATE: of_memory(lambda memory: memory.private),
}
WORSE: Final[Mapping[str, str]] = {CPU: "higher", THROUGHPUT: "lower", PRIVATE: "higher"}


@dataclass(frozen=True)
class Row:
    part: str
    scenario: str
    server: str
    clients: int
    share: float | None
    measure: str
    before: float
    """Median: seconds, requests a second or bytes."""
    after: float
    ratio: Ratio
    """After over before."""
    note: str = ""
    """Why it is not judged; empty if it is."""

    def worse_than(self, margin: float) -> bool:
        """Whether the whole interval lies beyond the margin, on the bad side."""
        if self.note or self.ratio.low is None or self.ratio.high is None:
            return False
        if WORSE[self.measure] == "higher":
            return self.ratio.low > 1 + margin
        return self.ratio.high < 1 - margin


@dataclass(frozen=True)
class Comparison:
    rows: tuple[Row, ...]
    margins: Mapping[str, float]
    """By measure: how far from 1 is noise."""
    regressions: tuple[Row, ...]
    differences: tuple[str, ...]
    """Of settings and machines: what else may have changed a figure."""
    only: tuple[str, ...]
    """What one of the two has and the other has not."""


def compare(before: Result, after: Result) -> Comparison:
    rows = (*_run_rows(before, after), *_held_rows(before, after))
    same = unchanged(before, after)
    margins = {measure: _margin(rows, measure, same) for measure in MEASURES}
    regressions = tuple(
        row for row in rows if row.server not in same and row.worse_than(margins[row.measure])
    )
    return Comparison(
        rows=rows,
        margins=margins,
        regressions=regressions,
        differences=tuple(_differences(before, after)),
        only=tuple(_only(before, after)),
    )


def unchanged(before: Result, after: Result) -> frozenset[str]:
    """Servers that are not ours and of the same version in both."""
    sides = (
        {(one.name, one.version) for one in side.servers if one.kind != "model"}
        for side in (before, after)
    )
    return frozenset(name for name, _ in set.intersection(*sides))


def _margin(rows: Iterable[Row], measure: str, same: frozenset[str]) -> float:
    shifts = (
        max(row.ratio.value, 1 / row.ratio.value) - 1
        for row in rows
        if row.measure == measure and row.server in same and not row.note and row.ratio.value > 0
    )
    return max(EQUAL, *shifts, 0)


def _run_rows(before: Result, after: Result) -> Iterable[Row]:
    earlier = {_key(group): group for group in gather(before.runs)}
    for group in gather(after.runs):
        other = earlier.get(_key(group))
        if other is None:
            continue
        for name, measure in MEASURES.items():
            if name == THROUGHPUT and group.rate is not None:
                continue  # it is what was asked for
            row = _row(name, measure, other, group)
            if row:
                yield row


def _row(name: str, measure: Measure, before: Rounds, after: Rounds) -> Row | None:
    was, now = (list(side.values(measure).values()) for side in (before, after))
    ratio = independent(now, was)
    if ratio is None:
        return None
    where = (after.part, after.scenario, after.server, after.clients, after.share)
    note = _note(name, before, after) or _few(ratio)
    return Row(*where, name, median(was), median(now), ratio, note)


def _held_rows(before: Result, after: Result) -> Iterable[Row]:
    """Private memory of idle connections; each reading counts as a round."""

    earlier = holding(before.held)
    for server, readings in holding(after.held).items():
        for count, memories in readings.items():
            was = [one.private for one in earlier.get(server, {}).get(count, ())]
            now = [one.private for one in memories]
            ratio = independent(now, was)
            if ratio is not None:
                where = ("memory", "idle", server, count, None)
                middles = (float(median(was)), float(median(now)))
                yield Row(*where, PRIVATE, *middles, ratio, _few(ratio))


def _key(group: Rounds) -> tuple[object, ...]:
    """A constant rate is a share of a maximum that two results need not have in common."""
    level = group.rate if group.share is None else group.share
    return group.part, group.scenario, group.server, group.clients, level


def _note(measure: str, *sides: Rounds) -> str:
    bound = measure == THROUGHPUT and any(side.generator_bound for side in sides)
    return GENERATOR_BOUND if bound else ""


def _few(ratio: Ratio) -> str:
    return "too few rounds" if ratio.low is None else ""


def _differences(before: Result, after: Result) -> Iterable[str]:
    one, two = before.environment, after.environment
    for name in ("kernel", "processor", "cores", "memory", "python", "pinned"):
        if getattr(one, name) != getattr(two, name):
            yield f"{name}: {getattr(one, name)}, then {getattr(two, name)}"
    for was, now in (
        (before.settings, after.settings),
        (one.packages, two.packages),
        (one.limits, two.limits),
    ):
        for name in sorted({*was, *now}):
            if was.get(name) != now.get(name):
                yield f"{name}: {was.get(name, 'none')}, then {now.get(name, 'none')}"
    for when, side in (("before", one), ("after", two)):
        if side.loaded:
            yield f"the machine was not quiet {when}: {side.loaded}"
    if not unchanged(before, after):
        yield "no server that did not change is in both: a slower machine looks like slower code"


def _only(before: Result, after: Result) -> Iterable[str]:
    earlier, later = ({_where(one) for one in gather(side.runs)} for side in (before, after))
    yield from (f"only before: {where}" for where in sorted(earlier - later))
    yield from (f"only after: {where}" for where in sorted(later - earlier))


def _where(group: Rounds) -> str:
    return f"{group.part}, {group.scenario}, {group.server}, {group.clients:,} clients"


def show(comparison: Comparison, console: Console) -> bool:
    """Prints it; true if there is a regression beyond noise."""
    for difference in comparison.differences:
        console.print(Text(f"Differs: {difference}", style="yellow"))
    for table in _tables(comparison):
        console.print(table)
    for where in comparison.only:
        console.print(Text(where, style="dim"))
    margins = ", ".join(f"{name} {percent(size)}" for name, size in comparison.margins.items())
    console.print(f"Noise: {margins}.")
    for row in comparison.regressions:
        console.print(
            Text(
                f"Worse: {row.measure} of {row.server}, {row.part}, {row.scenario}, "
                f"{row.clients:,} clients: {short(row.ratio.value)} times ({interval(row.ratio)})",
                style="bold red",
            )
        )
    if not comparison.regressions:
        console.print("No regression beyond noise." if comparison.rows else "Nothing in common.")
    return bool(comparison.regressions)


SHOWN: Final = {CPU: microseconds, THROUGHPUT: whole_number, PRIVATE: kilobytes}
UNITS: Final = {CPU: "CPU, µs/request", THROUGHPUT: "requests/s", PRIVATE: "private, kB"}


def _tables(comparison: Comparison) -> Iterable[Table]:
    """One for each part, scenario and measure, so that a row fits on 80 columns."""
    heads = dict.fromkeys((row.part, row.scenario, row.measure) for row in comparison.rows)
    for part, scenario, measure in heads:
        title = f"\n{part}, {scenario}: {UNITS[measure]}"
        table = Table(box=None, padding=(0, 1, 0, 0), title=Text(title), title_justify="left")
        for head in ("", "clients", "before", "after", "ratio", "interval", "verdict"):
            table.add_column(head, justify="left" if head in {"", "verdict"} else "right")
        for row in comparison.rows:
            if (row.part, row.scenario, row.measure) == (part, scenario, measure):
                table.add_row(*_cells(row, worse=row in comparison.regressions))
        yield table


def _cells(row: Row, *, worse: bool) -> Iterable[str]:
    shown, ratio = SHOWN[row.measure], row.ratio
    yield escape(row.server if row.share is None else f"{row.server}, {percent(row.share)}")
    yield whole_number(row.clients)
    yield shown(row.before)
    yield shown(row.after)
    yield short(ratio.value)
    yield "" if ratio.low is None else interval(ratio)
    yield f"[red]{ratio.verdict}, worse[/]" if worse else escape(row.note or ratio.verdict)


@click.command("compare")
@click.argument("before", type=click.Path(exists=True, path_type=Path))
@click.argument("after", type=click.Path(exists=True, path_type=Path))
def compare_command(before: Path, after: Path) -> None:
    """Set two results side by side; exit status 1 if something is worse beyond noise.

    BEFORE and AFTER are results.json files or the directories that hold them.
    """
    comparison = compare(_read(before), _read(after))
    if show(comparison, Console()):
        raise click.exceptions.Exit(1)


def _read(path: Path) -> Result:
    try:
        return results.load(path / "results.json" if path.is_dir() else path)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
