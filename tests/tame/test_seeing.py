"""Seeing what a program waits for: as a tree, as a picture, on a signal; what holds the loop."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tame import BlockedWarning, Event, mkevent, run, tamed, timer, twait
from tame.adapters import any_of, with_timeout
from tame.tools import seeing
from tame.tools.seeing import (
    Waiting,
    Watchdog,
    as_dot,
    as_svg,
    blocked_tree,
    report,
    show,
    statistics,
)

pytestmark = pytest.mark.filterwarnings(f"ignore::{BlockedWarning.__module__}.BlockedWarning")

PLACE = re.compile(r" at \S*test_seeing\.py:\d+, for \d+\.\d+ s: .*")
TIMER = re.compile(r"a timer in \d+\.\d+ s")


def plain(text: str) -> str:
    """Without what differs from run to run."""
    return TIMER.sub("a timer", PLACE.sub("", text))


@tamed
def query(done: Event[str]) -> None:
    with twait:
        timer(100, mkevent())
    done.trigger("answer")


@tamed
def lookup(done: Event[str]) -> None:
    answer = ""
    with twait:
        query(mkevent(answer))
    done.trigger(answer)


def looked_at(look: object) -> list[str]:
    """What `look` says while a program waits."""
    said: list[str] = []

    @tamed
    def page() -> None:
        name, address = "", ""
        with twait:
            lookup(mkevent(name))
            first, _second = any_of(with_timeout(50, mkevent(address)), 2)
            lookup(first)

    @tamed
    def main() -> None:
        page()
        with twait:
            timer(0, mkevent())
        assert callable(look)
        said.append(look())

    run(main)
    return said


def test_who_waits_for_whom_is_a_tree() -> None:
    (said,) = looked_at(lambda: plain(show(blocked_tree())))
    assert said.splitlines() == [
        "looked_at.<locals>.page",
        "├─ a timer",
        "├─ lookup",
        "│  └─ query",
        "│     └─ a timer",
        "└─ lookup",
        "   └─ query",
        "      └─ a timer",
    ]


def test_a_circle_is_shown_once() -> None:
    """Each waits for the other: a deadlock, were it not for the timer."""
    said: list[str] = []

    @tamed
    def one(own: list[Event[()]], other: list[Event[()]]) -> None:
        with twait:
            own.append(mkevent())
        if other[0].live:
            other[0].trigger()

    @tamed
    def main() -> None:
        first: list[Event[()]] = []
        second: list[Event[()]] = []
        one(first, second)
        one(second, first)
        with twait:
            timer(0, mkevent())
        said.append(plain(show(blocked_tree())))
        first[0].trigger()

    run(main)
    assert "again: a cycle" in said[0]
    assert len(said[0].splitlines()) < 10


def test_a_picture_has_every_closure_and_an_arrow_for_every_wait() -> None:
    (dot,) = looked_at(lambda: as_dot(blocked_tree()))
    assert dot.startswith("digraph blocked {")
    assert dot.endswith("}")
    assert dot.count("[label=") == 5 + 3  # closures and timers
    assert dot.count(" -> ") == 4 + 3


def test_graphviz_draws_it_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = [Waiting('a "quoted" \\ name', "file.py:1", 1.0, events=["a timer"])]
    drawn = "<svg/>"

    def drawing(command: list[str], **options: object) -> object:
        assert command == ["/somewhere/dot", "-Tsvg"]
        assert '"a \\"quoted\\" \\\\ name\\n' in str(options["input"])
        return subprocess.CompletedProcess(command, 0, stdout=drawn)

    monkeypatch.setattr("tame.tools.seeing.shutil.which", lambda name: f"/somewhere/{name}")
    monkeypatch.setattr("tame.tools.seeing.subprocess.run", drawing)
    assert as_svg(tree) == drawn
    monkeypatch.setattr("tame.tools.seeing.shutil.which", lambda name: None)
    with pytest.raises(FileNotFoundError, match="install Graphviz"):
        as_svg(tree)


def test_what_is_shown_has_a_bound() -> None:
    tree = [Waiting(f"closure {number}", "file.py:1", 1.0) for number in range(1000)]
    lines = show(tree, 50).splitlines()
    assert len(lines) == 51
    assert lines[-1] == "… and 950 more"
    assert as_dot(tree, 50).count("[label=") == 50


def test_ten_thousand_closures_are_looked_at_in_time() -> None:
    """A bound on work, not on time: each frame is looked at once."""
    seen: list[int] = []

    @tamed
    def wait() -> None:
        with twait:
            timer(100, mkevent())

    @tamed
    def main() -> None:
        for _ in range(10_000):
            wait()
        with twait:
            timer(0, mkevent())
        seen.append(len(blocked_tree()))

    run(main)
    assert seen == [10_000]


def test_statistics_count_what_there_is() -> None:
    (counts,) = looked_at(statistics)
    assert counts["blocked"] == 5  # type: ignore[index, call-overload]
    assert counts["timers"] == 3  # type: ignore[index, call-overload]


def test_a_report_has_all_of_it() -> None:
    (said,) = looked_at(lambda: report(sys._getframe()))
    assert said.startswith("tame: 5 blocked, ")
    assert "       2 query" in said
    assert "timer(100, mkevent())" in said
    assert "the program is at:" in said


PROGRAM = """
import signal, sys, time
from tame import mkevent, run, tamed, timer, twait
from tame.tools.seeing import print_on

print_on(signal.SIGUSR1)

@tamed
def wait():
    with twait:
        timer(1000, mkevent())

@tamed
def main():
    wait()
    print("ready", flush=True)
    {step}
    sys.stdin.readline()

run(main)
"""


@pytest.mark.parametrize("step", ["pass", "while True: pass"], ids=["waiting", "in a long step"])
def test_a_live_program_prints_it_on_a_signal(step: str, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM.replace("{step}", step))
    with subprocess.Popen(
        [sys.executable, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        said = []
        for line in process.stderr:
            said.append(line)
            if "in main" in line:
                break
        process.kill()
    assert said[0].startswith("tame: 1 blocked")
    assert any(line.startswith("wait at ") for line in said)
    assert any("the program is at:" in line for line in said)


def test_a_step_that_holds_the_loop_is_told_with_its_line() -> None:
    said: list[str] = []

    def turn() -> bool:
        while not said:
            time.sleep(0)  # until the watchdog has seen it
        return False

    with Watchdog(said.append, too_long=0.001) as watchdog:
        assert not watchdog.turn(turn)()
        assert not watchdog.turn(lambda: False)()
    assert len(said) == 2
    assert "a step has held the loop for 0.001 s" in said[0]
    assert "until the watchdog has seen it" in said[0]
    assert said[1].startswith("tame: the loop was held for ")


def test_a_program_that_is_debugged_has_a_watchdog(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TAME_DEBUG", "1")

    @tamed
    def main() -> None:
        with twait:
            timer(0, mkevent())
        deadline = time.monotonic() + 0.2
        while time.monotonic() < deadline:
            pass

        while not (debugging := seeing.debugging) or not debugging.samples:
            pass  # until it has been looked at
        reports.append(report())

    reports: list[str] = []
    run(main)
    assert "a step has held the loop for 0.05 s" in capsys.readouterr().err
    assert re.search(r"running when sampled: \S*main \d+", reports[0])
    assert seeing.debugging is None
