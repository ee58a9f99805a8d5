"""What a client costs at most: time, requests, connections; and what happens when it ends."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from serving import HOST, Model, answers, connect, get, until_closed, with_server

from knot import AccessLog, Limits
from knot.files import listing
from knot.models import closing, peer
from knot.models import connection as connections
from knot.models.peer import Connection, FdConnection

pytestmark = pytest.mark.usefixtures("model")

BIG = bytes(range(256)) * 16 * 1024  # 4 MiB


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    (root / "folder").mkdir(parents=True)
    (root / "index.html").write_text("home")
    (root / "folder" / "file").write_text("x")
    (root / "big").write_bytes(BIG)
    return root


# -- time ----------------------------------------------------------------------------------------


@pytest.fixture
def quick_sweeps(everywhere: Callable[[str, Any], None]) -> None:
    everywhere("SWEEP", 0.01)


@pytest.fixture
def gone(everywhere: Callable[[str, Any], None]) -> threading.Event:
    """Set when the server has let go of a connection."""
    return told_of(connections, "close_connection", everywhere)


@pytest.fixture
def come(everywhere: Callable[[str, Any], None]) -> threading.Event:
    """Set when the server has accepted a connection."""
    return told_of(peer, "begin", everywhere)


def told_of(
    module: ModuleType, name: str, everywhere: Callable[[str, Any], None]
) -> threading.Event:
    happened = threading.Event()
    function = getattr(module, name)

    def noticed(peer: Connection, other: Any) -> None:
        function(peer, other)
        happened.set()

    everywhere(name, noticed)
    return happened


PATIENT = {"head": 1000.0, "keep_alive": 1000.0, "send": 1000.0}


def limits(**impatient: float) -> Limits:
    return Limits(**{**PATIENT, **impatient})


@pytest.mark.usefixtures("quick_sweeps")
def test_half_a_request_is_waited_for_so_long_and_then_refused(root: Path) -> None:
    def client(port: int) -> bytes:
        with connect(port) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHo")
            return until_closed(connection)

    ((status, page),) = answers(with_server(root, client, limits=limits(head=0.05)))
    assert status == 408
    assert b"The request took too long." in page


@pytest.mark.usefixtures("quick_sweeps")
def test_an_empty_line_is_no_sign_of_life(root: Path) -> None:
    def client(port: int) -> None:
        with connect(port) as connection:
            connection.sendall(get(b"/"))
            connection.settimeout(0.005)
            deadline = monotonic() + 20
            with suppress(ConnectionError):
                while monotonic() < deadline:
                    try:
                        if not connection.recv(1000):
                            return
                    except TimeoutError:
                        connection.sendall(b"\r\n")
                pytest.fail("it was kept for ever")

    with_server(root, client, limits=limits(keep_alive=0.1))


def test_what_comes_after_the_last_request_does_not_destroy_its_answer(root: Path) -> None:
    def client(port: int) -> bytes:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(20)
            connection.connect(("127.0.0.1", port))
            connection.sendall(get(b"/big", b"Connection: close\r\n"))
            received = connection.recv(10)
            connection.sendall(b"x" * 40_000)
            connection.shutdown(socket.SHUT_WR)
            return received + until_closed(connection)

    assert answers(with_server(root, client)) == [(200, BIG)]


@pytest.mark.usefixtures("quick_sweeps")
def test_a_client_that_drips_gets_no_more_time(root: Path) -> None:
    def client(port: int) -> bytes:
        with connect(port) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n")
            connection.settimeout(0.005)
            with suppress(ConnectionError):
                for _ in range(10_000):  # a byte whenever nothing has come for 5 ms
                    try:
                        return connection.recv(1000)
                    except TimeoutError:
                        connection.sendall(b"x")
            return b""

    received = with_server(root, client, limits=limits(head=0.1))
    assert received.startswith(b"HTTP/1.1 408 ") or received == b""


@pytest.mark.usefixtures("quick_sweeps")
def test_an_idle_connection_is_closed_without_a_word(root: Path) -> None:
    def client(port: int) -> bytes:
        with connect(port) as connection:
            connection.sendall(get(b"/"))
            return until_closed(connection)

    assert answers(with_server(root, client, limits=limits(keep_alive=0.05))) == [(200, b"home")]


@pytest.mark.usefixtures("quick_sweeps")
def test_a_client_that_takes_nothing_is_cut_off(root: Path, gone: threading.Event) -> None:
    (root / "huge").touch()
    os.truncate(root / "huge", 64 << 20)

    def client(port: int) -> None:
        with socket.socket() as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.connect(("127.0.0.1", port))
            stalled.sendall(get(b"/huge"))
            assert gone.wait(20)
            with pytest.raises(ConnectionResetError):
                until_closed(stalled)

    with_server(root, client, limits=limits(send=0.05))


@pytest.mark.parametrize(("seconds", "looks"), [(0.5, 2), (1, 2), (1.5, 3), (3, 4)])
def test_time_that_is_no_whole_number_of_seconds_is_given_in_full(
    monkeypatch: pytest.MonkeyPatch, seconds: float, looks: int
) -> None:
    """Found by `make simulate`.  The first look may come as soon as the client has come, so
    the second is the first that can know that a part of a second has passed."""
    ended: list[Connection] = []
    monkeypatch.setattr(closing, "cut", ended.append)
    peers = {FdConnection(-1, "")}
    server: Any = SimpleNamespace(
        limits=Limits(head=seconds), peers=peers, watched=[], on_sweep=bool
    )
    for number in range(1, looks + 1):
        closing.expire_idle(server)
        assert bool(ended) == (number == looks)


@pytest.mark.usefixtures("quick_sweeps")
def test_time_that_is_given_is_not_cut_short(root: Path) -> None:
    """Sweeps come and go, and nobody has been silent for too long."""

    def client(port: int) -> bytes:
        with connect(port) as half, connect(port) as slow:
            half.sendall(b"GET / HTTP/1.1\r\n")
            slow.sendall(get(b"/big", b"Connection: close\r\n"))
            half.settimeout(0.2)
            with pytest.raises(TimeoutError):
                half.recv(1)
            half.settimeout(20)
            half.sendall(HOST + b"Connection: close\r\n\r\n")
            return until_closed(half) + until_closed(slow)

    assert answers(with_server(root, client, limits=limits())) == [(200, b"home"), (200, BIG)]


# -- numbers -------------------------------------------------------------------------------------


def test_a_connection_has_so_many_requests(root: Path) -> None:
    def client(port: int) -> bytes:
        with connect(port) as connection:
            connection.sendall(get(b"/") * 5)
            return until_closed(connection)

    received = with_server(root, client, limits=Limits(requests=3))
    assert answers(received) == [(200, b"home")] * 3
    assert received.count(b"Connection: close\r\n") == 1
    assert b"Connection: close\r\n" in received.rpartition(b"HTTP/1.1 200")[2]


def test_one_connection_too_many_is_told_to_come_later(root: Path, gone: threading.Event) -> None:
    def client(port: int) -> bytes:
        kept = [connect(port), connect(port)]
        for connection in kept:
            connection.sendall(get(b"/"))
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
        with connect(port) as third:
            third.sendall(get(b"/"))
            refused = until_closed(third)
        kept[0].close()
        assert gone.wait(20)
        with connect(port) as fourth:
            fourth.sendall(get(b"/", b"Connection: close\r\n"))
            served = until_closed(fourth)
        kept[1].close()
        assert b"Retry-After: 5\r\n" in refused
        return refused + served

    received = with_server(root, client, limits=Limits(connections=2))
    assert [status for status, _ in answers(received)] == [503, 200]


def test_a_client_that_has_asked_nothing_yet_holds_up_no_end(
    root: Path, come: threading.Event
) -> None:
    """As the spare connections of browsers."""

    def client(port: int) -> socket.socket:
        silent = connect(port)
        assert come.wait(20)
        return silent

    listener = socket.create_server(("127.0.0.1", 0))  # accepts before a request is there
    listener.setblocking(False)
    with with_server(root, client, listener=listener, grace=1000) as silent:
        assert until_closed(silent) == b""


# -- the disk ------------------------------------------------------------------------------------


@pytest.fixture
def cold_disk(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nothing is in memory until somebody has waited for it; the threads that did."""
    waited: list[str] = []
    warm: set[tuple[int, int]] = set()
    preadv, pread = os.preadv, os.pread

    def place(fd: int) -> tuple[int, int]:
        status = os.fstat(fd)
        return status.st_dev, status.st_ino

    def unless_cold(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if offset >= 0 and flags & os.RWF_NOWAIT and place(fd) not in warm:
            raise BlockingIOError
        if offset >= 0 and not flags:
            waited.append(threading.current_thread().name)
            warm.add(place(fd))
        return preadv(fd, buffers, offset, flags)

    def waiting(fd: int, count: int, offset: int) -> bytes:
        waited.append(threading.current_thread().name)
        warm.add(place(fd))
        return pread(fd, count, offset)

    monkeypatch.setattr(os, "preadv", unless_cold)
    monkeypatch.setattr(os, "pread", waiting)
    return waited


def test_a_cold_file_is_waited_for_on_a_thread(
    root: Path, cold_disk: list[str], model: Model
) -> None:
    def client(port: int) -> bytes:
        with connect(port) as connection:
            connection.sendall(get(b"/") + get(b"/big") + get(b"/", b"Connection: close\r\n"))
            return until_closed(connection)

    expected = [(200, b"home"), (200, BIG), (200, b"home")]
    assert answers(with_server(root, client)) == expected
    if model.name != "threads":
        assert len(cold_disk) == 2  # the small one was in memory the second time
    assert threading.main_thread().name not in cold_disk


def test_a_slow_directory_stops_nobody(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others_are_served = threading.Event()
    read_directory = listing.read_directory

    def slow(*arguments: Any) -> Any:
        assert others_are_served.wait(20)
        return read_directory(*arguments)

    monkeypatch.setattr(listing, "read_directory", slow)

    def client(port: int) -> bytes:
        with connect(port) as first, connect(port) as second:
            first.sendall(get(b"/folder/", b"Connection: close\r\n"))
            second.sendall(get(b"/", b"Connection: close\r\n"))
            assert until_closed(second).endswith(b"home")
            others_are_served.set()
            return until_closed(first)

    ((status, page),) = answers(with_server(root, client, listing=True))
    assert status == 200
    assert b'href="./file"' in page


def test_an_error_on_a_thread_ends_one_connection(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(listing, "read_directory", broken)

    def client(port: int) -> bytes:
        with connect(port) as connection:
            connection.sendall(get(b"/folder/"))
            assert until_closed(connection) == b""
        with connect(port) as connection:
            connection.sendall(get(b"/", b"Connection: close\r\n"))
            return until_closed(connection)

    assert answers(with_server(root, client, listing=True)) == [(200, b"home")]
    assert "error in Knot" in caplog.text
    caplog.clear()


# -- the log -------------------------------------------------------------------------------------


def test_every_answer_has_a_line_in_the_log(root: Path, tmp_path: Path) -> None:
    def client(port: int) -> bytes:
        with connect(port) as connection:
            said = b"User-Agent: a\r\nReferer: b\r\n"
            connection.sendall(get(b"/?q", said) + get(b"/no") + get(b"/big") + b"nonsense\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            return until_closed(connection)

    with (tmp_path / "log").open("wb") as file:
        log = AccessLog("json", file.fileno())
        received = with_server(root, client, log=log)
        log.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    shown = [(line["method"], line["target"], line["status"], line["size"]) for line in lines]
    sizes = [len(content) for _, content in answers(received)]
    assert shown == [
        ("GET", "/?q", 200, 4),
        ("GET", "/no", 404, sizes[1]),
        ("GET", "/big", 200, len(BIG)),
        ("", "", 400, sizes[3]),
    ]
    assert [(line["agent"], line["referer"]) for line in lines] == [("a", "b"), *[("", "")] * 3]
    assert {line["client"] for line in lines} == {"127.0.0.1"}


def test_a_refusal_has_a_line_too(root: Path, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        log = AccessLog("json", file.fileno())
        with_server(root, refused_twice, limits=Limits(connections=0), log=log)
        log.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(line["client"], line["status"]) for line in lines] == [("127.0.0.1", 503)] * 2


def refused_twice(port: int) -> None:
    for _ in range(2):
        with connect(port) as connection:
            connection.sendall(get(b"/"))
            assert until_closed(connection).startswith(b"HTTP/1.1 503 ")


def test_an_answer_that_was_not_taken_has_a_line_too(root: Path, tmp_path: Path) -> None:
    os.truncate(root / "big", 64 << 20)

    def client(port: int) -> None:
        with socket.socket() as leaving:
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            leaving.connect(("127.0.0.1", port))
            leaving.sendall(get(b"/big"))
            leaving.recv(10)

    with (tmp_path / "log").open("wb") as file:
        log = AccessLog("json", file.fileno())
        with_server(root, lambda port: (client(port), wait_for_pending(log)), log=log)
        log.close()
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert json.loads(line)["status"] == 200
    assert 0 < json.loads(line)["size"] < 64 << 20


def wait_for_pending(log: AccessLog) -> None:
    """Until the loop's thread has put a record there, or given it to be written."""
    deadline = monotonic() + 20
    while not log.pending and not log._handed:
        assert monotonic() < deadline
