"""locust with Knot on one machine: a master and workers, or its page for watching.

    python -m loadtest.experiment.distributed run        # make loadtest-distributed
    python -m loadtest.experiment.distributed watch      # make loadtest-watch
    python -m loadtest.experiment.distributed files DIR  # for a server elsewhere

The first two serve SPECweb99's files with their own `knot serve`, and end everything they have
started.  For several machines see `docs/loadtest.md`.
"""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Final

import click
from hdrh.histogram import HdrHistogram
from rich.console import Console
from rich.table import Table

from knot.process.spawn import python
from loadtest.experiment.environment import environment
from loadtest.fileset import FileSet, FileSetError, cache_of
from loadtest.generators import GeneratorError, Job, Target, locust
from loadtest.measure import cpu_seconds
from loadtest.results import Cost, Load, Result, Run, Server, save
from loadtest.scenario import SCENARIOS

WARM_UP_REQUESTS: Final = 2_000
SERVING: Final = re.compile(r"http://([\d.]+):(\d+)")


@click.group()
def main() -> None:
    """locust with Knot on this machine."""


load_option: Final = click.option(
    "--load", default=10, show_default=True, help="Connections that the file set is made for."
)


@main.command()
@load_option
@click.option("--scenario", default="five", type=click.Choice(list(SCENARIOS)), show_default=True)
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1))
@click.option("--clients", default=64, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=20.0, show_default=True, help="Measured time.")
@click.option("--seed", default=1, show_default=True, help="Seed of the random numbers.")
@click.option(
    "--output",
    default="reports/distributed.json",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
)
def run(
    load: int,
    scenario: str,
    workers: int,
    clients: int,
    seconds: float,
    seed: int,
    output: Path,
) -> None:
    """Measure Knot with a master and workers of locust."""
    settings = {"workers": workers, "clients": clients, "seconds": seconds, "load": load}
    files = written(cache_of(load), load)
    with serving(files.root) as (target, server):
        warm_up(target, files, Random(seed))
        before = cpu_seconds(server.pid)
        try:
            job = Job(
                target=target,
                scenario=SCENARIOS[scenario],
                files=files,
                clients=clients,
                seconds=seconds,
                seed=seed,
            )
            found = locust.distributed(job, workers)
        except GeneratorError as error:
            sys.exit(str(error))
        spent = cpu_seconds(server.pid) - before  # it did nothing else
        cost = Cost(seconds=found.seconds, cpu=spent)
    result = Result(
        made=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        command=shlex.join(["python", "-m", "loadtest.experiment.distributed", *sys.argv[1:]]),
        settings={name: f"{value:g}" for name, value in settings.items()} | {"seed": str(seed)},
        environment=environment(pinned=False),
        servers=(
            Server(
                name="events", kind="model", version=version("knot-httpd"), command="knot serve"
            ),
        ),
        runs=(Run(server="events", part=scenario, round=0, load=found, cost=cost),),
    )
    show(found, cost, workers)
    output.parent.mkdir(parents=True, exist_ok=True)
    save(result, output)
    click.echo(f"\nThe result is {output}")


@main.command()
@load_option
@click.option("--port", default=8089, show_default=True, help="Port of locust's page.")
def watch(load: int, port: int) -> None:
    """Serve the files, and locust's page, until Ctrl-C."""
    files = written(cache_of(load), load)
    with serving(files.root) as (target, _):
        host = f"http://{target.host}:{target.port}"
        page = ["--web-host", "127.0.0.1", "--web-port", str(port), "--class-picker"]
        command = [*locust.command(), *page, "--host", host, "--load", str(load), "--users", "16"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            cwd=locust.LOCUSTFILE.parent,  # locust imports from there, even with -P
            start_new_session=True,
        )
        click.echo(f"Knot at {host}; watch at http://127.0.0.1:{port} (Ctrl-C ends both)")
        try:
            process.wait()
        except KeyboardInterrupt:
            click.echo()
        finally:
            locust.end(process)
    if process.returncode:
        sys.exit(process.returncode)


@main.command("files")
@load_option
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
def write_files(load: int, directory: Path) -> None:
    """Write the file set to DIRECTORY, for a server on another machine."""
    written(directory, load)


# -- what is served -----------------------------------------------------------------------------


def written(root: Path, load: int) -> FileSet:
    files = FileSet(root, load)
    if not files.written:
        click.echo(f"Writing {files.size / 2**20:,.0f} MiB of files to {files.root}")
    try:
        files.write()
    except (FileSetError, OSError) as error:
        sys.exit(str(error))
    return files


@contextmanager
def serving(root: Path) -> Iterator[tuple[Target, subprocess.Popen[str]]]:
    """Run `knot serve` on a free port."""
    command = python("-m", "knot.cli", "serve", str(root), "--port", "0")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    with process.stdout as output:
        try:
            address = SERVING.search(output.readline())
            if address is None:
                sys.exit("knot serve does not start")  # its message says why
            yield Target(address[1], int(address[2])), process
        finally:
            locust.end(process)


def warm_up(target: Target, files: FileSet, numbers: Random) -> None:
    """Ask for the most frequent files, so that they are in the server's cache."""
    with closing(HTTPConnection(target.host, target.port)) as client:
        for _ in range(WARM_UP_REQUESTS):
            client.request("GET", target.path(files.draw(numbers)))
            client.getresponse().read()


# -- the result ---------------------------------------------------------------------------


def show(load: Load, cost: Cost, workers: int) -> None:
    table = Table(title=f"Knot under {workers} workers of locust: {load.scenario}")
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in rows(load, cost).items():
        table.add_row(name, value)
    Console().print(table)


def rows(load: Load, cost: Cost) -> Mapping[str, str]:
    found = {
        "clients": f"{load.clients:,}",
        "requests a second": f"{load.requests / load.seconds:,.0f}",
        "connections a second": f"{load.connections / load.seconds:,.0f}",
        "MB a second": f"{load.bytes / load.seconds / 1e6:,.1f}",
    }
    if load.latency:
        latencies = HdrHistogram.decode(load.latency)
        for percentile in (50, 90, 99, 99.9):
            value = latencies.get_value_at_percentile(percentile)
            found[f"latency, {percentile}th percentile, ms"] = f"{value / 1000:,.2f}"
    if load.requests:
        found["server's CPU per request, µs"] = f"{cost.cpu / load.requests * 1e6:,.0f}"
    found["server's CPU, share of a core"] = f"{cost.busy:.0%}"
    found["locust's CPU, share of its cores"] = f"{load.busy:.0%}"
    for kind, count in sorted(load.errors.items()):
        found[f"failed: {kind}"] = f"{count:,}"
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it ends what it has started
    main()
