"""Events and their slots.

An event is one occurrence in the future.  This file says what an event *is*: its slots, where it
was made, when it is spent.  It knows nothing of waiting: `rendezvous.py` has the two kinds of event
that a closure waits for, those of a ``with twait:`` block and those of a rendezvous.
"""

from __future__ import annotations

import os
import sys
from types import CellType, CodeType
from typing import Any, Generic, Protocol, TypeVarTuple

from tame.errors import EventSpentError

Ts = TypeVarTuple("Ts")

NOBODY = object()
"""Takes the place of the rendezvous in an event that no closure waits for."""

Site = str | tuple[CodeType, int] | None
"""Where an event was made: ``"file.py:12"``, or a code object and an offset into it."""


def describe(site: Site) -> str:
    """`site` as ``file.py:12``."""
    if site is None:
        return "an unknown place"
    if isinstance(site, str):
        return site
    code, offset = site
    return f"{code.co_filename}:{line_of(code, offset)}"


def line_of(code: CodeType, offset: int) -> int:
    """The line of the instruction at byte `offset` of `code`."""
    for start, end, line in code.co_lines():
        if start <= offset < end and line is not None:
            return line
    return code.co_firstlineno


class Slot(Protocol):
    """Where a trigger value goes.  The slot of a local variable is its cell, hence the name of the
    attribute: storing through a cell costs 20 ns, through a function 30 ns."""

    cell_contents: Any


class Item:
    """The slot ``container[index]``, both evaluated when the event was made."""

    __slots__ = ("container", "index")

    def __init__(self, container: Any, index: Any) -> None:
        self.container = container
        self.index = index

    @property
    def cell_contents(self) -> Any:
        return self.container[self.index]

    @cell_contents.setter
    def cell_contents(self, value: Any) -> None:
        self.container[self.index] = value


class Attribute:
    """The slot ``owner.name``, the owner evaluated when the event was made."""

    __slots__ = ("name", "owner")

    def __init__(self, owner: Any, name: str) -> None:
        self.owner = owner
        self.name = name

    @property
    def cell_contents(self) -> Any:
        return getattr(self.owner, self.name)

    @cell_contents.setter
    def cell_contents(self, value: Any) -> None:
        setattr(self.owner, self.name, value)


def local(variable: Any) -> CellType:
    """The slot of a local variable, given as ``lambda: variable``."""
    cell: CellType = variable.__closure__[0]
    return cell


def check_error(error: object) -> None:
    """Check that `fail` was given something that can be raised at the wait."""
    if not isinstance(error, BaseException):
        raise TypeError(f"fail() takes an exception, such as ValueError('why'), not {error!r}")


class Event(Generic[*Ts]):
    """One occurrence in the future, with trigger values of types ``*Ts`` (paper, Figure 2).

    All handles share the event: the first trigger spends it for all of them.  Tamed code makes
    events with `mkevent`; ``Event()`` makes one that no closure waits for, for callers that do not
    care about the outcome.
    """

    __slots__ = ("__weakref__", "_rendezvous", "_site", "_slots")

    _rendezvous: Any  # what the event belongs to; None once it is spent
    _slots: tuple[Slot, ...]
    _site: Site

    def __init__(self) -> None:
        frame = sys._getframe(1)
        if frame.f_globals.get("__name__") == "typing" and frame.f_back:  # Event[int]()
            frame = frame.f_back
        self._site = (frame.f_code, frame.f_lasti)
        self._slots = ()
        self._rendezvous = NOBODY

    def trigger(self, *values: *Ts) -> None:
        """Make the event happen: store `values` in the slots and wake the closure that waits.

        The waiter has not run yet when this returns.  A second trigger does nothing, or raises
        `EventSpentError` under ``TAME_STRICT=1``.  The wrong number of values raises `TypeError`
        and leaves the event unchanged.
        """
        if self._rendezvous is None:
            self._triggered_again()
        self._rendezvous = None

    def __call__(self, *values: *Ts) -> None:
        """The same as `trigger`, so that an event can be used as a plain callback."""
        self.trigger(*values)

    def fail(self, error: BaseException) -> None:
        """Raise `error` at the wait point of the closure that waits; spends the event.

        In a ``with twait:`` block the wait still lasts until all other events of the block are
        spent; several errors arrive as one `ExceptionGroup`.
        """
        if self._rendezvous is None:
            return self._triggered_again()
        check_error(error)
        self._rendezvous = None

    def lose(self, error: BaseException) -> None:
        """Like `fail`, for an event that nothing can trigger any more: `error`, an
        `EventDroppedError`, is not reported if no closure waits for it."""
        self._rendezvous = None

    @property
    def live(self) -> bool:
        """Whether a trigger would have an effect: the event is neither spent nor forgotten."""
        return self._rendezvous is not None

    @property
    def site(self) -> str:
        """Where the event was made, as ``file.py:12``."""
        return describe(self._site)

    def __repr__(self) -> str:
        state = "live" if self.live else "spent" if self._rendezvous is None else "forgotten"
        return f"<{state} event made at {self.site}>"

    def _triggered_again(self) -> None:
        if os.environ.get("TAME_STRICT") == "1":
            raise EventSpentError(
                f"the event made at {self.site} was triggered a second time; an event happens"
                " once: make a new one for each occurrence"
            )

    def _wrong_arity(self, values: tuple[Any, ...]) -> TypeError:
        slots = len(self._slots)
        return TypeError(
            f"trigger() takes {slots} value{'' if slots == 1 else 's'} but got {len(values)}:"
            f" the event made at {self.site} has that many slots"
        )
