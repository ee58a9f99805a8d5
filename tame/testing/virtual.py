"""Virtual time: a driver whose clock jumps to the next timer when nothing else can happen.

It is for tests: an hour of time-outs takes no time, and each comes exactly when it is due.
Descriptors are real, but the driver does not wait for them while a timer is set.  Work of other
processes and threads takes no virtual time, so do not use this driver for programs that race a
timer against such work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tame.drivers import EpollDriver

MAX_TURNS: Final = 1_000
"""The number of turns after which time passes even if closures keep each other runnable, so that
they cannot keep timers from firing."""


class VirtualDriver(EpollDriver):
    """The epoll driver with a virtual clock, which starts at 0."""

    name = "virtual"

    def __init__(self, on_turn: Callable[[], bool], on_alarm: Callable[[], None]) -> None:
        super().__init__(on_turn, on_alarm)
        self.time = 0.0

    def clock(self) -> float:
        return self.time

    def run(self) -> None:
        self._running = True
        more = self._on_turn()
        turns = 0
        while self._running:
            if more and turns < MAX_TURNS:
                turns += 1
                self.report(0)
            else:
                turns = 0
                self.advance()
            if self._alarm is not None and self._alarm <= self.time:
                self._alarm = None
                self._on_alarm()
            more = self._on_turn()

    def advance(self) -> None:
        """Wait for descriptors, or move the clock to the alarm if none is ready."""
        if self._alarm is None:
            self.report(None)
        elif not self.report(0):
            self.time = max(self.time, self._alarm)
