"""Stream sockets in memory, and everything that a network does to them, in virtual time.

An `End` is one side of a connection as its kernel sees it: bytes that have arrived and are unread,
bytes that are written and unsent, and which side has ended which direction.  A `Listener` is what
clients connect to.  The `Simulation` has the descriptors and the random generator, which decides
about delays, pieces and losses.  This module does not use the loop.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from zlib import crc32

from tame.drivers import READ, WRITE

if TYPE_CHECKING:
    from tame.testing.simulation import Simulation

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Faults:
    """The probability of each fault, between 0 and 1."""

    short: float = 0.2
    """A read or a write does less than it could."""
    split: float = 0.3
    """Bytes arrive in two or more pieces."""
    spurious: float = 0.05
    """A descriptor is reported that is not ready."""
    overtaken: float = 0.5
    """A reset discards bytes that have arrived and are unread."""
    broken: float = 0.0
    """The network resets a connection in its first seconds."""
    lost: float = 0.0
    """A connection goes silent: from some time on, nothing that is sent arrives."""
    accept: float = 0.05
    """`accept` has no free descriptor, or finds that the connection is gone."""
    cold: float = 0.1
    """Pages of a file are not in memory."""
    disk: float = 0.0
    """A read from the disk fails (EIO)."""


DELAYS: Final = (0.0001, 0.001, 0.02, 0.15)
"""Seconds from one end to the other; each connection has one of these."""

ROOMS: Final = (1_000, 4_000, 16_000, 64_000)
"""Sizes of the buffers for unread and for unsent bytes."""

BROKEN_WITHIN: Final = 8.0
"""Seconds within which a connection breaks or is lost, if it does."""

DEFERRED: Final = 1.0
"""Seconds after which a connection that sends nothing is accepted (TCP_DEFER_ACCEPT)."""


class End:
    """One side of a connection."""

    def __init__(self, world: Simulation, name: str, delay: float) -> None:
        self.world = world
        self.name = name
        self.fds: list[int] = []
        self.other: End = self
        self.delay = delay
        self.inbox = bytearray()
        self.outbox = bytearray()
        self.inbox_room = world.random.choice(ROOMS)
        self.outbox_room = world.random.choice(ROOMS)
        self.under_way = 0
        """Bytes that are sent and have not arrived."""
        self.blocking = True
        self.lingers = True
        """False if SO_LINGER makes a close discard unsent bytes."""
        self.error = 0
        self.is_reset = False
        self.no_more_in = self.no_more_out = self.has_end = False
        self.closed = False
        self.lost = False
        self.door: Listener | None = None
        """The listener, until the connection can be accepted."""
        self._end_sent = False
        self._arrives = 0.0
        # For tests
        self.waits_since: float | None = None
        """When it could first be accepted."""
        self.accepted_at: float | None = None
        self.refused = False
        self.reads: list[tuple[float, int]] = []
        """The time of each read, and the number of bytes read by then."""
        self.writes: list[tuple[float, int]] = []
        """The time of each write, and the number of bytes written by then."""
        self.ended_at: float | None = None
        """When this side was shut down for writing or closed."""
        self.closed_at: float | None = None
        self.disturbed = False
        """Whether the network has broken or lost the connection."""

    # What a program calls

    def read(self, most: int, waits: bool = False) -> bytes:
        inbox = self.inbox
        if inbox:
            size = min(most, len(inbox))
            if size > 1 and self.world.random.random() < self.world.faults.short:
                size = self.world.random.randint(1, size)
            data = bytes(inbox[:size])
            del inbox[:size]
            self.reads.append((self.world.now, self.taken_in + size))
            self.other.pump()
            return data
        if self.error:
            error, self.error = self.error, 0
            raise OSError(error, os.strerror(error))
        if self.has_end or self.no_more_in or self.is_reset:
            return b""
        if waits:
            self._would_wait("read")
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def write(self, buffers: Sequence[Buffer], waits: bool = False) -> int:
        if self.error:
            error, self.error = self.error, 0
            raise OSError(error, os.strerror(error))
        if self.no_more_out or self.is_reset:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        data = b"".join(buffers)
        size = min(len(data), self.writable)
        if waits and size < len(data):
            self._would_wait("write")
        if data and not size:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if size > 1 and self.world.random.random() < self.world.faults.short:
            size = self.world.random.randint(1, size)
        self.outbox += data[:size]
        self.writes.append((self.world.now, self.given_out + size))
        self.pump()
        return size

    @property
    def taken_in(self) -> int:
        """All bytes read so far."""
        return self.reads[-1][1] if self.reads else 0

    @property
    def given_out(self) -> int:
        """All bytes written so far."""
        return self.writes[-1][1] if self.writes else 0

    def _would_wait(self, call: str) -> None:
        self.world.complain(f"{self.name}: a blocking {call} would have stopped the loop")

    @property
    def writable(self) -> int:
        """The number of bytes that a write would take."""
        return max(0, self.outbox_room - len(self.outbox))

    def shutdown(self, how: int) -> None:
        if self.is_reset:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        self.world.note(f"{self.name} shuts down {how}")
        if how in (socket.SHUT_RD, socket.SHUT_RDWR):
            self.no_more_in = True
        if how in (socket.SHUT_WR, socket.SHUT_RDWR) and not self.no_more_out:
            self.no_more_out = True
            self._ends()
            self.pump()
        self._touch()

    def closes(self) -> None:
        """The last descriptor has been closed."""
        self.closed = True
        self.closed_at = self.world.now
        self._ends()
        if self.is_reset:
            return
        if self.inbox or not self.lingers:
            self.world.note(f"{self.name} resets")
            self.outbox.clear()
            self.is_reset = True
            self._send_reset()
            return
        self.world.note(f"{self.name} closes")
        self.no_more_out = True
        self.pump()

    def readiness(self) -> int:
        over = self.is_reset or self.error
        ready = 0
        if over or self.inbox or self.has_end or self.no_more_in:
            ready |= READ
        if over or self.no_more_out or 3 * self.writable >= self.outbox_room:
            ready |= WRITE
        return ready

    # What the network does

    def pump(self) -> None:
        """Send the bytes for which the other end has room."""
        other = self.other
        if self.lost:
            return
        while self.outbox:
            room = other.inbox_room - len(other.inbox) - self.under_way
            size = min(len(self.outbox), room)
            if size < len(self.outbox) and room < other.inbox_room // 4:
                return  # avoids tiny segments to a slow reader (RFC 9293, section 3.8.6.2.2)
            if size > 1 and self.world.random.random() < self.world.faults.split:
                size = self.world.random.randint(1, size)
            data = bytes(self.outbox[:size])
            del self.outbox[:size]
            self.under_way += size
            self.send(lambda data=data: self._arrive(data))  # type: ignore[misc]
        self._touch()
        if self.no_more_out and not self._end_sent:
            self._end_sent = True
            self.send(self._end_arrives)

    def send(self, arrival: Callable[[], None]) -> None:
        """Let `arrival` happen after the delay, in the order of sending."""
        delay = self.delay * (0.5 + self.world.random.random())
        self._arrives = max(self._arrives, self.world.now + delay)
        self.world.at_time(self._arrives, arrival)

    def _send_reset(self) -> None:
        if not self.lost:
            self.world.at(self.delay * self.world.random.random(), self.other.reset_arrives)

    def _arrive(self, data: bytes) -> None:
        self.under_way -= len(data)
        other = self.other
        if self.lost or other.is_reset:
            return
        if other.closed:
            if not self.is_reset:
                other.is_reset = True
                other.outbox.clear()
                other._send_reset()
            return
        self.world.note(f"{other.name} gets {len(data)} {crc32(data):x}")
        other.inbox += data
        other._touch()
        other._let_in()

    def _end_arrives(self) -> None:
        other = self.other
        if not (self.lost or other.is_reset):
            self.world.note(f"{other.name} gets the end")
            other.has_end = True
            other._touch()
            other._let_in()

    def reset_arrives(self) -> None:
        if self.is_reset or self.lost:
            return
        self.world.note(f"{self.name} is reset")
        self.is_reset = True
        self.outbox.clear()
        if not self.closed:
            self.error = errno.ECONNRESET
            if self.world.random.random() < self.world.faults.overtaken:
                self.inbox.clear()
            self._touch()
            self._let_in()

    def _let_in(self) -> None:
        if self.door is not None:
            self.door.admit(self)

    def _ends(self) -> None:
        if self.ended_at is None:
            self.ended_at = self.world.now

    def _touch(self) -> None:
        for fd in self.fds:
            self.world.touch(fd)


class Listener:
    """What clients connect to, with the methods of `socket.socket` that a server needs."""

    family = socket.AF_INET

    def __init__(self, world: Simulation) -> None:
        self.world = world
        self.fds: list[int] = []
        self.blocking = False
        self.waiting: deque[End] = deque()
        self.closed = False
        self._fd = world.open(self)

    def fileno(self) -> int:
        return self._fd

    def _accept(self) -> tuple[int, tuple[str, int]]:
        """Like the method of `socket.socket`: a descriptor and an address."""
        world = self.world
        if self.waiting and world.random.random() < world.faults.accept:
            number = world.random.choice((errno.EMFILE, errno.ECONNABORTED))
            if number == errno.ECONNABORTED:
                self._refuse(self.waiting.popleft())
            raise OSError(number, os.strerror(number))
        if not self.waiting:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        end = self.waiting.popleft()
        end.accepted_at = world.now
        world.note(f"{end.name} is accepted")
        return world.open(end), (end.name, 0)

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self.world.close(fd)

    def knock(self, end: End, deferred: bool) -> None:
        """A client connects; it can be accepted at once or, if deferred, when it sends."""
        end.door = self
        if deferred and not end.readiness() & READ and not self.closed:
            self.world.at(DEFERRED, lambda: self.admit(end))
        else:
            self.admit(end)

    def admit(self, end: End) -> None:
        if end.door is None:
            return
        end.door = None
        end.waits_since = self.world.now
        if self.closed:
            return self._refuse(end)
        self.waiting.append(end)
        for fd in self.fds:
            self.world.touch(fd)

    def readiness(self) -> int:
        return READ if self.waiting else 0

    def closes(self) -> None:
        """The last descriptor has been closed: refuse the clients that wait."""
        self.closed = True
        self.world.note("the listener closes")
        while self.waiting:
            self._refuse(self.waiting.popleft())

    def _refuse(self, end: End) -> None:
        self.world.note(f"{end.name} is refused")
        end.refused = True
        end.lingers = False
        end.closes()
