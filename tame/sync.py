"""Coordination between closures: locks, semaphores, conditions, channels, windows.

All of it is bookkeeping over events: who has to wait leaves an event in a queue, and whoever makes
room triggers the first one there that is still live.  An event that its owner has forgotten,
because a time limit was faster or its block was left, is passed over: it holds no lock and eats no
value.

Nothing here knows of the loop, and nothing waits but `window`, which is written in Tame.
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

FEW: Final = 64
"""Who waits up to this number is not looked at again until it is their turn."""


class Waiting(deque[Q]):
    """Who waits, in the order in which they came.

    Those that have been forgotten would stay behind one that goes on waiting.  Sweeping when the
    queue has doubled since the last sweep costs a constant share of each.
    """

    def __init__(self, live: Callable[[Q], bool]) -> None:
        super().__init__()
        self._live = live
        self._sweep_at = FEW

    def append(self, entry: Q) -> None:
        if len(self) >= self._sweep_at:
            kept = [one for one in self if self._live(one)]
            self.clear()
            self.extend(kept)
            self._sweep_at = max(FEW, 2 * len(kept))
        super().append(entry)


def is_live(event: Event[*tuple[Any, ...]]) -> bool:
    return event.live


def first_live(queue: Waiting[Event[()]]) -> Event[()] | None:
    """The first event of the queue that somebody still waits for; those before it are let go."""
    while queue:
        event = queue.popleft()
        if event.live:
            return event
    return None


class Semaphore:
    """So many permits, given in the order in which they were asked for."""

    def __init__(self, permits: int) -> None:
        self._permits = permits
        self._waiting: Waiting[Event[()]] = Waiting(is_live)

    def acquire(self, done: Event[()]) -> None:
        """Trigger `done` when there is a permit; it is the caller's until `release`."""
        if not done.live:
            return
        if self._permits > 0 and not self._waiting:
            self._permits -= 1
            done.trigger()
        else:
            self._waiting.append(done)

    def release(self) -> None:
        """Give a permit back: to who has waited longest, if anybody does."""
        event = first_live(self._waiting)
        if event is not None:
            event.trigger()
        else:
            self._permits += 1


class Lock:
    """One at a time, or several that share it; in the order in which they asked.

    Who asks to share waits behind who has asked for it alone, so that nobody starves; if that one
    has given up, until the next call of any kind.
    """

    def __init__(self) -> None:
        self._holders = 0
        """-1 for one that has it alone."""
        self._waiting: Waiting[tuple[Event[()], bool]] = Waiting(lambda entry: entry[0].live)

    def acquire(self, done: Event[()]) -> None:
        """Trigger `done` when nobody else has it; until `release`."""
        self._waiting.append((done, False))
        self._admit()

    def acquire_shared(self, done: Event[()]) -> None:
        """Trigger `done` when nobody has it alone; until `release`."""
        self._waiting.append((done, True))
        self._admit()

    def release(self) -> None:
        """Raises `LoopError` if nobody has it."""
        if not self._holders:
            raise LoopError("a lock was released that nobody had acquired")
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
    """Closures that wait until something may have changed; what, is theirs to look at."""

    def __init__(self) -> None:
        self._waiting: Waiting[Event[()]] = Waiting(is_live)

    def wait(self, done: Event[()]) -> None:
        self._waiting.append(done)

    def notify(self) -> None:
        """Wake who has waited longest, if anybody does."""
        event = first_live(self._waiting)
        if event is not None:
            event.trigger()

    def notify_all(self) -> None:
        """Wake those that wait now."""
        waiting = list(self._waiting)
        self._waiting.clear()
        for event in waiting:
            event.trigger()


class Channel(Generic[T]):
    """Values from those who `put` to those who `get`, in order; so many may lie there meanwhile.

    With room for none, a `put` ends when its value was taken.
    """

    def __init__(self, room: int = 0) -> None:
        self._room = room
        self._values: deque[T] = deque()
        self._getters: Waiting[Event[T]] = Waiting(is_live)
        self._putters: Waiting[tuple[T, Event[()]]] = Waiting(lambda entry: entry[1].live)

    def __len__(self) -> int:
        """Values that lie there."""
        return len(self._values)

    def put(self, value: T, done: Event[()]) -> None:
        """Trigger `done` when `value` was taken, or lies where it will be.

        If `done` is forgotten before, `value` is not put.
        """
        self._putters.append((value, done))
        self._move()

    def get(self, value: Event[T]) -> None:
        """Trigger `value` with the next one; if it is forgotten, that is for somebody else."""
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

    The first that fails or is dropped fails `done`; nothing more is started then, and those that
    are under way are forgotten.  Raises `ValueError` for a size below one.
    """
    if size < 1:
        raise ValueError(f"a window of {size} lets nothing through: one at a time at least")
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
