"""The report as Markdown, with the plots beside it."""

from __future__ import annotations

from collections.abc import Iterator

from tabulate import tabulate

from loadtest.experiment.report.page import Page, Section, Table


def markdown(page: Page) -> str:
    return "\n".join(_lines(page)).rstrip() + "\n"


def _lines(page: Page) -> Iterator[str]:
    yield f"# {page.title}\n"
    yield f"{page.made}\n"
    if page.warning:
        yield f"**Measured on a machine that was not quiet: {_plain(page.warning)}**\n"
    for headline in page.headlines:
        yield f"- {_plain(headline)}"
    for section in page.sections:
        yield from _section(section)


def _section(section: Section) -> Iterator[str]:
    yield f"\n## {section.title}\n"
    for text in section.text:
        yield f"{_plain(text)}\n"
    if section.code:
        yield f"```sh\n{section.code}\n```\n"
    for name in section.figures:
        yield f"![{name}](plots/{name}.svg)\n"
    for table in section.tables:
        yield from table_lines(table)


def table_lines(table: Table) -> Iterator[str]:
    yield f"**{_plain(table.caption)}**\n"
    head = [_cell(cell) for cell in table.head]
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    sides = ["left", *["left" if table.words else "right"] * (len(head) - 1)]
    yield tabulate(rows, head, tablefmt="pipe", disable_numparse=True, colalign=sides)
    yield ""
    for note in table.notes:
        yield f"- {_plain(note)}"
    if table.notes:
        yield ""


def _cell(text: str) -> str:
    """A bar or a line's end in a cell would end it."""
    return _plain(" ".join(text.split())).replace("|", "\\|")


def _plain(text: str) -> str:
    """What comes from the machine, such as a version, is text and not Markdown."""
    for special in "\\`*_<":
        text = text.replace(special, "\\" + special)
    return text
