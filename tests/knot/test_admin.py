"""What operators are told: counts that add up over all workers, and whether clients may come."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner
from serving import serving

import knot.cli
from knot.respond import Response
from knot.stats import STATUSES, Counts, Shared

pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")

PATIENCE = 20


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text("home")
    (tmp_path / "big").touch()
    os.truncate(tmp_path / "big", 64 << 20)
    return tmp_path


@contextmanager
def administered(site: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The process, and the addresses of the site and of who looks after it."""
    with serving(str(site), "--admin", "127.0.0.1:0", *options) as (process, url):
        assert process.stdout is not None
        found = re.fullmatch(r"Metrics at (http://\S+)/metrics\n", process.stdout.readline())
        assert found is not None
        yield process, url, found[1]


def fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def metrics(admin: str) -> dict[str, float]:
    status, text = fetch(f"{admin}/metrics")
    assert status == 200
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def answer_to(client: socket.socket, request: bytes) -> bytes:
    """Empty if the server ends the connection."""
    try:
        client.sendall(request)
        return client.recv(1000)
    except ConnectionError:
        return b""


OK = 'knot_requests_total{status="200"}'


def wait_until(admin: str, name: str, value: float) -> dict[str, float]:
    """Workers tell once a second; each look is a turn of the supervisor's."""
    give_up = monotonic() + PATIENCE
    while (found := metrics(admin)).get(name) != value:
        assert monotonic() < give_up, found
    return found


def test_counts_are_those_of_the_answers(site: Path) -> None:
    with administered(site) as (process, url, admin):
        for _ in range(3):
            assert fetch(url) == (200, "home")
        assert fetch(f"{url}/nothing")[0] == 404
        found = metrics(admin)
        assert found[OK] == 3
        assert found['knot_requests_total{status="404"}'] == 1
        assert found["knot_connections_total"] == 4
        assert found["knot_sent_bytes_total"] >= 3 * len("home")
        assert found["knot_workers"] == 1
        assert found[f'knot_worker_resident_bytes{{worker="{process.pid}"}}'] > 1_000_000


def test_open_connections_are_counted_while_they_are_open(site: Path) -> None:
    with administered(site) as (_, url, admin):
        where = urlsplit(url)
        assert metrics(admin)["knot_open_connections"] == 0
        with socket.create_connection((where.hostname, where.port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(1000)
            assert metrics(admin)["knot_open_connections"] == 1
        wait_until(admin, "knot_open_connections", 0)


def test_counts_of_all_workers_add_up_and_outlive_them(site: Path) -> None:
    with administered(site, "--workers", "2") as (process, url, admin):
        for _ in range(20):
            fetch(url)
        found = wait_until(admin, OK, 20)
        assert found["knot_workers"] == 2
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(workers[0]), signal.SIGKILL)
        wait_until(admin, f'knot_worker_resident_bytes{{worker="{workers[0]}"}}', None)  # type: ignore[arg-type]
        assert metrics(admin)[OK] == 20
        wait_until(admin, "knot_workers", 2)
        process.send_signal(signal.SIGHUP)
        wait_until(admin, f'knot_worker_resident_bytes{{worker="{workers[1]}"}}', None)  # type: ignore[arg-type]
        fetch(url)
        assert wait_until(admin, OK, 21)["knot_connections_total"] == 21


def test_what_a_worker_counts_last_is_not_lost(site: Path) -> None:
    """A renewed worker tells what it has done since it told last."""
    with administered(site, "--workers", "1") as (process, url, admin):
        for number in range(1, 6):
            (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            fetch(url)
            process.send_signal(signal.SIGHUP)
            wait_until(admin, f'knot_worker_resident_bytes{{worker="{worker}"}}', None)  # type: ignore[arg-type]
            assert metrics(admin)[OK] == number


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_it_is_not_ready_while_it_finishes(site: Path, workers: tuple[str, ...]) -> None:
    with administered(site, *workers) as (process, url, admin):
        assert fetch(f"{admin}/health") == (200, "ok\n")
        assert fetch(f"{admin}/ready") == (200, "ok\n")
        where = urlsplit(url)
        with socket.create_connection((where.hostname, where.port), timeout=PATIENCE) as client:
            client.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            received = len(client.recv(1000))
            process.send_signal(signal.SIGTERM)
            give_up = monotonic() + PATIENCE
            while fetch(f"{admin}/ready")[0] == 200:
                assert monotonic() < give_up
            assert fetch(f"{admin}/ready") == (503, "not ready\n")
            assert fetch(f"{admin}/health") == (200, "ok\n")
            while piece := client.recv(1 << 20):
                received += len(piece)
        assert received > 64 << 20
        assert process.wait(PATIENCE) == 0


def test_what_is_not_there_is_said(site: Path) -> None:
    with administered(site) as (_, _, admin):
        assert fetch(f"{admin}/")[0] == 404
        where = urlsplit(admin)
        with socket.create_connection((where.hostname, where.port), timeout=PATIENCE) as client:
            client.sendall(b"nonsense\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_a_head_has_no_content_and_nothing_can_be_posted(site: Path) -> None:
    with administered(site) as (_, _, admin):
        where = urlsplit(admin)
        for method, status, content in ((b"HEAD", b"200", b""), (b"POST", b"405", b"GET and")):
            with socket.create_connection((where.hostname, where.port), timeout=PATIENCE) as client:
                said = answer_to(client, method + b" /health HTTP/1.1\r\nHost: x\r\n\r\n")
            head, _, found = said.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 " + status)
            assert found.startswith(content)
            assert bool(found) == bool(content)


def test_those_who_ask_and_say_nothing_are_few(site: Path) -> None:
    with administered(site) as (_, url, admin):
        where = urlsplit(admin)
        silent = [socket.create_connection((where.hostname, where.port)) for _ in range(16)]
        try:
            for client in silent:
                client.sendall(b"GET /hea")
            with socket.create_connection((where.hostname, where.port)) as client:
                client.settimeout(PATIENCE)
                assert answer_to(client, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") == b""
            assert fetch(url) == (200, "home")
        finally:
            for client in silent:
                client.close()
        give_up = monotonic() + PATIENCE
        while True:
            try:
                assert fetch(f"{admin}/health") == (200, "ok\n")
                break
            except OSError:
                assert monotonic() < give_up


@pytest.mark.parametrize("address", ["9090x", "localhost", "127.0.0.1:99999", ":"])
def test_an_address_that_is_none_is_refused(site: Path, address: str) -> None:
    said = CliRunner().invoke(knot.cli.main, ["serve", str(site), "--admin", address])
    assert said.exit_code == 2
    assert "write it as 127.0.0.1:9090" in said.output


def test_without_its_library_the_remedy_is_told(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knot.cli, "find_spec", lambda _: None)
    said = CliRunner().invoke(knot.cli.main, ["serve", str(site), "--admin", "127.0.0.1:0"])
    assert said.exit_code == 1
    assert "pip install 'knot[metrics]'" in str(said.exception)


def test_shared_counts_are_read_as_they_were_written() -> None:
    counts = Counts()
    counts.connections, counts.open = 7, 3
    for status in (*STATUSES, 418, 599):
        counts.count(Response(b"", (), True, status, 10))
    shared = Shared.new()
    try:
        shared.write(counts)
        found = shared.read()
    finally:
        shared.close()
    assert vars(found) == vars(counts)
    assert found.by_status()["other"] == 2
    found.add(counts)
    assert found.sent == 2 * counts.sent == 20 * (len(STATUSES) + 2)
