"""A simulated world: the same seed is the same run, and its connections are what sockets are."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tame import (
    READ,
    WRITE,
    DeadlockError,
    Descriptor,
    Event,
    mkevent,
    now,
    tamed,
    timer,
    twait,
    wait_on_fd,
)
from tame import closure as closures
from tame.testing.simulation import EPOCH, FIRST_FD, Simulation
from tame.testing.streams import End, Faults, Listener

KIND = Faults(short=0, split=0, spurious=0, overtaken=0, accept=0, cold=0)
"""A world in which nothing goes wrong."""


def pair(world: Simulation) -> tuple[End, End, Listener]:
    """A connection: the client's end and the server's, and the listener."""
    listener = world.listen()
    client = world.end(world.connect(listener, "c"))
    client.inbox_room = client.outbox_room = 1000
    client.other.inbox_room = client.other.outbox_room = 1000
    pass_time(world, 2)
    fd, _ = listener._accept()
    server = world.end(fd)
    client.blocking = server.blocking = False
    return client, server, listener


def pass_time(world: Simulation, seconds: float) -> None:
    @tamed
    def main() -> None:
        with twait:
            timer(seconds, mkevent())

    world.run(main)


# -- time and order --------------------------------------------------------------------------------


def orders(seed: int) -> list[int]:
    """In which order ten closures go on that are woken at once."""
    log: list[int] = []
    waiting: list[Event[()]] = []

    @tamed
    def one(number: int) -> None:
        with twait:
            waiting.append(mkevent())
        log.append(number)

    @tamed
    def main() -> None:
        for number in range(10):
            one(number)
        for event in waiting:
            event.trigger()
        with twait:
            timer(1, mkevent())

    Simulation(seed).run(main)
    return log


def test_a_seed_decides_in_which_order_closures_go_on() -> None:
    assert orders(1) == orders(1)
    assert sorted(orders(1)) == list(range(10))
    assert len({tuple(orders(seed)) for seed in range(20)}) == 20


def test_modules_get_the_time_of_the_world_and_their_own_back() -> None:
    module = ModuleType("module")
    module.time, module.monotonic = time.time, time.monotonic  # type: ignore[attr-defined]
    world = Simulation(1)
    with world.in_place_of(module):
        pass_time(world, 3600)
        assert module.time() == EPOCH + 3600
        assert module.monotonic() == 3600
    assert module.time is time.time
    assert closures.clock is time.monotonic


def test_who_waits_for_a_connection_on_which_nothing_can_happen_is_told() -> None:
    world = Simulation(1, KIND)
    client, _, _ = pair(world)

    @tamed
    def main() -> None:
        with twait:
            wait_on_fd(client.fds[0], READ, mkevent())

    with pytest.raises(DeadlockError, match=r"main at .*test_simulation.py"):
        world.run(main)


def test_a_loop_that_spins_is_told_and_time_passes_all_the_same() -> None:
    world = Simulation(1, KIND)
    client, _, _ = pair(world)

    @tamed
    def main() -> None:
        end = world.now + 1
        timer(1, Event())
        while now() < end:
            with twait:
                wait_on_fd(client.fds[0], WRITE, mkevent())

    world.run(main)
    assert "spins" in world.complaints[0]


# -- connections -----------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.lists(st.binary(min_size=1, max_size=3000), max_size=8))
def test_all_that_is_sent_arrives_in_order_whatever_the_seed(seed: int, parts: list[bytes]) -> None:
    world = Simulation(seed, Faults(accept=0))
    listener = world.listen()
    system = world.os
    got: list[bytes] = []

    @tamed
    def send(done: Event[()]) -> None:
        peer = Descriptor(world.connect(listener, "c"))
        system.set_blocking(peer.fd, False)
        data = b"".join(parts)
        while data:
            with suppress(BlockingIOError):  # a report may be spurious
                data = data[system.write(peer.fd, data) :]
            with twait:
                wait_on_fd(peer, WRITE, mkevent())
        peer.close()
        done.trigger()

    @tamed
    def take(done: Event[()]) -> None:
        peer: Descriptor | None = None
        while peer is None:
            with twait:
                wait_on_fd(listener, READ, mkevent())
            with suppress(BlockingIOError):
                peer = Descriptor(listener._accept()[0])
        system.set_blocking(peer.fd, False)
        while not got or got[-1]:
            with twait:
                wait_on_fd(peer, READ, mkevent())
            with suppress(BlockingIOError):
                got.append(system.read(peer.fd, 500))
        peer.close()
        done.trigger()

    @tamed
    def main() -> None:
        with twait:
            take(mkevent())
            send(mkevent())
        listener.close()

    world.run(main)
    assert b"".join(got) == b"".join(parts)
    assert not world.complaints
    assert not world.descriptors


def test_a_full_connection_takes_no_more() -> None:
    world = Simulation(1, KIND)
    client, server, _ = pair(world)
    assert client.write([b"x" * 5000]) == 1000
    pass_time(world, 1)  # they have arrived, and fill the other side
    assert client.write([b"y" * 700, b"z" * 700]) == 1000
    with pytest.raises(BlockingIOError):
        client.write([b"x"])
    assert not client.readiness() & WRITE
    assert server.read(5000) == b"x" * 1000
    pass_time(world, 1)
    assert server.read(5000) == b"y" * 700 + b"z" * 300


def test_a_call_that_would_wait_is_a_complaint() -> None:
    world = Simulation(1, KIND)
    client, _, _ = pair(world)
    client.blocking = True
    with pytest.raises(BlockingIOError):
        world.os.read(client.fds[0], 10)
    world.os.write(client.fds[0], b"x" * 1001)
    assert [text.partition(" ")[2] for text in world.complaints] == [
        "a blocking read would have stopped the loop",
        "a blocking write would have stopped the loop",
    ]


def test_what_was_written_arrives_though_the_end_was_closed() -> None:
    world = Simulation(1, KIND)
    client, server, _ = pair(world)
    server.write([b"bye"])
    world.os.close(server.fds[0])
    pass_time(world, 1)
    assert client.read(10) == b"bye"
    assert client.read(10) == b""


Closing = Callable[[Simulation, End, End], None]


def unread(world: Simulation, client: End, server: End) -> None:
    client.write([b"x"])
    pass_time(world, 1)


def unlingering(world: Simulation, client: End, server: End) -> None:
    end = world.socket.socket(fileno=server.fds[0])
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    end.detach()


@pytest.mark.parametrize("reason", [unread, unlingering])
def test_a_close_resets_if_something_was_not_read_or_nobody_is_to_linger(reason: Closing) -> None:
    world = Simulation(1, KIND)
    client, server, _ = pair(world)
    reason(world, client, server)
    world.os.close(server.fds[0])
    pass_time(world, 1)
    with pytest.raises(ConnectionResetError):
        client.read(10)
    assert client.read(10) == b""
    with pytest.raises(BrokenPipeError):
        client.write([b"x"])


def test_who_sends_to_one_that_has_closed_is_reset() -> None:
    world = Simulation(1, KIND)
    client, server, _ = pair(world)
    world.os.close(server.fds[0])
    client.write([b"x"])
    pass_time(world, 1)
    with pytest.raises(ConnectionResetError):
        client.write([b"x"])


def test_half_a_connection_can_be_shut_down() -> None:
    world = Simulation(1, KIND)
    client, server, _ = pair(world)
    client.shutdown(socket.SHUT_WR)
    pass_time(world, 1)
    assert server.read(10) == b""
    server.write([b"still here"])
    pass_time(world, 1)
    assert client.read(100) == b"still here"
    with pytest.raises(BrokenPipeError):
        client.write([b"x"])


def test_nothing_arrives_from_one_that_is_lost() -> None:
    world = Simulation(1, KIND)
    client, server, _ = pair(world)
    world.lose(client)
    client.write([b"x"])
    pass_time(world, 100)
    with pytest.raises(BlockingIOError):
        server.read(10)


def test_who_meets_a_closed_door_is_reset() -> None:
    world = Simulation(1, KIND)
    listener = world.listen()
    listener.close()
    client = world.end(world.connect(listener, "c"))
    pass_time(world, 2)
    assert client.is_reset


def test_a_number_is_given_again_and_one_that_is_closed_is_a_complaint() -> None:
    world = Simulation(1, KIND)
    _, server, listener = pair(world)
    fd = server.fds[0]
    world.os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        world.os.read(fd, 1)
    assert world.complaints
    assert world.os.dup(listener.fileno()) == fd >= FIRST_FD
