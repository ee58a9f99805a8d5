"""The loop and its primitive events, on every driver: `run`, `timer`, `wait_on_fd`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tame import (
    READ,
    WRITE,
    BlockedWarning,
    DeadlockError,
    Descriptor,
    DescriptorBusyError,
    Event,
    EventDroppedError,
    LoopError,
    Rendezvous,
    mkevent,
    now,
    run,
    tamed,
    timer,
    twait,
    wait_on_fd,
)
from tame import loop as loops

pytestmark = pytest.mark.usefixtures("driver")

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    yield left, right
    left.close()
    right.close()


def owned(end: socket.socket) -> Descriptor:
    return Descriptor(end.detach())


# -- run -----------------------------------------------------------------------------------------


def test_run_returns_when_the_closure_has_ended() -> None:
    log: list[str] = []

    @tamed
    def main(word: str) -> None:
        with twait:
            timer(0, mkevent())
        log.append(word)

    run(main, "done")
    assert log == ["done"]


def test_run_of_a_function_that_never_blocks_never_dispatches() -> None:
    run(lambda: None)


def test_run_waits_for_every_closure_that_its_function_started_outside_any_other() -> None:
    log: list[int] = []

    @tamed
    def wait(ms: int) -> None:
        with twait:
            timer(ms / 1000, mkevent())
        log.append(ms)

    def plain() -> None:
        wait(2)
        wait(1)

    run(plain)
    assert log == [1, 2]


def test_run_inside_run_is_refused() -> None:
    @tamed
    def main() -> None:
        with pytest.raises(LoopError, match="a loop is already running in this process"):
            run(main)

    run(main)


def test_a_primitive_event_outside_run_is_refused(pair: Pair) -> None:
    with pytest.raises(LoopError, match="timer"):
        timer(0, Event())
    with pytest.raises(LoopError, match="wait_on_fd"):
        wait_on_fd(pair[0], READ, Event())


def test_an_unknown_driver_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of uvloop, asyncio, epoll"):
        run(lambda: None, driver="select")


def test_run_that_can_never_end_says_why() -> None:
    held: list[Any] = []

    @tamed
    def main() -> None:
        with twait:
            held.append(mkevent())

    with pytest.raises(DeadlockError, match=r"main at .*test_loop\.py:\d+, for .* waits for"):
        run(main)


def test_a_thread_brings_its_news_through_a_descriptor(pair: Pair) -> None:
    """Events are triggered on the loop's thread; `run` waits for as long as it may be told."""
    seen: list[bytes] = []
    left, right = pair

    @tamed
    def main() -> None:
        thread = threading.Thread(target=right.send, args=(b"news",))
        with twait:
            wait_on_fd(left, READ, mkevent())
            thread.start()
        thread.join()
        seen.append(left.recv(10))

    run(main)
    assert seen == [b"news"]


def test_a_callback_of_the_loop_may_trigger_events(driver: str) -> None:
    """Whatever else runs on an asyncio loop: the closures go on in the same turn."""
    if driver in ("epoll", "virtual"):
        pytest.skip("this driver runs nothing but Tame")
    import asyncio

    log: list[int] = []

    async def foreign(events: list[Event[int]]) -> None:
        await asyncio.sleep(0)
        for number, event in enumerate(events):
            event.trigger(number)

    @tamed
    def main() -> None:
        a = [7, 7, 7]
        active = loops.active
        assert active is not None
        task: Any = None
        with twait:
            events = [mkevent(a[i]) for i in range(3)]
            task = active.loop.create_task(foreign(events))  # type: ignore[attr-defined]
        log.extend(a)
        assert task is not None

    run(main)
    assert log == [0, 1, 2]


def test_closures_woken_before_run_go_on_in_it() -> None:
    log: list[str] = []
    held: list[Any] = []

    @tamed
    def early() -> None:
        with twait:
            held.append(mkevent())
        log.append("early")

    @tamed
    def main() -> None:
        with twait:
            timer(0, mkevent())
        log.append("main")

    early()
    held.pop().trigger()
    run(main)
    assert log == ["early", "main"]


# -- time ----------------------------------------------------------------------------------------


def test_timers_fire_in_the_order_of_time_and_never_early() -> None:
    log: list[float] = []

    @tamed
    def main() -> None:
        r = Rendezvous[float]()
        began = now()
        for seconds in (0.004, 0.001, 0.0025, 0.0, -1.0):
            timer(seconds, mkevent(r, seconds))
        for _ in range(5):
            seconds = twait(r)
            assert now() - began >= seconds
            log.append(seconds)

    run(main)
    assert log == [-1.0, 0.0, 0.001, 0.0025, 0.004]


def test_a_timer_that_was_forgotten_costs_nothing_for_long() -> None:
    sizes: list[int] = []

    @tamed
    def main() -> None:
        for _ in range(5_000):
            r = Rendezvous[int]()
            timer(3600, mkevent(r, 1))
            r.cancel()
            sizes.append(len(loops.timers))
        with twait:
            timer(0, mkevent())

    run(main)
    assert max(sizes) <= 1024


def test_a_timer_needs_a_number_and_an_event_without_slots() -> None:
    @tamed
    def main() -> None:
        x = 0
        r = Rendezvous[int]()
        with pytest.raises(ValueError, match="NaN"):
            timer(float("nan"), mkevent(r, 1))
        event: Any = mkevent(r, 1, x)
        with pytest.raises(TypeError, match="takes 1 value but got 0"):
            timer(1, event)
        with pytest.raises(TypeError, match="takes 1 value but got 0"):
            wait_on_fd(0, READ, event)

    run(main)


def test_a_timer_may_be_as_far_off_as_one_likes() -> None:
    log: list[str] = []

    @tamed
    def main() -> None:
        r = Rendezvous[str]()
        for seconds in (float("inf"), 1e12, 1e7):
            timer(seconds, mkevent(r, "far"))
        timer(0.001, mkevent(r, "near"))
        log.append(twait(r))
        with twait:
            timer(0.001, mkevent())

    run(main)
    assert log == ["near"]


def test_a_timer_whose_event_somebody_else_triggered_is_no_error() -> None:
    @tamed
    def main() -> None:
        with twait:
            event = mkevent()
            timer(0, event)
            event.trigger()
        with twait:
            timer(0.001, mkevent())

    run(main)


# -- descriptors ---------------------------------------------------------------------------------


def ends(pair: Pair, owner: bool) -> tuple[Any, Any]:
    return (owned(pair[0]), owned(pair[1])) if owner else pair


def close(*descriptors: Any) -> None:
    for descriptor in descriptors:
        descriptor.close()


@pytest.mark.parametrize("owner", [True, False], ids=["Descriptor", "bare"])
def test_a_thousand_bytes_go_to_and_fro(pair: Pair, owner: bool) -> None:
    left, right = ends(pair, owner)
    count = 0

    @tamed
    def echo(done: Event[()]) -> None:
        for _ in range(1000):
            with twait:
                wait_on_fd(right, READ, mkevent())
            os.write(right.fileno(), os.read(right.fileno(), 1))
        done.trigger()

    @tamed
    def main() -> None:
        nonlocal count
        with twait:
            echo(mkevent())
            ask(mkevent())
        close(left, right)

    @tamed
    def ask(done: Event[()]) -> None:
        nonlocal count
        for _ in range(1000):
            os.write(left.fileno(), b"x")
            with twait:
                wait_on_fd(left, READ, mkevent())
            count += len(os.read(left.fileno(), 1))
        done.trigger()

    run(main)
    assert count == 1000


@pytest.mark.parametrize("owner", [True, False], ids=["Descriptor", "bare"])
def test_one_descriptor_waits_for_both_directions(pair: Pair, owner: bool) -> None:
    left, right = ends(pair, owner)
    log: list[str] = []

    @tamed
    def reader(done: Event[()]) -> None:
        with twait:
            wait_on_fd(left, READ, mkevent())
        log.append("read")
        done.trigger()

    @tamed
    def writer(done: Event[()]) -> None:
        with twait:
            wait_on_fd(left, WRITE, mkevent())
        log.append("write")
        os.write(right.fileno(), b"x")
        done.trigger()

    @tamed
    def main() -> None:
        with twait:
            reader(mkevent())
            writer(mkevent())
        close(left, right)

    run(main)
    assert log == ["write", "read"]


def test_a_second_event_for_the_same_direction_is_refused(pair: Pair) -> None:
    end = owned(pair[0])

    @tamed
    def main() -> None:
        r = Rendezvous[int]()
        first = mkevent(r, 1)
        wait_on_fd(end, READ, first)
        second = mkevent(r, 2)
        with pytest.raises(DescriptorBusyError, match=r"for READ by .*test_loop\.py"):
            wait_on_fd(end, READ, second)
        r.cancel()
        third = mkevent(r, 3)
        wait_on_fd(end, READ, third)  # the first is forgotten, so this is none too many
        os.write(pair[1].fileno(), b"x")
        assert twait(r) == 3
        end.close()

    run(main)


def test_a_peer_that_hangs_up_wakes_reader_and_writer(pair: Pair) -> None:
    left, right = pair
    while True:
        try:
            left.send(b"x" * 65536)
        except BlockingIOError:
            break
    log: list[str] = []
    end = owned(left)

    @tamed
    def main() -> None:
        with twait:
            wait_on_fd(end, READ, mkevent())
            wait_on_fd(end, WRITE, mkevent())
            right.close()
        log.append("both")
        end.close()

    run(main)
    assert log == ["both"]


def test_a_regular_file_is_always_ready(tmp_path: Any) -> None:
    fd = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    log: list[str] = []

    @tamed
    def main() -> None:
        with twait:
            wait_on_fd(fd, READ, mkevent())
            wait_on_fd(fd, WRITE, mkevent())
        log.append("ready")

    run(main)
    os.close(fd)
    assert log == ["ready"]


def test_a_descriptor_that_is_not_open_is_an_error() -> None:
    @tamed
    def main() -> None:
        with pytest.raises(OSError, match="Bad file descriptor"):
            wait_on_fd(19_999, READ, Event())
        with pytest.raises(ValueError, match="READ or WRITE"):
            wait_on_fd(0, 3, Event())
        closed = Descriptor(os.dup(0))
        closed.close()
        with pytest.raises(OSError, match="the descriptor is closed"):
            wait_on_fd(closed, READ, Event())

    run(main)


def test_closing_a_descriptor_drops_the_events_that_wait_for_it(pair: Pair) -> None:
    end = owned(pair[0])
    log: list[str] = []

    @tamed
    def waiter(done: Event[()]) -> None:
        try:
            with twait:
                wait_on_fd(end, READ, mkevent())
        except EventDroppedError:
            log.append("dropped")
        done.trigger()

    @tamed
    def main() -> None:
        with twait:
            waiter(mkevent())
            end.close()
        end.close()
        assert end.fileno() == -1

    run(main)
    assert log == ["dropped"]


def test_the_number_of_a_closed_file_may_come_back_as_another(pair: Pair) -> None:
    """A bare number is registered for one wait, even for one that was forgotten."""
    log: list[str] = []

    @tamed
    def main() -> None:
        r = Rendezvous[int]()
        first, peer = socket.socketpair()
        wait_on_fd(first, READ, mkevent(r, 1))
        r.cancel()
        number = first.fileno()
        first.close()
        peer.close()
        second, peer = socket.socketpair()
        assert second.fileno() == number
        with twait:
            wait_on_fd(second, READ, mkevent())
            peer.send(b"x")
        log.append("second")
        second.close()
        peer.close()

    run(main)
    assert log == ["second"]


def test_a_kept_descriptor_makes_no_call_on_the_poll_set_between_its_waits(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = owned(pair[0]), owned(pair[1])
    calls: list[int] = []

    @tamed
    def main() -> None:
        driver = loops.active
        assert driver is not None
        watch = driver.watch
        monkeypatch.setattr(driver, "watch", lambda d, to: (calls.append(to), watch(d, to)))
        for _ in range(100):
            with twait:
                wait_on_fd(left, READ, mkevent())
                os.write(right.fd, b"x")
            os.read(left.fd, 1)
        assert calls == [READ]
        # Ready with nobody waiting: now it is dropped, or the loop would spin.
        os.write(right.fd, b"x")
        with twait:
            timer(0.001, mkevent())
        assert calls == [READ, 0]
        left.close()
        right.close()

    run(main)


def test_run_that_ends_leaves_no_descriptor_registered(pair: Pair) -> None:
    end = owned(pair[0])

    @tamed
    def waiter() -> None:
        with twait:
            wait_on_fd(end, READ, mkevent())

    for _ in range(2):
        with pytest.warns(BlockedWarning):
            run(lambda: waiter_and_end(waiter))
        assert end.watched == 0
    end.close()


def waiter_and_end(waiter: Callable[[], None]) -> None:
    @tamed
    def main() -> None:
        waiter()
        with twait:
            timer(0, mkevent())

    main()


# -- what a driver brings into the process -------------------------------------------------------

PROGRAM = """
import sys
from tame import mkevent, run, tamed, timer, twait
from tame import runtime as rt

@rt.closure
def main():
    with rt.block() as b:
        timer(0, b.event())
        b.finish(b.pending and (yield b))

run(main)
print(*sorted({"asyncio", "uvloop", "ast", "inspect", "logging", "threading"} & sys.modules.keys()))
"""


def test_the_epoll_driver_imports_neither_asyncio_nor_uvloop(driver: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=60
    )
    imported = set(ran.stdout.split())
    if driver in ("epoll", "virtual"):
        assert imported == set()
    else:
        assert ("uvloop" in imported) == (driver == "uvloop")
        assert "asyncio" in imported


def test_the_warning_of_what_is_blocked_names_the_line_of_the_run() -> None:
    @tamed
    def wait() -> None:
        with twait:
            timer(1000, mkevent())

    @tamed
    def main() -> None:
        wait()
        with twait:
            timer(0, mkevent())

    with pytest.warns(BlockedWarning) as warned:
        run(main)
    assert warned[0].filename == __file__
