"""The report of a `Result`: a page, the same as Markdown, and the table at the end of a run.

Nothing is measured here and no gap is filled: what a result does not hold is a gap with its reason.
``page`` defines what a report consists of; ``sections``, ``figure7``, ``headlines`` and ``figures``
take it from the gathered result; ``markdown``, ``page.html`` and ``terminal`` show it.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from loadtest import results
from loadtest.experiment.report import figures
from loadtest.experiment.report.markdown import markdown
from loadtest.experiment.report.page import GAP, Page
from loadtest.experiment.report.sections import page
from loadtest.experiment.report.svg import Plot, variables
from loadtest.experiment.report.terminal import show
from loadtest.experiment.rounds import Gathered

__all__ = ["draw_report", "show", "write"]


def write(gathered: Gathered, directory: Path) -> None:
    """Write results.json and the report to `directory`, which is created if necessary.

    The data are written first: they are kept even if the report fails.
    """
    directory.mkdir(parents=True, exist_ok=True)
    results.save(gathered.result, directory / "results.json")
    draw_report(gathered, directory)


def draw_report(gathered: Gathered, directory: Path) -> None:
    """Write report.html, and report.md with its plots, to `directory`."""
    plots = {plot.name: plot for plot in figures.draw(gathered)}
    content = page(gathered, plots)
    (directory / "plots").mkdir(parents=True, exist_ok=True)
    for name, plot in plots.items():
        (directory / "plots" / f"{name}.svg").write_text(plot.alone(), encoding="utf-8")
    (directory / "report.md").write_text(markdown(content), encoding="utf-8")
    (directory / "report.html").write_text(html(content, plots), encoding="utf-8")


def html(content: Page, plots: dict[str, Plot]) -> str:
    """The page as one file, without scripts, that fetches nothing."""
    templates = Environment(
        loader=PackageLoader("loadtest.experiment.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    inline = {name: Markup(plot.inline()) for name, plot in plots.items()}  # already escaped
    colours = Markup(variables(":root"))
    return templates.get_template("page.html").render(
        page=content, plots=plots, svg=inline, colours=colours, gap=GAP
    )
