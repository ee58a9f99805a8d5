"""`make attack`: what live traffic keeps while somebody attacks, and what the attack costs whom.

Knot has one core.  On the other run wrk, which asks as fast as it is answered, and the attacker, at
the lowest priority and a bounded rate: so what wrk loses beside an attack, it loses because of the
server.  A round measures without the attack and with it; what is told is the median over the rounds
of the ratio, with its extremes.

Since an attack by well-formed requests is only more requests, the table has also what one bit of
it costs the server, and the attacker: CPU time that the live requests do not explain, over the
number of bits.  A rate that would take a whole core follows from that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import click
from tabulate import tabulate

from knot.process.spawn import python
from loadtest.generators import pinned
from loadtest.measure import cpu_seconds
from loadtest.micro.knot_cases import Case
from loadtest.micro.knot_load import WARM_UP, load, prepare, private, raise_descriptors
from loadtest.robust.attackers import ATTACKS, Attack
from loadtest.servers import Running, Server, knot, started

ROUNDS: Final = 3
SECONDS: Final = 2
GOAL: Final = 0.8
"""Of the throughput without the attack."""

MOST: Final = "12000"

PLAIN: Final = Case("beside an attack", GOAL, connections=64, knot=("--max-connections", MOST))
SECURE: Final = Case(
    "beside an attack on TLS", GOAL, connections=64, knot=("--max-connections", MOST), tls=True
)


@dataclass
class Round:
    """One measurement without the attack and one with it."""

    ratio: float
    """Of live requests a second."""
    rate: float
    """Of the attack, a second."""
    cost: float
    """µs of the server's CPU for one bit of the attack."""
    own: float
    """The same of the attacker's."""
    memory: int
    """Private bytes that the attack has added."""


@contextmanager
def attacking(attack: Attack, port: int) -> Iterator[dict[str, float]]:
    """Attack until the block ends; what the attacker says is in the dictionary then."""
    command = python("-m", "loadtest.robust.attackers", attack.name, str(port), str(attack.rate))
    said: dict[str, float] = {}
    with subprocess.Popen(
        ["nice", "-n", "19", *pinned(command, 1)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as attacker:
        assert attacker.stdin
        assert attacker.stdout
        if attacker.stdout.readline() != b"ready\n":
            sys.exit(f"the attack {attack.name} could not begin")
        try:
            yield said
        finally:
            attacker.stdin.close()
            said |= json.loads(attacker.stdout.read())


def one(running: Running, case: Case, attack: Attack, seconds: int) -> Round:
    alone, alone_cpu = live(running, case, seconds)
    before = private(running)
    with attacking(attack, running.port) as said:
        beside, beside_cpu = live(running, case, seconds)
        memory = private(running) - before
    made = max(said["made"], 1)
    explained = alone_cpu / alone * beside
    # The attacker goes on a little while wrk starts and ends; its own count is over that, too.
    return Round(
        beside / alone,
        made / seconds,
        (beside_cpu - explained) / made * 1e6,
        said["seconds"] / made * 1e6,
        memory,
    )


def live(running: Running, case: Case, seconds: int) -> tuple[int, float]:
    """Requests that wrk has had answered, and the server's CPU time meanwhile."""
    before = cpu_seconds(running.pid)
    answered = load(running, case, [], seconds)
    return answered.requests, cpu_seconds(running.pid) - before


def write_files(root: Path) -> None:
    (root / "1k.html").write_bytes(b"x" * 1024)
    (root / "text.html").write_bytes(b"some text that is worth a compression\n" * 1500)
    (root / "large.bin").touch()
    os.truncate(root / "large.bin", 64 << 20)


def rounds_of(attack: Attack, server: Server, root: Path, rounds: int, seconds: int) -> list[Round]:
    case = SECURE if attack.tls else PLAIN
    with started(server, case, root) as running:
        prepare(running, case, root)
        load(running, case, [], WARM_UP)
        return [one(running, case, attack, seconds) for _ in range(rounds)]


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
    "live requests, of those without it",
    f"≥ {GOAL}",
    "a second",
    "each a",
    "costs Knot, µs",
    "costs the attacker, µs",
    "added memory, MiB",
]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=SECONDS, show_default=True, type=click.IntRange(1))
@click.option("--only", default="", help="Only attacks whose names contain this.")
def main(rounds: int, seconds: int, only: str) -> None:
    """Measure what live traffic keeps beside each attack, and print a table."""
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
    click.echo(f"Rounds: {rounds} of twice {seconds} s; {descriptors:,} descriptors a process.\n")
    click.echo(tabulate(lines, HEAD, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
