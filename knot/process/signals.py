"""What the process is told by signals, as a descriptor to wait for.

The handlers only write to that descriptor: an exception raised in one could come up inside a
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
"""Stop, but end no connection that its client may still use."""


class Signals:
    """Readable when there is something to `take`."""

    def __init__(self, actions: Mapping[int, Callable[[], object]] | None = None) -> None:
        """`actions` are what signals ask for that are no reason to stop."""
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.gently = False
        """Whether the reason to stop was `FINISH`."""
        self._told: deque[int] = deque()
        self._actions = dict(actions or {})
        self._installed: tuple[int, ...] = ()

    def add(self, number: int, action: Callable[[], object]) -> None:
        """One more; before `install`."""
        self._actions[number] = action

    def install(self) -> None:
        """Have the process's signals handled here; only its main thread may do so."""
        self._installed = (*STOP, FINISH, *self._actions)
        for number in self._installed:
            signal.signal(number, lambda number, _: self.tell(number))
        for number in starting.pending:
            if number in self._installed:
                self.tell(number)
        starting.pending.clear()

    def tell(self, number: int) -> None:
        self._told.append(number)
        os.eventfd_write(self.fd, 1)

    def take(self) -> bool:
        """Whether it is time to stop; what else was asked for is done here."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        while self._told:
            number = self._told.popleft()
            if number in self._actions:
                self._actions[number]()
            else:
                self.gently = number == FINISH
                if self._told:
                    os.eventfd_write(self.fd, 1)  # those are for the next time
                return True
        return False

    def close(self) -> None:
        """The end has begun, and there is nothing left that a signal could end."""
        for number in self._installed:
            signal.signal(number, signal.SIG_IGN)
        os.close(self.fd)
