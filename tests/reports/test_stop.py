"""How a server ends, and hands over to the next one."""

from __future__ import annotations

import errno
import os
import select
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import serving
from serving import KNOT, Model, answers, connect, get, plain_environment, until_closed, with_server
from speaking_http2 import Connected
from ways import Way

from knot import AccessLog, Responder
from knot.models import closing, events
from knot.process.listeners import listen
from knot.process.signals import Signals

PATIENCE = 20.0

LARGE = 16 << 20


@pytest.fixture
def site(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    root.mkdir()
    (root / "index.html").write_text("home")
    with open(root / "large", "wb") as file:
        file.truncate(LARGE)
    return root


def until(condition: Callable[[], bool]) -> None:
    give_up = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < give_up
        sleep(0.005)  # the other processes have work to do


class Stop:
    """How a client on a thread tells the server of `with_server` to stop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.heard = threading.Event()
        """Set when the server stops."""
        self._signals: list[Signals] = []
        start_drain = closing.start_drain

        def watched(server: Any, gently: bool = False) -> None:
            start_drain(server, gently)
            self.heard.set()

        def kept() -> Signals:
            self._signals.append(Signals())
            return self._signals[0]

        monkeypatch.setattr(serving, "Signals", kept)
        monkeypatch.setattr(serving.model.module, "start_drain", watched)

    def tell(self) -> None:
        self._signals[0].tell(signal.SIGTERM)


# -- what comes at the end -------------------------------------------------------------------------


def test_a_request_that_crosses_with_the_end_is_answered(
    way: Way, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(way.model.module, "PARTING", PATIENCE)
    stop = Stop(monkeypatch)

    def client(port: int) -> None:
        if way.http_2:
            with Connected(connect(port)) as client:
                assert client.get(b"/").content == b"home"
                stop.tell()
                assert stop.heard.wait(PATIENCE)
                assert is_open(client.end)
                assert client.get(b"/").content == b"home"
            return
        with connect(port) as client:
            client.sendall(get(b"/"))
            assert client.recv(1 << 16).endswith(b"home")
            stop.tell()
            assert stop.heard.wait(PATIENCE)
            assert is_open(client)
            client.sendall(get(b"/"))
            received = until_closed(client)
            assert answers(received) == [(200, b"home")]
            assert b"Connection: close" in received

    with_server(site, client, grace=PATIENCE)


def is_open(client: socket.socket) -> bool:
    return not select.select([client], [], [], 0.05)[0]


def test_connections_that_wait_at_the_listener_are_answered(
    model: Model, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than are accepted in one turn."""
    stop = Stop(monkeypatch)
    all_came = threading.Event()
    respond = Responder.respond

    def busy(self: Responder, *what: Any) -> Any:
        assert all_came.wait(PATIENCE)
        return respond(self, *what)

    monkeypatch.setattr(Responder, "respond", busy)

    def client(port: int) -> None:
        clients = [connect(port) for _ in range(150)]
        for each in clients:
            each.sendall(get(b"/"))
        stop.tell()
        all_came.set()
        received = []
        for each in clients:
            with each:
                received.append(each.recv(1 << 16))
        assert all(data.endswith(b"home") for data in received)

    with_server(site, client, grace=PATIENCE)


def test_every_listener_is_closed_at_once(site: Path) -> None:
    """That of the redirect, too; while a client still takes its answer."""
    listener, redirect = listen("127.0.0.1", 0), listen("127.0.0.1", 0)
    ports = [each.getsockname()[1] for each in (listener, redirect)]
    signals = Signals()
    failures: list[BaseException] = []

    def client() -> None:
        try:
            with connect(ports[0]) as client:
                client.sendall(get(b"/large", b"Connection: close\r\n"))
                received = len(client.recv(1 << 16))
                signals.tell(signal.SIGTERM)
                until(lambda: all(is_refused(port) for port in ports))
                received += len(until_closed(client))
            assert received > LARGE
        except BaseException as error:
            failures.append(error)
            signals.tell(signal.SIGTERM)

    thread = threading.Thread(target=client)
    thread.start()
    with closing_site(site) as server:
        assert events.run([listener], server, signals, PATIENCE, redirects=[redirect]) == 0
    thread.join()
    signals.close()
    assert not failures


@contextmanager
def closing_site(root: Path) -> Iterator[events.Server]:
    from knot import Site

    site = Site(root)
    yield events.Server(Responder(site))
    site.close()


def is_refused(port: int) -> bool:
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return True
    except ConnectionError:
        pass
    return False


def test_with_workers_connections_are_refused_while_they_finish(site: Path) -> None:
    with serving.serving(str(site), "--workers", "1", "--grace", "20") as (process, url):
        port = int(url.rpartition(":")[2])
        with connect(port) as client:
            client.sendall(get(b"/large", b"Connection: close\r\n"))
            received = len(client.recv(1 << 16))
            process.send_signal(signal.SIGTERM)
            until(lambda: is_refused(port))
            received += len(until_closed(client))
        assert received > LARGE
        assert process.wait(PATIENCE) == 0


def test_a_transfer_that_is_cut_at_the_end_leaves_no_traceback(
    way: Way,
    site: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one is by the second signal."""
    stop = Stop(monkeypatch)
    clients: list[socket.socket] = []

    def client(port: int) -> None:
        client = connect(port)
        clients.append(client)
        if way.http_2:
            speaker = Connected(client, window=2**31 - 1)
            stream = speaker.ask(b"/large")
            while not speaker.answers[stream].content:
                assert speaker.read()
        else:
            client.sendall(get(b"/large"))
            assert client.recv(1 << 16)
        stop.tell()
        assert stop.heard.wait(PATIENCE)
        stop.tell()

    with open(tmp_path / "log", "wb") as file:
        log = AccessLog("common", file.fileno())
        with_server(site, client, grace=PATIENCE, log=log)
        log.close()
    for each in clients:
        each.close()
    assert not caplog.records


def test_a_thread_that_goes_on_after_the_end_says_nothing(
    site: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from knot import Site
    from knot.models import threads

    def fail(*_: object) -> None:
        raise OSError(errno.EBADF, "its file was closed")

    monkeypatch.setattr(threads, "read_and_answer", fail)
    served = Site(site)
    server = threads.Server(Responder(served))
    server.over = True
    theirs, ours = socket.socketpair()
    with theirs:
        threads.connection(threads.FdConnection(ours.detach(), ""), server)
    served.close()
    assert not caplog.records


# -- the socket at a path --------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [(), ("--workers", "1")])
def test_the_socket_of_a_successor_stays(
    site: Path, tmp_path: Path, workers: tuple[str, ...]
) -> None:
    path = tmp_path / "socket"
    with serving.serving(str(site), *workers, listens=("--unix", str(path))) as (process, _):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
            assert path.exists()


def test_an_error_at_the_start_leaves_no_socket(site: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        admin = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [*KNOT, "serve", str(site), "--unix", str(path), "--admin", admin]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "cannot listen on" in ended.stderr
    assert not path.exists()


# -- the start -------------------------------------------------------------------------------------


def catches(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (number - 1) & 1)


def is_ready(pid: int, _: Path) -> bool:
    return catches(pid, signal.SIGTERM)


def imports(pid: int, _: Path) -> bool:
    return "_socket" in Path(f"/proc/{pid}/maps").read_text()


def listens(_: int, path: Path) -> bool:
    return path.exists()


def has_workers(pid: int, _: Path) -> bool:
    return bool(children(pid))


def children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


MOMENTS: dict[str, tuple[Callable[[int, Path], bool], tuple[str, ...]]] = {
    "it handles signals": (is_ready, ()),
    "it imports": (imports, ()),
    "it listens": (listens, ()),
    "its worker starts": (has_workers, ("--workers", "1")),
}


@contextmanager
def starting(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=plain_environment(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("moment", "number"),
    [*((moment, signal.SIGTERM) for moment in MOMENTS), ("it imports", signal.SIGINT)],
)
def test_a_stop_that_comes_when(
    site: Path, tmp_path: Path, moment: str, number: signal.Signals
) -> None:
    """…that is the state of the start, ends it with status 0, and leaves nothing."""
    come, options = MOMENTS[moment]
    path = tmp_path / "socket"
    command = [*KNOT, "serve", str(site), "--unix", str(path), *options]
    with starting(command) as process:
        until(lambda: come(process.pid, path))
        process.send_signal(number)
        assert process.communicate(timeout=PATIENCE)[1] == ""
        assert process.returncode == 0
        assert not path.exists()


UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def test_process_1_hears_a_stop_at_once(site: Path, tmp_path: Path) -> None:
    """To which the kernel delivers no signal that it does not handle."""
    if (
        shutil.which("unshare") is None
        or subprocess.run([*UNSHARE, "true"], check=False).returncode
    ):
        pytest.skip("this user may make no namespace of processes")
    path = tmp_path / "socket"
    with starting([*UNSHARE, *KNOT, "serve", str(site), "--unix", str(path)]) as process:
        until(lambda: bool(children(process.pid)))
        [first] = children(process.pid)
        with suppress(ProcessLookupError, FileNotFoundError):
            until(lambda: catches(first, signal.SIGTERM))
            os.kill(first, signal.SIGTERM)
        assert process.communicate(timeout=PATIENCE) == ("", "")
        assert process.returncode == 0


def test_a_reload_during_the_start_is_not_lost(site: Path) -> None:
    command = [*KNOT, "serve", str(site), "--port", "0", "--workers", "1"]
    with starting(command) as process:
        until(lambda: catches(process.pid, signal.SIGHUP))
        process.send_signal(signal.SIGHUP)
        until(lambda: bool(children(process.pid)))
        [first] = children(process.pid)
        process.send_signal(signal.SIGHUP)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Serving")
        until(lambda: first not in children(process.pid))
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=PATIENCE)[1] == ""
        assert process.returncode == 0
