"""The sections of the report, as text and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from loadtest.experiment.report.figure7 import figure7_section
from loadtest.experiment.report.figures import HOLLOW, PERCENTILES
from loadtest.experiment.report.headlines import OURS, headlines
from loadtest.experiment.report.numbers import (
    kilobytes,
    kilobytes_each,
    microseconds,
    percent,
    short,
    whole_number,
)
from loadtest.experiment.report.page import Gaps, Page, Section, Table
from loadtest.experiment.report.rows import (
    NO_ANSWER,
    NO_COUNT,
    Show,
    find,
    held_servers,
    marks_of,
    ratios,
    servers,
    virtual,
    why,
)
from loadtest.experiment.rounds import (
    Gathered,
    Measure,
    Reading,
    Rounds,
    by_load,
    bytes_a_second,
    calls_per_request,
    connections_a_second,
    cpu_per_request,
    fairness,
    generator_busy,
    of_memory,
    percentile,
    requests_a_second,
    server_busy,
    switches_per_request,
    whole,
)
from loadtest.results import Result

CORRECTED: Final = (
    "Each server was asked at a constant rate: a share of the most that the same generator got "
    "from it without one. A request's time runs from when it was due, so a server that stalls "
    "cannot hide it. The answers of all rounds are counted together. Where the generator was "
    "busy, its own delays are included."
)
CORE: Final = frozenset({"figure7", "curve", "latency", "mix", "memory", "peers"})
"""Parts with a section of their own."""


def page(gathered: Gathered, plots: Iterable[str] = ()) -> Page:
    """The whole report; `plots` are the names of those that could be drawn."""
    result, groups = gathered.result, gathered.groups
    made = [
        figure7_section(gathered),
        curve_section(gathered),
        latency_section(gathered),
        memory_section(gathered),
        *load_sections(gathered),
        peers_section(gathered),
        bounds_section(groups),
        errors_section(groups),
        missing_section(result),
        environment_section(result),
        repeat_section(result),
    ]
    return Page(
        title="Knot by events and by threads",
        made=result.made,
        warning=result.environment.loaded,
        headlines=headlines(gathered),
        sections=tuple(_with_figures(one, list(plots)) for one in made if one is not None),
    )


def _with_figures(section: Section, plots: Sequence[str]) -> Section:
    prefixes = {
        "figure7": ("figure7",),
        "curve": ("throughput-", "cpu-"),
        "latency": ("latency-",),
        "memory": ("memory", "threads"),
    }.get(section.name, ())
    names = tuple(name for name in plots if prefixes and name.startswith(prefixes))
    return replace(section, figures=names)


def curve_section(gathered: Gathered) -> Section | None:
    mine = gathered.part("curve")
    tables: list[Table] = []
    for scenario in dict.fromkeys(group.scenario for group in mine):
        these = [group for group in mine if group.scenario == scenario]
        for what, measure, show in (
            ("Requests a second", requests_a_second, whole_number),
            ("CPU per request (µs)", cpu_per_request, microseconds),
        ):
            tables.append(
                _by_clients(gathered, these, f"{what}, scenario “{scenario}”", measure, show)
            )
    if not tables:
        return None
    text = (f"Medians of the rounds. {HOLLOW} CPU per request is the server's own even there.",)
    return Section("curve", "By the number of connections", text, tables=tuple(tables))


def _by_clients(
    gathered: Gathered, groups: Sequence[Rounds], caption: str, measure: Measure, show: Show
) -> Table:
    """A row for each server, a column for each number of clients."""
    gaps = Gaps()
    clients = sorted({group.clients for group in groups})
    known = {"machine loaded"}  # the top of the report says so
    rows = []
    for server in servers(gathered, groups, all_models=True):
        cells = []
        for count in clients:
            group = next(
                (one for one in groups if (one.server, one.clients) == (server, count)), None
            )
            value = group.median(measure) if group else None
            if group is None:
                cells.append(gaps.because(why(gathered, server)))
            elif value is None:
                cells.append(gaps.because(NO_ANSWER))
            else:
                cells.append(show(value) + ("*" if group.marks.keys() - known else ""))
        rows.append((server, *cells))
    marked = ("* marked: see “What bounded each row”.",)
    starred = any(cell.endswith("*") for row in rows for cell in row)
    head = ("", *(whole_number(count) for count in clients))
    return Table(caption, head, tuple(rows), gaps.notes() + (marked if starred else ()))


def latency_section(gathered: Gathered) -> Section | None:
    mine = [group for group in gathered.groups if group.rate is not None]
    tables = [
        _latencies(gathered, [one for one in mine if key == _level(one)], *key)
        for key in dict.fromkeys(_level(one) for one in mine)
    ]
    if not tables:
        return None
    return Section("latency", "Latency at a constant rate", (CORRECTED,), tables=tuple(tables))


def _level(group: Rounds) -> tuple[str, int, float | None]:
    return group.scenario, group.clients, group.share


def _latencies(
    gathered: Gathered, groups: Sequence[Rounds], scenario: str, clients: int, share: float | None
) -> Table:
    gaps, rows = Gaps(), []
    for server in servers(gathered, groups, all_models=True):
        mine = [group for group in groups if group.server == server]
        for group in mine:
            cells = _percentiles(group, gaps)
            asked = whole_number(group.rate or 0)
            got = whole_number(group.median(requests_a_second) or 0)
            rows.append((server, asked, got, *cells, marks_of(group)))
        if not mine:
            rows.append((server, *[gaps.because(why(gathered, server))] * 8))
    level = "" if share is None else f"{percent(share)} of the maximum, "
    names = ("50 %", "90 %", "99 %", "99.9 %", "max")
    return Table(
        f"{level}{whole_number(clients)} clients, scenario “{scenario}”, ms",
        ("", "Asked/s", "Answered/s", *names, "Marks"),
        tuple(rows),
        gaps.notes(),
    )


def _percentiles(group: Rounds, gaps: Gaps) -> list[str]:
    """In ms."""
    histogram = group.latencies()
    if histogram is None:
        return [gaps.because("the generator recorded no latencies")] * len(PERCENTILES)
    cells = []
    for each in PERCENTILES:
        value = percentile(histogram, each)
        if value is None:
            cells.append(gaps.because("too few answers for this percentile"))
        else:
            cells.append(short(value * 1000))
    return cells


def memory_section(gathered: Gathered) -> Section | None:
    if not gathered.idle:
        return None
    text = (
        "Idle kept-alive connections, each after one answer. Physical memory counts shared pages "
        "in full; private memory is what would be freed if the server ended. Neither includes "
        "kernel stacks and page tables.",
    )
    return Section(
        "memory",
        "Memory and threads by open connections",
        text,
        tables=(_increments(gathered), _readings(gathered)),
    )


def _increments(gathered: Gathered) -> Table:
    """What a connection adds, on average from none to each number of them."""
    gaps, rows = Gaps(), []
    counts = sorted({count for readings in gathered.idle.values() for count in readings} - {0})
    added: tuple[Reading, ...] = (lambda memory: memory.private, whole, virtual)
    for server in held_servers(gathered):
        values = (gathered.added(server, count, reading) for count in counts for reading in added)
        cells = (
            gaps.because(why(gathered, server)) if each is None else kilobytes_each(each)
            for each in values
        )
        rows.append((server, *cells))
    head = (
        column
        for count in counts
        for column in (f"{whole_number(count)}: private", "with kernel", "virtual")
    )
    caption = "Memory that a connection adds, on average over this number of them, kB"
    return Table(caption, ("", *head), tuple(rows), gaps.notes())


def _readings(gathered: Gathered) -> Table:
    measures: tuple[tuple[str, Reading, Show], ...] = (
        ("Threads", lambda memory: memory.threads, whole_number),
        ("Physical", lambda memory: memory.rss, kilobytes),
        ("Proportional", lambda memory: memory.pss, kilobytes),
        ("Private", lambda memory: memory.private, kilobytes),
        ("Kernel stacks", lambda memory: memory.kernel_stacks, kilobytes),
        ("Page tables", lambda memory: memory.page_tables, kilobytes),
        ("Virtual", lambda memory: memory.virtual, kilobytes),
    )
    rows = []
    for server in held_servers(gathered):
        for count in sorted(gathered.idle.get(server, ())):
            values = (gathered.held(server, count, reading) for _, reading, _ in measures)
            cells = (show(value or 0) for value, (_, _, show) in zip(values, measures, strict=True))
            rows.append((server, whole_number(count), *cells))
    head = ("", "Connections", *(name for name, _, _ in measures))
    return Table("Readings, medians, kB", head, tuple(rows))


def load_sections(gathered: Gathered) -> Iterable[Section]:
    """The mix, and every other scenario that has a part of its own."""
    for part in dict.fromkeys(["mix", *(group.part for group in gathered.groups)]):
        mine = [group for group in gathered.part(part) if group.rate is None]
        if not mine or (part in CORE and part != "mix"):
            continue
        title = "The mix of SPECweb99" if part == "mix" else f"Scenario “{part}”"
        yield Section(part, title, (), tables=tuple(_loads(gathered, mine)))


def peers_section(gathered: Gathered) -> Section | None:
    mine = gathered.part("peers")
    if not mine:
        return None
    tables = list(_loads(gathered, mine))
    for (scenario, _), groups in by_load(mine).items():
        if find(groups, OURS):
            tables.append(ratios(groups, OURS, f"Compared with {OURS}, scenario “{scenario}”"))
    return Section("peers", "Other servers", tables=tuple(tables))


def _loads(gathered: Gathered, groups: Sequence[Rounds]) -> Iterable[Table]:
    for (scenario, clients), these in by_load(groups).items():
        caption = f"{whole_number(clients)} clients, scenario “{scenario}”"
        yield _load_table(gathered, these, caption)


LOADS: Final[tuple[tuple[str, Measure, Show, str], ...]] = (
    ("Requests/s", requests_a_second, whole_number, ""),
    ("Connections/s", connections_a_second, whole_number, ""),
    ("MB/s", lambda run: (bytes_a_second(run) or 0) / 1e6, short, ""),
    ("CPU per request (µs)", cpu_per_request, microseconds, NO_ANSWER),
    ("System calls per request", calls_per_request, short, NO_COUNT),
    ("Context switches per request", switches_per_request, short, NO_COUNT),
    ("Private memory (kB)", of_memory(lambda memory: memory.private), kilobytes, "not read"),
    ("Fairness", fairness, short, "the generator does not count per client"),
)


def _load_table(gathered: Gathered, groups: Sequence[Rounds], caption: str) -> Table:
    gaps, rows = Gaps(), []
    for server in servers(gathered, groups):
        group = find(groups, server)
        if group is None:
            continue
        values = ((group.median(measure), show, reason) for _, measure, show, reason in LOADS)
        cells = (
            gaps.because(reason) if value is None else show(value) for value, show, reason in values
        )
        rows.append((server, *cells, marks_of(group)))
    return Table(caption, ("", *(name for name, *_ in LOADS), "Marks"), tuple(rows), gaps.notes())


def bounds_section(groups: Sequence[Rounds]) -> Section | None:
    """How busy both sides were, and what that means for each row."""
    if not groups:
        return None
    rows = []
    for group in groups:
        load = whole_number(group.rate) if group.rate else "maximum"
        busy = (percent(group.median(side) or 0) for side in (server_busy, generator_busy))
        generators = ", ".join(sorted({run.load.generator for run in group.runs}))
        what = (group.part, group.scenario, whole_number(group.clients), load)
        rows.append((group.server, *what, *busy, generators, marks_of(group)))
    head = ("", "Part", "Scenario", "Clients", "Asked/s", "Server busy", "Generator busy")
    table = Table("Medians of the rounds", (*head, "Generator", "Marks"), tuple(rows))
    text = (
        "A server that is not near 100 % of its core was not the limit. A mark says how many of a "
        "row's runs have it, unless all do.",
    )
    return Section("bounds", "What bounded each row", text, tables=(table,), folded=True)


def errors_section(groups: Sequence[Rounds]) -> Section:
    rows = []
    for group in groups:
        wrong = sum(group.errors.values())
        if wrong:
            kinds = ", ".join(f"{kind} {count:,}" for kind, count in group.errors.items())
            of = whole_number(group.requests + wrong)
            what = (group.part, group.scenario, whole_number(group.clients))
            rows.append((group.server, *what, whole_number(wrong), of, kinds))
    if not rows:
        return Section("errors", "Errors", ("Every request had the right answer.",))
    head = ("", "Part", "Scenario", "Clients", "Errors", "Of requests", "Kinds")
    return Section("errors", "Errors", tables=(Table("All rounds", head, tuple(rows)),))


def missing_section(result: Result) -> Section:
    if not result.missing:
        return Section("missing", "What is missing", ("Nothing was left out.",))
    rows = tuple(result.missing.items())
    table = Table("Left out", ("", "Why"), rows, words=True)
    return Section("missing", "What is missing", tables=(table,))


def environment_section(result: Result) -> Section:
    environment = result.environment
    rows = [
        ("Kernel", environment.kernel),
        ("Processor", environment.processor),
        ("Cores", str(environment.cores)),
        ("Memory", f"{environment.memory / 1e9:.1f} GB"),
        ("Python", environment.python),
        (
            "Server and generator",
            "on separate cores" if environment.pinned else "not pinned",
        ),
        ("Machine", f"not quiet: {environment.loaded}" if environment.loaded else "quiet"),
        *environment.packages.items(),
        *environment.limits.items(),
    ]
    servers = tuple((one.name, one.kind, one.version, one.command) for one in result.servers)
    return Section(
        "environment",
        "Environment",
        tables=(
            Table("Machine and versions", ("", "Value"), tuple(rows), words=True),
            Table("Servers", ("", "Kind", "Version", "Command"), servers, words=True),
        ),
    )


def repeat_section(result: Result) -> Section:
    table = Table("Settings", ("", "Value"), tuple(result.settings.items()), words=True)
    return Section("repeat", "How to repeat this", tables=(table,), code=result.command)
