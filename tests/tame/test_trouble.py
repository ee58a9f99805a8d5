"""What must hold when things go wrong in unlikely places: while `run` closes, in finalizers, in
callbacks of a driver, with descriptors that were closed behind the loop's back."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import threading
import warnings
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from tame import (
    READ,
    WRITE,
    BlockedWarning,
    DeadlockError,
    Descriptor,
    Event,
    EventDroppedError,
    LoopError,
    Rendezvous,
    RendezvousBusyError,
    blocked,
    mkevent,
    on_error,
    run,
    tamed,
    timer,
    twait,
    wait_on_fd,
)
from tame import closure as closures
from tame import loop as loops

pytestmark = pytest.mark.usefixtures("driver")


@tamed
def sleep(seconds: float, done: Event[()]) -> None:
    with twait:
        timer(seconds, mkevent())
    done.trigger()


@tamed
def soon(call: Callable[[], Any]) -> None:
    with twait:
        timer(0, mkevent())
    call()


def still_works() -> None:
    @tamed
    def main() -> None:
        with twait:
            timer(0, mkevent())

    run(main)


# -- closing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ValueError])
def test_whatever_is_raised_while_run_closes_the_next_run_works(
    error: type[BaseException], reports: list[BaseException]
) -> None:
    closed: list[int] = []
    held: list[Any] = []

    @tamed
    def stubborn(number: int) -> None:
        try:
            with twait:
                held.append(mkevent())
        finally:
            closed.append(number)
            if number == 1:
                raise error

    @tamed
    def main() -> None:
        for number in range(3):
            stubborn(number)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlockedWarning)
        with nullcontext() if error is ValueError else pytest.raises(error):
            run(main)
    assert closed == [2, 1, 0]
    assert [type(report) for report in reports] == [ValueError] * (error is ValueError)
    reports.clear()
    still_works()


def test_nothing_can_wait_any_more_while_run_closes(reports: list[BaseException]) -> None:
    """So that closing ends, whatever a ``finally`` starts."""
    held: list[Any] = []

    @tamed
    def phoenix(lives: int) -> None:
        try:
            with twait:
                held.append(mkevent())
        finally:
            if lives:
                phoenix(lives - 1)

    @tamed
    def main() -> None:
        phoenix(9)

    with pytest.warns(BlockedWarning):
        run(main)
    (report,) = reports
    assert isinstance(report, LoopError)
    assert "nothing can wait any more" in str(report)
    reports.clear()


def test_run_inside_an_asyncio_loop_is_refused_and_does_no_harm() -> None:
    async def program() -> None:
        with pytest.raises(LoopError, match="an asyncio loop is already running in this thread"):
            run(lambda: None)

    asyncio.run(program())
    still_works()


def test_tasks_that_are_left_are_cancelled(driver: str) -> None:
    if driver in ("epoll", "virtual"):
        pytest.skip("this driver runs nothing but Tame")
    ends: list[str] = []

    async def foreign() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    tasks: list[Any] = []

    @tamed
    def main() -> None:
        active: Any = loops.active
        tasks.append(active.loop.create_task(foreign()))
        with twait:
            timer(0.001, mkevent())

    run(main)
    assert ends == ["cancelled"]


def test_run_of_something_that_returns_a_value_is_refused() -> None:
    def generator() -> Any:
        yield

    with pytest.raises(TypeError, match="returns None, not <generator"):
        run(generator)


def test_a_run_leaves_no_timer_to_the_collector() -> None:
    @tamed
    def main() -> None:
        r = Rendezvous[int]()
        timer(3600, mkevent(r, 1))
        with twait:
            timer(0, mkevent())
        raise KeyError("out")

    gc.collect()
    gc.disable()
    try:
        with pytest.raises(KeyError):
            run(main)
        kinds = [type(thing).__name__ for thing in gc.get_objects()]
        assert "TimerHandle" not in kinds
        assert "_Run" not in kinds
    finally:
        gc.enable()


# -- the end of run ------------------------------------------------------------------------------


def test_of_several_errors_none_is_lost(reports: list[BaseException]) -> None:
    @tamed
    def fails(error: BaseException) -> None:
        with twait:
            timer(0, mkevent())
        raise error

    def two(*errors: BaseException) -> None:
        for error in errors:
            fails(error)

    with pytest.raises(ValueError, match="first"):
        run(two, ValueError("first"), KeyError("second"))
    assert [type(report) for report in reports] == [KeyError]
    reports.clear()
    with pytest.raises(KeyboardInterrupt):
        run(two, ValueError("first"), KeyboardInterrupt())
    assert [type(report) for report in reports] == [ValueError]
    reports.clear()


def test_run_waits_for_calls_too_deep_to_begin_at_once() -> None:
    reached: list[int] = []

    @tamed
    def link(number: int) -> None:
        reached.append(number)
        if number:
            link(number - 1)

    run(link, 200)
    assert len(reached) == 201


def test_a_deadlock_is_seen_past_descriptors_and_timers_that_nobody_waits_for() -> None:
    left, right = (Descriptor(end.detach()) for end in socket.socketpair())
    held: list[Any] = []

    @tamed
    def main() -> None:
        r = Rendezvous[int]()
        with twait:
            wait_on_fd(left, READ, mkevent())
            os.write(right.fd, b"x")
        timer(3600, mkevent(r, 1))
        wait_on_fd(right, READ, mkevent(r, 2))
        r.cancel()
        with twait:
            held.append(mkevent())

    with pytest.raises(DeadlockError):
        run(main)
    left.close()
    right.close()


def test_an_event_that_only_garbage_holds_is_dropped_before_a_deadlock_is_declared() -> None:
    @tamed
    def main() -> None:
        with twait:
            cycle: list[Any] = [mkevent()]
            cycle.append(cycle)
            del cycle

    with pytest.raises(EventDroppedError):
        run(main)


def test_a_dead_weak_proxy_anywhere_does_not_stop_the_listing() -> None:
    class Thing:
        pass

    proxy = weakref.proxy(Thing())
    assert blocked() == []
    del proxy


# -- callbacks of a driver -----------------------------------------------------------------------


def test_an_exception_in_the_loop_itself_comes_out_of_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(Event[()]):
        """What an adapter with an error would be."""

        __slots__ = ()

        def trigger(self) -> None:
            raise ZeroDivisionError

    left, right = socket.socketpair()

    @tamed
    def by_timer() -> None:
        with twait:
            timer(0, Odd())
            timer(60, mkevent())

    @tamed
    def by_descriptor() -> None:
        with twait:
            wait_on_fd(left, READ, Odd())
            right.send(b"x")
            timer(60, mkevent())

    for main in (by_timer, by_descriptor):
        with pytest.raises(ZeroDivisionError):
            run(main)
    left.close()
    right.close()
    still_works()


def test_at_most_one_turn_is_queued_however_much_is_runnable(
    driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a lasting backlog, joined by timers, would take the loop over."""
    if driver in ("epoll", "virtual"):
        pytest.skip("this driver has no queue of turns")
    monkeypatch.setattr(closures, "RESUMES", range(3))
    queued = most = 0

    @tamed
    def restless(stop: list[bool], done: Event[()]) -> None:
        r = Rendezvous[None]()
        other = Rendezvous[None]()
        echo(r, other, stop)
        while not stop:
            mkevent(r, None).trigger()
            twait(other)
        mkevent(r, None).trigger()
        done.trigger()

    @tamed
    def echo(r: Rendezvous[None], other: Rendezvous[None], stop: list[bool]) -> None:
        while not stop:
            twait(r)
            mkevent(other, None).trigger()

    @tamed
    def main() -> None:
        nonlocal queued, most
        active: Any = loops.active
        turn = active._turn
        stop: list[bool] = []

        def counted() -> None:
            nonlocal queued
            queued -= 1
            turn()

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return getattr(loop, name)

            def call_soon(self, callback: Any, *args: Any) -> Any:
                nonlocal queued, most
                if callback == active._turn:
                    queued += 1
                    most = max(most, queued)
                return loop.call_soon(callback, *args)

            call_soon_threadsafe = call_soon

        loop, active._turn, active.loop = active.loop, counted, Counting()
        with twait:
            for _ in range(10):
                restless(stop, mkevent())
            ring(20, stop)
        active.loop = loop

    @tamed
    def ring(times: int, stop: list[bool]) -> None:
        for _ in range(times):
            with twait:
                timer(0, mkevent())
        stop.append(True)

    run(main)
    assert most == 1


def test_a_trigger_in_a_signal_handler_wakes_the_loop() -> None:
    held: list[Any] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: held.pop().trigger())
    left, right = socket.socketpair()

    @tamed
    def main() -> None:
        r = Rendezvous[int]()
        wait_on_fd(left, READ, mkevent(r, 1))  # so that it is no deadlock
        held.append(mkevent(r, 2))
        thread = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGUSR1))
        thread.start()
        assert twait(r) == 2
        thread.join()
        r.cancel()

    run(main)
    signal.signal(signal.SIGUSR1, before)
    left.close()
    right.close()


def test_an_error_handler_may_start_a_tamed_function() -> None:
    log: list[str] = []

    @tamed
    def notify() -> None:
        with twait:
            timer(0, mkevent())
        log.append("notified")

    @tamed
    def dies() -> None:
        with twait:
            timer(0, mkevent())
        raise KeyError

    @tamed
    def main() -> None:
        dies()
        with twait:
            timer(0.005, mkevent())

    before = on_error(lambda *_: notify())
    try:
        run(main)
    finally:
        on_error(before)
    assert log == ["notified"]


def test_a_finalizer_may_start_a_tamed_function() -> None:
    log: list[str] = []

    class Thing:
        def __del__(self) -> None:
            notify()

    @tamed
    def notify() -> None:
        with twait:
            timer(0, mkevent())
        log.append("notified")

    @tamed
    def holds() -> None:
        thing = Thing()
        with twait:
            timer(0, mkevent())
        assert thing

    @tamed
    def main() -> None:
        holds()
        with twait:
            timer(0.005, mkevent())

    run(main)
    assert log == ["notified"]


# -- events --------------------------------------------------------------------------------------


def test_an_event_that_is_finalized_and_then_triggered_counts_once() -> None:
    """The collector finalizes all of a cycle before it frees any of it."""
    held: list[Any] = []
    log: list[str] = []

    class Late:
        def __init__(self, event: Any) -> None:
            self.event = event
            self.cycle = self

        def __del__(self) -> None:
            closures_of_cycle.append(self.event)
            self.event.__del__()
            self.event.trigger()

    closures_of_cycle: list[Any] = []

    @tamed
    def waiter(done: Event[()]) -> None:
        try:
            with twait:
                Late(mkevent())
                held.append(mkevent())
        except EventDroppedError:
            log.append("dropped")
        done.trigger()

    @tamed
    def main() -> None:
        with twait:
            waiter(mkevent())
            gc.collect()
            log.append("still waits" if held[0].live else "does not")
            soon(held[0].trigger)

    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("TAME_STRICT")
        run(main)
    assert log == ["still waits", "dropped"]


def test_an_error_in_a_slot_of_a_rendezvous_leaves_no_cycle(
    reports: list[BaseException],
) -> None:
    @tamed
    def main() -> None:
        a: list[int] = []
        r = Rendezvous[int]()
        mkevent(r, 1, a[3]).trigger(1)

    main()
    gc.collect()
    main()
    assert [type(report) for report in reports] == [IndexError, IndexError]
    reports.clear()
    assert gc.collect() == 0


@pytest.mark.parametrize("form", ["block", "rendezvous"])
def test_a_slot_that_ends_the_program_leaves_nobody_waiting(form: str) -> None:
    class Exit:
        @property
        def x(self) -> int:
            return 0

        @x.setter
        def x(self, value: int) -> None:
            raise SystemExit(value)

    log: list[object] = []

    @tamed
    def main() -> None:
        out = Exit()
        r = Rendezvous[int]()
        try:
            if form == "block":
                with twait:
                    event = mkevent(out.x)
                    with pytest.raises(SystemExit):
                        event.trigger(3)
            else:
                with pytest.raises(SystemExit):
                    mkevent(r, 1, out.x).trigger(3)
                twait(r)
        except SystemExit as error:
            log.append(error.code)

    run(main)
    assert log == [3]


def test_only_an_exception_can_be_handed_over() -> None:
    wrong: Any = "text"

    @tamed
    def main() -> None:
        r = Rendezvous[int]()
        with twait:
            for event in (mkevent(), mkevent(r, 1), Event[()]()):
                with pytest.raises(TypeError, match="takes an exception, such as ValueError"):
                    event.fail(wrong)
                assert event.live
                event.trigger()
        twait(r)

    run(main)


def test_a_closure_that_dies_of_a_busy_rendezvous_drops_its_events() -> None:
    errors: list[BaseException] = []
    log: list[str] = []

    @tamed
    def first(r: Rendezvous[int]) -> None:
        twait(r)

    @tamed
    def second(r: Rendezvous[int], done: Event[()]) -> None:
        with twait:
            timer(0, mkevent())
        twait(r)
        done.trigger()

    @tamed
    def main() -> None:
        r = Rendezvous[int]()
        event = mkevent(r, 1)
        first(r)
        try:
            with twait:
                second(r, mkevent())
        except EventDroppedError:
            log.append("dropped")
        event.trigger()
        with twait:
            timer(0, mkevent())

    before = on_error(lambda error, *_: errors.append(error))
    try:
        run(main)
    finally:
        on_error(before)
    assert log == ["dropped"]
    assert [type(error) for error in errors] == [RendezvousBusyError]


# -- descriptors ---------------------------------------------------------------------------------


def test_a_descriptor_serves_one_run_after_another() -> None:
    left, right = (Descriptor(end.detach()) for end in socket.socketpair())
    kept: list[Any] = []

    @tamed
    def first() -> None:
        kept.append(Rendezvous[int]())
        kept.append(mkevent(kept[0], 1))
        wait_on_fd(left, READ, kept[1])
        with twait:
            timer(0, mkevent())

    @tamed
    def second() -> None:
        with twait:
            wait_on_fd(left, READ, mkevent())
            os.write(right.fd, b"x")

    run(first)
    run(second)
    left.close()
    right.close()


def test_closing_a_descriptor_tells_a_waiter_whose_event_others_hold_too() -> None:
    left, right = (Descriptor(end.detach()) for end in socket.socketpair())
    log: list[str] = []

    @tamed
    def waiter(done: Event[()]) -> None:
        try:
            with twait:
                event = mkevent()
                wait_on_fd(left, READ, event)
        except EventDroppedError as error:
            log.append(str(error))
        done.trigger()

    @tamed
    def main() -> None:
        with twait:
            waiter(mkevent())
            left.close()
        right.close()

    run(main)
    assert len(log) == 1
    assert log[0].endswith("was closed")


@pytest.mark.parametrize("directions", [[READ], [READ, WRITE]])
@pytest.mark.parametrize("owner", [True, False], ids=["Descriptor", "bare"])
def test_a_number_that_was_closed_while_waited_for_may_become_another(
    directions: list[Any], owner: bool
) -> None:
    log: list[str] = []

    @tamed
    def main() -> None:
        r = Rendezvous[int]()
        first, peer = socket.socketpair()
        for direction in directions:
            wait_on_fd(first, direction, mkevent(r, direction))
        r.cancel()
        number = first.fileno()
        first.close()
        peer.close()
        second, peer = socket.socketpair()
        assert second.fileno() == number
        end: Any = Descriptor(second.detach()) if owner else second
        with twait:
            wait_on_fd(end, READ, mkevent())
            peer.send(b"x")
        log.append("second")
        end.close()
        peer.close()

    run(main)
    assert log == ["second"]


def test_a_number_closed_while_waited_for_does_no_harm_at_the_end() -> None:
    @tamed
    def main() -> None:
        r = Rendezvous[int]()
        left, right = socket.socketpair()
        wait_on_fd(left, READ, mkevent(r, 1))
        wait_on_fd(left, WRITE, mkevent(r, 2))
        left.close()
        right.close()

    run(main)
    still_works()


def test_the_number_of_a_closed_socket_is_refused() -> None:
    left, right = socket.socketpair()
    left.close()
    right.close()

    @tamed
    def main() -> None:
        with pytest.raises(OSError, match="the descriptor is closed"):
            wait_on_fd(left, READ, Event())

    run(main)


def test_a_kind_of_descriptor_is_kept_registered_too() -> None:
    class Named(Descriptor):
        name = "x"

    left, right = socket.socketpair()
    end = Named(left.detach())

    @tamed
    def main() -> None:
        with twait:
            wait_on_fd(end, READ, mkevent())
            right.send(b"x")
        assert end.watched == READ

    run(main)
    end.close()
    right.close()


def test_a_hang_up_alone_wakes_the_reader_of_a_pipe() -> None:
    reader, writer = (Descriptor(end) for end in os.pipe())

    @tamed
    def main() -> None:
        with twait:
            wait_on_fd(reader, READ, mkevent())
            soon(writer.close)
        assert os.read(reader.fd, 1) == b""

    run(main)
    reader.close()
