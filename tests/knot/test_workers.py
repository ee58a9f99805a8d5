"""Several workers: what clients see of their end and of their beginning is nothing."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic
from typing import IO
from urllib.parse import urlsplit

import pytest
from serving import KNOT, plain_environment, serving

from knot.monitor.sources import Workers
from knot.process import cpus
from knot.process.worker_process import Worker

TWO = ("--workers", "2")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    root.mkdir()
    (root / "index.html").write_text("home")
    return root


def children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def line_with(stream: IO[str] | None, *words: str) -> str:
    """The first line that has all the words; waits for it."""
    assert stream is not None
    for line in stream:
        if all(word in line for word in words):
            return line
    raise AssertionError(f"no line with {words}")


def fetch(url: str, path: str = "/") -> bytes:
    with urllib.request.urlopen(url + path, timeout=20) as answer:
        found: bytes = answer.read()
        return found


def end_of(pid: int) -> None:
    """Wait until a process that is not ours has ended."""
    with suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            import select

            assert select.select([fd], [], [], 20)[0]
        finally:
            os.close(fd)


class Clients:
    """Threads that ask on kept connections all the time, and count each answer."""

    def __init__(self, url: str, number: int) -> None:
        self.where = urlsplit(url)
        self.stopped = threading.Event()
        self.answers = 0
        self.connections = 0
        self.failures: list[str] = []
        self.fields: set[str | None] = set()
        self.threads = [threading.Thread(target=self.ask) for _ in range(number)]
        for thread in self.threads:
            thread.start()

    def ask(self) -> None:
        client = HTTPConnection(self.where.hostname or "", self.where.port, timeout=20)
        try:
            while not self.stopped.is_set():
                if client.sock is None:
                    self.connections += 1
                client.request("GET", "/")
                response = client.getresponse()
                if (response.status, response.read()) != (200, b"home"):
                    self.failures.append(f"status {response.status}")
                self.fields.add(response.headers["X-Version"])
                self.answers += 1
                self.stopped.wait(0.002)
        except Exception as error:
            self.failures.append(repr(error))
        finally:
            client.close()

    def stop(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()


@contextmanager
def clients(url: str, number: int = 4) -> Iterator[Clients]:
    found = Clients(url, number)
    try:
        yield found
    finally:
        found.stop()


def test_workers_are_as_many_as_were_asked_for(site: Path) -> None:
    with serving(str(site), "--workers", "3") as (process, url):
        assert len(children(process.pid)) == 3
        assert fetch(url) == b"home"
    with serving(str(site), "--workers", "auto") as (process, _):
        assert len(children(process.pid)) == cpus.available()


def test_a_worker_that_dies_is_replaced(site: Path) -> None:
    with serving(str(site), *TWO) as (process, url):
        before = children(process.pid)
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        assert str(victim) in line_with(process.stderr, "SIGKILL", "starting another")
        # What nobody has accepted yet waits in the dead worker's queue for the next one.
        for _ in range(20):
            assert fetch(url) == b"home"
        after = children(process.pid)
        assert victim not in after
        assert before - {victim} < after


def test_a_worker_that_cannot_be_watched_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor is left for it: it must not go on where nobody knows of it."""
    before = children(os.getpid())

    def exhausted(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", exhausted)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        opened = len(os.listdir("/proc/self/fd"))
        for monitor in (None, Workers(lambda _: None)):
            with pytest.raises(OSError, match="Too many open files"):
                Worker([listener], monitor=monitor)
        assert len(os.listdir("/proc/self/fd")) == opened
    assert children(os.getpid()) == before


def test_twenty_reloads_cost_no_request(site: Path, tmp_path: Path) -> None:
    config = tmp_path / "knot.toml"
    config.write_text('header = ["X-Version: 0"]\n')
    with serving(str(site), *TWO, "--config", str(config)) as (process, url):
        first = children(process.pid)
        with clients(url) as live:
            for number in range(1, 21):
                config.write_text(f'header = ["X-Version: {number}"]\n')
                old = children(process.pid)
                process.send_signal(signal.SIGHUP)
                for pid in old:
                    end_of(pid)  # each has given its clients their last answer
                assert fetch(url) == b"home"
        assert live.failures == []
        assert live.answers > 1000
        assert live.fields >= {"0", "20"}
        assert live.connections > 20  # they were told to make another
        assert not first & children(process.pid)


@contextmanager
def written_to(pipe: Path) -> Iterator[IO[str]]:
    """The pipe from when somebody reads it until that one has read it to the end."""
    with os.fdopen(opened(pipe, lambda fd: fd is not None) or -1, "w") as end:
        yield end
    opened(pipe, lambda fd: fd is None)


def opened(pipe: Path, enough: Callable[[int | None], bool]) -> int | None:
    give_up = monotonic() + 20
    while True:
        try:
            fd = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            fd = None
        if enough(fd):
            return fd
        if fd is not None:
            os.close(fd)
        assert monotonic() < give_up, "nobody reads the configuration"


def test_a_second_reload_during_the_first_is_not_lost(site: Path, tmp_path: Path) -> None:
    """The configuration is a pipe, so that its readers stand still where the test wants them to."""
    config = tmp_path / "knot.toml"
    os.mkfifo(config)

    def versions() -> None:
        for _ in ("the supervisor", "the first worker"):
            with written_to(config) as pipe:
                pipe.write('header = ["X-Version: 0"]\n')

    writer = threading.Thread(target=versions)
    writer.start()
    with serving(str(site), "--workers", "1", "--config", str(config)) as (process, url):
        writer.join()
        (first,) = children(process.pid)
        process.send_signal(signal.SIGHUP)
        with written_to(config) as pipe:
            process.send_signal(signal.SIGHUP)
            pipe.write('header = ["X-Version: 1"]\n')
        end_of(first)
        with written_to(config) as pipe:
            pipe.write('header = ["X-Version: 2"]\n')
        version = ""
        give_up = monotonic() + 20
        while version != "2":
            assert monotonic() < give_up
            with urllib.request.urlopen(url) as answer:
                version = answer.headers["X-Version"]


def test_a_worker_that_starts_is_told_later_of_a_new_log(site: Path, tmp_path: Path) -> None:
    """SIGUSR1 would end a process that does not listen to it yet."""
    log = tmp_path / "access.log"
    with serving(str(site), *TWO, "--log-file", str(log)) as (process, url):
        old = children(process.pid)
        process.send_signal(signal.SIGHUP)
        while children(process.pid) == old:
            pass
        process.send_signal(signal.SIGUSR1)
        for pid in old:
            end_of(pid)
        log.rename(tmp_path / "old.log")
        process.send_signal(signal.SIGUSR1)
        for _ in range(20_000):
            assert fetch(url) == b"home"
            if log.exists() and log.read_text():
                break
        assert log.read_text()
        process.terminate()
        _, err = process.communicate(timeout=20)
        assert err == ""


def test_a_configuration_that_is_wrong_changes_nothing(site: Path, tmp_path: Path) -> None:
    config = tmp_path / "knot.toml"
    config.write_text('header = ["X-Version: 1"]\n')
    with serving(str(site), *TWO, "--config", str(config)) as (process, url):
        workers = children(process.pid)
        config.write_text("hedaer = []\n")
        process.send_signal(signal.SIGHUP)
        line_with(process.stderr, "did you mean header")
        line_with(process.stderr, "the old ones stay")
        assert workers <= children(process.pid)
        assert fetch(url) == b"home"
        config.write_text('header = ["X-Version: 2"]\n')
        process.send_signal(signal.SIGHUP)
        for pid in workers:
            end_of(pid)
        with urllib.request.urlopen(url) as answer:
            assert answer.headers["X-Version"] == "2"


def test_workers_that_cannot_start_end_it(site: Path) -> None:
    said = subprocess.run(
        [*KNOT, "serve", str(site / "nowhere"), *TWO, "--port", "0"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=plain_environment(),
    )
    assert said.returncode == 1
    assert "nowhere" in said.stderr
    assert said.stdout == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_of_them_without_a_word(site: Path, number: signal.Signals) -> None:
    with serving(str(site), *TWO) as (process, url):
        workers = children(process.pid)
        fetch(url)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert (out, err, process.returncode) == ("", "", 0)
        for pid in workers:
            end_of(pid)


def test_a_download_is_finished_before_the_end(site: Path) -> None:
    (site / "big").touch()
    os.truncate(site / "big", 64 << 20)
    with serving(str(site), *TWO) as (process, url):
        where = urlsplit(url)
        with socket.create_connection((where.hostname, where.port), timeout=20) as client:
            client.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
            received = len(client.recv(1000))
            process.send_signal(signal.SIGTERM)
            while piece := client.recv(1 << 20):
                received += len(piece)
        assert received > 64 << 20
        assert process.wait(20) == 0


def test_without_their_supervisor_workers_end(site: Path) -> None:
    with serving(str(site), *TWO) as (process, _):
        workers = children(process.pid)
        process.kill()
        process.wait()
        for pid in workers:
            end_of(pid)


def test_a_worker_that_has_grown_is_replaced(site: Path) -> None:
    with serving(str(site), "--workers", "1", "--worker-memory", "1M") as (process, url):
        (worker,) = children(process.pid)
        line_with(process.stderr, f"worker {worker}", "replacing it")
        end_of(worker)
        assert fetch(url) == b"home"


def test_the_log_of_all_workers_is_opened_anew(site: Path, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with serving(str(site), *TWO, "--log-file", str(log)) as (process, url):
        fetch(url)
        log.rename(tmp_path / "old.log")
        process.send_signal(signal.SIGUSR1)
        # Each worker opens the file when it has its turn: until then lines go to the old one.
        seen = 0
        while not (log.exists() and log.read_text()):
            fetch(url)
            seen += 1
            assert seen < 10_000
        old = (tmp_path / "old.log").read_text()
    assert "GET / HTTP/1.1" in old
    lines = (tmp_path / "old.log").read_text() + log.read_text()
    assert lines.count("GET / HTTP/1.1") == seen + 1


# -- one process, told to finish -------------------------------------------------------------------


def kept_client(url: str) -> HTTPConnection:
    where = urlsplit(url)
    client = HTTPConnection(where.hostname or "", where.port, timeout=20)
    client.request("GET", "/")
    assert client.getresponse().read() == b"home"
    return client


def until_deaf(url: str) -> None:
    """Wait until nobody listens there any more."""
    where = urlsplit(url)
    while True:
        try:
            socket.create_connection((where.hostname, where.port)).close()
        except OSError:
            return


def test_sigquit_gives_each_client_one_more_answer(site: Path) -> None:
    with serving(str(site)) as (process, url):
        client = kept_client(url)
        process.send_signal(signal.SIGQUIT)
        until_deaf(url)
        client.request("GET", "/")
        response = client.getresponse()
        assert response.read() == b"home"
        assert response.headers["Connection"] == "close"
        client.close()
        assert process.wait(20) == 0


def test_sigterm_after_sigquit_waits_for_no_idle_client(site: Path) -> None:
    with serving(str(site)) as (process, url):
        client = kept_client(url)
        process.send_signal(signal.SIGQUIT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        client.close()


# -- what does not go together ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "0"], "1 or more, or 'auto'"),
        (["--workers", "2", "--model", "threads"], "--workers needs --model events"),
        (["--worker-memory", "1G"], "--worker-memory needs --workers"),
        (["--unix", "x", "--fd", "3"], "choose one"),
        (["--fd", "3", "--model", "greenlets"], "--fd needs --model events"),
    ],
)
def test_options_that_cannot_be_are_refused(site: Path, options: list[str], said: str) -> None:
    done = subprocess.run(
        [*KNOT, "serve", str(site), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert said in done.stderr


def test_sigquit_during_an_answer_leaves_the_client_one_more(site: Path) -> None:
    """Its head has said that the connection stays, so the client may ask again."""
    (site / "big").touch()
    os.truncate(site / "big", 16 << 20)
    with serving(str(site)) as (process, url):
        where = urlsplit(url)
        client = HTTPConnection(where.hostname or "", where.port, timeout=20)
        client.request("GET", "/big")
        response = client.getresponse()
        assert len(response.read(1000)) == 1000
        process.send_signal(signal.SIGQUIT)
        until_deaf(url)
        assert len(response.read()) == (16 << 20) - 1000
        client.request("GET", "/")
        response = client.getresponse()
        assert response.read() == b"home"
        assert response.headers["Connection"] == "close"
        client.close()
        assert process.wait(20) == 0
