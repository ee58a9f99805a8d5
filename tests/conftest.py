"""What every test stands on: strict events, and nothing left behind."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tame import closure as closures
from tame import on_error, run
from tame.drivers import DRIVERS

settings.register_profile("project", deadline=None)  # no test fails because a machine is busy
settings.load_profile("project")


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second trigger is an error in this project's own tests."""
    monkeypatch.setenv("TAME_STRICT", "1")


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each driver in turn, as the default one."""
    name: str = request.param
    if name == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not installed; asyncio stands in for it")
    monkeypatch.setenv("TAME_DRIVER", name)
    return name


@pytest.fixture(scope="session", autouse=True)
def settled_process() -> None:
    """The first uvloop of a process opens a pipe for signals and keeps it.

    A shell starts what it runs in the background with signals ignored, and every server would
    inherit that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    run(lambda: None)


@pytest.fixture(autouse=True)
def reports() -> Iterator[list[BaseException]]:
    """What the error handler got; a test that expects something there clears it."""
    seen: list[BaseException] = []

    def handler(error: BaseException, what: str, callers: list[str]) -> None:
        seen.append(error)
        closures.log_error(error, what, callers)

    before = on_error(handler)
    yield seen
    on_error(before)
    assert not seen


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No closure and no descriptor outlives its test."""
    gc.collect()
    gc.freeze()  # what is left stays, as modules do: mypy's cost each later test 0.6 s
    before = open_descriptors()
    yield
    gc.collect()
    assert not closures.alive
    assert not closures.runnable
    assert closures.depth == 0
    assert open_descriptors() <= before


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
