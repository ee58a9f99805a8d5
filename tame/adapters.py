"""Adapters: events that forward to other events (paper, section on composability).

Code that triggers an event does not know what is behind it.  So a time limit, a choice between
several events, or a conversion of the value is an event like any other, passed to a function that
need not know about it.  The names are those of Tamer, the second C++ implementation.

Each adapter makes an event, its *base*, for another event, the *target*.  One rule holds for all of
them: what happens to the base happens to the target.  If the base fails, so does the target; if it
is dropped, the waiter of the target gets the `EventDroppedError`, which names the base.  Once the
target is spent or forgotten, a trigger of the base does nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from tame.event import Event, Site, Ts, check_error
from tame.loop import timer
from tame.rendezvous import dropped

T = TypeVar("T")
U = TypeVar("U")

Pass = Callable[[Any, tuple[Any, ...]], None]
"""Passes the values that the base was triggered with to the target."""

NO_VALUE: Final[tuple[Any, ...]] = ()
ONE_VALUE: Final[tuple[Any, ...]] = (object(),)
"""Used as slots, only for the number of values that a trigger takes."""


class Base(Event[*Ts]):
    """An event that forwards to another."""

    __slots__ = ("_pass",)

    _pass: Pass

    __init__ = object.__init__  # `base_of` fills it in

    def trigger(self, *values: *Ts) -> None:
        target = self._rendezvous
        if target is None:
            return self._triggered_again()
        if len(values) != len(self._slots):
            raise self._wrong_arity(values)
        if not target.live:
            return
        self._rendezvous = None
        self._pass(target, values)

    __call__ = trigger

    def fail(self, error: BaseException) -> None:
        target = self._rendezvous
        if target is None:
            return self._triggered_again()
        check_error(error)
        if target.live:
            self._rendezvous = None
            target.fail(error)

    def lose(self, error: BaseException) -> None:
        target, self._rendezvous = self._rendezvous, None
        if target.live:
            target.lose(error)

    @property
    def live(self) -> bool:
        target = self._rendezvous
        return target is not None and bool(target.live)

    def __del__(self) -> None:
        if self.live:
            self.lose(dropped(self._site))


def caller() -> Site:
    """The line that called the adapter which calls this."""
    frame = sys._getframe(2)
    return frame.f_code, frame.f_lasti


def base_of(target: Any, slots: tuple[Any, ...], do: Pass, site: Site) -> Any:
    """An event in front of `target` that takes a value for each of `slots`."""
    base: Base[*tuple[Any, ...]] = Base()
    base._site = site
    base._slots = slots
    base._rendezvous = target
    base._pass = do
    return base


def in_front(target: Event[*Ts], do: Callable[[], None]) -> Event[()]:
    """An event without values that calls `do()`, which decides what happens to `target`."""
    base: Event[()] = base_of(target, NO_VALUE, lambda *_: do(), caller())
    return base


def forward(target: Any, values: tuple[Any, ...]) -> None:
    target.trigger(*values)


# -- values ----------------------------------------------------------------------------------


def bind(target: Event[*Ts], *values: *Ts) -> Event[()]:
    """An event without values that triggers `target` with `values`."""

    def give(target: Event[*Ts], _: tuple[Any, ...]) -> None:
        target.trigger(*values)

    base: Event[()] = base_of(target, NO_VALUE, give, caller())
    return base


def unblocker(target: Event[*Ts]) -> Event[()]:
    """An event without values that ends the wait for `target` and leaves its slots unchanged.

    If `target` is the base of an adapter, the slots behind it stay unchanged as well: nothing is
    mapped or collected.
    """
    base: Event[()] = base_of(target, NO_VALUE, unblock, caller())
    return base


def unblock(target: Any, _: tuple[Any, ...]) -> None:
    if isinstance(target, Shared):  # made by `any_of`, because the base has values
        return unblock(target.target, NO_VALUE)
    if target._slots:
        target._slots = ()
        if isinstance(target, Base):
            target._pass = unblock
    target.trigger()


def map_event(target: Event[U], f: Callable[[T], U]) -> Event[T]:
    """An event that triggers `target` with `f(value)`; if `f` raises, `target` fails."""

    def apply(target: Event[U], values: tuple[T]) -> None:
        try:
            mapped = f(*values)
        except Exception as error:
            target.fail(error)
        else:
            target.trigger(mapped)

    base: Event[T] = base_of(target, ONE_VALUE, apply, caller())
    return base


def into(values: list[T], target: Event[()]) -> Event[T]:
    """An event that appends its value to `values` and then triggers `target`."""

    def append(target: Event[()], given: tuple[T]) -> None:
        values.extend(given)
        target.trigger()

    base: Event[T] = base_of(target, ONE_VALUE, append, caller())
    return base


# -- a time limit ----------------------------------------------------------------------------------


def add_timeout(target: Event[bool, T | None], seconds: float) -> Event[T]:
    """The paper's time limit: an event that triggers `target` with True and its own value.

    If that does not happen within `seconds`, `target` is triggered with False and None.  Needs a
    running loop.
    """
    timer(seconds, bind(target, False, None))

    def in_time(target: Event[bool, T | None], value: tuple[T]) -> None:
        target.trigger(True, *value)

    base: Event[T] = base_of(target, ONE_VALUE, in_time, caller())
    return base


def with_timeout(seconds: float, target: Event[*Ts]) -> Event[*Ts]:
    """An event that triggers `target` with its own values.

    If that does not happen within `seconds`, `target` fails with `TimeoutError`.  Needs a running
    loop.
    """
    base: Event[*Ts] = base_of(target, target._slots, forward, caller())
    late = f"the event made at {base.site} took more than {seconds:g} s"

    def expire(target: Event[*Ts], _: tuple[Any, ...]) -> None:
        target.fail(TimeoutError(late))

    timer(seconds, base_of(target, NO_VALUE, expire, base._site))
    return base


# -- several events --------------------------------------------------------------------------------


class Shared:
    """The target of several bases, of which `needed` must happen."""

    def __init__(self, target: Any, number: int, needed: int) -> None:
        self.target = target
        self.left = number
        """The number of bases that may still happen."""
        self.needed = needed

    @property
    def live(self) -> bool:
        return bool(self.target.live)

    def trigger(self, *values: Any) -> None:
        self.left -= 1
        self.needed -= 1
        if not self.needed:
            self.target.trigger(*values)

    def fail(self, error: BaseException) -> None:
        self.left -= 1
        if self.left < self.needed:
            self.target.fail(error)

    def lose(self, error: BaseException) -> None:
        self.left -= 1
        if self.left < self.needed:
            self.target.lose(error)


def any_of(target: Event[*Ts], number: int) -> list[Event[*Ts]]:
    """`number` events, of which the first to happen triggers `target` with its values.

    The others do nothing then.  If one fails or is dropped, the others still count; if all do, the
    last error reaches `target`.  Raises `ValueError` for fewer than one.
    """
    shared, site = Shared(target, check_number(number), 1), caller()
    return [base_of(shared, target._slots, forward, site) for _ in range(number)]


def all_of(target: Event[()], number: int) -> list[Event[()]]:
    """`number` events, which trigger `target` when all have happened.

    The first error, if one fails or is dropped, reaches `target`.  Raises `ValueError` for fewer
    than one.
    """
    shared, site = Shared(target, check_number(number), number), caller()
    return [base_of(shared, NO_VALUE, forward, site) for _ in range(number)]


def check_number(number: int) -> int:
    if number < 1:
        raise ValueError(f"a target needs at least one event, not {number}")
    return number


# -- afterwards ------------------------------------------------------------------------------------

_followers: WeakKeyDictionary[Event[*tuple[Any, ...]], list[Event[()]]] = WeakKeyDictionary()


def at_trigger(event: Event[*Ts], then: Event[()]) -> None:
    """Trigger `then` after `event`: when its slots have their values and its waiter is runnable.

    A failure and a drop count as well, as in Tamer.  If `event` is already spent, `then` is
    triggered at once; if it is forgotten, `then` is dropped with it.  A bound method taken from
    `event` before this call does not trigger `then`.
    """
    if not event.live and event._rendezvous is None:
        then.trigger()
        return
    _followers.setdefault(event, []).append(then)
    # A different class, so that events without followers pay nothing.
    if not issubclass(type(event), Followed):
        kind: Any = type(event)
        event.__class__ = followed(kind)


class Followed:
    """The common base of the classes made by `followed`."""

    __slots__ = ()


@cache
def followed(kind: type[Any]) -> type[Any]:
    """A subclass of `kind` whose events trigger their followers."""

    def notifying(method: Callable[..., None]) -> Callable[..., None]:
        def call(self: Any, *arguments: Any) -> None:
            live = self.live
            method(self, *arguments)
            if live and self._rendezvous is None:
                for then in _followers.pop(self, ()):
                    then.trigger()

        return call

    methods = {name: notifying(getattr(kind, name)) for name in ("trigger", "fail", "lose")}
    members = {"__slots__": (), "__call__": methods["trigger"], **methods}
    return type(kind.__name__, (kind, Followed), members)
