"""Threads beside the loop: for calls that block, and for code that waits in its thread.

`fork` is the paper's bridge from events to threads, and `wait_in_thread` the one back.  All
triggers happen on the loop's thread: a thread puts its messages into a queue, and a bell wakes the
loop.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Final, TypeVar

from tame import loop
from tame.adapters import into
from tame.drivers import READ
from tame.errors import LoopError
from tame.event import Event
from tame.language import mkevent, tamed, twait
from tame.loop import Descriptor, wait_on_fd
from tame.rendezvous import Rendezvous

T = TypeVar("T")

MAX_THREADS: Final = 16
"""The size of the pool that `fork` uses."""

JOIN_TIMEOUT: Final = 1.0
"""Seconds that the end of the loop waits for all threads of a pool together."""

Job = tuple[Event[Any], Callable[..., Any], tuple[Any, ...]]
Outcome = tuple[Event[Any], Any, BaseException | None]
Start = Callable[[Event[Any]], None]

log = logging.getLogger("tame")


class Pool:
    """Threads for calls that block, started when needed, up to a maximum.

    They end when no call is outstanding.  If the loop ends before that, calls that have not begun
    are discarded, and running ones are waited for, `JOIN_TIMEOUT` seconds in total.  A call that
    takes longer continues in a daemon thread, and its result is discarded.
    """

    def __init__(self, max_threads: int = MAX_THREADS, name: str = "tame") -> None:
        self._max_threads = max_threads
        self._name = name
        self._threads: ThreadSet | None = None

    def fork(self, event: Event[T], f: Callable[..., T], *args: Any) -> None:
        """Call `f(*args)` in a thread, and trigger `event` with its result, or fail it with its
        exception (even `SystemExit`), on the loop's thread.

        If `event` is forgotten, the call continues, and its result is discarded.  If no thread
        can be started at all, the call is made at once on the loop's thread.  Raises `LoopError`
        outside `run`.
        """
        if loop.active is None:
            raise LoopError("fork() needs a running loop: call it inside tame.run(f)")
        if self._threads is None:
            self._threads = ThreadSet(self._max_threads, self._name)
            self._listen(self._threads)
        self._threads.submit((event, f, args))

    @tamed
    def _listen(self, threads: ThreadSet) -> None:
        """Handle the messages of `threads` as long as calls are outstanding, and no longer: a
        program that waits for nothing else is then a deadlock."""
        try:
            while True:
                with twait:
                    wait_on_fd(threads.bell, READ, mkevent())
                threads.handle_messages()
                if not threads.outstanding:
                    break
        finally:
            self._threads = None
            threads.end()


class ThreadSet:
    """The threads of a pool from its first call to its last, and their queues to and from the loop.

    The next run makes another set: a thread that outlives its run does not disturb that one.
    """

    def __init__(self, max_threads: int, name: str) -> None:
        self.max_threads = max_threads
        self.name = name
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()
        self.outcomes: deque[Outcome] = deque()
        self.requests: deque[tuple[Start, Answer]] = deque()
        """The waits of threads that the loop has not started yet."""
        self.threads: list[threading.Thread] = []
        self.outstanding = 0
        """Calls whose outcome has not been delivered."""
        self.ended = False
        self.lock = threading.Lock()
        """Keeps threads from ringing a closed bell, whose number may belong to another file."""
        self.bell = Descriptor(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))

    def submit(self, job: Job) -> None:
        self.outstanding += 1
        if self.outstanding > len(self.threads) and len(self.threads) < self.max_threads:
            thread = threading.Thread(target=self.serve, name=self.name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the machine has too many threads
                log.warning("cannot start a thread: %s", error)
            else:
                self.threads.append(thread)
        self.jobs.put(job)
        if not self.threads:
            self.jobs.put(None)
            self.work()

    def serve(self) -> None:
        """The main function of each thread."""
        current.threads = self
        self.work()

    def work(self) -> None:
        """Make calls until a None is taken from the queue."""
        while (job := self.jobs.get()) is not None:
            event, f, args = job
            result: Any = None
            caught: BaseException | None = None
            try:
                result = f(*args)
            except BaseException as error:  # the thread is still needed for other calls
                caught = error
            self.outcomes.append((event, result, caught))
            del job, event, f, args, result, caught  # an idle thread must not keep them alive
            self.ring()

    def ring(self) -> bool:
        """Have the loop handle the messages; return False if it has ended."""
        with self.lock:
            if not self.ended:
                os.eventfd_write(self.bell.fd, 1)
            return not self.ended

    def ask(self, start: Start, answer: Answer) -> None:
        """Have `start` called on the loop's thread; called on a thread of this set."""
        self.requests.append((start, answer))
        if not self.ring():
            answer.refuse()

    def handle_messages(self) -> None:
        """On the loop's thread: start the waits of threads, and deliver the outcomes of calls."""
        os.eventfd_read(self.bell.fd)
        while self.requests:
            wait_for(*self.requests.popleft())
        while self.outcomes:
            self.outstanding -= 1
            event, result, error = self.outcomes.popleft()
            if event.live:
                deliver(event, result, error)
            del event, result, error

    def end(self) -> None:
        """End the threads: no call is outstanding any more, or the loop ends.

        None is kept for later, because a live thread would hide a deadlock.
        """
        with self.lock:
            self.ended = True
            self.bell.close()
        for _, answer in self.requests:
            answer.refuse()
        with suppress(Empty):
            while True:
                self.jobs.get_nowait()
        for _ in self.threads:
            self.jobs.put(None)
        latest = monotonic() + JOIN_TIMEOUT
        for thread in self.threads:
            thread.join(max(0.0, latest - monotonic()))
        self.requests.clear()
        self.outcomes.clear()


def deliver(event: Event[Any], result: Any, error: BaseException | None) -> None:
    """Trigger or fail `event` with the outcome of a call."""
    if error is None:
        event.trigger(result)
    else:
        event.fail(error)


class CurrentThread(threading.local):
    """What belongs to the current thread."""

    threads: ThreadSet | None = None
    """The set that it is in; None for any other thread."""


current: Final = CurrentThread()

default: Final = Pool()
fork: Final = default.fork


class Answer:
    """The outcome that a thread waits for."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.error: BaseException | None = None
        self.arrived = threading.Event()

    def refuse(self) -> None:
        self.error = LoopError("the loop has ended while a thread waited for an event")
        self.arrived.set()


def wait_in_thread(start: Callable[[Event[T]], None]) -> T:
    """In a thread of `fork`: have `start(event)` called on the loop's thread, block until `event`
    has happened, and return its value.

        def work() -> str:                                     # fork(mkevent(found), work)
            return wait_in_thread(lambda e: gethost_ev("example.org", e))

    Raises the error that `event` fails with, `EventDroppedError` if it is dropped, and `LoopError`
    if the loop ends first or in any other thread, for which nothing would keep the loop running.
    """
    threads = current.threads
    if threads is None:
        raise LoopError("only a thread of fork() can wait for an event here: use twait elsewhere")
    answer = Answer()
    threads.ask(start, answer)
    answer.arrived.wait()
    if answer.error is not None:
        raise answer.error
    found: T = answer.values[0]
    return found


@tamed
def wait_for(start: Callable[[Event[T]], None], answer: Answer) -> None:
    """On the loop's thread: wait on behalf of a thread."""
    r = Rendezvous[None]()
    try:
        start(into(answer.values, mkevent(r, None)))
        twait(r)
    except GeneratorExit:
        answer.refuse()
        raise
    except Exception as error:
        answer.error = error
    finally:
        answer.arrived.set()
