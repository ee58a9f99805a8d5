"""Counts of what a server has done, kept only with ``--admin``.

A worker writes its counts into memory that it shares with its supervisor, once a second and
whenever it is asked to; a single process keeps them to itself.  A `Counter` wraps the server's
`on_sent` and looks at its connections; it changes neither answers nor connections.
"""

from __future__ import annotations

import mmap
import os
import struct
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from time import process_time, time
from typing import Final

from knot.files.site import Site
from knot.http.responder import FROM_FILES
from knot.models.peer import HEAD, IDLE, SENDING, Connection
from knot.models.server import Sent, Server
from tame import mkevent, tamed, timer, twait

STATUSES: Final = (
    200, 204, 206, 301, 302, 304, 307, 308, 400, 401, 403, 404, 405, 408, 412, 413, 414, 416, 421,
    429, 431, 500, 501, 503, 505,
)  # fmt: skip
"""The statuses that Knot answers with: each has a place in the shared memory, and all others share
one."""

BOUNDS: Final = (0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0)
"""Upper bounds of the buckets of durations, in seconds; longer durations have one bucket more."""

STATES: Final = {HEAD: "head", IDLE: "idle", SENDING: "taking"}
"""The states of a connection: what it waits for."""

SINGLE: Final = (
    "connections", "turned_away", "sent", "misses", "hits", "cached", "cpu", "lasted", "lacking",
)  # fmt: skip
"""The counts that are a single number."""

LAYOUT: Final = struct.Struct(f"{len(SINGLE) + len(STATES) + len(BOUNDS) + 1 + len(STATUSES) + 1}Q")
"""In the shared memory: `SINGLE`, connections by state, durations by bucket, answers by status.  In
the machine's byte order and alignment, so that each number is written in one piece."""

REPORT_INTERVAL: Final = 1.0
"""Seconds between two writes to the shared memory."""


class Counts:
    """The counts of one process, or the sum over several."""

    def __init__(self) -> None:
        self.connections = 0
        self.turned_away = 0
        self.sent = 0
        """Bytes of content."""
        self.misses = self.hits = 0
        """Answers from files that had to be opened, and from files in the cache."""
        self.cached = 0
        """Bytes in the cache."""
        self.cpu = 0
        """CPU time in ms."""
        self.lasted = 0
        """The sum of the durations of all answers, from reading the request to sending the last
        byte, in µs."""
        self.lacking = 0
        """1 if something that is to be served is missing."""
        self.open = dict.fromkeys(STATES.values(), 0)
        """Connections by state."""
        self.buckets = [0] * (len(BOUNDS) + 1)
        """Answers by duration."""
        self.requests = dict.fromkeys((*STATUSES, 0), 0)
        """Answers by status; the key 0 is for those that are not in `STATUSES`."""

    def add(self, other: Counts) -> None:
        for name in SINGLE:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for state, number in other.open.items():
            self.open[state] += number
        for place, number in enumerate(other.buckets):
            self.buckets[place] += number
        for status, number in other.requests.items():
            self.requests[status] += number

    def end(self) -> None:
        """The process has ended, and with it its cache and its connections."""
        self.cached = self.lacking = 0
        self.open = dict.fromkeys(self.open, 0)

    def by_status(self) -> Mapping[str, int]:
        return {str(status or "other"): n for status, n in self.requests.items() if n}


class CountedConnections(set[Connection]):
    """The open connections, and the number of all that were ever added."""

    total = 0

    def add(self, peer: Connection) -> None:
        self.total += 1
        super().add(peer)


class Counter:
    """Counts what a server does from now on."""

    def __init__(self, server: Server, sites: Sequence[Site]) -> None:
        self._server = server
        self._sites = sites
        self._misses = 0
        """The misses of sites that are no longer served."""
        self._peers = server.peers = CountedConnections(server.peers)
        self._statuses = [0] * 1000
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._sent = 0
        self._lasted = 0.0
        self._hits = 0
        self._attach()

    def _attach(self) -> None:
        server = self._server
        self._then = server.on_sent
        server.on_sent = self.on_sent if self._then is None else self.on_sent_and_then

    def go_on(self, sites: Sequence[Site]) -> None:
        """The server has adopted another configuration, with these sites."""
        self._misses += sum(site.misses for site in self._sites)
        self._sites = sites
        self._attach()

    def on_sent(self, sent: Sent) -> None:
        """Count an answer: 0.6 µs, 6 % of a request of 1 KiB."""
        lasted = time() - sent.when
        if lasted > 0:  # else the clock was set back
            self._lasted += lasted
        self._buckets[bisect_left(BOUNDS, lasted)] += 1
        self._statuses[sent.response.status] += 1
        self._sent += sent.size if sent.unsent else sent.response.length

    def on_sent_and_then(self, sent: Sent) -> None:
        self.on_sent(sent)
        assert self._then is not None
        self._then(sent)

    def read(self) -> Counts:
        """The counts now.  Looks at each connection: 0.5 ms for 10,000."""
        counts = Counts()
        counts.connections, counts.turned_away = self._peers.total, self._server.turned_away
        counts.sent = self._sent
        counts.misses = self._misses + sum(site.misses for site in self._sites)
        # An answer under way is counted as a miss, but not yet as an answer.  Counters never
        # decrease.
        answers = sum(self._statuses[status] for status in FROM_FILES)
        self._hits = counts.hits = max(self._hits, answers - counts.misses)
        counts.cached = sum(site.held for site in self._sites)
        counts.cpu = int(1e3 * process_time())
        counts.lasted = int(1e6 * self._lasted)
        counts.lacking = int(not self._server.has_all())
        for peer in self._peers:
            counts.open[STATES[peer.waits_for]] += 1
        counts.buckets[:] = self._buckets
        for status, number in enumerate(self._statuses):
            if number:
                counts.requests[status if status in counts.requests else 0] += number
        return counts


class Shared:
    """The counts of a worker, in memory that it shares with its supervisor."""

    def __init__(self, fd: int) -> None:
        """`fd` is a descriptor of the memory, as `new` creates it."""
        self.fd = fd
        self._memory = mmap.mmap(fd, LAYOUT.size)

    @classmethod
    def new(cls) -> Shared:
        fd = os.memfd_create("knot")
        os.ftruncate(fd, LAYOUT.size)
        return cls(fd)

    def write(self, counts: Counts) -> None:
        LAYOUT.pack_into(
            self._memory,
            0,
            *(getattr(counts, name) for name in SINGLE),
            *counts.open.values(),
            *counts.buckets,
            *counts.requests.values(),
        )

    def read(self) -> Counts:
        counts = Counts()
        numbers = iter(LAYOUT.unpack_from(self._memory))
        for name in SINGLE:
            setattr(counts, name, next(numbers))
        counts.open = dict(zip(counts.open, numbers, strict=False))
        counts.buckets = [next(numbers) for _ in counts.buckets]
        counts.requests = dict(zip(counts.requests, numbers, strict=True))
        return counts

    def has_all(self) -> bool:
        """Whether everything that the worker is to serve was there when it last wrote."""
        return not self.read().lacking

    def close(self) -> None:
        self._memory.close()
        os.close(self.fd)


@tamed
def report(counter: Counter, shared: Shared) -> None:
    """Write the counts once a second, for as long as the loop runs."""
    while True:
        shared.write(counter.read())
        with twait:
            timer(REPORT_INTERVAL, mkevent())
