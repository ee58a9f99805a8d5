"""Virtual time: what the driver adds to what `test_loop.py` asks of every driver."""

from __future__ import annotations

import os

import pytest

from tame import (
    READ,
    DeadlockError,
    Descriptor,
    Event,
    blocked,
    mkevent,
    now,
    run,
    tamed,
    timer,
    twait,
    wait_on_fd,
)


def test_timers_come_exactly_when_they_should_and_nobody_waits_for_them() -> None:
    log: list[float] = []

    @tamed
    def main() -> None:
        log.append(now())
        for _ in range(1000):
            with twait:
                timer(3600, mkevent())
        log.append(now())

    run(main, driver="virtual")
    assert log == [0, 3_600_000]


def test_a_closure_has_been_blocked_for_virtual_seconds() -> None:
    log: list[float] = []

    @tamed
    def sleeper() -> None:
        with twait:
            timer(100, mkevent())

    @tamed
    def main() -> None:
        sleeper()
        with twait:
            timer(40, mkevent())
        log.extend(entry.seconds for entry in blocked())
        with twait:
            timer(60, mkevent())

    run(main, driver="virtual")
    assert log == [40]


def test_descriptors_that_are_ready_come_before_time_passes() -> None:
    log: list[float] = []
    out, into = os.pipe()
    os.write(into, b"x")

    @tamed
    def main() -> None:
        readable = Descriptor(out)
        with twait:
            wait_on_fd(readable, READ, mkevent())
        log.append(now())
        readable.close()

    @tamed
    def other() -> None:
        with twait:
            timer(5, mkevent())
        log.append(now())

    def both() -> None:
        other()
        main()

    run(both, driver="virtual")
    os.close(into)
    assert log == [0, 5]


def test_closures_that_wake_each_other_for_ever_do_not_keep_time_from_passing() -> None:
    over: list[bool] = []
    waiting: list[Event[()]] = []

    @tamed
    def spin() -> None:
        while not over:
            with twait:
                other = waiting.pop() if waiting else Event()
                waiting.append(mkevent())
                other.trigger()

    @tamed
    def main() -> None:
        spin()
        spin()
        with twait:
            timer(3600, mkevent())
        over.append(True)
        waiting.pop().trigger()

    run(main, driver="virtual")


def test_a_deadlock_is_found() -> None:
    held = []

    @tamed
    def main() -> None:
        with twait:
            timer(3600, mkevent())
        with twait:
            held.append(mkevent())

    with pytest.raises(DeadlockError, match=r"main at .*test_virtual.py"):
        run(main, driver="virtual")
