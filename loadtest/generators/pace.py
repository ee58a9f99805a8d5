"""A schedule of requests at a constant rate, and the clock that keeps it.

epoll waits for whole milliseconds, in which a fast server answers ten times: requests would be sent
in bunches, and the time they wait for each other would count as the server's latency.  A timer of
the kernel with a descriptor (timerfd_create(2)) is accurate to about 50 µs.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from time import monotonic
from typing import Final

from tame import Descriptor

MONOTONIC: Final = 1
ABSOLUTE: Final = 1
"""CLOCK_MONOTONIC, the clock of `time.monotonic`, and TFD_TIMER_ABSTIME."""

MIN_INTERVAL: Final = 100e-6
"""Seconds between two ticks; at higher rates several requests are due at each."""


class Schedule:
    """The n-th request is due n/rate seconds after the start, whatever became of earlier ones."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.began = 0.0
        self.taken = 0
        self.ends = 0.0  # nothing is due before `begin`

    def begin(self, now: float, seconds: float) -> None:
        self.began = now
        self.ends = now + seconds

    def take(self, now: float) -> float | None:
        """Take the next request, if it is due by now: the time at which it was due."""
        due = self.began + self.taken / self.rate
        if due > now or due >= self.ends:
            return None
        self.taken += 1
        return due

    @property
    def over(self) -> bool:
        """True if every request has been taken."""
        return self.began + self.taken / self.rate >= self.ends


class Ticks(Descriptor):
    """A descriptor that is readable when a request is due, at most once in `MIN_INTERVAL`.

    Call `clear` each time.
    """

    __slots__ = ()

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(checked(libc.timerfd_create(MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)))
        interval = max(1 / schedule.rate, MIN_INTERVAL)
        spec = (ctypes.c_long * 4)(*parts(interval), *parts(schedule.began + interval))
        checked(libc.timerfd_settime(self.fd, ABSOLUTE, spec, None))

    def clear(self) -> float:
        """Make it unreadable until the next tick; the result is the time."""
        with suppress(BlockingIOError):
            os.read(self.fd, 8)
        return monotonic()


def parts(seconds: float) -> tuple[int, int]:
    """Whole seconds and nanoseconds, as in struct timespec."""
    return divmod(round(seconds * 1e9), 10**9)


libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
