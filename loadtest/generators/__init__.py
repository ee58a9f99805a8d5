"""Load generators behind one function: each makes a `Load` of a scenario, whatever drives it.

A generator is a module with the two functions `generate` and `available`; the functions of the same
names here take the name of the generator first.  It runs as a process of its own, started by exec:
a fork of the process that measures would share memory with it and distort the figures.

May use what the rooms share, and Tame; knows nothing of Knot.
"""

from __future__ import annotations

import importlib
import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, cast

if TYPE_CHECKING:
    from loadtest.fileset import FileSet
    from loadtest.results import Load
    from loadtest.scenario import Scenario

GENERATORS: Final = ("wrk", "tame", "locust")

SPARE: Final = 100
"""Descriptors that a generator needs besides those of its connections."""


class GeneratorError(Exception):
    """A generator cannot make a load, or has failed; the message says why."""


@dataclass(frozen=True)
class Target:
    """The server that gets a load."""

    host: str
    """An IPv4 address."""
    port: int
    prefix: str = ""
    """The beginning of its paths: "" or, for example, "/static"."""

    def path(self, file: str) -> str:
        """The path of a file in its URL; `file` does not begin with a slash."""
        return f"{self.prefix}/{file}"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A load to make."""

    target: Target
    scenario: Scenario
    files: FileSet
    """What the server serves."""
    path: str | None = None
    """The one file to ask for, below `files.root`; None asks for the mix of `files`."""
    clients: int
    seconds: float
    """Measured time."""
    warm_up: float = 0.0
    """Seconds of load before the measured time."""
    rate: float | None = None
    """Requests a second over all clients; None asks as fast as the scenario allows."""
    seed: int = 0
    """Of the random numbers: the files of the mix, and pauses."""
    core: int | None = None
    """The core that the generator is pinned to."""


class Generator(Protocol):
    """A module of this package that makes loads."""

    def generate(self, job: Job) -> Load: ...

    def available(self) -> str: ...


def generate(generator: str, job: Job) -> Load:
    """Put the load on its target.

    Raises `GeneratorError`, and `OSError` if a program that is needed cannot be started.
    """
    return module_of(generator).generate(job)


def available(generator: str) -> str:
    """Why the generator cannot run here, and what to do; empty if it can."""
    return module_of(generator).available()


def module_of(generator: str) -> Generator:
    if generator not in GENERATORS:
        known = ", ".join(GENERATORS)
        raise GeneratorError(f"there is no generator {generator!r}: choose one of {known}")
    return cast(Generator, importlib.import_module(f"loadtest.generators.{generator}"))


def take_descriptors(connections: int) -> None:
    """Allow this process, and those it starts, the descriptors that the connections need.

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
