"""The loop: `run`, and the two primitive events, time and descriptors (paper, Figure 2).

A process runs one loop at a time.  It turns what a driver reports into triggers and then resumes
the runnable closures.  All timers are in one heap here, whatever the driver; a driver has a single
alarm.
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

active: Driver | None = None  # the driver of the current `run`


# -- time --------------------------------------------------------------------------------------

Timer = tuple[float, int, Event[()]]
timers: list[Timer] = []
timer_order = itertools.count()

FIRST_SWEEP = 1024
"""How many timers are kept before those of forgotten events are removed."""

sweep_at = FIRST_SWEEP


def now() -> float:
    """The time in seconds on the clock that timers use: the monotonic clock, or a virtual one."""
    return closures.clock()


def timer(seconds: float, event: Event[()]) -> None:
    """Trigger `event` after `seconds` (paper, Figure 2); a negative number counts as zero.

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
        # A forgotten event leaves its timer behind.  A sweep each time the heap has doubled
        # costs a constant amount per timer.
        timers[:] = [entry for entry in timers if entry[2].live]
        heapq.heapify(timers)
        sweep_at = max(FIRST_SWEEP, 2 * len(timers))
    entry = (closures.clock() + seconds, next(timer_order), event)
    heapq.heappush(timers, entry)
    if timers[0] is entry:
        active.alarm(entry[0])


def _fire_timers() -> None:
    now = closures.clock()
    closures.asleep = False
    while timers and timers[0][0] <= now:
        event = heapq.heappop(timers)[2]
        if event._rendezvous is not None:  # it may have been triggered by other code
            event.trigger()
    while timers and not timers[0][2].live:
        heapq.heappop(timers)
    if timers and active is not None:
        active.alarm(timers[0][0])


# -- descriptors -------------------------------------------------------------------------------


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class Descriptor:
    """A file descriptor that is only ever closed by its `close` method.

    That promise saves a system call or two per wait: a `Descriptor` stays registered with the
    kernel from one wait to the next, and is unregistered only when it becomes ready while nothing
    waits for it.  A bare number cannot stay registered, because the program may close it and the
    kernel may then give the number to another file.
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
        """Close the descriptor; a closure that still waits for it gets `EventDroppedError`.

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
        """Called by the driver: trigger the events of `directions`, and stop watching directions
        that nothing waits for."""
        closures.asleep = False
        unwanted = 0
        if directions & READ:
            event = self.reader
            if event is not None:
                self.reader = None
                if event._rendezvous is not None:  # it may have been triggered by other code
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

    `fd` is a `Descriptor`, a number, or any object with a ``fileno`` method.  An error or a hang-up
    counts as ready, so that the next call on the descriptor reports it; a regular file is always
    ready.  Raises `DescriptorBusyError` if another event waits for the same direction, `OSError`
    for a descriptor that is not open, `TypeError` for an event with slots, `LoopError` outside
    `run`.
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
        earlier = descriptor.reader
    elif direction == WRITE:
        earlier = descriptor.writer
    else:
        raise ValueError(f"wait_on_fd() waits for READ or WRITE, not {direction!r}")
    if earlier is not None and earlier.live:
        raise _descriptor_busy(descriptor, direction, earlier)
    if not descriptor.watched & direction and not _watch(descriptor, direction, active):
        event.trigger()  # a regular file is always ready
    elif direction == READ:
        descriptor.reader = event
    else:
        descriptor.writer = event


def _watch(descriptor: Descriptor, direction: int, driver: Driver) -> bool:
    """Have the driver watch `direction` as well; False for a file that cannot be polled."""
    if not descriptor.watched and descriptor.fd in driver.watched:
        # The number belonged to another file, which was closed without `Descriptor.close`.
        driver.watch(driver.watched[descriptor.fd], 0)
    try:
        driver.watch(descriptor, descriptor.watched | direction)
    except PermissionError:
        return False
    return True


def _by_number(fd: int, driver: Driver) -> Descriptor:
    found = driver.watched.get(fd)
    if found is None:
        return Number(fd)
    assert isinstance(found, Descriptor)
    reader, writer = found.reader, found.writer
    if not found.kept and not (reader and reader.live) and not (writer and writer.live):
        # A forgotten wait left it behind: the number may belong to another file by now.
        driver.watch(found, 0)
    return found


def _descriptor_busy(
    descriptor: Descriptor, direction: int, event: Event[()]
) -> DescriptorBusyError:
    name = "READ" if direction == READ else "WRITE"
    return DescriptorBusyError(
        f"descriptor {descriptor.fd} is already waited on for {name} by the event made at"
        f" {event.site}; each direction takes one event: wait in one place, and trigger other"
        " events from there"
    )


# -- run ---------------------------------------------------------------------------------------


class _Run:
    """What one call of `run` waits for."""

    def __init__(self) -> None:
        self.outstanding = 0
        self.error: BaseException | None = None
        self.expected: Event[()] | None = None  # an event that the loop was last seen to hold

    def ended(self, error: BaseException | None) -> None:
        """A closure that `run` waits for has ended, or any closure with a `KeyboardInterrupt` or
        `SystemExit`."""
        self.outstanding -= 1
        if error is not None:
            self.fail(error)
        elif self.outstanding == 0 and active is not None:
            active.stop()

    def fail(self, error: BaseException) -> None:
        """End `run` with `error`; of several errors the first counts, but a `KeyboardInterrupt` or
        `SystemExit` takes precedence."""
        other: BaseException | None = error
        if self.error is None or not isinstance(error, Exception):
            self.error, other = error, self.error
        if other is not None:
            closures.report(other, "run() raises a different exception than this one")
        if active is not None:
            active.stop()

    def turn(self) -> bool:
        """Resume runnable closures; return whether some are left."""
        more = closures.drain()
        if not more and (self.expected is None or not self.expected.live):
            self.expected = _next_event()
            if self.expected is None and self.outstanding > 0 and self.error is None:
                return self.check_deadlock()
        return more

    def check_deadlock(self) -> bool:
        """No timer and no descriptor will trigger an event: end `run`, unless something else may.

        Returns whether closures have become runnable.
        """
        assert active is not None
        if active.has_foreign_work():
            return False
        gc.collect()  # drops the events that only a reference cycle keeps
        if closures.runnable:
            return True
        self.fail(DeadlockError(blocked_message("no event can happen any more, but")))
        return False


MAX_SEARCHED = 64
"""How many timers and descriptors are searched for an event; with more, the search is not made
and the program is assumed to be able to continue."""


def _next_event() -> Event[()] | None:
    """A live event that a timer or a descriptor will trigger."""
    assert active is not None
    if len(timers) > MAX_SEARCHED or len(active.watched) > MAX_SEARCHED:
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

    An exception that ends the closure is raised here.  Closures that are still blocked by then are
    listed in a `BlockedWarning` and closed, so that their ``finally`` blocks run.  Raises
    `DeadlockError` when the closure can never end because nothing is left that could trigger an
    event (asyncio tasks count, bare callbacks on the asyncio loop do not), and `LoopError` inside
    another `run`.

    `driver` is ``"uvloop"``, ``"asyncio"``, ``"epoll"``, or ``"virtual"`` for virtual time
    (`tame.testing.virtual`); it may also be a function that makes a driver.  The default is the
    environment variable ``TAME_DRIVER``, then uvloop, then asyncio if uvloop is not installed.
    """
    asyncio = sys.modules.get("asyncio")
    if active is None and asyncio is not None and asyncio._get_running_loop() is not None:
        raise LoopError(
            "an asyncio loop is already running in this thread: call run() outside it, or"
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
    """Call `f(*args)`; the block runs the driver that it is given until the driver stops, or gets
    None if there is nothing to wait for."""
    if active is not None:
        raise LoopError(
            "a loop is already running in this process: call the tamed function directly"
        )
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
            raise TypeError(f"run() takes a tamed function, which returns None, not {result!r}")
        this_run.outstanding = len(started)
        del started
        yield opened if this_run.outstanding else None
        if this_run.error is not None:
            raise this_run.error
        if closures.alive:
            warnings.warn(blocked_message("run() has ended, but"), BlockedWarning, stacklevel=5)
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


def blocked_message(head: str) -> str:
    """`head`, and the list of the closures that are blocked."""
    lines = [str(entry) for entry in closures.blocked()]
    others = len(closures.alive) - len(lines)
    lines = lines[:20] + (["…"] if len(lines) > 20 else [])
    if others:
        lines.append(f"{others} of them can be resumed")
    count = len(closures.alive)
    are = "closure is" if count == 1 else "closures are"
    return "\n  ".join([f"{head} {count} {are} still blocked:", *lines])


def _close(opened: Driver) -> None:
    """Close the closures that are still alive, so that their ``finally`` blocks run, and then the
    driver.

    The closure that blocked last is closed first.  The loop ends whatever goes wrong.
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
        sweep_at = FIRST_SWEEP
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
            closures.report(error, f"{closure.code.co_qualname} failed while run() closed it")
        except BaseException as error:  # a second Ctrl-C must not leave the others open
            interrupt = interrupt or error
    if interrupt is not None:
        try:
            raise interrupt
        finally:
            del interrupt
