"""One seed: a server, its clients, and what happens to both, until the server has stopped.

Knot itself is not changed.  During the run, the system that its modules call is replaced, and the
threads that wait for its disk, and some sizes, so that short files have the effect of long ones.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

from knot import Limits, Responder, Site
from knot.files import representation, stamps
from knot.files import site as sites
from knot.files.stamps import Stamp
from knot.http import responder as responding
from knot.models import connection as connections
from knot.models import events
from knot.models.connection import DISK_THREADS
from knot.models.server import Sent
from knot.process.signals import Signals
from loadtest.robust.simulate.clients import DISK, MOMENT, Crowd, Peers, visit
from loadtest.robust.simulate.truth import LARGE, Files
from tame import Event, Rendezvous, mkevent, now, on_error, tamed, timer, twait
from tame import closure as closures
from tame.testing.simulation import Simulation
from tame.testing.streams import Faults

SIZES: Final = {
    (representation, "IN_MEMORY"): LARGE,
    (sites, "IN_MEMORY"): LARGE,
    (sites, "OPEN_FILES"): 3,
    (responding, "JOINED"): 2_000,
    (connections, "FIRST_SEND"): 4_000,
    (connections, "SLICE"): 16_000,
}
"""Sizes and numbers, smaller than the real ones."""

CLIENTS: Final = (6, 16)
LASTS: Final = (2.0, 14.0)
"""Virtual seconds until the server is asked to stop."""

FINISHED_WITHIN: Final = 400.0
"""Virtual seconds until even slow clients have had their last answers."""

EXPECTED: Final = {"sweep", "crowd_around", "come_and_go", "Server.flush_later"}
"""Closures that may remain at the end: they live as long as the loop."""


Job = tuple[Callable[[], Any], Event[Any]]


def stamp_of(status: os.stat_result) -> Stamp:
    """The stamp with the virtual time that `Files` gave the file, and without the real inode."""
    return stamps.stamp_of(status)._replace(inode=0, changed=status.st_mtime_ns)


@dataclass
class Found:
    """What one seed has found."""

    seed: int
    problems: list[str]
    trace: list[str]
    requests: int
    answers: int
    virtual: float
    """Simulated seconds."""
    real: float


class Disk:
    """Replaces a pool of threads: jobs take a while, and end in any order."""

    def __init__(self, world: Simulation) -> None:
        self.world = world
        self.waiting: deque[Job] = deque()
        self.under_way: list[Job] = []

    def fork(self, done: Event[Any], f: Callable[..., Any], *args: Any) -> None:
        self.waiting.append((partial(f, *args), done))
        self._begin()

    def _begin(self) -> None:
        if self.waiting and len(self.under_way) < DISK_THREADS:
            self.under_way.append(self.waiting.popleft())
            delay = self.world.random.choice((0.0001, 0.01, DISK)) * self.world.random.random()
            self.world.at(delay, self._end)

    def _end(self) -> None:
        if not self.under_way:
            return  # it was closed
        job, done = self.under_way.pop(self.world.random.randrange(len(self.under_way)))
        self._begin()
        try:
            result = job()
        except Exception as error:
            done.fail(error)
        else:
            done.trigger(result)

    def close(self) -> None:
        self.waiting.clear()
        self.under_way.clear()


class Log:
    """Replaces an access log, and keeps its records."""

    wants_more = True

    def __init__(self) -> None:
        self.pending: list[Any] = []
        self.records: list[Any] = []

    def note(self, sent: Sent, client: str, user: bytes) -> None:
        size = sent.size
        self.pending.append(SimpleNamespace(client=client, status=sent.response.status, size=size))

    def flush(self) -> None:
        self.records += self.pending
        self.pending.clear()


class Complaints(logging.Handler):
    """Turns the errors that the server logs into complaints."""

    def __init__(self, world: Simulation) -> None:
        super().__init__(logging.ERROR)
        self.world = world

    def emit(self, record: logging.LogRecord) -> None:
        if "a file could not be read" in record.getMessage() and self.world.disk_errors:
            return
        error = record.exc_info[1] if record.exc_info else None
        self.world.complain(f"the server logs: {record.getMessage()}: {error!r}")


# -- one seed --------------------------------------------------------------------------------------


def run_seed(seed: int) -> Found:
    """Run one seed.  The same seed has the same result in each process."""
    began = perf_counter()
    world = Simulation(seed, new_faults(seed))
    descriptors = open_descriptors()
    with tempfile.TemporaryDirectory(prefix="knot") as directory, simulated(world):
        crowd = serve(world, Path(directory))
    if open_descriptors() > descriptors:
        gc.collect()  # a server is a reference cycle
    left = open_descriptors() - descriptors
    if left:
        world.complain(f"{left} file descriptors are left open")
    return Found(
        seed,
        world.complaints,
        world.trace,
        sum(len(it.asked) for it in crowd.visits),
        sum(len(it.answers) for it in crowd.visits),
        world.now,
        perf_counter() - began,
    )


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def new_faults(seed: int) -> Faults:
    """What may fail: different things by seed, and in some seeds nothing unusual."""
    return Faults(
        broken=0.2 if seed % 4 == 1 else 0.0,
        lost=0.2 if seed % 4 == 2 else 0.0,
        disk=0.02 if seed % 8 == 3 else 0.0,
        cold=(0.1, 0.5, 0.0)[seed % 3],
    )


@contextmanager
def simulated(world: Simulation) -> Iterator[None]:
    """Run Knot in that world during the block."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("knot.")]
    collects = gc.isenabled()
    log = logging.getLogger("knot")
    handler, propagates = Complaints(world), log.propagate

    def report(error: BaseException, what: str, callers: list[str]) -> None:
        world.complain(f"{what}: {error!r}")

    with ExitStack() as stack:
        stack.enter_context(world.in_place_of(*modules))
        stack.enter_context(put(events, "Pool", lambda *_: Disk(world)))
        stack.enter_context(put(responding, "random_bits", lambda bits: int("10" * 32, 16)))
        for module in (representation, sites):
            stack.enter_context(put(module, "stamp_of", stamp_of))
        for (module, name), value in SIZES.items():
            stack.enter_context(put(module, name, value))
        stack.callback(on_error, on_error(report))
        stack.enter_context(patch.dict(os.environ, TAME_STRICT="1"))
        log.addHandler(handler)
        stack.callback(log.removeHandler, handler)
        log.propagate = False
        gc.disable()  # its timing depends on what this process did before
        try:
            yield
        finally:
            log.propagate = propagates
            if collects:
                gc.enable()


@contextmanager
def put(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def new_limits(world: Simulation) -> Limits:
    random = world.random
    return Limits(
        head=random.choice((2, 3.5)),
        keep_alive=random.choice((3, 5)),
        send=random.choice((3, 4.5)),
        linger=1,
        requests=random.choice((1, 3, 1000, 1000)),
        connections=random.choice((2, 5, 100, 100)),
    )


def serve(world: Simulation, root: Path) -> Crowd:
    """Run the server and its clients until nothing is left of them."""
    random = world.random
    files = Files(root, random, world.clock)
    site = Site(root, cache_size=random.choice((0, 20_000, 1_000_000)), listing=True)
    log: Any = random.choice((None, Log()))
    limits = new_limits(world)
    responder = Responder(site)
    server = events.Server(responder, limits, log)
    server.watched += [site.sweep, responder.sweep]
    peers = Peers(world, limits.connections)
    server.peers = peers  # type: ignore[assignment]
    listener: Any = world.listen()
    signals = Signals()
    crowd = Crowd(world, listener, files, limits, peers)
    grace = random.choice((0.5, 2.0, 5.0))
    cut: list[int | None] = []

    def run_loop(main: Callable[[], None]) -> None:
        def both() -> None:
            main()
            crowd_around(crowd, signals, grace)

        world.run(both)

    try:
        with put(events, "run_loop", run_loop):
            cut.append(events.run([listener], server, signals, grace))
    except Exception as error:
        world.complain(f"run() ends with {error!r}")
    finally:
        os.close(signals.fd)
        server.disk.close()  # type: ignore[attr-defined]  # it is the `Disk` above
        site.close()
    if cut and (cut[0] is None) != crowd.killed:
        world.complain(f"run() gives {cut[0]}")
    for fd in world.descriptors:
        world.complain(f"descriptor {fd} is still open")
    if server.peers:
        world.complain(f"the server still has {len(peers)} connections")
    if log is not None and not crowd.killed:
        check_log(crowd, log)
    return crowd


@tamed
def crowd_around(crowd: Crowd, signals: Signals, grace: float) -> None:
    """Everything besides the server; ends at once if the server is asked twice to stop."""
    r = Rendezvous[None]()
    come_and_go(crowd, signals, grace, mkevent(r), mkevent(r))
    twait(r)
    r.cancel()


@tamed
def come_and_go(
    crowd: Crowd, signals: Signals, grace: float, done: Event[()], killed: Event[()]
) -> None:
    """Start clients, change files, stop the server; then check what is left."""
    random = crowd.random
    clients = random.randint(*CLIENTS)
    lasts = random.uniform(*LASTS)
    with twait:
        for number in range(clients):
            come(crowd, f"c{number}", random.random() * (lasts + 0.5), mkevent())
        stop(crowd, signals, lasts, grace, killed, mkevent())
        change(crowd, mkevent())
    with twait:
        timer(crowd.limits.linger + 2 * DISK, mkevent())
    look_around(crowd)
    done.trigger()


@tamed
def come(crowd: Crowd, name: str, delay: float, done: Event[()]) -> None:
    with twait:
        timer(delay, mkevent())
    with twait:
        visit(crowd, name, mkevent())
    done.trigger()


@tamed
def change(crowd: Crowd, done: Event[()]) -> None:
    """Change files until shortly before the end."""
    while crowd.stop_at > now():
        with twait:
            timer(crowd.random.expovariate(2.0), mkevent())
        crowd.files.change()
    done.trigger()


@tamed
def stop(
    crowd: Crowd,
    signals: Signals,
    lasts: float,
    grace: float,
    killed: Event[()],
    done: Event[()],
) -> None:
    """Tell the server to stop, and check that it does in time."""
    random = crowd.random
    with twait:
        timer(lasts, mkevent())
    crowd.stop_at = now()
    crowd.gently = random.random() < 0.4
    if crowd.gently:
        tell(crowd, signals, signal.SIGQUIT)
        if random.random() < 0.5:
            with twait:
                serve_on(crowd, FINISHED_WITHIN, mkevent())
            done.trigger()
            return
        with twait:
            timer(random.random() * 5, mkevent())
        crowd.gently = False
    crowd.cut = now() + grace
    tell(crowd, signals, signal.SIGTERM)
    if random.random() < 0.1:
        with twait:
            timer(random.random() * grace, mkevent())
        if serves():
            crowd.killed = True
            tell(crowd, signals, signal.SIGTERM)
            with twait:
                serve_on(crowd, 0, mkevent())
            killed.trigger()
            return
    with twait:
        serve_on(crowd, crowd.cut - now(), mkevent())
    done.trigger()


def tell(crowd: Crowd, signals: Signals, number: int) -> None:
    crowd.world.note(f"the server gets {signal.Signals(number).name}")
    signals.tell(number)


@tamed
def serve_on(crowd: Crowd, limit: float, done: Event[()]) -> None:
    """Wait until the server has stopped, which may take this many seconds."""
    end = now() + limit + MOMENT
    while serves():
        if now() > end:
            crowd.world.complain(f"the server has not stopped after {limit:.1f} s")
            break
        with twait:
            timer(min(0.1, max(end - now(), 0.0)) + MOMENT, mkevent())
    done.trigger()


def serves() -> bool:
    return any(closure.code.co_qualname == "main" for closure in closures.alive)


def look_around(crowd: Crowd) -> None:
    """Check that nothing is left while the loop still runs: no closure, connection or byte."""
    world = crowd.world
    for closure in closures.alive:
        if closure.code.co_qualname not in EXPECTED:
            world.complain(f"{closure.code.co_qualname} is still blocked")
    if crowd.peers or world.descriptors:
        world.complain(f"{len(crowd.peers)} connections and {len(world.descriptors)} descriptors")
    for end in world.ends:
        if end.outbox and not end.disturbed:
            world.complain(f"{len(end.outbox)} bytes of {end.name} were never sent")
        lingered = (end.closed_at or 0.0) - (end.ended_at or 0.0)
        if end.name.endswith("<") and lingered > crowd.limits.linger + DISK + MOMENT:
            world.complain(f"{end.name} was ended, and closed {lingered:.1f} s later")


def check_log(crowd: Crowd, log: Log) -> None:
    """Check that the log has a line for each answer, in order."""
    log.flush()
    for it in crowd.visits:
        records = [record for record in log.records if record.client == it.server.name]
        for answer, record in zip(it.answers, records, strict=False):
            if (record.status, record.size) != (answer.status, len(answer.body)):
                crowd.world.complain(
                    f"{it.name}: the log has {record.status} {record.size}, and the client"
                    f" {answer.status} {len(answer.body)}"
                )
                break
        if len(records) < len(it.answers):
            crowd.world.complain(f"{it.name}: {len(it.answers)} answers, {len(records)} in the log")
