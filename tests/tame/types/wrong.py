"""What `mypy --strict` must refuse: at each line with ``# E: code``, and only there."""

# ruff: noqa: B018

from __future__ import annotations

from collections.abc import Callable

from tame import READ, Event, Rendezvous, mkevent, on_error, run, tamed, timer, twait, wait_on_fd
from tame.adapters import (
    add_timeout,
    all_of,
    any_of,
    at_trigger,
    bind,
    into,
    map_event,
    with_timeout,
)
from tame.aio import as_future, start
from tame.sync import Channel, Lock, window
from tame.threads import fork


class Box:
    f: bytes = b""


@tamed
def wants_nothing(e: Event[()]) -> None:
    e.trigger(1)  # E: call-arg


@tamed
def wants_int(e: Event[int]) -> None:
    e.trigger("x")  # E: arg-type


@tamed
def wants_both(e: Event[int, str], note: str = "") -> None:
    e.trigger("x", 1)  # E: arg-type


def triggers() -> None:
    Event[int]().trigger("x")  # E: arg-type
    Event[int]().trigger()  # E: call-arg
    Event[int]().trigger(1, 2)  # E: call-arg
    Event[int]()("x")  # E: arg-type
    Event[int]()()  # E: call-arg
    Event[int]().trigger(value=1)  # E: call-arg
    Event[int]().fail("x")  # E: arg-type
    Event[int](1)  # E: call-arg
    Event[int]().live = False  # E: misc
    Event[int]().triger(1)  # E: attr-defined


def events_passed_on(s: Event[str], n: Event[()], both: Event[str, int]) -> None:
    wants_int(s)  # E: arg-type
    wants_int(n)  # E: arg-type
    wants_nothing(s)  # E: arg-type
    wants_both(both)  # E: arg-type
    wants_int(lambda value: None)  # E: arg-type
    f: Callable[[int], None] = s  # E: assignment
    f(1)


@tamed
def slots() -> None:
    i = 0
    s = ""
    box = Box()
    a = [""]
    maybe: int | None = None
    with twait:
        wants_int(mkevent(s))  # E: arg-type
        wants_int(mkevent(a[0]))  # E: arg-type
        wants_int(mkevent(box.f))  # E: arg-type
        wants_int(mkevent(maybe))  # E: arg-type
        wants_int(mkevent())  # E: call-arg
        wants_int(mkevent(i, i))  # E: call-arg
        wants_both(mkevent(i))  # E: call-arg
        wants_both(mkevent(s, i))  # E: arg-type call-arg
        wants_nothing(mkevent(i))  # E: call-arg
        wants_int(mkevent(nowhere))  # E: name-defined
        wants_int(mkevent(box.g))  # E: attr-defined arg-type
        wants_int(mkevent(slot=i))  # E: call-overload


@tamed
def rendezvous() -> None:
    r = Rendezvous[int]()
    plain = Rendezvous[None]()
    s = ""
    wants_nothing(mkevent(r, "one"))  # E: call-arg misc
    e = mkevent(r, "one")
    wants_nothing(e)  # E: arg-type
    wants_int(mkevent(r, 1, s))  # E: arg-type call-arg
    wants_int(mkevent(r, 1))  # E: call-arg
    wants_nothing(mkevent(r))  # E: arg-type
    s = twait(r)  # E: assignment
    twait(plain).bit_length()  # E: attr-defined
    twait()  # E: call-arg
    twait(1)  # E: arg-type
    twait(r, 1)  # E: call-arg
    twait(Rendezvous[int])  # E: arg-type
    Rendezvous[int](1)  # E: call-arg
    r.cancel(1)  # E: call-arg
    other: Rendezvous[str] = r  # E: assignment
    other.cancel()


def primitives(i: Event[int], n: Event[()]) -> None:
    timer(1, i)  # E: arg-type
    timer("1", n)  # E: arg-type
    timer(n, 1)  # E: arg-type
    timer(1)  # E: call-arg
    wait_on_fd(0, READ, i)  # E: arg-type
    wait_on_fd("0", READ, n)  # E: arg-type
    wait_on_fd(0, "r", n)  # E: arg-type
    wait_on_fd(0, n)  # E: call-arg
    wait_on_fd(READ, n, 0)  # E: arg-type


@tamed  # E: type-var
def returns() -> int:
    return 1


class Server:
    @tamed
    def serve(self, fd: int, done: Event[()]) -> None:
        done.trigger()


def calls(i: Event[int], n: Event[()]) -> None:
    wants_int(1)  # E: arg-type
    wants_int()  # E: call-arg
    wants_int(i, i)  # E: call-arg
    wants_both(Event[int, str](), note=1)  # E: arg-type
    wants_both(Event[int, str](), text="")  # E: call-arg
    x: int = wants_int(i)  # E: assignment
    timer(wants_int(i), n)  # E: arg-type
    wants_int(i).real  # E: attr-defined
    wants_int(i) + x  # E: operator
    Server().serve("0", n)  # E: arg-type
    Server.serve(0, n)  # E: call-arg


def program() -> None:
    run(1)  # E: arg-type
    run()  # E: call-arg
    run(lambda: 1)  # E: arg-type
    run(wants_int(Event()))  # E: arg-type
    run(wants_int, Event[int](), driver=1)  # E: arg-type
    on_error(print)
    on_error(lambda error: None)  # E: arg-type misc


def adapters(n: Event[()], i: Event[int], both: Event[int, str]) -> None:
    bind(both, 1)  # E: misc
    bind(both, "one", 1)  # E: misc
    wants_nothing(with_timeout(1, both))  # E: arg-type
    wants_both(any_of(i, 2)[0])  # E: arg-type
    all_of(i, 2)  # E: arg-type
    add_timeout(i, 1)  # E: arg-type
    map_event(i, str)  # E: arg-type
    wants_int(map_event(i, len))  # E: arg-type
    into([""], n).trigger(1)  # E: arg-type
    at_trigger(n, i)  # E: arg-type


def coordination(n: Event[()], i: Event[int]) -> None:
    Lock().acquire(i)  # E: arg-type
    Channel[int](1).put("one", n)  # E: arg-type
    Channel[str](1).get(i)  # E: arg-type
    window(3, [1], lambda item, e: item.upper(), n)  # E: attr-defined
    window(3, [1], lambda item, e: e.trigger(), i)  # E: arg-type


async def coroutine() -> str:
    number: str = await as_future(wants_int)  # E: arg-type
    return number


def surroundings(i: Event[int]) -> None:
    fork(i, str)  # E: arg-type
    start(coroutine(), i)  # E: misc
