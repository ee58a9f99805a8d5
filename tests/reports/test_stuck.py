"""A process that is there and does nothing: it is found, reported and replaced."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import pytest
from serving import fetch, serving

from knot.models import MODELS
from knot.process import sandbox

LIMIT = 1.0

QUICK = [
    sys.executable,
    "-c",
    f"from knot import supervisor; supervisor.BEAT, supervisor.STUCK = {LIMIT} / 10, 10\n"
    "from knot.cli import main; main(prog_name='knot')",
]
"""Knot with a supervisor that is not patient."""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    root.mkdir()
    (root / "index.html").write_text("home")
    return root


@contextmanager
def supervised(site: Path, workers: int) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The process, and the addresses of the site and of the supervisor."""
    pytest.importorskip("prometheus_client")
    options = ("--workers", str(workers), "--admin", "127.0.0.1:0")
    with serving(str(site), *options, knot=QUICK) as (process, url):
        assert process.stdout is not None
        found = re.fullmatch(r"Metrics at (http://\S+)/metrics\n", process.stdout.readline())
        assert found is not None
        yield process, url, found[1]


def children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def until_ready(admin: str, status: int) -> None:
    deadline = monotonic() + 20
    while fetch(f"{admin}/ready")[0] != status:
        assert monotonic() < deadline


def until_ended(fd: int) -> None:
    assert select.select([fd], [], [], 20)[0]
    os.close(fd)


def test_a_worker_that_stands_still_is_replaced_and_its_clients_are_served(site: Path) -> None:
    with supervised(site, 2) as (process, url, admin):
        assert fetch(f"{admin}/ready")[0] == 200
        before = children(process.pid)
        victim = min(before)
        end = os.pidfd_open(victim)
        os.kill(victim, signal.SIGSTOP)
        with ThreadPoolExecutor(20) as clients:
            # Some of them wait where the victim listens.
            pages = clients.map(fetch, [url] * 20)
            until_ready(admin, 503)
            assert list(pages) == [(200, "home")] * 20
        until_ended(end)
        until_ready(admin, 200)
        after = children(process.pid)
        assert len(after) == 2
        assert before - after == {victim}
        assert 'knot_worker_starts_total{reason="stuck"} 1.0' in fetch(f"{admin}/metrics")[1]
        process.terminate()
        _, said = process.communicate(timeout=20)
        assert said == (
            f"knot: worker {victim} is stuck: no answer for 1 s; another takes its place\n"
        )


def test_a_worker_that_stands_still_while_it_finishes_is_ended(site: Path) -> None:
    with supervised(site, 1) as (process, url, admin):
        (old,) = children(process.pid)
        where = urlsplit(url)
        client = HTTPConnection(where.hostname or "", where.port, timeout=20)
        client.request("GET", "/")
        assert client.getresponse().read() == b"home"
        end = os.pidfd_open(old)
        process.send_signal(signal.SIGHUP)
        deadline = monotonic() + 20
        while 'reason="reload"} 1' not in fetch(f"{admin}/metrics")[1]:
            assert monotonic() < deadline
        os.kill(old, signal.SIGSTOP)  # which waits for the client's last request
        until_ended(end)
        assert fetch(f"{admin}/ready")[0] == 200
        client.close()


def test_who_stands_still_together_with_the_supervisor_has_not_failed_to_answer(
    site: Path,
) -> None:
    """As when a machine sleeps."""
    with supervised(site, 1) as (process, _, admin):
        (worker,) = children(process.pid)
        for pid in (process.pid, worker):
            os.kill(pid, signal.SIGSTOP)
        threading.Event().wait(2 * LIMIT)  # nothing happens meanwhile: that is what is tested
        for pid in (process.pid, worker):
            os.kill(pid, signal.SIGCONT)
        assert fetch(f"{admin}/ready")[0] == 200
        assert children(process.pid) == {worker}


# -- systemd's watchdog ----------------------------------------------------------------------------


def listening(place: Path) -> socket.socket:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(place))
    manager.settimeout(20)
    return manager


def test_systemd_hears_from_every_model_that_it_lives(site: Path, tmp_path: Path) -> None:
    managers = []
    with ExitStack() as running:
        for name in MODELS:
            if name == "greenlets":
                pytest.importorskip("gevent")
            path = tmp_path / name
            managers.append(running.enter_context(listening(path)))
            about = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "3000000", "KNOT_MODEL": name}
            running.enter_context(serving(str(site), env=about))
        for manager in managers:
            assert manager.recv(100) == b"READY=1"
            assert manager.recv(100) == b"WATCHDOG=1"


def test_systemd_hears_from_a_supervisor_that_it_lives(site: Path, tmp_path: Path) -> None:
    path = tmp_path / "notify"
    about = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "3000000"}
    with (
        listening(path) as manager,
        serving(str(site), "--workers", "1", knot=QUICK, env=about) as (process, _),
    ):
        assert manager.recv(100) == b"READY=1"
        for _ in range(3):
            assert manager.recv(100) == b"WATCHDOG=1"
        process.send_signal(signal.SIGSTOP)
        while select.select([manager], [], [], LIMIT)[0]:  # what it has said before
            manager.recv(100)
        process.send_signal(signal.SIGCONT)
        assert manager.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    ("variables", "watched"),
    [
        ({}, False),
        ({"WATCHDOG_USEC": "3000000"}, True),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, True),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, False),
        ({"WATCHDOG_USEC": "soon"}, False),
    ],
)
def test_only_who_is_watched_says_that_it_lives(
    variables: dict[str, str], watched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert sandbox.is_watched() == watched
