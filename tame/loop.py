"""The loop: `run`, and the two primitive events, time and descriptors (paper, Figure 2).

One loop runs in a process at a time.  It turns what a driver reports into triggers and then lets
the runnable closures go on.  Timers stand in one heap here, whatever the driver; a driver only
ever has one alarm.
"""

from __future__ import annotations

import _thread
import errno
import heapq
import itertools
import os
import warnings
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from tame import closure as closures
from tame.drivers import READ, WRITE, Driver, make_driver
from tame.errors import BlockedWarning, DeadlockError, DescriptorBusyError, LoopError
from tame.event import Event

active: Driver | None = None  # while `run` runs


# -- time --------------------------------------------------------------------------------------

Timer = tuple[float, int, Event[()]]
timers: list[Timer] = []
timer_order = itertools.count()
sweep_at = 1024


def timer(seconds: float, event: Event[()]) -> None:
    """Trigger `event` after so many seconds (paper, Figure 2); at once, in effect, if negative.

    Raises `TypeError` for an event with slots, `ValueError` for a NaN, `LoopError` outside `run`.
    """
    global sweep_at
    if event._slots:
        raise event._wrong_arity(())
    if seconds != seconds:
        raise ValueError("timer() was given NaN seconds")
    if active is None:
        raise LoopError("timer() needs a running loop: call it inside tame.run(f)")
    if len(timers) >= sweep_at:
        # An event that was forgotten leaves its timer behind.  Sweeping when the heap has
        # doubled since the last sweep costs a constant share of each timer.
        timers[:] = [entry for entry in timers if entry[2].live]
        heapq.heapify(timers)
        sweep_at = max(1024, 2 * len(timers))
    entry = (monotonic() + seconds, next(timer_order), event)
    heapq.heappush(timers, entry)
    if timers[0] is entry:
        active.alarm(entry[0])


def _fire_timers() -> None:
    now = monotonic()
    closures.asleep = False
    while timers and timers[0][0] <= now:
        event = heapq.heappop(timers)[2]
        if event._rendezvous is not None:  # spent by somebody else, perhaps
            event.trigger()
    while timers and not timers[0][2].live:
        heapq.heappop(timers)
    if timers and active is not None:
        active.alarm(timers[0][0])


# -- descriptors -------------------------------------------------------------------------------


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class Descriptor:
    """A file descriptor that belongs to Tame: close it with `close` and in no other way.

    That promise is worth a system call or two for each wait: a `Descriptor` stays registered
    with the kernel from one wait to the next, and is dropped only when it is ready and nobody
    waits.  A bare number cannot stay, because the program may close it and the kernel then gives
    the number to something else.
    """

    __slots__ = ("_reader", "_writer", "fd", "watched")

    kept = True

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.watched = 0
        self._reader: Event[()] | None = None
        self._writer: Event[()] | None = None

    def fileno(self) -> int:
        """The number, or -1 once it is closed."""
        return self.fd

    def close(self) -> None:
        """Close the descriptor; whoever still waits for it gets `EventDroppedError`.

        A second call does nothing.
        """
        if self.fd >= 0:
            if self.watched and active is not None:
                active.watch(self, 0)
            fd, self.fd = self.fd, -1
            self._reader = self._writer = None
            os.close(fd)

    def ready(self, directions: int) -> None:
        """The driver's call: trigger who waits, and drop the directions nobody waits for."""
        closures.asleep = False
        unwanted = 0
        if directions & READ:
            event = self._reader
            if event is not None:
                self._reader = None
                if event._rendezvous is not None:  # spent by somebody else, perhaps
                    event.trigger()
            if event is None or not self.kept:
                unwanted = READ
        if directions & WRITE:
            event = self._writer
            if event is not None:
                self._writer = None
                if event._rendezvous is not None:
                    event.trigger()
            if event is None or not self.kept:
                unwanted |= WRITE
        unwanted &= self.watched
        if unwanted and active is not None:
            active.watch(self, self.watched & ~unwanted)


class Number(Descriptor):
    """A bare descriptor number, registered for one wait only."""

    __slots__ = ()

    kept = False


def wait_on_fd(fd: int | HasFileno, direction: int, event: Event[()]) -> None:
    """Trigger `event` when `fd` is ready for `direction`, `READ` or `WRITE` (paper, Figure 2).

    `fd` is a `Descriptor`, a number, or anything with a ``fileno``.  An error or a hang-up counts
    as ready, so that the next call on the descriptor reports it; a regular file is always ready.
    Raises `DescriptorBusyError` if another event waits for the same, `OSError` for a descriptor
    that is not open, `TypeError` for an event with slots, `LoopError` outside `run`.
    """
    if event._slots:
        raise event._wrong_arity(())
    if active is None:
        raise LoopError("wait_on_fd() needs a running loop: call it inside tame.run(f)")
    if type(fd) is Descriptor:
        descriptor = fd
        if fd.fd < 0:
            raise OSError(errno.EBADF, "the descriptor is closed")
    else:
        descriptor = _by_number(fd if isinstance(fd, int) else fd.fileno(), active)
    if direction == READ:
        if descriptor._reader is not None and descriptor._reader.live:
            raise _descriptor_busy(descriptor, "READ", descriptor._reader)
        descriptor._reader = event
    elif direction == WRITE:
        if descriptor._writer is not None and descriptor._writer.live:
            raise _descriptor_busy(descriptor, "WRITE", descriptor._writer)
        descriptor._writer = event
    else:
        raise ValueError(f"wait_on_fd() waits for READ or WRITE, not {direction!r}")
    if not descriptor.watched & direction:
        try:
            active.watch(descriptor, descriptor.watched | direction)
        except OSError as error:
            if direction == READ:
                descriptor._reader = None
            else:
                descriptor._writer = None
            if not isinstance(error, PermissionError):
                raise
            event.trigger()  # a regular file cannot be polled: it is always ready


def _by_number(fd: int, driver: Driver) -> Descriptor:
    found = driver.watched.get(fd)
    if found is None:
        return Number(fd)
    assert isinstance(found, Descriptor)
    reader, writer = found._reader, found._writer
    if not found.kept and not (reader and reader.live) and not (writer and writer.live):
        # Left by a wait that was forgotten: the number may mean another file by now.
        driver.watch(found, 0)
    return found


def _descriptor_busy(
    descriptor: Descriptor, direction: str, event: Event[()]
) -> DescriptorBusyError:
    return DescriptorBusyError(
        f"descriptor {descriptor.fd} is waited on for {direction} already, by the event made at"
        f" {event.site}; one event a direction: wait in one place and pass the news on"
    )


# -- run ---------------------------------------------------------------------------------------


class _Run:
    """What one call of `run` waits for."""

    def __init__(self) -> None:
        self.outstanding = 0
        self.error: BaseException | None = None

    def ended(self, error: BaseException | None) -> None:
        self.outstanding -= 1
        self.error = self.error or error
        if (self.outstanding <= 0 or self.error is not None) and active is not None:
            active.stop()

    def turn(self) -> bool:
        """Resume runnable closures; whether some are left."""
        more = closures.drain()
        if (
            not (more or timers or active is None or active.watched)
            and self.outstanding > 0
            # Threads and asyncio tasks may trigger events that Tame knows nothing of.
            and not _thread._count()
            and not active.has_foreign_work()
        ):
            self.ended(DeadlockError(_listing("no event can ever happen any more, yet")))
        return more


def run(f: Callable[..., None], *args: Any, driver: str | None = None) -> None:
    """Call the tamed function `f` and dispatch events until its closure has ended.

    An exception that ends it comes out of here.  Closures that are still blocked then are named
    in a `BlockedWarning` and closed, so that their ``finally`` blocks run.  Raises
    `DeadlockError` when the closure can never end, because nothing is left that could trigger an
    event (an asyncio task could; a bare callback on the asyncio loop is not seen), and `LoopError`
    inside another `run`.

    `driver` is ``"uvloop"``, ``"asyncio"`` or ``"epoll"``; by default the environment's
    ``TAME_DRIVER``, else uvloop, else asyncio where uvloop is not installed.
    """
    if active is not None:
        raise LoopError("a loop runs in this process already: call the tamed function as it is")
    this_run = _Run()
    opened = make_driver(driver, this_run.turn, _fire_timers)
    _use(opened, this_run.ended)
    try:
        started = closures.started = []
        try:
            f(*args)
        finally:
            closures.started = None
        this_run.outstanding = len(started)
        del started
        if this_run.outstanding:
            opened.run()
        if this_run.error is not None:
            raise this_run.error
        if closures.alive:
            warnings.warn(_listing("run() ends while"), BlockedWarning, stacklevel=2)
    finally:
        this_run.error = None  # or its traceback would hold this frame in a cycle
        _close(opened)


def _use(opened: Driver | None, on_end: Callable[[BaseException | None], None]) -> None:
    global active
    active = opened
    closures.root_ended = on_end
    closures.wake_loop = closures.no_loop if opened is None else _wake


def _wake() -> None:
    closures.asleep = False
    if active is not None:
        active.wake()


def _listing(head: str) -> str:
    lines = [str(entry) for entry in closures.blocked()]
    others = len(closures.alive) - len(lines)
    lines = lines[:20] + (["…"] if len(lines) > 20 else [])
    if others:
        lines.append(f"{others} of them can go on")
    count = len(closures.alive)
    are = "closure is" if count == 1 else "closures are"
    return "\n  ".join([f"{head} {count} {are} still blocked:", *lines])


def _close(opened: Driver) -> None:
    """Close what is still alive, so that its ``finally`` blocks run, and then the driver."""
    _use(opened, closures.no_run)
    while closures.alive:
        closure = closures.alive.pop()
        closure.wait.waiter = None
        try:
            closure.body.close()
        except Exception as error:
            closures.report(error, f"{closure.code.co_qualname} failed as run() closed it")
    closures.runnable.clear()
    timers.clear()
    for descriptor in list(opened.watched.values()):
        opened.watch(descriptor, 0)
    opened.close()
    _use(None, closures.no_run)
