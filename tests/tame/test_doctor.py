"""`tame doctor`: each mistake is found where it is, and nothing where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tame.__main__ import main
from tame.tools.doctor import examine

ROOT = Path(__file__).parents[2]

HEAD = """\
import subprocess
import time
from time import sleep
from tame import Event, Rendezvous, mkevent, tamed, timer, twait
import tame as t

"""

WRONG = {
    # what is said, by code: the line that is pointed at has a # <-
    "T001 dropped at once": [
        """
        def f() -> None:
            with twait:
                mkevent()  # <-
        """,
        """
        def f(r: Rendezvous[int]) -> None:
            mkevent(r, 1)  # <-
            twait(r)
        """,
    ],
    "T002 nothing is done with": [
        """
        def f() -> None:
            with twait:
                event = mkevent()  # <-
                timer(1, mkevent())
        """,
    ],
    "T003 without having triggered": [
        """
        def f(
            done: Event[int],  # <-
        ) -> None:
            with twait:
                timer(1, mkevent())
        """,
        """
        def f(x: int, done: Event[int]) -> None:
            if x:
                return  # <-
            done.trigger(x)
        """,
        """
        def f(
            x: int,
            done: "Event[int]",  # <-
        ) -> None:
            for _ in range(x):
                done.trigger(x)
        """,
        """
        def f(
            x: int,
            done: t.Event[int],  # <-
        ) -> None:
            try:
                timer(x, Event())
            except OSError as error:
                done.fail(error)
        """,
        """
        def f(
            x: int,
            done: Event[int],  # <-
        ) -> None:
            match x:
                case 1:
                    done.trigger(x)
        """,
    ],
    "T004 only after the block": [
        """
        def f() -> None:
            with twait:
                timer(1, mkevent(x))
                print(x)  # <-
        """,
    ],
    "T005 no event of r is ever made": [
        """
        def f() -> None:
            r = Rendezvous[int]()
            while twait(r):  # <-
                pass
            r.cancel()
        """,
    ],
    "T006 blocks the whole loop": [
        """
        def f() -> None:
            time.sleep(1)  # <-
        """,
        """
        def f() -> None:
            sleep(1)  # <-
        """,
        """
        def f() -> None:
            subprocess.run(["ls"])  # <-
        """,
        """
        def f() -> None:
            print(input())  # <-
        """,
    ],
}

RIGHT = [
    """
    def f(done: Event[()]) -> None:
        with twait:
            timer(1, mkevent())
        done.trigger()
    """,
    """
    def f(x: int, done: Event[()]) -> None:
        if x:
            done.trigger()
            return
        raise ValueError
    """,
    """
    def f(done: Event[()], failed: Event[()]) -> None:
        with twait:
            timer(1, mkevent())
        (done if time.time() else failed).trigger()
    """,
    """
    def f(x: int, done: Event[()]) -> None:
        try:
            timer(x, mkevent(Rendezvous()))
        finally:
            done.trigger()
    """,
    """
    def f(x: int, done: Event[()]) -> None:
        while True:
            with twait:
                timer(1, mkevent())
            if x:
                done.trigger()
                return
    """,
    """
    def f(done: Event[()]) -> None:
        def callback() -> None:
            done.trigger()
        time.time(callback)
    """,
    """
    def f(events: list[Event[()]]) -> None:
        r = Rendezvous[int]()
        events.append(mkevent(r, 1))
        twait(r)
    """,
    """
    def f() -> None:
        r = Rendezvous[int]()
        time.time(r)
        twait(r)
    """,
    """
    def f() -> None:
        x = 1
        with twait:
            timer(x, mkevent())
            timer(x, mkevent(x))
        print(x)
    """,
]


def module(body: str) -> str:
    lines = body.strip("\n").splitlines()
    margin = len(lines[0]) - len(lines[0].lstrip())
    return HEAD + "@tamed\n" + "\n".join(line[margin:] for line in lines) + "\n"


@pytest.mark.parametrize(
    ("said", "body"), [(said, body) for said, bodies in WRONG.items() for body in bodies]
)
def test_a_mistake_is_found_where_it_is(said: str, body: str) -> None:
    text = module(body)
    (finding,) = examine(text, "file.py")
    code, words = said.split(" ", 1)
    assert finding.code == code
    assert words in finding.text
    marked = next(n for n, line in enumerate(text.splitlines(), 1) if "# <-" in line)
    assert finding.line == marked


@pytest.mark.parametrize("body", RIGHT)
def test_nothing_is_found_where_nothing_is_wrong(body: str) -> None:
    assert examine(module(body), "file.py") == []


@pytest.mark.parametrize("comment", ["# tame: ignore", "# tame: ignore[T006]"])
def test_a_finding_is_silenced_on_its_line(comment: str) -> None:
    body = "def f() -> None:\n    time.sleep(1)  {}\n"
    assert examine(module(body.format(comment)), "file.py") == []
    assert len(examine(module(body.format("# tame: ignore[T001]")), "file.py")) == 1


def test_only_tamed_functions_are_looked_at() -> None:
    assert examine(HEAD + "def f() -> None:\n    time.sleep(1)\n", "file.py") == []


@pytest.mark.parametrize("pattern", ["examples/*.py", "knot/**/*.py", "loadtest/**/*.py"])
def test_this_project_is_sound(pattern: str) -> None:
    files = sorted(ROOT.glob(pattern))
    assert files
    for file in [*files, *(ROOT / "tame" / name for name in ("aio.py", "sync.py", "threads.py"))]:
        assert examine(file.read_text(), str(file)) == [], file


def test_the_command_tells_where_and_has_a_status(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(module("def f() -> None:\n    time.sleep(1)\n"))
    (tmp_path / "good.py").write_text(module(RIGHT[0]))
    (tmp_path / "broken.py").write_text("def")
    runner = CliRunner()
    assert runner.invoke(main, ["doctor", str(tmp_path / "good.py")]).exit_code == 0
    result = runner.invoke(main, ["doctor", str(tmp_path)])
    assert result.exit_code == 1
    assert f"{tmp_path / 'bad.py'}:9:5: T006 time.sleep() blocks the whole loop" in result.output
    assert f"{tmp_path / 'broken.py'}: " in result.output
