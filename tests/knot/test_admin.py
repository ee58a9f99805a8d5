"""What operators are told: counts that add up over all workers, and whether clients may come."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner
from serving import administered, fetch, until_closed

import knot.cli
import tame
from knot.files.site import Site
from knot.http.request import BadRequest, Request
from knot.http.responder import Deferred, Responder, Response
from knot.models.accepting import PAUSE
from knot.models.events import Server, run
from knot.models.peer import Connection
from knot.monitor.admin import SingleProcess, serve_admin
from knot.monitor.metrics import PLAIN, Counter, Counts, Shared
from knot.process.listeners import listen
from knot.process.signals import Signals
from tame import BlockedWarning, Event, Rendezvous, mkevent, tamed, twait

pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")

PATIENCE = 20


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text("home")
    (tmp_path / "big").touch()
    os.truncate(tmp_path / "big", 64 << 20)
    return tmp_path


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
        assert (found["knot_cache_misses_total"], found["knot_cache_hits_total"]) == (1, 2)
        assert found["knot_request_duration_seconds_count"] == 4
        assert found['knot_request_duration_seconds_bucket{le="+Inf"}'] == 4
        assert 0 < found["knot_request_duration_seconds_sum"] < PATIENCE
        assert found["knot_workers"] == 1
        assert found[f'knot_worker_resident_bytes{{worker="{process.pid}"}}'] > 1_000_000


REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def connected(url: str) -> socket.socket:
    where = urlsplit(url)
    return socket.create_connection((where.hostname, where.port), timeout=PATIENCE)


def state(process: subprocess.Popen[str], name: str) -> str:
    return f'knot_open_connections{{state="{name}",worker="{process.pid}"}}'


def test_open_connections_are_counted_by_what_they_wait_for(site: Path) -> None:
    with administered(site) as (process, url, admin):
        for name in ("head", "idle", "taking"):
            assert metrics(admin)[state(process, name)] == 0
        with connected(url) as begun, connected(url) as idle, connected(url) as taking:
            begun.sendall(REQUEST[:10])
            idle.sendall(REQUEST)
            assert idle.recv(1000)
            taking.sendall(REQUEST.replace(b"/ ", b"/big ", 1))
            assert taking.recv(1000)
            for name in ("head", "idle", "taking"):
                wait_until(admin, state(process, name), 1)
        for name in ("head", "idle", "taking"):
            wait_until(admin, state(process, name), 0)


def test_an_answer_that_is_not_taken_counts_as_far_as_it_was(site: Path) -> None:
    with administered(site) as (_, url, admin):
        with connected(url) as client:
            client.sendall(REQUEST.replace(b"/ ", b"/big ", 1))
            assert client.recv(1000)
        found = wait_until(admin, OK, 1)
        assert 0 < found["knot_sent_bytes_total"] < 64 << 20


def test_clients_that_were_too_many_are_counted(site: Path) -> None:
    with administered(site, "--max-connections", "1") as (_, url, admin), connected(url) as client:
        client.sendall(REQUEST)
        assert client.recv(1000)
        for _ in range(2):
            with connected(url) as other:
                assert answer_to(other, REQUEST).startswith(b"HTTP/1.1 503 ")
        found = metrics(admin)
        assert found["knot_turned_away_total"] == 2
        assert found["knot_connections_total"] == 1
        assert found['knot_requests_total{status="503"}'] == 2


def test_a_process_alone_is_ready_while_all_that_it_serves_is_there(site: Path) -> None:
    knot_site = Site(site)
    server = Server(Responder(knot_site))
    server.has_all = lambda: knot_site.is_there
    alone = SingleProcess(server, Counter(server, [knot_site]))
    assert alone.ready()
    site.rename(site.with_name("away"))
    knot_site.look()
    assert not alone.ready()
    site.with_name("away").rename(site)
    knot_site.look()
    assert alone.ready()
    server.stopping = True
    assert not alone.ready()
    os.close(alone._statm)
    knot_site.close()


def test_what_a_gate_answers_is_counted_and_what_has_to_be_made_first(site: Path) -> None:
    (site / "index.html").unlink()
    knot_site = Site(site, listing=True)
    server = Server(Responder(knot_site))

    def gate(_: Connection, request: Request | BadRequest, now: float) -> Response | Deferred:
        if isinstance(request, Request) and request.target == b"/secret":
            return server.responder.refuse(request, now, 403)
        return server.responder.respond(request, now)

    server.guard(gate)
    counter = Counter(server, [knot_site])
    signals = Signals()

    def client(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
            client.sendall(REQUEST.replace(b"/ ", b"/secret ", 1))
            assert client.recv(1000).startswith(b"HTTP/1.1 403 ")
            client.sendall(REQUEST)
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        signals.tell(signal.SIGTERM)

    listener = listen("127.0.0.1", 0)
    thread = threading.Thread(target=client, args=listener.getsockname()[1:])
    thread.start()
    run([listener], server, signals, 0)
    thread.join()
    signals.close()
    knot_site.close()
    found = counter.read()
    assert found.by_status() == {"200": 1, "403": 1}
    assert (found.misses, found.hits, sum(found.buckets)) == (1, 0, 2)


def test_counts_of_all_workers_add_up_and_outlive_them(site: Path) -> None:
    with administered(site, "--workers", "2") as (process, url, admin):
        for _ in range(20):
            fetch(url)
        found = wait_until(admin, OK, 20)
        assert found["knot_workers"] == 2
        workers = children(process)
        os.kill(int(workers[0]), signal.SIGKILL)
        wait_until(admin, f'knot_worker_resident_bytes{{worker="{workers[0]}"}}', None)  # type: ignore[arg-type]
        assert metrics(admin)[OK] == 20
        wait_until(admin, 'knot_worker_starts_total{reason="death"}', 1)
        process.send_signal(signal.SIGHUP)
        wait_until(admin, f'knot_worker_resident_bytes{{worker="{workers[1]}"}}', None)  # type: ignore[arg-type]
        fetch(url)
        found = wait_until(admin, OK, 21)
        assert found["knot_connections_total"] == 21
        wait_until(admin, 'knot_worker_starts_total{reason="reload"}', 2)
        assert found['knot_worker_starts_total{reason="start"}'] == 2


def test_each_look_finds_what_every_worker_has_done_by_then(site: Path) -> None:
    with administered(site, "--workers", "2") as (process, url, admin):
        for number in range(1, 11):
            assert fetch(url) == (200, "home")
            found = metrics(admin)
            workers = children(process)
            assert found[OK] == number
            for name in ("requests", "connections"):
                counts = [found[f'knot_worker_{name}_total{{worker="{pid}"}}'] for pid in workers]
                assert sum(counts) == number


# -- what every connection waits for --------------------------------------------------------------


def children(process: subprocess.Popen[str]) -> list[str]:
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


def test_what_every_connection_waits_for_is_told_in_groups_and_one_by_one(site: Path) -> None:
    with administered(site) as (process, url, admin), ExitStack() as stack:
        clients = [stack.enter_context(connected(url)) for _ in range(200)]
        for client in clients:
            client.sendall(REQUEST)
            assert client.recv(1000)
        status, text = fetch(f"{admin}/blocked")
        assert status == 200
        assert text.startswith(f"process {process.pid}: ")
        groups, _, single = text.partition("\n\n")
        assert re.search(
            r"^ +200 +\d+\.\d{3} s  connection at knot/models/events.py:\d+: wait_on_fd\(peer, ",
            groups,
            re.MULTILINE,
        )
        assert re.search(r", descriptor \d+ after 1 requests, from .* in serve", single)
        assert 5 < len(single.splitlines()) <= 100


def test_a_worker_that_does_not_answer_is_told_and_holds_nothing_up(site: Path) -> None:
    with administered(site, "--workers", "2") as (process, _, admin):
        stopped, other = children(process)
        os.kill(int(stopped), signal.SIGSTOP)
        try:
            for _ in range(2):
                status, text = fetch(f"{admin}/blocked")
                assert status == 200
                assert f"worker {stopped} does not answer" in text
                assert re.search(rf"^worker {other}: \d+ calls wait$", text, re.MULTILINE)
            assert metrics(admin)["knot_workers"] == 2
        finally:
            os.kill(int(stopped), signal.SIGCONT)
        give_up = monotonic() + PATIENCE
        while "does not answer" in fetch(f"{admin}/blocked")[1]:
            assert monotonic() < give_up


def test_what_a_worker_counts_last_is_not_lost(site: Path) -> None:
    """A renewed worker tells what it has done since it told last."""
    with administered(site, "--workers", "1") as (process, url, admin):
        for number in range(1, 6):
            (worker,) = children(process)
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


@pytest.mark.parametrize("more", [REQUEST * 100, bytes(1 << 20)])
def test_what_follows_a_request_does_not_cost_its_answer(site: Path, more: bytes) -> None:
    """What is sent and not read makes the kernel reset a connection that is closed."""
    with administered(site) as (_, _, admin), connected(admin) as client:
        client.sendall(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n")
        client.sendall(more)
        said = until_closed(client)
        assert said.startswith(b"HTTP/1.1 405 ")
        assert said.endswith(b"GET and HEAD are all there is\n")


def test_without_descriptors_it_rests_instead_of_asking_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Door(socket.socket):
        tries = 0

        def accept(self) -> tuple[socket.socket, object]:
            Door.tries += 1
            raise OSError(errno.EMFILE, "too many")

    rests: list[float] = []
    held: list[Event[()]] = []

    @tamed
    def resting(seconds: float, event: Event[()]) -> None:
        rests.append(seconds)
        held.append(event)
        (event.trigger if len(rests) < 3 else enough.trigger)()

    @tamed
    def main() -> None:
        nonlocal enough
        r = Rendezvous[None]()
        enough = mkevent(r, None)
        serve_admin(door, None)  # type: ignore[arg-type]
        twait(r)

    enough: Event[()]
    monkeypatch.setattr("knot.monitor.admin.timer", resting)
    with Door() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        with socket.create_connection(door.getsockname()), pytest.warns(BlockedWarning):
            tame.run(main)
    assert rests == [PAUSE] * 3
    assert Door.tries == 3


@pytest.mark.parametrize("address", ["9090x", "localhost", "127.0.0.1:99999", ":"])
def test_an_address_that_is_none_is_refused(site: Path, address: str) -> None:
    said = CliRunner().invoke(knot.cli.main, ["serve", str(site), "--admin", address])
    assert said.exit_code == 2
    assert "use 127.0.0.1:9090" in said.output


def test_without_its_library_the_remedy_is_told(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knot.cli, "find_spec", lambda _: None)
    said = CliRunner().invoke(knot.cli.main, ["serve", str(site), "--admin", "127.0.0.1:0"])
    assert said.exit_code == 1
    assert "pip install 'knot[metrics]'" in str(said.exception)


def test_shared_counts_are_read_as_they_were_written() -> None:
    counts = Counts()
    for place, name in enumerate(PLAIN):
        setattr(counts, name, place + 1)
    counts.open = dict(zip(counts.open, range(10, 20), strict=False))
    counts.buckets = list(range(20, 20 + len(counts.buckets)))
    counts.requests = dict(zip(counts.requests, range(1000, 2000), strict=False))
    shared = Shared.new()
    try:
        shared.write(counts)
        found = shared.read()
    finally:
        shared.close()
    assert vars(found) == vars(counts)
    found.add(counts)
    assert found.sent == 2 * counts.sent
    assert found.open == {state: 2 * number for state, number in counts.open.items()}
    assert found.by_status()["other"] == 2 * counts.requests[0]
