"""locust as a generator: real runs of it, always in processes of their own.

It must never be imported here: it patches the standard library of whoever does.
"""

from __future__ import annotations

import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from click.testing import CliRunner
from hdrh.histogram import HdrHistogram

from loadtest import results
from loadtest.experiment.run import distributed
from loadtest.fileset import FileSet
from loadtest.generators import GeneratorError, Target, locust
from loadtest.generators.tally import jain
from loadtest.results import Load
from loadtest.scenario import SCENARIOS, Scenario

FILES = FileSet(Path("nowhere"), 0)


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    yield
    assert not children()


def children(pid: int | str = "self") -> list[str]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [child, *children(child)]
    return found


# -- servers, most of which lie -----------------------------------------------------------------

Reply = Callable[[str], bytes]
"""What is sent for a file; nothing closes the connection."""


def answer(body: bytes, status: str = "200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status.encode(), size, body)


def right(name: str) -> bytes:
    return answer(FILES.content(name))


LIES: dict[str, Reply] = {
    "wrong": lambda name: answer(FILES.content(name)[:-1] + b"?"),
    "status": lambda name: answer(FILES.content(name), "500 Internal Server Error"),
    "cut": lambda name: answer(b"", length=9),
    "closed": lambda name: b"",
}


class Handler(socketserver.StreamRequestHandler):
    server: Serving

    def handle(self) -> None:
        while line := self.rfile.readline():
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            reply = self.server.reply(line.split()[1].decode().lstrip("/"))
            if reply:
                self.wfile.write(reply)
            if not reply or len(reply) < 60:
                break


class Serving(socketserver.ThreadingTCPServer):
    daemon_threads = False  # they are waited for
    request_queue_size = 128

    def __init__(self, reply: Reply) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply = reply

    def handle_error(self, *_: object) -> None:
        """A client that has gone is no news."""


@contextmanager
def serving(reply: Reply) -> Iterator[Target]:
    with Serving(reply) as server:
        server.block_on_close = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Target("127.0.0.1", server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


def generate(
    target: Target,
    scenario: Scenario = SCENARIOS["five"],
    *,
    path: str | None = None,
    rate: float | None = None,
    seconds: float = 0.5,
    files: FileSet = FILES,
) -> Load:
    return locust.generate(
        target,
        scenario,
        files=files,
        path=path,
        clients=4,
        seconds=seconds,
        warm_up=0.1,
        rate=rate,
        seed=7,
        core=None,
    )


def recorded(load: Load) -> int:
    return int(HdrHistogram.decode(load.latency).get_total_count()) if load.latency else 0


# -- one process --------------------------------------------------------------------------------


def test_each_lie_is_counted_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locust, "PATIENCE", 0.4)
    told = Counter[str]()
    turns = [*LIES, "timeout", "right"]
    ended = threading.Event()

    def lie(name: str) -> bytes:
        kind = turns[told.total() % len(turns)]
        told[kind] += 1
        if kind == "timeout":
            ended.wait()
            return b""
        return LIES[kind](name) if kind in LIES else right(name)

    with serving(lie) as target:
        try:
            load = generate(target, seconds=1)
        finally:
            ended.set()
    assert set(load.errors) == {*LIES, "timeout"}
    assert 0 < load.requests == recorded(load) <= told["right"]
    assert all(0 < load.errors[kind] <= told[kind] for kind in load.errors)


def test_a_rate_is_kept_for_a_file_outside_the_set(tmp_path: Path) -> None:
    (tmp_path / "one.html").write_bytes(b"x" * 100)
    with serving(lambda name: answer(b"x" * 100)) as target:
        load = generate(
            target,
            SCENARIOS["kept"],
            path="one.html",
            rate=80,
            files=FileSet(tmp_path, 0),
        )
    assert load.rate == pytest.approx(80)
    assert load.errors == {}
    assert 35 <= load.requests == recorded(load) <= 45
    assert load.connections == 0  # made in the warm-up


EACH = """
import json, sys
from locust.env import Environment
from locust.util.load_locustfile import load_locustfile
from locust.argument_parser import get_parser

file, host, refusing, path = sys.argv[1:]
users, shapes = load_locustfile(file)
module = sys.modules["locustfile"]
seen = {}
for name, kind in users.items():
    kind.host = refusing if name == "Kept" else host
    options = get_parser().parse_args(["--path", path, "--load", "0"])
    environment = Environment(user_classes=[kind], parsed_options=options)
    environment.create_local_runner()
    module.on_test_start(environment)
    user = kind(environment)
    if name == "Idle":
        module.Connection.wait_for_end = lambda self: None
    user.act()
    user.on_stop()
    module.session.tally.end(module.monotonic())
    load = module.session.load()
    seen[load.scenario] = [name, load.requests, dict(load.errors)]
ticks = {}
for shape in shapes:
    environment.available_shape_classes = {type(shape).__name__: shape}
    options.shape = type(shape).__name__
    module.on_init(environment)
    assert environment.shape_class is shape
    module.run_time = lambda shape: clock
    ticks[type(shape).__name__] = []
    for clock in range(0, 200, 5):
        ticks[type(shape).__name__].append(shape.tick())
print(json.dumps([seen, ticks]))
"""


def test_each_scenario_has_users_of_its_name() -> None:
    path = "file_set/dir00000/class0_3"
    with serving(right) as target:
        host = f"http://127.0.0.1:{target.port}"
        refusing = f"http://127.0.0.1:{locust.free_port()}"
        command = [sys.executable, "-c", EACH, str(locust.LOCUSTFILE), host, refusing, path]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    seen, ticks = json.loads(ran.stdout)
    expected = {
        name: [locust.user_class(each), 1 + each.assets, {}] for name, each in SCENARIOS.items()
    }
    expected["kept"] = ["Kept", 0, {"refused": 1}]
    assert seen == expected
    steps = [users for users, _ in filter(None, ticks["Steps"])]
    assert steps == [2**n for n in range(11) for _ in range(2)]
    assert ticks["Hold"][0] == [1, 1.0]
    assert ticks["Hold"][-1] is None


def test_what_cannot_be_done_is_refused() -> None:
    target = Target("127.0.0.1", 1)
    with pytest.raises(GeneratorError, match="a pace of its own"):
        generate(target, SCENARIOS["browsers"], rate=10)
    with pytest.raises(GeneratorError, match="no users for the scenario 'own'"):
        generate(target, Scenario("own", "unknown to the locustfile"))
    assert locust.available() == ""


# -- many ---------------------------------------------------------------------------------------


def test_a_master_and_its_workers_leave_a_result_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Counter[str]()

    def count(name: str) -> bytes:
        served[name] += 1
        return right(name)

    @contextmanager
    def here(root: Path) -> Iterator[tuple[Target, Any]]:
        with serving(count) as target:
            yield target, SimpleNamespace(pid=os.getpid())

    monkeypatch.setattr(distributed, "serving", here)
    monkeypatch.setattr(distributed, "WARM_UP_REQUESTS", 10)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cached(tmp_path)
    output = tmp_path / "reports" / "result.json"
    options = ["--load", "0", "--seconds", "1", "--clients", "5", "--output", str(output)]
    ran = CliRunner().invoke(distributed.main, ["run", *options], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    assert "connections a second" in ran.output
    run = results.load(output).runs[0]
    load = run.load
    assert (load.generator, load.scenario, load.clients, load.cores) == ("locust", "five", 5, 2)
    assert load.errors == {}
    assert 0 < load.requests == recorded(load) <= served.total()
    assert load.requests / 5 - 10 <= load.connections <= load.requests / 5 + 10
    assert load.bytes > load.requests * 100
    assert load.seconds >= 1
    assert load.cpu > 0
    assert load.fairness is not None
    assert 0 < load.fairness <= 1
    assert run.cost.cpu > 0
    assert run.cost.seconds == load.seconds


def test_a_worker_that_fails_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locust, "user_class", lambda scenario: "Nobody")
    with pytest.raises(GeneratorError, match="Unknown User"):
        locust.distributed(
            Target("127.0.0.1", 1),
            SCENARIOS["five"],
            files=FILES,
            clients=1,
            seconds=1,
            seed=7,
            workers=1,
        )


def test_loads_of_several_processes_are_one() -> None:
    counts = [[10, 20], [30]]
    loads = []
    for each in counts:
        latencies = HdrHistogram(1, 600_000_000, 3)
        latencies.record_value(500, sum(each))
        loads.append(
            Load(
                generator="locust",
                scenario="kept",
                clients=len(each),
                seconds=2.0,
                rate=5.0 * len(each),
                connections=1,
                requests=sum(each),
                bytes=7,
                errors={"wrong": 1, "cut": len(each)},
                latency=latencies.encode().decode(),
                cpu=0.5,
                fairness=jain(each),
            )
        )
    both = locust.merged(loads)
    assert (both.clients, both.requests, both.connections, both.bytes) == (3, 60, 2, 14)
    assert both.errors == {"wrong": 2, "cut": 3}
    assert both.rate == 15.0
    assert both.fairness == pytest.approx(jain([10, 20, 30]))
    assert recorded(both) == 60
    assert both.busy == pytest.approx(0.25)
    assert "60 failed" not in locust.describe(both)
    assert "5 failed (3 cut, 2 wrong)" in locust.describe(both)


def cached(directory: Path) -> FileSet:
    """A file set that passes for written, of which there is one file."""
    files = FileSet(directory / "knot" / "load-0", 0)
    (files.root / "file_set").mkdir(parents=True)
    files._stamp.write_text(files._label)
    return files


def page(address: str) -> str:
    """What is answered, as soon as it is."""
    while True:
        with suppress(URLError), urlopen(address) as answer:
            text: str = answer.read().decode()
            return text


def test_what_was_started_for_watching_ends_with_control_c(tmp_path: Path) -> None:
    cached(tmp_path)
    port = locust.free_port()
    command = [sys.executable, "-m", "loadtest.experiment.distributed", "watch", "--load", "0"]
    with subprocess.Popen(
        [*command, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert f"watch at http://127.0.0.1:{port}" in process.stdout.readline()
        assert any("Starting web interface" in line for line in process.stderr)
        shown = page(f"http://127.0.0.1:{port}/")
        started = children(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert all(f'"{locust.user_class(each)}"' in shown for each in SCENARIOS.values())
    assert len(started) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)
