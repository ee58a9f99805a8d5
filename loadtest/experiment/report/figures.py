"""The plots.  Each is drawn from a result alone, and left out if the result has nothing for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
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
    Measure,
    Rounds,
    added,
    connections_a_second,
    cpu_per_connection,
    cpu_per_request,
    gather,
    held_bytes,
    holding,
    p99,
    percentile,
    requests_a_second,
    whole,
)
from loadtest.results import Memory, Result

WIDE: Final = (5.6, 4.4)
TALL: Final = (5.6, 7.2)
"""Inches of 72 units: narrow enough that the text can be read when a phone shrinks it."""
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


def plots(result: Result) -> dict[str, str]:
    """Every plot by its name, as an SVG file of its own."""
    return {drawn.name: drawn.alone() for drawn in draw(result)}


def draw(result: Result) -> tuple[Plot, ...]:
    with rc_context(STYLE):
        drawn = [draw_figure7(result), *draw_curves(result), *draw_latencies(result)]
        drawn += [draw_memory(result), draw_threads(result)]
        return tuple(one for one in drawn if one is not None)


def looks(result: Result) -> dict[str, Look]:
    """A server looks the same in every plot; from the seventh on lines are dashed."""
    names = [server.name for server in result.servers if server.kind != "null"]
    styles = cycle(zip(COLOURS, MARKERS, strict=True))
    return {
        name: Look(colour, marker, "-" if number < len(COLOURS) else "--")
        for number, (name, (colour, marker)) in enumerate(
            zip(names, islice(styles, len(names)), strict=True)
        )
    }


def draw_figure7(result: Result) -> Plot | None:
    """What each model serves, what that costs it, and what a connection adds, as bars."""
    held = holding(result.held)
    models = [server.name for server in result.servers if server.kind == "model"]
    groups = {name: group for name in models if (group := figure7(result, name)) is not None}
    served = {name: group.median(connections_a_second) for name, group in groups.items()}
    cost = {name: group.median(cpu_per_connection) for name, group in groups.items()}
    bound = {name for name, group in groups.items() if group.generator_bound}
    grown = {name: added(held, name, CONNECTIONS, whole) for name in models}
    if not served and all(value is None for value in grown.values()):
        return None
    figure = Figure(figsize=TALL, layout=_layout())
    above, between, below = figure.subplots(3, 1)
    _bars(above, models, served, looks(result), "connections a second", bound)
    _bars(
        between,
        models,
        {name: value and value * 1e6 for name, value in cost.items()},
        looks(result),
        "µs of CPU per connection",
    )
    _bars(
        below,
        models,
        {name: value and value / 1000 for name, value in grown.items()},
        looks(result),
        "kB added by a connection, kernel's included",
    )
    return plot(
        figure,
        "figure7",
        f"{CONNECTIONS} connections",
        f"Above: connections served a second at {CONNECTIONS} clients with one request each. "
        f"Between: the server's CPU time for each of them. "
        f"Below: private memory, kernel stack and page tables that each of {CONNECTIONS} idle "
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
        said = "not measured" if value is None else short(value)
        axes.annotate(
            said, (max(value or 0, 0), row), (5, 0), va="center", textcoords="offset points"
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


def draw_curves(result: Result) -> Iterable[Plot]:
    groups = [group for group in gather(result.runs) if group.part == "curve"]
    for scenario in dict.fromkeys(group.scenario for group in groups):
        mine = [group for group in groups if group.scenario == scenario]
        if len({group.clients for group in mine}) < 2:
            continue
        for name, what, measure, unit in (
            ("throughput", "Throughput", requests_a_second, Unit(1, "requests a second")),
            ("cpu", "CPU per request", cpu_per_request, Unit(1e6, "µs of CPU per request")),
        ):
            yield _curve(result, mine, f"{name}-{scenario}", what, measure, unit)


def _curve(
    result: Result, groups: Sequence[Rounds], name: str, what: str, measure: Measure, unit: Unit
) -> Plot:
    scenario = groups[0].scenario
    figure, axes = _lines()
    for server, look in looks(result).items():
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
        f"rounds, the bars from the lowest to the highest round. {HOLLOW}",
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


def draw_latencies(result: Result) -> Iterable[Plot]:
    """A plot for each share of the maximum, and one against connections if there are several."""
    groups = [group for group in gather(result.runs) if group.part == "latency"]
    for share in sorted({group.share for group in groups if group.share is not None}):
        level = [group for group in groups if group.share == share]
        scenario = level[0].scenario
        counts = {group.clients for group in level}
        clients = CONNECTIONS if CONNECTIONS in counts else max(counts)
        mine = [one for one in level if one.clients == clients and one.scenario == scenario]
        yield _latency(result, mine, share)
        over = [one for one in level if one.scenario == scenario]
        if len({one.clients for one in over}) > 1:
            yield _curve(
                result,
                over,
                f"latency-{share * 100:.0f}-connections",
                f"99th percentile of latency at {percent(share)} of the maximum",
                p99,
                Unit(1000, "ms"),
            )


def _latency(result: Result, groups: Sequence[Rounds], share: float) -> Plot:
    look = looks(result)
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
        f"Latency from the intended start, each server at {share * 100:.0f} % of its own maximum, "
        f"{clients:,} connections, all rounds together.",
    )


def draw_memory(result: Result) -> Plot | None:
    return _holding(
        result,
        "memory",
        "Memory against open connections",
        "Private memory, kernel stacks and page tables of each server while it holds so many idle "
        "connections.",
        lambda memory: whole(memory) / 1e6,
        "MB",
    )


def draw_threads(result: Result) -> Plot | None:
    return _holding(
        result,
        "threads",
        "Threads against open connections",
        "Threads of each server while it holds so many idle connections.",
        lambda memory: float(memory.threads),
        "threads",
    )


def _holding(
    result: Result,
    name: str,
    title: str,
    about: str,
    measure: Callable[[Memory], float],
    unit: str,
) -> Plot | None:
    held = holding(result.held)
    if not any(len(readings) > 1 for readings in held.values()):
        return None
    figure, axes = _lines()
    for server, look in looks(result).items():
        x = sorted(held.get(server, ()))
        y = [held_bytes(held, server, connections, measure) or 0 for connections in x]
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
