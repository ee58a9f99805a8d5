"""The documentation is true: its programs run and print what it says, its references exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TAME = (ROOT / "docs" / "tame.md").read_text()
SIMULATION = (ROOT / "docs" / "simulation.md").read_text()
COOKBOOK = (ROOT / "docs" / "cookbook.md").read_text()
FEATURES = (ROOT / "docs" / "tame-features.md").read_text()
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def programs() -> dict[str, tuple[str, str]]:
    """By the heading of the section: its program, and what it prints."""
    found = {}
    pages = f"{TAME}\n{SIMULATION}\n{COOKBOOK}\n{README}"
    for section in re.split(r"\n(?=##? )", pages):
        blocks = BLOCK.findall(section)
        program = "\n\n".join(text for language, text in blocks if language == "python")
        printed = "".join(text for language, text in blocks if language == "text")
        if program:
            found[section.splitlines()[0].lstrip("# ")] = (program, printed)
    return found


@pytest.mark.parametrize("section", programs())
def test_a_section_is_a_program_that_prints_what_it_says(section: str, tmp_path: Path) -> None:
    program, printed = programs()[section]
    file = tmp_path / "program.py"
    file.write_text(program)
    ran = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=60)
    assert ran.stderr == ""
    assert ran.stdout == printed


def test_the_tests_that_are_named_exist() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", TAME + SIMULATION + FEATURES)
    assert len(named) >= 30
    for file, test in named:
        sources = [path.read_text() for path in (ROOT / "tests").rglob(file)]
        assert any(f"def {test}(" in source for source in sources), f"{file}::{test}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", text)):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif "://" not in target:
            assert (page.parent / target.partition("#")[0]).exists(), target
