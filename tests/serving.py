"""A server on a thread's other side, and the bytes that clients send and get."""

from __future__ import annotations

import socket
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from knot import AccessLog, FieldRules, Limits, Responder, Server, Site, listen, serve
from tame import READ, BlockedWarning, mkevent, run, tamed, twait, wait_on_fd

T = TypeVar("T")

HOST = b"Host: x\r\n"


def with_server(
    root: Path,
    client: Callable[[int], T],
    *,
    limits: Limits | None = None,
    log: AccessLog | None = None,
    rules: FieldRules | None = None,
    **options: Any,
) -> T:
    """Serve `root` while `client`, given the port, runs on a thread; its result."""
    results: list[T] = []
    errors: list[BaseException] = []
    listener = listen("127.0.0.1", 0)
    site = Site(root, **options)
    server = Server(Responder(site, rules), limits, log)
    here, there = socket.socketpair()

    def work() -> None:
        try:
            results.append(client(listener.getsockname()[1]))
        except BaseException as error:
            errors.append(error)
        there.close()

    @tamed
    def main() -> None:
        serve(listener, server)
        thread = threading.Thread(target=work)
        with twait:
            wait_on_fd(here, READ, mkevent())
            thread.start()
        thread.join()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlockedWarning)  # `serve` never ends by itself
        run(main)
    assert not server.peers
    listener.close()
    here.close()
    site.close()
    for error in errors:
        raise error
    return results[0]


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def until_closed(client: socket.socket) -> bytes:
    received = b""
    while data := client.recv(1 << 20):
        received += data
    return received


def exchange(root: Path, sent: bytes) -> bytes:
    """All that the server answers to `sent` until it closes the connection."""

    def client(port: int) -> bytes:
        with connect(port) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            return until_closed(connection)

    return with_server(root, client)


def get(path: bytes, fields: bytes = b"") -> bytes:
    return b"GET %b HTTP/1.1\r\n%b%b\r\n" % (path, HOST, fields)


def answers(received: bytes, methods: str = "") -> list[tuple[int, bytes]]:
    """Status and content of each answer; `methods` has an H where a HEAD was sent."""
    found = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(fields[b"content-length"])
        if methods[len(found) : len(found) + 1] == "H":
            length = 0
        assert len(received) >= length
        found.append((status, received[:length]))
        received = received[length:]
    return found
