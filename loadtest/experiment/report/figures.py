"""The plots of a gathered result.  A plot for which it has no data is left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from loadtest.experiment.report.headlines import CONNECTIONS, figure7
from loadtest.experiment.report.numbers import percent, short
from loadtest.experiment.report.svg import PLACEHOLDERS, STYLE, Plot, plot
from loadtest.experiment.rounds import (
    Gathered,
    Measure,
    Reading,
    Rounds,
    connections_a_second,
    cpu_per_connection,
    cpu_per_request,
    p99,
    percentile,
    requests_a_second,
    whole,
)

WIDE: Final = (5.6, 4.4)
TALL: Final = (5.6, 7.2)
"""Inches of 72 units: narrow enough to be legible when a phone shrinks it."""
COLOURS: Final = tuple(PLACEHOLDERS[f"s{number}"] for number in range(6))
MARKERS: Final = "osD^vP"
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9, 100.0)
HOLLOW: Final = "Hollow: the generator, not the server, was the limit."


@dataclass(frozen=True)
class Look:
    colour: str
    marker: str
    dashes: str


@dataclass(frozen=True)
class Unit:
    each: float
    name: str

    def of(self, value: float | None) -> float | None:
        return None if value is None else value * self.each


def draw(gathered: Gathered) -> tuple[Plot, ...]:
    with rc_context(STYLE):
        drawn = [draw_figure7(gathered), *draw_curves(gathered), *draw_latencies(gathered)]
        drawn += [draw_memory(gathered), draw_threads(gathered)]
        return tuple(one for one in drawn if one is not None)


def looks(gathered: Gathered) -> dict[str, Look]:
    """A server looks the same in every plot; from the seventh server on, lines are dashed."""
    names = [server.name for server in gathered.result.servers if server.kind != "null"]
    styles = cycle(zip(COLOURS, MARKERS, strict=True))
    return {
        name: Look(colour, marker, "-" if number < len(COLOURS) else "--")
        for number, (name, (colour, marker)) in enumerate(
            zip(names, islice(styles, len(names)), strict=True)
        )
    }


def draw_figure7(gathered: Gathered) -> Plot | None:
    """Bars: connections served by each model, their cost, and the memory of a connection."""
    models, look = gathered.models, looks(gathered)
    groups = {name: group for name in models if (group := figure7(gathered, name)) is not None}
    served = {name: group.median(connections_a_second) for name, group in groups.items()}
    cost = {name: group.median(cpu_per_connection) for name, group in groups.items()}
    bound = {name for name, group in groups.items() if group.generator_bound}
    grown = {name: gathered.added(name, CONNECTIONS, whole) for name in models}
    if not served and all(value is None for value in grown.values()):
        return None
    figure = Figure(figsize=TALL, layout=_layout())
    above, between, below = figure.subplots(3, 1)
    micros = {name: value and value * 1e6 for name, value in cost.items()}
    kilobytes = {name: value and value / 1000 for name, value in grown.items()}
    _bars(above, models, served, look, "connections a second", bound)
    _bars(between, models, micros, look, "µs of CPU per connection")
    _bars(below, models, kilobytes, look, "kB added by a connection, in the kernel too")
    return plot(
        figure,
        "figure7",
        f"{CONNECTIONS} connections",
        f"Top: connections served a second with {CONNECTIONS} clients, one request on each. "
        f"Middle: the server's CPU time for each of them. "
        f"Bottom: private memory, kernel stack and page tables that each of {CONNECTIONS} idle "
        f"connections adds. {HOLLOW if bound else ''}".rstrip(),
    )


def _bars(
    axes: Axes,
    names: Sequence[str],
    values: Mapping[str, float | None],
    look: Mapping[str, Look],
    unit: str,
    hollow: Set[str] = frozenset(),
) -> None:
    widest = max((value for value in values.values() if value), default=1)
    for row, name in enumerate(names):
        value = values.get(name)
        colour = look[name].colour
        inside = "none" if name in hollow else colour
        axes.barh(row, value or 0, 0.62, facecolor=inside, edgecolor=colour)
        text = "not measured" if value is None else short(value)
        axes.annotate(
            text, (max(value or 0, 0), row), (5, 0), va="center", textcoords="offset points"
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, widest * 1.15)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(unit)
    axes.xaxis.set_major_formatter(_PLAIN)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, labelcolor=PLACEHOLDERS["ink"])
    axes.spines["left"].set_visible(False)


def draw_curves(gathered: Gathered) -> Iterable[Plot]:
    groups = gathered.part("curve")
    for scenario in dict.fromkeys(group.scenario for group in groups):
        mine = [group for group in groups if group.scenario == scenario]
        if len({group.clients for group in mine}) < 2:
            continue
        for name, what, measure, unit in (
            ("throughput", "Throughput", requests_a_second, Unit(1, "requests a second")),
            ("cpu", "CPU per request", cpu_per_request, Unit(1e6, "µs of CPU per request")),
        ):
            yield _curve(gathered, mine, f"{name}-{scenario}", what, measure, unit)


def _curve(
    gathered: Gathered, groups: Sequence[Rounds], name: str, what: str, measure: Measure, unit: Unit
) -> Plot:
    scenario = groups[0].scenario
    figure, axes = _lines()
    for server, look in looks(gathered).items():
        points = sorted(
            (group for group in groups if group.server == server), key=lambda one: one.clients
        )
        _series(axes, server, look, points, lambda run: unit.of(measure(run)))
    axes.set_xscale("log")
    if name.startswith("throughput"):
        axes.set_ylim(bottom=0)
    else:  # servers differ by more than ten times
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel(unit.name)
    _connections(axes)
    _legend(figure, axes)
    return plot(
        figure,
        name,
        f"{what}, scenario “{scenario}”",
        f"{what} against the number of open connections, scenario “{scenario}”: medians of the "
        f"rounds, with bars from the lowest round to the highest. {HOLLOW}",
    )


def _series(
    axes: Axes,
    server: str,
    look: Look,
    points: Sequence[Rounds],
    measure: Measure,
) -> None:
    found = [(point, list(point.values(measure).values())) for point in points]
    found = [(point, values) for point, values in found if values]
    if not found:
        return
    x = [point.clients for point, _ in found]
    y = [point.median(measure) or 0 for point, _ in found]
    below = [middle - min(values) for middle, (_, values) in zip(y, found, strict=True)]
    above = [max(values) - middle for middle, (_, values) in zip(y, found, strict=True)]
    axes.errorbar(
        x, y, (below, above), color=look.colour, linestyle=look.dashes, linewidth=1.6, elinewidth=1
    )
    axes.plot([], [], color=look.colour, marker=look.marker, linestyle=look.dashes, label=server)
    for at, value, (point, _) in zip(x, y, found, strict=True):
        axes.plot(
            at,
            value,
            look.marker,
            color=look.colour,
            markerfacecolor=PLACEHOLDERS["paper"] if point.generator_bound else look.colour,
        )


def draw_latencies(gathered: Gathered) -> Iterable[Plot]:
    """A plot for each share of the maximum, and one by connections if their number varies."""
    groups = gathered.part("latency")
    for share in sorted({group.share for group in groups if group.share is not None}):
        level = [group for group in groups if group.share == share]
        scenario = level[0].scenario
        counts = {group.clients for group in level}
        clients = CONNECTIONS if CONNECTIONS in counts else max(counts)
        mine = [one for one in level if one.clients == clients and one.scenario == scenario]
        yield _latency(gathered, mine, share)
        over = [one for one in level if one.scenario == scenario]
        if len({one.clients for one in over}) > 1:
            yield _curve(
                gathered,
                over,
                f"latency-{share * 100:.0f}-connections",
                f"99th percentile of latency at {percent(share)} of the maximum",
                p99,
                Unit(1000, "ms"),
            )


def _latency(gathered: Gathered, groups: Sequence[Rounds], share: float) -> Plot:
    look = looks(gathered)
    figure, axes = _lines()
    for server in look:
        group = next((group for group in groups if group.server == server), None)
        histogram = group and group.latencies()
        if not histogram:
            continue
        values = [percentile(histogram, each) for each in PERCENTILES]
        axes.plot(
            range(len(values)),
            [float("nan") if value is None else value * 1000 for value in values],
            color=look[server].colour,
            marker=look[server].marker,
            linestyle=look[server].dashes,
            linewidth=1.6,
            label=server,
        )
    axes.set_yscale("log")
    axes.set_xticks(range(len(PERCENTILES)), ["50 %", "90 %", "99 %", "99.9 %", "max"])
    axes.set_xlabel("of the requests were answered within")
    axes.set_ylabel("ms")
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(_PLAIN)
    axes.yaxis.set_minor_locator(NullLocator())
    _legend(figure, axes)
    clients = groups[0].clients
    return plot(
        figure,
        f"latency-{share * 100:.0f}",
        f"Latency at {share * 100:.0f} % of the maximum",
        f"Latency from the time a request was due, each server at {share * 100:.0f} % of its own "
        f"maximum, {clients:,} connections, all rounds together.",
    )


def draw_memory(gathered: Gathered) -> Plot | None:
    return _holding(
        gathered,
        "memory",
        "Memory against open connections",
        "Private memory, kernel stacks and page tables of each server, by the number of idle "
        "connections.",
        lambda memory: whole(memory) / 1e6,
        "MB",
    )


def draw_threads(gathered: Gathered) -> Plot | None:
    return _holding(
        gathered,
        "threads",
        "Threads against open connections",
        "Threads of each server, by the number of idle connections.",
        lambda memory: float(memory.threads),
        "threads",
    )


def _holding(
    gathered: Gathered,
    name: str,
    title: str,
    about: str,
    reading: Reading,
    unit: str,
) -> Plot | None:
    if not any(len(readings) > 1 for readings in gathered.idle.values()):
        return None
    figure, axes = _lines()
    for server, look in looks(gathered).items():
        x = sorted(gathered.idle.get(server, ()))
        y = [gathered.held(server, connections, reading) or 0 for connections in x]
        if x:
            axes.plot(
                x,
                y,
                color=look.colour,
                marker=look.marker,
                linestyle=look.dashes,
                linewidth=1.6,
                label=server,
            )
    axes.set_ylim(bottom=0)
    axes.set_ylabel(unit)
    axes.yaxis.set_major_formatter(_PLAIN)
    axes.xaxis.set_major_formatter(_PLAIN)
    axes.set_xlabel("open connections")
    _legend(figure, axes)
    return plot(figure, name, title, about)


def _lines() -> tuple[Figure, Axes]:
    figure = Figure(figsize=WIDE, layout=_layout())
    return figure, figure.add_subplot()


def _layout() -> ConstrainedLayoutEngine:
    return ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, hspace=0.04)


def _connections(axes: Axes) -> None:
    axes.set_xlabel("connections")
    axes.xaxis.set_major_locator(LogLocator(10))
    axes.xaxis.set_major_formatter(_PLAIN)
    axes.yaxis.set_major_formatter(_PLAIN)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside upper left", ncols=3, columnspacing=1.2, handlelength=1.6
        )


_PLAIN: Final = FuncFormatter(lambda value, _: f"{value:,.10g}")
