"""Types: docs/language.md, section 2, rule 10.  `mypy --strict` on right and on wrong programs.

`types/good.py` and the examples must be clean.  In `types/wrong.py` each wrong line says which
kinds of error mypy must report there, as ``# E: arg-type``, and it must report no others.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from mypy import api

ROOT = Path(__file__).parents[2]
GOOD = ROOT / "tests/tame/types/good.py"
WRONG = ROOT / "tests/tame/types/wrong.py"
EXAMPLES = sorted(ROOT.glob("examples/*.py"))

Errors = dict[int, set[str]]
"""The codes of the errors at each line."""


@pytest.fixture(scope="session")
def errors() -> Callable[[Path], Errors]:
    """What one run of mypy says about each of the files."""
    files = [GOOD, WRONG, *EXAMPLES]
    options = ["--strict", "--show-absolute-path", "--no-pretty", "--hide-error-context"]
    options += ["--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary"]
    options += ["--cache-dir", str(ROOT / ".mypy_cache")]
    output, complaint, _ = api.run([*options, *map(str, files)])
    assert complaint == ""
    found: dict[Path, Errors] = {file: defaultdict(set) for file in files}
    for line in output.splitlines():
        match = re.fullmatch(r"(.+?):(\d+): (error|note): .*?(?:  \[([a-z-]+)\])?", line)
        assert match is not None, line
        file, number, kind, code = match.groups()
        if kind == "error" and Path(file) in found:
            found[Path(file)][int(number)].add(code)
    return found.__getitem__


def test_wrong_lines_are_errors_and_no_others(errors: Callable[[Path], Errors]) -> None:
    expected = {}
    for number, line in enumerate(WRONG.read_text().splitlines(), 1):
        _, marked, codes = line.partition("  # E: ")
        if marked:
            expected[number] = set(codes.split())
    assert errors(WRONG) == expected


def test_right_lines_are_no_errors(errors: Callable[[Path], Errors]) -> None:
    assert errors(GOOD) == {}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.name)
def test_an_example_has_no_errors(errors: Callable[[Path], Errors], example: Path) -> None:
    assert errors(example) == {}


def test_the_package_says_that_it_is_typed() -> None:
    import tame

    assert (Path(tame.__file__).parent / "py.typed").is_file()
