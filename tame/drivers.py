"""Drivers: what stands between the loop and the operating system.

A driver can watch descriptors, set one alarm, be woken, and run.  It triggers no events and knows
no closures: it calls back.  Three are for use.  `AsyncioDriver` is uvloop's and the standard
library's; `EpollDriver` stands on `select.epoll` alone and imports neither, which spares a process
the memory of both.  `make bench-tame` sets them side by side.  A fourth, in `virtual.py`, is for
tests: its time passes at once.
"""

from __future__ import annotations

import _thread
import math
import os
import select
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    import asyncio

    from tame.event import Event

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
LONGEST: Final = 86_400.0
"""Seconds that a driver sleeps at most: the system calls take no more than 24 days."""

MOST: Final = 512
"""Descriptors that are reported before timers and closures get their turn."""

BROKEN: Final = select.EPOLLERR | select.EPOLLHUP


class Watched(Protocol):
    """A descriptor as a driver sees it."""

    fd: int
    watched: int
    """The directions that the driver reports, `READ` or `WRITE` or both; 0 for none."""
    reader: Event[()] | None
    """Who waits for it to become readable."""
    writer: Event[()] | None

    def ready(self, directions: int) -> None:
        """To be called when the descriptor is ready in `directions`."""


class Driver(Protocol):
    """The small interface behind which the drivers stand."""

    name: str
    watched: dict[int, Watched]
    """The descriptors that it reports on, by number."""

    def clock(self) -> float:
        """The time in seconds, which `alarm` goes by."""

    def watch(self, descriptor: Watched, directions: int) -> None:
        """Report `directions` of the descriptor from now on, and nothing else; 0 for none.

        Raises `OSError` where the kernel cannot watch it; dropping never raises.
        """

    def alarm(self, when: float | None) -> None:
        """Call `on_alarm` once when its clock shows `when`, or earlier if that is far off;
        replaces the alarm set."""

    def wake(self) -> None:
        """Call `on_turn` soon; also from a signal handler or another thread's finalizer."""

    def run(self) -> None:
        """Dispatch until `stop` is called."""

    def stop(self) -> None: ...

    def has_foreign_work(self) -> bool:
        """Whether somebody other than Tame may still cause something on this loop."""

    def close(self) -> None: ...


MakeDriver = Callable[[Callable[[], bool], Callable[[], None]], Driver]
"""Of `on_turn`, which resumes closures and tells whether some are left, and `on_alarm`."""


class Poll:
    """The descriptors of a driver, in an epoll of their own.

    The drivers that stand on asyncio have one, too, and asyncio watches it: a poll of theirs
    would cost a handle and 640 bytes for each descriptor, and resume closures one by one.
    """

    clock = staticmethod(monotonic)

    def __init__(self) -> None:
        self.watched: dict[int, Watched] = {}
        self._epoll = select.epoll()

    def watch(self, descriptor: Watched, directions: int) -> None:
        fd = descriptor.fd
        if not directions:
            if self.watched.pop(fd, None) is not None:
                with suppress(OSError):  # closed behind our back: the kernel has dropped it
                    self._epoll.unregister(fd)
        elif descriptor.watched:
            self._epoll.modify(fd, directions)
        else:
            self._epoll.register(fd, directions)
            self.watched[fd] = descriptor
        descriptor.watched = directions

    def report(self, timeout: float | None) -> list[tuple[int, int]]:
        """Tell those descriptors that are ready, `MOST` at once, after at most so many seconds;
        what the kernel said."""
        watched = self.watched
        found = self._epoll.poll(timeout, MOST)
        for fd, mask in found:
            descriptor = watched.get(fd)
            if descriptor is not None:
                descriptor.ready(READ | WRITE if mask & BROKEN else mask)
        return found


class EpollDriver(Poll):
    """A bare loop on `select.epoll`: no asyncio, no uvloop."""

    name = "epoll"

    def __init__(self, on_turn: Callable[[], bool], on_alarm: Callable[[], None]) -> None:
        super().__init__()
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._waker, READ | select.EPOLLET)  # so it need not be read
        self._on_turn = on_turn
        self._on_alarm = on_alarm
        self._alarm: float | None = None
        self._running = False

    def alarm(self, when: float | None) -> None:
        self._alarm = when

    def wake(self) -> None:
        os.eventfd_write(self._waker, 1)

    def run(self) -> None:
        self._running = True
        more = self._on_turn()
        while self._running:
            if more:
                timeout: float | None = 0
            elif self._alarm is None:
                timeout = None
            else:
                timeout = min(max(0.0, self._alarm - monotonic()), LONGEST)
            self.report(timeout)
            if self._alarm is not None and self._alarm <= monotonic():
                self._alarm = None
                self._on_alarm()
            more = self._on_turn()

    def stop(self) -> None:
        self._running = False

    def has_foreign_work(self) -> bool:
        return False

    def close(self) -> None:
        self._epoll.close()
        os.close(self._waker)


class AsyncioDriver(Poll):
    """The loop of uvloop or of the standard library's asyncio."""

    def __init__(
        self,
        on_turn: Callable[[], bool],
        on_alarm: Callable[[], None],
        name: str,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__()
        self.name = name
        self.loop = loop
        self._on_turn = on_turn
        self._on_alarm = on_alarm
        self._timer: asyncio.Handle | None = None
        self._turning = False  # whether `_turn` is to be called already
        self._error: BaseException | None = None
        self.tasks = 0
        """Those that somebody waits for, and has not been told of."""
        loop.add_reader(self._epoll.fileno(), self._descriptors)

    def _descriptors(self) -> None:
        try:
            self.report(0)
            if self._on_turn():
                self._again()
        except BaseException as error:
            self._fail(error)

    def _turn(self) -> None:
        self._turning = False
        try:
            if self._on_turn():
                self._again()
        except BaseException as error:
            self._fail(error)

    def _again(self) -> None:
        """One turn more; never two at once, or closures that stay runnable would take over."""
        if not self._turning:
            self._turning = True
            self.loop.call_soon(self._turn)

    def _fail(self, error: BaseException) -> None:
        """End `run` with it: asyncio would log an exception of a callback and go on."""
        self._error = error
        self.loop.stop()

    def alarm(self, when: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when is not None:
            delay = min(when - monotonic(), LONGEST)
            if delay <= 0:
                self._timer = self.loop.call_soon(self._ring)
            else:
                # uvloop counts in whole milliseconds and rounds: up, or the alarm comes early.
                self._timer = self.loop.call_later(math.ceil(delay * 1000) / 1000, self._ring)

    def _ring(self) -> None:
        self._timer = None
        try:
            self._on_alarm()
            if self._on_turn():
                self._again()
        except BaseException as error:
            self._fail(error)

    def wake(self) -> None:
        if not self._turning:
            self._turning = True
            self.loop.call_soon_threadsafe(self._turn)

    def run(self) -> None:
        self._again()
        self.loop.run_forever()
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # or its traceback would hold it by this frame

    def stop(self) -> None:
        self.loop.stop()

    def has_foreign_work(self) -> bool:
        import asyncio

        # A thread may use `call_soon_threadsafe`.
        return bool(self.tasks or _thread._count() or asyncio.all_tasks(self.loop))

    def close(self) -> None:
        import asyncio

        try:
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self.loop.run_until_complete(asyncio.wait(tasks))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        finally:
            self.loop.remove_reader(self._epoll.fileno())
            self.loop.close()
            self._epoll.close()


DRIVERS: Final = ("uvloop", "asyncio", "epoll")


def make_driver(
    name: str | MakeDriver | None, on_turn: Callable[[], bool], on_alarm: Callable[[], None]
) -> Driver:
    """The driver called `name`; by default uvloop's, or asyncio's where uvloop is missing."""
    if callable(name):
        return name(on_turn, on_alarm)
    if name is None:
        name = os.environ.get("TAME_DRIVER") or None
    if name == "epoll":
        return EpollDriver(on_turn, on_alarm)
    if name == "asyncio":
        return _asyncio_driver(on_turn, on_alarm)
    if name == "virtual":
        from tame.testing.virtual import VirtualDriver

        return VirtualDriver(on_turn, on_alarm)
    if name not in (None, "uvloop"):
        raise ValueError(f"no driver is called {name!r}: choose one of {', '.join(DRIVERS)}")
    try:
        import uvloop
    except ImportError:
        if name is not None:
            raise
        return _asyncio_driver(on_turn, on_alarm)
    return AsyncioDriver(on_turn, on_alarm, "uvloop", uvloop.new_event_loop())


def _asyncio_driver(on_turn: Callable[[], bool], on_alarm: Callable[[], None]) -> Driver:
    import asyncio

    loop: Any = asyncio.new_event_loop()
    return AsyncioDriver(on_turn, on_alarm, "asyncio", loop)
