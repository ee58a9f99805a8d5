"""The rooms of `loadtest`: who may import whom, and what each module promises not to do."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "loadtest").rglob("*.py"))

ROOMS = {
    "generators": set[str](),
    "experiment": {"generators"},
    "micro": set[str](),
    "robust": set[str](),
}
"""Each room, and the other rooms that it may use.  What several share belongs to none."""

COMMAND_LINE = "loadtest/__main__.py"
"""The way in, which may use any room."""

STARTING = "knot.process.spawn"
"""How a process is started: the only part of Knot that others than `robust` use from within."""

NO_WAITING = {
    "asyncio",
    "gevent",
    "select",
    "selectors",
    "socket",
    "subprocess",
    "tame",
    "threading",
}
NO_MEASURING = NO_WAITING | {"loadtest.generators", "loadtest.measure", "loadtest.servers", "time"}
PROMISES = {
    "loadtest/fileset.py": NO_WAITING,
    "loadtest/results.py": NO_MEASURING,
    "loadtest/scenario.py": NO_MEASURING | {"os", "pathlib"},
    "loadtest/generators/answer.py": NO_WAITING | {"io", "os", "pathlib"},
    "loadtest/experiment/compare.py": NO_MEASURING,
    "loadtest/experiment/intervals.py": NO_MEASURING | {"loadtest", "os", "pathlib"},
    "loadtest/experiment/marks.py": NO_WAITING | {"os", "pathlib"},
    "loadtest/experiment/rounds.py": NO_MEASURING | {"os", "pathlib"},
    "loadtest/micro/knot_cases.py": NO_WAITING,
    "loadtest/robust/simulate/truth.py": {"knot"},
    **{
        str(path.relative_to(ROOT)): NO_MEASURING
        for path in (ROOT / "loadtest/experiment/report").glob("*.py")
    },
}
"""What a module must not import, by what its docstring says."""


def used(path: Path) -> Iterator[str]:
    """Modules that are imported anywhere in the file, or started as ``-m MODULE``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"^loadtest(?:\.\w+)+", node.value)


def room_of(module: str) -> str:
    """The room that a module is in; empty for what is shared."""
    _, _, rest = module.partition("loadtest.")
    name = rest.partition(".")[0]
    return name if name in ROOMS else ""


def within(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_room_uses_only_those_it_may(path: Path) -> None:
    if name_of(path) == COMMAND_LINE:
        return
    own = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    allowed = {"", own, *ROOMS.get(own, ())}
    assert [module for module in used(path) if room_of(module) not in allowed] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_what_attacks_knot_knows_it_from_within(path: Path) -> None:
    """The others start the command that a user would."""
    if "robust" in path.parts:
        return
    inside = [module for module in used(path) if within(module, "knot")]
    assert all(within(module, STARTING) for module in inside)


@pytest.mark.parametrize("name", PROMISES)
def test_a_module_does_not_do_what_it_promises_not_to(name: str) -> None:
    modules = list(used(ROOT / name))
    broken = [(module, no) for module in modules for no in PROMISES[name] if within(module, no)]
    assert broken == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for(room: str) -> None:
    text = ast.get_docstring(ast.parse((ROOT / "loadtest" / room / "__init__.py").read_text()))
    assert text
    assert "may use" in text.lower()
