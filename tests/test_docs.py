"""The documentation is true: its programs run and print what it says, its references exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TAME = (ROOT / "docs" / "tame.md").read_text()
LANGUAGE = (ROOT / "docs" / "language.md").read_text()
SIMULATION = (ROOT / "docs" / "simulation.md").read_text()
COOKBOOK = (ROOT / "docs" / "cookbook.md").read_text()
FEATURES = (ROOT / "docs" / "tame-features.md").read_text()
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def programs() -> dict[str, tuple[str, str]]:
    """By the heading of the section: its program, and what it prints."""
    found = {}
    pages = f"{TAME}\n{LANGUAGE}\n{SIMULATION}\n{COOKBOOK}\n{README}"
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
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", TAME + LANGUAGE + SIMULATION + FEATURES)
    assert len(named) >= 30
    for file, test in named:
        sources = [path.read_text() for path in (ROOT / "tests").rglob(file)]
        assert any(f"def {test}(" in source for source in sources), f"{file}::{test}"


CITED = re.compile(r"language\.md, section (\d)(?:, rules? ([\d, toand]+))?")


def test_a_rule_of_the_language_that_a_test_cites_exists() -> None:
    sections = {
        section[3]: set(re.findall(r"^(\d+)\. \*\*", section, re.MULTILINE))
        for section in re.split(r"\n(?=## )", LANGUAGE)
        if section.startswith("## ")
    }
    cited = [
        found for path in (ROOT / "tests" / "tame").glob("*.py")
        for found in CITED.findall(path.read_text())
    ]  # fmt: skip
    assert len(cited) >= 4
    for section, rules in cited:
        assert set(re.findall(r"\d+", rules)) <= sections[section]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text())):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert file.resolve().is_relative_to(ROOT), target
        if heading:
            assert heading in anchors(file), target


def anchors(page: Path) -> set[str]:
    """The fragments by which its headings are linked to."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


NAMES = [
    (page.name, name, target)
    for page in PAGES
    for name, target in re.findall(r"\[`([\w.]+)`\]\((\S+\.py)\)", page.read_text())
]
"""Links from the name of something in the code, as `module.Class.method`, to its file."""


@pytest.mark.parametrize(("page", "name", "target"), NAMES)
def test_a_name_that_leads_to_a_file_is_defined_there(page: str, name: str, target: str) -> None:
    file = ROOT / "docs" / target
    module, *path = name.split(".")
    assert module == file.stem
    body = ast.parse(file.read_text()).body
    for part in path:
        found = [node for node in body if part in names_of(node)]
        assert found, f"{page}: {target} does not define {name}"
        body = getattr(found[0], "body", [])


def names_of(node: ast.stmt) -> set[str]:
    """The names that a statement of a module or class defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
    return {target.id for target in targets if isinstance(target, ast.Name)}


def test_the_architecture_names_what_a_request_and_a_call_pass_through() -> None:
    assert len([page for page, _, _ in NAMES if page == "architecture.md"]) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_can_be_read_in_a_window_of_120_columns(page: Path) -> None:
    for line in BLOCK.sub("", page.read_text()).splitlines():
        if line.startswith("|"):
            assert line.count(" | ") < 6, f"more than six columns: {line}"
        else:
            assert len(line) <= 120 or " " not in line.strip(), line


INSTALLED = re.compile(r"pip install '([\w.-]*)\[")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_to_be_installed_is_this_distribution(page: Path) -> None:
    """`knot`, `tame` and `loadtest` are other projects on PyPI."""
    assert set(INSTALLED.findall(page.read_text())) <= {"knot-httpd", "."}
