"""Clients that want more than their share: what each can make the server spend has a bound.

Memory is the private memory of the server's process, read before and during the attack; the bounds
are some times what was measured, and far below what an unbounded server would take.
"""

from __future__ import annotations

import os
import re
import resource
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from serving import serving

from loadtest.memory import private_bytes

KIB, MIB = 1 << 10, 1 << 20

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
RESET = struct.pack("ii", 1, 0)


class Knot:
    """A server, and what it spends."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        where = urlsplit(url)
        assert where.hostname
        assert where.port
        self.address = where.hostname, where.port

    def connect(self, buffer: int = 0) -> socket.socket:
        client = socket.socket()
        client.settimeout(20)
        if buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.connect(self.address)
        return client

    def ask(self, request: bytes = LAST) -> bytes:
        with self.connect() as client:
            client.sendall(request)
            return everything(client)

    def memory(self) -> int:
        return private_bytes(self.process.pid)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def comes_back_to(self, descriptors: int) -> None:
        """It closes what its clients have left; each request is a turn of its loop."""
        for _ in range(20_000):
            if self.descriptors() <= descriptors:
                return
            assert self.ask().startswith(b"HTTP/1.1 200")
        raise AssertionError(f"{self.descriptors()} descriptors are open, not {descriptors}")


def everything(client: socket.socket) -> bytes:
    received = bytearray()
    with suppress(ConnectionResetError):
        while piece := client.recv(1 << 16):
            received += piece
    return bytes(received)


@contextmanager
def knot(root: Path, *options: str) -> Iterator[Knot]:
    """Nothing is said on standard error, and all descriptors are closed in the end."""
    with serving(str(root), *options) as (process, url):
        found = Knot(process, url)
        for path in (b"/", b"/text.html", b"/large"):  # the cache keeps what is asked for
            found.ask(b"HEAD %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path)
        before = found.descriptors()
        yield found
        found.comes_back_to(before)
        process.terminate()
        _, err = process.communicate(timeout=20)
        assert err == ""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text("home " * 200)
    (tmp_path / "text.html").write_text("some text that is worth a compression\n" * 500)
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 32 * MIB)
    return tmp_path


@pytest.fixture(autouse=True)
def enough_descriptors() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def test_ten_thousand_idle_connections_beside_live_traffic(root: Path) -> None:
    number = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1200)
    with knot(root, "--max-connections", str(number + 10)) as server, ExitStack() as crowd:
        before = server.memory()
        for _ in range(number):
            client = crowd.enter_context(server.connect())
            client.sendall(GET)
            client.recv(4096)
        assert server.descriptors() > number
        assert server.memory() - before < number * 2 * KIB + MIB
        assert server.ask().startswith(b"HTTP/1.1 200")


def test_heads_that_come_slowly_are_given_up(root: Path) -> None:
    with knot(root, "--head-timeout", "1") as server, ExitStack() as crowd:
        before = server.memory()
        clients = [crowd.enter_context(server.connect()) for _ in range(500)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHo")
        server.ask()
        assert server.memory() - before < 500 * 8 * KIB
        for client in clients:
            assert everything(client).startswith(b"HTTP/1.1 408 ")


def test_a_head_without_an_end_is_refused_soon(root: Path) -> None:
    with knot(root) as server:
        before = server.memory()
        with server.connect() as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
            client.sendall(b"X-Field: %b\r\n" % (b"x" * 1000) * 40)
            assert client.recv(15) == b"HTTP/1.1 431 Re"
            sent = 0
            with suppress(OSError):  # what still comes is thrown away, for two seconds
                while sent < 100_000 * MIB:
                    sent += client.send(b"x" * MIB)
            assert sent < 100_000 * MIB
        assert server.memory() - before < 2 * MIB


def test_a_head_that_is_too_long_has_an_answer(root: Path) -> None:
    with knot(root) as server:
        request = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Field: value\r\n" * 3000
        assert server.ask(request).startswith(b"HTTP/1.1 431 ")
        assert server.ask(b"GET /%b HTTP/1.1\r\n" % (b"a" * 9000)).startswith(b"HTTP/1.1 414 ")


def test_a_client_that_asks_thousands_of_times_and_reads_nothing(root: Path) -> None:
    """Its answers wait in its socket, and the server reads no more until it takes them."""
    asked = 5_000
    with knot(root) as server:
        before = server.memory()
        with server.connect(buffer=4096) as client:
            client.setblocking(False)
            request = memoryview(GET * asked)
            while request:  # as much as both sides' buffers take
                try:
                    request = request[client.send(request) :]
                except BlockingIOError:
                    break
            server.ask()
            assert server.memory() - before < MIB
            client.setblocking(True)
            client.settimeout(20)
            answered = 0
            received = b""
            while answered < asked:
                with suppress(BlockingIOError):
                    if request:
                        client.setblocking(False)
                        request = request[client.send(request) :]
                client.settimeout(20)
                received += client.recv(1 << 16)
                *whole, received = received.split(b"HTTP/1.1 ")
                answered += sum(part.startswith(b"200 OK") for part in whole)
                received = b"HTTP/1.1 " + received
                if answered == asked - 1 and received.endswith(b"home "):
                    break
            assert server.memory() - before < MIB


def test_lists_of_thousands_of_ranges(root: Path) -> None:
    ranges = b",".join(b"%d-%d" % (n, n) for n in range(0, 8000, 2))
    request = b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\nRange: bytes=%b\r\n\r\n"
    with knot(root) as server:
        before = server.memory()
        for _ in range(20):
            with server.connect() as client:
                client.sendall(request % ranges)
                head = client.recv(1000)
                assert re.match(rb"HTTP/1\.1 (200|206|416|431) ", head)
        server.ask()
        assert server.memory() - before < 8 * MIB


@pytest.mark.parametrize("what", ["queries", "codings", "conditions", "paths"])
def test_requests_that_differ_each_time_fill_no_memory(root: Path, what: str) -> None:
    """20,000 of them; an answer kept for each would be 20 MB and more."""

    def request(number: int) -> bytes:
        path, field = b"/text.html", b""
        if what == "queries":
            path += b"?%d" % number
        elif what == "codings":
            field = b"Accept-Encoding: gzip;q=0.%d, br;q=0.%d\r\n" % (number, number + 1)
        elif what == "conditions":
            field = b'If-None-Match: "%d"\r\n' % number
        else:
            path = b"/nothing/%d" % number
        return b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (path, field)

    options = ("--cache-size", "2M", "--max-requests", "100000")
    with knot(root, *options) as server, server.connect() as client:
        client.sendall(request(0))
        client.recv(1 << 16)
        before = server.memory()
        for start in range(1, 20_000, 10):
            batch = b"".join(request(number) for number in range(start, start + 10))
            client.sendall(batch)
            answers = 0
            received = b""
            while answers < 10:
                received += client.recv(1 << 18)
                answers = len(re.findall(rb"HTTP/1\.1 \d", received))
        assert server.memory() - before < 8 * MIB


def test_readers_that_take_nothing_of_a_large_file(root: Path) -> None:
    with knot(root) as server, ExitStack() as crowd:
        before = server.memory()
        for _ in range(200):
            client = crowd.enter_context(server.connect(buffer=4096))
            client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(15) == b"HTTP/1.1 200 OK"
        assert server.ask().startswith(b"HTTP/1.1 200")
        assert server.memory() - before < 200 * 64 * KIB


def test_readers_that_take_nothing_are_given_up(root: Path) -> None:
    with knot(root, "--send-timeout", "1") as server, ExitStack() as crowd:
        before = server.descriptors()
        for _ in range(20):
            client = crowd.enter_context(server.connect(buffer=4096))
            client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        server.comes_back_to(before)


def test_a_reset_at_any_point_of_a_transfer(root: Path) -> None:
    with knot(root) as server:
        before = server.descriptors()
        for taken in (0, 1, 10, 300, 1000, 65_536, 200_000, 3 * MIB):
            for path in (b"/", b"/text.html", b"/large"):
                with server.connect() as client:
                    client.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
                    left = taken
                    client.settimeout(0.05)
                    with suppress(TimeoutError):  # the file is shorter
                        while left > 0:
                            left -= len(client.recv(left))
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        server.comes_back_to(before)


def test_a_client_that_has_said_all_still_gets_its_answer(root: Path) -> None:
    with knot(root) as server, server.connect() as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        received = 0
        while piece := client.recv(1 << 20):
            received += len(piece)
        assert received > 32 * MIB


def test_a_body_that_comes_for_ever_is_not_read_for_ever(root: Path) -> None:
    with knot(root) as server, server.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        assert client.recv(15) == b"HTTP/1.1 405 Me"
        sent = 0
        with suppress(OSError):
            while sent < 10_000 * MIB:
                sent += client.send(b"x" * MIB)
        assert sent < 10_000 * MIB  # it hangs up after two seconds


def test_descriptors_that_run_out_stop_nothing(root: Path) -> None:
    """Half of them are for connections; who finds no room is told so, and has it later."""
    shell = 'ulimit -n 80; exec "$@"'
    command = ["bash", "-c", shell, "knot"]
    with limited(root, command) as server, ExitStack() as crowd:
        server.ask()
        before = server.descriptors()
        clients = [crowd.enter_context(server.connect()) for _ in range(150)]
        for client in clients:
            client.sendall(GET)
        answers = [client.recv(12) for client in clients]
        assert answers.count(b"HTTP/1.1 200") == 40
        assert answers.count(b"HTTP/1.1 503") == 110
        for client in clients:
            client.close()
        while server.ask().startswith(b"HTTP/1.1 503"):
            pass
        server.comes_back_to(before)


@contextmanager
def limited(root: Path, before: list[str]) -> Iterator[Knot]:
    import serving as helper

    command = [*before, *helper.KNOT, "serve", str(root), "--port", "0"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=helper.plain_environment(),
    )
    try:
        assert process.stdout
        found = helper.SERVING.fullmatch(process.stdout.readline())
        assert found
        yield Knot(process, found[1])
    finally:
        process.terminate()
        process.communicate(timeout=20)
