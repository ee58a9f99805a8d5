"""Virtual time: a driver whose clock jumps to the next timer when nothing else can happen.

For tests: an hour of time-outs takes no time, and each comes exactly when it should.  Descriptors
are the real ones, but nobody waits for them while a timer is set: what another process or thread
does takes no virtual time, so a program whose timers must lose against such a one is no program
for this driver.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tame.drivers import EpollDriver

TURNS: Final = 1_000
"""Turns in which closures keep each other runnable before time passes all the same, so that they
cannot keep timers from coming."""


class VirtualDriver(EpollDriver):
    """The bare loop on `select.epoll`, by a clock that shows 0 when it starts."""

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
            if more and turns < TURNS:
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
        """Let the next thing happen, at the time when it does."""
        if self._alarm is None:
            self.report(None)
        elif not self.report(0):
            self.time = max(self.time, self._alarm)
