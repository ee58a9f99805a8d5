"""The rooms of the house: which may import which, and what each promises never to do.

`docs/architecture.md` says what the rooms are for.  What a module promises in its docstring ("No
I/O") is held here for every module that promises it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from knot.models import MODELS

ROOT = Path(__file__).parents[1]
LAYERS = ["loadtest", "knot", "tame"]
MODULES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))

ROOMS = {
    "process": set(),
    "files": {"process"},
    "http": {"files"},
    "access": {"files", "http"},
    "models": {"access", "files", "http", "process"},
    "monitor": {"files", "http", "models", "process"},
}
"""Rooms of `knot`, and those that each may import.  The modules beside them put them together."""

BESIDE = {
    "models": {"limits", "tls"},
    "monitor": {"limits"},
}
"""Modules beside the rooms that a room may import."""

SOCKETS = {"asyncio", "select", "selectors", "socket", "socketserver", "ssl", "uvloop"}
FILES = {"io", "os", "pathlib", "shutil", "tempfile"}
WAITING = {"asyncio", "gevent", "tame", "threading", "time.sleep"}
HTTP = {"email", "h2", "hpack", "http", "httptools", "hyperframe"}

NEVER = {
    "process": HTTP,
    "files": HTTP | SOCKETS | WAITING,
    "http": SOCKETS | FILES | WAITING,
    "access": SOCKETS | FILES | WAITING,
}
"""What no module of a room imports."""

EXCEPTIONS = {
    "access/passwords.py": {"os", "threading"},  # reads a file, on a thread that may wait
}

LOADS = {
    "process": {"gevent", "h2", "httptools", "uvloop"},
    "files": SOCKETS | HTTP | {"tame"},
    "http": SOCKETS | {"email", "gevent", "tame"},
    "access": SOCKETS | {"gevent", "tame"},
}
"""What a process that imports a whole room does not load either, by whatever way."""

NO_IO = SOCKETS | FILES | WAITING


def imported(path: Path) -> Iterator[str]:
    """The modules that are imported when the program runs, and not by a type checker alone."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(path: Path) -> set[str]:
    found = set(imported(path))
    return {name.partition(".")[0] for name in found} | ({"time.sleep"} & found)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def of_room(room: str) -> list[Path]:
    return sorted((ROOT / "knot" / room).glob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_imports_a_layer_above_its_own(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    above = set(LAYERS[: LAYERS.index(layer)])
    assert not above & packages(path)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_those_below_it(room: str) -> None:
    allowed = {room} | ROOMS[room] | BESIDE.get(room, set())
    for path in of_room(room):
        used = {name.split(".")[1] for name in imported(path) if name.startswith("knot.")}
        assert used <= allowed, name_of(path)


def test_every_directory_is_a_room_with_a_rule() -> None:
    assert {path.parent.name for path in (ROOT / "knot").glob("*/*.py")} == set(ROOMS)
    for room in ROOMS:
        assert ast.get_docstring(ast.parse((ROOT / "knot" / room / "__init__.py").read_text()))


@pytest.mark.parametrize("room", NEVER)
def test_a_room_keeps_its_promise(room: str) -> None:
    for path in of_room(room):
        allowed = EXCEPTIONS.get(str(path.relative_to(ROOT / "knot")), set())
        assert not (NEVER[room] - allowed) & packages(path), name_of(path)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_that_promises_no_io_does_none(path: Path) -> None:
    said = ast.get_docstring(ast.parse(path.read_text())) or ""
    if "No I/O" in said:
        assert not NO_IO & packages(path)
    if "No sockets" in said:
        assert not SOCKETS & packages(path)


@pytest.mark.parametrize("room", LOADS)
def test_a_room_loads_no_more_than_it_promises(room: str) -> None:
    names = [f"knot.{room}.{path.stem}" for path in of_room(room) if path.stem != "__init__"]
    program = f"import sys, {', '.join(names)}; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert not LOADS[room] & set(said.stdout.decode().split())


def test_only_rooms_that_may_wait_touch_the_network() -> None:
    users = {path for path in (ROOT / "knot").rglob("*.py") if "socket" in packages(path)}
    places = {str(path.relative_to(ROOT / "knot").parts[0]) for path in users}
    assert places == {"listening.py", "models", "monitor", "process", "run.py"}


FOREIGN = {
    "events": {"gevent", "knot.models.threads", "concurrent.futures"},
    "threads": {"asyncio", "gevent", "tame", "uvloop", "concurrent.futures"},
    "asyncio": {"gevent", "tame", "knot.models.threads"},
    "greenlets": {"asyncio", "tame", "uvloop"},
}
"""Modules that another model needs."""


@pytest.mark.parametrize("model", MODELS)
def test_a_model_brings_only_what_it_needs(model: str) -> None:
    """So that the memory of each is its own."""
    program = f"import sys, knot.run; knot.run.load_model({model!r}); print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert not FOREIGN[model] & set(said.stdout.decode().split())
