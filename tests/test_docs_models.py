"""docs/models.md is true: its excerpts, names and counts are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from knot.models import MODELS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "models.md").read_text()

EXCERPT = re.compile(r"```python\n# (knot/\S+)\n(.*?)```", re.DOTALL)
EXCERPTS = EXCERPT.findall(PAGE)
LEFT_OUT = re.compile(r"^ *# \.\.\.\n", re.MULTILINE)

ROUNDED = 20
"""Lines by which a count may be wrong: the page need not follow every change."""


def bare(text: str) -> str:
    """The source without docstrings and comments."""
    text = re.sub(r'\n +""".*?"""(?=\n)', "", text, flags=re.DOTALL)
    return re.sub(r"(\n +|  )# .*", "", text)


@pytest.mark.parametrize(("file", "excerpt"), EXCERPTS)
def test_an_excerpt_is_what_the_file_has(file: str, excerpt: str) -> None:
    source = bare((ROOT / file).read_text())
    for part in LEFT_OUT.split(excerpt):
        _, found, source = source.partition("\n" + part)
        assert found, f"{file} does not have, in this order:\n{part}"


def test_every_python_block_names_its_file_and_every_model_has_one() -> None:
    assert len(EXCERPTS) == PAGE.count("```python")
    assert {file for file, _ in EXCERPTS} == {f"knot/models/{name}.py" for name in MODELS}


def test_the_names_in_the_text_are_in_the_code() -> None:
    text = EXCERPT.sub("", PAGE)
    names = set(re.findall(r"`([A-Za-z_.]+)(?:\(\))?`", text))
    assert len(names) > 30
    files = [path for package in ("knot", "tame") for path in (ROOT / package).rglob("*.py")]
    sources = "\n".join(path.read_text() for path in files)
    own = {f"{path.name}" for path in files}
    for name in names - own:
        word = name.removeprefix("tame.")
        assert re.search(rf"(?<!\w){re.escape(word)}(?!\w)", sources), name


def test_the_counts_of_lines_are_about_right() -> None:
    row = re.search(r"^\| lines \|(.*)\|$", PAGE, re.MULTILINE)
    assert row
    models = [re.findall(r"\d+", cell) for cell in row[1].split("|")]
    said = dict(zip(MODELS, (int(numbers[0]) for numbers in models), strict=True))
    for name, count in said.items():
        lines = len((ROOT / "knot" / "models" / f"{name}.py").read_text().splitlines())
        assert abs(lines - count) <= ROUNDED, f"{name}.py has {lines} lines, the page says {count}"
