"""The measurements of `bench_knot`: a server's CPU time and memory under wrk.

CPU per request is the user and system time of all processes of a server, divided by the requests
that wrk counted.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final, NamedTuple

import click

from loadtest.measure import cpu_seconds, sockets, wait_for_closing
from loadtest.micro.knot_cases import IDLE, IDLE_CONNECTIONS, IDLE_TLS, START, Case, mix_paths, zipf
from loadtest.saturation import WARM_UP, Answered, affordable, check_file, saturate
from loadtest.servers import Running, Server, started

SETTLING: Final = 0.5


# -- CPU ----------------------------------------------------------------------------------------


class Row(NamedTuple):
    """One server in one round of one case."""

    cpu: float
    """µs per request."""
    rate: float
    """Requests a second."""
    busy: float
    """Share of a core that the server used."""
    held: int
    """Connections in the middle of the run."""
    errors: Counter[str]
    """Socket errors, by wrk's own kinds."""


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
    """Measure each case with each server in each round, alternately forwards and backwards."""
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
    """Ask once for each file of the case, so that the server has it in its cache.

    Exits if an answer is wrong.  The result is the header fields for wrk.
    """
    etag = ""
    with closing(running.client()) as client:
        for file in mix_paths() if case.mix else [case.file]:
            etag = check_file(client, running, file, root)
        headers = [header.replace("{etag}", etag) for header in case.headers]
        client.request("GET", running.path(case.file), headers=dict(map(field, headers)))
        response = client.getresponse()
        response.read()
        if response.status != case.status:
            sys.exit(f"{running.server.name}, {case.name}: status {response.status}")
    return headers


def field(header: str) -> tuple[str, str]:
    name, _, value = header.partition(": ")
    return name, value


def load(running: Running, case: Case, headers: list[str], seconds: int) -> Answered:
    return saturate(
        running,
        case.file,
        seconds,
        connections=case.connections,
        headers=headers,
        script=zipf(running.server.prefix) if case.mix else "",
    )


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
                memory[START.name, server.name] = float(running.private())
    return memory


def idle_connection(running: Running, case: Case) -> float:
    """Private bytes of a connection that has had one answer and waits for its next request.

    Socket buffers are the kernel's and not counted; nor is the table of connections that nginx
    allocates at its start.
    """
    load(running, case, [], WARM_UP)
    time.sleep(SETTLING)
    before = running.private()
    number = affordable(IDLE_CONNECTIONS)
    with ExitStack() as clients:
        for _ in range(number):
            client = clients.enter_context(closing(running.client()))
            client.request("GET", running.path(case.file))
            client.getresponse().read()
        time.sleep(SETTLING)
        return (running.private() - before) / number
