"""`make attack`: how much live traffic remains during an attack, and what the attack costs.

Knot has one core.  The other core runs wrk, which sends requests as fast as they are answered, and
the attacker, at the lowest priority and a limited rate: what wrk loses during an attack, it loses
because of the server.  A round measures without the attack and with it; the table has the median of
the ratio over the rounds, with its extremes.

An attack with well-formed requests is only more requests.  So the table also has the cost of each
action to the server and to the attacker: the CPU time that live requests do not explain, divided by
the number of actions.  From this follows the rate that would take a whole core.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import click
from tabulate import tabulate

from knot.process.spawn import python
from loadtest.measure import cpu_seconds
from loadtest.processes import pinned, raise_descriptors
from loadtest.robust.attackers import ATTACKS, Attack
from loadtest.saturation import WARM_UP, check_file, saturate
from loadtest.servers import Running, Server, Setup, knot, started

ROUNDS: Final = 3
SECONDS: Final = 2
FILE: Final = "1k.html"
GOAL: Final = 0.8
"""Share of the throughput without the attack."""

CONNECTIONS: Final = 64
"""Connections of the live traffic."""

OPTIONS: Final = ("--max-connections", "12000")
PLAIN: Final = Setup(knot=OPTIONS)
SECURE: Final = Setup(knot=OPTIONS, tls=True)


@dataclass
class Round:
    """One measurement without the attack and one with it."""

    ratio: float
    """Live requests a second with the attack, over those without."""
    rate: float
    """Actions of the attack a second."""
    cost: float
    """µs of the server's CPU for one action of the attack."""
    own: float
    """µs of the attacker's CPU for it."""
    memory: int
    """Private bytes that the attack has added to the server."""


@contextmanager
def attacking(attack: Attack, port: int) -> Iterator[dict[str, float]]:
    """Attack until the block ends; then the dictionary has the attacker's report."""
    command = python("-m", "loadtest.robust.attackers", attack.name, str(port), str(attack.rate))
    report: dict[str, float] = {}
    with subprocess.Popen(
        ["nice", "-n", "19", *pinned(command, 1)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as attacker:
        assert attacker.stdin
        assert attacker.stdout
        if attacker.stdout.readline() != b"ready\n":
            sys.exit(f"the attack {attack.name} cannot begin")
        try:
            yield report
        finally:
            attacker.stdin.close()
            report |= json.loads(attacker.stdout.read())


def one(running: Running, attack: Attack, seconds: int) -> Round:
    alone, alone_cpu = live(running, seconds)
    before = running.private()
    with attacking(attack, running.port) as report:
        beside, beside_cpu = live(running, seconds)
        memory = running.private() - before
    made = max(report["made"], 1)
    explained = alone_cpu / alone * beside
    # The attacker also runs while wrk starts and ends, and its count includes that.
    return Round(
        beside / alone,
        made / seconds,
        (beside_cpu - explained) / made * 1e6,
        report["seconds"] / made * 1e6,
        memory,
    )


def live(running: Running, seconds: int) -> tuple[int, float]:
    """The requests answered to wrk, and the server's CPU time for that."""
    before = cpu_seconds(running.pid)
    answered = saturate(running, FILE, seconds, connections=CONNECTIONS)
    return answered.requests, cpu_seconds(running.pid) - before


def write_files(root: Path) -> None:
    (root / FILE).write_bytes(b"x" * 1024)
    (root / "text.html").write_bytes(b"some text that is worth a compression\n" * 1500)
    (root / "large.bin").touch()
    os.truncate(root / "large.bin", 64 << 20)


def rounds_of(attack: Attack, server: Server, root: Path, rounds: int, seconds: int) -> list[Round]:
    with started(server, SECURE if attack.tls else PLAIN, root) as running:
        with closing(running.client()) as client:
            check_file(client, running, FILE, root)
        saturate(running, FILE, WARM_UP, connections=CONNECTIONS)
        return [one(running, attack, seconds) for _ in range(rounds)]


def line(attack: Attack, found: list[Round]) -> list[str]:
    ratios = sorted(entry.ratio for entry in found)
    memory = max(median(entry.memory for entry in found), 0)
    cells = [
        attack.name,
        f"{median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})",
        "yes" if median(ratios) >= GOAL else "no",
    ]
    if attack.unit:
        cells += [
            f"{median(entry.rate for entry in found):,.0f}",
            attack.unit,
            f"{median(entry.cost for entry in found):,.0f}",
            f"{median(entry.own for entry in found):,.0f}",
        ]
    else:
        cells += ["", "", "", ""]
    return [*cells, f"{memory / 2**20:.1f}"]


HEAD: Final = [
    "attack",
    "share of live requests left",
    f"≥ {GOAL}",
    "actions/s",
    "action",
    "Knot, µs each",
    "attacker, µs each",
    "added memory, MiB",
]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=SECONDS, show_default=True, type=click.IntRange(1))
@click.option("--only", default="", help="Only attacks whose names contain this.")
def main(rounds: int, seconds: int, only: str) -> None:
    """Measure how much live traffic remains during each attack, and print a table."""
    descriptors = raise_descriptors()
    server = knot("Knot")
    chosen = [attack for attack in ATTACKS if only.lower() in attack.name.lower()]
    lines = []
    with tempfile.TemporaryDirectory() as work:
        root = Path(work)
        root.chmod(0o755)
        write_files(root)
        with click.progressbar(chosen, label="Attacks", file=sys.stderr) as bar:
            for attack in bar:
                lines.append(line(attack, rounds_of(attack, server, root, rounds, seconds)))
    click.echo(f"{rounds} rounds of twice {seconds} s; {descriptors:,} descriptors per process.\n")
    click.echo(tabulate(lines, HEAD, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
