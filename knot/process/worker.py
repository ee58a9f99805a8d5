"""How a process knows that it is one of several workers; `knot.process.supervisor` starts them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WORKER: Final = "KNOT_WORKER"
"""The environment variable with a worker's descriptors."""

READY: Final = b"1"


@dataclass(frozen=True)
class WorkerHandoff:
    """Where a worker listens, and where it says that it is ready, and what it does."""

    supervisor: int
    """Where it says that it is ready, and may be asked afterwards."""
    counts: int
    """Memory for what it counts; -1 if nobody wants to know."""
    listeners: Sequence[int]
    """Of the site."""
    redirects: Sequence[int] = ()
    """Of those clients that are sent to it."""
    number: int = 0
    """Of this worker; the first one says what is true of all."""

    def is_ready(self) -> None:
        os.write(self.supervisor, READY)


def post() -> WorkerHandoff | None:
    """This process's own, if it is a worker."""
    said = os.environ.pop(WORKER, "")
    if not said:
        return None
    (number, supervisor, counts), listeners, redirects = (
        [int(fd) for fd in fds.split(",") if fd] for fds in said.split(";")
    )
    found = WorkerHandoff(supervisor, counts, listeners, redirects, number)
    for fd in (found.supervisor, found.counts):
        if fd >= 0:
            os.set_inheritable(fd, False)
    return found
