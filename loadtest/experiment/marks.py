"""What bounded a run, or is wrong with it.  The report shows a mark wherever its run counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from loadtest.experiment.rounds import GENERATOR_BOUND, gather, requests_a_second
from loadtest.results import Load, Run
from loadtest.scenario import SCENARIOS

WRONG: Final = "wrong answers"
SILENT: Final = "answers that never came"
DROPPED: Final = "dropped connections"
IDLE: Final = "neither side busy"
BEHIND: Final = "behind the rate"
NEAR_NULL: Final = "above 70 % of the null server"
LOADED: Final = "machine loaded"

BUSY: Final = 0.9
"""Of its core: a server below that waited for something."""
PUNCTUAL: Final = 0.98
"""Of the requests that were due."""
CEILING: Final = 0.7
"""Of what the generator gets from a server that does nothing: beyond it, it is no judge."""
STRANGERS: Final = 0.1
"""Of a core, used by neither side."""

FAILURES: Final[Mapping[str, str]] = {
    "wrong": WRONG,
    "status": WRONG,
    "timeout": SILENT,
    "cut": DROPPED,
    "closed": DROPPED,
    "refused": DROPPED,
}


@dataclass(frozen=True)
class Use:
    """Shares of a core while a load lasted."""

    server: float
    generator: float
    strangers: float = 0.0


def marks(load: Load, use: Use) -> tuple[str, ...]:
    """Those that a run shows by itself."""
    found = list(dict.fromkeys(FAILURES[kind] for kind, count in load.errors.items() if count))
    paced = load.rate is not None or SCENARIOS[load.scenario].has_pace
    if use.generator >= BUSY and use.server < BUSY:
        found.append(GENERATOR_BOUND)
    elif use.server < BUSY and not paced:
        found.append(IDLE)
    if load.rate is not None and load.requests < PUNCTUAL * load.rate * load.seconds:
        found.append(BEHIND)
    if use.strangers > STRANGERS:
        found.append(LOADED)
    return tuple(found)


def beside_null(runs: Iterable[Run]) -> tuple[Run, ...]:
    """The runs, those marked that came near what the same generator gets from the null server.

    Where the null server was itself the limit, it says nothing about the generator.
    """
    runs = tuple(runs)
    ceilings = {
        (group.part, group.scenario, group.clients): group.median(requests_a_second)
        for group in gather(runs)
        if group.server == "null" and all(run.cost.busy < BUSY for run in group.runs)
    }

    def near(run: Run) -> bool:
        ceiling = ceilings.get((run.part, run.load.scenario, run.load.clients))
        rate = requests_a_second(run)
        return run.server != "null" and bool(ceiling and rate and rate > CEILING * ceiling)

    return tuple(
        msgspec.structs.replace(run, marks=(*run.marks, NEAR_NULL)) if near(run) else run
        for run in runs
    )
