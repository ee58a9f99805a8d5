"""Signals as a descriptor to wait for.

The handlers only write to that descriptor.  If one raised an exception, that could happen inside a
finalizer, where Python drops it, and the signal would be lost.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from knot.process import starting

STOP: Final = (signal.SIGINT, signal.SIGTERM)
FINISH: Final = signal.SIGQUIT
"""Stop, but wait for every connection that its client may still use."""


class Signals:
    """The signals of this process; `fd` is readable when there is one to `take`."""

    def __init__(self, actions: Mapping[int, Callable[[], object]] | None = None) -> None:
        """`actions` are called for signals that do not stop the process."""
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.gently = False
        """Whether the process stops because of `FINISH`."""
        self._received: deque[int] = deque()
        self._actions = dict(actions or {})
        self._installed: tuple[int, ...] = ()

    def add(self, number: int, action: Callable[[], object]) -> None:
        """Add an action; before `install`."""
        self._actions[number] = action

    def install(self) -> None:
        """Handle the signals of this process; call it in the main thread."""
        self._installed = (*STOP, FINISH, *self._actions)
        for number in self._installed:
            signal.signal(number, lambda number, _: self.tell(number))
        for number in starting.pending:
            if number in self._installed:
                self.tell(number)
        starting.pending.clear()

    def tell(self, number: int) -> None:
        """Add a signal, as if the process had received it."""
        self._received.append(number)
        os.eventfd_write(self.fd, 1)

    def take(self) -> bool:
        """Call the actions of the signals that have arrived; whether it is time to stop."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        while self._received:
            number = self._received.popleft()
            if number in self._actions:
                self._actions[number]()
            else:
                self.gently = number == FINISH
                if self._received:
                    os.eventfd_write(self.fd, 1)  # the others are for the next call
                return True
        return False

    def close(self) -> None:
        """Ignore signals from now on: the process is about to end anyway."""
        for number in self._installed:
            signal.signal(number, signal.SIG_IGN)
        os.close(self.fd)
