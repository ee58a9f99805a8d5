"""Malicious clients: an attack returns a function that does one action of it.

The module is a program, ``python -m loadtest.robust.attackers ATTACK PORT RATE``: it prints
"ready", attacks at that rate until its standard input ends, and reports its actions in JSON.
It sends only what any client can send; the tests of the server are in `tests/adversarial`.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import select
import socket
import ssl
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

HOST: Final = "127.0.0.1"
RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER that makes `close` a reset."""

LARGE: Final = b"/large.bin"
TEXT: Final = b"/text.html"

MAX_OPEN: Final = 200
"""Connections that an attack keeps open; then it closes the oldest."""

Action = Callable[[], None]


def connect(port: int, buffer: int = 0) -> socket.socket:
    client = socket.socket()
    client.settimeout(5)
    if buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.connect((HOST, port))
    return client


def get(path: bytes, *fields: bytes) -> bytes:
    lines = b"".join(field + b"\r\n" for field in fields)
    return b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (path, lines)


def drain(client: socket.socket) -> None:
    """Read what has come so far."""
    with suppress(BlockingIOError):  # with a timeout set, only the socket's own `recv` blocks
        while os.read(client.fileno(), 1 << 16):
            pass


class Crowd:
    """Open connections; beyond the limit, a new one closes the oldest."""

    def __init__(self, limit: int = MAX_OPEN) -> None:
        self.clients: deque[socket.socket] = deque()
        self.limit = limit

    def add(self, client: socket.socket) -> None:
        self.clients.append(client)
        if len(self.clients) > self.limit:
            self.clients.popleft().close()


# -- connections that do nothing, or little --------------------------------------------------------


def idle(port: int, number: int) -> Action:
    """Connections that have had an answer and stay open."""
    crowd = Crowd(number)
    for _ in range(number):
        client = connect(port)
        client.sendall(get(b"/1k.html"))
        client.recv(4096)
        crowd.add(client)
    return lambda: None


def slow_heads(port: int) -> Action:
    """A head sent byte by byte, on each of many connections in turn."""
    heads: list[Iterator[bytes]] = [iter(()) for _ in range(MAX_OPEN)]
    clients: list[socket.socket | None] = [None] * MAX_OPEN
    order = itertools.cycle(range(MAX_OPEN))

    def act() -> None:
        number = next(order)
        client = clients[number]
        try:
            if client is None:
                raise ConnectionError
            client.send(next(heads[number]))
        except (OSError, StopIteration):
            if client is not None:
                client.close()
            clients[number] = connect(port)
            heads[number] = (bytes([byte]) for byte in get(b"/", *[b"X-Slow: x"] * 100))

    return act


def slow_bodies(port: int) -> Action:
    """Content that is announced and not sent."""
    crowd = Crowd()
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx"

    def act() -> None:
        client = connect(port)
        client.sendall(request)
        crowd.add(client)

    return act


def slow_readers(port: int) -> Action:
    """A large file of which almost nothing is read."""
    crowd = Crowd()
    for _ in range(MAX_OPEN):
        client = connect(port, 4096)
        client.sendall(get(LARGE))
        crowd.add(client)
    order = itertools.cycle(list(crowd.clients))

    def act() -> None:
        os.read(next(order).fileno(), 1024)

    return act


def churn(port: int) -> Action:
    """Connections closed without a request."""
    return lambda: connect(port).close()


def half_closes(port: int) -> Action:
    """Sending is shut down, and the connection stays open as long as possible."""
    crowd = Crowd()

    def act() -> None:
        client = connect(port)
        client.sendall(get(b"/1k.html"))
        client.shutdown(socket.SHUT_WR)
        crowd.add(client)

    return act


def resets(port: int) -> Action:
    """A reset in the middle of a large answer."""

    def act() -> None:
        client = connect(port)
        client.sendall(get(LARGE))
        client.recv(1000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()

    return act


# -- expensive requests ---------------------------------------------------------------------------


def endless_heads(port: int) -> Action:
    crowd = Crowd()
    head = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Field: %b\r\n" % (b"x" * 1000) * 40

    def act() -> None:
        client = connect(port)
        with suppress(ConnectionError):
            client.sendall(head)
        crowd.add(client)

    return act


def repeated(port: int, request: Callable[[], bytes]) -> Action:
    """The same request again and again on a kept connection."""
    client = connect(port)

    def act() -> None:
        nonlocal client
        try:
            client.sendall(request())
            drain(client)
        except OSError:
            client.close()
            client = connect(port)

    return act


def pipelines(port: int) -> Action:
    """A thousand requests at once, whose answers are read slowly."""
    batch = get(b"/1k.html") * 1000
    return repeated(port, lambda: batch)


def many_ranges(port: int) -> Action:
    ranges = b",".join(b"%d-%d" % (n, n) for n in range(0, 4000, 2))
    request = get(TEXT, b"Range: bytes=" + ranges)
    return repeated(port, lambda: request)


def queries(port: int) -> Action:
    """The same text with another query and another order of codings each time."""
    numbers = itertools.count()
    codings = list(itertools.permutations([b"gzip", b"br", b"zstd", b"deflate", b"identity"]))

    def request() -> bytes:
        number = next(numbers)
        accepted = b", ".join(codings[number % len(codings)]) + b";q=0.%d" % (number % 10)
        return get(TEXT + b"?%d" % number, b"Accept-Encoding: " + accepted)

    return repeated(port, request)


def missing(port: int) -> Action:
    numbers = itertools.count()
    return repeated(port, lambda: get(b"/nothing/%d" % next(numbers)))


# -- TLS -------------------------------------------------------------------------------------------

UNCHECKED: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
UNCHECKED.check_hostname = False
UNCHECKED.verify_mode = ssl.CERT_NONE


def hello() -> bytes:
    """The first message of a client."""
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        UNCHECKED.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


def tls_junk(port: int) -> Action:
    noise = random.Random(7)

    def act() -> None:
        client = connect(port)
        client.sendall(b"\x16\x03\x01\x02\x00" + noise.randbytes(512))
        client.close()

    return act


def tls_begun(port: int) -> Action:
    """Handshakes that cost the server its signature and the client nothing."""
    crowd = Crowd()
    first = hello()

    def act() -> None:
        client = connect(port)
        client.sendall(first)
        crowd.add(client)

    return act


@dataclass(frozen=True)
class Attack:
    """A function that begins the attack, its actions a second, and what an action is."""

    name: str
    begin: Callable[[int], Action]
    rate: int
    unit: str
    tls: bool = False


ATTACKS: Final = (
    Attack("10,000 idle connections", lambda port: idle(port, 10_000), 1, ""),
    Attack("slow heads, on 200 connections", slow_heads, 2_000, "byte"),
    Attack("content that is not sent", slow_bodies, 200, "request"),
    Attack("200 slow readers of a large file", slow_readers, 1_000, "KiB read"),
    Attack("connections without a request", churn, 1_000, "connection"),
    Attack("half-closed connections", half_closes, 500, "request"),
    Attack("resets during a large answer", resets, 200, "answer"),
    Attack("endless heads", endless_heads, 100, "head of 40 KB"),
    Attack("pipelines of 1,000 requests", pipelines, 10, "pipeline"),
    Attack("lists of 2,000 ranges", many_ranges, 200, "request"),
    Attack("different queries and codings", queries, 1_000, "request"),
    Attack("names that do not exist", missing, 1_000, "request"),
    Attack("junk instead of TLS", tls_junk, 500, "connection", tls=True),
    Attack("handshakes begun and abandoned", tls_begun, 200, "handshake", tls=True),
)


def turns(rate: int) -> Iterator[float]:
    """Wait for each turn, until standard input ends; late turns are not made up for."""
    due = time.monotonic()
    ended = select.poll()
    ended.register(sys.stdin, select.POLLIN | select.POLLHUP)
    while True:
        now = time.monotonic()
        due = max(due + 1 / rate, now - 1 / rate)
        if ended.poll(max(0, due - now) * 1000):
            return
        yield now


def main() -> None:
    name, port, rate = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    (attack,) = (attack for attack in ATTACKS if attack.name == name)
    act = attack.begin(port)
    os.write(1, b"ready\n")
    made, began = 0, time.process_time()
    for _ in turns(rate):
        with suppress(OSError):
            act()
            made += 1
    os.write(1, json.dumps({"made": made, "seconds": time.process_time() - began}).encode())


if __name__ == "__main__":
    main()
