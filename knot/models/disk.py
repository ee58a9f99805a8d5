"""Threads for what would stop the loop: reading from a disk, listing a long directory."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final

from knot.models.connection import DISK_THREADS
from tame import READ, Descriptor, Event, mkevent, tamed, twait, wait_on_fd

PATIENCE: Final = 1.0
"""Seconds."""

log = logging.getLogger("knot")

Job = Callable[[], Any]


class Disk:
    """Does jobs on threads, which it starts when there are any, and triggers their events on the
    loop's."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Job, Event[Any]] | None] = SimpleQueue()
        self._done: deque[tuple[Event[Any], Any, BaseException | None]] = deque()
        self._threads: list[threading.Thread] = []
        self._under_way = 0
        self._bell = Descriptor(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))

    def do(self, job: Job, done: Event[Any]) -> None:
        """Trigger `done` with what `job` returns, or fail it with what it raises."""
        self._under_way += 1
        if self._under_way > len(self._threads) and len(self._threads) < DISK_THREADS:
            thread = threading.Thread(target=self._work, name="knot-disk", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # there are too many on this machine
                log.warning("cannot start a thread to wait for the disk: %s", error)
            else:
                self._threads.append(thread)
        self._jobs.put((job, done))
        if not self._threads:
            self._jobs.put(None)
            self._work()

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None:
            job, done = entry
            result: Any = None
            error: BaseException | None = None
            try:
                result = job()
            except Exception as caught:
                error = caught
            self._done.append((done, result, error))
            del entry, job, done, result, error  # an idle thread holds on to nothing
            if self._bell.fd >= 0:
                os.eventfd_write(self._bell.fd, 1)

    @tamed
    def listen(self) -> None:
        """Pass on what is done, for as long as the loop runs."""
        try:
            while True:
                with twait:
                    wait_on_fd(self._bell, READ, mkevent())
                os.eventfd_read(self._bell.fd)
                while self._done:
                    self._under_way -= 1
                    done, result, error = self._done.popleft()
                    if error is None:
                        done.trigger(result)
                    else:
                        done.fail(error)
        finally:
            self.close()

    def close(self) -> None:
        """End the threads; one whose disk does not answer is left to itself."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(PATIENCE)
        self._done.clear()
        self._bell.close()
