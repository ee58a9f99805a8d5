"""What a machine does to real processes: calls that fail, a disk that hangs, a log that nobody
reads, a worker that is killed.

Calls are made to fail by strace, which answers them in the kernel's place.  The same faults, and
more, are injected within one process by `tests/knot/test_faults.py`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic

import pytest
from serving import KNOT, answers, connect, get, serving, until_closed

from knot.models import MODELS

LARGE = 32 << 20
LAST = b"Connection: close\r\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    (root / "folder").mkdir(parents=True)
    for name in ("index.html", "a", "b"):
        (root / name).write_text(name)
    (root / "large").touch()
    os.truncate(root / "large", LARGE)
    return root


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    if request.param == "greenlets":
        pytest.importorskip("gevent", reason="gevent is not installed")
    return str(request.param)


def ask(port: int, path: bytes = b"/") -> bytes:
    with connect(port) as client:
        client.sendall(get(path, LAST))
        return until_closed(client)


def status(received: bytes) -> int:
    return int(received.split(b" ", 2)[1])


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


# -- calls that fail -------------------------------------------------------------------------------


class Faulty:
    """A server some of whose system calls fail."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.port = port_of(url)
        self.said: list[str] = []
        """On standard error, once it has ended."""

    def comes_back_to(self, number: int) -> None:
        give_up = monotonic() + 20
        while descriptors(self.process.pid) > number:
            assert monotonic() < give_up
            assert status(ask(self.port)) == 200


@contextmanager
def faulty(root: Path, model: str, fault: str) -> Iterator[Faulty]:
    """`fault` is what ``strace -e inject=`` takes."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    call = fault.partition(":")[0]
    # -D: the server is our child, not strace's, so that signals reach it
    traced = [strace, "-D", "-f", "-qq", "-o", os.devnull]
    traced += ["-e", f"trace={call}", "-e", f"inject={fault}", "-e", "signal=none"]
    with serving(str(root), "--model", model, knot=[*traced, *KNOT]) as (process, url):
        found = Faulty(process, url)
        yield found
        process.terminate()
        _, said = process.communicate(timeout=20)
        found.said += said.splitlines()
        assert process.returncode == 0


@pytest.mark.parametrize("error", ["EMFILE", "ENFILE", "ENOMEM"])
def test_who_could_not_be_accepted_is_served_a_little_later(
    root: Path, model: str, error: str
) -> None:
    with faulty(root, model, f"accept4:error={error}:when=1..3") as server:
        assert status(ask(server.port)) == 200
        server.comes_back_to(descriptors(server.process.pid))
    assert len(server.said) == 3
    assert all("cannot accept a connection" in line for line in server.said)


@pytest.mark.parametrize("error", ["EMFILE", "ENOMEM", "EIO"])
def test_who_asks_for_what_cannot_be_opened_is_told_to_come_again(
    root: Path, model: str, error: str
) -> None:
    with faulty(root, model, f"openat2:error={error}:when=2") as server, connect(server.port) as it:
        it.sendall(get(b"/a") + get(b"/b") + get(b"/b", LAST))
        found = answers(until_closed(it))
    if [code for code, _ in found] == [200, 200, 200]:
        pytest.skip("this kernel has no openat2, which was to fail")
    assert [code for code, _ in found] == [200, 503, 200]
    assert found[2] == (200, b"b")
    assert server.said == []


def test_a_disk_that_fails_in_the_middle_of_a_file_cuts_the_connection(
    root: Path, model: str
) -> None:
    """Its length was promised; nobody else notices."""
    with faulty(root, model, "sendfile:error=EIO:when=2") as server:
        ask(server.port)
        with connect(server.port) as other:
            other.sendall(get(b"/a"))
            other.recv(4096)
            before = descriptors(server.process.pid)
            head, _, content = ask(server.port, b"/large").partition(b"\r\n\r\n")
            assert b"Content-Length: %d" % LARGE in head
            assert 0 < len(content) < LARGE
            other.sendall(get(b"/b", LAST))
            assert answers(until_closed(other)) == [(200, b"b")]
        server.comes_back_to(before)
    (line,) = server.said
    assert "a file could not be read: Input/output error" in line


# -- a disk that hangs -----------------------------------------------------------------------------

HANGING = """
import os
import threading
from knot.files import listing
from knot.cli import main

def hang(*_):
    os.write(1, b"it hangs\\n")
    threading.Event().wait()

listing.read_directory = hang
main(prog_name="knot")
"""


def test_a_disk_that_hangs_stops_neither_the_others_nor_the_end(root: Path, model: str) -> None:
    options = ("--listing", "--grace", "0.1", "--model", model)
    hanging = [sys.executable, "-c", HANGING]
    with serving(str(root), *options, knot=hanging) as (process, url), connect(port_of(url)) as it:
        it.sendall(get(b"/folder/"))
        assert process.stdout
        assert process.stdout.readline() == "it hangs\n"
        assert status(ask(port_of(url))) == 200
        process.terminate()
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0
    assert said == "Stopped; 1 connection was cut after 0.1 s\n"


# -- a log that nobody reads -----------------------------------------------------------------------


def test_a_log_that_nobody_reads_any_more_stops_nobody(root: Path, model: str) -> None:
    with serving(str(root), "--log", "common", "--model", model) as (process, url):
        assert process.stdout
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        with connect(port_of(url)) as client:
            for _ in range(9):  # 75 bytes each: 700 KB to a pipe of 4 KiB
                client.sendall(get(b"/") * 1000)
                received = b""
                while received.count(b"index.html") < 1000:
                    piece = client.recv(1 << 20)
                    assert piece
                    received += piece
        process.terminate()
        assert process.stderr
        assert process.wait(20) == 0
        (line,) = process.stderr.read().splitlines()
    assert "nothing reads the access log" in line


# -- a worker that is killed -----------------------------------------------------------------------


class Client:
    """Asks without a pause on a connection that is kept, and makes another when that breaks."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connection = connect(port)
        self.asked = 0
        self.failures: list[str] = []
        self.stopped = threading.Event()
        self.ask()
        self.thread = threading.Thread(target=self.go_on)

    def ask(self) -> None:
        self.connection.sendall(get(b"/a"))
        received = b""
        while not received.endswith(b"\r\n\r\na"):
            piece = self.connection.recv(4096)
            if not piece:
                raise ConnectionError(f"it ends after {received!r}")
            received += piece
        assert status(received) == 200
        self.asked += 1

    def go_on(self) -> None:
        while not self.stopped.is_set():
            try:
                self.ask()
            except Exception as error:
                self.failures.append(repr(error))
                self.connection.close()
                self.connection = connect(self.port)

    def end(self) -> None:
        self.stopped.set()
        with suppress(RuntimeError):  # it was never started
            self.thread.join()
        self.connection.close()


def worker_of(client: Client, workers: set[int]) -> int:
    """Which process has the other end of the connection."""
    own = client.connection.getsockname()[1]
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (socket_,) = (
        f"socket:[{fields[9]}]"
        for fields in lines
        if fields[2].endswith(f":{own:04X}") and fields[1].endswith(f":{client.port:04X}")
    )
    for pid in workers:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):
                if os.readlink(f"/proc/{pid}/fd/{fd}") == socket_:
                    return pid
    raise AssertionError("no worker has the connection")


def children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_a_worker_that_is_killed_costs_its_own_clients_a_connection_and_others_nothing(
    root: Path,
) -> None:
    with serving(str(root), "--workers", "2") as (process, url):
        workers = children(process.pid)
        clients: list[Client] = []
        owners: Counter[int] = Counter()
        try:
            while len(owners) < 2 or min(owners.values()) < 3:  # the kernel spreads them
                clients.append(Client(port_of(url)))
                owners[worker_of(clients[-1], workers)] += 1
            victim = min(workers)
            killed = [client for client in clients if worker_of(client, workers) == victim]
            others = [client for client in clients if client not in killed]
            for client in clients:
                client.thread.start()
            os.kill(victim, signal.SIGKILL)
            assert process.stderr
            assert f"worker {victim} was ended by SIGKILL" in process.stderr.readline()
            seen = [client.asked for client in clients]
            give_up = monotonic() + 20
            while any(client.asked < old + 20 for client, old in zip(clients, seen, strict=True)):
                assert monotonic() < give_up
        finally:
            for client in clients:
                client.end()
        assert [client.failures for client in others] == [[] for _ in others]
        assert [len(client.failures) for client in killed] == [1] * len(killed)
        process.terminate()
        _, said = process.communicate(timeout=20)
        assert said == ""
