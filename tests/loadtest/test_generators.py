"""The generators count what happens: right answers as right, and each lie as what it is.

The servers here run on threads and lie on purpose; `perform` is the generator in this process,
`generate` the one in a process of its own.
"""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from loadtest.fileset import FileSet
from loadtest.generators import (
    GENERATORS,
    GeneratorError,
    Target,
    available,
    generate,
    take_descriptors,
    wrk,
)
from loadtest.generators import tame as tame_generator
from loadtest.generators.answer import CACHE, Answer, Expected, Failed
from loadtest.generators.pace import Schedule, Ticks
from loadtest.generators.tally import HIGHEST, Tally, histogram, jain
from loadtest.generators.tame import Job, hold, perform
from loadtest.results import Load
from loadtest.scenario import SCENARIOS, Scenario
from tame import READ, mkevent, run, tamed, twait, wait_on_fd

CONTENT = bytes(range(256)) * 4
PATH = "file.bin"
HOST = "127.0.0.1"
CLIENTS = 4

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")


def reply(content: bytes = CONTENT, status: str = "200 OK", fields: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\n{fields}\r\n"
    return head.encode() + content


# -- servers, honest and other -------------------------------------------------------------------

Behaviour = Callable[[socket.socket, bytes, int], bool]
"""What a server does about a request, which is the n-th of all; whether the connection goes on."""


class Server:
    """A thread for each connection; `behave` is asked about every request."""

    def __init__(self, behave: Behaviour) -> None:
        self.behave = behave
        self.requests = 0
        self.connections = 0
        self.addresses = set[str]()
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self.listener = socket.create_server((HOST, 0), backlog=512)
        self.port: int = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    def accept(self) -> None:
        while True:
            try:
                connection, address = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self.addresses.add(address[0])
            thread = threading.Thread(target=self.answer, args=[connection])
            self.threads.append(thread)
            thread.start()

    def answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                received = b""
                while data := connection.recv(65536):
                    received += data
                    if received.endswith(b"\r\n\r\n"):
                        with self.lock:
                            self.requests += 1
                            number = self.requests
                        if not self.behave(connection, received, number):
                            return
                        received = b""
            except OSError:
                pass

    def close(self) -> None:
        self.ended.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join()


@contextmanager
def serving(behave: Behaviour) -> Iterator[Server]:
    server = Server(behave)
    try:
        yield server
    finally:
        server.close()


def honest(connection: socket.socket, request: bytes, number: int) -> bool:
    last = b"Connection: close" in request
    connection.sendall(reply(fields="Connection: close\r\n" if last else ""))
    return not last


def always(answer: bytes, goes_on: bool = True) -> Behaviour:
    def behave(connection: socket.socket, request: bytes, number: int) -> bool:
        connection.sendall(answer)
        return goes_on

    return behave


def every_second(behave: Behaviour) -> Behaviour:
    def alternate(connection: socket.socket, request: bytes, number: int) -> bool:
        return (honest if number % 2 else behave)(connection, request, number)

    return alternate


@pytest.fixture
def files(tmp_path: Path) -> FileSet:
    (tmp_path / PATH).write_bytes(CONTENT)
    return FileSet(tmp_path, 0)


def load_on(port: int, files: FileSet, scenario: str | Scenario = "kept", **settings: Any) -> Load:
    """A short load by a few clients, in this process."""
    chosen = SCENARIOS[scenario] if isinstance(scenario, str) else scenario
    defaults: dict[str, Any] = {
        "target": Target(HOST, port), "path": PATH, "clients": CLIENTS, "seconds": 0.06,
        "patience": 0.25,
    }  # fmt: skip
    load = perform(Job(scenario=chosen, root=str(files.root), **(defaults | settings)))
    assert load is not None
    return load


def latencies(load: Load) -> HdrHistogram:
    return HdrHistogram.decode(load.latency)


def slower_than(load: Load, seconds: float) -> int:
    found = latencies(load).get_recorded_iterator()
    return sum(
        item.count_at_value_iterated_to for item in found if item.value_iterated_to > seconds * 1e6
    )


# -- the scenarios -------------------------------------------------------------------------------


def test_kept_connections_are_made_once(files: FileSet) -> None:
    with serving(honest) as server:
        load = load_on(server.port, files)
    assert load.requests > CLIENTS
    assert load.connections == server.connections == CLIENTS
    assert not load.errors
    assert load.bytes == load.requests * len(reply())
    assert latencies(load).get_total_count() == load.requests
    assert load.fairness is not None
    assert 0 < load.fairness <= 1
    assert load.cpu > 0
    assert load.seconds >= 0.06


@pytest.mark.parametrize(("scenario", "each"), [("one", 1), ("five", 5), ("five-paused", 5)])
def test_a_connection_has_as_many_requests_as_the_scenario_says(
    files: FileSet, scenario: str, each: int
) -> None:
    with serving(honest) as server:
        load = load_on(server.port, files, scenario, seconds=0.15)
    assert not load.errors
    assert load.requests > CLIENTS
    assert server.connections * each >= server.requests > (server.connections - CLIENTS) * each
    assert load.connections * each >= load.requests


def test_clients_come_from_several_addresses(files: FileSet) -> None:
    with serving(honest) as server:
        load_on(server.port, files)
    assert len(server.addresses) == CLIENTS


def test_browsers_ask_for_pages_with_all_that_belongs_to_them(files: FileSet) -> None:
    browsers = Scenario("browsers", "", assets=8, parallel=4, think=0.01)
    with serving(honest) as server:
        load = load_on(server.port, files, browsers, clients=2)
    assert not load.errors
    assert load.requests > 2 * 9
    assert 2 < load.connections <= 2 * 4


def test_a_connection_that_the_server_has_closed_in_a_pause_is_no_error(files: FileSet) -> None:
    browsers = Scenario("browsers", "", assets=1, think=0.01)
    with serving(always(reply(), goes_on=False)) as server:
        load = load_on(server.port, files, browsers)
    assert load.requests
    assert server.connections > CLIENTS


def test_slow_readers_take_no_more_than_they_may(files: FileSet) -> None:
    (files.root / "large").write_bytes(CONTENT * 64)
    slow = Scenario("slow", "", requests=1, slow=16 * 1024)
    with serving(always(reply(CONTENT * 64), goes_on=False)) as server:
        load = load_on(server.port, files, slow, path="large", seconds=0.3)
    assert not load.errors
    assert 0 < load.bytes <= CLIENTS * 16 * 1024 * (load.seconds + tame_generator.TICK)


def test_slow_readers_get_whole_answers_in_the_end(files: FileSet) -> None:
    slow = Scenario("slow", "", requests=1, slow=4 * 1024)
    with serving(honest) as server:
        load = load_on(server.port, files, slow, seconds=0.5)
    assert not load.errors
    assert load.requests
    assert load.bytes >= load.requests * len(reply())


def test_an_idle_crowd_asks_once_each(files: FileSet) -> None:
    with serving(honest) as server:
        load = load_on(server.port, files, "idle", clients=100)
    assert load.requests == load.connections == server.requests == 100
    assert load.fairness == 1


def test_the_warm_up_does_not_count(files: FileSet) -> None:
    with serving(honest) as server:
        load = load_on(server.port, files, warm_up=0.2)
    assert 0 < load.requests < server.requests
    assert load.connections == 0


def test_a_mix_is_drawn_from_the_file_set_and_compared_file_by_file(files: FileSet) -> None:
    for name in files.names():
        path = files.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files.content(name) if name[-3] in "01" else b"")
    asked: list[str] = []

    def behave(connection: socket.socket, request: bytes, number: int) -> bool:
        name = request.split(b" ")[1].decode().removeprefix("/static/")
        asked.append(name)
        connection.sendall(reply((files.root / name).read_bytes() + b"!" * (number == 20)))
        return True

    with serving(behave) as server:
        target = Target(HOST, server.port, "/static")
        load = load_on(server.port, files, path=None, target=target, seed=4, clients=1)
    assert load.errors == {"wrong": 1}
    numbers = random.Random(4)
    assert asked == [files.draw(numbers) for _ in asked]


# -- lies ----------------------------------------------------------------------------------------

LIES: dict[str, tuple[Behaviour, str]] = {
    "other bytes": (always(reply(CONTENT[::-1])), "wrong"),
    "one bit": (always(reply(CONTENT[:-1] + b"\xfe")), "wrong"),
    "half of the file": (always(reply(CONTENT[:512])), "wrong"),
    "more than the file": (always(reply(CONTENT + b"!")), "wrong"),
    "more than it said": (always(reply() + b"!"), "wrong"),
    "no HTTP": (always(b"hello\r\n\r\n"), "wrong"),
    "an error": (always(reply(b"sorry", "500 Internal Server Error")), "status"),
    "the file with an error": (always(reply(CONTENT, "500 Internal Server Error")), "status"),
    "an error without content": (always(reply(b"", "404 Not Found")), "status"),
    "nothing, and the end": (always(b"", goes_on=False), "closed"),
    "half a head, and the end": (always(reply()[:20], goes_on=False), "cut"),
    "half a body, and the end": (always(reply()[:-9], goes_on=False), "cut"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_told_as_what_it_is(files: FileSet, lie: str) -> None:
    behave, kind = LIES[lie]
    with serving(behave) as server:
        load = load_on(server.port, files, seconds=0.05)
    assert load.requests == 0
    assert load.bytes == 0
    assert not load.latency
    assert load.fairness is None
    assert set(load.errors) == {kind}
    assert server.requests - CLIENTS <= load.errors[kind] <= server.requests


def test_a_server_that_stalls_slow_readers_is_found_out(files: FileSet) -> None:
    slow = Scenario("slow", "", requests=1, slow=1024)
    with serving(lambda connection, request, number: True) as server:
        load = load_on(server.port, files, slow, seconds=0.05, patience=0.2)
    assert load.errors == {"timeout": CLIENTS}


@pytest.mark.parametrize("lie", ["other bytes", "an error", "nothing, and the end"])
def test_where_half_of_the_answers_are_lies_the_other_half_counts(files: FileSet, lie: str) -> None:
    behave, kind = LIES[lie]
    with serving(every_second(behave)) as server:
        load = load_on(server.port, files)
    assert load.requests > CLIENTS
    assert abs(load.requests - load.errors[kind]) <= CLIENTS + 1


def test_a_connection_reset_within_an_answer_is_cut_and_before_it_closed(files: FileSet) -> None:
    def reset_after(sent: bytes) -> Behaviour:
        def behave(connection: socket.socket, request: bytes, number: int) -> bool:
            connection.sendall(sent)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return False

        return behave

    with serving(reset_after(b"")) as server:
        assert set(load_on(server.port, files, seconds=0.05).errors) == {"closed"}
    with serving(reset_after(reply()[:-1])) as server:
        # A reset may overtake what was sent before it.
        assert set(load_on(server.port, files, seconds=0.05).errors) <= {"cut", "closed"}


def test_a_server_that_stalls_is_found_out_though_the_load_is_over_before(files: FileSet) -> None:
    with serving(lambda connection, request, number: True) as server:
        load = load_on(server.port, files, seconds=0.05, patience=0.2)
    assert load.requests == 0
    assert load.errors == {"timeout": CLIENTS}


def test_a_server_that_stalls_from_the_warm_up_on_is_found_out(files: FileSet) -> None:
    with serving(lambda connection, request, number: True) as server:
        load = load_on(server.port, files, seconds=0.3, warm_up=0.1, patience=0.2)
    assert load.requests == 0
    assert set(load.errors) == {"timeout"}


def test_a_server_that_stalls_within_an_answer_is_found_out(files: FileSet) -> None:
    with serving(always(reply()[:100])) as server:
        load = load_on(server.port, files, seconds=0.05, patience=0.2)
    assert load.errors == {"timeout": CLIENTS}


def test_a_server_that_does_not_exist_refuses(files: FileSet) -> None:
    with socket.socket() as nobody:
        nobody.bind((HOST, 0))
        load = load_on(nobody.getsockname()[1], files, seconds=0.05)
    assert load.requests == load.connections == 0
    assert CLIENTS <= load.errors["refused"] <= 2 * CLIENTS


def test_a_server_that_accepts_nobody_is_a_timeout(files: FileSet) -> None:
    with socket.create_server((HOST, 0)) as listener:
        load = load_on(listener.getsockname()[1], files, seconds=0.05, patience=0.2)
    assert load.errors == {"timeout": CLIENTS}


def test_an_answer_that_ends_with_the_connection_is_right(files: FileSet) -> None:
    with serving(always(b"HTTP/1.0 200 OK\r\n\r\n" + CONTENT, goes_on=False)) as server:
        load = load_on(server.port, files)
    assert load.requests > CLIENTS
    assert not load.errors


# -- constant rate -------------------------------------------------------------------------------


def test_requests_come_at_the_rate_asked_for(files: FileSet) -> None:
    with serving(honest) as server:
        load = load_on(server.port, files, rate=200.0, seconds=0.3)
    assert load.rate == 200
    assert abs(load.requests - 200 * load.seconds) <= 2
    assert not load.errors


def stalls_once(at: int, seconds: float) -> Behaviour:
    """Honest, but that all answers are held for a while from the n-th request on."""
    lock = threading.Lock()
    pause = threading.Event()

    def behave(connection: socket.socket, request: bytes, number: int) -> bool:
        with lock:
            if number == at:
                pause.wait(seconds)
        return honest(connection, request, number)

    return behave


def test_at_a_constant_rate_a_stall_is_seen_by_all_who_would_have_come(files: FileSet) -> None:
    with serving(stalls_once(20, 0.3)) as server:
        load = load_on(server.port, files, rate=200.0, seconds=0.8, patience=5.0)
    assert abs(load.requests - 200 * load.seconds) <= 2
    assert not load.errors
    assert slower_than(load, 0.1) >= 0.2 * 200 - 5  # due in the first 0.2 s of the stall


def test_in_a_closed_loop_only_those_see_it_who_wait(files: FileSet) -> None:
    with serving(stalls_once(20, 0.3)) as server:
        load = load_on(server.port, files, seconds=0.6, patience=5.0)
    assert 1 <= slower_than(load, 0.25) < 20


def test_what_was_due_and_never_asked_for_is_a_timeout(files: FileSet) -> None:
    with serving(lambda connection, request, number: True) as server:
        load = load_on(server.port, files, rate=100.0, seconds=0.3, patience=0.2)
    assert load.requests == 0
    assert set(load.errors) == {"timeout"}
    assert abs(load.errors["timeout"] - 100 * load.seconds) <= 2


def test_a_constant_rate_does_not_go_with_pauses(files: FileSet) -> None:
    for name in ("browsers", "five-paused", "slow", "idle"):
        with pytest.raises(GeneratorError, match="goes with one, five, kept"):
            asked("tame", 1, files, name, rate=10.0)


def test_a_schedule_forgets_no_request() -> None:
    schedule = Schedule(10.0)
    assert schedule.take(100.0) is None
    schedule.begin(50.0, 0.45)
    assert [schedule.take(50.25) for _ in range(4)] == [50.0, 50.1, 50.2, None]
    assert [schedule.take(99.0) for _ in range(3)] == [50.3, 50.4, None]
    assert schedule.over


def test_ticks_come_until_they_are_closed() -> None:
    times: list[float] = []

    @tamed
    def count() -> None:
        schedule = Schedule(1000.0)
        schedule.begin(0.0, 1.0)
        ticks = Ticks(schedule)
        while len(times) < 5:
            with twait:
                wait_on_fd(ticks, READ, mkevent())
            times.append(ticks.clear())
        ticks.close()

    run(count)
    assert times == sorted(set(times))


# -- a process of its own ------------------------------------------------------------------------


def asked(generator: str, port: int, files: FileSet, scenario: str, **settings: Any) -> Load:
    defaults: dict[str, Any] = {
        "path": PATH, "clients": CLIENTS, "seconds": 0.1, "warm_up": 0.0, "rate": None, "seed": 0,
        "core": None,
    }  # fmt: skip
    target = Target(HOST, port)
    return generate(generator, target, SCENARIOS[scenario], files=files, **(defaults | settings))


def test_the_generator_runs_as_a_process_of_its_own(files: FileSet) -> None:
    core = min(os.sched_getaffinity(0))
    with serving(honest) as server:
        load = asked("tame", server.port, files, "five", core=core)
    assert load.generator == "tame"
    assert load.scenario == "five"
    assert load.requests > 0
    assert not load.errors


def test_a_file_that_is_not_there_is_an_error_of_the_generator(files: FileSet) -> None:
    with pytest.raises(GeneratorError, match=r"missing\.bin"), serving(honest) as server:
        asked("tame", server.port, files, "kept", path="missing.bin")


def test_more_clients_than_descriptors_are_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1000, 5000))
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: raised.append(limits))
    take_descriptors(900)
    assert not raised
    take_descriptors(4000)
    assert raised == [(4100, 5000)]
    with pytest.raises(GeneratorError, match=r"need 5,001 descriptors.* 5,000 here"):
        take_descriptors(4901)


def test_an_unknown_generator_is_told_which_there_are() -> None:
    with pytest.raises(GeneratorError, match="choose one of wrk, tame, locust"):
        available("ab")


def test_a_generator_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert GENERATORS == ("wrk", "tame", "locust")
    assert available("tame") == ""
    monkeypatch.setenv("PATH", "")
    assert available("wrk") == "wrk is not installed: install the Debian package wrk"


# -- held connections ----------------------------------------------------------------------------


def test_held_connections_are_open_within_the_block_and_only_there() -> None:
    with serving(honest) as server:
        with hold(Target(HOST, server.port), 200, PATH):
            assert server.connections == server.requests == 200
            assert sum(thread.is_alive() for thread in server.threads[1:]) == 200
        for thread in server.threads[1:]:
            thread.join()


def test_a_held_connection_without_a_right_answer_is_an_error() -> None:
    with (
        serving(every_second(always(reply(b"", "503 Busy")))) as server,
        pytest.raises(GeneratorError, match="5 of 10 requests have failed: status"),
        hold(Target(HOST, server.port), 10, PATH),
    ):
        pytest.fail("nothing is held")


def test_held_connections_that_the_server_has_closed_are_an_error() -> None:
    def behave(connection: socket.socket, request: bytes, number: int) -> bool:
        honest(connection, request, number)
        if number <= 3:
            connections.append(connection.dup())
        return True

    def hang_up() -> None:
        for connection in connections:
            connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    connections: list[socket.socket] = []
    with (
        serving(behave) as server,
        pytest.raises(GeneratorError, match="has closed 3 of 8 connections"),
        hold(Target(HOST, server.port), 8, PATH),
    ):
        hang_up()


# -- wrk -----------------------------------------------------------------------------------------


@contextmanager
def null_server(*options: str) -> Iterator[int]:
    command = [sys.executable, "-m", "loadtest.experiment.null_server", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)\n", process.stdout.readline())
            assert found is not None
            yield int(found[1])
        finally:
            process.terminate()


@needs_wrk
def test_wrk_makes_the_same_kind_of_result_of_a_mix_drawn_in_advance(files: FileSet) -> None:
    for name in files.names():
        path = files.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    with null_server("--root", str(files.root)) as port:
        load = asked("wrk", port, files, "five", path=None)
    assert load.generator == "wrk"
    assert load.requests > 0
    assert load.connections == load.requests // 5
    assert not load.errors
    assert load.cpu > 0
    assert load.seconds >= 1
    assert latencies(load).get_total_count() >= load.requests * 0.9


@needs_wrk
def test_wrk_asks_no_server_that_lies(files: FileSet) -> None:
    with (
        serving(always(reply(CONTENT[::-1]), goes_on=False)) as server,
        pytest.raises(GeneratorError, match=r"other bytes than file\.bin"),
    ):
        asked("wrk", server.port, files, "kept")


@needs_wrk
@pytest.mark.parametrize("scenario", ["five-paused", "browsers", "slow", "idle"])
def test_wrk_refuses_what_it_cannot_do(files: FileSet, scenario: str) -> None:
    with pytest.raises(GeneratorError, match=f"cannot do the scenario {scenario}: take .* tame"):
        asked("wrk", 1, files, scenario)


@needs_wrk
def test_wrk_knows_no_constant_rate(files: FileSet) -> None:
    with pytest.raises(GeneratorError, match="no constant rate"):
        asked("wrk", 1, files, "kept", rate=10.0)


def test_what_wrk_says_is_read() -> None:
    told = wrk.read(
        "Running\nsummary 2000000 100 5000\nerrors 1 2 0 4 0\nlatency 50 90\nlatency 70 6\n"
    )
    assert told == (
        2.0, 96, 5000, {"refused": 1, "cut": 2, "status": 4}, [(50, 90), (70, 6)],
    )  # fmt: skip


# -- the null server -----------------------------------------------------------------------------


def exchange(port: int, *pieces: bytes) -> bytes:
    with socket.create_connection((HOST, port), timeout=20) as client:
        for piece in pieces:
            client.sendall(piece)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while data := client.recv(65536):
            received += data
    return received


def test_the_null_server_answers_each_request_that_ends() -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with null_server("--bytes", "3") as port:
        assert exchange(port, request) == reply(b"xxx")
        assert exchange(port, request * 3) == reply(b"xxx") * 3
        assert exchange(port, request + request[:9], request[9:]) == reply(b"xxx") * 2
        assert exchange(port, request[:-3], request[-3:]) == reply(b"xxx")
        last = request[:-2] + b"Connection: close\r\n\r\n"
        assert exchange(port, last) == reply(b"xxx", fields="Connection: close\r\n")


def test_the_null_server_has_files_by_their_paths(files: FileSet) -> None:
    large = CONTENT * 4096  # more than a socket takes at once
    (files.root / "large").write_bytes(large)
    with null_server("--root", str(files.root)) as port:
        assert exchange(port, b"GET /file.bin HTTP/1.1\r\n\r\n") == reply()
        assert exchange(port, b"GET /large HTTP/1.1\r\n\r\n" * 2) == reply(large) * 2
        missing = exchange(port, b"GET /missing HTTP/1.1\r\n\r\n")
        assert missing.startswith(b"HTTP/1.1 404 Not Found\r\n")
    with null_server("--file", str(files.root / PATH)) as port:
        assert exchange(port, b"GET /any HTTP/1.1\r\n\r\n") == reply()


# -- answers and counts --------------------------------------------------------------------------


def taken(pieces: list[bytes], expected: bytes | None) -> str:
    """What becomes of an answer that comes in pieces, and then ends."""
    answer = Answer(expected)
    try:
        for number, piece in enumerate(pieces):
            if answer.take(piece):
                return "right" if number == len(pieces) - 1 else "early"
        answer.end()
    except Failed as failed:
        return failed.kind
    return "right"


WHOLE = {
    reply(b"abcdef"): "right",
    reply(b"abcdeg"): "wrong",
    reply(b"abc"): "wrong",
    reply(b"abcdefg"): "wrong",
    reply(b"abcdef", "500 Oh"): "status",
    reply(b"abcdef")[:-1]: "cut",
    b"HTTP/1.0 200 OK\r\n\r\nabcdef": "right",
    b"HTTP/1.0 200 OK\r\n\r\nabcde": "wrong",
    b"HTTP/1.0 404 No\r\n\r\n": "status",
    b"HTTP/1.1 200 OK\r\ncontent-length : 6 \r\n\r\nabcdef": "right",
    b"": "closed",
}


@pytest.mark.parametrize("whole", WHOLE)
@given(cuts=st.sets(st.integers(1, 70)))
def test_an_answer_means_the_same_however_it_is_cut_into_pieces(
    whole: bytes, cuts: set[int]
) -> None:
    edges = [0, *(cut for cut in sorted(cuts) if cut < len(whole)), len(whole)]
    pieces = [whole[a:b] for a, b in pairwise(edges) if a < b]
    assert taken(pieces, b"abcdef") == WHOLE[whole]


def test_without_a_file_any_body_of_the_right_length_will_do() -> None:
    assert taken([reply(b"xyz")], None) == "right"
    assert taken([reply(b"xyz")[:-1]], None) == "cut"


@pytest.mark.parametrize(
    ("head", "last"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\nContent-Length: 0\r\n\r\n", False),
    ],
)
def test_an_answer_tells_whether_it_is_the_last(head: bytes, last: bool) -> None:
    answer = Answer(b"")
    assert answer.take(head)
    assert answer.last == last


def test_files_are_remembered_within_bounds(tmp_path: Path) -> None:
    size = CACHE // 4
    for name in "abcdefg":
        with open(tmp_path / name, "wb") as file:
            file.truncate(size)
    expected = Expected(tmp_path)
    for name in "abcdefg":
        assert len(expected.content(name)) == size
    assert list(expected.known) == ["d", "e", "f", "g"]
    assert expected.size == CACHE


def test_what_counts_is_what_comes_in_the_measured_time() -> None:
    tally = Tally(2)
    tally.begin(10.0)
    tally.end(20.0)
    for client, counts in ((0, 9.9), (0, 10.0), (1, 19.9), (1, 20.0)):
        tally.right(client, counts, 0.001, 100)
    assert tally.answered == [1, 1]
    assert tally.bytes == 200
    assert dict(tally.latencies) == {1000: 2}


def test_a_failure_counts_that_shows_in_the_measured_time_or_began_in_it() -> None:
    tally = Tally(1)
    tally.begin(10.0)
    tally.end(20.0)
    tally.failed("before", 1.0, 9.0)
    tally.failed("shows", 9.0, 11.0)
    tally.failed("within", 11.0, 12.0)
    tally.failed("late", 19.0, 29.0)
    tally.failed("after", 20.0, 21.0)
    assert dict(tally.errors) == {"shows": 1, "within": 1, "late": 1}


def test_fairness_is_jains_index() -> None:
    assert jain([5, 5, 5]) == 1
    assert jain([9, 0, 0]) == pytest.approx(1 / 3)
    assert jain([0, 0]) is None
    assert jain([]) is None


def test_a_histogram_keeps_even_what_is_beyond_its_range() -> None:
    found = HdrHistogram.decode(histogram([(100, 3), (10 * HIGHEST, 1)]))
    assert found.get_total_count() == 4
    assert found.get_value_at_percentile(50) == 100
    assert found.get_value_at_percentile(100) >= HIGHEST
    assert histogram([]) == ""
