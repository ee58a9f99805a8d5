"""``knot top``: figures from metrics, and the page that shows them, on a terminal of its own."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import knot.cli

pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")
pytest.importorskip("rich", reason="rich is not installed")

from rich.console import Console
from serving import KNOT, administered, fetch

from knot.monitor import top
from knot.monitor.metrics import BOUNDS

PATIENCE = 20
START = "knot_start_time_seconds 1000\n"


def sample(when: float, text: str) -> top.Sample:
    return top.Sample(when, top.parse(text))


def between(before: str, after: str, seconds: float = 2) -> top.Interval:
    found = top.interval(sample(10, START + before), sample(10 + seconds, START + after))
    assert found is not None
    return found


# -- figures -----------------------------------------------------------------------------------


def test_a_rate_is_what_has_grown_by_the_second() -> None:
    found = between(
        'a_total{x="1"} 10\na_total{x="2"} 5\n', 'a_total{x="1"} 14\na_total{x="2"} 7\n'
    )
    assert top.rate(found, "a_total") == 3
    assert top.rate(found, "a_total", x="2") == 1
    assert top.rate(found, "b_total") == 0
    assert top.rate(None, "a_total") is None


def test_what_was_not_there_before_began_with_nothing() -> None:
    assert top.rate(between("", 'a_total{worker="7"} 4\n'), "a_total") == 2


@given(st.lists(st.integers(0, 100), min_size=1, max_size=5), st.integers(0, 100))
def test_no_rate_is_negative_whatever_begins_anew(before: list[int], after: int) -> None:
    text = "".join(f'a_total{{x="{x}"}} {value}\n' for x, value in enumerate(before))
    found = between(text, f'a_total{{x="0"}} {after}\n')
    rate = top.rate(found, "a_total")
    assert rate is not None
    assert rate == (after - before[0] if after >= before[0] else after) / 2


def test_another_server_at_the_same_address_has_no_interval_yet() -> None:
    earlier, later = sample(1, START + "a_total 100\n"), sample(2, "knot_start_time_seconds 2000\n")
    assert top.interval(earlier, later) is None
    assert top.interval(None, later) is None


def durations(numbers: list[int]) -> str:
    ends = [*map(str, BOUNDS), "+Inf"]
    return "# TYPE knot_request_duration_seconds histogram\n" + "".join(
        f'knot_request_duration_seconds_bucket{{le="{end}"}} {sum(numbers[: place + 1])}\n'
        for place, end in enumerate(ends)
    )


NUMBERS = st.lists(st.integers(0, 1000), min_size=len(BOUNDS) + 1, max_size=len(BOUNDS) + 1)


@given(NUMBERS, NUMBERS)
def test_the_buckets_of_an_interval_are_those_of_the_answers_in_it(
    before: list[int], more: list[int]
) -> None:
    after = [a + b for a, b in zip(before, more, strict=True)]
    found = between(durations(before), durations(after)).durations()
    assert found == list(zip([*BOUNDS, float("inf")], more, strict=True))


@given(NUMBERS, st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_quantiles_lie_in_the_bucket_of_the_answer_and_grow_with_the_share(
    numbers: list[int], one: float, other: float
) -> None:
    ends = [*BOUNDS, float("inf")]
    buckets = [(end, float(number)) for end, number in zip(ends, numbers, strict=True)]
    low, high = (top.quantile(buckets, share) for share in sorted((one, other)))
    if not sum(numbers):
        assert low is None
        return
    assert low is not None
    assert high is not None
    assert low <= high
    rank = min(one, other) * sum(numbers)
    place = next(i for i in range(len(ends)) if sum(numbers[: i + 1]) >= rank * (1 - 1e-9))
    assert low <= ends[place] * (1 + 1e-9)


def test_figures_are_short() -> None:
    assert [top.number(value) for value in (None, 0, 0.25, 9.94, 9.96, 12345.6)] == [
        "-", "0", "0.2", "9.9", "10", "12,346",
    ]  # fmt: skip
    assert [top.size(value) for value in (None, 0, 999, 1024, 100 * 2**20, 5 * 2**30)] == [
        "-", "0 B", "999 B", "1.0 KiB", "100 MiB", "5.0 GiB",
    ]  # fmt: skip
    assert [top.period(value) for value in (5, 65, 3700, 90_000)] == [
        "5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h",
    ]  # fmt: skip
    assert [top.duration([(end, 1)], 0.5) for end in (2e-5, 0.0246, 3.0)] == [
        "10 µs", "12 ms", "1.5 s",
    ]  # fmt: skip
    assert top.duration([(10.0, 0), (float("inf"), 1)], 0.5) == "> 10 s"
    assert top.sparkline([0, 4, 8]) == "▁▅█"
    assert top.sparkline([0]) == "▁"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("127.0.0.1:9090", "http://127.0.0.1:9090/metrics"),
        ("localhost", "http://localhost:9090/metrics"),
        ("[::1]:80", "http://[::1]:80/metrics"),
        ("http://x", "http://x/metrics"),
        ("https://x:1/m?a=b", "https://x:1/m?a=b"),
    ],
)
def test_a_server_may_be_called_by_an_address_or_a_url(text: str, url: str) -> None:
    assert top.parse_address(text).geturl() == url


@pytest.mark.parametrize("text", ["", ":9090", "x:y", "x:99999", "file:///etc/passwd", "http://"])
def test_what_is_no_address_is_told(text: str) -> None:
    said = CliRunner().invoke(knot.cli.main, ["top", "--once", text])
    assert said.exit_code == 2
    assert "write it as 127.0.0.1:9090" in said.output


# -- the page ----------------------------------------------------------------------------------


def shown(screen: top.Screen, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO())
    with console.capture() as capture:
        console.print(top.page(screen, width, height))
    return capture.get().splitlines()


def busy(workers: int, factor: int) -> str:
    return START + "".join(
        [
            f'knot_requests_total{{status="200"}} {1_000_000 * factor}\n',
            f'knot_requests_total{{status="404"}} {10 * factor}\n',
            durations([0, 900 * factor, 90 * factor, *[0] * (len(BOUNDS) - 2)]),
            f"knot_sent_bytes_total {2**30 * factor}\n",
            f"knot_cache_hits_total {999 * factor}\nknot_cache_misses_total {factor}\n",
            f"knot_connections_total {10_000 * factor}\nknot_turned_away_total {factor}\n",
            f'knot_worker_starts_total{{reason="death"}} {factor}\n',
            *(
                f'knot_worker_requests_total{{worker="{pid}"}} {1_000_000 // workers * factor}\n'
                f'knot_worker_connections_total{{worker="{pid}"}} {5000 * factor}\n'
                f'knot_worker_cpu_seconds_total{{worker="{pid}"}} {factor}\n'
                f'knot_worker_cache_bytes{{worker="{pid}"}} {64 << 20}\n'
                f'knot_worker_resident_bytes{{worker="{pid}"}} {999 << 20}\n'
                f'knot_open_connections{{worker="{pid}",state="idle"}} {9600 // workers}\n'
                for pid in range(4_000_000, 4_000_000 + workers)
            ),
        ]
    )


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
@pytest.mark.parametrize("workers", [1, 12, 200])
def test_a_page_fits_the_terminal(width: int, height: int, workers: int) -> None:
    screen = top.Screen(top.parse_address("127.0.0.1:9090"))
    screen.history.extend(range(top.HISTORY))
    for factor in (1, 2):
        screen.last, earlier = sample(factor, busy(workers, factor)), screen.last
        screen.shown = top.interval(earlier, screen.last)
        lines = shown(screen, width, height)
        assert len(lines) < height
        assert max(map(len, lines)) <= width
        assert not any("…" in line for line in lines[2:])
    page = "\n".join(lines)
    assert "2 workers replaced" in page
    assert re.search(r"requests +1,000,010/s +2xx 1,000,000 +3xx 0 +4xx 10 +5xx 0", page)
    assert "hits 99.90 %" in page
    assert ("more" in page) == (workers > height - top.LINES)
    assert re.search(r"clients +9,600 +head 0 +idle 9,600 ", page)


# -- against a server ----------------------------------------------------------------------------

TOP = [*KNOT, "top"]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text("home")
    return tmp_path


def test_one_page_is_printed_for_scripts(site: Path) -> None:
    with administered(site, "--workers", "2") as (_, url, admin):
        assert fetch(url) == (200, "home")
        command = [*TOP, "--once", "--interval", "0.1", admin.removeprefix("http://")]
        said = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.startswith("knot top  127.0.0.1:")
    assert re.search(r"^requests +0/s ", said.stdout, re.MULTILINE)
    assert len(re.findall(r"^ *\d+ +0 +\d+ % ", said.stdout, re.MULTILINE)) == 2


def test_who_cannot_be_reached_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    said = CliRunner().invoke(knot.cli.main, ["top", "--once", address])
    assert said.exit_code == 1
    assert str(said.exception) == (
        f"knot: http://{address}/metrics cannot be reached: Connection refused."
    )


def test_what_is_no_metrics_of_knots_is_told(site: Path) -> None:
    (site / "metrics").write_text("a_total 1\n")
    (site / "nonsense").write_text("<!doctype html>")
    with administered(site) as (_, url, _):
        for target, why in (
            ("/metrics", "are not those of Knot"),
            ("/nonsense", "not in Prometheus's text format"),
            ("/nothing", "answers 404"),
        ):
            said = CliRunner().invoke(knot.cli.main, ["top", "--once", url + target])
            assert said.exit_code == 1
            assert why in str(said.exception)


@contextmanager
def on_a_terminal(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """``knot top`` on a terminal of 80 columns, and the other side of that."""
    own, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    command = [*TOP, "--interval", "0.1", *arguments]
    process = subprocess.Popen(
        command,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment,
        start_new_session=True,  # and the terminal is that session's, so that Ctrl-C is a signal
        preexec_fn=lambda: fcntl.ioctl(terminal, termios.TIOCSCTTY, 0),
    )
    os.close(terminal)
    try:
        yield process, own
    finally:
        process.kill()
        process.wait()
        os.close(own)


def until(terminal: int, text: str, seen: str = "") -> str:
    """What the terminal has shown when that appears."""
    give_up = monotonic() + PATIENCE
    while text not in seen:
        assert select.select([terminal], [], [], max(0, give_up - monotonic()))[0], seen
        seen += os.read(terminal, 1 << 16).decode(errors="replace")
    return seen


def rest(terminal: int) -> str:
    """What it shows until its programs have ended."""
    seen = b""
    give_up = monotonic() + PATIENCE
    try:
        while select.select([terminal], [], [], max(0, give_up - monotonic()))[0]:
            seen += os.read(terminal, 1 << 16)
    except OSError:
        return seen.decode()
    raise AssertionError(seen)


LEFT = "\x1b[?1049l"
"""What ends the other screen of a terminal."""


@pytest.mark.parametrize("end", ["q", "\x03", "signal"])
def test_it_ends_with_q_and_with_ctrl_c_and_leaves_the_terminal_as_it_was(
    site: Path, end: str
) -> None:
    with administered(site) as (_, _, admin), on_a_terminal(admin) as (process, terminal):
        until(terminal, "requests/s")
        if end == "signal":
            process.send_signal(signal.SIGTERM)
        else:
            os.write(terminal, end.encode())
        said = rest(terminal)
        assert process.wait(PATIENCE) == (143 if end == "signal" else 0)
        assert LEFT in said
        assert "Traceback" not in said


def test_a_server_that_has_gone_is_told_and_looked_for_again(site: Path) -> None:
    with administered(site) as (server, _, admin), on_a_terminal(admin) as (_, terminal):
        until(terminal, "requests/s")
        server.terminate()
        until(terminal, "cannot be reached")
        until(terminal, "Trying")
        with administered(site, admin=admin.removeprefix("http://")):
            until(terminal, "requests/s")


def test_serving_needs_nothing_of_it() -> None:
    program = "import sys, knot.cli, knot.run; knot.run.load_model('events'); print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert not {"rich", "knot.monitor.top", "prometheus_client"} & set(said.stdout.decode().split())
