"""``python -m loadtest``: run the experiment (`make loadtest`), compare results, write reports."""

from __future__ import annotations

import shlex
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from loadtest.experiment.compare import compare_command, read
from loadtest.experiment.report import draw_report, show, write
from loadtest.experiment.rounds import Gathered
from loadtest.experiment.run import Experiment, Settings
from loadtest.fileset import FileSet, FileSetError, cache_of
from loadtest.processes import raise_descriptors

PARTS: Final = ("figure7", "memory", "curve", "latency", "mix", "browsers", "slow", "peers")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure Knot by events and by threads: the paper's Figure 7 on this machine."""


@main.command()
@click.option("--full", is_flag=True, help="The long run, whose figures are worth keeping.")
@click.option(
    "--rounds", type=click.IntRange(1), help="Rounds that count.  [default: 3; 6 with --full]"
)
@click.option(
    "--seconds", default=2, show_default=True, type=click.IntRange(1), help="Seconds of each load."
)
@click.option(
    "--load",
    default=10,
    show_default=True,
    type=click.IntRange(0),
    help="Connections that the file set is made for; 1000, as in the papers, needs 3.3 GB.",
)
@click.option("--seed", default=1, show_default=True, help="Seed of the random numbers.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(PARTS),
    help="Measure only this part; may be repeated.",
)
@click.option(
    "--server",
    "servers",
    multiple=True,
    metavar="NAME",
    help="Measure this server, named as in the report; may be repeated.",
)
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the report.  [default: reports/TIME]",
)
def run(
    full: bool,
    rounds: int | None,
    seconds: int,
    load: int,
    seed: int,
    only: tuple[str, ...],
    servers: tuple[str, ...],
    into: Path | None,
) -> None:
    """Measure, and write the report; Ctrl-C ends it early, with what has been measured."""
    settings = Settings(full, rounds or (6 if full else 3), seconds, load, seed, only, servers)
    into = into or Path("reports", datetime.now().strftime("%Y-%m-%dT%H.%M.%S"))
    raise_descriptors()
    command = shlex.join(["python", "-m", "loadtest", *sys.argv[1:]])
    experiment = Experiment(settings, FileSet(cache_of(load), load), command)
    unknown = set(servers) - {one.name for one in (*experiment.ours, *experiment.theirs)}
    if unknown:
        raise click.BadParameter(f"there is no server {', '.join(sorted(unknown))}")
    measure(experiment, Console(stderr=True))
    gathered = Gathered.of(experiment.result())
    write(gathered, into)
    show(gathered, Console())
    click.echo(f"\nThe report is {into}/report.html")


def measure(experiment: Experiment, console: Console) -> None:
    """Run the experiment with a progress bar, until it ends or is interrupted."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=1,
        transient=True,
    ) as bar:
        task = bar.add_task("the file set", total=experiment.duration)
        experiment.progress = lambda text, done: bar.update(task, description=text, completed=done)
        try:
            experiment.files.write()
        except (FileSetError, OSError) as error:
            raise click.ClickException(str(error)) from None
        minutes = max(1, round(experiment.duration / 60))
        try:
            console.print(
                f"About {minutes} minutes; Ctrl-C ends it early, with what has been measured."
            )
            experiment.run()
        except KeyboardInterrupt:
            experiment.missing["the rest"] = "the run was interrupted"


@main.command()
@click.argument("result", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the report.  [default: that of the result]",
)
def report(result: Path, into: Path | None) -> None:
    """Write the report of RESULT, a results.json file or a directory with one."""
    into = into or (result if result.is_dir() else result.parent)
    draw_report(Gathered.of(read(result)), into)
    click.echo(f"The report is {into}/report.html")


main.add_command(compare_command)

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it ends what it has started
    main()
