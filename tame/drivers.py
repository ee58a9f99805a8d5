"""Drivers: the layer between the loop and the operating system.

A driver watches descriptors, has one alarm, can be woken, and runs.  It triggers no events and
knows no closures: it calls back.  Programs choose between three.  `AsyncioDriver` runs on uvloop or
on the standard library's asyncio; `EpollDriver` uses `select.epoll` alone and imports neither,
which saves a process the memory of both.  `make bench-tame` compares them.  A fourth, in
`testing/virtual.py`, is for tests: its time passes at once.
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
MAX_SLEEP: Final = 86_400.0
"""The longest sleep of a driver in seconds: the system calls accept no more than 24 days."""

MAX_REPORTED: Final = 512
"""The most descriptors reported in a row before timers and closures get their turn."""

BROKEN: Final = select.EPOLLERR | select.EPOLLHUP


class Watched(Protocol):
    """A descriptor, as far as drivers know it."""

    fd: int
    watched: int
    """The directions that the driver reports: `READ`, `WRITE`, both, or 0 for none."""
    reader: Event[()] | None
    """The event that waits for it to become readable."""
    writer: Event[()] | None
    """The event that waits for it to become writable."""

    def ready(self, directions: int) -> None:
        """The driver calls this when the descriptor is ready in `directions`."""


class Driver(Protocol):
    """The interface of all drivers."""

    name: str
    watched: dict[int, Watched]
    """The descriptors that the driver reports on, by number."""

    def clock(self) -> float:
        """The time in seconds that `alarm` uses."""

    def watch(self, descriptor: Watched, directions: int) -> None:
        """From now on report exactly `directions` of the descriptor; 0 for none.

        Raises `OSError` if the kernel cannot watch it; with 0 it never raises.
        """

    def alarm(self, when: float | None) -> None:
        """Call `on_alarm` once when the clock reaches `when`, or earlier if that is far off.

        Replaces the previous alarm; None cancels it.
        """

    def wake(self) -> None:
        """Call `on_turn` soon.  May be called from a signal handler, or from a finalizer on another
        thread."""

    def run(self) -> None:
        """Dispatch until `stop` is called."""

    def stop(self) -> None: ...

    def has_foreign_work(self) -> bool:
        """Whether code outside Tame may still cause something to happen on this loop."""

    def close(self) -> None: ...


MakeDriver = Callable[[Callable[[], bool], Callable[[], None]], Driver]
"""Makes a driver from `on_turn`, which resumes closures and returns whether some are left, and
`on_alarm`."""


class Poll:
    """The descriptors of a driver, in an epoll of their own.

    The asyncio drivers have one as well, and asyncio watches only that: `add_reader` would cost a
    handle and 640 bytes per descriptor, and would resume closures one by one.
    """

    clock = staticmethod(monotonic)

    def __init__(self) -> None:
        self.watched: dict[int, Watched] = {}
        self._epoll = select.epoll()

    def watch(self, descriptor: Watched, directions: int) -> None:
        fd = descriptor.fd
        if not directions:
            if self.watched.pop(fd, None) is not None:
                with suppress(OSError):  # it was closed, so the kernel has unregistered it
                    self._epoll.unregister(fd)
        elif descriptor.watched:
            self._epoll.modify(fd, directions)
        else:
            self._epoll.register(fd, directions)
            self.watched[fd] = descriptor
        descriptor.watched = directions

    def report(self, timeout: float | None) -> list[tuple[int, int]]:
        """Wait up to `timeout` seconds, call `ready` of the descriptors that are ready, at most
        `MAX_REPORTED`, and return what the kernel reported."""
        watched = self.watched
        found = self._epoll.poll(timeout, MAX_REPORTED)
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
                timeout = min(max(0.0, self._alarm - monotonic()), MAX_SLEEP)
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
        self._turning = False  # whether a call of `_turn` is scheduled
        self._error: BaseException | None = None
        self.tasks = 0
        """Tasks whose outcome an event still waits for."""
        loop.add_reader(self._epoll.fileno(), self._descriptors)

    def _descriptors(self) -> None:
        try:
            self.report(0)
            if self._on_turn():
                self._schedule_turn()
        except BaseException as error:
            self._fail(error)

    def _turn(self) -> None:
        self._turning = False
        try:
            if self._on_turn():
                self._schedule_turn()
        except BaseException as error:
            self._fail(error)

    def _schedule_turn(self) -> None:
        """Schedule a turn unless one is scheduled: two at once would starve other callbacks when
        closures stay runnable."""
        if not self._turning:
            self._turning = True
            self.loop.call_soon(self._turn)

    def _fail(self, error: BaseException) -> None:
        """End `run` with `error`: asyncio would only log an exception in a callback."""
        self._error = error
        self.loop.stop()

    def alarm(self, when: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when is not None:
            delay = min(when - monotonic(), MAX_SLEEP)
            if delay <= 0:
                self._timer = self.loop.call_soon(self._ring)
            else:
                # uvloop rounds to milliseconds: round up, so that the alarm never comes early.
                self._timer = self.loop.call_later(math.ceil(delay * 1000) / 1000, self._ring)

    def _ring(self) -> None:
        self._timer = None
        try:
            self._on_alarm()
            if self._on_turn():
                self._schedule_turn()
        except BaseException as error:
            self._fail(error)

    def wake(self) -> None:
        if not self._turning:
            self._turning = True
            self.loop.call_soon_threadsafe(self._turn)

    def run(self) -> None:
        self._schedule_turn()
        self.loop.run_forever()
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame: a cycle

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
    """The driver called `name`; by default uvloop, or asyncio if uvloop is not installed."""
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
        raise ValueError(f"there is no driver {name!r}: choose one of {', '.join(DRIVERS)}")
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
