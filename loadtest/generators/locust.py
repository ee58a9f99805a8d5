"""locust as a generator: the users of `loadtest/generators/locustfile.py`, without its page.

One process, as fast as one core of Python is: some thousand requests a second, which a fast server
outdoes.  `Load.busy` tells; above 0.9, where locust warns, it is the generator that was measured.
What locust is for is the mix, many machines, and watching; `distributed` runs a master and workers.

At a constant rate each client has its own schedule of `rate / clients` requests a second, and the
latency of a request begins when it was due: what a slow answer delays is counted (coordinated
omission corrected).  Not corrected: a client asks one thing at a time, so a server that is slower
than the schedule is asked later and later, not by more clients; and a generator that is out of
breath is late itself, which no clock can tell from a slow server.

locust is never imported here: it patches the standard library for gevent in whoever does.
"""

from __future__ import annotations

import importlib.util
import socket
import subprocess
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Final

import msgspec
from hdrh.histogram import HdrHistogram

from knot.process.spawn import python
from loadtest.fileset import FileSet
from loadtest.generators import GeneratorError, Target, pinned, take_descriptors
from loadtest.generators.tally import DIGITS, HIGHEST
from loadtest.results import Load
from loadtest.scenario import SCENARIOS, Scenario

LOCUSTFILE: Final = Path(__file__).with_name("locustfile.py")
REMEDY: Final = "pip install 'knot[loadtest]'"

OUTCOME: Final = "load.json"

STARTING: Final = 30.0
"""Seconds for locust to start, on a machine with other things to do."""
PATIENCE: Final = 10.0
"""Seconds in which nothing of an answer comes, until the request has failed."""
ENDING: Final = 10.0
"""Seconds for a program to end when it is told to."""


def available() -> str:
    for module in ("hdrh", "locust", "msgspec"):
        if importlib.util.find_spec(module) is None:
            return f"the module {module} is not installed: {REMEDY}"
    return ""


def generate(
    target: Target,
    scenario: Scenario,
    *,
    files: FileSet,
    path: str | None,
    clients: int,
    seconds: float,
    warm_up: float,
    rate: float | None,
    seed: int,
    core: int | None,
) -> Load:
    """See `loadtest.generators.generate`; all scenarios.

    A crowd that is idle is measured from its first connection on, whatever `warm_up` says.
    """
    options = test_options(target, scenario, files, path, clients, rate, seed)
    options += ["--warm-up", str(warm_up), "--measure", str(seconds)]
    with TemporaryDirectory() as directory:
        run = Path(directory)
        process = Process(
            "locust", pinned([*headless(scenario), *options, *outcome(run)], core), run
        )
        with process:
            process.wait(STARTING + warm_up + seconds + PATIENCE + ENDING)
        return read(run, process)


def distributed(
    target: Target,
    scenario: Scenario,
    *,
    files: FileSet,
    clients: int,
    seconds: float,
    seed: int,
    workers: int,
) -> Load:
    """The mix by a master and `workers`, each a process of this machine, all of which end.

    There is no warm-up: the server works for what is measured and for nothing else, so that its
    cost can be told from outside.  `Load.cpu` is that of the workers: the master only adds up.
    """
    options = test_options(target, scenario, files, None, clients, None, seed)
    options += ["--measure", str(seconds)]
    port = str(free_port())
    leads = ["--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port]
    leads += ["--expect-workers", str(workers), "--expect-workers-max-wait", str(int(STARTING))]
    follows = ["--worker", "--master-host", "127.0.0.1", "--master-port", port]
    with TemporaryDirectory() as directory, ExitStack() as stack:
        run = Path(directory)
        command = [*headless(scenario), *leads, *options, *outcome(run)]
        master = stack.enter_context(Process("master", command, run))
        team = [
            stack.enter_context(Process(f"worker{n}", [*headless(scenario), *follows], run))
            for n in range(workers)
        ]
        master.wait(2 * STARTING + seconds + PATIENCE + ENDING, team)
        return read(run, master)


# -- what locust is told ------------------------------------------------------------------------


def user_class(scenario: Scenario) -> str:
    """The name of the scenario's class in `locustfile.py`."""
    return "".join(part.title() for part in scenario.name.split("-"))


def command() -> list[str]:
    return python("-m", "locust", "-f", str(LOCUSTFILE))


def headless(scenario: Scenario) -> list[str]:
    quiet = ["--headless", "--only-summary", "--loglevel", "WARNING", "--exit-code-on-error", "0"]
    return [*command(), *quiet, user_class(scenario)]


def test_options(
    target: Target,
    scenario: Scenario,
    files: FileSet,
    path: str | None,
    clients: int,
    rate: float | None,
    seed: int,
) -> list[str]:
    """Raises `GeneratorError` for what `locustfile.py` cannot do."""
    if SCENARIOS.get(scenario.name) != scenario:
        raise GeneratorError(f"locustfile.py has no users for the scenario {scenario.name!r}")
    if rate is not None and (scenario.pause or scenario.think or scenario.slow):
        raise GeneratorError(f"the scenario {scenario.name} has a pace of its own, not {rate:g}/s")
    take_descriptors(clients * scenario.parallel)
    options = ["--host", f"http://{target.host}:{target.port}{target.prefix}"]
    options += ["--users", str(clients), "--spawn-rate", str(clients), "--seed", str(seed)]
    options += ["--load", str(files.load), "--file-seed", str(files.seed)]
    options += ["--patience", str(PATIENCE)]
    if files.papers:
        options.append("--papers")
    if path is not None:
        options += ["--path", path, "--files", str(files.root)]
    if rate is not None:
        options += ["--rate-each", repr(rate / clients)]
    return options


def outcome(run: Path) -> list[str]:
    return ["--outcome", str(run / OUTCOME)]


def free_port() -> int:
    """A port that nobody has yet; the master of locust cannot choose one by itself."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


# -- running it ---------------------------------------------------------------------------------


def end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(ENDING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Process:
    """A program that does not outlive its block.

    Ctrl-C reaches only us, not it, so that it is ended once and in order.
    """

    def __init__(self, name: str, command: list[str], run: Path) -> None:
        self.command = command
        self.log = run / f"{name}.log"

    def __enter__(self) -> Process:
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=self.log.parent,  # it imports from there, whatever Python is told
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)

    def wait(self, longest: float, others: Sequence[Process] = ()) -> None:
        """Until it ends.  Raises `GeneratorError` if it does not, or if one of the others fails."""
        give_up = monotonic() + longest
        while monotonic() < give_up:
            for other in others:
                if other.process.poll():
                    raise GeneratorError(f"a worker of locust has failed:\n{other.said()}")
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.2)
                return
        raise GeneratorError(f"locust has not ended after {longest:.0f} s:\n{self.said()}")

    def said(self) -> str:
        return self.log.read_text(errors="replace").strip()


def read(run: Path, process: Process) -> Load:
    try:
        return msgspec.json.decode((run / OUTCOME).read_bytes(), type=Load)
    except FileNotFoundError:
        raise GeneratorError(f"locust has measured nothing:\n{process.said()}") from None


# -- what has been seen -------------------------------------------------------------------------


def merged(loads: Sequence[Load]) -> Load:
    """One load of those that several processes made at the same time."""
    latencies = HdrHistogram(1, HIGHEST, DIGITS)
    for load in loads:
        if load.latency:
            latencies.add(HdrHistogram.decode(load.latency))
    rates = [load.rate for load in loads if load.rate is not None]
    errors = Counter[str]()
    for load in loads:
        errors.update(load.errors)
    return Load(
        generator=loads[0].generator,
        scenario=", ".join(sorted({load.scenario for load in loads if load.clients})),
        clients=sum(load.clients for load in loads),
        seconds=max(load.seconds for load in loads),
        rate=sum(rates) if rates else None,
        connections=sum(load.connections for load in loads),
        requests=sum(load.requests for load in loads),
        bytes=sum(load.bytes for load in loads),
        errors=dict(errors),
        latency=latencies.encode().decode() if latencies.get_total_count() else "",
        cpu=sum(load.cpu for load in loads),
        cores=sum(load.cores for load in loads),
        fairness=joint_fairness(loads),
    )


def joint_fairness(loads: Sequence[Load]) -> float | None:
    """Jain's index over all clients; it is sum² / (clients * squares), whence the squares."""
    squares = sum(
        load.requests**2 / (load.clients * load.fairness) for load in loads if load.fairness
    )
    clients = sum(load.clients for load in loads)
    return sum(load.requests for load in loads) ** 2 / (clients * squares) if squares else None


def describe(load: Load) -> str:
    """A load in a line."""
    parts = [
        f"{load.scenario}: {load.requests / load.seconds:,.0f} requests/s",
        f"{load.connections / load.seconds:,.0f} connections/s",
    ]
    if load.latency:
        latencies = HdrHistogram.decode(load.latency)
        for percentile in (50, 99):
            value = latencies.get_value_at_percentile(percentile)
            parts.append(f"p{percentile} {value / 1000:,.2f} ms")
    failed = sum(load.errors.values())
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(load.errors.items()))
    parts.append(f"{failed:,} failed ({kinds})" if failed else "none failed")
    parts.append(f"generator {load.busy:.0%} busy")
    return ", ".join(parts)
