"""``knot top``: what a server does, live on a terminal, from its ``/metrics`` endpoint.

It knows only what ``/metrics`` reports, and no part of a server depends on it.  Two samples make an
`Interval`; `page` shows one; `run` takes samples until the user stops it.
"""

from __future__ import annotations

import http.client
import os
import select
import signal
import sys
import termios
import time
import tty
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, urlsplit

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

PORT: Final = 9090
PATH: Final = "/metrics"
ANSWER_TIMEOUT: Final = 3.0
"""Seconds for the server to answer."""
MAX_ANSWER: Final = 4 << 20
"""The most bytes that are read of an answer."""

HISTORY: Final = 500
"""The number of samples that are kept."""
UNKNOWN: Final = "-"
BARS: Final = "▁▂▃▄▅▆▇█"
CLASSES: Final = {"2": "green", "3": "cyan", "4": "yellow", "5": "red"}
"""Colours of statuses, by their first digit."""
QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
STATES: Final = ("head", "idle", "taking")
INDENT: Final = 12
"""The columns to the left of the figures."""
LINES: Final = 13
"""The number of lines on the page, without those of the workers."""

Labels = tuple[tuple[str, str], ...]


class UnreachableError(Exception):
    """There is nothing to show; the message is one sentence with the reason."""


# -- sampling ------------------------------------------------------------------------------------


def parse_address(text: str) -> SplitResult:
    """A URL from what the user calls the server: a URL, HOST:PORT, or HOST.

    Raises `ValueError`.
    """
    try:
        url = urlsplit(text if "://" in text else f"http://{text}")
        port, host = url.port, url.hostname
    except ValueError:
        host = None
    if not host or url.scheme not in ("http", "https"):
        raise ValueError(
            f"{text!r} is not a valid address: write it as 127.0.0.1:{PORT}, or as a URL"
        )
    if port is None and "://" not in text:
        url = url._replace(netloc=f"{url.netloc.rstrip(':')}:{PORT}")
    return url._replace(path=PATH if url.path in ("", "/") else url.path)


@dataclass
class Sample:
    """The metrics at one time: each value by its name and labels, and the time in seconds."""

    when: float
    values: Mapping[str, Mapping[Labels, float]]

    def of(self, name: str) -> Mapping[Labels, float]:
        return self.values.get(name, {})

    def sum(self, name: str, **labels: str) -> float:
        """The sum of all values with these labels."""
        wanted = labels.items()
        return sum(value for found, value in self.of(name).items() if wanted <= dict(found).items())

    def workers(self) -> list[str]:
        found = {dict(labels)["worker"] for labels in self.of("knot_worker_resident_bytes")}
        return sorted(found, key=lambda worker: (len(worker), worker))


def look(url: SplitResult) -> Sample:
    """The metrics of the server now.  Raises `UnreachableError`."""
    where = url.geturl()
    try:
        text = fetch(url)
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreachableError(f"{where} cannot be reached: {why}.") from None
    try:
        sample = Sample(time.monotonic(), parse(text))
    except (ValueError, KeyError) as error:
        raise UnreachableError(
            f"The answer of {where} is not in Prometheus's text format: {error}."
        ) from None
    if not sample.of("knot_start_time_seconds"):
        raise UnreachableError(f"The metrics at {where} are not those of Knot.")
    return sample


def fetch(url: SplitResult) -> str:
    assert url.hostname is not None
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname, url.port, timeout=ANSWER_TIMEOUT)
    try:
        connection.request("GET", url.path + (f"?{url.query}" if url.query else ""))
        answer = connection.getresponse()
        if answer.status != 200:
            raise http.client.HTTPException(f"it answers {answer.status} {answer.reason}")
        return answer.read(MAX_ANSWER).decode()
    finally:
        connection.close()


def parse(text: str) -> Mapping[str, Mapping[Labels, float]]:
    """The values in Prometheus's text format.  Raises `ValueError`."""
    values: dict[str, dict[Labels, float]] = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            values[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
    return values


@dataclass
class Interval:
    """What happened between two samples."""

    before: Sample
    after: Sample

    @property
    def seconds(self) -> float:
        return max(self.after.when - self.before.when, 1e-3)

    def grown(self, name: str, **labels: str) -> float:
        """By how much a counter has grown; one that is smaller than before restarted from 0."""
        wanted, total = labels.items(), 0.0
        earlier = self.before.of(name)
        for found, value in self.after.of(name).items():
            if wanted <= dict(found).items():
                was = earlier.get(found, 0.0)
                total += value - was if value >= was else value
        return total

    def durations(self) -> list[tuple[float, float]]:
        """The upper end of each bucket in seconds, and the number of answers in it."""
        name = "knot_request_duration_seconds_bucket"
        ends = sorted((dict(labels)["le"] for labels in self.after.of(name)), key=float)
        up_to = [self.grown(name, le=end) for end in ends]
        return [
            (float(end), max(0.0, number - below))
            for end, number, below in zip(ends, up_to, [0.0, *up_to], strict=False)
        ]


def interval(before: Sample | None, after: Sample) -> Interval | None:
    """The interval; None without an earlier sample of the same server, by its start time."""
    start = "knot_start_time_seconds"
    if before is None or before.sum(start) != after.sum(start):
        return None
    return Interval(before, after)


def rate(shown: Interval | None, name: str, **labels: str) -> float | None:
    """How much a counter grows per second; None without an interval."""
    return None if shown is None else shown.grown(name, **labels) / shown.seconds


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """The duration in seconds that this share of the answers does not exceed, as if the answers of
    a bucket were spread evenly over it; infinite beyond the last end, None without any answers."""
    rank = share * sum(number for _, number in buckets)
    if rank <= 0:
        return None
    low = 0.0
    for end, number in buckets:
        if rank <= number:
            return low + (end - low) * rank / number
        rank -= number
        low = end
    return low  # only reached by a rounding error


# -- showing -------------------------------------------------------------------------------------


@dataclass
class Screen:
    """What is known about a server, from sample to sample."""

    url: SplitResult
    last: Sample | None = None
    shown: Interval | None = None
    trouble: str = ""
    """Why the last attempt failed."""
    history: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))
    """Requests per second."""

    def look(self) -> None:
        try:
            sample = look(self.url)
        except UnreachableError as error:
            self.trouble = str(error)
            self.last = self.shown = None
            return
        self.trouble = ""
        self.shown = interval(self.last, sample)
        self.last = sample
        if self.shown is not None:
            self.history.append(rate(self.shown, "knot_requests_total") or 0.0)


def page(screen: Screen, width: int, height: int) -> RenderableType:
    if screen.last is None:
        return Group(title(screen, width), "", Text(f"{screen.trouble} Trying again.", "red"))
    lines = [title(screen, width), Text()]
    lines += figures(screen.shown, screen.last, screen.history, width)
    return Group(*lines, Text(), workers(screen.shown, screen.last, max(1, height - LINES)))


def title(screen: Screen, width: int) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append("knot top", "bold").append(f"  {screen.url.netloc}")
    if screen.last is not None:
        started = screen.last.sum("knot_start_time_seconds")
        line.append(f"  up {period(max(0.0, time.time() - started))}")
        restarts = sum(
            number
            for labels, number in screen.last.of("knot_worker_starts_total").items()
            if dict(labels)["reason"] != "start"
        )
        if restarts:
            line.append(f"  {restarts:,.0f} worker{'' if restarts == 1 else 's'} replaced")
    end = time.strftime("%H:%M:%S")
    line.pad_right(max(2, width - len(line) - len(end)))
    return line.append(end)


def figures(
    shown: Interval | None, last: Sample, history: Sequence[float], width: int
) -> Iterator[Text]:
    requests = head("requests").append(f"{number(rate(shown, 'knot_requests_total'))}/s")
    requests.pad_right(max(0, 23 - len(requests)))
    for digit, colour in CLASSES.items():
        statuses = {dict(labels)["status"] for labels in last.of("knot_requests_total")}
        rates = [
            rate(shown, "knot_requests_total", status=status) or 0.0
            for status in statuses
            if status.startswith(digit)
        ]
        requests.append(f"   {digit}xx ", "dim")
        requests.append(
            number(None if shown is None else sum(rates)), colour if sum(rates) else "dim"
        )
    yield requests
    bars = list(history)[-(width - INDENT) :]
    yield Text(" " * INDENT + sparkline(bars), "green", no_wrap=True)
    buckets = shown.durations() if shown is not None else []
    line = head("duration")
    for name, share in QUANTILES.items():
        line.append(f"{name} ", "dim").append(f"{duration(buckets, share):<10}")
    yield line
    yield head("sent").append(f"{size(rate(shown, 'knot_sent_bytes_total'))}/s")
    yield cache(shown, last)
    clients = head("clients").append(f"{last.sum('knot_open_connections'):,.0f}")
    for state in STATES:
        clients.append(f"   {state} ", "dim")
        clients.append(f"{last.sum('knot_open_connections', state=state):,.0f}")
    yield clients
    new, refused = rate(shown, "knot_connections_total"), rate(shown, "knot_turned_away_total")
    line = head("").append("new ", "dim").append(f"{number(new) + '/s':<11}")
    yield line.append("refused ", "dim").append(f"{number(refused)}/s", "red" if refused else "")


def head(name: str) -> Text:
    return Text(no_wrap=True, overflow="ellipsis").append(f"{name:<{INDENT}}", "bold")


def cache(shown: Interval | None, last: Sample) -> Text:
    hits = rate(shown, "knot_cache_hits_total") or 0.0
    misses = rate(shown, "knot_cache_misses_total")
    share = f"{100 * hits / (hits + misses):.2f} %" if misses is not None and hits + misses else ""
    line = head("cache")
    line.append("hits ", "dim").append(f"{share or UNKNOWN:<10}")
    line.append("misses ", "dim").append(f"{number(misses)}/s")
    return line.append("   holds ", "dim").append(size(last.sum("knot_worker_cache_bytes")))


COLUMNS: Final = {
    "worker": 7, "requests/s": 10, "CPU": 6, "memory": 9, "cache": 9, "new/s": 7,
    **dict.fromkeys(STATES, 7),
}  # fmt: skip
"""The columns with their least widths, so that they do not move."""


def workers(shown: Interval | None, last: Sample, room: int) -> Table:
    """A line for each worker; those for which there is no room share one line."""
    table = Table(
        box=None, padding=(0, 1, 0, 0), pad_edge=False, collapse_padding=True, header_style="bold"
    )
    for name, width in COLUMNS.items():
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    found = last.workers()
    if len(found) > room:
        found, others = found[: room - 1], found[room - 1 :]
    else:
        others = []
    for worker in found:
        table.add_row(worker, *cells(shown, last, [worker]))
    if others:
        table.add_row(f"{len(others)} more", *cells(shown, last, others))
    return table


def cells(shown: Interval | None, last: Sample, of: Sequence[str]) -> Iterator[str]:
    def each(name: str) -> float | None:
        rates = [rate(shown, f"knot_worker_{name}_total", worker=one) or 0.0 for one in of]
        return None if shown is None else sum(rates)

    def now(name: str, **labels: str) -> float:
        return sum(last.sum(name, worker=one, **labels) for one in of)

    yield number(each("requests"))
    cpu = each("cpu_seconds")
    yield UNKNOWN if cpu is None else f"{100 * cpu:.0f} %"
    yield size(now("knot_worker_resident_bytes"))
    yield size(now("knot_worker_cache_bytes"))
    yield number(each("connections"))
    for state in STATES:
        yield f"{now('knot_open_connections', state=state):,.0f}"


def number(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.1f}" if 0 < value < 9.95 else f"{value:,.0f}"


def size(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    for unit in ("B", "KiB", "MiB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def duration(buckets: Sequence[tuple[float, float]], share: float) -> str:
    """A quantile as text, with two digits because it is an estimate."""
    seconds = quantile(buckets, share)
    if seconds is None:
        return UNKNOWN
    if seconds == float("inf"):
        return f"> {max(end for end, _ in buckets[:-1]):g} s"
    for unit, factor in (("µs", 1e6), ("ms", 1e3)):
        if seconds * factor < 999.5:
            return f"{float(f'{seconds * factor:.2g}'):g} {unit}"
    return f"{seconds:.2g} s"


def period(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def sparkline(values: Sequence[float]) -> str:
    most = max(values, default=0.0) or 1.0
    return "".join(BARS[min(len(BARS) - 1, int(len(BARS) * value / most))] for value in values)


# -- running -------------------------------------------------------------------------------------


def once(url: SplitResult, seconds: float) -> None:
    """Print one page about the next `seconds`.  Raises `UnreachableError`."""
    console = Console(highlight=False)
    screen = Screen(url)
    for pause in (seconds, 0.0):
        screen.look()
        if screen.trouble:
            raise UnreachableError(screen.trouble)
        time.sleep(pause)
    room = LINES + len(screen.last.workers() if screen.last is not None else ())
    console.print(page(screen, console.width, room))


def run(url: SplitResult, seconds: float) -> None:
    """Show a page, updated every `seconds`, until the user stops it.

    Without a terminal, the page is printed `once`.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        return once(url, seconds)
    screen = Screen(url)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with keys() as fd, Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                screen.look()
                live.update(page(screen, *console.size), refresh=True)
                if is_left(fd, time.monotonic() + seconds):
                    break
    except KeyboardInterrupt:
        pass


@contextmanager
def keys() -> Iterator[int | None]:
    """The descriptor of the keyboard, which reports each key at once; None without one."""
    if not sys.stdin.isatty():
        yield None
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def is_left(fd: int | None, until: float) -> bool:
    """Whether the user presses q before the time `until`."""
    while (left := until - time.monotonic()) > 0:
        ready, _, _ = select.select([] if fd is None else [fd], [], [], left)
        if ready and fd is not None:
            pressed = os.read(fd, 100)
            if not pressed or set(pressed) & set(b"qQ"):
                return True
    return False
