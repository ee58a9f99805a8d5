"""The explicit rendezvous: docs/language.md, section 2, rules 4 and 9."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tame import (
    Event,
    Rendezvous,
    RendezvousBusyError,
    RendezvousCancelledError,
    mkevent,
    on_error,
    run,
    tamed,
    timer,
    tvars,
    twait,
)


@settings(deadline=None)
@given(st.permutations(range(6)), st.integers(0, 6))
def test_ids_come_in_the_order_of_the_triggers(order: list[int], before: int) -> None:
    """Whatever the order of making, and whether the trigger came before the wait or after it."""
    seen: list[int] = []

    @tamed
    def main() -> None:
        r = Rendezvous[int]()
        events = [mkevent(r, number) for number in range(6)]
        for number in order[:before]:
            events[number].trigger()
        if before < 6:
            later(events)
        for _ in range(6):
            seen.append(twait(r))

    @tamed
    def later(events: list[Event[()]]) -> None:
        with twait:
            timer(0, mkevent())
        for number in order[before:]:
            events[number].trigger()

    run(main)
    assert seen == order


def test_ids_may_repeat_and_be_anything() -> None:
    seen: list[Any] = []

    @tamed
    def main() -> None:
        r = Rendezvous[Any]()
        for id in ("a", "a", None, False, [1]):
            mkevent(r, id).trigger()
        for _ in range(5):
            seen.append(twait(r))

    run(main)
    assert seen == ["a", "a", None, False, [1]]


def test_the_slots_are_those_of_the_moment_when_the_event_was_made() -> None:
    a = [0, 0, 0]
    seen: list[int] = []

    @tamed
    def main() -> None:
        r = Rendezvous[int]()
        sent = 0
        events: list[Event[int]] = []
        while sent < 3:
            events.append(mkevent(r, sent, a[sent]))
            sent += 1
        for number in (2, 0, 1):
            events[number].trigger(number * 10)
            seen.append(twait(r))

    run(main)
    assert seen == [2, 0, 1]
    assert a == [0, 10, 20]


def test_a_second_waiter_is_refused_and_the_first_goes_on(driver: str) -> None:
    seen: list[Any] = []

    @tamed
    def waiter(r: Rendezvous[int], name: str, done: Event[()]) -> None:
        try:
            seen.append((name, twait(r)))
        except RendezvousBusyError as error:
            seen.append((name, str(error)))
        done.trigger()

    @tamed
    def main() -> None:
        r = Rendezvous[int]()
        event = mkevent(r, 5)
        with twait:
            waiter(r, "first", mkevent())
            waiter(r, "second", mkevent())
            later(r, mkevent())
            event.trigger()

    @tamed
    def later(r: Rendezvous[int], done: Event[()]) -> None:
        """Not eagerly but from the queue."""
        with twait:
            timer(0, mkevent())
        event = mkevent(r, 6)
        with twait:
            waiter(r, "third", mkevent())
            late_waiter(r, mkevent())
            trigger_soon(event)
        done.trigger()

    @tamed
    def late_waiter(r: Rendezvous[int], done: Event[()]) -> None:
        with twait:
            timer(0, mkevent())
        try:
            twait(r)
        except RendezvousBusyError:
            seen.append("late one refused")
        done.trigger()

    @tamed
    def trigger_soon(event: Event[()]) -> None:
        with twait:
            timer(0.002, mkevent())
        event.trigger()

    run(main)
    (second, message), first, refused, third = seen
    assert second == "second"
    assert "test_rendezvous.py:" in message
    assert first == ("first", 5)
    assert refused == "late one refused"
    assert third == ("third", 6)


def test_taking_what_is_ready_past_a_closure_that_is_to_get_it_is_refused() -> None:
    seen: list[Any] = []

    @tamed
    def waiter(r: Rendezvous[int]) -> None:
        seen.append(twait(r))

    @tamed
    def main() -> None:
        r = Rendezvous[int]()
        event = mkevent(r, 1)
        waiter(r)
        event.trigger()
        try:
            twait(r)
        except RendezvousBusyError:
            seen.append("refused")
        with twait:
            timer(0, mkevent())

    run(main)
    assert seen == ["refused", 1]


# -- rule 9: cancel ------------------------------------------------------------------------------


def test_cancel_forgets_what_is_outstanding() -> None:
    seen: list[Any] = []

    @tamed
    def main() -> None:
        r = Rendezvous[int]()
        a = [0]
        old, ready = mkevent(r, 1, a[0]), mkevent(r, 2)
        ready.trigger()
        r.cancel()
        old.trigger(7)
        old.trigger(8)
        old.fail(ValueError())
        assert not old.live
        mkevent(r, 3).trigger()
        seen.extend([twait(r), a])

    run(main)
    assert seen == [3, [0]]


def test_a_closure_blocked_on_a_cancelled_rendezvous_gets_an_error(driver: str) -> None:
    seen: list[Any] = []

    @tamed
    def waiter(r: Rendezvous[int], done: Event[()]) -> None:
        try:
            twait(r)
        except RendezvousCancelledError:
            seen.append("cancelled")
        done.trigger()

    @tamed
    def main() -> None:
        r = Rendezvous[int]()
        for triggered_before in (False, True):
            event = mkevent(r, 1)
            with twait:
                waiter(r, mkevent())
                if triggered_before:
                    event.trigger()
                r.cancel()
                r.cancel()

    run(main)
    assert seen == ["cancelled", "cancelled"]


def test_a_failure_that_nobody_takes_is_reported() -> None:
    reports: list[tuple[BaseException, str]] = []
    before = on_error(lambda error, what, callers: reports.append((error, what)))
    try:
        r = Rendezvous[int]()
        r.event(1).fail(ValueError("lost"))
        del r
        taken_back = Rendezvous[int]()
        taken_back.event(1).fail(ValueError("cancelled"))
        taken_back.cancel()
    finally:
        on_error(before)
    assert [str(error) for error, _ in reports] == ["lost"]
    assert "no closure waited" in reports[0][1]


def test_mkevent_of_something_that_is_no_rendezvous_says_so() -> None:
    @tamed
    def main(r: Any) -> None:
        mkevent(r, 1)

    with pytest.raises(TypeError, match="but its first argument is 5: pass a Rendezvous"):
        run(main, 5)


def test_twait_of_something_that_is_no_rendezvous_says_so() -> None:
    @tamed
    def main(r: Any) -> None:
        with tvars:
            i: int
        i = twait(r)
        assert i

    with pytest.raises(AttributeError, match="'int' object has no attribute"):
        run(main, 5)


def test_an_event_made_outside_a_tamed_function_knows_where() -> None:
    def plain(r: Rendezvous[int]) -> Event[()]:
        return mkevent(r, 1)

    assert plain(Rendezvous[int]()).site.startswith(f"{__file__}:")
