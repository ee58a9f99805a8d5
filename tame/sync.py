"""Coordination between closures: locks, semaphores, conditions, channels, windows.

All of it is bookkeeping over events: a closure that has to wait leaves an event in a queue, and
code that makes room triggers the first live one.  A forgotten event, because of a time limit or
because its block was left, is skipped: it holds no lock and takes no value.

Nothing here uses the loop, and only `window`, which is written in Tame, waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, TypeVar

from tame.errors import LoopError
from tame.event import Event
from tame.language import mkevent, tamed, tvars, twait
from tame.rendezvous import Rendezvous

T = TypeVar("T")
Q = TypeVar("Q")

FIRST_SWEEP: Final = 64
"""The length of a queue at which forgotten entries are first removed."""


class WaitQueue(deque[Q]):
    """A first-in, first-out queue whose forgotten entries are removed from time to time.

    Otherwise they would stay for as long as an entry before them waits.  A sweep each time the
    queue has doubled costs a constant amount per entry.
    """

    def __init__(self, live: Callable[[Q], bool]) -> None:
        super().__init__()
        self._live = live
        self._sweep_at = FIRST_SWEEP

    def append(self, entry: Q) -> None:
        if len(self) >= self._sweep_at:
            kept = [one for one in self if self._live(one)]
            self.clear()
            self.extend(kept)
            self._sweep_at = max(FIRST_SWEEP, 2 * len(kept))
        super().append(entry)


def is_live(event: Event[*tuple[Any, ...]]) -> bool:
    return event.live


def first_live(queue: WaitQueue[Event[()]]) -> Event[()] | None:
    """The first live event of the queue; it and the forgotten ones before it are removed."""
    while queue:
        event = queue.popleft()
        if event.live:
            return event
    return None


class Semaphore:
    """A number of permits, granted in the order of the requests."""

    def __init__(self, permits: int) -> None:
        self._permits = permits
        self._waiting: WaitQueue[Event[()]] = WaitQueue(is_live)

    def acquire(self, done: Event[()]) -> None:
        """Trigger `done` when there is a permit; the caller has it until `release`."""
        if not done.live:
            return
        if self._permits > 0 and not self._waiting:
            self._permits -= 1
            done.trigger()
        else:
            self._waiting.append(done)

    def release(self) -> None:
        """Return a permit, which goes to the longest waiter, if there is one."""
        event = first_live(self._waiting)
        if event is not None:
            event.trigger()
        else:
            self._permits += 1


class Lock:
    """A lock with one exclusive or several shared holders, granted in the order of the requests.

    A shared request waits behind an earlier exclusive one, so that no request starves.  If that one
    has been forgotten, the shared request is granted at the next call of any method.
    """

    def __init__(self) -> None:
        self._holders = 0
        """The number of shared holders; -1 for an exclusive one."""
        self._waiting: WaitQueue[tuple[Event[()], bool]] = WaitQueue(lambda entry: entry[0].live)

    def acquire(self, done: Event[()]) -> None:
        """Trigger `done` when the lock is free; the caller has it alone until `release`."""
        self._waiting.append((done, False))
        self._admit()

    def acquire_shared(self, done: Event[()]) -> None:
        """Trigger `done` when the lock has no exclusive holder; the caller shares it until
        `release`."""
        self._waiting.append((done, True))
        self._admit()

    def release(self) -> None:
        """Give the lock back.  Raises `LoopError` if it is not held."""
        if not self._holders:
            raise LoopError("a lock was released that is not held")
        self._holders = 0 if self._holders < 0 else self._holders - 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            event, shared = self._waiting[0]
            if event.live:
                if self._holders < 0 or (self._holders and not shared):
                    return
                self._holders = self._holders + 1 if shared else -1
            self._waiting.popleft()
            if event.live:
                event.trigger()


class Condition:
    """Lets closures wait until something may have changed; they check what it is."""

    def __init__(self) -> None:
        self._waiting: WaitQueue[Event[()]] = WaitQueue(is_live)

    def wait(self, done: Event[()]) -> None:
        """Trigger `done` at a later `notify` or `notify_all`."""
        self._waiting.append(done)

    def notify(self) -> None:
        """Wake the longest waiter, if there is one."""
        event = first_live(self._waiting)
        if event is not None:
            event.trigger()

    def notify_all(self) -> None:
        """Wake all current waiters."""
        waiting = list(self._waiting)
        self._waiting.clear()
        for event in waiting:
            event.trigger()


class Channel(Generic[T]):
    """A queue of values, from `put` to `get`, with room for a limited number in between.

    Without room, a `put` is done when its value has been taken.
    """

    def __init__(self, room: int = 0) -> None:
        self._room = room
        self._values: deque[T] = deque()
        self._getters: WaitQueue[Event[T]] = WaitQueue(is_live)
        self._putters: WaitQueue[tuple[T, Event[()]]] = WaitQueue(lambda entry: entry[1].live)

    def __len__(self) -> int:
        """The number of values in the queue."""
        return len(self._values)

    def put(self, value: T, done: Event[()]) -> None:
        """Trigger `done` when `value` is in the queue or has been taken.

        If `done` is forgotten before that, `value` is discarded.
        """
        self._putters.append((value, done))
        self._move()

    def get(self, value: Event[T]) -> None:
        """Trigger `value` with the next value; if it is forgotten, it takes none."""
        self._getters.append(value)
        self._move()

    def _move(self) -> None:
        while True:
            while self._getters and not self._getters[0].live:
                self._getters.popleft()
            while self._putters and not self._putters[0][1].live:
                self._putters.popleft()
            if self._getters and self._values:
                self._getters.popleft().trigger(self._values.popleft())
            elif self._putters and (self._getters or len(self._values) < self._room):
                value, done = self._putters.popleft()
                self._values.append(value)
                done.trigger()
            else:
                return


@tamed
def window(
    size: int, items: Iterable[T], start: Callable[[T, Event[()]], None], done: Event[()]
) -> None:
    """Call `start(item, event)` for each item, with at most `size` events outstanding, and trigger
    `done` when all have happened: the pipeline of the paper's `multidns_win`.

    If an event fails or is dropped, `done` fails: nothing more is started, and the outstanding
    events are forgotten.  Raises `ValueError` for a size below one.
    """
    if size < 1:
        raise ValueError(f"the size of a window must be at least one, not {size}")
    with tvars:
        r = Rendezvous[None]()
        outstanding = 0
    try:
        for item in items:
            if outstanding == size:
                twait(r)
                outstanding -= 1
            start(item, mkevent(r, None))
            outstanding += 1
        while outstanding:
            twait(r)
            outstanding -= 1
    except Exception as error:
        r.cancel()
        done.fail(error)
    else:
        done.trigger()
