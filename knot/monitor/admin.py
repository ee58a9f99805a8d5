"""``--admin``: what operators and their programs ask of a server, on an address of its own.

    /metrics    counts, in Prometheus's text format
    /blocked    what every connection waits for
    /health     200 as long as the loop turns
    /ready      200 while new connections are accepted and all sites are there, else 503

It is small on purpose: one request on a connection, a few connections at a time.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Any, Final, Protocol

from knot.http.request import BadRequest, Request, RequestParser
from knot.models.accepting import OUT_OF_DESCRIPTORS, PAUSE
from knot.models.server import Server
from knot.monitor import blocked
from knot.monitor.metrics import BOUNDS, Counter, Counts
from tame import (
    READ,
    WRITE,
    Descriptor,
    Event,
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
"""Seconds for a request, its answer, and the end of the connection."""
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


class Source(Protocol):
    """Whoever is asked about: a process that serves alone, or a supervisor."""

    ended: Counts
    """The sum of the processes that are no more."""

    @property
    def starts(self) -> Mapping[str, int]:
        """Workers that have become ready, by the reason to start them."""

    def counts(self) -> Mapping[int, Counts]:
        """Of the processes that there are, by their ids."""

    def memory(self, pid: int) -> int:
        """Resident bytes of one of them."""

    def ready(self) -> bool:
        """Whether all that is to serve does, has what it serves, and goes on."""

    def refresh(self, done: Event[()]) -> None:
        """Make the counts those of now, as far as that can be done soon."""

    def waiting(self, done: Event[str]) -> None:
        """What every call waits for."""


class SingleProcess:
    """A process without a supervisor."""

    def __init__(self, server: Server, counter: Counter) -> None:
        self.ended = Counts()
        self.starts: Mapping[str, int] = {}
        self._server = server
        self._counter = counter
        # A sandbox lets nobody open it.
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def counts(self) -> Mapping[int, Counts]:
        return {os.getpid(): self._counter.read()}

    def memory(self, pid: int) -> int:
        return resident(os.pread(self._statm, 100, 0))

    def ready(self) -> bool:
        return not self._server.stopping and self._server.has_all()

    def refresh(self, done: Event[()]) -> None:
        done.trigger()

    def waiting(self, done: Event[str]) -> None:
        done.trigger(blocked.listing(f"process {os.getpid()}"))


class AdminApp:
    """What is answered, made anew for each request."""

    def __init__(self, subject: Source) -> None:
        """Raises `ImportError` without prometheus-client."""
        import prometheus_client.core  # and not when it is first asked for, in the sandbox

        self._subject = subject
        self._registry = prometheus_client.CollectorRegistry()
        self._registry.register(self)
        self._text = prometheus_client.generate_latest
        self._kind = prometheus_client.CONTENT_TYPE_LATEST.encode()
        self._began = time.time()

    def collect(self) -> Iterator[Any]:
        """For prometheus-client."""
        workers, total = self._subject.counts(), Counts()
        total.add(self._subject.ended)
        for counts in workers.values():
            total.add(counts)
        yield from of_all(total)
        yield gauge("knot_workers", "Processes that serve.", len(workers))
        yield gauge("knot_start_time_seconds", "When it began.", self._began)
        yield from of_each(workers, self._subject.memory)
        if self._subject.starts:
            yield by_label(
                "knot_worker_starts",
                "Workers that have become ready, by the reason to start them.",
                "reason",
                self._subject.starts,
            )

    @tamed
    def to(self, request: Request | BadRequest, done: Event[bytes]) -> None:
        with tvars:
            text: str
        status, kind, content = 200, TEXT, b"ok\n"
        head = False
        if isinstance(request, BadRequest):
            status, content = 400, f"{request.reason}\n".encode()
        elif request.method not in (b"GET", b"HEAD"):
            status, content = 405, b"GET and HEAD are all there is\n"
        else:
            head = request.method == b"HEAD"
            path = request.target.partition(b"?")[0]
            if path == b"/metrics":
                with twait:
                    self._subject.refresh(mkevent())
                kind, content = self._kind, self._text(self._registry)
            elif path == b"/blocked":
                with twait:
                    self._subject.waiting(mkevent(text))
                content = f"{text}\n".encode()
            elif path == b"/ready":
                if not self._subject.ready():
                    status, content = 503, b"not ready\n"
            elif path != b"/health":
                status, content = 404, b"here are /metrics, /blocked, /health and /ready\n"
        done.trigger(answer(status, content, kind, head))


def of_all(total: Counts) -> Iterator[Any]:
    """What adds up over all processes."""
    from prometheus_client.core import HistogramMetricFamily

    yield by_label("knot_requests", "Answers.", "status", total.by_status())
    for name, text, value in (
        ("knot_connections", "Connections accepted.", total.connections),
        ("knot_turned_away", "Connections refused: too many at once.", total.turned_away),
        ("knot_sent_bytes", "Bytes of content in answers.", total.sent),
        ("knot_cache_hits", "Answers from files that were in the cache.", total.hits),
        ("knot_cache_misses", "Answers from files that had to be opened.", total.misses),
    ):
        yield counter(name, text, value)
    ends = [*map(str, BOUNDS), "+Inf"]
    yield HistogramMetricFamily(
        "knot_request_duration_seconds",
        "From the reading of a request to the last byte of its answer.",
        buckets=list(zip(ends, accumulate(total.buckets), strict=True)),
        sum_value=total.lasted / 1e6,
    )


def of_each(workers: Mapping[int, Counts], memory: Callable[[int], int]) -> Iterator[Any]:
    """What a sum would hide."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    states = GaugeMetricFamily(
        "knot_open_connections", "Connections now.", labels=["worker", "state"]
    )
    for pid, counts in workers.items():
        for state, number in counts.open.items():
            states.add_metric([str(pid), state], number)
    yield states
    for family, name, text, value in (
        (CounterMetricFamily, "requests", "AdminApp", lambda pid: sum(workers[pid].buckets)),
        (CounterMetricFamily, "connections", "Connections", lambda pid: workers[pid].connections),
        (CounterMetricFamily, "cpu_seconds", "CPU time", lambda pid: workers[pid].cpu / 1e3),
        (GaugeMetricFamily, "cache_bytes", "Cache", lambda pid: workers[pid].cached),
        (GaugeMetricFamily, "resident_bytes", "Memory", memory),
    ):
        metric = family(f"knot_worker_{name}", f"{text} of each process.", labels=["worker"])
        for pid in workers:
            metric.add_metric([str(pid)], value(pid))
        yield metric


def counter(name: str, text: str, value: float) -> Any:
    from prometheus_client.core import CounterMetricFamily

    return CounterMetricFamily(name, text, value=value)


def gauge(name: str, text: str, value: float) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(name, text, value=value)


def by_label(name: str, text: str, label: str, values: Mapping[str, int]) -> Any:
    from prometheus_client.core import CounterMetricFamily

    metric = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        metric.add_metric([key], value)
    return metric


def answer(status: int, content: bytes, kind: bytes, head: bool) -> bytes:
    fields = ANSWER % (status, PHRASES[status], kind, len(content))
    return fields if head else fields + content


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
def serve_admin(listener: socket.socket, answers: AdminApp) -> None:
    """Answer for as long as the loop runs."""
    door = Descriptor(os.dup(listener.fileno()))
    talking: set[Descriptor] = set()
    try:
        while True:
            with twait:
                wait_on_fd(door, READ, mkevent())
            try:
                client, _ = listener.accept()
            except OSError as error:
                if error.errno in OUT_OF_DESCRIPTORS:
                    with twait:
                        timer(PAUSE, mkevent())
                continue
            if len(talking) < MOST:
                client.setblocking(False)
                serve_client(Descriptor(client.detach()), talking, answers)
            else:
                client.close()
    finally:
        door.close()


@tamed
def serve_client(peer: Descriptor, talking: set[Descriptor], answers: AdminApp) -> None:
    """One client: its request, the answer, and the end, all within `PATIENCE`."""
    talking.add(peer)
    r = Rendezvous[bool]()
    timer(PATIENCE, mkevent(r, True))
    converse(peer, answers, mkevent(r, False))
    twait(r)
    talking.discard(peer)
    peer.close()  # which ends what still waits for the client
    r.cancel()


@tamed
def converse(peer: Descriptor, answers: AdminApp, done: Event[()]) -> None:
    with tvars:
        answer: bytes
    parser = RequestParser()
    requests: list[Request | BadRequest] = []
    try:
        while not requests:
            with twait:
                wait_on_fd(peer, READ, mkevent())
            data = os.read(peer.fd, READ_SIZE)
            if not data:
                return
            requests = parser.feed(data)
        with twait:
            answers.to(requests[0], mkevent(answer))
        while answer:
            with twait:
                wait_on_fd(peer, WRITE, mkevent())
            answer = answer[os.write(peer.fd, answer) :]
        # What the client sends and nobody reads would reset the connection, and a reset overtakes
        # the answer: others that were pipelined, or content.
        with socket.socket(fileno=os.dup(peer.fd)) as end:
            end.shutdown(socket.SHUT_WR)
        while data:
            with twait:
                wait_on_fd(peer, READ, mkevent())
            data = os.read(peer.fd, READ_SIZE)
    except (OSError, EventDroppedError):
        pass  # the client has gone, or has taken too long
    finally:
        done.trigger()
