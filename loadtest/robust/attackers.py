"""Clients that want to hurt: each attack is a function that does one bit of it when it is its turn.

The module runs as a program, ``python -m loadtest.robust.attackers ATTACK PORT RATE``: it says that
it is ready, attacks at that rate until its standard input ends, and says how often it has, in JSON.
What it sends is what a client can send; what is asserted of the server is in `tests/adversarial`.
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

KEPT: Final = 200
"""Connections that an attack leaves open until the oldest is closed."""

Turn = Callable[[], None]


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


def emptied(client: socket.socket) -> None:
    """Take what has come so far."""
    with suppress(BlockingIOError):  # a socket with a timeout does not block, its `recv` does
        while os.read(client.fileno(), 1 << 16):
            pass


class Crowd:
    """Connections, the oldest of which makes room for a new one."""

    def __init__(self, most: int = KEPT) -> None:
        self.clients: deque[socket.socket] = deque()
        self.most = most

    def add(self, client: socket.socket) -> None:
        self.clients.append(client)
        if len(self.clients) > self.most:
            self.clients.popleft().close()


# -- connections that do nothing, or little --------------------------------------------------------


def idle(port: int, number: int) -> Turn:
    """So many connections that have had an answer and stay open."""
    crowd = Crowd(number)
    for _ in range(number):
        client = connect(port)
        client.sendall(get(b"/1k.html"))
        client.recv(4096)
        crowd.add(client)
    return lambda: None


def slow_heads(port: int) -> Turn:
    """A head that comes byte by byte, on each of many connections in turn."""
    heads: list[Iterator[bytes]] = [iter(()) for _ in range(KEPT)]
    clients: list[socket.socket | None] = [None] * KEPT
    order = itertools.cycle(range(KEPT))

    def turn() -> None:
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

    return turn


def slow_bodies(port: int) -> Turn:
    """Content that was announced and does not come."""
    crowd = Crowd()
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx"

    def turn() -> None:
        client = connect(port)
        client.sendall(request)
        crowd.add(client)

    return turn


def slow_readers(port: int) -> Turn:
    """A large file of which nearly nothing is taken."""
    crowd = Crowd()
    for _ in range(KEPT):
        client = connect(port, 4096)
        client.sendall(get(LARGE))
        crowd.add(client)
    order = itertools.cycle(list(crowd.clients))

    def turn() -> None:
        os.read(next(order).fileno(), 1024)

    return turn


def churn(port: int) -> Turn:
    """Connections that are closed without a word."""
    return lambda: connect(port).close()


def half_closes(port: int) -> Turn:
    """All is said, and the other direction stays open as long as it may."""
    crowd = Crowd()

    def turn() -> None:
        client = connect(port)
        client.sendall(get(b"/1k.html"))
        client.shutdown(socket.SHUT_WR)
        crowd.add(client)

    return turn


def resets(port: int) -> Turn:
    """In the middle of a large answer."""

    def turn() -> None:
        client = connect(port)
        client.sendall(get(LARGE))
        client.recv(1000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()

    return turn


# -- requests that are dear ------------------------------------------------------------------------


def endless_heads(port: int) -> Turn:
    crowd = Crowd()
    head = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Field: %b\r\n" % (b"x" * 1000) * 40

    def turn() -> None:
        client = connect(port)
        with suppress(ConnectionError):
            client.sendall(head)
        crowd.add(client)

    return turn


def repeated(port: int, request: Callable[[], bytes]) -> Turn:
    """On a connection that is kept."""
    client = connect(port)

    def turn() -> None:
        nonlocal client
        try:
            client.sendall(request())
            emptied(client)
        except OSError:
            client.close()
            client = connect(port)

    return turn


def pipelines(port: int) -> Turn:
    """A thousand requests at once, whose answers are taken slowly."""
    batch = get(b"/1k.html") * 1000
    return repeated(port, lambda: batch)


def many_ranges(port: int) -> Turn:
    ranges = b",".join(b"%d-%d" % (n, n) for n in range(0, 4000, 2))
    request = get(TEXT, b"Range: bytes=" + ranges)
    return repeated(port, lambda: request)


def queries(port: int) -> Turn:
    """The same text with another query and another order of codings each time."""
    numbers = itertools.count()
    codings = list(itertools.permutations([b"gzip", b"br", b"zstd", b"deflate", b"identity"]))

    def request() -> bytes:
        number = next(numbers)
        accepted = b", ".join(codings[number % len(codings)]) + b";q=0.%d" % (number % 10)
        return get(TEXT + b"?%d" % number, b"Accept-Encoding: " + accepted)

    return repeated(port, request)


def missing(port: int) -> Turn:
    numbers = itertools.count()
    return repeated(port, lambda: get(b"/nothing/%d" % next(numbers)))


# -- TLS -------------------------------------------------------------------------------------------

UNCHECKED: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
UNCHECKED.check_hostname = False
UNCHECKED.verify_mode = ssl.CERT_NONE


def hello() -> bytes:
    """The first flight of a client."""
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        UNCHECKED.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


def tls_junk(port: int) -> Turn:
    noise = random.Random(7)

    def turn() -> None:
        client = connect(port)
        client.sendall(b"\x16\x03\x01\x02\x00" + noise.randbytes(512))
        client.close()

    return turn


def tls_begun(port: int) -> Turn:
    """Handshakes that cost the server its signature and the client nothing."""
    crowd = Crowd()
    first = hello()

    def turn() -> None:
        client = connect(port)
        client.sendall(first)
        crowd.add(client)

    return turn


@dataclass(frozen=True)
class Attack:
    """What is done at each turn, how many turns a second there are, and over what."""

    name: str
    begin: Callable[[int], Turn]
    rate: int
    unit: str
    tls: bool = False


ATTACKS: Final = (
    Attack("10,000 idle connections", lambda port: idle(port, 10_000), 1, ""),
    Attack("slow heads, on 200 connections", slow_heads, 2_000, "byte"),
    Attack("content that does not come", slow_bodies, 200, "request"),
    Attack("200 slow readers of a large file", slow_readers, 1_000, "KiB taken"),
    Attack("connections without a request", churn, 1_000, "connection"),
    Attack("half-closed connections", half_closes, 500, "request"),
    Attack("resets during a large answer", resets, 200, "answer"),
    Attack("heads without an end", endless_heads, 100, "head of 40 KB"),
    Attack("pipelines of 1,000 requests", pipelines, 10, "pipeline"),
    Attack("lists of 2,000 ranges", many_ranges, 200, "request"),
    Attack("queries and codings that differ", queries, 1_000, "request"),
    Attack("names that are not there", missing, 1_000, "request"),
    Attack("junk where TLS is spoken", tls_junk, 500, "connection", tls=True),
    Attack("handshakes begun and left", tls_begun, 200, "handshake", tls=True),
)


def turns(rate: int) -> Iterator[float]:
    """Wait for each turn; late ones are not made up for.  Until standard input ends."""
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
    turn = attack.begin(port)
    os.write(1, b"ready\n")
    made, began = 0, time.process_time()
    for _ in turns(rate):
        with suppress(OSError):
            turn()
            made += 1
    os.write(1, json.dumps({"made": made, "seconds": time.process_time() - began}).encode())


if __name__ == "__main__":
    main()
