"""What `bench_knot` measures with: a server under wrk, and its CPU time and memory as Linux tells.

CPU per request is the user and system time of all of a server's processes over the requests that
wrk counted.  wrk runs on the second core.
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final, NamedTuple

import click

from loadtest.measure import cpu_seconds, family, sockets, wait_for_closing
from loadtest.memory import private_bytes
from loadtest.micro.knot_cases import IDLE, IDLE_CONNECTIONS, IDLE_TLS, START, Case, mix_paths, zipf
from loadtest.servers import Running, Server, started

WARM_UP: Final = 1
"""Seconds, the least that wrk runs."""
SETTLING: Final = 0.5
OWN_FILES: Final = 200
"""Descriptors of this process and of wrk that are no connections."""


def raise_descriptors() -> int:
    """Take all that the kernel allows, for this process and for all that it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def affordable(connections: int) -> int:
    """So many connections, or fewer where a process cannot have the descriptors."""
    return min(connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OWN_FILES)


# -- CPU ----------------------------------------------------------------------------------------


class Row(NamedTuple):
    """One server in one round of one case."""

    cpu: float
    """µs for a request."""
    rate: float
    """Requests in a second."""
    busy: float
    """The share of the time in which the server had the CPU."""
    held: int
    """Connections that it had in the middle of the run."""
    errors: Counter[str]
    """Of sockets, by the kinds that wrk has."""


class Answered(NamedTuple):
    """What wrk tells about a run."""

    requests: int
    errors: Counter[str]
    held: int


Figures = Mapping[tuple[str, str], list[Row]]
"""By the names of the case and of the server."""


def measure(
    cases: list[Case],
    pair: list[Server],
    everyone: list[Server],
    root: Path,
    rounds: int,
    seconds: int,
) -> Figures:
    """Every case with every server in every round, by turns forwards and backwards."""
    figures = defaultdict[tuple[str, str], list[Row]](list)
    turns = [
        (case, server, number)
        for number in range(rounds)
        for case in cases
        for server in (everyone if case.everyone else pair)[:: -1 if number % 2 else 1]
    ]
    with click.progressbar(turns, label="Turns", file=sys.stderr) as bar:
        for case, server, _ in bar:
            with started(server, case, root) as running:
                figures[case.name, server.name].append(one(running, case, root, seconds))
    return figures


def one(running: Running, case: Case, root: Path, seconds: int) -> Row:
    """Warm the server up and measure it."""
    headers = prepare(running, case, root)
    idle = sockets(running.pid)
    load(running, case, headers, WARM_UP)
    wait_for_closing(running.pid, idle)
    before, began = cpu_seconds(running.pid), time.monotonic()
    answered = load(running, case, headers, seconds * case.longer)
    cpu, took = cpu_seconds(running.pid) - before, time.monotonic() - began
    return Row(
        cpu / answered.requests * 1e6,
        answered.requests / took,
        cpu / took,
        answered.held,
        answered.errors,
    )


def prepare(running: Running, case: Case, root: Path) -> list[str]:
    """Ask once for each file of the case, so that it is in the cache, and for the entity tag.

    What is answered has to be what is on the disk.  The result is the header fields for wrk.
    """
    etag = ""
    with closing(running.client()) as client:
        for file in mix_paths() if case.mix else [case.file]:
            client.request("GET", running.path(file))
            response = client.getresponse()
            if response.read() != (root / file).read_bytes():
                sys.exit(f"{running.server.name} does not answer with {file}: {response.status}")
            etag = response.headers.get("ETag", "")
        headers = [header.replace("{etag}", etag) for header in case.headers]
        client.request("GET", running.path(case.file), headers=dict(map(field, headers)))
        response = client.getresponse()
        response.read()
        if response.status != case.status:
            sys.exit(f"{running.server.name}, {case.name}: {response.status} is the answer")
    return headers


def field(header: str) -> tuple[str, str]:
    name, _, value = header.partition(": ")
    return name, value


def load(running: Running, case: Case, headers: list[str], seconds: int) -> Answered:
    """Run wrk; an answer of 400 or above ends the benchmark."""
    connections = affordable(case.connections)
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    for header in headers:
        command += ["-H", header]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        if case.mix:
            script.write(zipf(running.server.prefix))
            script.flush()
            command += ["-s", script.name]
        command.append(f"{running.url}{running.path(case.file)}")
        idle = sockets(running.pid)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:
            time.sleep(seconds / 2)
            held = sockets(running.pid) - idle
            out, _ = wrk.communicate()
    counted = re.search(r"(\d+) requests in", out)
    if counted is None or counted[1] == "0" or "Non-2xx" in out:
        sys.exit(f"{running.server.name}, {case.name}: not answered as it should be:\n{out}")
    return Answered(int(counted[1]), errors(out), held)


def errors(out: str) -> Counter[str]:
    """What wrk says after "Socket errors:", as `connect 0, read 12, write 0, timeout 3`."""
    told = re.search(r"Socket errors: (.*)", out)
    kinds = re.findall(r"(\w+) (\d+)", told[1]) if told else []
    return Counter({kind: int(number) for kind, number in kinds if number != "0"})


# -- memory -------------------------------------------------------------------------------------

Memory = Mapping[tuple[str, str], float]
"""Bytes by the names of the case and of the server."""


def measure_memory(only: str, pair: list[Server], everyone: list[Server], root: Path) -> Memory:
    memory = {}
    for case in (IDLE, IDLE_TLS):
        if only.lower() in case.name.lower():
            for server in pair:
                with started(server, case, root) as running:
                    memory[case.name, server.name] = idle_connection(running, case)
    if only.lower() in START.name.lower():
        for server in everyone:
            with started(server, START, root) as running:
                memory[START.name, server.name] = float(private(running))
    return memory


def private(running: Running) -> int:
    return sum(private_bytes(member) for member in family(running.pid))


def idle_connection(running: Running, case: Case) -> float:
    """Private bytes for a connection that has had one answer and waits for its next request.

    Buffers of sockets are the kernel's and not counted; nginx has made its table of connections
    at its start, so that only what comes on top is.
    """
    load(running, case, [], WARM_UP)
    time.sleep(SETTLING)
    before = private(running)
    number = affordable(IDLE_CONNECTIONS)
    with ExitStack() as clients:
        for _ in range(number):
            client = clients.enter_context(closing(running.client()))
            client.request("GET", running.path(case.file))
            client.getresponse().read()
        time.sleep(SETTLING)
        return (private(running) - before) / number
