"""The experiment: every part of it, every server in every part, round by round.

`parts` defines what is measured; `Experiment` measures it.  All servers of a part are started
before its first round and keep running, idle during the turns of the others.  The first round warms
them up and does not count.  Rounds go through the servers alternately forwards and backwards, so
that whatever slows the machine affects all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Final

import msgspec

from loadtest import generators, results
from loadtest.experiment.environment import environment, why_loaded
from loadtest.experiment.marks import LOADED, Use, beside_null, marks
from loadtest.fileset import FileSet
from loadtest.generators import GeneratorError, Job, Target
from loadtest.generators.tame import hold
from loadtest.measure import (
    MAX_STRANGERS,
    Watch,
    cannot_count,
    counting,
    memory,
    memory_at_rest,
    sockets,
    wait_for_closing,
)
from loadtest.results import Cost, Counts, Held, Load, Memory, Result, Run
from loadtest.scenario import SCENARIOS, Scenario
from loadtest.servers import Running, Server, ServerError, Setup, knot, nginx, null, peers, started

FILE: Final = "file_set/dir00000/class1_4"
"""5 KiB: the most frequent file of the mix."""
LARGE: Final = "file_set/dir00000/class2_8"
"""90 KiB, for slow readers."""
POOL: Final = 350
"""Threads, as many as the paper's Figure 7 has."""
CROWDS: Final = (350, 1_000, 5_000)
SHARES: Final = (0.5, 0.7, 0.9)
MAX_CONNECTIONS: Final = 12_000
"""Connections that servers are set up to accept."""
NULL_LOAD: Final = 100
"""The null server keeps all files in memory; above this load they are too many."""
SETUP: Final = Setup(
    file=FILE,
    knot=("--max-connections", str(MAX_CONNECTIONS)),
    nginx={"connections": str(MAX_CONNECTIONS)},
)
WARM_UP: Final = 1.0
"""Seconds of the warm-up round, for one file."""
WARM_UP_MIX: Final = 3.0
COUNTED: Final = 1.0
"""Seconds of the load in which system calls are counted."""
STARTING: Final = 1.0
"""Seconds until a generator's first request, at most."""
HOLDING: Final = 6.0
"""Seconds for the crowds of a server, approximately."""
CONNECTING: Final = 2_000
LONGER: Final = 2
"""A load of more than `CONNECTING` clients is longer by this factor, as it includes connecting."""


# -- what is measured ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What to measure."""

    full: bool = False
    rounds: int = 3
    seconds: float = 2
    """Duration of each load."""
    load: int = 10
    """Connections that the file set is made for; see `loadtest.fileset`."""
    seed: int = 1
    only: tuple[str, ...] = ()
    """Parts to measure; all if empty."""
    servers: tuple[str, ...] = ()
    """Servers to measure; all that are installed if empty."""


@dataclass(frozen=True)
class Part:
    """Servers compared under the same loads."""

    name: str
    scenario: Scenario
    servers: Sequence[Server]
    clients: tuple[int, ...]
    rounds: int
    seconds: float
    path: str | None = FILE
    """None for the mix of the whole file set."""
    shares: tuple[float, ...] = ()
    """The constant rates, as shares of each server's maximum."""

    @property
    def duration(self) -> float:
        """Seconds, approximately."""
        loads = self.rounds * (len(self.shares) or 1) * self.seconds + WARM_UP
        each = sum(loads * longer(clients) for clients in self.clients)
        return len(self.servers) * (1 + each)


def models() -> list[Server]:
    """Knot with each concurrency model."""
    tuned = {"MALLOC_ARENA_MAX": "2"}
    return [
        knot("events"),
        knot("threads", "--model", "threads"),
        knot("threads, tuned", "--model", "threads", environment=tuned, stack=256 * 1024),
        knot("pool", "--model", "threads", "--threads", str(POOL)),
        knot("asyncio", "--model", "asyncio"),
        knot("greenlets", "--model", "greenlets"),
    ]


def parts(
    settings: Settings, files: FileSet, ours: list[Server], peers: list[Server]
) -> list[Part]:
    full, rounds, seconds = settings.full, settings.rounds, settings.seconds
    one, five, paused, kept = (SCENARIOS[name] for name in ("one", "five", "five-paused", "kept"))
    canned = [*ours, null()]
    mixed = [*ours, *([null(files.root)] if files.load <= NULL_LOAD else [])]
    few = min(rounds, 3)
    found = [Part("figure7", one, canned, (350,), rounds, seconds)]
    if full:
        found += [
            Part("figure7", five, canned, (350,), rounds, seconds),
            Part("curve", kept, canned, (16, 128, 1024, 4096, 10_000), few, seconds),
            Part("curve", one, canned, (16, 128, 1024, 4096, 10_000), few, seconds),
            Part("curve", paused, ours, (1, 4, 16, 64, 256, 1024), few, seconds, None),
            Part("latency", kept, ours, (64, 350), few, seconds, shares=SHARES),
        ]
    else:
        found += [
            Part("curve", kept, canned, (16, 128, 1024, 4096), 1, 1),
            Part("latency", kept, ours, (350,), 1, 1, shares=SHARES),
        ]
    found.append(Part("mix", five, mixed, (100,), rounds, seconds, None))
    if full:
        slow = SCENARIOS["slow"]
        found += [
            Part("browsers", SCENARIOS["browsers"], ours, (100,), 1, 4 * seconds, None),
            Part("slow", slow, ours, (200,), 1, 4 * seconds, LARGE),
        ]
    rivals = [*(server for server in ours if server.name == "events"), *peers, null()]
    found.append(Part("peers", kept, rivals, (64,), rounds, seconds))
    if full:
        found.append(Part("peers", one, rivals, (64,), rounds, seconds))
    return found


def longer(clients: int) -> int:
    return LONGER if clients > CONNECTING else 1


@dataclass
class Turn:
    """The turn of one server, with some number of clients, in each round of a part."""

    part: Part
    running: Running
    clients: int
    maximum: float = 0.0
    """Requests a second in the warm-up round."""

    @property
    def server(self) -> str:
        return self.running.server.name

    @property
    def what(self) -> str:
        return f"{self.server}, {self.part.scenario.about}, {self.clients:,} clients"


class Reader(Thread):
    """Reads a server's memory once, `after` seconds after its first connection."""

    def __init__(self, turn: Turn, idle: int, after: float) -> None:
        super().__init__()
        self.turn = turn
        self.idle = idle
        self.after = after
        self.stopped = Event()
        self.found: Memory | None = None

    def run(self) -> None:
        pid = self.turn.running.pid
        with suppress(OSError):  # the server has ended
            while sockets(pid) <= self.idle:
                if self.stopped.wait(0.005):
                    return
            if not self.stopped.wait(self.after):
                self.found = memory(pid, self.turn.clients)

    def stop(self) -> None:
        self.stopped.set()
        self.join()


# -- measuring it -------------------------------------------------------------------------------

Progress = Callable[[str, float], object]
"""Called with what happens next, and the seconds done of the whole duration, approximately."""


@dataclass
class Experiment:
    """Measures; `result` returns what there is at any time."""

    settings: Settings
    files: FileSet
    command: str
    """The command that repeats it."""
    progress: Progress = lambda text, done: None
    runs: list[Run] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    done: float = 0.0
    """Seconds done of `duration`."""

    def __post_init__(self) -> None:
        self.made = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.cores = sorted(os.sched_getaffinity(0))
        self.server_core: int | None = None
        self.generator_core: int | None = None
        if len(self.cores) > 1:
            self.server_core, self.generator_core = self.cores[:2]
        self.ours = [server for server in models() if self.wants(server.name)]
        self.theirs = [server for server in self.installed() if self.wants(server.name)]
        self.parts = [
            part
            for part in parts(self.settings, self.files, self.ours, self.theirs)
            if self.includes(part.name)
        ]
        self.crowds = (3 if self.settings.full else 1) if self.includes("memory") else 0
        self.duration = sum(part.duration for part in self.parts)
        self.duration += self.crowds * len(self.ours) * HOLDING
        self.loaded = self.uncounted = ""

    def wants(self, server: str) -> bool:
        return not self.settings.servers or server in self.settings.servers

    def installed(self) -> Iterator[Server]:
        reference = nginx()
        if reference is None:
            self.missing["nginx"] = "it is not installed: install the Debian package nginx-light"
        else:
            yield reference
        others, absent = peers()
        yield from others
        for name in absent:
            self.missing[name] = "it is not installed: pip install '.[peers]'"

    def run(self) -> None:
        """Measure everything.  Whatever ends it, `result` has what was measured until then."""
        with self.on_its_core():
            self.loaded = why_loaded()
            self.uncounted = cannot_count()
            if self.uncounted:
                self.missing["system calls and context switches"] = self.uncounted
            if reason := generators.available("wrk"):
                self.missing["wrk"] = f"{reason}; the generator tame replaces it"
            for _ in range(self.crowds):
                for server in self.ours:
                    self.hold(server)
            for part in self.parts:
                self.measure(part)

    def includes(self, part: str) -> bool:
        return not self.settings.only or part in self.settings.only

    @contextmanager
    def on_its_core(self) -> Iterator[None]:
        """Keep this process off the server's core during the block."""
        if self.generator_core is None:
            yield
            return
        os.sched_setaffinity(0, {self.generator_core})
        try:
            yield
        finally:
            os.sched_setaffinity(0, self.cores)

    def say(self, text: str) -> None:
        self.progress(text, self.done)

    # -- loads --

    def measure(self, part: Part) -> None:
        """Every server of the part under each of its loads, in every round."""
        with ExitStack() as stack:
            running = []
            for server in part.servers:
                self.say(f"{part.name}: {server.name} starts")
                try:
                    running.append(stack.enter_context(self.started(server)))
                except ServerError as error:
                    self.missing[f"{server.name}, {part.name}"] = str(error)
            turns = [Turn(part, each, clients) for clients in part.clients for each in running]
            share = part.duration / (part.rounds + 1) / max(1, len(turns))
            for number in range(-1, part.rounds):
                for turn in turns[:: -1 if number % 2 else 1]:
                    self.say(f"{part.name}, round {max(0, number)}: {turn.what}")
                    if turn.what not in self.missing:
                        self.take(turn, number)
                    self.done += share

    def started(self, server: Server) -> AbstractContextManager[Running]:
        return started(server, SETUP, self.files.root, self.server_core)

    def take(self, turn: Turn, number: int) -> None:
        """Take one server's turn in a round; round -1 warms it up."""
        part, clients = turn.part, turn.clients
        if turn.server == "pool" and clients > POOL:
            self.missing[f"pool, more than {POOL} connections"] = (
                f"each of its {POOL} threads serves one at a time"
            )
            return
        times = longer(clients)
        try:
            if number < 0:
                seconds = WARM_UP if part.path else WARM_UP_MIX
                load = self.measure_one(turn, number, seconds * times).load
                turn.maximum = load.requests / load.seconds
                return
            for share in part.shares or (None,):
                rate = share and share * turn.maximum
                run = self.measure_one(turn, number, part.seconds * times, share, rate)
                self.runs.append(run)
            if number == part.rounds - 1 and len(part.clients) == 1 and not self.uncounted:
                counts = self.count(turn)
                self.runs[-1] = msgspec.structs.replace(self.runs[-1], counts=counts)
        except (GeneratorError, OSError, ValueError) as error:
            self.missing[turn.what] = str(error)

    def measure_one(
        self,
        turn: Turn,
        number: int,
        seconds: float,
        share: float | None = None,
        rate: float | None = None,
    ) -> Run:
        pid = turn.running.pid
        idle = sockets(pid)
        reader = Reader(turn, idle, seconds / 2)
        watch = Watch(pid)
        reader.start()
        try:
            load = self.load(turn, seconds, rate)
        finally:
            reader.stop()
        cpu, strangers = watch.cpu(), watch.strangers()
        wait_for_closing(pid, idle)
        late = watch.seconds() - STARTING  # some answers come after the measured time
        cost = Cost(seconds=max(load.seconds, late), cpu=cpu)
        return Run(
            server=turn.server,
            part=turn.part.name,
            round=number,
            load=load,
            cost=cost,
            share=share,
            memory=reader.found if len(turn.part.clients) == 1 else None,
            marks=marks(load, Use(cost.busy, load.busy, strangers)),
        )

    def load(self, turn: Turn, seconds: float, rate: float | None = None) -> Load:
        part, server = turn.part, turn.running
        constant = bool(part.shares)
        able = not constant and part.scenario.asks and not part.scenario.has_pace
        job = Job(
            target=Target("127.0.0.1", server.port, server.server.prefix),
            scenario=part.scenario,
            files=self.files,
            path=part.path,
            clients=turn.clients,
            seconds=seconds,
            rate=rate,
            seed=self.settings.seed,
            core=self.generator_core,
        )
        generator = "wrk" if able and not generators.available("wrk") else "tame"
        return generators.generate(generator, job)

    def count(self, turn: Turn) -> Counts:
        with counting(turn.running.pid) as counted:
            load = self.load(turn, COUNTED)
        return Counts(
            requests=load.requests, switches=counted.switches, system_calls=counted.system_calls
        )

    # -- idle connections --

    def hold(self, server: Server) -> None:
        """Measure a server's memory without connections, and with each of the crowds."""
        self.say(f"memory: {server.name}")
        try:
            with self.started(server) as running:
                self.held.append(Held(server=server.name, memory=memory_at_rest(running.pid, 0)))
                target = Target("127.0.0.1", running.port, server.prefix)
                for crowd in CROWDS:
                    if server.name == "pool" and crowd > POOL:
                        break
                    with hold(target, crowd, FILE, core=self.generator_core):
                        reading = memory_at_rest(running.pid, crowd)
                    self.held.append(Held(server=server.name, memory=reading))
        except (ServerError, GeneratorError, OSError) as error:
            self.missing[f"{server.name}, memory"] = str(error)
        self.done += HOLDING

    # -- the result --

    def result(self) -> Result:
        settings = self.settings
        used = {run.server for run in self.runs} | {one.server for one in self.held}
        known = [*((server, "model") for server in self.ours), *((s, "peer") for s in self.theirs)]
        return Result(
            made=self.made,
            command=self.command,
            settings={
                "rounds": str(settings.rounds),
                "seconds": f"{settings.seconds:g}",
                "load": str(settings.load),
                "seed": str(settings.seed),
                "full": "yes" if settings.full else "no",
            },
            environment=environment(pinned=self.server_core is not None, loaded=self.why_loaded()),
            servers=tuple(
                results.Server(
                    name=server.name,
                    kind=kind,
                    version=server.version,
                    command=server.shown(SETUP),
                )
                for server, kind in [*known, (null(), "null")]
                if server.name in used or kind != "null"
            ),
            runs=beside_null(self.runs),
            held=tuple(self.held),
            missing=self.missing,
        )

    def why_loaded(self) -> str:
        disturbed = sum(LOADED in run.marks for run in self.runs)
        during = (
            f"in {disturbed} of {len(self.runs)} runs other processes took more than"
            f" {MAX_STRANGERS * 100:.0f} % of a core"
        )
        return "; ".join(filter(None, (self.loaded, during if disturbed else "")))
