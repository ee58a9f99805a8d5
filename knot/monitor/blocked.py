"""What each tamed call of this process waits for, as text for operators (``/blocked``).

`tame.blocked` reports more, but walks the heap: with 10,000 connections it stops the loop for
170 ms, and `listing` for 11 ms.  Nothing here triggers an event or keeps a call alive.
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

MAX_GROUPS: Final = 50
"""Places that are listed."""
MAX_CALLS: Final = 100
"""Calls that are listed one by one."""
MAX_WIDTH: Final = 300
"""Characters of a line; with the limits above, a process lists at most 60 KiB."""
MAX_CALLERS: Final = 3

ROOT: Final = os.path.join(HOME, "")


def listing(process: str) -> str:
    """Where the calls of `process` wait, and for how long: grouped by place, then the longest waits
    of each group."""
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
    return "\n".join(map(cut, lines))


def cut(line: str) -> str:
    return line if len(line) <= MAX_WIDTH else line[: MAX_WIDTH - 1] + "…"


def in_groups(groups: list[list[Closure]]) -> Iterator[str]:
    now = monotonic()
    yield f"{'number':>9} {'longest':>11}"
    for group in groups[:MAX_GROUPS]:
        longest = now - min(closure.since for closure in group)
        yield f"{len(group):9,} {longest:9.3f} s  {place(group[0])}: {group[0].statement}"
    if len(groups) > MAX_GROUPS:
        yield f"{sum(map(len, groups[MAX_GROUPS:])):9,}              elsewhere"


def one_by_one(groups: list[list[Closure]]) -> Iterator[str]:
    """Equally many of each group, so that a large group does not hide a small one."""
    now = monotonic()
    of_each = max(1, MAX_CALLS // max(1, len(groups)))
    for group in groups[:MAX_CALLS]:
        for closure in heapq.nsmallest(of_each, group, key=lambda closure: closure.since):
            found = closure.callers()[:MAX_CALLERS]
            callers = "".join(f", from {short(caller)}" for caller in found)
            yield f"{now - closure.since:19.3f} s  {place(closure)}{client(closure)}{callers}"


def place(closure: Closure) -> str:
    return f"{closure.code.co_qualname} at {short(closure.place)}"


def client(closure: Closure) -> str:
    """The client whose connection the call serves.

    It is found among the objects that the generator refers to; asking its frame for the variables
    would keep them all alive.
    """
    for held in gc.get_referents(closure.body):
        if isinstance(held, Connection):
            origin = f" from {held.address}" if held.address else ""
            return f", descriptor {held.fd}{origin} after {held.answered} requests"
    return ""


def short(path: str) -> str:
    return path.removeprefix(ROOT)
