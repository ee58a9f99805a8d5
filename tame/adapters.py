"""Adapters: events that stand in front of other events (paper, section on composability).

Whoever triggers an event knows nothing of what stands behind it.  So a time limit, a choice between
several, or another value is an event like any other, handed to a function that has never heard of
it.  The names are those of Tamer, the second C++ implementation.

Each adapter makes an event, its *base*, out of a *target*.  One rule holds for all of them: what
happens to the base happens to the target.  If the base fails, so does the target; if it is dropped,
the target is lost, so that who waits for it learns which event nobody can trigger any more.  And
once the target is spent or forgotten, a trigger of the base does nothing.
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
"""What to do with the target, and with the values that the base was triggered with."""

NO_VALUE: Final[tuple[Any, ...]] = ()
ONE_VALUE: Final[tuple[Any, ...]] = (object(),)
"""In the place of slots: so many values are expected."""


class Base(Event[*Ts]):
    """An event that stands in front of another."""

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
    """Where the adapter was called that calls this."""
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
    """An event without values that calls `do()`, which is to see to `target`."""
    base: Event[()] = base_of(target, NO_VALUE, lambda *_: do(), caller())
    return base


def hand_on(target: Any, values: tuple[Any, ...]) -> None:
    target.trigger(*values)


# -- other values ----------------------------------------------------------------------------------


def bind(target: Event[*Ts], *values: *Ts) -> Event[()]:
    """An event without values that triggers `target` with these."""

    def give(target: Event[*Ts], _: tuple[Any, ...]) -> None:
        target.trigger(*values)

    base: Event[()] = base_of(target, NO_VALUE, give, caller())
    return base


def unblocker(target: Event[*Ts]) -> Event[()]:
    """An event without values that ends the wait for `target`, whose slots stay as they are.

    So do those behind a `target` that is an adapter's base: nothing is mapped or gathered.
    """
    base: Event[()] = base_of(target, NO_VALUE, unblock, caller())
    return base


def unblock(target: Any, _: tuple[Any, ...]) -> None:
    if isinstance(target, Shared):  # the base has values, so it is one of `any_of`
        return unblock(target.target, NO_VALUE)
    if target._slots:
        target._slots = ()
        if isinstance(target, Base):
            target._pass = unblock
    target.trigger()


def map_event(target: Event[U], f: Callable[[T], U]) -> Event[T]:
    """An event that triggers `target` with `f(value)`; what `f` raises fails `target`."""

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
    """An event whose value is appended to `values` before `target` is triggered."""

    def append(target: Event[()], given: tuple[T]) -> None:
        values.extend(given)
        target.trigger()

    base: Event[T] = base_of(target, ONE_VALUE, append, caller())
    return base


# -- a time limit ----------------------------------------------------------------------------------


def add_timeout(target: Event[bool, T | None], seconds: float) -> Event[T]:
    """The paper's: an event that triggers `target` with True and its own value if it happens within
    so many seconds; otherwise `target` is triggered with False and None.  Needs a running loop."""
    timer(seconds, bind(target, False, None))

    def in_time(target: Event[bool, T | None], value: tuple[T]) -> None:
        target.trigger(True, *value)

    base: Event[T] = base_of(target, ONE_VALUE, in_time, caller())
    return base


def with_timeout(seconds: float, target: Event[*Ts]) -> Event[*Ts]:
    """An event that triggers `target` with its own values if it happens within so many seconds;
    otherwise `target` fails with `TimeoutError`.  Needs a running loop."""
    base: Event[*Ts] = base_of(target, target._slots, hand_on, caller())
    late = f"the event made at {base.site} took more than {seconds:g} s"

    def expire(target: Event[*Ts], _: tuple[Any, ...]) -> None:
        target.fail(TimeoutError(late))

    timer(seconds, base_of(target, NO_VALUE, expire, base._site))
    return base


# -- several ---------------------------------------------------------------------------------------


class Shared:
    """The target of several bases, of which some `needed` have to happen."""

    def __init__(self, target: Any, number: int, needed: int) -> None:
        self.target = target
        self.left = number
        """Bases that may still happen."""
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
    """So many events, the first of which to happen triggers `target` with its values; the others
    do nothing then.

    One that fails or is dropped leaves it to the others, and the last one takes `target` with it.
    Raises `ValueError` for less than one.
    """
    shared, site = Shared(target, at_least_one(number), 1), caller()
    return [base_of(shared, target._slots, hand_on, site) for _ in range(number)]


def all_of(target: Event[()], number: int) -> list[Event[()]]:
    """So many events, which trigger `target` when all have happened.

    The first that fails or is dropped takes `target` with it.  Raises `ValueError` for less than
    one.
    """
    shared, site = Shared(target, at_least_one(number), number), caller()
    return [base_of(shared, NO_VALUE, hand_on, site) for _ in range(number)]


def at_least_one(number: int) -> int:
    if number < 1:
        raise ValueError(f"{number} events would never happen: one at least")
    return number


# -- afterwards ------------------------------------------------------------------------------------

_followers: WeakKeyDictionary[Event[*tuple[Any, ...]], list[Event[()]]] = WeakKeyDictionary()


def at_trigger(event: Event[*Ts], then: Event[()]) -> None:
    """Trigger `then` when `event` has happened: when its slots have their values and who waits for
    it is on the way.

    A failure and a drop count as well, as in Tamer: it is about the end of waiting.  If `event` is
    spent already, `then` is triggered at once; if it is forgotten, `then` is dropped with it.  A
    bound method that was taken from `event` before does not know of `then`.
    """
    if not event.live and event._rendezvous is None:
        then.trigger()
        return
    _followers.setdefault(event, []).append(then)
    # Another class, so that events whom nobody follows pay nothing.
    if not issubclass(type(event), Followed):
        kind: Any = type(event)
        event.__class__ = followed(kind)


class Followed:
    """What the classes have in common whose events have followers."""

    __slots__ = ()


@cache
def followed(kind: type[Any]) -> type[Any]:
    """`kind`, and its events tell their followers."""

    def telling(method: Callable[..., None]) -> Callable[..., None]:
        def call(self: Any, *arguments: Any) -> None:
            live = self.live
            method(self, *arguments)
            if live and self._rendezvous is None:
                for then in _followers.pop(self, ()):
                    then.trigger()

        return call

    methods = {name: telling(getattr(kind, name)) for name in ("trigger", "fail", "lose")}
    members = {"__slots__": (), "__call__": methods["trigger"], **methods}
    return type(kind.__name__, (kind, Followed), members)
