"""Knot by each model, over real sockets: what a client sees, and what a bad one cannot do."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import process_time
from typing import Any

import pytest
from serving import HOST, Model, answers, connect, exchange, get, until_closed, with_server

from knot import Limits, Site

pytestmark = pytest.mark.usefixtures("model")

BIG = bytes(range(256)) * 16 * 1024  # 4 MiB


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    (root / "sub").mkdir(parents=True)
    (root / "index.html").write_text("<h1>home</h1>")
    (root / "sub" / "index.html").write_text("<h1>sub</h1>")
    (root / "empty").write_text("")
    (root / "big").write_bytes(BIG)
    return root


def test_a_file_comes_with_type_length_and_date(root: Path) -> None:
    os.utime(root / "index.html", (784111777, 784111777))
    head, _, content = exchange(root, get(b"/")).partition(b"\r\n\r\n")
    status, *fields = head.split(b"\r\n")
    assert status == b"HTTP/1.1 200 OK"
    names = [field.partition(b":")[0] for field in fields]
    assert names == [
        b"Server",
        b"Date",
        b"Last-Modified",
        b"ETag",
        b"Vary",
        b"Accept-Ranges",
        b"Content-Type",
        b"Content-Length",
        b"X-Content-Type-Options",
    ]
    assert b"Content-Type: text/html; charset=utf-8" in fields
    assert content == b"<h1>home</h1>"


CASES = [
    (get(b"/sub/"), [(200, b"<h1>sub</h1>")]),
    (get(b"/empty"), [(200, b"")]),
    (get(b"/big"), [(200, BIG)]),
    (b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n", [(200, b"")]),
    (b"HEAD /big HTTP/1.1\r\n" + HOST + b"\r\n", [(200, b"")]),
    (get(b"http://x/sub/"), [(200, b"<h1>sub</h1>")]),
    (b"GET /empty HTTP/1.0\r\n\r\n", [(200, b"")]),
]


@pytest.mark.parametrize(("sent", "expected"), CASES, ids=lambda case: repr(case)[:40])
def test_files_are_served(root: Path, sent: bytes, expected: list[tuple[int, bytes]]) -> None:
    methods = "H" if sent.startswith(b"HEAD") else ""
    assert answers(exchange(root, sent), methods) == expected


REFUSED = [
    (get(b"/nothing"), [404]),
    (get(b"/../etc/passwd"), [400]),
    (get(b"/sub"), [301]),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc", [405]),
    (b"DELETE / HTTP/1.1\r\n" + HOST + b"\r\n", [405]),
    (b"GET / HTTP/1.1\r\n\r\n", [400]),
    (b"nonsense\r\n\r\n", [400]),
    (get(b"/empty") + b"nonsense\r\n\r\n" + get(b"/empty"), [200, 400]),
]


@pytest.mark.parametrize(("sent", "statuses"), REFUSED, ids=lambda case: repr(case)[:40])
def test_refusals_have_their_status(root: Path, sent: bytes, statuses: list[int]) -> None:
    assert [status for status, _ in answers(exchange(root, sent))] == statuses


def ranged(root: Path, value: bytes) -> tuple[int, bytes, bytes]:
    """Status, Content-Range or Content-Type, and content of a part of the big file."""
    received = exchange(root, get(b"/big", b"Range: " + value + b"\r\nConnection: close\r\n"))
    head, _, content = received.partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert int(fields[b"Content-Length"]) == len(content)
    kind = fields.get(b"Content-Range", fields[b"Content-Type"])
    return int(head.split(b" ")[1]), kind, content


def test_a_part_of_a_file(root: Path) -> None:
    size = len(BIG)
    assert ranged(root, b"bytes=5-9") == (206, b"bytes 5-9/%d" % size, BIG[5:10])
    last = (206, b"bytes %d-%d/%d" % (size - 7, size - 1, size), BIG[-7:])
    assert ranged(root, b"bytes=-7") == last
    assert ranged(root, b"bytes=%d-" % (size - 7)) == last
    assert ranged(root, b"bytes=1000000-")[2] == BIG[1000000:]
    assert ranged(root, b"lines=1-2")[::2] == (200, BIG)
    assert ranged(root, b"bytes=%d-" % size)[:2] == (416, b"bytes */%d" % size)


def test_several_parts_of_a_file(root: Path) -> None:
    status, kind, content = ranged(root, b"bytes=0-99,1000000-2999999,4000000-4000099")
    assert status == 206
    boundary = kind.partition(b"; boundary=")[2]
    _, *parts, end = content.split(b"--" + boundary)
    assert end == b"--\r\n"
    contents = [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts]
    assert contents == [BIG[:100], BIG[1000000:3000000], BIG[4000000:4000100]]


def test_a_connection_is_kept_alive(root: Path) -> None:
    def client(port: int) -> list[bytes]:
        with connect(port) as connection:
            stream = connection.makefile("rb")
            seen = []
            for _ in range(3):
                connection.sendall(get(b"/"))
                head = b"".join(iter(stream.readline, b"\r\n"))
                seen.append(head.partition(b"\r\n")[0] + stream.read(13))
            connection.sendall(get(b"/empty", b"Connection: close\r\n"))
            assert b"Connection: close\r\n" in b"".join(iter(stream.readline, b"\r\n"))
            assert stream.read() == b""
            return seen

    assert with_server(root, client) == [b"HTTP/1.1 200 OK<h1>home</h1>"] * 3


def test_pipelined_requests_are_answered_in_order(root: Path) -> None:
    sent = get(b"/") + get(b"/big") + get(b"/nothing") + get(b"/empty") + get(b"/sub/")
    found = answers(exchange(root, sent))
    assert [status for status, _ in found] == [200, 200, 404, 200, 200]
    assert found[1][1] == BIG
    assert found[4][1] == b"<h1>sub</h1>"


def test_a_request_may_come_byte_by_byte(root: Path) -> None:
    def client(port: int) -> bytes:
        with connect(port) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in get(b"/", b"Connection: close\r\n"):
                connection.send(bytes([byte]))
            return until_closed(connection)

    assert with_server(root, client).endswith(b"<h1>home</h1>")


def test_a_slow_reader_gets_everything_and_stops_nobody(root: Path) -> None:
    def client(port: int) -> bytes:
        with socket.socket() as slow, connect(port) as quick:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", port))
            slow.sendall(get(b"/big", b"Connection: close\r\n"))
            received = slow.recv(100)  # the answer is under way, and cannot all be sent
            quick.sendall(get(b"/", b"Connection: close\r\n"))
            assert until_closed(quick).endswith(b"<h1>home</h1>")
            return received + until_closed(slow)

    assert answers(with_server(root, client)) == [(200, BIG)]


def test_a_file_that_becomes_shorter_cuts_the_connection(root: Path) -> None:
    """So that the client sees that something is missing: never a byte that was not in the file."""

    def client(port: int) -> bytes:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", port))
            slow.sendall(get(b"/huge"))
            received = slow.recv(100)
            os.truncate(root / "huge", 128 * 1024)
            return received + until_closed(slow)

    with (root / "huge").open("wb") as huge:
        huge.truncate(64 << 20)
    head, _, content = with_server(root, client).partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % (64 << 20) in head
    assert 128 * 1024 <= len(content) < 64 << 20


def test_a_small_file_that_becomes_shorter_is_sent_as_it_is_then(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.preadv

    def shortened(fd: int, buffers: list[bytearray], offset: int, flags: int = 0) -> int:
        if offset >= 0:  # not a socket
            os.truncate(root / "index.html", 4)
        return read(fd, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", shortened)
    assert answers(exchange(root, get(b"/") + get(b"/"))) == [(200, b"<h1>")] * 2


def test_a_file_that_grows_is_sent_as_long_as_was_said(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def client(port: int) -> bytes:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", port))
            slow.sendall(get(b"/big", b"Connection: close\r\n"))
            received = slow.recv(100)
            with (root / "big").open("ab") as big:
                big.write(b"more")
            return received + until_closed(slow)

    assert answers(with_server(root, client)) == [(200, BIG)]


def test_short_writes_lose_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, sendfile = os.write, os.sendfile
    calls = 0

    def short_write(fd: int, data: bytes | memoryview) -> int:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise BlockingIOError
        return write(fd, bytes(data[:10_007]))

    def short_pwritev(fd: int, buffers: list[bytes], offset: int, flags: int) -> int:
        return short_write(fd, b"".join(buffers))

    def short_sendfile(out: int, fd: int, offset: int, count: int) -> int:
        return sendfile(out, fd, offset, min(count, 99_991))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", short_write)
        patched.setattr(os, "pwritev", short_pwritev)
        patched.setattr(os, "sendfile", short_sendfile)
        received = exchange(root, get(b"/big") + get(b"/") + get(b"/big"))
    found = answers(received)
    assert [len(content) for _, content in found] == [len(BIG), 13, len(BIG)]
    assert found[0][1] == found[2][1] == BIG


def reset(connection: socket.socket) -> None:
    """Close so that the peer gets a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_clients_that_leave_at_any_moment_hurt_nobody(root: Path) -> None:
    def client(port: int) -> bytes:
        for sent in (b"", b"GET / HT", get(b"/"), get(b"/big"), get(b"/big") * 3, b"\0"):
            for leave in (reset, socket.socket.close):
                connection = connect(port)
                connection.sendall(sent)
                leave(connection)
                connection = connect(port)
                connection.sendall(sent)
                if sent.endswith(b"\r\n\r\n"):
                    connection.recv(10)
                leave(connection)
        with connect(port) as connection:
            connection.sendall(get(b"/", b"Connection: close\r\n"))
            return until_closed(connection)

    assert with_server(root, client).endswith(b"<h1>home</h1>")


def test_the_answer_to_a_client_that_keeps_sending_is_not_lost(root: Path) -> None:
    """Unread bytes would make the kernel reset the connection, and the reset overtake the 405."""

    def client(port: int) -> bytes:
        with connect(port) as connection:
            head = b"POST / HTTP/1.1\r\n%bContent-Length: 4000000\r\n\r\n" % HOST
            connection.sendall(head + b"x" * 1_000_000)
            received = connection.recv(10)
            with suppress(ConnectionError):
                connection.sendall(b"x" * 3_000_000)
            connection.shutdown(socket.SHUT_WR)
            return received + until_closed(connection)

    assert [status for status, _ in answers(with_server(root, client))] == [405]


def test_a_client_that_keeps_sending_is_hung_up_on(root: Path) -> None:
    def client(port: int) -> None:
        with connect(port) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\n%bContent-Length: 9\r\n\r\n" % HOST)
            assert until_closed(connection).startswith(b"HTTP/1.1 405")
            with pytest.raises(ConnectionError):
                send_until_refused(connection)  # which it is, because the server has closed

    with_server(root, client, limits=Limits(linger=0.05))


def send_until_refused(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"x")


def test_an_endless_head_is_refused(root: Path) -> None:
    def client(port: int) -> bytes:
        with connect(port) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n")
            with suppress(ConnectionError):
                for _ in range(1000):
                    connection.sendall(b"a: " + b"b" * 1000 + b"\r\n")
            connection.shutdown(socket.SHUT_WR)
            return until_closed(connection)

    assert [status for status, _ in answers(with_server(root, client))] == [431]


def test_an_error_of_its_own_ends_one_connection_and_no_more(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    find = Site.find

    def broken(site: Site, path: bytes, second: int) -> object:
        if path == b"/broken":
            raise ZeroDivisionError
        return find(site, path, second)

    monkeypatch.setattr(Site, "find", broken)

    def client(port: int) -> bytes:
        with connect(port) as connection:
            connection.sendall(get(b"/broken"))
            assert until_closed(connection) == b""
        with connect(port) as connection:
            connection.sendall(get(b"/", b"Connection: close\r\n"))
            return until_closed(connection)

    assert with_server(root, client).endswith(b"<h1>home</h1>")
    (record,) = caplog.records
    assert "error in Knot" in record.message


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.EHOSTUNREACH])
@pytest.mark.parametrize("call", ["read", "pwritev", "sendfile"])
def test_a_client_that_the_network_has_lost_is_no_error_of_its_own(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
    number: int,
) -> None:
    """Retransmissions have timed out, or a router knows better: the next call says so."""
    lost = 0

    def timed_out(*_: object) -> int:
        nonlocal lost
        lost += 1
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, timed_out)
        with suppress(OSError):  # the reset of a connection that was closed unread
            exchange(root, get(b"/big"))
    assert lost == 1
    assert not caplog.records


def test_a_disk_that_fails_is_logged(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In one line: it is not an error in Knot, whose place in the source would matter."""

    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "sendfile", broken)
        assert len(exchange(root, get(b"/big"))) < len(BIG)
    (record,) = caplog.records
    assert record.getMessage().endswith("a file could not be read: Input/output error")
    assert record.exc_info is None
    caplog.clear()


def test_no_descriptor_left_is_survived(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    everywhere: Callable[[str, Any], None],
) -> None:
    everywhere("PAUSE", 0.001)
    accept = socket.socket._accept  # type: ignore[attr-defined]
    refusals = 3

    def exhausted(listener: socket.socket) -> object:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise OSError(24, "Too many open files")
        return accept(listener)

    monkeypatch.setattr(socket.socket, "_accept", exhausted)
    assert answers(exchange(root, get(b"/"))) == [(200, b"<h1>home</h1>")]
    assert len(caplog.records) == 3
    assert "Too many open files" in caplog.records[0].message


def test_without_a_descriptor_nothing_spins(
    root: Path, monkeypatch: pytest.MonkeyPatch, everywhere: Callable[[str, Any], None]
) -> None:
    everywhere("PAUSE", 0.4)
    accept = socket.socket._accept  # type: ignore[attr-defined]
    refused = False

    def exhausted(listener: socket.socket) -> object:
        nonlocal refused
        if not refused:
            refused = True
            raise OSError(24, "Too many open files")
        return accept(listener)

    def client(port: int) -> float:
        began = process_time()
        with connect(port) as connection:
            connection.sendall(get(b"/"))
            assert connection.recv(65536)
        return process_time() - began

    monkeypatch.setattr(socket.socket, "_accept", exhausted)
    assert with_server(root, client) < 0.2


def test_many_connections_at_once(root: Path, model: Model) -> None:
    many = model.pool or 300

    def client(port: int) -> int:
        connections = [connect(port) for _ in range(many)]
        for _ in range(2):
            for connection in connections:
                connection.sendall(get(b"/"))
            for connection in connections:
                received = b""
                while not received.endswith(b"<h1>home</h1>"):
                    received += connection.recv(4096)
        for connection in connections:
            connection.close()
        return len(connections)

    assert with_server(root, client) == many
