"""Here each driver is tested, and so is the one whose time is virtual."""

from __future__ import annotations

import pytest

from tame.drivers import DRIVERS


@pytest.fixture(params=[*DRIVERS, "virtual"])
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each driver in turn, as the default one."""
    name: str = request.param
    if name == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not installed; asyncio stands in for it")
    monkeypatch.setenv("TAME_DRIVER", name)
    return name
