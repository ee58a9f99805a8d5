"""Several processes that serve the same site, and the one that looks after them.

Each worker is ``knot serve`` of its own, started by exec, with a listening socket that the
supervisor has opened and keeps open: a connection that nobody has accepted yet survives the end of
a worker.  The kernel spreads connections over the sockets (SO_REUSEPORT).

A new worker takes the place of an old one when it is ready, never before.  The old one is then told
to accept nothing more and to end with its last connection, so that a new configuration, and new
code, costs no client anything.

Read it from `supervise`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Final

from knot.monitor.admin import AdminApp, resident_of, serve_admin
from knot.monitor.metrics import Counts, Shared
from knot.process import control, spawn
from knot.process.control import ControlChannel
from knot.process.sandbox import ALIVE, is_watched, notify
from knot.process.signals import Signals
from knot.process.worker import READY, WORKER
from tame import (
    READ,
    BlockedWarning,
    Descriptor,
    Event,
    Rendezvous,
    mkevent,
    run,
    tamed,
    timer,
    tvars,
    twait,
    wait_on_fd,
)

SOON: Final = 30.0
"""Seconds within which a worker has to be ready."""

SHORTEST: Final = 0.1
LONGEST: Final = 10.0
"""Seconds before a worker that has died is replaced, twice as long each time."""
STEADY: Final = 60.0
"""Seconds after which a worker's death has nothing to do with the last one's."""

LOOK: Final = 1.0
"""Seconds between two looks at the memory of the workers."""

BEAT: Final = 1.0
"""Seconds between two signs of life of a worker."""

STUCK: Final = 10
"""Beats without any, after which a worker is replaced.  They are counted and not timed: while the
supervisor does not run either, as on a machine that sleeps, nobody has failed to answer it."""

REASONS: Final = ("start", "death", "reload", "memory", "stuck")
"""Why a worker is started."""

LATE: Final = 5.0
"""Seconds beyond the grace that workers have at the end."""


class Worker:
    """A process, from its start to its end."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        redirects: Sequence[socket.socket] = (),
        number: int = 0,
        *,
        counted: bool,
    ) -> None:
        with ExitStack() as undo:
            self.shared = Shared.new() if counted else None
            """What it has done, if somebody wants to know."""
            if self.shared is not None:
                undo.callback(self.shared.close)
            line, other = control.pair()
            undo.enter_context(line)
            counts = -1 if self.shared is None else self.shared.fd
            own = [other.fileno(), counts]
            groups = [[each.fileno() for each in group] for group in (listeners, redirects)]
            said = [[number, *own], *groups]
            with other:
                self.process = spawn.start(
                    sys.argv[1:],
                    [fd for group in (own, *groups) for fd in group if fd >= 0],
                    {WORKER: ";".join(",".join(map(str, group)) for group in said)},
                )
            undo.callback(self.process.wait)
            undo.callback(self.process.kill)
            self.end = Descriptor(os.pidfd_open(self.process.pid))
            """Readable when it has ended."""
            undo.pop_all()
        self.line = ControlChannel(line.detach())
        """Readable when it is ready, or has ended before; then for questions."""
        self.began = monotonic()
        self.ready = False
        self.must_reopen = False
        """Its log, once it is ready."""
        self.killed = False
        """Whether SIGKILL was sent to it; a process that waits for a disk ends only afterwards."""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_stuck(self) -> bool:
        """Whether its loop does not turn."""
        return self.line.silent > STUCK

    def tell(self, number: signal.Signals) -> None:
        self.killed = self.killed or number == signal.SIGKILL
        self.process.send_signal(number)

    def has_all(self) -> bool:
        """Whether all that it is to serve was there a second ago."""
        return self.shared is None or not self.shared.read().lacking

    def fate(self) -> str:
        """How it has ended."""
        status = self.process.wait()
        self.end.close()
        self.line.close()
        if status >= 0:
            return f"has ended with status {status}"
        return f"was ended by {signal.Signals(-status).name}"


@dataclass
class WorkerSlot:
    """One of the workers that there are to be."""

    listeners: Sequence[socket.socket]
    redirects: Sequence[socket.socket] = ()
    number: int = 0
    worker: Worker | None = None
    starting: bool = False
    replacing: bool = False
    """Whether another worker is to come for one that is stuck."""
    pause: float = SHORTEST


@dataclass
class Supervisor:
    places: list[WorkerSlot]
    grace: float
    counted: bool = False
    ended: Counts = field(default_factory=Counts)
    """What the workers have done that are no more."""
    starts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    """Workers that have become ready, by the reason to start them."""
    workers: set[Worker] = field(default_factory=set)
    """All processes, those that only finish what is under way, too."""
    began: bool = False
    """Whether all workers that there are to be have been ready."""
    stopping: bool = False
    renewing: bool = False
    again: bool = False
    """Whether to renew the workers once more, when that is done."""
    deserted: Event[()] | None = None

    def tell(self, number: signal.Signals) -> None:
        for worker in self.workers:
            worker.tell(number)

    def reopen(self) -> None:
        """Have every log opened anew; a worker that starts would be ended by the signal."""
        for worker in self.workers:
            worker.must_reopen = not worker.ready
            if worker.ready:
                worker.tell(signal.SIGUSR1)

    def say(self, text: str) -> None:
        print(f"knot: {text}", file=sys.stderr)

    # What is asked at the admin address

    def counts(self) -> dict[int, Counts]:
        workers = sorted(self.workers, key=lambda worker: worker.pid)
        return {worker.pid: worker.shared.read() for worker in workers if worker.shared}

    def memory(self, pid: int) -> int:
        return resident_of(pid)

    def ready(self) -> bool:
        return not self.stopping and all(
            place.worker is not None and not place.worker.is_stuck and place.worker.has_all()
            for place in self.places
        )

    def is_healthy(self) -> bool:
        """Whether all that could be done about workers is being done."""
        return all(
            place.worker is None or not place.worker.is_stuck or place.replacing
            for place in self.places
        )

    @tamed
    def refresh(self, done: Event[()]) -> None:
        with tvars:
            said: dict[int, str | None]
        with twait:
            self.ask(control.COUNT, mkevent(said))
        done.trigger()

    @tamed
    def waiting(self, done: Event[str]) -> None:
        with tvars:
            said: dict[int, str | None]
        with twait:
            self.ask(control.WAITING, mkevent(said))
        done.trigger(
            "\n\n".join(
                f"worker {pid} does not answer" if text is None else text
                for pid, text in said.items()
            )
        )

    @tamed
    def ask(self, kind: bytes, done: Event[dict[int, str | None]]) -> None:
        """All workers at once; what they answer, by process."""
        with tvars:
            said: dict[int, str | None]
        said = {}
        with twait:
            for worker in self.workers:
                if worker.ready:
                    worker.line.ask(kind, mkevent(said[worker.pid]))
        done.trigger(dict(sorted(said.items())))


@tamed
def launch(supervisor: Supervisor, place: WorkerSlot, reason: str, done: Event[bool]) -> None:
    """Start a worker; once it is ready it takes the place.  Whether it has come that far."""
    with tvars:
        late: bool
    if supervisor.stopping:
        done.trigger(False)
        return
    place.starting = True
    try:
        worker = Worker(place.listeners, place.redirects, place.number, counted=supervisor.counted)
    except OSError as error:
        place.starting = False
        supervisor.say(f"a worker cannot be started: {error.strerror}")
        done.trigger(False)
        return
    supervisor.workers.add(worker)
    r = Rendezvous[bool]()
    wait_on_fd(worker.line.descriptor, READ, mkevent(r, False))
    timer(SOON, mkevent(r, True))
    late = twait(r)
    r.cancel()
    place.starting = False
    ready = worker.ready = not late and worker.line.hears(READY)
    if ready:
        supervisor.starts[reason] += 1
        worker.line.listen()
        if worker.must_reopen:
            worker.tell(signal.SIGUSR1)
        old, place.worker = place.worker, worker
        if old is not None:
            old.tell(signal.SIGKILL if old.is_stuck else signal.SIGQUIT)  # it hears no other
    elif late:
        supervisor.say(f"worker {worker.pid} was not ready after {SOON:g} s")
        worker.tell(signal.SIGKILL)
    if supervisor.stopping:
        worker.tell(signal.SIGTERM)
    serve_control(supervisor, place, worker)
    done.trigger(ready)


@tamed
def serve_control(supervisor: Supervisor, place: WorkerSlot, worker: Worker) -> None:
    """Wait for the end of a worker; if that was its own idea, another takes its place."""
    with tvars:
        ready: bool
    with twait:
        wait_on_fd(worker.end, READ, mkevent())
    fate = worker.fate()
    supervisor.workers.discard(worker)
    if worker.shared is not None:
        done = worker.shared.read()
        done.end()
        supervisor.ended.add(done)
        worker.shared.close()
    if not supervisor.workers and supervisor.deserted is not None:
        supervisor.deserted.trigger()
    if place.worker is not worker or supervisor.stopping:
        return
    place.worker = None
    if monotonic() - worker.began >= STEADY:
        place.pause = SHORTEST
    supervisor.say(f"worker {worker.pid} {fate}; another follows in {place.pause:g} s")
    while place.worker is None and not supervisor.stopping:
        with twait:
            timer(place.pause, mkevent())
        place.pause = min(2 * place.pause, LONGEST)
        if place.worker is None and not place.starting and not supervisor.stopping:
            with twait:
                launch(supervisor, place, "death", mkevent(ready))


@tamed
def renew(supervisor: Supervisor) -> None:
    """Replace every worker by a new one, each when it is ready."""
    with tvars:
        ready: list[bool]
    supervisor.again = True
    if supervisor.renewing or supervisor.stopping or not supervisor.began:
        return  # those that start may have read the configuration before it was changed again
    supervisor.renewing = True
    notify("RELOADING=1", f"MONOTONIC_USEC={int(monotonic() * 1e6)}")
    while supervisor.again and not supervisor.stopping:
        supervisor.again = False
        ready = [True] * len(supervisor.places)
        with twait:
            for number, place in enumerate(supervisor.places):
                if place.worker is not None and not place.starting:
                    launch(supervisor, place, "reload", mkevent(ready[number]))
        if not all(ready) and not supervisor.stopping:
            supervisor.say("the new workers do not start; the old ones go on")
    supervisor.renewing = False
    notify("READY=1")


@tamed
def watch(supervisor: Supervisor) -> None:
    """Ask each worker for a sign of life, and replace those that give none; and give systemd's
    watchdog one."""
    watched = is_watched()
    while True:
        for worker in list(supervisor.workers):
            if worker.ready:
                worker.line.beat()
        with twait:
            timer(BEAT, mkevent())
        if not supervisor.stopping:
            for place in supervisor.places:
                if place.worker is not None and place.worker.is_stuck and not place.replacing:
                    replace(supervisor, place, place.worker)
            placed = {place.worker for place in supervisor.places}
            for worker in supervisor.workers - placed:
                if worker.ready and worker.is_stuck and not worker.killed:
                    supervisor.say(f"worker {worker.pid}, which was finishing, is stuck: it ends")
                    worker.tell(signal.SIGKILL)
        if watched and supervisor.is_healthy():
            notify(ALIVE)


@tamed
def replace(supervisor: Supervisor, place: WorkerSlot, worker: Worker) -> None:
    """Put another into the place of a worker that is stuck, unless it recovers first."""
    with tvars:
        ready: bool
    place.replacing = True
    pause = SHORTEST
    supervisor.say(
        f"worker {worker.pid} is stuck: no answer for {STUCK * BEAT:g} s; another takes its place"
    )
    while place.worker is worker and worker.is_stuck and not supervisor.stopping:
        if place.starting:
            with twait:
                timer(SHORTEST, mkevent())
            continue
        with twait:
            launch(supervisor, place, "stuck", mkevent(ready))
        if not ready:
            with twait:
                timer(pause, mkevent())
            pause = min(2 * pause, LONGEST)
    place.replacing = False


@tamed
def recycle(supervisor: Supervisor, most: int) -> None:
    """Replace workers that have grown beyond `most` resident bytes."""
    with tvars:
        ready: bool
    while not supervisor.stopping:
        with twait:
            timer(LOOK, mkevent())
        for place in supervisor.places:
            worker = place.worker
            size = resident_of(worker.pid) if worker is not None else 0
            if worker is not None and size > most and not place.starting:
                supervisor.say(f"worker {worker.pid} has {size >> 20} MiB; another takes its place")
                with twait:
                    launch(supervisor, place, "memory", mkevent(ready))


@tamed
def stop(supervisor: Supervisor, done: Event[()]) -> None:
    """Tell the workers to finish within the grace; end those that do not.

    Once they have closed their listeners, too, the kernel refuses connections; nobody would accept
    them any more.
    """
    with tvars:
        late: bool
    supervisor.stopping = True
    notify("STOPPING=1")
    supervisor.tell(signal.SIGTERM)
    for place in supervisor.places:
        for listener in (*place.listeners, *place.redirects):
            listener.close()
    r = Rendezvous[bool]()
    if supervisor.workers:
        supervisor.deserted = mkevent(r, False)
        timer(supervisor.grace + LATE, mkevent(r, True))
        late = twait(r)
        while late and supervisor.workers:
            supervisor.tell(signal.SIGKILL)
            late = twait(r)
    r.cancel()
    done.trigger()


def supervise(
    listeners: Iterable[tuple[Sequence[socket.socket], Sequence[socket.socket]]],
    *,
    grace: float,
    most_memory: int | None = None,
    began: Callable[[], object],
    admin: Sequence[socket.socket] = (),
) -> bool:
    """Keep a worker at each group of listeners, those of the site and those of the redirect to it,
    until a signal; `began` is called when all are ready.

    SIGHUP replaces them all.  `admin` listen for who asks how they are.  False if they did not
    start.
    """
    places = [WorkerSlot(*group, number) for number, group in enumerate(listeners)]
    supervisor = Supervisor(places, grace, counted=bool(admin))
    signals = Signals(
        {
            signal.SIGHUP: partial(renew, supervisor),
            signal.SIGUSR1: supervisor.reopen,
        }
    )
    signals.install()
    failed: list[bool] = []

    @tamed
    def begin() -> None:
        with tvars:
            ready: list[bool]
        ready = [False] * len(places)
        with twait:
            for number, place in enumerate(places):
                launch(supervisor, place, "start", mkevent(ready[number]))
        if supervisor.stopping:
            return
        if not all(ready):
            failed.append(True)
            signals.tell(signal.SIGTERM)
            return
        supervisor.began = True
        began()
        notify("READY=1")
        watch(supervisor)
        if most_memory is not None:
            recycle(supervisor, most_memory)
        if supervisor.again:
            renew(supervisor)

    @tamed
    def main() -> None:
        with tvars:
            over: bool
        heard = Descriptor(os.dup(signals.fd))
        if admin:
            answers = AdminApp(supervisor)
            for listener in admin:
                serve_admin(listener, answers)
        begin()
        while not signals.take():
            with twait:
                wait_on_fd(heard, READ, mkevent())
        r = Rendezvous[bool]()
        stop(supervisor, mkevent(r, True))
        over = False
        while not over:
            if signals.take():
                supervisor.tell(signal.SIGTERM)  # for them, too, it is the second
            wait_on_fd(heard, READ, mkevent(r, False))
            over = twait(r)
        r.cancel()
        heard.close()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlockedWarning)  # timers for what will not come
        run(main, driver="epoll")
    signals.close()
    return not failed
