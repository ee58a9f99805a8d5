"""The experiment: every part of it, every server in every part, round by round.

`parts` says what is measured; `Experiment` measures it.  All servers of a part are started before
its first round and stay, at rest while another has its turn.  The first round warms them up and
does not count.  Rounds go forwards and backwards through the servers by turns, so that what slows
the machine meets all of them.
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
from loadtest.experiment.marks import LOADED, STRANGERS, Use, beside_null, marks
from loadtest.fileset import FileSet
from loadtest.generators import GeneratorError, Target
from loadtest.generators.tame import hold
from loadtest.measure import (
    Watch,
    cannot_count,
    counting,
    memory,
    memory_at_rest,
    sockets,
    wait_for_closing,
)
from loadtest.micro.knot_cases import Case
from loadtest.results import Cost, Counts, Held, Load, Memory, Result, Run
from loadtest.scenario import SCENARIOS, Scenario
from loadtest.servers import Running, Server, ServerError, knot, nginx, null, peers, started

FILE: Final = "file_set/dir00000/class1_4"
"""5 KiB: the file that the mix asks for most often."""
LARGE: Final = "file_set/dir00000/class2_8"
"""90 KiB, for readers that take their time."""
POOL: Final = 350
"""Threads, as many as the paper's Figure 7 has."""
CROWDS: Final = (350, 1_000, 5_000)
SHARES: Final = (0.5, 0.7, 0.9)
MOST: Final = 12_000
"""Connections that servers are told to take."""
NULL_LOAD: Final = 100
"""The null server holds all files that it is asked for; above this load they are too many."""
CASE: Final = Case(
    "experiment",
    goal=0,
    file=FILE,
    knot=("--max-connections", str(MOST)),
    nginx={"connections": str(MOST)},
)
WARM_UP: Final = 1.0
"""Seconds of the round that does not count, for one file."""
WARM_UP_MIX: Final = 3.0
COUNTED: Final = 1.0
"""Seconds of the load in which system calls are counted."""
STARTING: Final = 1.0
"""Seconds until a generator's first request, at most."""
HOLDING: Final = 6.0
"""Seconds for the crowds of a server, more or less."""
CONNECTING: Final = 2_000
LONGER: Final = 2
"""So many times as long is a load of more clients than that: connecting them is a part of it."""


# -- what is measured ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What the experiment is told."""

    full: bool = False
    rounds: int = 3
    seconds: float = 2
    """Of each load."""
    load: int = 10
    """Connections that the file set is made for, see `fileset`."""
    seed: int = 1
    only: tuple[str, ...] = ()
    """Parts; all if empty."""
    servers: tuple[str, ...] = ()
    """All that there are if empty."""


@dataclass(frozen=True)
class Part:
    """Servers beside each other under the same loads."""

    name: str
    scenario: Scenario
    servers: Sequence[Server]
    clients: tuple[int, ...]
    rounds: int
    seconds: float
    path: str | None = FILE
    """None for the mix of the whole file set."""
    shares: tuple[float, ...] = ()
    """Of each server's maximum: the constant rates that it is asked at."""

    @property
    def duration(self) -> float:
        """Seconds, more or less."""
        loads = self.rounds * (len(self.shares) or 1) * self.seconds + WARM_UP
        each = sum(loads * longer(clients) for clients in self.clients)
        return len(self.servers) * (1 + each)


def models() -> list[Server]:
    """Knot by each concurrency model."""
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
    """What one server does in each round of a part."""

    part: Part
    running: Running
    clients: int
    maximum: float = 0.0
    """Requests a second in the round that does not count."""

    @property
    def server(self) -> str:
        return self.running.server.name

    @property
    def what(self) -> str:
        return f"{self.server}, {self.part.scenario.about}, {self.clients:,} clients"


class Reader(Thread):
    """Reads a server's memory once, so many seconds after it has its first connection."""

    def __init__(self, turn: Turn, idle: int, after: float) -> None:
        super().__init__()
        self.turn = turn
        self.idle = idle
        self.after = after
        self.stopped = Event()
        self.found: Memory | None = None

    def run(self) -> None:
        pid = self.turn.running.pid
        with suppress(OSError):  # it has ended
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
"""Told what happens next, and how many seconds of the whole duration are done, more or less."""


@dataclass
class Experiment:
    """What has been measured so far; `result` may be asked at any time."""

    settings: Settings
    files: FileSet
    command: str
    """With which it can be repeated."""
    progress: Progress = lambda text, done: None
    runs: list[Run] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    done: float = 0.0
    """Seconds of `duration`."""

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
            self.missing[name] = "it is not installed: pip install 'knot[peers]'"

    def run(self) -> None:
        """All of it.  Whatever ends it, `result` has what was measured until then."""
        with self.on_its_core():
            self.loaded = why_loaded()
            self.uncounted = cannot_count()
            if self.uncounted:
                self.missing["system calls and context switches"] = self.uncounted
            if reason := generators.available("wrk"):
                self.missing["wrk"] = f"{reason}; the generator tame stands in for it"
            for _ in range(self.crowds):
                for server in self.ours:
                    self.hold(server)
            for part in self.parts:
                self.measure(part)

    def includes(self, part: str) -> bool:
        return not self.settings.only or part in self.settings.only

    @contextmanager
    def on_its_core(self) -> Iterator[None]:
        """This process is off the server's core meanwhile."""
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
        return started(server, CASE, self.files.root, self.server_core)

    def take(self, turn: Turn, number: int) -> None:
        """One server's turn in a round; the round -1 warms it up."""
        part, clients = turn.part, turn.clients
        if turn.server == "pool" and clients > POOL:
            self.missing[f"pool, more than {POOL} connections"] = (
                f"its {POOL} threads have one each at a time"
            )
            return
        times = longer(clients)
        try:
            if number < 0:
                seconds = WARM_UP if part.path else WARM_UP_MIX
                load = self.one(turn, number, seconds * times).load
                turn.maximum = load.requests / load.seconds
                return
            for share in part.shares or (None,):
                rate = share and share * turn.maximum
                self.runs.append(self.one(turn, number, part.seconds * times, share, rate))
            if number == part.rounds - 1 and len(part.clients) == 1 and not self.uncounted:
                counts = self.count(turn)
                self.runs[-1] = msgspec.structs.replace(self.runs[-1], counts=counts)
        except (GeneratorError, OSError, ValueError) as error:
            self.missing[turn.what] = str(error)

    def one(
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
        late = watch.seconds() - STARTING  # answers that came after the measured time
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
        return generators.generate(
            "wrk" if able and not generators.available("wrk") else "tame",
            Target("127.0.0.1", server.port, server.server.prefix),
            part.scenario,
            files=self.files,
            path=part.path,
            clients=turn.clients,
            seconds=seconds,
            warm_up=0,
            rate=rate,
            seed=self.settings.seed,
            core=self.generator_core,
        )

    def count(self, turn: Turn) -> Counts:
        with counting(turn.running.pid) as counted:
            load = self.load(turn, COUNTED)
        return Counts(
            requests=load.requests, switches=counted.switches, system_calls=counted.system_calls
        )

    # -- idle connections --

    def hold(self, server: Server) -> None:
        """What it holds without a connection, and with each of the crowds."""
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

    # -- what came out --

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
                    command=server.said(CASE),
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
            f" {STRANGERS * 100:.0f} % of a core"
        )
        return "; ".join(filter(None, (self.loaded, during if disturbed else "")))
