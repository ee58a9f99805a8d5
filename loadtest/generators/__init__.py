"""Load generators behind one function: each makes a `Load` of a scenario, whatever drives it.

A generator is a module with two functions, `generate` and `available`, which stand here with the
generator's name before.  It runs as a process of its own, started by exec: a child forked from
whoever measures would share memory with it and spoil what is measured.
"""

from __future__ import annotations

import importlib
import resource
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, cast

if TYPE_CHECKING:
    from loadtest.fileset import FileSet
    from loadtest.results import Load
    from loadtest.scenario import Scenario

GENERATORS: Final = ("wrk", "tame", "locust")

SPARE: Final = 100
"""Descriptors that a generator needs beside those of its connections."""


class GeneratorError(Exception):
    """A generator cannot do what it was asked for, or has failed; the message says why."""


@dataclass(frozen=True)
class Target:
    """A server to be asked."""

    host: str
    """An IPv4 address."""
    port: int
    prefix: str = ""
    """What its paths begin with, as "" or "/static"."""

    def path(self, file: str) -> str:
        """The path in the URL of a file, whose name has no slash before it."""
        return f"{self.prefix}/{file}"


class Generator(Protocol):
    """What the modules of this package are."""

    def generate(
        self,
        target: Target,
        scenario: Scenario,
        *,
        files: FileSet,
        path: str | None,
        clients: int,
        seconds: float,
        warm_up: float,
        rate: float | None,
        seed: int,
        core: int | None,
    ) -> Load: ...

    def available(self) -> str: ...


def generate(
    generator: str,
    target: Target,
    scenario: Scenario,
    *,
    files: FileSet,
    path: str | None,
    clients: int,
    seconds: float,
    warm_up: float,
    rate: float | None,
    seed: int,
    core: int | None,
) -> Load:
    """Put a load on `target` for `seconds`, after `warm_up` seconds that do not count.

    `path` is the one file asked for, below `files.root`; None is the mix of `files`, drawn with
    `seed`.  `rate` is in requests a second over all clients, None asks as fast as the scenario
    lets them.  `core` is the one that the generator is pinned to.  Raises `GeneratorError`.
    """
    return module_of(generator).generate(
        target,
        scenario,
        files=files,
        path=path,
        clients=clients,
        seconds=seconds,
        warm_up=warm_up,
        rate=rate,
        seed=seed,
        core=core,
    )


def available(generator: str) -> str:
    """Why the generator cannot run here, and the remedy; empty if it can."""
    return module_of(generator).available()


def module_of(generator: str) -> Generator:
    if generator not in GENERATORS:
        known = ", ".join(GENERATORS)
        raise GeneratorError(f"no generator is called {generator!r}: choose one of {known}")
    return cast(Generator, importlib.import_module(f"loadtest.generators.{generator}"))


def pinned(command: list[str], core: int | None) -> list[str]:
    """The command that runs `command` on this core only."""
    if core is None:
        return command
    if shutil.which("taskset") is None:
        raise GeneratorError("taskset is not installed: install the Debian package util-linux")
    return ["taskset", "-c", str(core), *command]


def take_descriptors(connections: int) -> None:
    """Let this process, and what it starts, have as many descriptors as the connections need.

    Raises `GeneratorError` if the system does not allow so many.
    """
    needed = connections + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise GeneratorError(
            f"{connections:,} connections need {needed:,} descriptors, and a process may have"
            f" {hard:,} here: raise the hard limit (ulimit -Hn) or take fewer clients"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
