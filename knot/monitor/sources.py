"""Where the admin address gets its figures: from this process, or from a supervisor's workers.

Nothing here knows HTTP or how figures are shown.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from knot.models.server import Server
from knot.monitor import blocked
from knot.monitor.metrics import Counter, Counts, Shared
from knot.process import control, memory
from tame import Event, mkevent, tamed, tvars, twait

if TYPE_CHECKING:
    from knot.process.supervisor import Supervisor  # which a single process does not load
    from knot.process.worker_process import SharedCounts


class Source(Protocol):
    """One process that serves, or several."""

    ended: Counts
    """The sum over the processes that have ended."""

    @property
    def starts(self) -> Mapping[str, int]:
        """Workers that have become ready, by the reason to start them."""

    def counts(self) -> Mapping[int, Counts]:
        """The counts of each process, by its id."""

    def memory(self, pid: int) -> int:
        """Resident bytes of one of them."""

    def is_ready(self) -> bool:
        """Whether every process serves, has everything that it is to serve, and goes on."""

    def refresh(self, done: Event[()]) -> None:
        """Bring the counts up to date, as far as that is possible soon; then trigger `done`."""

    def waiting(self, done: Event[str]) -> None:
        """Trigger `done` with a list of what every call waits for."""


class SingleProcess:
    """A process without a supervisor."""

    def __init__(self, server: Server, counter: Counter) -> None:
        self.ended = Counts()
        self.starts: Mapping[str, int] = {}
        self._server = server
        self._counter = counter
        # The sandbox does not allow opening it later.
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def counts(self) -> Mapping[int, Counts]:
        return {os.getpid(): self._counter.read()}

    def memory(self, pid: int) -> int:
        return memory.resident(os.pread(self._statm, 100, 0))

    def is_ready(self) -> bool:
        return not self._server.stopping and self._server.has_all()

    def refresh(self, done: Event[()]) -> None:
        done.trigger()

    def waiting(self, done: Event[str]) -> None:
        done.trigger(blocked.listing(f"process {os.getpid()}"))


class Workers:
    """The workers of a supervisor, whose `knot.process.worker_process.Monitor` this is."""

    def __init__(self, serve: Callable[[Source], object]) -> None:
        """`serve` is called with this source once the loop runs."""
        self.ended = Counts()
        self._serve = serve
        self._supervisor: Supervisor | None = None

    # As the supervisor's monitor

    def start(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._serve(self)

    def new_counts(self) -> Shared:
        return Shared.new()

    def release(self, counts: SharedCounts) -> None:
        last: Counts = counts.read()
        last.end()
        self.ended.add(last)
        counts.close()

    # As a source

    @property
    def supervisor(self) -> Supervisor:
        assert self._supervisor is not None
        return self._supervisor

    @property
    def starts(self) -> Mapping[str, int]:
        return self.supervisor.starts

    def counts(self) -> Mapping[int, Counts]:
        workers = sorted(self.supervisor.workers, key=lambda worker: worker.pid)
        return {worker.pid: worker.counts.read() for worker in workers if worker.counts}

    def memory(self, pid: int) -> int:
        return memory.resident_of(pid)

    def is_ready(self) -> bool:
        return self.supervisor.is_ready()

    @tamed
    def refresh(self, done: Event[()]) -> None:
        with tvars:
            answers: dict[int, str | None]
        with twait:
            self.supervisor.ask(control.COUNT, mkevent(answers))
        done.trigger()

    @tamed
    def waiting(self, done: Event[str]) -> None:
        with tvars:
            answers: dict[int, str | None]
        with twait:
            self.supervisor.ask(control.WAITING, mkevent(answers))
        done.trigger(
            "\n\n".join(
                f"worker {pid} does not answer" if answer is None else answer
                for pid, answer in answers.items()
            )
        )
