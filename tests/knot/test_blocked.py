"""What an operator reads of the calls that wait."""

from __future__ import annotations

import re
import runpy
import warnings
from pathlib import Path

from knot.monitor.blocked import MAX_CALLS, MAX_GROUPS, MAX_WIDTH, listing
from tame import BlockedWarning, Event, mkevent, run, tamed, timer, twait


def told(number: int) -> list[str]:
    """With so many calls that wait in one place, and one in another."""
    held: list[Event[()]] = []
    said: list[str] = []

    @tamed
    def many() -> None:
        with twait:
            held.append(mkevent())

    @tamed
    def single() -> None:
        with twait:
            timer(1000, mkevent())

    @tamed
    def main() -> None:
        single()
        for _ in range(number):
            many()
        with twait:
            timer(0, mkevent())
        said.append(listing("process 1"))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlockedWarning)
        run(main)
    return said[0].split("\n")


def test_equal_waits_are_one_line_and_a_single_one_is_not_hidden_by_many() -> None:
    first, _, many, single, blank, *others = told(10_000)
    assert first == "process 1: 10,001 calls wait"
    assert re.fullmatch(
        r" +10,000 +\d+\.\d{3} s  told\.<locals>\.many at tests/knot/test_blocked\.py:\d+:"
        r" held\.append\(mkevent\(\)\)",
        many,
    )
    assert single.endswith(": timer(1000, mkevent())")
    assert blank == ""
    assert len([line for line in others if ".many at" in line]) == MAX_CALLS // 2
    assert len([line for line in others if ".single at" in line]) == 1


def test_a_listing_has_a_bound() -> None:
    lines = told(10_000)
    assert len(lines) <= 4 + MAX_GROUPS + MAX_CALLS
    assert max(map(len, lines)) <= MAX_WIDTH
    assert (4 + MAX_GROUPS + MAX_CALLS) * (MAX_WIDTH + 3) < 64 * 1024


def test_of_many_places_some_are_told_and_the_others_counted(tmp_path: Path) -> None:
    number = 2 * MAX_CALLS
    function = "@tamed\ndef f{0}():\n    with twait:\n        timer(1000, mkevent())\n"
    program = tmp_path / "program.py"
    program.write_text(
        "from tame import mkevent, tamed, timer, twait\n"
        + "".join(function.format(place) for place in range(number))
    )
    names = runpy.run_path(str(program))
    said: list[str] = []

    @tamed
    def main() -> None:
        for place in range(number):
            names[f"f{place}"]()
        with twait:
            timer(0, mkevent())
        said.append(listing("process 1"))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlockedWarning)
        run(main)
    groups, _, single = said[0].partition("\n\n")
    assert groups.endswith(f"\n      {number - MAX_GROUPS}              elsewhere")
    assert len(groups.splitlines()) == 2 + MAX_GROUPS + 1
    assert len(single.splitlines()) == MAX_CALLS
