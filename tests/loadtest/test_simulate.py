"""Knot under simulation: some seeds, some planted bugs.  `make simulate` has a thousand."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from knot.models import connection, events
from loadtest.robust.simulate import __main__ as command
from loadtest.robust.simulate.mutants import BUGS, Bug, look_for, plant
from loadtest.robust.simulate.server import Found, run_seed
from tame.threads import Pool

SEEDS = range(24)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_wrong(seed: int) -> None:
    found = run_seed(seed)
    assert not found.problems
    assert found.virtual > 5


def test_the_seeds_see_all_kinds_of_answers() -> None:
    seen = "\n".join(line for seed in range(36) for line in run_seed(seed).trace)
    for status in (200, 206, 301, 304, 400, 404, 405, 408, 412, 416, 503):
        assert f" has {status} " in seen


PROGRAM = """
import sys
from hashlib import sha256
from loadtest.robust.simulate.server import run_seed
for seed in map(int, sys.argv[1:]):
    print(sha256("\\n".join(run_seed(seed).trace).encode()).hexdigest())
"""


def test_a_seed_is_the_same_run_in_each_process() -> None:
    """Whatever ran before it, and whatever the hashes of strings are."""
    seeds = [1, 2, 3, 11]
    here = [sha256("\n".join(run_seed(seed).trace).encode()).hexdigest() for seed in seeds]
    for order, hashes in ((seeds, "0"), (seeds[::-1], "1")):
        ran = subprocess.run(
            [sys.executable, "-c", PROGRAM, *map(str, order)],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": hashes},
        )
        assert ran.stdout.split() == [here[seeds.index(seed)] for seed in order]


def test_knot_gets_its_system_back() -> None:
    run_seed(0)
    assert connection.os is os
    assert events.Pool is Pool


def test_a_failing_seed_is_told_with_the_way_to_repeat_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(seed: int) -> Found:
        return Found(seed, ["something"] * (seed == 7), ["a line"], 4, 3, 10.0, 0.1)

    monkeypatch.setattr(command, "run_seed", failing)
    assert command.run(first=5, seeds=4) == 1
    printed = capsys.readouterr().out
    assert "seed 7:\n  something\n  again: python -m loadtest.robust.simulate --seed 7\n" in printed
    assert "4 seeds, 1 of them failed; 16 requests, 4 a seed, 12 answered" in printed
    assert command.run(first=0, seeds=4) == 0


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.what)
def test_a_bug_fits_the_source(bug: Bug, tmp_path: Path) -> None:
    plant(bug, tmp_path)
    source = (tmp_path / "knot" / bug.file).read_text()
    compile(source, bug.file, "exec")


def test_a_bug_that_does_not_fit_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a bug: knot/http/ranges.py has 0 of its places"):
        plant(Bug("a bug", "ranges.py", "no such line", ""), tmp_path)


@pytest.mark.parametrize("bug", BUGS[:4], ids=lambda bug: bug.what)
def test_a_planted_bug_is_found(bug: Bug) -> None:
    verdict = look_for(bug, 20)
    assert verdict.seeds is not None
