"""What the experiment measures, as data: one format for every generator, and the file that is kept.

Nothing here measures or shows anything.  A generator makes a `Load`, the harness adds what the
server spent (`Cost`) and holds (`Memory`), and `Result` is the whole run as it stands in
``results.json``.  Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

VERSION: Final = 1
"""Of the format; a file of another version is not read."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What a load generator has seen during its measured time."""

    generator: str
    """``wrk``, ``tame`` or ``locust``."""
    scenario: str
    clients: int
    seconds: float
    """Measured time, without warm-up."""
    rate: float | None = None
    """Requests a second asked for; None if each client asks again as soon as it may."""
    connections: int
    """Made; wrk counts none, so there it is what the scenario implies."""
    requests: int
    """With the right answer."""
    bytes: int
    """Received."""
    errors: Mapping[str, int] = {}
    """Requests without the right answer: ``wrong`` (other bytes than the file has), ``status``,
    ``cut`` (the connection ended within the answer), ``closed`` (before it), ``refused`` (no
    connection), ``timeout``."""
    latency: str = ""
    """An HdrHistogram of microseconds from the intended start of a request to its last byte, in
    its base64 form (``HdrHistogram.encode()``); empty if the generator has none.  At a constant
    rate coordinated omission is thereby corrected."""
    cpu: float
    """Seconds of CPU of the generator's processes."""
    cores: int = 1
    """That the generator could use at most."""
    fairness: float | None = None
    """Jain's index over the requests of each client: 1 if all got the same."""

    @property
    def busy(self) -> float:
        """How much of what it could the generator used; near 1 it is the bottleneck."""
        return self.cpu / (self.seconds * self.cores)


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What all of a server's processes spent in the same time."""

    seconds: float
    cpu: float
    """Seconds, user and system."""

    @property
    def busy(self) -> float:
        """Share of one core."""
        return self.cpu / self.seconds


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted under a short load of its own, since counting costs the server time."""

    requests: int
    switches: int
    """Of context, voluntary and other."""
    system_calls: int


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Of all of a server's processes (the paper's Figure 7 has the first four of these)."""

    connections: int
    """Open."""
    threads: int
    rss: int
    """Resident set: the paper's physical memory, as ps reports it."""
    virtual: int
    pss: int
    private: int
    kernel_stacks: int
    """In none of the above."""
    page_tables: int
    """In none of the above."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One server under one load."""

    server: str
    """A name of `Result.servers`."""
    part: str
    """The part of the experiment: ``figure7``, ``curve``, ``latency``, ``mix``, ``memory``,
    ``peers`` or another scenario's name."""
    round: int
    load: Load
    cost: Cost
    share: float | None = None
    """Of the server's own maximum that `Load.rate` is, as 0.7: what rounds are gathered by."""
    memory: Memory | None = None
    """In the middle of the load."""
    counts: Counts | None = None
    """None where nothing could count, and in all rounds but one."""
    marks: tuple[str, ...] = ()
    """What bounded it, or is wrong with it; see `loadtest.experiment.marks`."""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A server's memory while it holds idle kept-alive connections that had one answer each."""

    server: str
    memory: Memory


class Server(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    """As ``events``, ``threads``, ``threads, tuned``, ``nginx``."""
    kind: str
    """``model`` (Knot by another concurrency model), ``peer`` or ``null`` (canned bytes)."""
    version: str
    command: str


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    kernel: str
    processor: str
    cores: int
    memory: int
    python: str
    packages: Mapping[str, str]
    """Versions by name, those of programs such as wrk, too."""
    limits: Mapping[str, str]
    pinned: bool
    """Whether server and generator had cores of their own."""
    loaded: str = ""
    """Why the machine was not quiet when this was measured; empty if it was."""


class Paper(msgspec.Struct, frozen=True, kw_only=True):
    """A column of the paper's Figure 7."""

    name: str
    throughput: int
    """Connections a second."""
    threads: int
    physical: int
    virtual: int


PAPER: Final = (
    Paper(name="Capriccio", throughput=28_318, threads=350, physical=6_560_000, virtual=49_517_000),
    Paper(name="Tame", throughput=28_457, threads=1, physical=2_156_000, virtual=10_740_000),
)
"""Figure 7 of the paper; it has kB, here taken as 1,000 bytes."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the experiment."""

    version: int = VERSION
    made: str
    """UTC, as 2026-01-31T12:00:00Z."""
    command: str
    """With which it can be repeated."""
    settings: Mapping[str, str]
    """What the experiment was told: rounds, seconds, seed, size of the file set."""
    environment: Environment
    servers: tuple[Server, ...]
    runs: tuple[Run, ...]
    held: tuple[Held, ...] = ()
    missing: Mapping[str, str] = {}
    """What was left out, and why."""


def save(result: Result, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))


def load(path: Path) -> Result:
    """Raises `OSError`, and `ValueError` for what is no result of this version."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Result)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is no result of the experiment: {error}") from None
    if found.version != VERSION:
        raise ValueError(f"{path} has version {found.version} of the format, not {VERSION}")
    return found
