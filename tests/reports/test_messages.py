"""No message can stop the work, wherever it should go."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

import pytest
from serving import KNOT, plain_environment

from knot.models import MODELS

PATIENCE = 20.0

BROKEN = ["closed", "on a full disk", "a pipe that nobody reads", "a pipe whose reader has gone"]

FAULTY = """
import sys
from knot.__main__ import main
from knot.http.responder import Responder

respond = Responder.respond

def faulty(self, request, now):
    if request.target == b"/bug":
        raise AssertionError("a bug")
    return respond(self, request, now)

Responder.respond = faulty
main()
"""


@contextmanager
def broken(how: str) -> Iterator[int]:
    """A descriptor; closed ones are -1."""
    if how == "closed":
        yield -1
        return
    if how == "on a full disk":
        fds = [os.open("/dev/full", os.O_WRONLY)]
    else:
        reader, writer = os.pipe()
        fds = [writer]
        if how == "a pipe that nobody reads":
            fds.append(reader)
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
            os.set_blocking(writer, False)
            with suppress(BlockingIOError):
                while True:
                    os.write(writer, b"x" * 4096)
            os.set_blocking(writer, True)
        else:
            os.close(reader)
    try:
        yield fds[0]
    finally:
        for fd in fds:
            os.close(fd)


@contextmanager
def saying(fd: int, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The process, with `fd` as its standard output and error."""
    if fd < 0:
        command = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command]
    stream = None if fd < 0 else fd
    with subprocess.Popen(
        command, stdout=stream, stderr=stream, env=plain_environment()
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], bool]) -> None:
    give_up = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < give_up
        sleep(0.01)  # the other processes have work to do


def fetch(path: Path, target: bytes = b"/") -> bytes:
    """All that the server at this path answers; nothing if there is none."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        try:
            client.connect(str(path))
            client.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target)
            received = b""
            while data := client.recv(1 << 16):
                received += data
        except (FileNotFoundError, ConnectionError):
            return b""
        return received


def children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/index.html").write_text("home")
    return tmp_path / "site"


@pytest.mark.parametrize("how", BROKEN[:3])
def test_a_supervisor_whose_streams_are_broken_does_its_work(
    site: Path, tmp_path: Path, how: str
) -> None:
    path = tmp_path / "socket"
    command = [*KNOT, "serve", str(site), "--unix", str(path), "--workers", "1"]
    with broken(how) as fd, saying(fd, command) as process:
        until(lambda: fetch(path).endswith(b"home"))
        first = children(process.pid)
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        assert fetch(path).endswith(b"home")  # which waits for the next worker
        second = children(process.pid)
        assert not first & second
        process.send_signal(signal.SIGHUP)
        until(lambda: not second & children(process.pid))
        assert fetch(path).endswith(b"home")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("model", MODELS)
def test_a_fault_of_one_request_is_no_other_ones(site: Path, tmp_path: Path, model: str) -> None:
    """With more to say of it than a pipe takes that nobody reads."""
    path = tmp_path / "socket"
    program = [sys.executable, "-c", FAULTY]
    options = ["--unix", str(path), "--model", model, "--log", "common"]
    how = "a pipe that nobody reads"
    with broken(how) as fd, saying(fd, [*program, "serve", str(site), *options]) as process:
        until(lambda: fetch(path).endswith(b"home"))
        for _ in range(100):
            assert fetch(path, b"/bug") == b""
        assert fetch(path).endswith(b"home")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_a_closed_stream_is_no_client() -> None:
    """Its number would be that of the next file that is opened."""
    program = "import socket; from knot import diagnostics; diagnostics.install();"
    program += "assert socket.socket().fileno() > 2; print('x')"
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program]
    assert subprocess.run(command, check=False).returncode == 0
