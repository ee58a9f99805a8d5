"""The report of a `Result`: a page, the same as Markdown, and the table that ends a run.

Nothing is measured here, and nothing is filled in: what a result does not hold is a gap with its
reason.  ``page`` says what a report consists of, ``sections`` and ``headlines`` take it from the
result, the others show it.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from loadtest import results
from loadtest.experiment.report.figures import draw, plots
from loadtest.experiment.report.markdown import markdown
from loadtest.experiment.report.page import GAP, Page
from loadtest.experiment.report.sections import page
from loadtest.experiment.report.svg import Plot, variables
from loadtest.experiment.report.terminal import show
from loadtest.results import Result

__all__ = ["plots", "show", "write"]


def write(result: Result, directory: Path) -> None:
    """Makes `directory` if need be, and in it report.html, report.md with its plots, results.json.

    The data go first: they are kept even if the report cannot be made.
    """
    directory.mkdir(parents=True, exist_ok=True)
    results.save(result, directory / "results.json")
    drawn = {one.name: one for one in draw(result)}
    content = page(result, drawn)
    (directory / "plots").mkdir(exist_ok=True)
    for name, one in drawn.items():
        (directory / "plots" / f"{name}.svg").write_text(one.alone(), encoding="utf-8")
    (directory / "report.md").write_text(markdown(content), encoding="utf-8")
    (directory / "report.html").write_text(html(content, drawn), encoding="utf-8")


def html(content: Page, drawn: dict[str, Plot]) -> str:
    """One file: no script, and nothing that has to be fetched."""
    templates = Environment(
        loader=PackageLoader("loadtest.experiment.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    inline = {name: Markup(one.inline()) for name, one in drawn.items()}  # escaped where it is made
    colours = Markup(variables(":root"))
    return templates.get_template("page.html").render(
        page=content, plots=drawn, svg=inline, colours=colours, gap=GAP
    )
