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
from queue import SimpleQueue
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
"""Seconds in which a thread has to end when its pool is closed."""

Job = tuple[Event[Any], Callable[..., Any], tuple[Any, ...]]
Outcome = tuple[Event[Any], Any, BaseException | None]

log = logging.getLogger("tame")


class Pool:
    """Threads for calls that block, started when there are any and at most so many.

    They are daemons: none holds up the end of the program.  A pool serves the loop that runs when
    it is used, and is closed with it: those whose calls are under way then are waited for, for a
    second, and what they come to is let go.
    """

    def __init__(self, most: int = MOST, name: str = "tame") -> None:
        self._most = most
        self._name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._outcomes: deque[Outcome] = deque()
        self._requests: deque[Callable[[], None]] = deque()
        """What threads want done on the loop's."""
        self._threads: list[threading.Thread] = []
        self._under_way = 0
        self._bell: Descriptor | None = None

    def fork(self, event: Event[T], f: Callable[..., T], *args: Any) -> None:
        """Call `f(*args)` on a thread, and trigger `event` with its result, or fail it with its
        exception, on the loop's thread.

        An event that is forgotten meanwhile stops no call; its result is let go.  Where no thread
        can be started at all, the call is made here.  Raises `LoopError` outside `run`.
        """
        if loop.active is None:
            raise LoopError("fork() needs a running loop: call it inside tame.run(f)")
        self._under_way += 1
        if self._bell is None:
            self._bell = Descriptor(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
            self._listen(self._bell)
        if self._under_way > len(self._threads) and len(self._threads) < self._most:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # there are too many on this machine
                log.warning("cannot start a thread: %s", error)
            else:
                self._threads.append(thread)
        self._jobs.put((event, f, args))
        if not self._threads:
            self._jobs.put(None)
            self._work()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            event, f, args = job
            result: Any = None
            caught: BaseException | None = None
            working.pool = self
            try:
                result = f(*args)
            except Exception as error:
                caught = error
            self._outcomes.append((event, result, caught))
            del job, event, f, args, result, caught  # an idle thread holds on to nothing
            self.ring()
        working.pool = None

    def ring(self) -> None:
        """Have the loop look at what threads have left for it."""
        bell = self._bell
        if bell is not None and bell.fd >= 0:
            with suppress(OSError):  # it was closed at this moment
                os.eventfd_write(bell.fd, 1)

    def ask(self, request: Callable[[], None]) -> None:
        """Have it done on the loop's thread; called on one of the pool's."""
        self._requests.append(request)
        self.ring()

    @tamed
    def _listen(self, bell: Descriptor) -> None:
        """While anything is under way: a program that waits for nothing else is not stuck then, and
        is stuck otherwise."""
        try:
            while self._under_way:
                with twait:
                    wait_on_fd(bell, READ, mkevent())
                os.eventfd_read(bell.fd)
                while self._requests:
                    self._requests.popleft()()
                while self._outcomes:
                    self._under_way -= 1
                    event, result, error = self._outcomes.popleft()
                    if event.live:
                        tell(event, result, error)
                    del event, result, error
        except GeneratorExit:
            self._close()
            raise
        finally:
            self._bell = None
            bell.close()

    def _close(self) -> None:
        """The loop ends."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(PATIENCE)
        self._threads.clear()
        self._under_way = 0
        self._outcomes.clear()
        self._requests.clear()


def tell(event: Event[Any], result: Any, error: BaseException | None) -> None:
    if error is None:
        event.trigger(result)
    else:
        event.fail(error)


class Working(threading.local):
    """The pool whose thread this is."""

    pool: Pool | None = None


working: Final = Working()

default: Final = Pool()
fork: Final = default.fork


class Answer:
    """What a thread waits for."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.error: BaseException | None = None
        self.come = threading.Event()


def wait_in_thread(start: Callable[[Event[T]], None]) -> T:
    """On a thread of `fork`: have `start(event)` called on the loop's, and block this thread until
    `event` has happened; its value.

        def work() -> str:                                     # fork(mkevent(found), work)
            return wait_in_thread(lambda e: gethost_ev("example.org", e))

    What `event` fails with is raised here, `EventDroppedError` if nobody can trigger it any more,
    and `LoopError` if the loop ends meanwhile, or on any other thread: nothing would keep the loop
    running for that one.
    """
    pool = working.pool
    if pool is None:
        raise LoopError("only a thread of fork() can wait for an event: elsewhere there is twait")
    answer = Answer()
    pool.ask(lambda: wait_for(start, answer))
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
        answer.error = LoopError("the loop has ended while a thread waited for an event")
        raise
    except Exception as error:
        answer.error = error
    finally:
        answer.come.set()
