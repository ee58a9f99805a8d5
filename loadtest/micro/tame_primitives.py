"""What `bench_tame` measures of descriptors and time; made like `tame_operations.py`."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from loadtest.micro.tame_operations import Clock
from tame import READ, Descriptor, Event, mkevent, tamed, timer, twait, wait_on_fd

# -- descriptors --------------------------------------------------------------------------------
#
# Two players pass one byte to and fro over a pair of sockets; an operation is a wait, a read and
# a write.


def socket_pairs(count: int) -> list[socket.socket]:
    """The ends of so many pairs, a byte on its way to one end of each."""
    ends = [end for _ in range(count) for end in socket.socketpair()]
    for end in ends:
        end.setblocking(False)
    for end in ends[::2]:
        end.send(b".")
    return ends


@tamed
def play(descriptor: Descriptor, times: int, done: Event[()]) -> None:
    fd = descriptor.fileno()
    for _ in range(times):
        with twait:
            wait_on_fd(descriptor, READ, mkevent())
        os.read(fd, 1)
        os.write(fd, b".")
    done.trigger()


@tamed
def play_pairs(pairs: int, n: int, clock: Clock) -> None:
    players = [Descriptor(player.detach()) for player in socket_pairs(pairs)]
    with twait:
        for player in players:
            play(player, n // len(players), mkevent())
        clock.start()
    clock.stop()
    for player in players:
        player.close()


class Readable:
    """A future for each wait; the reader stays registered, as a `Descriptor` does."""

    def __init__(self, fd: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.fd = fd
        self.future: asyncio.Future[None] | None = None
        self.loop.add_reader(fd, self.ready)

    def ready(self) -> None:
        future = self.future
        if future is None:
            self.loop.remove_reader(self.fd)
        elif not future.done():
            future.set_result(None)

    def wait(self) -> asyncio.Future[None]:
        self.future = self.loop.create_future()
        return self.future


async def play_with_reader(player: socket.socket, times: int) -> None:
    fd = player.fileno()
    readable = Readable(fd)
    for _ in range(times):
        await readable.wait()
        os.read(fd, 1)
        os.write(fd, b".")
    asyncio.get_running_loop().remove_reader(fd)


async def play_with_sock_recv(player: socket.socket, times: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(times):
        await loop.sock_recv(player, 1)
        await loop.sock_sendall(player, b".")


async def play_pairs_with(
    play: Callable[[socket.socket, int], Coroutine[Any, Any, None]],
    pairs: int,
    n: int,
    clock: Clock,
) -> None:
    players = socket_pairs(pairs)
    tasks = [asyncio.create_task(play(player, n // len(players))) for player in players]
    await asyncio.sleep(0)
    clock.start()
    await asyncio.gather(*tasks)
    clock.stop()
    for player in players:
        player.close()


# -- timers -------------------------------------------------------------------------------------


@tamed
def nap(seconds: float, times: int, done: Event[()]) -> None:
    for _ in range(times):
        with twait:
            timer(seconds, mkevent())
    done.trigger()


@tamed
def naps(seconds: float, crowd: int, n: int, clock: Clock) -> None:
    with twait:
        for _ in range(crowd):
            nap(seconds, n // crowd, mkevent())
        clock.start()
    clock.stop()


async def napping_task(seconds: float, times: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(times):
        future = loop.create_future()
        loop.call_later(seconds, future.set_result, None)
        await future


async def napping_tasks(seconds: float, crowd: int, n: int, clock: Clock) -> None:
    tasks = [asyncio.create_task(napping_task(seconds, n // crowd)) for _ in range(crowd)]
    await asyncio.sleep(0)
    clock.start()
    await asyncio.gather(*tasks)
    clock.stop()
