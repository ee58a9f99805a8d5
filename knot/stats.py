"""What a server has done so far, counted only where somebody asks for it (``--admin``).

A worker writes its counts into memory that it shares with its supervisor, once a second; who serves
alone keeps them to itself.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping
from typing import Final

from knot.models.connection import Peer, Server
from knot.respond import Later, Response
from tame import mkevent, tamed, timer, twait

STATUSES: Final = (
    200, 204, 206, 301, 304, 400, 404, 405, 408, 412, 414, 416, 431, 500, 501, 503, 505,
)  # fmt: skip
"""Those that Knot answers with; a place for each in the shared memory, and one for any other."""

LAYOUT: Final = struct.Struct(f"={3 + len(STATUSES) + 1}Q")
"""Connections made, connections open, bytes of content sent; then requests by status."""


REPORT: Final = 1.0
"""Seconds."""


class Counts:
    """Of one process, or the sum of several."""

    def __init__(self) -> None:
        self.connections = 0
        self.open = 0
        self.sent = 0
        self.requests = dict.fromkeys((*STATUSES, 0), 0)
        """By status; 0 stands for any that is not in `STATUSES`."""

    def count(self, response: Response) -> None:
        status = response.status
        self.requests[status if status in self.requests else 0] += 1
        self.sent += response.length

    def add(self, other: Counts) -> None:
        self.connections += other.connections
        self.open += other.open
        self.sent += other.sent
        for status, number in other.requests.items():
            self.requests[status] += number

    def by_status(self) -> Mapping[str, int]:
        return {str(status or "other"): n for status, n in self.requests.items() if n}


class Peers(set[Peer]):
    """The connections, which counts those that have come."""

    total = 0

    def add(self, peer: Peer) -> None:
        self.total += 1
        super().add(peer)


class Counter:
    """Counts what a server does, from its making on."""

    def __init__(self, server: Server) -> None:
        self._counts = Counts()
        self._peers = server.peers = Peers(server.peers)
        gate, respond = server.gate, server.respond
        if gate is not None:
            server.gate = lambda peer, request, now: self._counted(gate(peer, request, now))
        else:
            server.respond = lambda request, now: self._counted(respond(request, now))

    def _counted(self, response: Response | Later) -> Response | Later:
        if isinstance(response, Response):
            self._counts.count(response)
            return response
        then = response.then
        return response._replace(then=lambda made: self._counted(then(made)))

    def read(self) -> Counts:
        counts = self._counts
        counts.connections, counts.open = self._peers.total, len(self._peers)
        return counts


class Shared:
    """The counts of a worker, where its supervisor sees them."""

    def __init__(self, fd: int) -> None:
        """`fd` is that of the memory; see `new`."""
        self.fd = fd
        self._memory = mmap.mmap(fd, LAYOUT.size)

    @classmethod
    def new(cls) -> Shared:
        fd = os.memfd_create("knot")
        os.ftruncate(fd, LAYOUT.size)
        return cls(fd)

    def write(self, counts: Counts) -> None:
        LAYOUT.pack_into(
            self._memory, 0, counts.connections, counts.open, counts.sent, *counts.requests.values()
        )

    def read(self) -> Counts:
        counts = Counts()
        counts.connections, counts.open, counts.sent, *numbers = LAYOUT.unpack_from(self._memory)
        counts.requests = dict(zip(counts.requests, numbers, strict=True))
        return counts

    def close(self) -> None:
        self._memory.close()
        os.close(self.fd)


@tamed
def report(counter: Counter, shared: Shared) -> None:
    """Write what was counted, once a second, for as long as the loop runs."""
    while True:
        shared.write(counter.read())
        with twait:
            timer(REPORT, mkevent())
