"""What the process is told by signals, as a descriptor to wait for.

The handlers only write to that descriptor: an exception raised in one could come up inside a
finalizer, where Python drops it, and the signal would be lost.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

STOP: Final = (signal.SIGINT, signal.SIGTERM)
REOPEN: Final = signal.SIGUSR1


class Signals:
    """Readable when there is something to `take`."""

    def __init__(self, reopen: Callable[[], None] | None = None) -> None:
        """`reopen` is what SIGUSR1 asks for."""
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._told: deque[int] = deque()
        self._reopen = reopen
        self._installed = False

    def install(self) -> None:
        """Have the process's signals handled here; only its main thread may do so."""
        for number in (*STOP, REOPEN):
            signal.signal(number, lambda number, _: self.tell(number))
        self._installed = True

    def tell(self, number: int) -> None:
        self._told.append(number)
        os.eventfd_write(self.fd, 1)

    def take(self) -> bool:
        """Whether it is time to stop; what else was asked for is done here."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        while self._told:
            if self._told.popleft() != REOPEN:
                return True
            if self._reopen is not None:
                self._reopen()
        return False

    def close(self) -> None:
        """The end has begun, and there is nothing left that a signal could end."""
        for number in (*STOP, REOPEN) if self._installed else ():
            signal.signal(number, signal.SIG_IGN)
        os.close(self.fd)
