"""`make simulate`: many seeds, and what they have found; or one again, with all that happened."""

from __future__ import annotations

import sys
from time import perf_counter
from typing import Final

import click

from loadtest.robust.simulate import mutants
from loadtest.robust.simulate.server import Found, run_seed

SHOWN: Final = 10
"""Failing seeds after which there is no use in going on."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", default=1000, show_default=True, help="How many to run.")
@click.option("--from", "first", default=0, show_default=True, help="The first of them.")
@click.option("--seed", type=int, help="Run this one alone, and print all that happens in it.")
@click.option("--mutants", "planted", is_flag=True, help="Plant bugs instead, and look for each.")
def main(seeds: int, first: int, seed: int | None, planted: bool) -> None:
    """Run a whole server under simulation, once for each seed; fail if anything was not right."""
    if planted:
        sys.exit(mutants.main(seeds))
    if seed is not None:
        found = run_seed(seed)
        print(*found.trace, sep="\n")
        print(f"{found.answers} answers to {found.requests} requests in {found.virtual:.1f} s")
        sys.exit(say(found))
    sys.exit(run(first, seeds))


def run(first: int, seeds: int) -> int:
    began = perf_counter()
    done: list[Found] = []
    failed = 0
    for seed in range(first, first + seeds):
        found = run_seed(seed)
        found.trace.clear()  # what a thousand seeds do is more than anybody keeps
        done.append(found)
        failed += say(found)
        if failed == SHOWN:
            break
    seconds = perf_counter() - began
    virtual = sum(found.virtual for found in done)
    requests = sum(found.requests for found in done)
    answers = sum(found.answers for found in done)
    print(
        f"{len(done):,} seeds, {failed} of them failed; {requests:,} requests,"
        f" {requests / len(done):.0f} a seed, {answers:,} answered and checked\n"
        f"{virtual:,.0f} simulated seconds in {seconds:.0f} s:"
        f" {virtual / seconds:,.0f} a second, {60 * len(done) / seconds:,.0f} seeds a minute"
    )
    return int(failed > 0)


def say(found: Found) -> int:
    """Print what is wrong, and how to see it again; 1 if anything is."""
    if not found.problems:
        return 0
    print(f"seed {found.seed}:", *found.problems[:5], sep="\n  ")
    print(f"  again: python -m loadtest.robust.simulate --seed {found.seed}")
    return 1


if __name__ == "__main__":
    main()
