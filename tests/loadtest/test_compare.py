"""Two results side by side: what counts as worse, and what does not."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from example_result import example
from rich.console import Console

from loadtest import results
from loadtest.experiment.compare import (
    CPU,
    PRIVATE,
    THROUGHPUT,
    Comparison,
    compare,
    compare_command,
    show,
)
from loadtest.results import Result


@pytest.fixture(scope="module")
def before() -> Result:
    return example(seed=1)


@pytest.fixture(scope="module")
def slower() -> Result:
    return example(seed=2, slower={"events": 1.5})


@pytest.fixture(scope="module")
def worse(before: Result, slower: Result) -> Comparison:
    return compare(before, slower)


def shown(comparison: Comparison) -> str:
    out = io.StringIO()
    show(comparison, Console(file=out, width=80, color_system=None))
    return out.getvalue()


@pytest.mark.parametrize("seed", range(2, 5))
def test_the_same_program_measured_again_is_no_regression(before: Result, seed: int) -> None:
    comparison = compare(before, example(seed=seed))
    assert comparison.regressions == ()
    assert "No regression beyond noise." in shown(comparison)


def test_a_server_that_became_slower_is_a_regression(worse: Comparison) -> None:
    found = worse.regressions
    assert {row.server for row in found} == {"events"}
    assert {row.measure for row in found} == {CPU, THROUGHPUT}
    assert {row.part for row in found} >= {"figure7", "curve", "mix"}


def test_a_server_that_became_faster_is_none(before: Result, slower: Result) -> None:
    comparison = compare(slower, before)
    assert comparison.regressions == ()
    assert any(row.ratio.verdict == "lower" for row in comparison.rows if row.measure == CPU)


def test_memory_that_grew_is_a_regression(before: Result) -> None:
    held = tuple(
        msgspec.structs.replace(
            one, memory=msgspec.structs.replace(one.memory, private=one.memory.private * 2)
        )
        if one.server == "asyncio"
        else one
        for one in before.held
    )
    found = compare(before, msgspec.structs.replace(before, held=held)).regressions
    assert {(row.server, row.measure, row.part) for row in found} == {
        ("asyncio", PRIVATE, "memory")
    }


def test_a_machine_that_became_slower_is_not_blamed_on_the_code(before: Result) -> None:
    everything = dict.fromkeys((server.name for server in before.servers), 1.5)
    comparison = compare(before, example(seed=2, slower=everything))
    assert comparison.regressions == ()
    assert comparison.margins[CPU] > 0.4
    assert comparison.margins[PRIVATE] < 0.1


def test_without_a_server_that_did_not_change_it_says_so(before: Result) -> None:
    models = tuple(one for one in before.servers if one.kind == "model")
    alone = msgspec.structs.replace(before, servers=models)
    assert "no server that did not change" in " ".join(compare(alone, alone).differences)


def test_throughput_that_the_generator_bounded_is_never_judged(worse: Comparison) -> None:
    bound = [row for row in worse.rows if row.note == "generator-bound"]
    assert bound
    assert {row.measure for row in bound} == {THROUGHPUT}
    assert not set(bound) & set(worse.regressions)


def test_too_few_rounds_are_shown_and_not_judged() -> None:
    comparison = compare(example(rounds=2), example(rounds=2, slower={"events": 3}))
    assert comparison.regressions == ()
    rows = [row for row in comparison.rows if row.server == "events" and row.measure == CPU]
    assert {row.note for row in rows} == {"too few rounds"}
    assert all(row.ratio.value > 1.1 for row in rows)


def test_other_settings_machines_and_rows_are_named(before: Result) -> None:
    environment = msgspec.structs.replace(
        before.environment, processor="Another", loaded="load average 4"
    )
    after = msgspec.structs.replace(
        before,
        environment=environment,
        settings={**before.settings, "seconds": "3"},
        runs=tuple(run for run in before.runs if run.part != "mix"),
    )
    comparison = compare(before, after)
    assert comparison.differences == (
        "processor: AMD EPYC 7B13, then Another",
        "seconds: 10, then 3",
        "the machine was not quiet after: load average 4",
    )
    assert "only before: mix, five, events, 100 clients" in comparison.only


def test_it_fits_on_80_columns(worse: Comparison) -> None:
    text = shown(worse)
    assert "Worse: CPU per request of events, figure7, one, 350 clients: 1.2" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


def test_the_command_fails_on_a_regression_only(
    before: Result, slower: Result, tmp_path: Path
) -> None:
    for name, result in (("a", before), ("b", slower)):
        result = msgspec.structs.replace(
            result, runs=tuple(run for run in result.runs if run.part == "figure7")
        )
        (tmp_path / name).mkdir()
        results.save(result, tmp_path / name / "results.json")
    a, b = str(tmp_path / "a"), str(tmp_path / "b" / "results.json")
    assert CliRunner().invoke(compare_command, [a, a]).exit_code == 0
    assert CliRunner().invoke(compare_command, [a, b]).exit_code == 1


def test_what_is_no_result_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("{}")
    said = CliRunner().invoke(compare_command, [str(path), str(tmp_path)])
    assert said.exit_code == 1
    assert said.output.startswith(f"Error: {path} is no result of the experiment")
