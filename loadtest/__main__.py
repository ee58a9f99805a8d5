"""``python -m loadtest``: the experiment (`make loadtest`), and two of its results side by side."""

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

from loadtest.experiment.compare import compare_command
from loadtest.experiment.report import show, write
from loadtest.experiment.run import Experiment, Settings
from loadtest.fileset import FileSet, FileSetError, cache_of
from loadtest.micro.knot_load import raise_descriptors

PARTS: Final = ("figure7", "memory", "curve", "latency", "mix", "browsers", "slow", "peers")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Knot by events and by threads, measured: the paper's Figure 7 on this machine."""


@main.command()
@click.option("--full", is_flag=True, help="The long one, whose figures are worth keeping.")
@click.option("--rounds", type=click.IntRange(1), help="That count.  [default: 3; 6 with --full]")
@click.option(
    "--seconds", default=2, show_default=True, type=click.IntRange(1), help="Of each load."
)
@click.option(
    "--load",
    default=10,
    show_default=True,
    type=click.IntRange(0),
    help="Connections that the file set is made for; the papers' 1000 are 3.3 GB.",
)
@click.option("--seed", default=1, show_default=True, help="Of what is drawn.")
@click.option("--only", multiple=True, type=click.Choice(PARTS), help="A part; may be repeated.")
@click.option(
    "--server",
    "servers",
    multiple=True,
    metavar="NAME",
    help="As the report names it; may be repeated.",
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
    """Measure, and write the report; Ctrl-C ends it early, with what there is."""
    settings = Settings(full, rounds or (6 if full else 3), seconds, load, seed, only, servers)
    into = into or Path("reports", datetime.now().strftime("%Y-%m-%dT%H.%M.%S"))
    errors = Console(stderr=True)
    raise_descriptors()
    command = shlex.join(["python", "-m", "loadtest", *sys.argv[1:]])
    experiment = Experiment(settings, FileSet(cache_of(load), load), command)
    unknown = set(servers) - {one.name for one in (*experiment.ours, *experiment.theirs)}
    if unknown:
        raise click.BadParameter(f"no server is called {', '.join(sorted(unknown))}")
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=errors,
        refresh_per_second=1,
        transient=True,
    ) as bar:
        task = bar.add_task("the file set", total=experiment.duration)
        try:
            experiment.files.write()
        except (FileSetError, OSError) as error:
            raise click.ClickException(str(error)) from None
        experiment.progress = lambda text, done: bar.update(task, description=text, completed=done)
        minutes = max(1, round(experiment.duration / 60))
        try:
            errors.print(f"Some {minutes} minutes; Ctrl-C ends it early, with what there is.")
            experiment.run()
        except KeyboardInterrupt:
            experiment.missing["what was to follow"] = "the run was interrupted"
    result = experiment.result()
    write(result, into)
    show(result, Console())
    click.echo(f"\n{into}/report.html has it all.")


main.add_command(compare_command)

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends what was started
    main()
