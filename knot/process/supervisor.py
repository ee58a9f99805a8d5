"""Several processes that serve the same site, and the one that supervises them.

Each worker is a ``knot serve`` of its own, started by exec, with a listening socket that the
supervisor has opened and keeps open: a connection that is not accepted yet survives the end of a
worker.  The kernel distributes connections over the sockets (SO_REUSEPORT).

A new worker replaces an old one when it is ready, never before.  The old one is then told to accept
nothing more and to end with its last connection, so that new configuration, and new code, cost no
client anything.

What the workers count is a `Monitor`'s, which is passed in; nothing here knows what the numbers
mean, or HTTP.  Start reading at `supervise`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Final

from knot.process.memory import resident_of
from knot.process.signals import Signals
from knot.process.systemd import ALIVE, is_watched, notify
from knot.process.worker import READY
from knot.process.worker_process import MAX_MISSED, MIN_DELAY, Monitor, Worker, WorkerSlot
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

START_TIMEOUT: Final = 30.0
"""Seconds for a worker to become ready."""

MAX_DELAY: Final = 10.0
"""Seconds before a worker that has died is replaced, at most; the delay doubles each time."""

STABLE_AFTER: Final = 60.0
"""Seconds after which the death of a worker is not related to the one before."""

MEMORY_INTERVAL: Final = 1.0
"""Seconds between two checks of the workers' memory."""

BEAT_INTERVAL: Final = 1.0
"""Seconds between two heartbeats of a worker."""

REASONS: Final = ("start", "death", "reload", "memory", "stuck")
"""Why a worker is started."""

KILL_DELAY: Final = 5.0
"""Seconds after the grace period until the workers that are left are killed."""


@dataclass
class Supervisor:
    slots: list[WorkerSlot]
    grace: float
    max_memory: int | None = None
    began: Callable[[], object] = bool
    """Called when all workers are ready for the first time."""
    monitor: Monitor | None = None
    starts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    """Workers that have become ready, by the reason to start them."""
    workers: set[Worker] = field(default_factory=set)
    """All processes, including those that only finish what is under way."""
    started: bool = False
    """Whether all workers have been ready."""
    failed: bool = False
    """Whether a worker could not start in the beginning."""
    stopping: bool = False
    renewing: bool = False
    again: bool = False
    """Whether to renew the workers once more afterwards."""
    deserted: Event[()] | None = None

    def send_signal(self, number: signal.Signals) -> None:
        for worker in self.workers:
            worker.send_signal(number)

    def reopen(self) -> None:
        """Reopen the log of every worker; one that is starting would be killed by the signal."""
        for worker in self.workers:
            worker.must_reopen = not worker.ready
            if worker.ready:
                worker.send_signal(signal.SIGUSR1)

    def report(self, text: str) -> None:
        print(f"knot: {text}", file=sys.stderr)

    def is_ready(self) -> bool:
        """Whether every worker serves, has everything that it is to serve, and goes on."""
        return not self.stopping and all(
            slot.worker is not None and not slot.worker.is_stuck and slot.worker.has_all()
            for slot in self.slots
        )

    def is_healthy(self) -> bool:
        """Whether every stuck worker is being replaced."""
        return all(
            slot.worker is None or not slot.worker.is_stuck or slot.replacing for slot in self.slots
        )

    def stuck_slots(self) -> Iterator[tuple[WorkerSlot, Worker]]:
        """The slots whose workers are stuck and not being replaced yet."""
        for slot in self.slots:
            if slot.worker is not None and slot.worker.is_stuck and not slot.replacing:
                yield slot, slot.worker

    def stuck_leavers(self) -> Iterator[Worker]:
        """Workers that were finishing what is under way, and are stuck."""
        placed = {slot.worker for slot in self.slots}
        for worker in self.workers - placed:
            if worker.ready and worker.is_stuck and not worker.killed:
                yield worker

    @tamed
    def ask(self, kind: bytes, done: Event[dict[int, str | None]]) -> None:
        """Ask all workers at once; trigger `done` with their answers, by process."""
        with tvars:
            answers: dict[int, str | None]
        answers = {}
        with twait:
            for worker in self.workers:
                if worker.ready:
                    worker.channel.ask(kind, mkevent(answers[worker.pid]))
        done.trigger(dict(sorted(answers.items())))


# -- one worker ----------------------------------------------------------------------------------


@tamed
def launch(supervisor: Supervisor, slot: WorkerSlot, reason: str, done: Event[bool]) -> None:
    """Start a worker, which takes the slot once it is ready; trigger `done` with whether it became
    ready."""
    with tvars:
        late: bool
    if supervisor.stopping:
        done.trigger(False)
        return
    slot.starting = True
    try:
        worker = Worker(slot.listeners, slot.redirects, slot.number, monitor=supervisor.monitor)
    except OSError as error:
        slot.starting = False
        supervisor.report(f"cannot start a worker: {error.strerror}")
        done.trigger(False)
        return
    supervisor.workers.add(worker)
    r = Rendezvous[bool]()
    wait_on_fd(worker.channel.descriptor, READ, mkevent(r, False))
    timer(START_TIMEOUT, mkevent(r, True))
    late = twait(r)
    r.cancel()
    slot.starting = False
    ready = worker.ready = not late and worker.channel.hears(READY)
    if ready:
        supervisor.starts[reason] += 1
        take_slot(slot, worker)
    elif late:
        supervisor.report(f"worker {worker.pid} was not ready after {START_TIMEOUT:g} s")
        worker.send_signal(signal.SIGKILL)
    if supervisor.stopping:
        worker.send_signal(signal.SIGTERM)
    await_end(supervisor, slot, worker)
    done.trigger(ready)


def take_slot(slot: WorkerSlot, worker: Worker) -> None:
    """The worker is ready: it replaces the one that had the slot."""
    worker.channel.listen()
    if worker.must_reopen:
        worker.send_signal(signal.SIGUSR1)
    old, slot.worker = slot.worker, worker
    if old is not None:
        # A stuck process handles no other signal.
        old.send_signal(signal.SIGKILL if old.is_stuck else signal.SIGQUIT)


@tamed
def await_end(supervisor: Supervisor, slot: WorkerSlot, worker: Worker) -> None:
    """Wait for the end of a worker; if it has died, start others until one is ready."""
    with tvars:
        ready: bool
    with twait:
        wait_on_fd(worker.end, READ, mkevent())
    worker.close()
    supervisor.workers.discard(worker)
    if supervisor.monitor is not None and worker.counts is not None:
        supervisor.monitor.release(worker.counts)
    if not supervisor.workers and supervisor.deserted is not None:
        supervisor.deserted.trigger()
    if slot.worker is not worker or supervisor.stopping:
        return
    slot.worker = None
    if monotonic() - worker.began >= STABLE_AFTER:
        slot.delay = MIN_DELAY
    supervisor.report(f"worker {worker.pid} {worker.fate()}; starting another in {slot.delay:g} s")
    while slot.worker is None and not supervisor.stopping:
        with twait:
            timer(slot.delay, mkevent())
        slot.delay = min(2 * slot.delay, MAX_DELAY)
        if slot.worker is None and not slot.starting and not supervisor.stopping:
            with twait:
                launch(supervisor, slot, "death", mkevent(ready))


# -- all of them ---------------------------------------------------------------------------------


@tamed
def renew(supervisor: Supervisor) -> None:
    """Replace every worker with a new one, each when it is ready."""
    with tvars:
        ready: list[bool]
    supervisor.again = True
    if supervisor.renewing or supervisor.stopping or not supervisor.started:
        return  # workers that are starting may have read the configuration before it changed again
    supervisor.renewing = True
    notify("RELOADING=1", f"MONOTONIC_USEC={int(monotonic() * 1e6)}")
    while supervisor.again and not supervisor.stopping:
        supervisor.again = False
        ready = [True] * len(supervisor.slots)
        with twait:
            for number, slot in enumerate(supervisor.slots):
                if slot.worker is not None and not slot.starting:
                    launch(supervisor, slot, "reload", mkevent(ready[number]))
        if not all(ready) and not supervisor.stopping:
            supervisor.report("the new workers do not start; the old ones stay")
    supervisor.renewing = False
    notify("READY=1")


@tamed
def watch(supervisor: Supervisor) -> None:
    """Ask each worker for heartbeats, and replace those that miss too many; send one to systemd's
    watchdog."""
    watched = is_watched()
    while True:
        for worker in list(supervisor.workers):
            if worker.ready:
                worker.channel.beat()
        with twait:
            timer(BEAT_INTERVAL, mkevent())
        if not supervisor.stopping:
            for slot, worker in supervisor.stuck_slots():
                replace(supervisor, slot, worker)
            for worker in supervisor.stuck_leavers():
                supervisor.report(f"worker {worker.pid} is stuck while it finishes; killing it")
                worker.send_signal(signal.SIGKILL)
        if watched and supervisor.is_healthy():
            notify(ALIVE)


@tamed
def replace(supervisor: Supervisor, slot: WorkerSlot, worker: Worker) -> None:
    """Replace a stuck worker, unless it recovers first."""
    with tvars:
        ready: bool
    slot.replacing = True
    delay = MIN_DELAY
    silence = MAX_MISSED * BEAT_INTERVAL
    supervisor.report(f"worker {worker.pid} is stuck: no answer for {silence:g} s; replacing it")
    while slot.worker is worker and worker.is_stuck and not supervisor.stopping:
        if slot.starting:
            with twait:
                timer(MIN_DELAY, mkevent())
            continue
        with twait:
            launch(supervisor, slot, "stuck", mkevent(ready))
        if not ready:
            with twait:
                timer(delay, mkevent())
            delay = min(2 * delay, MAX_DELAY)
    slot.replacing = False


@tamed
def recycle(supervisor: Supervisor, max_memory: int) -> None:
    """Replace workers that have more than `max_memory` resident bytes."""
    with tvars:
        ready: bool
    while not supervisor.stopping:
        with twait:
            timer(MEMORY_INTERVAL, mkevent())
        for slot in supervisor.slots:
            worker = slot.worker
            size = resident_of(worker.pid) if worker is not None else 0
            if worker is not None and size > max_memory and not slot.starting:
                supervisor.report(f"worker {worker.pid} uses {size >> 20} MiB; replacing it")
                with twait:
                    launch(supervisor, slot, "memory", mkevent(ready))


@tamed
def stop(supervisor: Supervisor, done: Event[()]) -> None:
    """Have the workers finish within the grace period, and kill those that do not.

    The listeners are closed here, too: once the workers have closed theirs, the kernel refuses
    connections, which nobody would accept any more.
    """
    with tvars:
        late: bool
    supervisor.stopping = True
    notify("STOPPING=1")
    supervisor.send_signal(signal.SIGTERM)
    for slot in supervisor.slots:
        for listener in (*slot.listeners, *slot.redirects):
            listener.close()
    r = Rendezvous[bool]()
    if supervisor.workers:
        supervisor.deserted = mkevent(r, False)
        timer(supervisor.grace + KILL_DELAY, mkevent(r, True))
        late = twait(r)
        while late and supervisor.workers:
            supervisor.send_signal(signal.SIGKILL)
            late = twait(r)
    r.cancel()
    done.trigger()


# -- from start to end ---------------------------------------------------------------------------


def supervise(
    groups: Iterable[tuple[Sequence[socket.socket], Sequence[socket.socket]]],
    *,
    grace: float,
    max_memory: int | None = None,
    began: Callable[[], object],
    monitor: Monitor | None = None,
) -> bool:
    """Keep a worker at each group of listeners, those of the site and those of the redirect to it,
    until a signal; whether the workers have started.

    `began` is called when all of them are ready.  SIGHUP replaces them all.
    """
    slots = [WorkerSlot(*group, number) for number, group in enumerate(groups)]
    supervisor = Supervisor(slots, grace, max_memory, began, monitor)
    signals = Signals(
        {
            signal.SIGHUP: partial(renew, supervisor),
            signal.SIGUSR1: supervisor.reopen,
        }
    )
    signals.install()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlockedWarning)  # timers that are left at the end
        run(start_and_stop, supervisor, signals, driver="epoll")
    signals.close()
    return not supervisor.failed


@tamed
def start_and_stop(supervisor: Supervisor, signals: Signals) -> None:
    """Start the workers, wait for a signal, and stop them; a second signal cuts the grace short."""
    with tvars:
        over: bool
    heard = Descriptor(os.dup(signals.fd))
    if supervisor.monitor is not None:
        supervisor.monitor.start(supervisor)
    start(supervisor, signals)
    while not signals.take():
        with twait:
            wait_on_fd(heard, READ, mkevent())
    r = Rendezvous[bool]()
    stop(supervisor, mkevent(r, True))
    over = False
    while not over:
        if signals.take():
            supervisor.send_signal(signal.SIGTERM)  # the second one for the workers, too
        wait_on_fd(heard, READ, mkevent(r, False))
        over = twait(r)
    r.cancel()
    heard.close()


@tamed
def start(supervisor: Supervisor, signals: Signals) -> None:
    """Start all workers, and what looks after them; if one cannot start, stop."""
    with tvars:
        ready: list[bool]
    ready = [False] * len(supervisor.slots)
    with twait:
        for number, slot in enumerate(supervisor.slots):
            launch(supervisor, slot, "start", mkevent(ready[number]))
    if supervisor.stopping:
        return
    if not all(ready):
        supervisor.failed = True
        signals.tell(signal.SIGTERM)
        return
    supervisor.started = True
    supervisor.began()
    notify("READY=1")
    watch(supervisor)
    if supervisor.max_memory is not None:
        recycle(supervisor, supervisor.max_memory)
    if supervisor.again:
        renew(supervisor)
