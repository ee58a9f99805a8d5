"""A simulated world for tamed programs: time, order, a network and a disk, all from one seed.

    world = Simulation(seed)
    with world.in_place_of(program):
        world.run(program.main)

Nothing in it waits, and the same seed gives the same run, event by event.  The program itself runs
unchanged: the names `os`, `socket`, `time` and `monotonic` in its modules are replaced during the
run by objects that handle simulated descriptors and pass everything else on.

This module decides the order in which things happen; `streams.py` says what a connection does.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from random import Random
from types import BuiltinFunctionType, ModuleType
from typing import Any, Final

from tame import closure as closures
from tame import loop
from tame.drivers import READ, Watched
from tame.errors import DeadlockError
from tame.testing.streams import BROKEN_WITHIN, DELAYS, Buffer, End, Faults, Listener
from tame.testing.virtual import VirtualDriver

FIRST_FD: Final = 1 << 20
"""The first simulated descriptor; real ones are smaller."""

MAX_STEPS: Final = 1_000
"""How many times in a row something can be ready before time passes nevertheless."""

EPOCH: Final = 1_700_000_000
"""The value of `time.time` when a simulation begins."""


class Simulation:
    """One run of the world, determined by its seed."""

    def __init__(self, seed: int, faults: Faults | None = None) -> None:
        self.random = Random(seed)  # noqa: S311  (nothing here is secret)
        self.faults = faults or Faults()
        self.now = 0.0
        """Virtual seconds since the beginning."""
        self.trace: list[str] = []
        """Everything that has happened, one line each."""
        self.complaints: list[str] = []
        """What the program did wrong: blocked the loop, or used a closed descriptor."""
        self.disk_errors: list[float] = []
        """The times at which the disk failed."""
        self.ends: list[End] = []
        """Both ends of all connections so far."""
        self.descriptors: dict[int, End | Listener] = {}
        self.touched: dict[int, None] = {}
        """Descriptors that may be ready."""
        self.os = SimulatedOs(self)
        self.socket = SimulatedSocketModule(self)
        self._free: list[int] = []
        self._happenings: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    # Time

    def at(self, delay: float, happening: Callable[[], None]) -> None:
        """Let `happening` happen after `delay` seconds."""
        self.at_time(self.now + delay, happening)

    def at_time(self, when: float, happening: Callable[[], None]) -> None:
        """Let `happening` happen at the time `when`."""
        heapq.heappush(self._happenings, (when, next(self._order), happening))

    def next_happening(self) -> float | None:
        return self._happenings[0][0] if self._happenings else None

    def happen(self) -> None:
        """Let the next happening happen."""
        heapq.heappop(self._happenings)[2]()

    def time(self) -> float:
        """Replaces `time.time`."""
        return EPOCH + self.now

    def note(self, what: str) -> None:
        self.trace.append(f"{self.now:.6f} {what}")

    def complain(self, what: str) -> None:
        self.note(what)
        self.complaints.append(what)

    def chance(self, share: float) -> bool:
        return share > 0 and self.random.random() < share

    # Running a program

    def run(self, f: Callable[..., None], *args: Any) -> None:
        """`tame.run` in this world."""
        with _replaced([(loop, "os", self.os)]):  # a `Descriptor` closes itself
            loop.run(f, *args, driver=partial(SimulatedDriver, self))

    @contextmanager
    def in_place_of(self, *modules: ModuleType) -> Iterator[None]:
        """Replace the system's modules and functions in `modules` by those of this world."""
        ours: dict[Any, Any] = {
            os: self.os,
            socket: self.socket,
            time.time: self.time,
            time.monotonic: self.clock,
        }
        places = [
            (module, name, ours[value])
            for module in modules
            for name, value in vars(module).items()
            if isinstance(value, ModuleType | BuiltinFunctionType) and value in ours
        ]
        with _replaced(places):
            yield

    def clock(self) -> float:
        """Replaces `time.monotonic`."""
        return self.now

    # Descriptors

    def open(self, thing: End | Listener) -> int:
        """The smallest free descriptor, as from a kernel: a closed number is soon reused."""
        fd = heapq.heappop(self._free) if self._free else FIRST_FD + len(self.descriptors)
        self.descriptors[fd] = thing
        thing.fds.append(fd)
        return fd

    def close(self, fd: int) -> None:
        thing = self.find(fd)
        del self.descriptors[fd]
        heapq.heappush(self._free, fd)
        thing.fds.remove(fd)
        if not thing.fds:
            thing.closes()

    def find(self, fd: int) -> End | Listener:
        try:
            return self.descriptors[fd]
        except KeyError:
            self.complain(f"descriptor {fd} is used after it was closed")
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def end(self, fd: int) -> End:
        found = self.find(fd)
        if not isinstance(found, End):
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return found

    def touch(self, fd: int) -> None:
        self.touched[fd] = None

    # The network

    def listen(self) -> Listener:
        return Listener(self)

    def connect(self, listener: Listener, name: str) -> int:
        """The descriptor of a client's end of a new connection, which can write at once."""
        delay = self.random.choice(DELAYS)
        client, server = End(self, f"{name}>", delay), End(self, f"{name}<", delay)
        client.other, server.other = server, client
        self.ends += (client, server)
        self.note(f"{name} connects")
        deferred = self.random.random() < 0.7
        client.send(lambda: listener.knock(server, deferred))
        if self.chance(self.faults.broken):
            self.at(self.random.random() * BROKEN_WITHIN, partial(self.breaks, client))
        elif self.chance(self.faults.lost):
            self.at(self.random.random() * BROKEN_WITHIN, partial(self.lose, client))
        return self.open(client)

    def breaks(self, end: End) -> None:
        """Let the network reset the connection."""
        end.disturbed = end.other.disturbed = True
        end.reset_arrives()
        end.other.reset_arrives()

    def lose(self, end: End) -> None:
        """Let the network lose the connection: nothing arrives any more, on either side."""
        self.note(f"{end.name} is lost")
        end.lost = end.other.lost = end.disturbed = end.other.disturbed = True


@contextmanager
def _replaced(places: Sequence[tuple[ModuleType, str, Any]]) -> Iterator[None]:
    before = [(module, name, getattr(module, name)) for module, name, _ in places]
    try:
        for module, name, value in places:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


class SimulatedDriver(VirtualDriver):
    """A driver with virtual time and simulated descriptors, which resumes closures in any order."""

    def __init__(
        self, world: Simulation, on_turn: Callable[[], bool], on_alarm: Callable[[], None]
    ) -> None:
        super().__init__(self._turn, on_alarm)
        self._world = world
        self._resume = on_turn
        self._real = 0  # how many real descriptors are watched
        self._steps = 0  # how many since time passed
        self.time = world.now

    def clock(self) -> float:
        return self._world.now

    def _turn(self) -> bool:
        waiting = closures.runnable
        if len(waiting) > 1:
            waiting.rotate(self._world.random.randrange(len(waiting)))
        return self._resume()

    def run(self) -> None:
        turns, closures.RESUMES = closures.RESUMES, range(1)
        try:
            super().run()
        finally:
            closures.RESUMES = turns

    def wake(self) -> None:
        """Does nothing: this driver never sleeps."""

    def watch(self, descriptor: Watched, directions: int) -> None:
        fd = descriptor.fd
        if fd < FIRST_FD:
            self._real += (directions != 0) - (descriptor.watched != 0)
            return super().watch(descriptor, directions)
        if directions:
            self._world.find(fd)
            self._world.touch(fd)
            self.watched[fd] = descriptor
        else:
            self.watched.pop(fd, None)
        descriptor.watched = directions

    def report(self, timeout: float | None) -> list[tuple[int, int]]:
        found = super().report(0) if self._real else []
        world = self._world
        if not world.touched:
            return found
        fds = list(world.touched)
        world.random.shuffle(fds)
        for fd in fds:
            descriptor, thing = self.watched.get(fd), world.descriptors.get(fd)
            ready = 0
            if descriptor is not None and thing is not None:
                ready = thing.readiness() & descriptor.watched
                if not ready and world.chance(world.faults.spurious):
                    ready = descriptor.watched & READ
            if ready:
                assert descriptor is not None
                descriptor.ready(ready)
                found.append((fd, ready))
            else:
                del world.touched[fd]
        return found

    def advance(self) -> None:
        world = self._world
        self._steps += 1
        if self._steps > MAX_STEPS:
            world.complain(f"the loop spins: {MAX_STEPS} rounds, and no time has passed")
        elif self.report(0):
            return
        self._steps = 0
        happening, alarm = world.next_happening(), self._alarm
        if happening is None and alarm is None:
            if not self._real:
                raise DeadlockError(loop.blocked_message("nothing can happen any more, but"))
            super().report(None)
        elif happening is None or (alarm is not None and alarm < happening):
            self.time = world.now = max(world.now, alarm or 0.0)
        else:
            self.time = world.now = max(world.now, happening)
            world.happen()


# -- the system that programs call ---------------------------------------------------------------


class SimulatedOs:
    """The module `os` with simulated descriptors and disk faults."""

    def __init__(self, world: Simulation) -> None:
        self._world = world
        self._numbers = itertools.count()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    # Streams

    def read(self, fd: int, size: int) -> bytes:
        if fd < FIRST_FD:
            return os.read(fd, size)
        end = self._world.end(fd)
        return end.read(size, end.blocking)

    def write(self, fd: int, data: Buffer) -> int:
        if fd < FIRST_FD:
            return os.write(fd, data)
        return self.writev(fd, (data,))

    def writev(self, fd: int, buffers: Sequence[Buffer]) -> int:
        if fd < FIRST_FD:
            return os.writev(fd, buffers)
        end = self._world.end(fd)
        return end.write(buffers, end.blocking)

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int, flags: int = 0) -> int:
        if fd < FIRST_FD:
            return os.pwritev(fd, buffers, offset, flags)
        end = self._world.end(fd)
        return end.write(buffers, end.blocking and not flags & os.RWF_NOWAIT)

    def preadv(self, fd: int, buffers: Sequence[Any], offset: int, flags: int = 0) -> int:
        if fd < FIRST_FD:
            return self._read_file(fd, buffers, offset, flags)
        end = self._world.end(fd)
        data = end.read(sum(map(len, buffers)), end.blocking and not flags & os.RWF_NOWAIT)
        view = memoryview(data)
        for buffer in buffers:
            memoryview(buffer)[: len(view)] = view[: len(buffer)]
            view = view[len(buffer) :]
        return len(data)

    def sendfile(self, out: int, file: int, offset: int, count: int) -> int:
        if out < FIRST_FD:
            return os.sendfile(out, file, offset, count)
        end = self._world.end(out)
        self._fail_sometimes(file)
        data = os.pread(file, count if end.blocking else min(count, max(1, end.writable)), offset)
        return end.write((data,), end.blocking) if data else 0

    def urandom(self, size: int) -> bytes:
        return next(self._numbers).to_bytes(size, "big")

    def set_blocking(self, fd: int, blocking: bool) -> None:
        if fd < FIRST_FD:
            return os.set_blocking(fd, blocking)
        self._world.find(fd).blocking = blocking

    def dup(self, fd: int) -> int:
        if fd < FIRST_FD:
            return os.dup(fd)
        return self._world.open(self._world.find(fd))

    def close(self, fd: int) -> None:
        if fd < FIRST_FD:
            return os.close(fd)
        self._world.close(fd)

    # Files: real ones, on a simulated disk

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        self._fail_sometimes(fd)
        return os.pread(fd, size, offset)

    def posix_fadvise(self, fd: int, offset: int, length: int, advice: int) -> None:
        """Does nothing."""

    def _read_file(self, fd: int, buffers: Sequence[Any], offset: int, flags: int) -> int:
        world = self._world
        self._fail_sometimes(fd)
        if flags & os.RWF_NOWAIT:
            if world.chance(world.faults.cold):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            first = memoryview(buffers[0])
            if len(first) > 1 and world.chance(world.faults.cold):
                return os.preadv(fd, [first[: world.random.randint(1, len(first))]], offset)
        return os.preadv(fd, buffers, offset)

    def _fail_sometimes(self, fd: int) -> None:
        world = self._world
        if world.chance(world.faults.disk):
            world.note("the disk fails")
            world.disk_errors.append(world.now)
            raise OSError(errno.EIO, os.strerror(errno.EIO))


class SimulatedSocketModule:
    """The module `socket` with simulated connections."""

    def __init__(self, world: Simulation) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)

    def socket(self, *args: Any, **options: Any) -> Any:
        fd = options.get("fileno", -1)
        return (
            socket.socket(*args, **options) if fd < FIRST_FD else SimulatedSocket(self._world, fd)
        )


class SimulatedSocket:
    """A simulated connection as a socket object."""

    def __init__(self, world: Simulation, fd: int) -> None:
        self._world = world
        self._fd = fd
        self._end = world.end(fd)

    def fileno(self) -> int:
        return self._fd

    def detach(self) -> int:
        fd, self._fd = self._fd, -1
        return fd

    def shutdown(self, how: int) -> None:
        self._end.shutdown(how)

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER):
            self._end.lingers = struct.unpack("ii", value) != (1, 0)

    def close(self) -> None:
        if self._fd >= 0:
            self._world.close(self.detach())
