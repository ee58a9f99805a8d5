"""What each tamed call of this process waits for, as text for whoever looks after it.

`tame.blocked` knows more, but walks the heap for it: with 10,000 connections that stops the loop
for 170 ms, and this for 11 (`listing`).
"""

from __future__ import annotations

import gc
import heapq
import os
from collections.abc import Iterator
from time import monotonic
from typing import Final

from knot.models.peer import Connection
from knot.process.spawn import HOME
from tame import closure as closures
from tame.closure import Closure

GROUPS: Final = 50
"""Places to wait at that are told."""
SINGLE: Final = 100
"""Calls that are told one by one."""
WIDTH: Final = 300
"""Characters of a line; with what stands above, no process tells more than 60 KiB."""
CALLERS: Final = 3

ROOT: Final = os.path.join(HOME, "")


def listing(process: str) -> str:
    """Where the calls of `process` wait, and how long: in groups, then those that wait longest, of
    each group some."""
    can_go_on = {*closures.runnable, closures.running}
    groups: dict[tuple[object, int], list[Closure]] = {}
    count = 0
    for closure in closures.alive:
        frame = closure.frame
        if frame is not None and closure not in can_go_on:
            groups.setdefault((closure.code, frame.f_lasti), []).append(closure)
            count += 1
    ordered = sorted(groups.values(), key=len, reverse=True)
    lines = [f"{process}: {count:,} calls wait", *in_groups(ordered), "", *one_by_one(ordered)]
    return "\n".join(line if len(line) <= WIDTH else line[: WIDTH - 1] + "…" for line in lines)


def in_groups(groups: list[list[Closure]]) -> Iterator[str]:
    now = monotonic()
    yield f"{'number':>9} {'longest':>11}"
    for group in groups[:GROUPS]:
        longest = now - min(closure.since for closure in group)
        yield f"{len(group):9,} {longest:9.3f} s  {place(group[0])}: {group[0].statement}"
    if len(groups) > GROUPS:
        yield f"{sum(map(len, groups[GROUPS:])):9,}              elsewhere"


def one_by_one(groups: list[list[Closure]]) -> Iterator[str]:
    """Of each group as many, so that the many do not hide the few."""
    now = monotonic()
    of_each = max(1, SINGLE // max(1, len(groups)))
    for group in groups[:SINGLE]:
        for closure in heapq.nsmallest(of_each, group, key=lambda closure: closure.since):
            led = "".join(f", from {short(caller)}" for caller in closure.callers()[:CALLERS])
            yield f"{now - closure.since:19.3f} s  {place(closure)}{client(closure)}{led}"


def place(closure: Closure) -> str:
    return f"{closure.code.co_qualname} at {short(closure.place)}"


def client(closure: Closure) -> str:
    """Whose connection it is about.

    From what the generator holds; to ask its frame for its variables would keep them all.
    """
    for held in gc.get_referents(closure.body):
        if isinstance(held, Connection):
            who = f" from {held.address}" if held.address else ""
            return f", descriptor {held.fd}{who} after {held.answered} requests"
    return ""


def short(path: str) -> str:
    return path.removeprefix(ROOT)
