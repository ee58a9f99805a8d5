"""What `mypy --strict` must accept, and the types that it must see (`test_types.py`)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TypeVar, assert_type

from tame import (
    READ,
    WRITE,
    Blocked,
    Descriptor,
    Event,
    Rendezvous,
    blocked,
    mkevent,
    on_error,
    run,
    tamed,
    timer,
    tvars,
    twait,
    wait_on_fd,
)
from tame.adapters import (
    add_timeout,
    all_of,
    any_of,
    at_trigger,
    bind,
    into,
    map_event,
    unblocker,
    with_timeout,
)
from tame.aio import as_future, run_inside, start
from tame.net import Address, Stream, accept, connect, resolve
from tame.process import at_signal, child_exit
from tame.sync import Channel, Condition, Lock, Semaphore, window
from tame.threads import fork, wait_in_thread

T = TypeVar("T")


class Box:
    f: bytes = b""


@tamed
def wants_nothing(e: Event[()]) -> None:
    e.trigger()
    e()


@tamed
def wants_int(e: Event[int]) -> None:
    e.trigger(1)
    e(1)
    e.fail(ValueError("no int"))


@tamed
def wants_both(e: Event[int, str], note: str = "") -> None:
    e.trigger(1, note)


@tamed
def gives_back(value: T, e: Event[T]) -> None:
    e.trigger(value)


def callback(f: Callable[[int], None]) -> None:
    f(1)


class Server:
    @tamed
    def serve(self, fd: int, done: Event[()]) -> None:
        with twait:
            wait_on_fd(fd, READ, mkevent())
        done.trigger()


@tamed
def blocks() -> None:
    with tvars:
        i: int
        s: str
        a = [0]
        d: dict[str, int] = {}
        box = Box()
        maybe: str | None = None
    with twait:
        wants_nothing(mkevent())
        wants_int(mkevent(i))
        wants_int(mkevent(a[0]))
        wants_int(mkevent(d["one"]))
        wants_both(mkevent(i, s), note="n")
        gives_back(b"b", mkevent(box.f))
        gives_back(maybe, mkevent(maybe))
        callback(mkevent(i))
        Server().serve(0, mkevent())
    assert_type(mkevent(), Event[()])
    assert_type(mkevent(i, s, box.f), Event[int, str, bytes])
    assert_type(mkevent(maybe), Event[str | None])


@tamed
def rendezvous() -> None:
    with tvars:
        r = Rendezvous[int]()
        plain = Rendezvous[None]()
        pairs: Rendezvous[tuple[str, int]] = Rendezvous()
        s: str
    wants_nothing(mkevent(r, 1))
    gives_back("s", mkevent(r, 2, s))
    assert_type(mkevent(r, 2, s), Event[str])
    assert_type(twait(r), int)
    assert_type(mkevent(plain), Event[()])
    twait(plain)
    wants_nothing(mkevent(pairs, ("a", 1)))
    name, number = twait(pairs)
    assert_type(name, str)
    assert_type(number, int)
    r.cancel()


def primitives(fd: Descriptor, s: socket.socket) -> None:
    timer(1, Event())
    timer(0.5, Event[()]())
    wait_on_fd(0, READ, Event())
    wait_on_fd(fd, WRITE, Event())
    wait_on_fd(s, READ | WRITE, Event())
    fd.close()


def program() -> None:
    e = Event[int, str]()
    assert_type(e.live, bool)
    assert_type(e.site, str)
    run(wants_both, e)
    run(wants_both, e, driver="epoll")
    run(Server().serve, 0, Event())
    assert_type(blocked(), list[Blocked])
    on_error(lambda error, what, callers: print(error, what, *callers))


def adapters(
    n: Event[()], i: Event[int], both: Event[int, str], ok: Event[bool, int | None]
) -> None:
    assert_type(bind(both, 1, "one"), Event[()])
    assert_type(unblocker(both), Event[()])
    assert_type(with_timeout(1, both), Event[int, str])
    assert_type(any_of(both, 2), list[Event[int, str]])
    assert_type(all_of(n, 2), list[Event[()]])
    wants_int(add_timeout(ok, 1))
    lengths: Event[str] = map_event(i, len)
    lengths.trigger("four")
    values: list[int] = []
    wants_int(into(values, n))
    at_trigger(both, n)


@tamed
def coordination(n: Event[()]) -> None:
    with tvars:
        s: str
        channel = Channel[str](2)
    with twait:
        Lock().acquire(mkevent())
        Lock().acquire_shared(with_timeout(1, mkevent()))
        Semaphore(1).acquire(mkevent())
        Condition().wait(mkevent())
        channel.put("one", mkevent())
        channel.get(mkevent(s))
        window(3, range(10), lambda item, e: bind(e).trigger(), n)


async def coroutine() -> str:
    await run_inside(wants_int, Event[int]())
    assert_type(await as_future(wants_int), int)
    return ""


@tamed
def surroundings(listener: Descriptor) -> None:
    with tvars:
        i: int
        s: str
        data: bytes
        stream: Stream
        found: list[tuple[socket.AddressFamily, Address]]
    with twait:
        fork(mkevent(i), len, "four")
        fork(mkevent(i), lambda: wait_in_thread(wants_int))
        start(coroutine(), mkevent(s))
        resolve("localhost", 80, mkevent(found))
        accept(listener, mkevent(stream))
        connect(socket.AF_INET, ("127.0.0.1", 80), mkevent(stream))
        stream.read(10, mkevent(data))
        stream.write(data, mkevent())
        child_exit(1, mkevent(i))
        at_signal(1, mkevent())
