"""Imports run one way, `loadtest` to `knot` to `tame`, and the HTTP core does no I/O."""

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

CORE = [
    "knot/files/media_types.py", "knot/http/accept.py", "knot/http/conditions.py",
    "knot/http/content_coding.py", "knot/http/http2.py", "knot/http/ranges.py",
    "knot/http/request.py", "knot/http/responder.py",
]  # fmt: skip
IO = {"asyncio", "io", "os", "pathlib", "select", "socket", "tame", "threading", "uvloop"}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_imports_a_layer_above_its_own(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    above = set(LAYERS[: LAYERS.index(layer)])
    assert not above & set(imported(path))


@pytest.mark.parametrize("name", CORE)
def test_the_http_core_does_no_io(name: str) -> None:
    assert not IO & set(imported(ROOT / name))


def test_only_the_concurrency_models_and_what_surrounds_them_touch_the_network() -> None:
    users = {
        str(path.relative_to(ROOT / "knot"))
        for path in (ROOT / "knot").rglob("*.py")
        if "socket" in imported(path)
    }
    models = {f"models/{name}.py" for name in MODELS}
    assert users == {
        "monitor/admin.py",
        "process/control.py",
        "cli.py",
        "process/sandbox.py",
        "process/listeners.py",
        "process/supervisor.py",
        "models/connection.py",
        *models,
    }


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
    program = f"import sys, knot.cli; knot.cli.load_model({model!r}); print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert not FOREIGN[model] & set(said.stdout.decode().split())
