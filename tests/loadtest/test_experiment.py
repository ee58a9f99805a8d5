"""The harness measures, and says what was wrong: with a server, a generator, the machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from loadtest import generators, measure, results
from loadtest.experiment import run as experiment
from loadtest.experiment.marks import DROPPED, IDLE, LOADED, SILENT, WRONG
from loadtest.experiment.report import write
from loadtest.experiment.rounds import GENERATOR_BOUND
from loadtest.experiment.run import FILE, Experiment, Part, Settings, models, parts
from loadtest.fileset import FileSet
from loadtest.generators import tame
from loadtest.measure import cannot_count
from loadtest.results import Result
from loadtest.scenario import SCENARIOS
from loadtest.servers import Place, Server, knot, null

LIARS = Path(__file__).with_name("liars.py")
CLIENTS = 8


@pytest.fixture
def files(tmp_path: Path) -> FileSet:
    """A file set with the one file that is asked for."""
    found = FileSet(tmp_path / "files", 0)
    (found.root / FILE).parent.mkdir(parents=True)
    (found.root / FILE).write_bytes(found.content(FILE))
    return found


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads of a moment by the generator that looks at every byte."""
    monkeypatch.setattr(experiment, "WARM_UP", 0.1)
    monkeypatch.setattr(experiment, "COUNTED", 0.1)
    available = generators.available
    monkeypatch.setattr(
        generators, "available", lambda name: "not here" if name == "wrk" else available(name)
    )
    monkeypatch.setattr(measure, "PATIENCE", 0.2)
    monkeypatch.setattr(tame, "Job", partial(tame.Job, patience=0.5))


def liar(mode: str) -> Server:
    def command(place: Place) -> list[str]:
        return [sys.executable, str(LIARS), mode, str(place.port), str(place.file)]

    return Server(mode, command)


def measured(files: FileSet, *servers: Server, **options: object) -> Experiment:
    """One round of one part."""
    found = Experiment(Settings(rounds=1), files, "a test")
    part = Part("peers", SCENARIOS["kept"], servers, (CLIENTS,), rounds=1, seconds=0.3)
    found.measure(replace(part, **options))  # type: ignore[arg-type]
    return found


# -- lies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "mark"), [("wrong", WRONG), ("drop", DROPPED), ("stall", SILENT)])
def test_a_server_that_lies_is_marked_beside_one_that_does_not(
    files: FileSet, mode: str, mark: str
) -> None:
    found = measured(files, liar(mode), knot("events"))
    lying, honest = found.result().runs
    assert mark in lying.marks
    assert lying.load.requests == 0
    assert sum(lying.load.errors.values()) > 0
    assert honest.load.requests > 0
    assert honest.load.errors == {}
    assert not {WRONG, DROPPED, SILENT} & set(honest.marks)


def test_a_server_that_stalls_is_not_mistaken_for_a_slow_generator(files: FileSet) -> None:
    (run,) = measured(files, liar("stall")).runs
    assert IDLE in run.marks
    assert GENERATOR_BOUND not in run.marks


def test_a_server_that_dies_is_left_out_and_said_to_be(files: FileSet) -> None:
    found = measured(files, liar("die"), knot("events"))
    result = found.result()
    assert {run.server for run in result.runs if run.load.requests} == {"events"}
    dead = [run for run in result.runs if run.server == "die"]
    assert all(DROPPED in run.marks for run in dead)
    assert dead or any(what.startswith("die") for what in result.missing)


def test_a_server_that_does_not_start_is_left_out_with_what_it_said(files: FileSet) -> None:
    def fails(place: Place) -> list[str]:
        return [sys.executable, "-c", "raise SystemExit('no licence')"]

    found = measured(files, Server("fails", fails), knot("events"))
    assert [run.server for run in found.runs] == ["events"]
    (reason,) = [why for what, why in found.missing.items() if what.startswith("fails")]
    assert "no licence" in reason


def test_a_generator_that_is_slowed_is_called_the_limit(
    files: FileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowly = (
        "import threading\n"
        "from loadtest.generators import tame\n"
        "def burn():\n"
        "    while True: pass\n"
        "threading.Thread(target=burn, daemon=True).start()\n"
        "tame.main()\n"
    )
    command = tame.command

    def slowed(job: tame.Job, core: int | None) -> list[str]:
        *before, _, _, encoded = command(job, core)
        return [*before, "-c", slowly, encoded]

    monkeypatch.setattr(tame, "command", slowed)
    found = measured(files, knot("events"))
    (run,) = found.runs
    assert {GENERATOR_BOUND, LOADED} & set(run.marks)  # which of the two, if others work here, too


# -- what is measured ----------------------------------------------------------------------------


def test_every_model_is_measured(files: FileSet) -> None:
    pytest.importorskip("gevent")
    found = measured(files, *models())
    names = tuple(server.name for server in models())
    assert not [what for what in found.missing if what.startswith(names)]
    for run in found.runs:
        assert run.load.requests > 0
        assert run.cost.cpu > 0
        assert run.memory is not None
        assert run.memory.private > 1_000_000
    threads = {run.server: run.memory.threads for run in found.runs if run.memory}
    assert threads["events"] == 1
    assert threads["threads"] >= CLIENTS
    assert threads["pool"] > 350


@pytest.mark.skipif(bool(cannot_count()), reason="perf cannot count system calls here")
def test_system_calls_are_counted_once_apart_from_the_time(files: FileSet) -> None:
    found = measured(files, knot("events"), rounds=2)
    first, last = (run.counts for run in found.runs)
    assert first is None
    assert last is not None
    assert last.requests > 0
    assert last.system_calls >= 2 * last.requests


def test_a_constant_rate_is_a_share_of_the_maximum(files: FileSet) -> None:
    (half,) = measured(files, knot("events"), shares=(0.5,)).runs
    assert half.share == 0.5
    assert half.load.rate
    assert half.load.requests <= half.load.rate * half.load.seconds + 1


def test_a_pool_is_not_asked_for_more_connections_than_it_has_threads(files: FileSet) -> None:
    pool = knot("pool", "--model", "threads", "--threads", "350")
    found = measured(files, pool, clients=(400,))
    assert found.runs == []
    assert "350 threads" in found.missing["pool, more than 350 connections"]


def test_idle_connections_are_held(files: FileSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "CROWDS", (5, 20))
    found = Experiment(Settings(), files, "a test")
    found.hold(knot("threads", "--model", "threads"))
    assert [one.memory.connections for one in found.held] == [0, 5, 20]
    none, _, most = (one.memory.threads for one in found.held)
    assert most == none + 20


def test_rounds_go_forwards_and_backwards(files: FileSet, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, str]] = []
    monkeypatch.setattr(
        Experiment, "take", lambda _, turn, number: taken.append((number, turn.server))
    )
    names = [knot("a"), knot("b")]
    measured(files, *names, rounds=2)
    assert taken == [(-1, "b"), (-1, "a"), (0, "a"), (0, "b"), (1, "b"), (1, "a")]


def test_one_core_is_shared_and_the_result_says_so(
    files: FileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    found = Experiment(Settings(), files, "a test")
    assert found.server_core is None
    assert not found.result().environment.pinned


def test_every_part_is_in_the_short_run_or_the_full_one(files: FileSet) -> None:
    ours = models()
    short = parts(Settings(), files, ours, [])
    full = parts(Settings(full=True), files, ours, [])
    assert {part.name for part in short} < {part.name for part in full}
    assert sum(part.duration for part in short) < 400
    used = {part.scenario.name for part in full}
    assert used == set(SCENARIOS) - {"idle"}  # a crowd is held, which is no load


def test_a_result_can_be_made_and_shown_before_anything_was_measured(
    files: FileSet, tmp_path: Path
) -> None:
    write(Experiment(Settings(), files, "a test").result(), tmp_path / "report")
    assert results.load(tmp_path / "report" / "results.json").runs == ()


def test_near_the_null_server_only_the_generator_is_measured(files: FileSet) -> None:
    found = measured(files, knot("events"), null())
    assert {run.server for run in found.result().runs} == {"events", "null"}


# -- the program ---------------------------------------------------------------------------------


def run_loadtest(tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "loadtest", "run", "--load", "0", "--rounds", "1"]
    command += ["--seconds", "1", "--into", str(tmp_path / "report"), *options]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )


def test_the_program_measures_and_writes_a_report(tmp_path: Path) -> None:
    process = run_loadtest(tmp_path, "--only", "figure7", "--server", "events")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "350 connections" in out
    result = results.load(tmp_path / "report" / "results.json")
    assert [run.server for run in result.runs] == ["events", "null"]
    assert result.runs[0].load.requests > 0
    for name in ("report.html", "report.md"):
        assert (tmp_path / "report" / name).stat().st_size > 1000
    shutil.rmtree(tmp_path / "cache")


def test_an_interrupted_run_has_a_report_of_what_there_was(tmp_path: Path) -> None:
    process = run_loadtest(tmp_path, "--only", "figure7", "--server", "events")
    assert process.stderr is not None
    assert "Ctrl-C" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 0, err
    result: Result = results.load(tmp_path / "report" / "results.json")
    assert "interrupted" in result.missing["what was to follow"]


def test_an_unknown_server_is_refused_by_name(tmp_path: Path) -> None:
    process = run_loadtest(tmp_path, "--server", "apache")
    _, err = process.communicate()
    assert process.returncode == 2
    assert "apache" in err
