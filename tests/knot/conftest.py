"""The concurrency models, each of which has to pass the tests of a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import pytest
from serving import MODELS, Model, chosen

from knot import models


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    """Each model in turn, events with each driver: for `with_server`, and for ``knot serve``."""
    with chosen(MODELS[request.param], monkeypatch) as found:
        yield found


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    """Replace what the models share, wherever one has imported it."""

    modules = [
        import_module(f"knot.models.{found.name}") for found in iter_modules(models.__path__)
    ]

    def replace(name: str, value: object) -> None:
        for module in modules:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)

    return replace
