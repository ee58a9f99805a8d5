"""Adapters: what happens to the base happens to the target."""

from __future__ import annotations

from collections.abc import Callable
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

pytestmark = pytest.mark.usefixtures("driver")


class LookupFailedError(Exception):
    """What a lookup may fail with."""


# Each adapter in front of an event with one slot: what the target's slot gets.
ADAPTED: dict[str, tuple[Callable[[Event[int]], Event[*tuple[Any, ...]]], tuple[Any, ...], int]] = {
    "bind": (lambda target: bind(target, 7), (), 7),
    "map_event": (lambda target: map_event(target, len), ("four",), 4),
    "any_of": (lambda target: any_of(target, 1)[0], (5,), 5),
    "with_timeout": (lambda target: with_timeout(60, target), (6,), 6),
    "unblocker": (unblocker, (), -1),
}


@pytest.mark.parametrize("name", ADAPTED)
def test_a_trigger_of_the_base_is_one_of_the_target(name: str) -> None:
    adapt, values, expected = ADAPTED[name]
    got: list[int] = []

    @tamed
    def main() -> None:
        value = -1
        with twait:
            base = adapt(mkevent(value))
            assert base.live
            base.trigger(*values)
            assert not base.live
        got.append(value)

    run(main)
    assert got == [expected]


@pytest.mark.parametrize("name", ADAPTED)
def test_a_failure_of_the_base_is_one_of_the_target(name: str) -> None:
    adapt, _, _ = ADAPTED[name]

    @tamed
    def main() -> None:
        with tvars:
            value: int
        with twait:
            adapt(mkevent(value)).fail(LookupFailedError("no such host"))

    with pytest.raises(LookupFailedError, match="no such host"):
        run(main)


@pytest.mark.parametrize("name", ADAPTED)
def test_a_base_that_is_dropped_is_named_to_who_waits(name: str) -> None:
    adapt, _, _ = ADAPTED[name]

    @tamed
    def main() -> None:
        with tvars:
            value: int
        with twait:
            adapt(mkevent(value))

    with pytest.raises(EventDroppedError, match=r"test_adapters\.py"):
        run(main)


@pytest.mark.parametrize("name", ADAPTED)
def test_the_base_of_a_forgotten_target_does_nothing(name: str) -> None:
    adapt, values, _ = ADAPTED[name]
    got = [-1]

    @tamed
    def main() -> None:
        r = Rendezvous[None]()
        base = adapt(mkevent(r, None, got[0]))
        r.cancel()
        assert not base.live
        base.trigger(*values)

    run(main)
    assert got == [-1]


@pytest.mark.parametrize("name", ADAPTED)
def test_a_base_is_spent_as_any_event(name: str) -> None:
    adapt, values, _ = ADAPTED[name]

    @tamed
    def main() -> None:
        value = 0
        with twait:
            base = adapt(mkevent(value))
            with pytest.raises(TypeError, match="value"):
                base.trigger(1, 2, 3)
            base.trigger(*values)
            with pytest.raises(EventSpentError):
                base.trigger(*values)

    run(main)


def test_what_the_function_of_a_map_raises_fails_the_target() -> None:
    @tamed
    def main() -> None:
        with tvars:
            value: int
        with twait:
            map_event(mkevent(value), int).trigger("seven")

    with pytest.raises(ValueError, match="seven"):
        run(main)


def test_values_are_gathered_in_the_order_of_their_triggers() -> None:
    found: list[str] = []

    @tamed
    def main() -> None:
        with twait:
            first, second = into(found, mkevent()), into(found, mkevent())
            second.trigger("second")
            first.trigger("first")
        assert found == ["second", "first"]

    run(main)


# -- time ------------------------------------------------------------------------------------------


def test_add_timeout_tells_which_it_was() -> None:
    got: list[tuple[bool, str | None]] = []

    @tamed
    def main() -> None:
        ok: bool = False
        value: str | None = ""
        with twait:
            add_timeout(mkevent(ok, value), 60).trigger("in time")
        got.append((ok, value))
        with twait:
            late = add_timeout(mkevent(ok, value), 0.001)
        got.append((ok, value))
        late.trigger("too late")  # which is no error, and is not seen
        got.append((ok, value))

    run(main)
    assert got == [(True, "in time"), (False, None), (False, None)]


def test_with_timeout_raises_where_one_waits() -> None:
    late: list[Event[int]] = []

    said: list[str] = []

    @tamed
    def main() -> None:
        value = 0
        try:
            with twait:
                late.append(with_timeout(0.001, mkevent(value)))
        except TimeoutError as error:
            said.append(str(error))
        late[0].trigger(1)
        assert value == 0

    run(main)
    assert "test_adapters.py" in said[0]
    assert said[0].endswith("took more than 0.001 s")


# -- several ---------------------------------------------------------------------------------------


def test_the_first_of_several_counts() -> None:
    @tamed
    def main() -> None:
        value = ""
        with twait:
            first, second, third = any_of(mkevent(value), 3)
            first.fail(LookupFailedError())  # which leaves it to the others
            second.trigger("second")
            assert not third.live
            third.trigger("third")
        assert value == "second"

    run(main)


def test_none_of_several_is_told_by_the_last() -> None:
    @tamed
    def main() -> None:
        with tvars:
            value: int
        with twait:
            first, second = any_of(mkevent(value), 2)
            second.fail(LookupFailedError("second"))
            first.fail(LookupFailedError("first"))

    with pytest.raises(LookupFailedError, match="first"):
        run(main)


def test_all_of_several_have_to_happen() -> None:
    order: list[str] = []

    @tamed
    def main() -> None:
        with twait:
            done = mkevent()
            events = all_of(done, 3)
            for event in events:
                assert done.live
                event.trigger()
                order.append("happened")
        order.append("all")

    run(main)
    assert order == ["happened"] * 3 + ["all"]


def test_one_of_all_that_fails_or_is_dropped_is_enough() -> None:
    @tamed
    def fails() -> None:
        with twait:
            _, second = all_of(mkevent(), 2)
            second.fail(LookupFailedError("second"))

    @tamed
    def drops() -> None:
        with twait:
            first, _ = all_of(mkevent(), 2)
            del _
            first.trigger()

    with pytest.raises(LookupFailedError, match="second"):
        run(fails)
    with pytest.raises(EventDroppedError):
        run(drops)


@pytest.mark.parametrize("several", [any_of, all_of])
def test_of_none_nothing_can_be_waited_for(several: Any) -> None:
    with pytest.raises(ValueError, match="at least one event"):
        several(Event(), 0)


# -- afterwards ------------------------------------------------------------------------------------


def test_who_follows_comes_after_who_waits() -> None:
    order: list[str] = []

    @tamed
    def follow(event: Event[int]) -> None:
        with twait:
            at_trigger(event, mkevent())
        order.append("follower")

    @tamed
    def main() -> None:
        value = 0
        with twait:
            event = mkevent(value)
            follow(event)
            event.trigger(3)
        order.append(f"waiter of {value}")
        with twait:
            timer(0, mkevent())

    run(main)
    assert order == ["waiter of 3", "follower"]


@pytest.mark.parametrize("how", ["trigger", "fail", "drop"])
def test_every_end_of_an_event_is_followed(how: str) -> None:
    followed: list[str] = []

    @tamed
    def main() -> None:
        r = Rendezvous[str]()
        event = mkevent(r, "it")
        at_trigger(event, mkevent(r, "its follower"))
        if how == "trigger":
            event.trigger()
        elif how == "fail":
            event.fail(LookupFailedError())
        del event
        for _ in range(2):
            try:
                followed.append(twait(r))
            except (LookupFailedError, EventDroppedError) as error:
                followed.append(type(error).__name__)

    run(main)
    first = {"trigger": "it", "fail": "LookupFailedError", "drop": "EventDroppedError"}[how]
    assert followed == [first, "its follower"]


def test_a_spent_event_is_followed_at_once_and_a_forgotten_one_never() -> None:
    @tamed
    def main() -> None:
        event = Event[()]()
        event.trigger()
        with twait:
            at_trigger(event, mkevent())
        r = Rendezvous[None]()
        forgotten = mkevent(r, None)
        r.cancel()
        with twait:
            at_trigger(forgotten, mkevent())
            forgotten.trigger()
            del forgotten

    with pytest.raises(EventDroppedError):
        run(main)


def test_several_may_follow_and_an_adapter_can_be_followed() -> None:
    @tamed
    def main() -> None:
        value = 0
        with twait:
            base = bind(mkevent(value), 4)
            at_trigger(base, mkevent())
            at_trigger(base, mkevent())
            base()  # an event serves as a plain callback, followed or not
        assert value == 4

    run(main)


def test_adapters_compose() -> None:
    """The first of two lookups within a second, as a length."""
    found: list[int] = []

    @tamed
    def lookup(after: float, name: str, done: Event[str]) -> None:
        with twait:
            timer(after, mkevent())
        done.trigger(name)

    @tamed
    def main() -> None:
        length = 0
        with twait:
            one, other = any_of(map_event(with_timeout(10, mkevent(length)), len), 2)
            lookup(0.001, "fast", one)
            lookup(5, "slow one", other)
        found.append(length)

    with pytest.warns(match="still blocked"):
        run(main)
    assert found == [4]


@pytest.mark.parametrize("name", ADAPTED)
def test_an_adapter_can_be_unblocked(name: str) -> None:
    """Whatever stands behind it: its slots stay as they are."""
    adapt, _, _ = ADAPTED[name]
    seen: list[int] = []

    @tamed
    def main() -> None:
        x = -1
        with twait:
            base = adapt(mkevent(x))
            unblocker(base).trigger()
        seen.append(x)
        assert not base.live

    run(main)
    assert seen == [7 if name == "bind" else -1]


def test_what_has_a_time_limit_or_is_gathered_can_be_unblocked() -> None:
    values: list[str] = []

    @tamed
    def main() -> None:
        ok: bool | None = None
        word: str | None = "as it was"
        with twait:
            unblocker(add_timeout(mkevent(ok, word), 60)).trigger()
            unblocker(into(values, mkevent())).trigger()
            for one in all_of(mkevent(), 2):
                unblocker(one).trigger()
        assert (ok, word, values) == (None, "as it was", [])

    run(main)
