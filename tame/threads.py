"""Threads beside the loop: calls that block run on one, and one may wait for what the loop does.

`fork` is the paper's bridge from events to threads, `in_thread` the one back.  All triggers happen
on the loop's thread: what a thread has to say lies in a queue, and a bell wakes the loop.
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

MOST: Final = 16
"""Threads of the pool that `fork` takes, by default."""

PATIENCE: Final = 1.0
"""Seconds in which all threads of a pool together have to end when the loop does."""

Job = tuple[Event[Any], Callable[..., Any], tuple[Any, ...]]
Outcome = tuple[Event[Any], Any, BaseException | None]
Start = Callable[[Event[Any]], None]

log = logging.getLogger("tame")


class Pool:
    """Threads for calls that block, started when there are any and at most so many.

    They end when no call is under way.  If the loop ends before, calls that have not begun are let
    go, and those that have are waited for, for `PATIENCE` seconds altogether.  One that takes
    longer goes on, on a daemon thread, and what it comes to is let go.
    """

    def __init__(self, most: int = MOST, name: str = "tame") -> None:
        self._most = most
        self._name = name
        self._crew: Crew | None = None

    def fork(self, event: Event[T], f: Callable[..., T], *args: Any) -> None:
        """Call `f(*args)` on a thread, and trigger `event` with its result, or fail it with its
        exception (`SystemExit`, too), on the loop's thread.

        An event that is forgotten meanwhile stops no call; its result is let go.  Where no thread
        can be started at all, the call is made here.  Raises `LoopError` outside `run`.
        """
        if loop.active is None:
            raise LoopError("fork() needs a running loop: call it inside tame.run(f)")
        if self._crew is None:
            self._crew = Crew(self._most, self._name)
            self._listen(self._crew)
        self._crew.take((event, f, args))

    @tamed
    def _listen(self, crew: Crew) -> None:
        """While anything is under way: a program that waits for nothing else is not stuck then, and
        is stuck otherwise."""
        try:
            while True:
                with twait:
                    wait_on_fd(crew.bell, READ, mkevent())
                crew.hear()
                if not crew.under_way:
                    break
        finally:
            self._crew = None
            crew.end()


class Crew:
    """The threads of a pool from its first call to its last, and what lies between them and the
    loop.  The next run has another one: a thread that was left over rings no bell there."""

    def __init__(self, most: int, name: str) -> None:
        self.most = most
        self.name = name
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()
        self.outcomes: deque[Outcome] = deque()
        self.requests: deque[tuple[Start, Answer]] = deque()
        """What threads wait for."""
        self.threads: list[threading.Thread] = []
        self.under_way = 0
        self.ended = False
        self.lock = threading.Lock()
        """Nobody rings when the bell is closed: its number may mean another file by then."""
        self.bell = Descriptor(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))

    def take(self, job: Job) -> None:
        self.under_way += 1
        if self.under_way > len(self.threads) and len(self.threads) < self.most:
            thread = threading.Thread(target=self.serve, name=self.name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # there are too many on this machine
                log.warning("cannot start a thread: %s", error)
            else:
                self.threads.append(thread)
        self.jobs.put(job)
        if not self.threads:
            self.jobs.put(None)
            self.work()

    def serve(self) -> None:
        """A thread."""
        working.crew = self
        self.work()

    def work(self) -> None:
        while (job := self.jobs.get()) is not None:
            event, f, args = job
            result: Any = None
            caught: BaseException | None = None
            try:
                result = f(*args)
            except BaseException as error:  # a thread that ended would leave the others' calls
                caught = error
            self.outcomes.append((event, result, caught))
            del job, event, f, args, result, caught  # an idle thread holds on to nothing
            self.ring()

    def ring(self) -> bool:
        """Have the loop look at what a thread has left for it; whether it still can."""
        with self.lock:
            if not self.ended:
                os.eventfd_write(self.bell.fd, 1)
            return not self.ended

    def ask(self, start: Start, answer: Answer) -> None:
        """Have `start` called on the loop's thread; called on one of the crew's."""
        self.requests.append((start, answer))
        if not self.ring():
            answer.refuse()

    def hear(self) -> None:
        """On the loop's thread: do what the threads want done."""
        os.eventfd_read(self.bell.fd)
        while self.requests:
            wait_for(*self.requests.popleft())
        while self.outcomes:
            self.under_way -= 1
            event, result, error = self.outcomes.popleft()
            if event.live:
                tell(event, result, error)
            del event, result, error

    def end(self) -> None:
        """Nothing is under way any more, or the loop ends.  No thread is kept: one that might do
        something would hide that a program is stuck."""
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
        latest = monotonic() + PATIENCE
        for thread in self.threads:
            thread.join(max(0.0, latest - monotonic()))
        self.requests.clear()
        self.outcomes.clear()


def tell(event: Event[Any], result: Any, error: BaseException | None) -> None:
    if error is None:
        event.trigger(result)
    else:
        event.fail(error)


class Working(threading.local):
    """The crew whose thread this is."""

    crew: Crew | None = None


working: Final = Working()

default: Final = Pool()
fork: Final = default.fork


class Answer:
    """What a thread waits for."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.error: BaseException | None = None
        self.come = threading.Event()

    def refuse(self) -> None:
        self.error = LoopError("the loop has ended while a thread waited for an event")
        self.come.set()


def wait_in_thread(start: Callable[[Event[T]], None]) -> T:
    """On a thread of `fork`: have `start(event)` called on the loop's, and block this thread until
    `event` has happened; its value.

        def work() -> str:                                     # fork(mkevent(found), work)
            return wait_in_thread(lambda e: gethost_ev("example.org", e))

    What `event` fails with is raised here, `EventDroppedError` if nobody can trigger it any more,
    and `LoopError` if the loop ends meanwhile, or on any other thread: nothing would keep the loop
    running for that one.
    """
    crew = working.crew
    if crew is None:
        raise LoopError("only a thread of fork() can wait for an event: elsewhere there is twait")
    answer = Answer()
    crew.ask(start, answer)
    answer.come.wait()
    if answer.error is not None:
        raise answer.error
    found: T = answer.values[0]
    return found


@tamed
def wait_for(start: Callable[[Event[T]], None], answer: Answer) -> None:
    """On the loop's thread, for one of the pool's."""
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
        answer.come.set()
