"""Calls on threads, and threads that wait for events."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Callable

import pytest

from tame import (
    BlockedWarning,
    DeadlockError,
    Event,
    LoopError,
    mkevent,
    run,
    tamed,
    timer,
    tvars,
    twait,
)
from tame.adapters import bind
from tame.drivers import DRIVERS
from tame.threads import Pool, fork, wait_in_thread

MAIN = threading.current_thread()


@pytest.fixture(autouse=True, params=DRIVERS)
def on(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where time is real: a thread takes no virtual time."""
    monkeypatch.setenv("TAME_DRIVER", request.param)


def test_a_call_that_blocks_is_made_on_a_thread_and_its_result_comes_to_the_loop() -> None:
    seen: list[threading.Thread] = []
    together = threading.Barrier(3)

    def work(number: int) -> int:
        seen.append(threading.current_thread())
        together.wait(20)  # three at once, and the loop waits for none of them
        return number * number

    @tamed
    def main() -> None:
        squares = [0, 0, 0]
        with twait:
            for number in range(3):
                fork(mkevent(squares[number]), work, number)
            timer(0, mkevent())
        assert squares == [0, 1, 4]
        assert threading.current_thread() is MAIN

    run(main)
    assert MAIN not in seen
    assert len(set(seen)) == 3


def test_an_exception_is_raised_where_one_waits() -> None:
    def work() -> int:
        raise ZeroDivisionError("on a thread")

    @tamed
    def main() -> None:
        with tvars:
            result: int
        with twait:
            fork(mkevent(result), work)

    with pytest.raises(ZeroDivisionError, match="on a thread"):
        run(main)


def test_a_pool_has_so_many_threads_and_no_more() -> None:
    pool = Pool(2)
    running, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with lock:
            running -= 1

    @tamed
    def main() -> None:
        nothing: list[None] = [None] * 50
        with twait:
            for number in range(50):
                pool.fork(mkevent(nothing[number]), work)

    run(main)
    assert 1 <= most <= 2


def test_the_result_of_a_forgotten_call_is_let_go() -> None:
    may_end = threading.Event()

    @tamed
    def main() -> None:
        result = "nothing"
        try:
            with twait:
                fork(mkevent(result), may_end.wait, 20)  # type: ignore[arg-type]
                raise KeyError
        except KeyError:
            may_end.set()
        with twait:
            fork(mkevent(result), str, 5)
        assert result == "5"

    run(main)


def test_an_idle_thread_holds_on_to_nothing() -> None:
    class Thing:
        pass

    gone: list[bool] = []

    @tamed
    def main() -> None:
        thing: Thing | None = Thing()
        result: Thing | None = None
        seen = weakref.ref(thing)
        with twait:
            fork(mkevent(result), lambda given: given, thing)
        del thing, result
        with twait:
            timer(0, mkevent())
        gone.append(seen() is None)

    run(main)
    assert gone == [True]


def test_where_no_thread_can_be_started_the_call_is_made_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool = Pool()
    monkeypatch.setattr(threading.Thread, "start", start)

    @tamed
    def main() -> None:
        result = 0
        with twait:
            pool.fork(mkevent(result), int, "7")
        assert result == 7

    run(main)
    assert "cannot start a thread" in caplog.text


def test_a_thread_waits_for_what_the_loop_does() -> None:
    """The paper's threads and events in one program."""

    @tamed
    def lookup(name: str, done: Event[str]) -> None:
        with twait:
            timer(0.001, mkevent())
        done.trigger(f"address of {name}")

    def work() -> list[str]:
        return [
            wait_in_thread(lambda e, name=name: lookup(name, e))  # type: ignore[misc]
            for name in ("one", "two")
        ]

    @tamed
    def main() -> None:
        with tvars:
            found: list[str]
        with twait:
            fork(mkevent(found), work)
        assert found == ["address of one", "address of two"]

    run(main)


def test_what_an_event_fails_with_is_raised_on_the_thread() -> None:
    def lost(event: Event[int]) -> None:
        """Nobody keeps it."""

    def work() -> list[str]:
        said = []
        for begin in (lambda e: e.fail(KeyError("gone")), lost):
            try:
                wait_in_thread(begin)
            except Exception as error:
                said.append(type(error).__name__)
        wait_in_thread(lambda e: timer(0, bind(e, None)))
        return said

    @tamed
    def main() -> None:
        with tvars:
            said: list[str]
        with twait:
            fork(mkevent(said), work)
        assert said == ["KeyError", "EventDroppedError"]

    run(main)


def test_only_a_thread_of_the_loop_may_wait_and_only_in_run_may_one_be_forked() -> None:
    with pytest.raises(LoopError, match="twait"):
        wait_in_thread(lambda e: e.trigger(1))
    with pytest.raises(LoopError, match="needs a running loop"):
        fork(Event[int](), int)


def test_the_end_of_the_loop_waits_for_no_thread_for_ever() -> None:
    said: list[str] = []
    waiting = threading.Event()

    def never(event: Event[int]) -> None:
        kept.append(event)
        waiting.set()

    kept: list[Event[int]] = []

    def work() -> None:
        try:
            wait_in_thread(never)
        except LoopError as error:
            said.append(str(error))

    @tamed
    def wait_for_ever() -> None:
        with tvars:
            nothing: None
        with twait:
            fork(mkevent(nothing), work)

    @tamed
    def main() -> None:
        wait_for_ever()
        with twait:
            timer(0, mkevent())
        while not waiting.is_set():
            with twait:
                timer(0.001, mkevent())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(main)
    assert "the loop has ended" in said[0]
    kept.clear()


def test_a_program_that_is_stuck_after_a_call_is_told_so() -> None:
    """A thread that is left over could do nothing about it."""

    @tamed
    def main() -> None:
        result, kept = 0, []
        with twait:
            fork(mkevent(result), int, "7")
        with twait:
            kept.append(mkevent())

    with pytest.raises(DeadlockError):
        run(main)
    assert not [thread for thread in threading.enumerate() if thread.name == "tame"]


def test_what_ends_a_thread_ends_no_pool() -> None:
    """`sys.exit` in a call, say."""
    pool = Pool(1)
    said: list[str] = []
    results: list[int] = []

    @tamed
    def main() -> None:
        result = 0
        try:
            with twait:
                pool.fork(mkevent(result), sys.exit, "enough")
        except SystemExit as error:
            said.append(str(error))
        with twait:
            pool.fork(mkevent(result), int, "7")
        results.append(result)

    run(main)
    assert (said, results) == (["enough"], [7])


def stuck_at_the_end(pool: Pool, number: int, call: Callable[[], object]) -> list[threading.Thread]:
    """A run that ends while so many calls are under way; their threads."""
    threads: list[threading.Thread] = []

    def begin() -> object:
        threads.append(threading.current_thread())
        return call()

    @tamed
    def wait_for_ever() -> None:
        with tvars:
            nothing: object
        with twait:
            for _ in range(number):
                pool.fork(mkevent(nothing), begin)

    @tamed
    def main() -> None:
        wait_for_ever()
        while len(threads) < number:
            with twait:
                timer(0.001, mkevent())

    with pytest.warns(BlockedWarning):
        run(main)
    return threads


def test_many_threads_that_do_not_end_are_waited_for_no_longer_than_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tame.threads.JOIN_TIMEOUT", 0.2)
    go = threading.Event()
    began = time.monotonic()
    stuck_at_the_end(Pool(16), 16, go.wait)
    assert time.monotonic() - began < 16 * 0.2
    go.set()


def test_a_call_of_an_earlier_run_is_no_business_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tame.threads.JOIN_TIMEOUT", 0.0)
    pool, go = Pool(2), threading.Event()
    results: list[str] = []

    def last() -> str:
        go.set()
        for thread in left_over:
            thread.join()
        return "last"

    @tamed
    def main() -> None:
        result = ""
        with twait:
            pool.fork(mkevent(result), last)
        results.append(result)

    left_over = stuck_at_the_end(pool, 2, go.wait)
    run(main)
    assert results == ["last"]


def test_a_thread_that_asks_when_the_loop_has_ended_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tame.threads.JOIN_TIMEOUT", 0.0)
    pool, go = Pool(1), threading.Event()
    said: list[str] = []

    def late() -> None:
        go.wait()
        try:
            wait_in_thread(lambda event: event.trigger(1))
        except LoopError as error:
            said.append(str(error))

    left_over = stuck_at_the_end(pool, 1, late)
    go.set()
    for thread in left_over:
        thread.join(10)
    assert "the loop has ended" in said[0]


def test_where_no_thread_can_be_started_none_can_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's own would wait for itself."""

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)

    @tamed
    def main() -> None:
        result = 0
        with twait:
            fork(mkevent(result), lambda: wait_in_thread(lambda event: event.trigger(1)))

    with pytest.raises(LoopError, match="only a thread of fork"):
        run(main)
