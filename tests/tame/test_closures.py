"""Closures: calls, the runnable queue, depth, errors and `blocked` (rules 6 to 8)."""

from __future__ import annotations

import gc
import logging
import sys
from typing import Any

import pytest

from tame import (
    BlockedWarning,
    Event,
    EventDroppedError,
    Rendezvous,
    blocked,
    mkevent,
    on_error,
    run,
    tamed,
    timer,
    twait,
)
from tame import closure as closures


def test_a_call_runs_in_the_callers_stack_up_to_the_first_wait_that_blocks() -> None:
    log: list[str] = []

    @tamed
    def worker(done: Event[()]) -> None:
        log.append("begins")
        with twait:
            mkevent().trigger()
        log.append("has not blocked")
        with twait:
            timer(0, mkevent())
        log.append("goes on")
        done.trigger()

    @tamed
    def main() -> None:
        with twait:
            assert worker(mkevent()) is None  # type: ignore[func-returns-value]
            log.append("back in the caller")

    run(main)
    assert log == ["begins", "has not blocked", "back in the caller", "goes on"]


def test_an_exception_before_the_first_block_reaches_the_caller() -> None:
    @tamed
    def worker() -> None:
        with twait:
            mkevent().trigger()
        raise KeyError("at once")

    with pytest.raises(KeyError, match="at once"):
        worker()


def test_an_exception_after_it_goes_to_the_error_handler_and_the_waiter_learns_of_it(
    caplog: pytest.LogCaptureFixture, reports: list[BaseException]
) -> None:
    seen: list[str] = []

    @tamed
    def inner(done: Event[()]) -> None:
        with twait:
            timer(0, mkevent())
        raise KeyError("later")

    @tamed
    def outer(done: Event[()]) -> None:
        inner(done)

    @tamed
    def main() -> None:
        try:
            with twait:
                outer(mkevent())
        except EventDroppedError:
            seen.append("dropped")

    with caplog.at_level(logging.ERROR, "tame"):
        run(main)
    assert seen == ["dropped"]
    (record,) = caplog.records
    message = record.getMessage().splitlines()
    assert message[0].endswith("inner ended with an exception")
    assert [line.rpartition(".")[2] for line in message[1:]] == ["outer", "main"]
    assert all("test_closures.py:" in line for line in message[1:])
    assert record.exc_info
    assert isinstance(record.exc_info[1], KeyError)
    reports.clear()


def test_an_exception_that_ends_the_closure_of_run_comes_out_of_run(driver: str) -> None:
    @tamed
    def main() -> None:
        with twait:
            timer(0, mkevent())
        raise KeyError("out")

    with pytest.raises(KeyError, match="out") as caught:
        run(main)
    inside = [entry for entry in caught.traceback if entry.name == "main"]
    assert len(inside) == 1


def test_the_error_handler_can_be_replaced() -> None:
    seen: list[Any] = []

    @tamed
    def dies() -> None:
        with twait:
            timer(0, mkevent())
        raise KeyError("x")

    @tamed
    def main() -> None:
        dies()
        with twait:
            timer(0.002, mkevent())

    before = on_error(lambda error, what, callers: seen.append((error, what, callers)))
    try:
        run(main)
    finally:
        on_error(before)
    ((error, what, callers),) = seen
    assert isinstance(error, KeyError)
    assert "dies ended" in what
    assert len(callers) == 1


def test_an_error_handler_that_fails_stops_nobody(
    driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []

    @tamed
    def dies() -> None:
        with twait:
            timer(0, mkevent())
        raise KeyError("first")

    @tamed
    def goes_on(done: Event[()]) -> None:
        with twait:
            timer(0, mkevent())
        log.append("goes on")
        done.trigger()

    @tamed
    def main() -> None:
        with twait:
            dies()
            goes_on(mkevent())

    def fails(error: BaseException, what: str, callers: list[str]) -> None:
        raise ValueError("second")

    before = on_error(fails)
    try:
        run(main)
    finally:
        on_error(before)
    assert log == ["goes on"]
    errors = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert [type(error) for error in errors] == [ValueError, KeyError]


def test_keyboard_interrupt_in_any_closure_ends_run(driver: str) -> None:
    @tamed
    def interrupted() -> None:
        with twait:
            timer(0, mkevent())
        raise KeyboardInterrupt

    @tamed
    def main() -> None:
        interrupted()
        with twait:
            timer(60, mkevent())

    with pytest.raises(KeyboardInterrupt):
        run(main)


# -- rule 8: depth -------------------------------------------------------------------------------


def test_a_million_synchronous_blocks_use_no_stack_and_leave_nothing() -> None:
    left: list[int] = []

    @tamed
    def main() -> None:
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(1_000_000):
            with twait:
                mkevent().trigger()
        left.append(sys.getallocatedblocks() - before)

    run(main)
    assert left[0] < 100


def test_a_chain_of_50_000_eager_calls_works() -> None:
    reached: list[int] = []

    @tamed
    def link(number: int, done: Event[int]) -> None:
        if number == 0:
            done.trigger(0)
        else:
            link(number - 1, done)

    @tamed
    def main() -> None:
        x = None
        with twait:
            link(50_000, mkevent(x))
        reached.append(x or 0)

    run(main)
    assert reached == [0]


def test_a_chain_of_50_000_calls_that_wait_for_each_other_works(driver: str) -> None:
    reached: list[int] = []

    @tamed
    def link(number: int, done: Event[int]) -> None:
        x = number
        if number < 50_000:
            with twait:
                link(number + 1, mkevent(x))
        done.trigger(x)

    @tamed
    def main() -> None:
        x = None
        with twait:
            link(0, mkevent(x))
        reached.append(x or 0)

    run(main)
    assert reached == [50_000]


def test_100_000_closures_block_at_once_and_all_go_on(driver: str) -> None:
    events: list[Any] = []
    count = 0

    @tamed
    def waiter(done: Event[()]) -> None:
        nonlocal count
        with twait:
            events.append(mkevent())
        count += 1
        done.trigger()

    @tamed
    def main() -> None:
        with twait:
            for _ in range(100_000):
                waiter(mkevent())
            assert len(closures.alive) == 100_000
            for event in events:
                event.trigger()

    run(main)
    assert count == 100_000


def test_closures_that_are_resumed_never_nest() -> None:
    depths: list[int] = []

    @tamed
    def waiter(r: Rendezvous[Any], following: Event[()]) -> None:
        import inspect

        twait(r)
        depths.append(len(inspect.stack(0)))
        following.trigger()

    @tamed
    def main() -> None:
        with twait:
            following: Event[()] = mkevent()
            for _ in range(100):
                r = Rendezvous[Any]()
                waiter(r, following)
                following = mkevent(r, None)
            following.trigger()

    run(main)
    assert len(set(depths)) == 1


# -- rule 6: the registry ------------------------------------------------------------------------


def test_blocked_lists_every_closure_that_waits_with_its_events() -> None:
    listed: list[Any] = []
    held: list[Any] = []

    @tamed
    def by_block() -> None:
        with twait:
            held.append(mkevent())
            held.append(mkevent())

    @tamed
    def by_rendezvous(r: Rendezvous[int]) -> None:
        held.append(mkevent(r, 1))
        twait(r)

    @tamed
    def main() -> None:
        by_block()
        by_rendezvous(Rendezvous[int]())
        listed.extend(blocked())
        for event in held:
            event.trigger()
        assert blocked() == []
        with twait:
            timer(0, mkevent())

    run(main)
    first, second = listed
    assert first.function.endswith("by_block")
    assert first.file == __file__
    lines = first.events
    assert len(lines) == 2
    assert all(line.startswith(f"{__file__}:") for line in lines)
    assert first.line < int(lines[0].rpartition(":")[2])
    assert first.seconds >= 0
    assert first.callers[0].endswith("main")
    assert second.function.endswith("by_rendezvous")
    assert len(second.events) == 1
    assert str(second).endswith(second.events[0])


def test_run_that_ends_with_blocked_closures_says_so_and_closes_them(driver: str) -> None:
    log: list[str] = []
    held: list[Any] = []

    @tamed
    def forgotten() -> None:
        try:
            with twait:
                held.append(mkevent())
        finally:
            log.append("closed")

    @tamed
    def main() -> None:
        forgotten()

    with pytest.warns(BlockedWarning, match=r"1 closure is still blocked:\n.*forgotten at"):
        run(main)
    assert log == ["closed"]
    held[0].trigger()


# -- memory --------------------------------------------------------------------------------------


def test_waits_of_every_kind_leave_no_memory_behind(driver: str) -> None:
    left: list[int] = []

    @tamed
    def main() -> None:
        r = Rendezvous[int]()
        a = [0]
        for _ in range(3):
            gc.collect()
            before = sys.getallocatedblocks()
            for number in range(5_000):
                with twait:
                    mkevent(a[0]).trigger(0)
                mkevent(r, 1).trigger()
                twait(r)
                if number % 10 == 0:
                    with twait:
                        timer(0, mkevent())
            left.append(sys.getallocatedblocks() - before)

    run(main)
    assert left[-1] < 100
