"""locust as a generator: the users of `loadtest/generators/locustfile.py`, without its page.

One process is as fast as one core of Python: about a thousand requests a second, fewer than a fast
server answers.  `Load.busy` shows it: above 0.9, where locust warns, the generator was the limit.
Use locust for the mix, for many machines, and for watching; `distributed` runs a master and
workers.

At a constant rate each client has its own schedule of `rate / clients` requests a second, and the
latency of a request begins when it was due, so that what a slow answer delays is counted
(coordinated omission is corrected).  Two things are not corrected: a client sends one request at a
time, so a server slower than the schedule is asked later and later, not by more clients; and a
generator at its limit is late itself, which looks the same as a slow server.

This module never imports locust, which patches the standard library for gevent on import.
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
from loadtest.generators import GeneratorError, Job, take_descriptors
from loadtest.generators.tally import DIGITS, MAX_LATENCY
from loadtest.processes import pinned
from loadtest.results import Load
from loadtest.scenario import ANSWER_TIMEOUT, SCENARIOS, Scenario

LOCUSTFILE: Final = Path(__file__).with_name("locustfile.py")
REMEDY: Final = "pip install '.[loadtest]'"

OUTCOME: Final = "load.json"

START_TIMEOUT: Final = 30.0
"""Seconds for locust to start, on a busy machine."""
STOP_TIMEOUT: Final = 10.0
"""Seconds for a program to end after SIGTERM."""


def available() -> str:
    for module in ("hdrh", "locust", "msgspec"):
        if importlib.util.find_spec(module) is None:
            return f"the module {module} is not installed: {REMEDY}"
    return ""


def generate(job: Job) -> Load:
    """See `loadtest.generators.generate`: all scenarios.

    An idle crowd is measured from its first connection on, whatever `Job.warm_up` is.
    """
    options = [*test_options(job), "--warm-up", str(job.warm_up), "--measure", str(job.seconds)]
    with TemporaryDirectory() as directory:
        run = Path(directory)
        command = [*headless(job.scenario), *options, *outcome(run)]
        with Process("locust", pinned(command, job.core), run) as process:
            process.wait(START_TIMEOUT + job.warm_up + job.seconds + ANSWER_TIMEOUT + STOP_TIMEOUT)
        return read(run, process)


def distributed(job: Job, workers: int) -> Load:
    """Make the load with a master and `workers`, all processes of this machine.

    There is no warm-up: the server works only during the measured time, so its cost can be measured
    from outside.  `Load.cpu` is that of the workers: the master only adds up.
    """
    options = [*test_options(job), "--measure", str(job.seconds)]
    port = str(free_port())
    leads = ["--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port]
    leads += ["--expect-workers", str(workers)]
    leads += ["--expect-workers-max-wait", str(int(START_TIMEOUT))]
    follows = ["--worker", "--master-host", "127.0.0.1", "--master-port", port]
    with TemporaryDirectory() as directory, ExitStack() as stack:
        run = Path(directory)
        command = [*headless(job.scenario), *leads, *options, *outcome(run)]
        master = stack.enter_context(Process("master", command, run))
        team = [
            stack.enter_context(Process(f"worker{n}", [*headless(job.scenario), *follows], run))
            for n in range(workers)
        ]
        master.wait(2 * START_TIMEOUT + job.seconds + ANSWER_TIMEOUT + STOP_TIMEOUT, team)
        return read(run, master)


# -- options of locust -----------------------------------------------------------------------


def user_class(scenario: Scenario) -> str:
    """The name of the scenario's class in `locustfile.py`."""
    return "".join(part.title() for part in scenario.name.split("-"))


def command() -> list[str]:
    return python("-m", "locust", "-f", str(LOCUSTFILE))


def headless(scenario: Scenario) -> list[str]:
    quiet = ["--headless", "--only-summary", "--loglevel", "WARNING", "--exit-code-on-error", "0"]
    return [*command(), *quiet, user_class(scenario)]


def test_options(job: Job) -> list[str]:
    """Raises `GeneratorError` for what `locustfile.py` cannot do."""
    target, scenario, files = job.target, job.scenario, job.files
    if SCENARIOS.get(scenario.name) != scenario:
        raise GeneratorError(f"locustfile.py has no users for the scenario {scenario.name!r}")
    if job.rate is not None and (scenario.pause or scenario.think or scenario.slow):
        raise GeneratorError(
            f"the scenario {scenario.name} has a pace of its own: it cannot have a constant rate"
        )
    take_descriptors(job.clients * scenario.parallel)
    options = ["--host", f"http://{target.host}:{target.port}{target.prefix}"]
    options += ["--users", str(job.clients), "--spawn-rate", str(job.clients)]
    options += ["--seed", str(job.seed)]
    options += ["--load", str(files.load), "--file-seed", str(files.seed)]
    options += ["--answer-timeout", str(ANSWER_TIMEOUT)]
    if files.papers:
        options.append("--papers")
    if job.path is not None:
        options += ["--path", job.path, "--files", str(files.root)]
    if job.rate is not None:
        options += ["--rate-each", repr(job.rate / job.clients)]
    return options


def outcome(run: Path) -> list[str]:
    return ["--outcome", str(run / OUTCOME)]


def free_port() -> int:
    """A port that is not in use; the master of locust cannot choose one itself."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


# -- running it ---------------------------------------------------------------------------------


def end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Process:
    """A program that ends with its block.

    It is in a session of its own: Ctrl-C reaches only this process, which ends the program once.
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
                cwd=self.log.parent,  # locust imports from there, even with -P
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)

    def wait(self, timeout: float, others: Sequence[Process] = ()) -> None:
        """Wait until it ends.

        Raises `GeneratorError` if it does not end in time, or if one of the others fails.
        """
        give_up = monotonic() + timeout
        while monotonic() < give_up:
            for other in others:
                if other.process.poll():
                    raise GeneratorError(f"a worker of locust has failed:\n{other.errors()}")
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.2)
                return
        raise GeneratorError(f"locust has not ended after {timeout:.0f} s:\n{self.errors()}")

    def errors(self) -> str:
        """What it has written to standard error."""
        return self.log.read_text(errors="replace").strip()


def read(run: Path, process: Process) -> Load:
    try:
        return msgspec.json.decode((run / OUTCOME).read_bytes(), type=Load)
    except FileNotFoundError:
        raise GeneratorError(f"locust has measured nothing:\n{process.errors()}") from None


# -- what was measured -------------------------------------------------------------------------


def merged(loads: Sequence[Load]) -> Load:
    """The loads that several processes made at the same time, as one."""
    latencies = HdrHistogram(1, MAX_LATENCY, DIGITS)
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
    """Jain's index over all clients: sum² / (clients * sum of squares)."""
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
