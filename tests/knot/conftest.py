"""The concurrency models, each of which has to pass the tests of a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import pytest
import serving
from serving import Model

from knot import models
from tame.drivers import DRIVERS

PARAMETERS = {
    **{f"events on {driver}": Model("events", driver) for driver in DRIVERS},
    "threads": Model("threads"),
    "threads in a pool": Model("threads", pool=4),
    "asyncio": Model("asyncio"),
    "greenlets": Model("greenlets"),
}


@pytest.fixture(params=PARAMETERS)
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    """Each model in turn, events with each driver: for `with_server`, and for ``knot serve``."""
    found = PARAMETERS[request.param]
    if found.driver == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not installed; asyncio stands in for it")
    if found.name == "greenlets":
        pytest.importorskip("gevent", reason="gevent is not installed")
    monkeypatch.setenv("KNOT_MODEL", found.name)
    if found.driver:
        monkeypatch.setenv("TAME_DRIVER", found.driver)
    if found.pool:
        monkeypatch.setenv("KNOT_THREADS", str(found.pool))
    monkeypatch.setattr(serving, "model", found)
    yield found
    if found.name == "greenlets":
        import_module("gevent").get_hub().destroy(destroy_loop=True)


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
