"""The results of the experiment, as data: one format for every generator, and for results.json.

Nothing here measures or shows anything.  A generator makes a `Load`, the experiment adds what the
server has spent (`Cost`) and what it holds (`Memory`), and a `Result` is a whole run as it is in
``results.json``.  Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

VERSION: Final = 1
"""The version of the format; files of other versions are not read."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What a load generator counted during its measured time."""

    generator: str
    """``wrk``, ``tame`` or ``locust``."""
    scenario: str
    clients: int
    seconds: float
    """The measured time, without the warm-up."""
    rate: float | None = None
    """Requests a second asked for; None if each client asks as soon as the scenario allows."""
    connections: int
    """Connections opened; wrk does not count them, so its number follows from the scenario."""
    requests: int
    """Requests with the right answer."""
    bytes: int
    """Bytes received."""
    errors: Mapping[str, int] = {}
    """Requests without the right answer: ``wrong`` (other bytes than the file has), ``status``,
    ``cut`` (the connection ended during the answer), ``closed`` (before it), ``refused`` (no
    connection), ``timeout``."""
    latency: str = ""
    """An HdrHistogram, encoded in base64, of the microseconds from when a request was due to its
    last byte, which corrects coordinated omission at a constant rate; empty if the generator has
    none."""
    cpu: float
    """CPU time of the generator's processes."""
    cores: int = 1
    """Cores that the generator could use."""
    fairness: float | None = None
    """Jain's index over the requests of each client: 1 if all are equal."""

    @property
    def busy(self) -> float:
        """Share of its cores that the generator used; near 1 it is the bottleneck."""
        return self.cpu / (self.seconds * self.cores)


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What all processes of the server spent in the same time."""

    seconds: float
    cpu: float
    """User and system time."""

    @property
    def busy(self) -> float:
        """Share of one core."""
        return self.cpu / self.seconds


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Counts from a short separate load, since counting costs the server time."""

    requests: int
    switches: int
    """Context switches, voluntary and involuntary."""
    system_calls: int


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of all processes of a server; the paper's Figure 7 has the first four figures."""

    connections: int
    """Open connections."""
    threads: int
    rss: int
    """Resident set, as ps reports it: the paper's physical memory."""
    virtual: int
    pss: int
    private: int
    kernel_stacks: int
    """Not included in the above."""
    page_tables: int
    """Not included in the above."""


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
    """`Load.rate` as a share of the server's maximum, such as 0.7, by which rounds are gathered."""
    memory: Memory | None = None
    """Read in the middle of the load."""
    counts: Counts | None = None
    """None where counting is not possible, and in all rounds but one."""
    marks: tuple[str, ...] = ()
    """What limited the run, or is wrong with it; see `loadtest.experiment.marks`."""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A server's memory with idle kept-alive connections, each after one answer."""

    server: str
    memory: Memory


class Server(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    """For example ``events``, ``threads``, ``threads, tuned`` or ``nginx``."""
    kind: str
    """``model`` (Knot with a concurrency model), ``peer`` or ``null`` (canned bytes)."""
    version: str
    command: str


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    kernel: str
    processor: str
    cores: int
    memory: int
    python: str
    packages: Mapping[str, str]
    """Versions by name, including those of programs such as wrk."""
    limits: Mapping[str, str]
    pinned: bool
    """True if server and generator had a core each."""
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
"""Figure 7 of the paper, whose kB are taken as 1,000 bytes."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the experiment."""

    version: int = VERSION
    made: str
    """UTC, in the form 2026-01-31T12:00:00Z."""
    command: str
    """The command that repeats it."""
    settings: Mapping[str, str]
    """Settings of the experiment: rounds, seconds, seed, load of the file set."""
    environment: Environment
    servers: tuple[Server, ...]
    runs: tuple[Run, ...]
    held: tuple[Held, ...] = ()
    missing: Mapping[str, str] = {}
    """What was left out, and why."""


def save(result: Result, path: Path) -> None:
    """Write it as JSON, with a line for each run, so that a kept result has few lines."""
    fields = msgspec.to_builtins(result)
    lines = [b"%b:%b" % (encode(name), one_a_line(value)) for name, value in fields.items()]
    path.write_bytes(b"{\n%b\n}\n" % b",\n".join(lines))


encode: Final = msgspec.json.encode


def one_a_line(value: object) -> bytes:
    if isinstance(value, list | tuple) and value:
        return b"[\n%b\n]" % b",\n".join(map(encode, value))
    return encode(value)


def load(path: Path) -> Result:
    """Raises `OSError`, and `ValueError` if the file is not a result of this version."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Result)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is not a result of the experiment: {error}") from None
    if found.version != VERSION:
        raise ValueError(f"{path} has version {found.version} of the format, not {VERSION}")
    return found
