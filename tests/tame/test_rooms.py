"""The rooms of Tame: the language below, what is built on it above, and nothing back."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TAME = Path(__file__).parents[2] / "tame"

LANGUAGE = [
    "errors", "event", "closure", "rendezvous", "runtime", "language", "drivers", "loop",
    "names", "analysis", "translate",
]  # fmt: skip
"""The modules of the language: each imports only those before it."""

BUILT_ON_IT = ["adapters", "sync", "threads", "net", "aio", "process"]
"""The same for the modules on top of the language."""

TRANSLATOR = {"names", "analysis", "translate"}

NEVER_IMPORTS = {
    "event": {"rendezvous", "closure", "loop"},
    "closure": {"drivers", "loop", "rendezvous"},
    "rendezvous": {"drivers", "loop"},
    "runtime": TRANSLATOR,
    "drivers": {"event", "closure", "rendezvous", "loop"},
    "names": {"analysis", "translate"},
    "sync": {"loop", "drivers"},
    "testing.streams": {"loop", "closure"},
    "tools.plain": {"loop", "drivers"},
    "tools.doctor": {"loop", "drivers"},
}
"""What the heads of the modules promise."""

START = {"__init__", *LANGUAGE} - TRANSLATOR
"""What `import tame` loads."""

HEAVY = {
    "ast", "asyncio", "click", "inspect", "linecache", "logging", "socket", "subprocess",
    "threading", "tokenize", "uvloop",
}  # fmt: skip


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(TAME).with_suffix("").parts)


MODULES = {name_of(path): path for path in sorted(TAME.rglob("*.py"))}


def imported(module: str) -> set[str]:
    """The modules of Tame that are imported together with `module`, without its lazy imports."""
    return {name for name in imports_of(ast.parse(MODULES[module].read_text())) if name}


def imports_of(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or is_for_types(child):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name.partition("tame.")[2] for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module == "tame":
            yield from (alias.name for alias in child.names if alias.name in MODULES)
        elif isinstance(child, ast.ImportFrom) and child.module is not None:
            yield child.module.partition("tame.")[2]
        else:
            yield from imports_of(child)


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def test_each_module_has_a_room() -> None:
    flat = {name for name in MODULES if "." not in name} - {"__init__", "__main__"}
    assert flat == {*LANGUAGE, *BUILT_ON_IT}
    rooms = {name.partition(".")[0] for name in MODULES if "." in name}
    assert rooms == {"testing", "tools"}


@pytest.mark.parametrize("module", [*LANGUAGE, *BUILT_ON_IT])
def test_a_module_imports_only_those_before_it(module: str) -> None:
    order = [*LANGUAGE, *BUILT_ON_IT]
    assert imported(module) <= set(order[: order.index(module)])


@pytest.mark.parametrize("module", NEVER_IMPORTS)
def test_what_a_module_promises_never_to_import(module: str) -> None:
    assert not imported(module) & NEVER_IMPORTS[module]


def test_import_tame_loads_the_language_without_its_translator_and_nothing_heavy() -> None:
    program = "import sys, tame; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"PYTHONPATH": str(TAME.parent)},
    )
    loaded = set(ran.stdout.split())
    ours = {name for name in loaded if name.partition(".")[0] == "tame"}
    assert ours == {f"tame.{name}" if name != "__init__" else "tame" for name in START}
    assert not loaded & HEAVY
