"""The report of a made-up result: what it says, what it must not say, and how its page looks."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from example_result import MODELS, example
from hdrh.histogram import HdrHistogram
from rich.console import Console

from loadtest import results
from loadtest.experiment.report import plots, show, write
from loadtest.experiment.report.headlines import headlines
from loadtest.experiment.report.markdown import table_lines
from loadtest.experiment.report.page import Gaps, Page, Section, Table
from loadtest.experiment.report.sections import page
from loadtest.experiment.report.svg import DARK, LIGHT
from loadtest.experiment.rounds import GENERATOR_BOUND, gather
from loadtest.results import Result

NOTHING = msgspec.structs.replace(example(rounds=1), runs=(), held=(), missing={"figure7": "cut"})


@pytest.fixture(scope="module", autouse=True)
def fonts_open() -> None:
    """Matplotlib keeps the file of a font open from its first drawing on."""
    plots(msgspec.structs.replace(example(rounds=1), runs=()))


@pytest.fixture(scope="module")
def result() -> Result:
    return example(rounds=3)


@pytest.fixture(scope="module")
def drawn(result: Result) -> dict[str, str]:
    return plots(result)


@pytest.fixture(scope="module")
def written(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("reports") / "new" / "one"
    write(result, directory)
    return directory


def section(content: Page, name: str) -> Section:
    return next(section for section in content.sections if section.name == name)


def row(table: Table, name: str) -> dict[str, str]:
    cells = next(cells for cells in table.rows if cells[0] == name)
    return dict(zip(table.head, cells, strict=True))


def without(result: Result, server: str) -> Result:
    return msgspec.structs.replace(
        result,
        runs=tuple(run for run in result.runs if run.server != server),
        held=tuple(held for held in result.held if held.server != server),
        missing={**result.missing, server: "gevent is not installed"},
    )


def test_the_data_can_be_read_back(result: Result, written: Path) -> None:
    assert results.load(written / "results.json") == result


def test_figure_7_has_the_papers_rows_and_columns_beside_ours(result: Result) -> None:
    table = section(page(result), "figure7").tables[0]
    assert table.head == ("", "Capriccio (paper)", "Tame (paper)", *MODELS)
    assert [cells[:3] for cells in table.rows[:4]] == [
        ("Throughput (connections/s)", "28,318", "28,457"),
        ("Number of threads", "350", "1"),
        ("Physical memory (kB)", "6,560", "2,156"),
        ("Virtual memory (kB)", "49,517", "10,740"),
    ]
    assert row(table, "Number of threads")["threads"] == "351"
    assert row(table, "Private memory (kB)")["Tame (paper)"] == "— [1]"
    assert table.notes == ("[1] the paper does not give it",)


def test_the_headlines_say_what_came_out(result: Result) -> None:
    said = headlines(result)
    assert "The goal, at least 3 times, is met." in said[0]
    assert re.search(r"3\.\d\d times as many \(3\.\d\d to 3\.\d\d in 3 rounds\)", said[0])
    assert "The goal, at most a third, is met." in said[1]
    assert "The goal, at most a tenth, is met." in said[2]
    assert "The goal, at most a seventh, is met." in said[3]


def test_a_missed_goal_is_said_as_plainly() -> None:
    said = headlines(example(rounds=3, slower={"events": 4}))
    assert "The goal, at least 3 times, is missed." in said[0]


@pytest.mark.parametrize(("slower", "said"), [(4, "cannot tell"), (1, "is met")])
def test_what_the_generator_bounded_can_meet_a_goal_but_not_miss_it(
    slower: float, said: str
) -> None:
    result = example(rounds=3, slower={"events": slower})
    runs = tuple(
        msgspec.structs.replace(run, marks=(GENERATOR_BOUND,)) if run.server == "events" else run
        for run in result.runs
    )
    headline = headlines(msgspec.structs.replace(result, runs=runs))[0]
    assert said in headline
    assert "missed" not in headline
    assert "that many at least" in headline


def test_the_cost_of_a_connection_is_said_whatever_was_the_limit(result: Result) -> None:
    assert re.search(r"cost threads 3\.\d\d times the CPU time \(", headlines(result)[0])


def test_one_round_has_no_interval() -> None:
    assert "(1 round, too few for an interval)" in headlines(example(rounds=1))[0]


def test_a_server_that_was_not_measured_is_a_gap_with_its_reason(result: Result) -> None:
    content = page(without(result, "greenlets"))
    reason = "greenlets: gevent is not installed"
    for name in ("figure7", "curve", "latency", "memory"):
        table = section(content, name).tables[0]
        assert reason in " ".join(table.notes), name
    curve = section(content, "curve").tables[0]
    assert row(curve, "pool")["1,024"].startswith("—")
    assert "its 350 threads hold 350 connections" in " ".join(curve.notes)
    table = section(content, "figure7").tables[0]
    number = next(note for note in table.notes if note.endswith(reason)).split()[0]
    assert {dict(zip(table.head, cells, strict=True))["greenlets"] for cells in table.rows} == {
        f"— {number}"
    }
    assert ("greenlets", "gevent is not installed") in section(content, "missing").tables[0].rows


def test_nothing_is_said_of_what_was_not_measured() -> None:
    content = page(NOTHING)
    assert all("nothing is said" in said for said in content.headlines)
    assert [one.name for one in content.sections] == ["errors", "missing", "environment", "repeat"]
    assert plots(NOTHING) == {}


def test_a_result_with_nothing_in_it_can_be_written_and_shown(tmp_path: Path) -> None:
    write(NOTHING, tmp_path)
    assert "Left out: figure7: cut" in terminal(NOTHING)


def test_a_rare_latency_is_a_gap_if_too_few_requests_could_show_it(result: Result) -> None:
    runs = [run for run in result.runs if run.part == "latency" and run.server == "events"]
    few = HdrHistogram(1, 60_000_000, 3)
    few.record_value(1_000, 150)
    load = msgspec.structs.replace(runs[0].load, latency=few.encode().decode())
    one = msgspec.structs.replace(
        result, runs=(msgspec.structs.replace(runs[0], load=load),), held=()
    )
    table = section(page(one), "latency").tables[0]
    cells = row(table, "events")
    assert cells["99 %"] == "1.00"
    assert cells["99.9 %"] == "— [1]"
    assert table.notes[0] == "[1] too few answers for one in so many"


def test_the_latencies_of_all_rounds_are_counted_together(result: Result) -> None:
    group = next(one for one in gather(result.runs) if one.part == "latency")
    histogram = group.latencies()
    assert histogram is not None
    assert len(group.runs) == 3
    assert histogram.get_total_count() == 3 * 1_500 * 4


def test_marks_and_errors_are_shown(result: Result) -> None:
    content = page(result)
    assert row(section(content, "peers").tables[0], "Starlette")["Marks"] == "wrong answers"
    kinds = {cells[0]: cells[-1] for cells in section(content, "errors").tables[0].rows}
    assert kinds["Starlette"] == "wrong 9"
    curve = section(content, "curve").tables[0]
    assert row(curve, "events")["16"] == "25,000*"
    bounds = section(content, "bounds").tables[0]
    assert any(cells[-1] == "generator-bound" for cells in bounds.rows)


def test_a_throughput_that_the_generator_bounded_has_no_verdict(result: Result) -> None:
    table = section(page(result), "peers").tables[1]
    nginx = next(cells for cells in table.rows if cells[0] == "nginx")
    assert nginx[2] == "generator-bound"
    assert nginx[4] == "lower", "CPU per request is the server's own all the same"


def test_a_loaded_machine_is_the_first_thing_that_is_said(tmp_path: Path) -> None:
    loaded = example(rounds=1, loaded="load average 3.1 <on> 2 cores")
    loaded = msgspec.structs.replace(loaded, runs=loaded.runs[:12])
    write(loaded, tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert "The machine was not quiet:</strong> load average 3.1 &lt;on&gt; 2 cores" in html
    assert "not quiet" in (tmp_path / "report.md").read_text()
    assert terminal(loaded).startswith("The machine was not quiet: load average 3.1 <on> 2 cores")


def test_the_plots_stand_beside_the_markdown_that_shows_them(written: Path) -> None:
    shown = re.findall(r"!\[.*?\]\((.*?)\)", (written / "report.md").read_text())
    assert "plots/figure7.svg" in shown
    for name in shown:
        assert (written / name).read_text().startswith("<svg")


def test_the_page_fetches_nothing_and_runs_nothing(written: Path) -> None:
    html = (written / "report.html").read_text()
    assert "<script" not in html
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert not re.search(r'(?:src|href)="(?!#)', html)


class Ids(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.wanted: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            elif value:
                self.wanted.update(re.findall(r"^#(.+)$", value))
                self.wanted.update(re.findall(r"url\(#(.+?)\)", value))


def test_every_id_of_the_page_is_there_once(written: Path) -> None:
    found = Ids()
    found.feed((written / "report.html").read_text())
    assert len(found.ids) == len(set(found.ids))
    assert found.wanted <= set(found.ids)


def test_each_plot_is_a_small_file_for_both_schemes(drawn: dict[str, str]) -> None:
    assert set(drawn) == {
        *("figure7", "memory", "threads"),
        *("throughput-kept", "throughput-one", "cpu-kept", "cpu-one"),
        *("latency-50", "latency-70", "latency-70-connections", "latency-90"),
    }
    for name, svg in drawn.items():
        root = ElementTree.fromstring(svg)
        assert root.find("{http://www.w3.org/2000/svg}title") is not None
        assert root.get("aria-labelledby") == f"{name}-title"
        assert LIGHT["s0"] in svg
        assert DARK["s0"] in svg
        assert "prefers-color-scheme:dark" in svg
        assert "#c0de" not in svg, "a placeholder has no colour"
        assert len(svg) < 40_000


def test_numbers_in_a_plot_are_those_of_the_result(result: Result, drawn: dict[str, str]) -> None:
    table = section(page(result), "figure7").tables[0]
    throughput = row(table, "Throughput (connections/s)")
    assert all(f">{throughput[model]}</text>" in drawn["figure7"] for model in MODELS)


def test_the_same_result_makes_the_same_page(result: Result, written: Path, tmp_path: Path) -> None:
    write(result, tmp_path)
    for name in ("report.html", "report.md", "results.json"):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    lines = list(table_lines(Table("one|two", ("", "a|b"), (("x", "1|2\n3 *"),))))
    assert lines[1].splitlines()[0].count("|") - lines[1].splitlines()[0].count("\\|") == 3
    assert "1\\|2 3 \\*" in lines[1]


def test_every_table_is_in_the_markdown(result: Result, written: Path) -> None:
    text = (written / "report.md").read_text()
    captions = [table.caption for one in page(result).sections for table in one.tables]
    assert [caption for caption in captions if f"**{caption}**" not in text] == []


def test_gaps_of_one_reason_share_its_number() -> None:
    gaps = Gaps()
    assert [gaps.because(reason) for reason in "aba"] == ["— [1]", "— [2]", "— [1]"]
    assert gaps.notes() == ("[1] a", "[2] b")


def test_the_end_of_a_run_fits_on_80_columns(result: Result) -> None:
    lines = terminal(result).splitlines()
    assert all(len(line) <= 80 for line in lines)
    events = next(line for line in lines if line.strip().startswith("events "))
    assert len(events.split()) == 7
    assert not any("…" in line for line in lines)


def terminal(result: Result) -> str:
    out = io.StringIO()
    show(result, Console(file=out, width=80, color_system=None))
    return out.getvalue()


MEASURE = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe id="page" src="report.html" style="width:360px;height:800px;border:0"></iframe>
<p id="said">waiting</p><script>
document.getElementById("page").onload = () => {
  const inner = document.getElementById("page").contentDocument;
  for (const folded of inner.querySelectorAll("details")) folded.open = true;
  const root = inner.documentElement;
  const clipped = [...inner.querySelectorAll("svg")].filter(svg => svg.clientWidth > 360).length;
  document.getElementById("said").textContent =
    `${root.clientWidth} wide, ${root.scrollWidth} scrolled, ${clipped} clipped`;
};
</script>"""


def test_the_page_does_not_scroll_sideways_on_a_phone(written: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("chromium is not installed (Debian package chromium)")
    shutil.copy(written / "report.html", tmp_path)
    (tmp_path / "measure.html").write_text(MEASURE)
    done = subprocess.run(
        [
            browser,
            *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--virtual-time-budget=5000", "--dump-dom", f"file://{tmp_path / 'measure.html'}"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "360 wide, 360 scrolled, 0 clipped" in done.stdout, done.stdout + done.stderr
