"""A worker as its supervisor sees it: a process with a control channel, and the slot that it takes.

What to do about a worker is decided in `knot.process.supervisor`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

from knot.process import control, spawn
from knot.process.control import ControlChannel
from knot.process.worker import WorkerHandoff
from tame import Descriptor

if TYPE_CHECKING:
    from knot.process.supervisor import Supervisor

MIN_DELAY: Final = 0.1
"""Seconds before a worker that has died is replaced, at first."""

MAX_MISSED: Final = 10
"""Heartbeats that a worker may miss before it is replaced.  They are counted rather than timed:
while the supervisor does not run either, as on a machine that sleeps, no worker has missed any."""


class SharedCounts(Protocol):
    """Memory that a worker writes its counts to."""

    fd: int

    def has_all(self) -> bool:
        """Whether everything that the worker is to serve was there a second ago."""

    def read(self) -> Any:
        """The counts, for the monitor."""

    def close(self) -> None: ...


class Monitor(Protocol):
    """What watches the workers, and changes nothing."""

    def start(self, supervisor: Supervisor) -> None:
        """Called once, when the loop runs."""

    def new_counts(self) -> SharedCounts:
        """Memory for a new worker.  Raises `OSError`."""

    def release(self, counts: SharedCounts) -> None:
        """Called when the worker has ended, or could not be started."""


class Worker:
    """A process, from its start to its end."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        redirects: Sequence[socket.socket] = (),
        number: int = 0,
        *,
        monitor: Monitor | None = None,
    ) -> None:
        """Start it.  Raises `OSError`."""
        with ExitStack() as undo:
            self.counts = None if monitor is None else monitor.new_counts()
            """Where it counts what it does, if anything reads that."""
            if monitor is not None and self.counts is not None:
                undo.callback(monitor.release, self.counts)
            own, other = control.pair()
            undo.enter_context(own)
            with other:
                handoff = WorkerHandoff(
                    other.fileno(),
                    -1 if self.counts is None else self.counts.fd,
                    [listener.fileno() for listener in listeners],
                    [listener.fileno() for listener in redirects],
                    number,
                )
                self.process = spawn.start(sys.argv[1:], handoff.fds, handoff.to_environment())
            undo.callback(self.process.wait)
            undo.callback(self.process.kill)
            self.end = Descriptor(os.pidfd_open(self.process.pid))
            """Readable when it has ended."""
            undo.pop_all()
        self.channel = ControlChannel(own.detach())
        """Readable when it is ready, or has ended before; then for questions."""
        self.began = monotonic()
        self.ready = False
        self.must_reopen = False
        """Whether to reopen its log, once it is ready."""
        self.killed = False
        """Whether it was sent SIGKILL; a process that waits for a disk ends only afterwards."""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_stuck(self) -> bool:
        """Whether its loop does not run."""
        return self.channel.missed > MAX_MISSED

    def send_signal(self, number: signal.Signals) -> None:
        self.killed = self.killed or number == signal.SIGKILL
        self.process.send_signal(number)

    def has_all(self) -> bool:
        """Whether everything that it is to serve was there a second ago."""
        return self.counts is None or self.counts.has_all()

    def close(self) -> None:
        """Release what belonged to the process, which has ended."""
        self.process.wait()
        self.end.close()
        self.channel.close()

    def fate(self) -> str:
        """How it ended."""
        status = self.process.wait()
        if status >= 0:
            return f"exited with status {status}"
        return f"was killed by {signal.Signals(-status).name}"


@dataclass
class WorkerSlot:
    """The place of one worker, which several processes take one after another."""

    listeners: Sequence[socket.socket]
    redirects: Sequence[socket.socket] = ()
    number: int = 0
    worker: Worker | None = None
    starting: bool = False
    replacing: bool = False
    """Whether a stuck worker is being replaced."""
    delay: float = MIN_DELAY
