"""What a result has to say, section by section, as text and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
    marks_said,
    ratios,
    servers,
    virtual,
    why,
)
from loadtest.experiment.rounds import (
    Measure,
    Rounds,
    added,
    bytes_a_second,
    calls_per_request,
    connections_a_second,
    cpu_per_request,
    fairness,
    gather,
    generator_busy,
    held_bytes,
    holding,
    of_memory,
    percentile,
    requests_a_second,
    server_busy,
    switches_per_request,
    whole,
)
from loadtest.results import Memory, Result

CORRECTED: Final = (
    "Each server was asked at a constant rate, a share of the most that the same generator got "
    "from it without one, and a request's time runs from when it should have started, so that a "
    "server that stalls cannot hide it. All rounds' answers are counted together. Where the "
    "generator was busy itself, the times are its own, too."
)
CORE: Final = frozenset({"figure7", "curve", "latency", "mix", "memory", "peers"})
"""Parts with a section of their own."""


def page(result: Result, drawn: Iterable[str] = ()) -> Page:
    """`drawn` names the plots that there are."""
    groups = gather(result.runs)
    made = [
        figure7_section(result, groups),
        curve_section(result, groups),
        latency_section(result, groups),
        memory_section(result),
        *load_sections(result, groups),
        peers_section(result, groups),
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
        headlines=headlines(result),
        sections=tuple(_with_figures(one, list(drawn)) for one in made if one is not None),
    )


def _with_figures(section: Section, drawn: Sequence[str]) -> Section:
    prefixes = {
        "figure7": ("figure7",),
        "curve": ("throughput-", "cpu-"),
        "latency": ("latency-",),
        "memory": ("memory", "threads"),
    }.get(section.name, ())
    names = tuple(name for name in drawn if prefixes and name.startswith(prefixes))
    return replace(section, figures=names)


def curve_section(result: Result, groups: Sequence[Rounds]) -> Section | None:
    mine = [group for group in groups if group.part == "curve"]
    tables: list[Table] = []
    for scenario in dict.fromkeys(group.scenario for group in mine):
        these = [group for group in mine if group.scenario == scenario]
        for what, measure, show in (
            ("Requests a second", requests_a_second, whole_number),
            ("CPU per request (µs)", cpu_per_request, microseconds),
        ):
            tables.append(_against(result, these, f"{what}, scenario “{scenario}”", measure, show))
    if not tables:
        return None
    text = (f"Medians of the rounds. {HOLLOW} There CPU per request still is the server's own.",)
    return Section("curve", "Against the number of connections", text, tables=tuple(tables))


def _against(
    result: Result, groups: Sequence[Rounds], caption: str, measure: Measure, show: Show
) -> Table:
    """Servers down, numbers of clients across."""
    gaps = Gaps()
    clients = sorted({group.clients for group in groups})
    known = {"machine loaded"}  # the whole result says so at its top
    rows = []
    for server in servers(result, groups, all_models=True):
        cells = []
        for count in clients:
            group = next(
                (one for one in groups if (one.server, one.clients) == (server, count)), None
            )
            value = group.median(measure) if group else None
            if group is None:
                cells.append(gaps.because(why(result, server)))
            elif value is None:
                cells.append(gaps.because(NO_ANSWER))
            else:
                cells.append(show(value) + ("*" if group.marks.keys() - known else ""))
        rows.append((server, *cells))
    marked = ("* has a mark: see “What bounded each row”.",)
    starred = any(cell.endswith("*") for row in rows for cell in row)
    head = ("", *(whole_number(count) for count in clients))
    return Table(caption, head, tuple(rows), gaps.notes() + (marked if starred else ()))


def latency_section(result: Result, groups: Sequence[Rounds]) -> Section | None:
    mine = [group for group in groups if group.rate is not None]
    tables = [
        _latencies(result, [one for one in mine if key == _level(one)], *key)
        for key in dict.fromkeys(_level(one) for one in mine)
    ]
    if not tables:
        return None
    return Section("latency", "Latency at a constant rate", (CORRECTED,), tables=tuple(tables))


def _level(group: Rounds) -> tuple[str, int, float | None]:
    return group.scenario, group.clients, group.share


def _latencies(
    result: Result, groups: Sequence[Rounds], scenario: str, clients: int, share: float | None
) -> Table:
    gaps, rows = Gaps(), []
    for server in servers(result, groups, all_models=True):
        mine = [group for group in groups if group.server == server]
        for group in mine:
            cells = _percentiles(group, gaps)
            asked = whole_number(group.rate or 0)
            got = whole_number(group.median(requests_a_second) or 0)
            rows.append((server, asked, got, *cells, marks_said(group)))
        if not mine:
            rows.append((server, *[gaps.because(why(result, server))] * 8))
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
            cells.append(gaps.because("too few answers for one in so many"))
        else:
            cells.append(short(value * 1000))
    return cells


def memory_section(result: Result) -> Section | None:
    if not result.held:
        return None
    text = (
        "Idle kept-alive connections, each of which had one answer. Physical memory counts shared "
        "pages in full; private memory is what would be free if the server ended. Kernel stacks "
        "and page tables are in neither.",
    )
    return Section(
        "memory",
        "Memory and threads against open connections",
        text,
        tables=(_increments(result), _readings(result)),
    )


def _increments(result: Result) -> Table:
    """The slope, from no connection to each number of them."""
    gaps, held = Gaps(), holding(result.held)
    counts = sorted({one.memory.connections for one in result.held} - {0})
    rows = []
    for server in held_servers(result):
        cells = []
        for count in counts:
            for measure in (lambda memory: memory.private, whole, virtual):
                each = added(held, server, count, measure)
                cells.append(
                    gaps.because(why(result, server)) if each is None else kilobytes_each(each)
                )
        rows.append((server, *cells))
    head = (
        column
        for count in counts
        for column in (f"{whole_number(count)}: private", "with the kernel's", "virtual")
    )
    caption = "What a connection adds, on average from none to so many, kB"
    return Table(caption, ("", *head), tuple(rows), gaps.notes())


def _readings(result: Result) -> Table:
    held = holding(result.held)
    measures: tuple[tuple[str, Callable[[Memory], float], Show], ...] = (
        ("Threads", lambda memory: memory.threads, whole_number),
        ("Physical", lambda memory: memory.rss, kilobytes),
        ("Proportional", lambda memory: memory.pss, kilobytes),
        ("Private", lambda memory: memory.private, kilobytes),
        ("Kernel stacks", lambda memory: memory.kernel_stacks, kilobytes),
        ("Page tables", lambda memory: memory.page_tables, kilobytes),
        ("Virtual", lambda memory: memory.virtual, kilobytes),
    )
    rows = []
    for server in held_servers(result):
        for count in sorted(held.get(server, ())):
            values = (held_bytes(held, server, count, measure) for _, measure, _ in measures)
            cells = (show(value or 0) for value, (_, _, show) in zip(values, measures, strict=True))
            rows.append((server, whole_number(count), *cells))
    head = ("", "Connections", *(name for name, _, _ in measures))
    return Table("Readings, medians, kB", head, tuple(rows))


def load_sections(result: Result, groups: Sequence[Rounds]) -> Iterable[Section]:
    """The mix, and every other scenario that has a part of its own."""
    for part in dict.fromkeys(["mix", *(group.part for group in groups)]):
        mine = [group for group in groups if group.part == part and group.rate is None]
        if not mine or (part in CORE and part != "mix"):
            continue
        title = "The mix of SPECweb99" if part == "mix" else f"Scenario “{part}”"
        yield Section(part, title, (), tables=tuple(_loads(result, mine)))


def peers_section(result: Result, groups: Sequence[Rounds]) -> Section | None:
    mine = [group for group in groups if group.part == "peers"]
    if not mine:
        return None
    tables = list(_loads(result, mine))
    for scenario, clients in dict.fromkeys((one.scenario, one.clients) for one in mine):
        these = [one for one in mine if (one.scenario, one.clients) == (scenario, clients)]
        if find(these, OURS):
            tables.append(ratios(these, OURS, f"Beside {OURS}, scenario “{scenario}”"))
    return Section("peers", "Other servers", tables=tuple(tables))


def _loads(result: Result, groups: Sequence[Rounds]) -> Iterable[Table]:
    for scenario, clients in dict.fromkeys((one.scenario, one.clients) for one in groups):
        these = [one for one in groups if (one.scenario, one.clients) == (scenario, clients)]
        caption = f"{whole_number(clients)} clients, scenario “{scenario}”"
        yield _load_table(result, these, caption)


LOADS: Final[tuple[tuple[str, Measure, Show, str], ...]] = (
    ("Requests/s", requests_a_second, whole_number, ""),
    ("Connections/s", connections_a_second, whole_number, ""),
    ("MB/s", lambda run: (bytes_a_second(run) or 0) / 1e6, short, ""),
    ("CPU per request (µs)", cpu_per_request, microseconds, NO_ANSWER),
    ("System calls per request", calls_per_request, short, NO_COUNT),
    ("Context switches per request", switches_per_request, short, NO_COUNT),
    ("Private memory (kB)", of_memory(lambda memory: memory.private), kilobytes, "not read"),
    ("Fairness", fairness, short, "the generator does not count by client"),
)


def _load_table(result: Result, groups: Sequence[Rounds], caption: str) -> Table:
    gaps, rows = Gaps(), []
    for server in servers(result, groups):
        group = find(groups, server)
        if group is None:
            continue
        values = ((group.median(measure), show, reason) for _, measure, show, reason in LOADS)
        cells = (
            gaps.because(reason) if value is None else show(value) for value, show, reason in values
        )
        rows.append((server, *cells, marks_said(group)))
    return Table(caption, ("", *(name for name, *_ in LOADS), "Marks"), tuple(rows), gaps.notes())


def bounds_section(groups: Sequence[Rounds]) -> Section | None:
    """How busy both sides were, and what that makes of each row."""
    if not groups:
        return None
    rows = []
    for group in groups:
        load = whole_number(group.rate) if group.rate else "all it can"
        busy = (percent(group.median(side) or 0) for side in (server_busy, generator_busy))
        generators = ", ".join(sorted({run.load.generator for run in group.runs}))
        what = (group.part, group.scenario, whole_number(group.clients), load)
        rows.append((group.server, *what, *busy, generators, marks_said(group)))
    head = ("", "Part", "Scenario", "Clients", "Asked/s", "Server busy", "Generator busy")
    table = Table("Medians of the rounds", (*head, "Generator", "Marks"), tuple(rows))
    text = (
        "A server that is not near 100 % of its core was not the limit. Marks say how many of a "
        "row's runs have them unless all do.",
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
        return Section("errors", "Errors", ("Every request had its right answer.",))
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
        ("Server and generator", "on cores of their own" if environment.pinned else "not pinned"),
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
    return Section("repeat", "How to repeat it", tables=(table,), code=result.command)
