"""Rendezvous: sets of outstanding events that one closure waits on.

There are two kinds, as in the paper.  A `Block` is the implicit rendezvous of ``with twait:``; its
wait ends when all its events are spent.  A `Rendezvous` is the explicit one; it returns the ids of
its events one by one, in the order of their triggers.  Each has its own kind of event.

Nothing here runs a closure: a trigger only puts the waiting one on the runnable queue
(`closure.py`).  A rendezvous holds no references to its events, so a dropped event is noticed when
its last handle goes (``__del__``, which costs 30 ns an event).
"""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tame import closure as closures
from tame.closure import runnable
from tame.errors import EventDroppedError, RendezvousCancelledError
from tame.event import Event, Site, Slot, Ts, check_error, describe

if TYPE_CHECKING:
    from tame.closure import Closure

I = TypeVar("I")  # noqa: E741  (the paper's name for the type of event ids)


def dropped(site: Site) -> EventDroppedError:
    return EventDroppedError(
        f"the event made at {describe(site)} was dropped: its last handle is gone, so nothing can"
        " trigger it any more; keep the event until it is triggered"
    )


def store(slots: tuple[Slot, ...], values: tuple[Any, ...]) -> None:
    for slot, value in zip(slots, values, strict=True):
        slot.cell_contents = value


class Block:
    """The implicit rendezvous of one ``with twait:`` block.

    `pending` counts the events that are not spent yet; in a forgotten block it is 0, and so its
    events know that they are forgotten.
    """

    __slots__ = ("failures", "pending", "waiter")

    def __init__(self) -> None:
        self.pending = 0
        self.failures: list[BaseException] | None = None
        self.waiter: Closure | None = None

    def event(self, *slots: Slot) -> BlockEvent[*tuple[Any, ...]]:
        """An event of this block, made at the caller's line."""
        frame = sys._getframe(1)
        return block_event(self, (frame.f_code, frame.f_lasti), slots)

    def finish(self, waited: object = None) -> None:
        """End the wait: raise the error of the block's events, if any failed."""
        if self.failures is not None:
            raise self.failure()

    def failure(self) -> BaseException:
        """The error to raise because events of the block failed; the block forgets it."""
        failures = self.failures
        assert failures is not None
        self.failures = None
        if len(failures) == 1:
            return failures[0]
        return BaseExceptionGroup("several events of one `with twait:` block failed", failures)

    def forget(self) -> None:
        """Leave the block early: its events no longer count, their slots are never written."""
        self.pending = 0
        self.failures = None

    def settle(self, error: BaseException | None = None) -> None:
        """Count one event as spent, with `error` if it failed."""
        if error is not None:
            if self.failures is None:
                self.failures = []
            self.failures.append(error)
        self.pending -= 1
        if not self.pending and self.waiter is not None:
            closures.make_runnable(self.waiter)

    def __enter__(self) -> Block:
        return self

    def __exit__(self, *error: object) -> None:
        if self.pending or self.failures:
            self.forget()


class BlockEvent(Event[*Ts]):
    """An event of a ``with twait:`` block."""

    __slots__ = ()

    __init__ = object.__init__  # `block_event` fills it in

    def trigger(self, *values: *Ts) -> None:
        block = self._rendezvous
        if block is None:
            return self._triggered_again()
        slots = self._slots
        if (slots or values) and len(values) != len(slots):
            raise self._wrong_arity(values)
        if not block.pending:
            return
        self._rendezvous = None
        if slots:
            try:
                if len(slots) == 1:  # the usual case: saves 100 ns
                    slots[0].cell_contents = values[0]  # type: ignore[misc]
                else:
                    store(slots, values)
            except BaseException as error:
                # The slot is the waiter's expression, so the waiter gets the error, without the
                # frames of the trigger.
                block.settle(error.with_traceback(None))
                if not isinstance(error, Exception):
                    raise
                return
        # `block.settle()` inlined: the call would cost a tenth of a whole wait.
        pending = block.pending = block.pending - 1
        if not pending:
            waiter = block.waiter
            if waiter is not None:
                runnable.append(waiter)
                if closures.asleep:
                    closures.wake_loop()

    __call__ = trigger

    def fail(self, error: BaseException) -> None:
        block = self._rendezvous
        if block is None:
            return self._triggered_again()
        if block.pending:
            check_error(error)
            self._rendezvous = None
            block.settle(error)

    @property
    def live(self) -> bool:
        block = self._rendezvous
        return block is not None and block.pending > 0

    def __del__(self) -> None:
        block = self._rendezvous
        if block is not None and block.pending:
            self.lose(dropped(self._site))

    def lose(self, error: BaseException) -> None:
        block: Block = self._rendezvous
        self._rendezvous = None  # first: the collector may run finalizers that trigger it
        block.settle(error)


def block_event(block: Block, site: Site, slots: tuple[Slot, ...]) -> BlockEvent[*tuple[Any, ...]]:
    """A new event of `block`.  A function, because the interpreter inlines calls of functions and
    not of classes: saves 20 ns an event."""
    event: BlockEvent[*tuple[Any, ...]] = BlockEvent()
    event._rendezvous = block
    event._site = site
    event._slots = slots
    block.pending += 1
    return event


class Failure:
    """An error on its way from `Event.fail` to the closure that takes it."""

    __slots__ = ("claimed", "error")

    def __init__(self, error: BaseException, claimed: bool) -> None:
        self.error = error
        self.claimed = claimed

    def __del__(self) -> None:
        if not self.claimed:
            closures.report(
                self.error, "an event of a rendezvous failed and no closure waited for it"
            )


class Rendezvous(Generic[I]):
    """An open-ended set of outstanding events, each with an id of type `I` (paper, Figure 2).

    ``mkevent(r, id, slots…)`` makes an event of it, and ``id = twait(r)`` waits for the next one
    that triggers.  Ids come in the order of the triggers and may repeat.  One closure at a time
    may wait; a second one gets `RendezvousBusyError`.
    """

    __slots__ = ("__weakref__", "ready", "round", "waiter")

    def __init__(self) -> None:
        self.ready: deque[Any] = deque()  # ids and failures not taken yet
        self.round = 0  # events of an earlier round are forgotten
        self.waiter: Closure | None = None

    def event(self, id: I, *slots: Slot) -> RendezvousEvent[*tuple[Any, ...]]:
        """An event of this rendezvous, made at the caller's line."""
        frame = sys._getframe(1)
        return rendezvous_event(self, id, (frame.f_code, frame.f_lasti), slots)

    def take(self, waited: object = None) -> I:
        """The id of the event that triggered first; call it only when `ready` or after a wait."""
        if self.waiter is not None:
            raise closures.busy(self.waiter)
        first = self.ready.popleft()
        if type(first) is Failure:
            first.claimed = True
            try:
                raise first.error
            finally:
                del first  # the error's traceback refers to this frame: a cycle
        id: I = first
        return id

    def cancel(self) -> None:
        """Forget all outstanding events and all ids not taken yet.

        A later trigger of a forgotten event does nothing.  A closure that waits on the rendezvous
        gets `RendezvousCancelledError` at its wait point.
        """
        self.round += 1
        already_runnable = bool(self.ready)
        for item in self.ready:
            if type(item) is Failure:
                item.claimed = True
        self.ready.clear()
        if self.waiter is not None:
            error = RendezvousCancelledError(
                "the rendezvous was cancelled while this closure waited"
            )
            self.ready.append(Failure(error, claimed=True))
            if not already_runnable:
                closures.make_runnable(self.waiter)

    def settle(self, result: I | Failure) -> None:
        """Count one event as spent: queue its id or its failure for the waiter."""
        self.ready.append(result)
        if self.waiter is not None and len(self.ready) == 1:
            closures.make_runnable(self.waiter)


class RendezvousEvent(Event[*Ts]):
    """An event of an explicit rendezvous."""

    __slots__ = ("_id", "_round")

    _id: Any
    _round: int

    __init__ = object.__init__  # `rendezvous_event` fills it in

    def trigger(self, *values: *Ts) -> None:
        rendezvous = self._rendezvous
        if rendezvous is None:
            return self._triggered_again()
        slots = self._slots
        if (slots or values) and len(values) != len(slots):
            raise self._wrong_arity(values)
        if self._round != rendezvous.round:
            return
        self._rendezvous = None
        if slots:
            try:
                if len(slots) == 1:  # the usual case: saves 100 ns
                    slots[0].cell_contents = values[0]  # type: ignore[misc]
                else:
                    store(slots, values)
            except BaseException as error:
                rendezvous.settle(Failure(error.with_traceback(None), claimed=False))
                if not isinstance(error, Exception):
                    raise
                return
        ready = rendezvous.ready
        ready.append(self._id)
        waiter = rendezvous.waiter
        if waiter is not None and len(ready) == 1:
            runnable.append(waiter)
            if closures.asleep:
                closures.wake_loop()

    __call__ = trigger

    def fail(self, error: BaseException) -> None:
        rendezvous = self._rendezvous
        if rendezvous is None:
            return self._triggered_again()
        if self._round == rendezvous.round:
            check_error(error)
            self._rendezvous = None
            rendezvous.settle(Failure(error, claimed=False))

    @property
    def live(self) -> bool:
        rendezvous = self._rendezvous
        return rendezvous is not None and self._round == rendezvous.round

    def __del__(self) -> None:
        rendezvous = self._rendezvous
        if rendezvous is not None and self._round == rendezvous.round:
            self.lose(dropped(self._site))

    def lose(self, error: BaseException) -> None:
        rendezvous: Rendezvous[Any] = self._rendezvous
        self._rendezvous = None
        rendezvous.settle(Failure(error, claimed=True))


def rendezvous_event(
    rendezvous: Rendezvous[I], id: I, site: Site, slots: tuple[Slot, ...]
) -> RendezvousEvent[*tuple[Any, ...]]:
    """A new event of `rendezvous`; a function for the same reason as `block_event`."""
    event: RendezvousEvent[*tuple[Any, ...]] = RendezvousEvent()
    event._rendezvous = rendezvous
    event._id = id
    event._round = rendezvous.round
    event._site = site
    event._slots = slots
    return event
