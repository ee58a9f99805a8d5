"""A crowd of connections to a server: what the generator `tame` does between two waits.

Nothing here waits: `send` and `receive` do what they can, and `tame` waits for the rest.
"""

from __future__ import annotations

import errno
import os
import random
import socket
from collections import deque
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec

from loadtest.fileset import FileSet
from loadtest.generators import GeneratorError, Target
from loadtest.generators.addresses import NO_PORT, bind, is_local
from loadtest.generators.answer import Answer, Failed
from loadtest.generators.expected import Expected
from loadtest.generators.pace import Schedule
from loadtest.generators.tally import Tally
from loadtest.scenario import ANSWER_TIMEOUT, TICK, Scenario
from tame import Descriptor, Event, EventDroppedError

UNREACHABLE: Final = {
    errno.ECONNREFUSED,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ETIMEDOUT,
}

READ_SIZE: Final = 64 * 1024


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A `Job` as the program gets it, in JSON."""

    target: Target
    scenario: Scenario
    root: str | None = None
    """Directory of the files; None checks only the status and length of answers."""
    load: int = 0
    papers: bool = False
    path: str | None = None
    clients: int
    seconds: float = 0.0
    warm_up: float = 0.0
    rate: float | None = None
    seed: int = 0
    timeout: float = ANSWER_TIMEOUT
    hold: bool = False
    """Open a connection for each client and keep it until standard input ends."""


class Connection(Descriptor):
    """A connection to the server; while `answer` is set, a request waits for it."""

    __slots__ = ("answer", "asked", "began", "request", "uses")

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.answer: Answer | None = None
        self.asked = 0.0
        """When the request was sent, or when a slow reader last got a part of its answer."""
        self.began = 0.0
        """When it should have been sent."""
        self.request = b""
        self.uses = 0
        """Requests sent on it."""


class Lane:
    """A place for one connection of a client, which may be empty."""

    __slots__ = ("client", "connection")

    def __init__(self, client: int) -> None:
        self.client = client
        self.connection: Connection | None = None


class Crowd:
    """What all clients share."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.scenario = order.scenario
        self.address = (order.target.host, order.target.port)
        self.local = is_local(order.target.host)
        self.tally = Tally(order.clients)
        self.connections: set[Connection] = set()
        self.over = False
        self.schedule = Schedule(order.rate) if order.rate else None
        self.free: deque[Event[float]] = deque()
        """Clients waiting until a request is due."""
        self.numbers = random.Random(order.seed)
        self.files = FileSet(Path(order.root or "."), order.load, papers=order.papers)
        self.expected = Expected(Path(order.root)) if order.root else None
        self.read_size = int(order.scenario.slow * TICK) if order.scenario.slow else READ_SIZE
        target = order.target
        self.before = f"GET {target.path('')}".encode()
        host = f" HTTP/1.1\r\nHost: {target.host}:{target.port}\r\n"
        self.after = f"{host}\r\n".encode(), f"{host}Connection: close\r\n\r\n".encode()
        """What follows the path, in a request and in the last one of its connection."""
        self.broken: Event[()] = Event()
        """Fails with the first error that is not the server's."""

    def connect(self, lane: Lane) -> Connection:
        """Begin to connect; the first `send` fails if that was not possible."""
        end = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            if self.scenario.slow:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.scenario.slow // 2)
            if self.local:
                bind(end, lane.client)
            error = end.connect_ex(self.address)
            if error not in (0, errno.EINPROGRESS):
                raise OSError(error, os.strerror(error))
        except OSError as error:
            end.close()
            if error.errno == errno.EADDRNOTAVAIL:
                raise GeneratorError(f"the generator tame: {NO_PORT}") from None
            raise
        connection = lane.connection = Connection(end.detach())
        self.connections.add(connection)
        return connection

    def ready(self, lane: Lane, began: float) -> Connection:
        """The lane's connection, with its next request."""
        connection = lane.connection
        if connection is not None and (self.scenario.pause or self.scenario.think):
            connection = self.still_open(lane, connection)
        if connection is None:
            connection = self.connect(lane)
        connection.uses += 1
        last = connection.uses == self.scenario.requests
        name = self.order.path or self.files.draw(self.numbers)
        connection.request = self.before + name.encode() + self.after[last]
        connection.answer = Answer(self.expected.content(name) if self.expected else None)
        connection.began = began
        connection.asked = monotonic() if self.schedule else began
        return connection

    def still_open(self, lane: Lane, connection: Connection) -> Connection | None:
        """After a pause: the connection, or None if the server has closed it, as it may."""
        if is_closed(connection):
            self.close(lane)
            return None
        return connection

    def close(self, lane: Lane) -> None:
        connection, lane.connection = lane.connection, None
        if connection is not None:
            self.connections.discard(connection)
            connection.answer = None
            connection.close()

    def send(self, connection: Connection) -> bool:
        """Send the request; false if the connection is not ready for it yet."""
        try:
            os.write(connection.fd, connection.request)  # there is room: the buffer is empty
        except BlockingIOError:
            return False
        if connection.uses == 1:
            self.tally.connected(monotonic())
        return True

    def receive(self, connection: Connection) -> bool:
        """Read what has come; true if the answer is complete.  Raises `Failed`, `OSError`."""
        assert connection.answer is not None
        try:
            data = os.read(connection.fd, self.read_size)
        except BlockingIOError:
            return False
        if self.scenario.slow:
            connection.asked = monotonic()
            self.tally.took(len(data), connection.asked)
        if not data:
            connection.answer.end()
            connection.answer.last = True
            return True
        return connection.answer.take(data)

    def right(self, lane: Lane, connection: Connection) -> None:
        """Count a right answer."""
        answer = connection.answer
        assert answer is not None
        connection.answer = None
        now, began = monotonic(), connection.began
        size = 0 if self.scenario.slow else answer.received
        self.tally.right(lane.client, began if self.schedule else now, now - began, size)
        if answer.last or connection.uses == self.scenario.requests:
            self.close(lane)

    def wrong(self, lane: Lane, began: float, error: Exception) -> bool:
        """Count a failed request; true if the server has refused the connection."""
        connection = lane.connection
        received = connection.answer.received if connection and connection.answer else 0
        self.close(lane)
        kind = kind_of(error, received)
        if kind:
            self.tally.failed(kind, began, monotonic())
        elif not self.over:
            self.over = True
            self.broken.fail(error)
        return kind == "refused"

    def wait_for_turn(self, event: Event[float]) -> None:
        """Trigger the event when the next request is due, with the time it was due."""
        assert self.schedule is not None
        due = self.schedule.take(monotonic())
        if due is None:
            self.free.append(event)
        else:
            event.trigger(due)

    def expire(self) -> None:
        """Close connections whose answers take too long, so that their clients count a failure."""
        limit = monotonic() - self.order.timeout
        for connection in self.connections:
            if connection.answer is not None and connection.asked <= limit:
                connection.close()

    def waiting(self) -> list[Connection]:
        """Connections without an answer yet; a slow reader that has some of it is not waiting."""
        slow = self.scenario.slow is not None
        return [
            connection
            for connection in self.connections
            if connection.answer is not None and not (slow and connection.answer.received)
        ]


def kind_of(error: Exception, received: int) -> str:
    """The kind of `Load.errors`; empty if the server is not to blame."""
    if isinstance(error, Failed):
        return error.kind
    if isinstance(error, EventDroppedError):
        return "timeout"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "cut" if received else "closed"
    unreachable = isinstance(error, OSError) and error.errno in UNREACHABLE
    return "refused" if unreachable else ""


def is_closed(connection: Connection) -> bool:
    try:
        return not os.read(connection.fd, 1)
    except BlockingIOError:
        return False
    except OSError:
        return True
