"""What the machine may do to a server: no descriptor, no memory, a disk that fails, a thread that
does not start, a clock that jumps.  By every model, over real sockets and with real files."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serving import Model, answers, connect, get, serving, until_closed, with_server

from knot import AccessLog, Limits, Site
from knot.files import listing
from knot.http.dates import http_date
from knot.models import closing
from knot.models import connection as common
from knot.models.peer import Connection
from knot.monitor import access_log

pytestmark = pytest.mark.usefixtures("model")

BIG = bytes(range(256)) * 16 * 1024  # 4 MiB

LAST = b"Connection: close\r\n"

NO_ROOM = [errno.EMFILE, errno.ENFILE, errno.ENOMEM]
NAMES = dict(errno.errorcode)


def named(number: object) -> str:
    return NAMES.get(number, "") if isinstance(number, int) else ""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    (root / "folder").mkdir(parents=True)
    (root / "index.html").write_text("home")
    (root / "small").write_text("small")
    (root / "big").write_bytes(BIG)
    return root


def ask(port: int, path: bytes = b"/", fields: bytes = LAST) -> bytes:
    with connect(port) as client:
        client.sendall(get(path, fields))
        return until_closed(client)


def status(received: bytes) -> int:
    return int(received.split(b" ", 2)[1])


def failing(
    monkeypatch: pytest.MonkeyPatch, call: str, number: int, when: Callable[..., bool], times: int
) -> list[int]:
    """`os.CALL` fails so often where `when` says so; a list with an entry for each time."""
    real = getattr(os, call)
    failed: list[int] = []

    def instead(*arguments: Any, **named: Any) -> Any:
        if len(failed) < times and when(*arguments, **named):
            failed.append(number)
            raise OSError(number, os.strerror(number))
        return real(*arguments, **named)

    monkeypatch.setattr(os, call, instead)
    return failed


def is_file(fd: int, *_: object, **__: object) -> bool:
    return os.readlink(f"/proc/self/fd/{fd}").startswith("/")


# -- no descriptor, no memory ----------------------------------------------------------------------


@pytest.mark.parametrize("number", NO_ROOM, ids=named)
def test_who_cannot_be_accepted_is_accepted_later(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    everywhere: Callable[[str, Any], None],
    number: int,
) -> None:
    everywhere("PAUSE", 0.001)
    accept = socket.socket._accept  # type: ignore[attr-defined]
    refusals = 3

    def exhausted(listener: socket.socket) -> object:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise OSError(number, os.strerror(number))
        return accept(listener)

    monkeypatch.setattr(socket.socket, "_accept", exhausted)
    assert status(with_server(root, ask)) == 200
    assert len(caplog.records) == 3


@pytest.mark.parametrize("number", [*NO_ROOM, errno.EIO, errno.ESTALE, errno.ENODATA], ids=named)
def test_a_file_that_cannot_be_opened_now_is_there_later(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It is not said to be missing: caches would remember that."""
    from knot.files.open_beneath import RootDirectory

    open_file = RootDirectory.open
    failures = 1

    def fails(directory: RootDirectory, name: bytes) -> int:
        nonlocal failures
        if name == b"small" and failures:
            failures -= 1
            raise OSError(number, os.strerror(number))
        return open_file(directory, name)

    monkeypatch.setattr(RootDirectory, "open", fails)

    def client(port: int) -> list[int]:
        return [status(ask(port, b"/small")) for _ in range(2)]

    assert with_server(root, client) == [503, 200]


# -- a disk that fails -----------------------------------------------------------------------------


def test_a_file_that_cannot_be_read_is_a_503(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was promised yet, so it can still be said."""
    failed = failing(monkeypatch, "preadv", errno.EIO, is_file, 1)

    def client(port: int) -> list[int]:
        return [status(ask(port, b"/small")) for _ in range(2)]

    assert with_server(root, client) == [503, 200]
    assert failed


def test_a_cold_file_that_cannot_be_read_later_is_a_503(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its pages were not in memory when it was opened; the next request finds out why."""
    real = os.preadv
    calls = 0

    def cold_then_broken(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        nonlocal calls
        if offset < 0 or not is_file(fd) or calls >= 2:
            return real(fd, buffers, offset, flags)
        calls += 1
        if calls == 1:
            raise BlockingIOError
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", cold_then_broken)

    def client(port: int) -> list[int]:
        found = []
        for _ in range(3):
            received = ask(port, b"/small")
            found.append(status(received) if received else 0)
        return found

    assert 200 in with_server(root, client)[1:]
    caplog.clear()


def test_a_disk_that_fails_under_a_transfer_cuts_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A length was promised: the client sees that the rest is missing."""
    failed = failing(monkeypatch, "sendfile", errno.EIO, lambda *_: True, 1)

    def client(port: int) -> tuple[int, int]:
        return len(ask(port, b"/big")), status(ask(port))

    length, after = with_server(root, client)
    assert length < len(BIG)
    assert after == 200
    assert failed
    assert len(caplog.records) == 1
    caplog.clear()  # its traceback holds the file


def test_a_file_that_cannot_be_looked_at_is_a_503_and_then_there_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, everywhere: Callable[[str, Any], None]
) -> None:
    clock = [1_800_000_000.0]
    everywhere("time", lambda: clock[0])
    real = os.stat
    broken = False

    def stat(path: Any, *arguments: Any, **named: Any) -> os.stat_result:
        if broken and path == b"small":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "stat", stat)

    def client(port: int) -> list[int]:
        nonlocal broken
        found = []
        for now_broken in (False, True, False):
            broken = now_broken
            clock[0] += 1  # a new second, in which it is looked at
            found.append(status(ask(port, b"/small")))
        return found

    assert with_server(root, client) == [200, 503, 200]


def test_a_directory_that_cannot_be_listed_is_a_503(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> object:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(listing, "read_directory", broken)
        assert status(with_server(root, lambda port: ask(port, b"/folder/"), listing=True)) == 503


@pytest.mark.parametrize("how", ["replaced", "shortened", "removed"])
def test_a_file_that_changes_under_a_transfer_is_whole_or_cut(root: Path, how: str) -> None:
    big = root / "big"

    def client(port: int) -> bytes:
        with connect(port) as reader:
            reader.sendall(get(b"/big", LAST))
            received = reader.recv(1000)
            if how == "replaced":
                (root / "new").write_bytes(b"new" * 1000)
                (root / "new").replace(big)
            elif how == "shortened":
                os.truncate(big, 1000)
            else:
                big.unlink()
            return received + until_closed(reader)

    content = with_server(root, client).partition(b"\r\n\r\n")[2]
    if how == "shortened":
        assert len(content) <= len(BIG)  # what was under way has zeros where the file now ends
    else:
        assert content == BIG


# -- a thread that does not start ------------------------------------------------------------------


def no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


def test_where_no_thread_starts_the_disk_is_waited_for(
    root: Path, model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Slow is better than nothing: whoever comes next would have been waiting, too."""
    started = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "knot-disk":
            no_thread()
        started(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    if model.name == "greenlets":
        monkeypatch.setattr("gevent.threadpool.start_new_thread", no_thread)

    def client(port: int) -> list[int]:
        return [status(ask(port, b"/folder/")) for _ in range(3)]

    assert with_server(root, client, listing=True) == [200, 200, 200]
    if model.name != "threads":
        assert "cannot start a thread" in caplog.text
    caplog.clear()  # its error holds the directory


def test_a_thread_that_cannot_be_started_for_a_client_is_a_503(
    root: Path, model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is let go under the lock: the sweep must not cut what has got its number meanwhile."""
    if model.name != "threads" or model.pool:
        return  # no other needs a thread for a client
    from knot.models import threads

    start, close_connection = threads.start_new_thread, common.close_connection
    failures = 1
    locked: list[bool] = []

    def sometimes(*arguments: Any) -> int:
        nonlocal failures
        failures -= 1
        return no_thread() if failures >= 0 else start(*arguments)  # type: ignore[return-value]

    def watched(peer: Connection, server: Any) -> None:
        locked.append(server.lock._is_owned())
        close_connection(peer, server)

    monkeypatch.setattr(threads, "start_new_thread", sometimes)
    monkeypatch.setattr(common, "close_connection", watched)

    def client(port: int) -> list[int]:
        return [status(ask(port)) for _ in range(2)]

    assert with_server(root, client) == [503, 200]
    assert all(locked)
    assert "cannot start a thread for a connection" in caplog.text
    caplog.clear()  # its error holds the connection


def test_who_comes_at_the_moment_of_the_stop_and_is_silent_holds_up_no_end(
    root: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By threads, one may be accepted just before the door is shut, and be known just after."""
    if model.name != "threads":
        return  # the others accept nobody between the signal and the end
    from knot.models import threads

    theirs, ours = socket.socketpair()

    def start_drain(server: Any, gently: bool = False) -> None:
        closing.start_drain(server, gently)
        if gently:
            return
        late = threads.FdConnection(ours.detach(), "")
        server.peers.add(late)
        threads.start_new_thread(threads.connection, (late, server))

    left: list[int] = []
    monkeypatch.setattr(threads, "start_drain", start_drain)
    monkeypatch.setattr(
        threads, "cut_all", lambda server: left.append(len(server.peers)) or closing.cut_all(server)
    )
    with theirs:
        with_server(root, ask, grace=5, limits=Limits(head=1000))
    assert left == [0]


# -- a clock that jumps ----------------------------------------------------------------------------

HOUR = 3600
NOON = 1_800_000_000


def test_a_clock_that_jumps_changes_the_date_and_nothing_else(
    root: Path, everywhere: Callable[[str, Any], None]
) -> None:
    clock = [float(NOON)]
    everywhere("time", lambda: clock[0])
    file = root / "small"
    os.utime(file, (NOON - HOUR, NOON - HOUR))

    def client(port: int) -> None:
        with connect(port) as kept:
            for jump in (0, 5 * HOUR, -10 * HOUR, 100 * 24 * HOUR, -100 * 24 * HOUR, 1, -1, 0.5):
                clock[0] += jump
                file.write_text(f"after {jump}")
                kept.sendall(get(b"/small"))
                received = b""
                while b"\r\n\r\n" not in received:
                    received += kept.recv(4096)
                assert b"\r\nDate: %b\r\n" % http_date(int(clock[0])) in received
                if jump != 0.5:  # within a second a file is not looked at again
                    assert received.endswith(f"after {jump}".encode())

    with_server(root, client)


def test_a_clock_that_is_set_back_makes_no_negative_time_in_the_log(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [float(NOON)]

    def backwards() -> float:
        clock[0] -= 10
        return clock[0]

    for module in (common, access_log):
        monkeypatch.setattr(module, "time", backwards)
    path = tmp_path / "log"
    with open(path, "wb") as file:
        log = AccessLog("json", file.fileno())
        with_server(root, ask, log=log)
        log.close()
    assert '"seconds": 0' in path.read_text()


# -- a log that cannot be written ------------------------------------------------------------------


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_a_full_disk_under_the_log_stops_nobody(
    root: Path, model: Model, workers: tuple[str, ...]
) -> None:
    workers = workers if model.name == "events" else ()  # the others have none
    with serving(str(root), "--log-file", "/dev/full", *workers) as (process, url):
        port = int(url.rpartition(":")[2])
        for _ in range(50):
            assert status(ask(port)) == 200
        process.terminate()
        _, said = process.communicate(timeout=20)
    lines = said.splitlines()
    assert 1 <= len(lines) <= 2  # each process says it once
    assert all("No space left on device" in line for line in lines)


def test_the_site_is_what_it_was(root: Path) -> None:
    """None of the faults above is in this process for good."""
    assert answers(with_server(root, ask)) == [(200, b"home")]
    site = Site(root)
    site.close()
