"""What a supervisor hands to a worker, and how a process finds out that it is one.

Both sides use this module; `knot.process.supervisor` starts the workers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WORKER: Final = "KNOT_WORKER"
"""The environment variable that carries a `WorkerHandoff`."""

READY: Final = b"1"


@dataclass(frozen=True)
class WorkerHandoff:
    """The descriptors of a worker."""

    supervisor: int
    """The control channel: the worker reports here that it is ready, then answers questions."""
    counts: int
    """Shared memory for its counts; -1 if nothing reads them."""
    listeners: Sequence[int]
    """Sockets that serve the site."""
    redirects: Sequence[int] = ()
    """Sockets whose clients are redirected to it."""
    number: int = 0
    """The number of this worker; worker 0 prints the warnings that concern all of them."""

    @property
    def fds(self) -> list[int]:
        own = [self.supervisor, self.counts]
        return [fd for fd in (*own, *self.listeners, *self.redirects) if fd >= 0]

    def to_environment(self) -> dict[str, str]:
        """The variable that `from_environment` reads."""
        groups = [[self.number, self.supervisor, self.counts], self.listeners, self.redirects]
        return {WORKER: ";".join(",".join(map(str, group)) for group in groups)}

    @classmethod
    def from_environment(cls) -> WorkerHandoff | None:
        """What this process was handed; None if it is not a worker."""
        text = os.environ.pop(WORKER, "")
        if not text:
            return None
        (number, supervisor, counts), listeners, redirects = (
            [int(fd) for fd in fds.split(",") if fd] for fds in text.split(";")
        )
        for fd in (supervisor, counts):
            if fd >= 0:
                os.set_inheritable(fd, False)
        return cls(supervisor, counts, listeners, redirects, number)

    def report_ready(self) -> None:
        os.write(self.supervisor, READY)
