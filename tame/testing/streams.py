"""Stream sockets in memory, with all that a network does to them, in virtual time.

An `End` is one side of a connection as its kernel sees it: what has come and was not read, what
was written and has not left, who has ended what.  A `Listener` is what clients connect to.  The
`Simulation` knows what the seed decides (delays, pieces, losses), and has the descriptors.
This file knows nothing of the loop.
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
    """How often, between 0 and 1, what may happen at any time does."""

    short: float = 0.2
    """A read or a write does less than it could."""
    split: float = 0.3
    """Bytes come in two pieces or more."""
    spurious: float = 0.05
    """A descriptor is reported that is not ready."""
    overtaken: float = 0.5
    """A reset takes away what has come and was not read."""
    broken: float = 0.0
    """A connection is reset from outside, at some time in its first seconds."""
    lost: float = 0.0
    """A connection goes silent: from some time on nothing that is sent arrives."""
    accept: float = 0.05
    """`accept` has no descriptor left, or finds a connection that is gone."""
    cold: float = 0.1
    """Pages of a file are not in memory."""
    disk: float = 0.0
    """A disk does not give what it has (EIO)."""


DELAYS: Final = (0.0001, 0.001, 0.02, 0.15)
"""Seconds from one end to the other, of which each connection has one."""

ROOMS: Final = (1_000, 4_000, 16_000, 64_000)
"""Bytes that an end takes before somebody reads them, or before they leave."""

BROKEN_WITHIN: Final = 8.0
DEFERRED: Final = 1.0
"""Seconds after which a connection is accepted that sends nothing (TCP_DEFER_ACCEPT)."""


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
        """Bytes that have left and not arrived."""
        self.blocking = True
        self.lingers = True
        """Unless SO_LINGER says that a close throws away what has not left."""
        self.error = 0
        self.is_reset = False
        self.no_more_in = self.no_more_out = self.has_end = False
        self.closed = False
        self.lost = False
        self.door: Listener | None = None
        """Where it knocks, as long as it was not let in."""
        self._end_sent = False
        self._arrives = 0.0
        # What a test may want to know
        self.waits_since: float | None = None
        """When it could have been accepted."""
        self.accepted_at: float | None = None
        self.refused = False
        self.reads: list[tuple[float, int]] = []
        """When something was read, and how much it was altogether by then."""
        self.writes: list[tuple[float, int]] = []
        """The same of what was written."""
        self.ended_at: float | None = None
        """When this side said that no more will come, or that it has gone."""
        self.closed_at: float | None = None
        self.disturbed = False
        """Whether the network has broken or lost it."""

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
        """Bytes that were read altogether."""
        return self.reads[-1][1] if self.reads else 0

    @property
    def given_out(self) -> int:
        """Bytes that were written altogether."""
        return self.writes[-1][1] if self.writes else 0

    def _would_wait(self, call: str) -> None:
        self.world.complain(f"{self.name}: a {call} that waits would have stopped the loop")

    @property
    def writable(self) -> int:
        """Bytes that a write would take."""
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
        """Send what there is room for at the other end."""
        other = self.other
        if self.lost:
            return
        while self.outbox:
            room = other.inbox_room - len(other.inbox) - self.under_way
            size = min(len(self.outbox), room)
            if size < len(self.outbox) and room < other.inbox_room // 4:
                return  # or a slow reader would get it byte by byte (RFC 9293, section 3.8.6.2.2)
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
        """In order, whatever the delay."""
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
    """What clients connect to; as much of a `socket.socket` as a server needs."""

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
        """As that of a `socket.socket`: a descriptor, and the address."""
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
        """A client has come; it is let in at once, or when it says something."""
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
        """The last descriptor has been closed: who waits meets nobody."""
        self.closed = True
        self.world.note("nobody listens any more")
        while self.waiting:
            self._refuse(self.waiting.popleft())

    def _refuse(self, end: End) -> None:
        self.world.note(f"{end.name} is refused")
        end.refused = True
        end.lingers = False
        end.closes()
