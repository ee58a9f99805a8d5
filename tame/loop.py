"""The loop: `run`, and the two primitive events, time and descriptors (paper, Figure 2).

One loop runs in a process at a time.  It turns what a driver reports into triggers and then lets
the runnable closures go on.  Timers stand in one heap here, whatever the driver; a driver only
ever has one alarm.
"""

from __future__ import annotations

import errno
import gc
import heapq
import itertools
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from time import monotonic
from typing import Any, Protocol, TypeVar

from tame import closure as closures
from tame.drivers import READ, WRITE, Driver, MakeDriver, make_driver
from tame.errors import (
    BlockedWarning,
    DeadlockError,
    DescriptorBusyError,
    EventDroppedError,
    LoopError,
)
from tame.event import Event

active: Driver | None = None  # while `run` runs


# -- time --------------------------------------------------------------------------------------

Timer = tuple[float, int, Event[()]]
timers: list[Timer] = []
timer_order = itertools.count()
sweep_at = 1024


def now() -> float:
    """The time in seconds by the clock that timers go by: the monotonic one, or a virtual one."""
    return closures.clock()


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
    entry = (closures.clock() + seconds, next(timer_order), event)
    heapq.heappush(timers, entry)
    if timers[0] is entry:
        active.alarm(entry[0])


def _fire_timers() -> None:
    now = closures.clock()
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

    __slots__ = ("fd", "reader", "watched", "writer")

    kept = True

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.watched = 0
        self.reader: Event[()] | None = None
        self.writer: Event[()] | None = None

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
            waiting = [event for event in (self.reader, self.writer) if event is not None]
            self.reader = self.writer = None
            os.close(fd)
            for event in waiting:
                if event.live:
                    why = f"descriptor {fd}, which the event made at {event.site} waited for"
                    event.lose(EventDroppedError(f"{why}, was closed"))

    def ready(self, directions: int) -> None:
        """The driver's call: trigger who waits, and drop the directions nobody waits for."""
        closures.asleep = False
        unwanted = 0
        if directions & READ:
            event = self.reader
            if event is not None:
                self.reader = None
                if event._rendezvous is not None:  # spent by somebody else, perhaps
                    event.trigger()
            if event is None or not self.kept:
                unwanted = READ
        if directions & WRITE:
            event = self.writer
            if event is not None:
                self.writer = None
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
    if isinstance(fd, Descriptor):
        descriptor = fd
    else:
        descriptor = _by_number(fd if isinstance(fd, int) else fd.fileno(), active)
    if descriptor.fd < 0:
        raise OSError(errno.EBADF, "the descriptor is closed")
    if direction == READ:
        if descriptor.reader is not None and descriptor.reader.live:
            raise _descriptor_busy(descriptor, "READ", descriptor.reader)
        descriptor.reader = event
    elif direction == WRITE:
        if descriptor.writer is not None and descriptor.writer.live:
            raise _descriptor_busy(descriptor, "WRITE", descriptor.writer)
        descriptor.writer = event
    else:
        raise ValueError(f"wait_on_fd() waits for READ or WRITE, not {direction!r}")
    if not descriptor.watched & direction:
        try:
            if not descriptor.watched and descriptor.fd in active.watched:
                # The number was another file's, which was closed behind our back.
                active.watch(active.watched[descriptor.fd], 0)
            active.watch(descriptor, descriptor.watched | direction)
        except OSError as error:
            if direction == READ:
                descriptor.reader = None
            else:
                descriptor.writer = None
            if not isinstance(error, PermissionError):
                raise
            event.trigger()  # a regular file cannot be polled: it is always ready


def _by_number(fd: int, driver: Driver) -> Descriptor:
    found = driver.watched.get(fd)
    if found is None:
        return Number(fd)
    assert isinstance(found, Descriptor)
    reader, writer = found.reader, found.writer
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
        self.hope: Event[()] | None = None  # an event that was still to happen when last looked

    def ended(self, error: BaseException | None) -> None:
        """A closure that `run` waits for has ended, or one was ended by what ends a program."""
        self.outstanding -= 1
        if error is not None:
            self.fail(error)
        elif self.outstanding == 0 and active is not None:
            active.stop()

    def fail(self, error: BaseException) -> None:
        """End `run` with `error`; of several with the first, but a KeyboardInterrupt before all."""
        other: BaseException | None = error
        if self.error is None or not isinstance(error, Exception):
            self.error, other = error, self.error
        if other is not None:
            closures.report(other, "run() ended with another exception than this one")
        if active is not None:
            active.stop()

    def turn(self) -> bool:
        """Resume runnable closures; whether some are left."""
        more = closures.drain()
        if not more and (self.hope is None or not self.hope.live):
            self.hope = _next_hope()
            if self.hope is None and self.outstanding > 0 and self.error is None:
                return self.despair()
        return more

    def despair(self) -> bool:
        """Nothing that the loop knows can trigger an event any more."""
        assert active is not None
        if active.has_foreign_work():
            return False
        gc.collect()  # a dropped event in a cycle is not dropped before
        if closures.runnable:
            return True
        self.fail(DeadlockError(listing("no event can ever happen any more, yet")))
        return False


FEW = 64
"""How many timers and descriptors are searched for an event; with more, a program is not stuck."""


def _next_hope() -> Event[()] | None:
    """A live event that a timer or a descriptor will trigger."""
    assert active is not None
    if len(timers) > FEW or len(active.watched) > FEW:
        return Event()
    for entry in timers:
        if entry[2].live:
            return entry[2]
    for descriptor in active.watched.values():
        for event in (descriptor.reader, descriptor.writer):
            if event is not None and event.live:
                return event
    return None


def run(f: Callable[..., None], *args: Any, driver: str | MakeDriver | None = None) -> None:
    """Call the tamed function `f` and dispatch events until its closure has ended.

    An exception that ends it comes out of here.  Closures that are still blocked then are named
    in a `BlockedWarning` and closed, so that their ``finally`` blocks run.  Raises
    `DeadlockError` when the closure can never end, because nothing is left that could trigger an
    event (an asyncio task could; a bare callback on the asyncio loop is not seen), and `LoopError`
    inside another `run`.

    `driver` is ``"uvloop"``, ``"asyncio"`` or ``"epoll"``; by default the environment's
    ``TAME_DRIVER``, else uvloop, else asyncio where uvloop is not installed.  With ``"virtual"``
    nobody waits for timers (`tame.testing.virtual`); it may also be a function that makes a driver.
    """
    asyncio = sys.modules.get("asyncio")
    if active is None and asyncio is not None and asyncio._get_running_loop() is not None:
        raise LoopError(
            "an asyncio loop runs in this thread already: call run() outside of it, or"
            " await tame.aio.run_inside(f)"
        )
    with running(partial(make_driver, driver), f, args) as opened:
        if opened is not None:
            opened.run()


D = TypeVar("D", bound=Driver)


@contextmanager
def running(
    make: Callable[[Callable[[], bool], Callable[[], None]], D],
    f: Callable[..., None],
    args: tuple[Any, ...],
) -> Iterator[D | None]:
    """Call `f(*args)`; the block lets the driver run until it is told to stop, and gets None if
    there is nothing to wait for."""
    if active is not None:
        raise LoopError("a loop runs in this process already: call the tamed function as it is")
    this_run = _Run()
    turn: Callable[[], bool] = this_run.turn
    watched: AbstractContextManager[object] = nullcontext()
    if os.environ.get("TAME_DEBUG") == "1":
        from tame.tools.seeing import Watchdog

        watched = watchdog = Watchdog()
        turn = watchdog.turn(turn)
    with watched:
        yield from _running(this_run, make(turn, _fire_timers), f, args)


def _running(
    this_run: _Run, opened: D, f: Callable[..., None], args: tuple[Any, ...]
) -> Iterator[D | None]:
    _use(opened, this_run.ended)
    try:
        started = closures.started = []
        try:
            result: object = f(*args)  # type: ignore[func-returns-value]
        finally:
            closures.started = None
        if result is not None:
            raise TypeError(f"run() calls a tamed function, which returns None, and not {result!r}")
        this_run.outstanding = len(started)
        del started
        yield opened if this_run.outstanding else None
        if this_run.error is not None:
            raise this_run.error
        if closures.alive:
            warnings.warn(listing("run() ends while"), BlockedWarning, stacklevel=5)
    finally:
        this_run.error = None  # or its traceback would hold this frame in a cycle
        _close(opened)


def _use(opened: Driver | None, on_end: Callable[[BaseException | None], None]) -> None:
    global active
    active = opened
    closures.asleep = True
    closures.root_ended = on_end
    closures.wake_loop = closures.no_loop if opened is None else _wake
    closures.clock = monotonic if opened is None else opened.clock


def _wake() -> None:
    closures.asleep = False
    if active is not None:
        active.wake()


def listing(head: str) -> str:
    lines = [str(entry) for entry in closures.blocked()]
    others = len(closures.alive) - len(lines)
    lines = lines[:20] + (["…"] if len(lines) > 20 else [])
    if others:
        lines.append(f"{others} of them can go on")
    count = len(closures.alive)
    are = "closure is" if count == 1 else "closures are"
    return "\n  ".join([f"{head} {count} {are} still blocked:", *lines])


def _close(opened: Driver) -> None:
    """Close what is still alive, so that its ``finally`` blocks run, and then the driver.

    The last that blocked is closed first.  Whatever goes wrong, the loop is gone afterwards.
    """
    global sweep_at
    _use(opened, closures.no_run)
    closures.closing = True
    try:
        _close_closures()
    finally:
        closures.closing = False
        closures.runnable.clear()
        timers.clear()
        sweep_at = 1024
        try:
            for descriptor in list(opened.watched.values()):
                opened.watch(descriptor, 0)
                descriptor.reader = descriptor.writer = None
            opened.alarm(None)
            opened.close()
        finally:
            _use(None, closures.no_run)


def _close_closures() -> None:
    interrupt: BaseException | None = None
    while closures.alive:
        closure, _ = closures.alive.popitem()
        closure.wait.waiter = None
        try:
            closure.body.close()
        except Exception as error:
            closures.report(error, f"{closure.code.co_qualname} failed as run() closed it")
        except BaseException as error:  # a second Ctrl-C: the others are closed all the same
            interrupt = interrupt or error
    if interrupt is not None:
        try:
            raise interrupt
        finally:
            del interrupt
