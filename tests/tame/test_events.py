"""Events and blocks: docs/language.md, section 2, rules 1 to 3 and 5 to 7."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from tame import (
    Event,
    EventDroppedError,
    EventSpentError,
    Rendezvous,
    mkevent,
    run,
    tamed,
    timer,
    tvars,
    twait,
)


class Held:
    """A place where a test keeps events until it triggers them."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.log: list[Any] = []

    def hold(self, event: Any) -> None:
        self.events.append(event)


def trigger_later(event: Event[()]) -> None:
    timer(0, event)


# -- rule 1: trigger -----------------------------------------------------------------------------


def test_a_trigger_stores_its_values_in_the_slots() -> None:
    seen: list[Any] = []

    class Box:
        f = 0

    @tamed
    def main() -> None:
        box = Box()
        a = [0, 0]
        with tvars:
            x: int
        with twait:
            mkevent(x, a[1], box.f).trigger(1, 2, 3)
        seen.extend([x, a, box.f])

    run(main)
    assert seen == [1, [0, 2], 3]


def test_an_event_is_a_plain_callback() -> None:
    seen: list[int] = []

    @tamed
    def main() -> None:
        with tvars:
            x: int
        with twait:
            callback = mkevent(x)
            callback(7)
        seen.append(x)

    run(main)
    assert seen == [7]


def test_the_waiter_has_not_run_when_trigger_returns() -> None:
    held = Held()

    @tamed
    def waiter() -> None:
        with twait:
            held.hold(mkevent())
        held.log.append("waiter")

    @tamed
    def main() -> None:
        waiter()
        with twait:
            timer(0, mkevent())
        held.events.pop().trigger()
        held.log.append("after trigger")
        with twait:
            timer(0, mkevent())

    run(main)
    assert held.log == ["after trigger", "waiter"]


def test_runnable_closures_go_on_first_in_first_out() -> None:
    held = Held()

    @tamed
    def waiter(number: int, done: Event[()]) -> None:
        with twait:
            held.hold(mkevent())
        held.log.append(number)
        done.trigger()

    @tamed
    def main() -> None:
        with twait:
            for number in range(4):
                waiter(number, mkevent())
            for i in (2, 0, 3, 1):
                held.events[i].trigger()

    run(main)
    assert held.log == [2, 0, 3, 1]


def test_closures_that_wake_each_other_do_not_starve_timers(driver: str) -> None:
    rounds = 0

    @tamed
    def restless(stop: list[bool], done: Event[()]) -> None:
        nonlocal rounds
        ping, pong = Rendezvous[None](), Rendezvous[None]()
        echo(ping, pong, stop)
        while not stop:
            rounds += 1
            ping.event(None).trigger()
            twait(pong)
        ping.event(None).trigger()
        done.trigger()

    @tamed
    def echo(ping: Rendezvous[None], pong: Rendezvous[None], stop: list[bool]) -> None:
        while not stop:
            twait(ping)
            pong.event(None).trigger()

    @tamed
    def main() -> None:
        stop: list[bool] = []
        with twait:
            restless(stop, mkevent())
            alarm(stop)

    @tamed
    def alarm(stop: list[bool]) -> None:
        with twait:
            timer(0.002, mkevent())
        stop.append(True)

    run(main)
    assert rounds > 1


# -- rule 2: a second trigger --------------------------------------------------------------------


def test_a_second_trigger_is_ignored_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAME_STRICT")
    seen: list[int] = []

    @tamed
    def main() -> None:
        with tvars:
            x: int
        with twait:
            event = mkevent(x)
            event.trigger(1)
            event.trigger(2)
            event.fail(ValueError("late"))
        event.trigger(3)
        seen.append(x)

    run(main)
    assert seen == [1]


def test_a_second_trigger_is_an_error_under_tame_strict() -> None:
    r = Rendezvous[int]()
    for event in (r.event(1), Event[()]()):
        event.trigger()
        with pytest.raises(EventSpentError, match=r"test_events\.py:\d+ was triggered a second"):
            event.trigger()
        with pytest.raises(EventSpentError):
            event.fail(ValueError())


def test_an_event_is_spent_for_every_handle() -> None:
    first = Rendezvous[int]().event(1)
    second = first
    first.trigger()
    assert not second.live
    assert "spent" in repr(second)


# -- rule 3: arity -------------------------------------------------------------------------------


def test_the_wrong_number_of_values_leaves_the_event_untouched() -> None:
    seen: list[int] = []

    @tamed
    def main() -> None:
        with tvars:
            x: int
        r = Rendezvous[int]()
        with twait:
            event: Any = mkevent(x)
            for values in ((), (1, 2)):
                with pytest.raises(TypeError, match=r"takes 1 value but got"):
                    event.trigger(*values)
            assert event.live
            event.trigger(5)
        other: Any = mkevent(r, 1)
        with pytest.raises(TypeError, match=r"takes 0 values but got 1"):
            other.trigger(1)
        assert other.live
        other.trigger()
        seen.append(x)

    run(main)
    assert seen == [5]


# -- rule 5: leaving a block early ---------------------------------------------------------------


def test_leaving_a_block_early_forgets_its_events() -> None:
    held = Held()

    @tamed
    def leave_by_return(x: list[int]) -> None:
        with twait:
            held.hold(mkevent(x[0]))
            return

    @tamed
    def leave_by_error(x: list[int]) -> None:
        try:
            with twait:
                held.hold(mkevent(x[0]))
                raise KeyError("out")
        except KeyError:
            held.log.append("caught")

    @tamed
    def leave_by_break(x: list[int]) -> None:
        while True:
            with twait:
                held.hold(mkevent(x[0]))
                break
        held.log.append("broke")

    @tamed
    def leave_by_continue(x: list[int]) -> None:
        for i in range(2):
            with twait:
                held.hold(mkevent(x[0]))
                if i == 0:
                    continue
                held.events[-1].trigger(9)
                held.log.append(i)

    x = [0]
    leave_by_return(x)
    leave_by_error(x)
    leave_by_break(x)
    leave_by_continue(x)
    assert held.log == ["caught", "broke", 1]
    assert x == [9]
    forgotten = held.events[:4]
    for event in forgotten:
        assert not event.live
        event.trigger(5)  # no error, strict or not: it is not spent
        event.fail(ValueError())
    assert x == [9]


def test_a_forgotten_event_does_not_end_the_next_round_of_the_block() -> None:
    held = Held()

    @tamed
    def main() -> None:
        for i in range(2):
            with twait:
                held.hold(mkevent())
                if i == 0:
                    continue
                held.events[0].trigger()
                timer(0, held.events[1])
            held.log.append(i)

    run(main)
    assert held.log == [1]


# -- rule 6: dropped events ----------------------------------------------------------------------


def line_of(function: Any, text: str) -> int:
    import inspect

    lines, start = inspect.getsourcelines(function)
    return start + next(i for i, line in enumerate(lines) if text in line)


def test_a_dropped_event_is_told_to_the_waiter_with_the_line_that_made_it() -> None:
    @tamed
    def main() -> None:
        with twait:
            mkevent()  # the one

    with pytest.raises(EventDroppedError) as caught:
        run(main)
    assert f"test_events.py:{line_of(main, 'the one')} was dropped" in str(caught.value)
    assert caught.traceback[-1].lineno + 1 == line_of(main, "with twait")


def test_an_event_of_a_rendezvous_that_is_dropped_is_told_to_the_waiter() -> None:
    @tamed
    def main() -> None:
        r = Rendezvous[int]()
        mkevent(r, 1)
        twait(r)

    with pytest.raises(EventDroppedError, match=r"test_events\.py:\d+ was dropped"):
        run(main)


def test_an_event_dropped_after_the_wait_began_is_told_too(driver: str) -> None:
    held = Held()

    @tamed
    def waiter(done: Event[()]) -> None:
        try:
            with twait:
                held.hold(mkevent())
        except EventDroppedError:
            held.log.append("dropped")
        done.trigger()

    @tamed
    def main() -> None:
        with twait:
            waiter(mkevent())
            held.events.clear()

    run(main)
    assert held.log == ["dropped"]


def test_the_other_events_of_the_block_are_still_waited_for() -> None:
    held = Held()

    @tamed
    def main() -> None:
        a = [0]
        try:
            with twait:
                mkevent()
                timer(0, mkevent())
                held.hold(mkevent(a[0]))
                late(held.events[0])
        except EventDroppedError:
            held.log.append(a[0])

    @tamed
    def late(event: Event[int]) -> None:
        with twait:
            timer(0.001, mkevent())
        event.trigger(3)

    run(main)
    assert held.log == [3]


# -- rule 7: exceptions --------------------------------------------------------------------------


def test_a_failure_is_raised_at_the_wait_point() -> None:
    seen: list[Any] = []

    @tamed
    def failing(e: Event[int]) -> None:
        with twait:
            timer(0, mkevent())
        e.fail(LookupError("no such name"))

    @tamed
    def main() -> None:
        with tvars:
            x: int
        try:
            with twait:
                failing(mkevent(x))
        except LookupError as error:
            seen.append(error.args[0])
        else:
            seen.append("no error")
        finally:
            seen.append("finally")

    run(main)
    assert seen == ["no such name", "finally"]


def test_several_failures_of_a_block_arrive_as_a_group() -> None:
    seen: list[Any] = []

    @tamed
    def main() -> None:
        try:
            with twait:
                mkevent().fail(KeyError("a"))
                mkevent().trigger()
                mkevent().fail(ValueError("b"))
        except* KeyError as group:
            seen.extend(group.exceptions)
        except* ValueError as group:
            seen.extend(group.exceptions)

    run(main)
    assert [type(error) for error in seen] == [KeyError, ValueError]


def test_a_failure_of_a_rendezvous_comes_in_its_turn() -> None:
    seen: list[Any] = []

    @tamed
    def main() -> None:
        r = Rendezvous[int]()
        first, second, third = mkevent(r, 1), mkevent(r, 2), mkevent(r, 3)
        third.trigger()
        first.fail(KeyError("one"))
        second.trigger()
        for _ in range(3):
            try:
                seen.append(twait(r))
            except KeyError as error:
                seen.append(error.args[0])

    run(main)
    assert seen == [3, "one", 2]


def test_an_error_in_storing_a_slot_goes_to_the_waiter_and_not_to_the_trigger() -> None:
    seen: list[Any] = []

    @tamed
    def main() -> None:
        a: list[int] = []
        r = Rendezvous[int]()
        for wait in ("block", "rendezvous"):
            try:
                if wait == "block":
                    with twait:
                        mkevent(a[3]).trigger(1)
                else:
                    mkevent(r, 1, a[3]).trigger(1)
                    twait(r)
            except IndexError:
                seen.append(wait)

    run(main)
    assert seen == ["block", "rendezvous"]


# -- rule 11: memory -----------------------------------------------------------------------------


@pytest.fixture
def no_collector() -> Any:
    """Whatever is freed while this holds was freed by reference counting."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Witness:
    """Counts how many of its kind are alive."""

    alive = 0

    def __init__(self) -> None:
        Witness.alive += 1

    def __del__(self) -> None:
        Witness.alive -= 1


def test_what_a_closure_held_is_freed_at_its_end_without_the_collector(
    no_collector: None, driver: str
) -> None:
    @tamed
    def by_block(done: Event[()]) -> None:
        held = Witness()
        with twait:
            timer(0, mkevent())
        del done
        assert held

    @tamed
    def by_rendezvous(done: Event[()]) -> None:
        held = Witness()
        r = Rendezvous[Witness]()
        mkevent(r, held)
        timer(0, mkevent(r, held))
        try:
            twait(r)
        except EventDroppedError:
            assert twait(r) is held
        done.trigger()

    @tamed
    def by_failure(done: Event[()]) -> None:
        held = Witness()
        try:
            with twait:
                mkevent(held).fail(ValueError())
        except ValueError:
            pass
        done.trigger()

    @tamed
    def by_cancel(done: Event[()]) -> None:
        held = Witness()
        r = Rendezvous[int]()
        timer(0.001, mkevent(r, 1))
        r.cancel()
        assert held
        done.trigger()

    @tamed
    def main() -> None:
        for f in (by_block, by_rendezvous, by_failure, by_cancel) * 2:
            gc.collect()
            for _ in range(10):
                try:
                    with twait:
                        f(mkevent())
                except EventDroppedError:
                    assert f is by_block
            with twait:
                timer(0.002, mkevent())
            assert Witness.alive == 0, f
            assert gc.collect() == 0, f

    run(main)
