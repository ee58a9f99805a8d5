"""Locks, semaphores, conditions, channels and windows: in order, and nothing for who has left."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tame import Event, LoopError, Rendezvous, mkevent, run, tamed, timer, twait
from tame.adapters import with_timeout
from tame.sync import Channel, Condition, Lock, Semaphore, window

pytestmark = pytest.mark.usefixtures("driver")


def test_a_lock_is_had_by_one_at_a_time_in_order() -> None:
    lock, log = Lock(), list[str]()

    @tamed
    def work(name: str, done: Event[()]) -> None:
        with twait:
            lock.acquire(mkevent())
        log.append(f"{name} begins")
        with twait:
            timer(0.001, mkevent())
        log.append(f"{name} ends")
        lock.release()
        done.trigger()

    @tamed
    def main() -> None:
        with twait:
            for name in "abc":
                work(name, mkevent())

    run(main)
    assert log == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]


def test_readers_share_a_lock_and_a_writer_is_not_starved() -> None:
    lock, had = Lock(), list[str]()

    @tamed
    def ask(name: str, how: Callable[[Event[()]], None]) -> None:
        with twait:
            how(mkevent())
        had.append(name)

    ask("reader 1", lock.acquire_shared)
    ask("reader 2", lock.acquire_shared)

    @tamed
    def main() -> None:
        ask("writer", lock.acquire)
        ask("reader 3", lock.acquire_shared)  # behind the writer, who else might never have it
        for expected in (["reader 1", "reader 2"], [], ["writer"], ["reader 3"]):
            with twait:
                timer(0, mkevent())
            assert had == expected
            had.clear()
            lock.release()
        with pytest.raises(LoopError, match="that is not held"):
            lock.release()

    run(main)


def test_who_has_given_up_holds_nothing() -> None:
    lock, permits, log = Lock(), Semaphore(1), list[str]()

    @tamed
    def main() -> None:
        for acquire, release in (
            (lock.acquire, lock.release),
            (lock.acquire_shared, lock.release),
            (permits.acquire, permits.release),
        ):
            with twait:
                lock.acquire(mkevent()) if acquire != permits.acquire else acquire(mkevent())
            try:
                with twait:
                    acquire(with_timeout(0.001, mkevent()))
            except TimeoutError:
                log.append("too late")
            release()
            with twait:
                acquire(mkevent())  # it is free
            release()
            log.append("free")

    run(main)
    assert log == ["too late", "free"] * 3


def test_permits_go_to_who_has_waited_longest() -> None:
    permits, had = Semaphore(2), list[int]()

    @tamed
    def ask(number: int) -> None:
        with twait:
            permits.acquire(mkevent())
        had.append(number)

    @tamed
    def main() -> None:
        for number in range(5):
            ask(number)
        for most in (2, 3, 4, 5, 5):
            with twait:
                timer(0, mkevent())
            assert had == list(range(most))
            permits.release()

    run(main)


def test_a_condition_wakes_one_or_all_that_wait_now() -> None:
    condition, woken = Condition(), list[int]()

    @tamed
    def wait(number: int) -> None:
        with twait:
            condition.wait(mkevent())
        woken.append(number)

    @tamed
    def main() -> None:
        for number in range(4):
            wait(number)
        condition.notify()
        with twait:
            timer(0, mkevent())
        assert woken == [0]
        condition.notify_all()
        condition.notify()  # nobody waits any more, and nothing is remembered
        with twait:
            timer(0, mkevent())
        assert woken == [0, 1, 2, 3]

    run(main)


# -- channels --------------------------------------------------------------------------------------


@given(
    room=st.integers(0, 3),
    putters=st.integers(1, 4),
    getters=st.integers(1, 4),
    number=st.integers(0, 30),
)
def test_every_value_is_taken_once_and_in_its_putters_order(
    room: int, putters: int, getters: int, number: int
) -> None:
    channel, taken = Channel[tuple[int, int]](room), list[tuple[int, int]]()

    @tamed
    def put_all(putter: int, done: Event[()]) -> None:
        for value in range(number):
            with twait:
                channel.put((putter, value), mkevent())
            assert len(channel) <= room
        done.trigger()

    @tamed
    def take() -> None:
        while True:
            value = (0, 0)
            with twait:
                channel.get(mkevent(value))
            taken.append(value)

    @tamed
    def main() -> None:
        for _ in range(getters):
            take()
        with twait:
            for putter in range(putters):
                put_all(putter, mkevent())
        with twait:
            timer(0, mkevent())

    with pytest.warns(match="still blocked"):
        run(main)
    assert sorted(taken) == [(p, v) for p in range(putters) for v in range(number)]
    for putter in range(putters):
        mine = [value for who, value in taken if who == putter]
        assert getters > 1 or mine == sorted(mine)


def test_who_has_given_up_takes_no_value_and_puts_none() -> None:
    channel = Channel[str]()

    @tamed
    def main() -> None:
        value = ""
        for late in range(2):
            try:
                with twait:
                    if late:
                        channel.put("nobody's", with_timeout(0.001, mkevent()))
                    else:
                        channel.get(with_timeout(0.001, mkevent(value)))
            except TimeoutError:
                value = "too late"
            assert value == "too late"
        with twait:
            channel.put("somebody's", mkevent())
            channel.get(mkevent(value))
        assert value == "somebody's"

    run(main)


# -- windows ---------------------------------------------------------------------------------------


def test_so_many_are_under_way_and_no_more() -> None:
    under_way, most, ended = 0, 0, list[int]()

    @tamed
    def one(number: int, done: Event[()]) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        with twait:
            timer(0.001 * (number % 3), mkevent())
        under_way -= 1
        ended.append(number)
        done.trigger()

    @tamed
    def main() -> None:
        with twait:
            window(3, range(20), one, mkevent())

    run(main)
    assert most == 3
    assert sorted(ended) == list(range(20))


def test_a_failure_ends_a_window() -> None:
    begun: list[int] = []

    def start(number: int, done: Event[()]) -> None:
        begun.append(number)
        if number == 1:
            done.fail(ZeroDivisionError("one of them"))
        else:
            timer(60, done)

    @tamed
    def main() -> None:
        with twait:
            window(2, range(20), start, mkevent())

    with pytest.raises(ZeroDivisionError, match="one of them"):
        run(main)
    assert begun == [0, 1]


def test_a_window_over_nothing_ends_at_once() -> None:
    @tamed
    def main() -> None:
        with twait:
            window(3, [], lambda item, done: done.trigger(), mkevent())

    run(main)


def forgotten() -> Event[()]:
    r = Rendezvous[None]()
    event = mkevent(r)
    r.cancel()
    return event


def test_who_has_given_up_before_asking_gets_no_permit() -> None:
    permits = Semaphore(1)
    permits.acquire(forgotten())
    seen = Event[()]()
    permits.acquire(seen)
    assert not seen.live


@pytest.mark.parametrize(
    "ask",
    [
        Condition().wait,
        Semaphore(0).acquire,
        Channel[int]().get,
        partial(Channel[int]().put, 1),
    ],
)
def test_who_has_given_up_leaves_nothing_behind(ask: Callable[[Event[()]], None]) -> None:
    """Even behind one that goes on waiting."""
    first = Event[()]()
    ask(first)
    gone = []
    for _ in range(1000):
        event = forgotten()
        gone.append(weakref.ref(event))
        ask(event)
        del event
    assert sum(ref() is not None for ref in gone) < 200
    assert first.live


@pytest.mark.parametrize("size", [0, -1])
def test_a_window_has_room_for_one_at_least(size: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        window(size, [1], lambda item, event: event.trigger(), Event())
