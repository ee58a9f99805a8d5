"""The excerpts in docs/models.md are in the files that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "models.md").read_text()
EXCERPTS = dict(re.findall(r"```python\n# (knot/\S+)\n(.*?)```", PAGE, re.DOTALL))


def without_docstrings(text: str) -> str:
    return re.sub(r'\n +""".*?"""(?=\n)', "", text, flags=re.DOTALL)


@pytest.mark.parametrize("file", EXCERPTS)
def test_an_excerpt_is_what_the_file_has(file: str) -> None:
    assert EXCERPTS[file].rstrip() in without_docstrings((ROOT / file).read_text())


def test_every_model_has_its_excerpt() -> None:
    files = {f"knot/models/{name}.py" for name in ("events", "threads", "asyncio", "greenlets")}
    assert set(EXCERPTS) == files
