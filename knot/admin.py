"""``--admin``: what operators and their programs ask of a server, on an address of its own.

    /metrics    counts, in Prometheus's text format
    /health     200 as long as the loop turns
    /ready      200 while new connections are accepted, 503 when not any more, or not yet

It is small on purpose: one request on a connection, a few connections at a time.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from knot.request import BadRequest, Request, RequestParser
from knot.stats import Counts
from tame import (
    READ,
    Descriptor,
    EventDroppedError,
    Rendezvous,
    mkevent,
    tamed,
    timer,
    tvars,
    twait,
    wait_on_fd,
)

MOST: Final = 16
"""Connections at a time; one more is closed."""
PATIENCE: Final = 5.0
"""Seconds for a whole request."""
READ_SIZE: Final = 4096

ANSWER: Final = (
    b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\nCache-Control: no-store\r\n"
    b"Allow: GET, HEAD\r\nConnection: close\r\n\r\n"
)
TEXT: Final = b"text/plain; charset=utf-8"
PHRASES: Final = {
    200: b"OK",
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    503: b"Service Unavailable",
}


class Answers:
    """What is answered, made anew for each request."""

    def __init__(
        self,
        workers: Callable[[], Mapping[int, Counts]],
        ready: Callable[[], bool],
        ended: Counts | None = None,
        memory: Callable[[int], int] | None = None,
    ) -> None:
        """`workers` are the counts of the processes that there are, by their ids; `ended` is the
        sum of those that there were; `memory` tells the resident bytes of a process.

        Raises `ImportError` without prometheus-client.
        """
        import prometheus_client

        self._workers = workers
        self._ready = ready
        self._memory = memory or resident_of
        self._ended = ended or Counts()
        self._registry = prometheus_client.CollectorRegistry()
        self._registry.register(self)
        self._text = prometheus_client.generate_latest
        self._kind = prometheus_client.CONTENT_TYPE_LATEST.encode()
        self._began = time.time()

    def collect(self) -> Iterator[Any]:
        """For prometheus-client."""
        from prometheus_client import core

        workers, total = self._workers(), Counts()
        total.add(self._ended)
        for counts in workers.values():
            total.add(counts)
        requests = core.CounterMetricFamily("knot_requests", "Answers.", labels=["status"])
        for status, number in total.by_status().items():
            requests.add_metric([status], number)
        yield requests
        for name, text, value in (
            ("knot_connections", "Connections accepted.", total.connections),
            ("knot_sent_bytes", "Bytes of content in answers.", total.sent),
        ):
            yield core.CounterMetricFamily(name, text, value=value)
        for name, text, gauge in (
            ("knot_open_connections", "Connections now.", total.open),
            ("knot_workers", "Processes that serve.", len(workers)),
            ("knot_start_time_seconds", "When it began.", self._began),
        ):
            yield core.GaugeMetricFamily(name, text, value=gauge)
        memory = core.GaugeMetricFamily(
            "knot_worker_resident_bytes", "Memory of each process.", labels=["worker"]
        )
        for pid in workers:
            memory.add_metric([str(pid)], self._memory(pid))
        yield memory

    def to(self, request: Request | BadRequest) -> bytes:
        if isinstance(request, BadRequest):
            return answer(400, f"{request.reason}\n".encode())
        if request.method == b"HEAD":
            whole = self.to(request._replace(method=b"GET"))
            return whole[: whole.index(b"\r\n\r\n") + 4]
        if request.method != b"GET":
            return answer(405, b"GET and HEAD are all there is\n")
        path = request.target.partition(b"?")[0]
        status, kind, content = 200, TEXT, b"ok\n"
        if path == b"/metrics":
            kind, content = self._kind, self._text(self._registry)
        elif path == b"/ready":
            if not self._ready():
                status, content = 503, b"not ready\n"
        elif path != b"/health":
            status, content = 404, b"here are /metrics, /health and /ready\n"
        return answer(status, content, kind)


def answer(status: int, content: bytes, kind: bytes = TEXT) -> bytes:
    return ANSWER % (status, PHRASES[status], kind, len(content)) + content


def resident_of(pid: int) -> int:
    """Resident bytes of a process; 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as statm:
            return resident(statm.read())
    except OSError:
        return 0


def resident(statm: bytes) -> int:
    return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")


@tamed
def attend(listener: socket.socket, answers: Answers) -> None:
    """Answer for as long as the loop runs, or until the listener is closed."""
    door = Descriptor(os.dup(listener.fileno()))
    talking: set[Descriptor] = set()
    try:
        while True:
            with twait:
                wait_on_fd(door, READ, mkevent())
            try:
                client, _ = listener.accept()
            except OSError:
                continue
            if len(talking) < MOST:
                client.setblocking(False)
                talk(Descriptor(client.detach()), talking, answers)
            else:
                client.close()
    except EventDroppedError:
        pass
    finally:
        door.close()


@tamed
def talk(peer: Descriptor, talking: set[Descriptor], answers: Answers) -> None:
    with tvars:
        late: bool
    parser = RequestParser()
    r = Rendezvous[bool]()
    talking.add(peer)
    timer(PATIENCE, mkevent(r, True))
    try:
        while True:
            wait_on_fd(peer, READ, mkevent(r, False))
            late = twait(r)
            data = b"" if late else os.read(peer.fd, READ_SIZE)
            if not data:
                break
            requests = parser.feed(data)
            if requests:
                # A few KiB, which every socket has room for.
                os.write(peer.fd, answers.to(requests[0]))
                break
    except OSError:
        pass  # the client has gone
    finally:
        with suppress(OSError):
            r.cancel()
        talking.discard(peer)
        peer.close()
