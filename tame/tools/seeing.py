"""What a live program waits for: the blocked closures as a tree, as a picture, and on a signal.

Nothing here costs anything until it is used.  What holds an event is found in the variables of the
closures, the timers and the descriptors, so triggers do no extra work for it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from time import monotonic
from types import FrameType
from typing import Any, Final

from tame import closure as closures
from tame import loop
from tame.closure import Closure
from tame.event import Event
from tame.rendezvous import Block, Rendezvous

MAX_SHOWN: Final = 200
"""The most closures that are shown."""

MAX_FUNCTIONS: Final = 20
"""The most functions that are shown, those with most closures."""

MAX_DEPTH: Final = 3
"""How deep containers are searched for events: a list of pairs is two deep."""

MAX_MEMBERS: Final = 1000
"""The most members of a container that are searched."""


@dataclass
class Waiting:
    """A blocked closure, and what may end its wait."""

    name: str
    place: str
    """File and line of the wait."""
    seconds: float
    """How long it has been waiting."""
    source: str = ""
    """The source line."""
    events: list[str] = field(default_factory=list)
    """What else holds its events: timers and descriptors."""
    holders: list[Waiting] = field(default_factory=list)
    """The closures that hold one of its events in a variable."""

    def __str__(self) -> str:
        what = f": {self.source}" if self.source else ""
        return f"{self.name} at {self.place}, for {self.seconds:.3f} s{what}"


def blocked_tree() -> list[Waiting]:
    """The blocked closures that no other closure waits for, each with those that it waits for.

    A closure waits for another if that one holds one of its events in a variable, in a container in
    a variable, or behind an adapter; an event elsewhere, as in an attribute of an object, is not
    found.  A closure that several wait for is below each of them.  Takes about 10 µs per closure.
    """
    now = closures.clock()
    runnable = set(closures.runnable)
    nodes = {
        closure: Waiting(
            closure.code.co_qualname,
            closure.place,
            now - closure.since,
            closure.statement,
        )
        for closure in closures.alive
        if closure not in runnable and closure is not closures.running
    }
    waited_for: set[int] = set()
    for closure, node in nodes.items():
        frame = closure.frame
        held = events_in(frame.f_locals.values()) if frame is not None else ()
        for event in held:
            waiter = nodes.get(waiter_of(event))  # type: ignore[arg-type]
            if waiter is not None and waiter is not node and node not in waiter.holders:
                waiter.holders.append(node)
                waited_for.add(id(node))
    for event, what in outside_events(now):
        waiter = nodes.get(waiter_of(event))  # type: ignore[arg-type]
        if waiter is not None:
            waiter.events.append(what)
    roots = [node for node in nodes.values() if id(node) not in waited_for]
    return roots or list(nodes.values())[:1]  # a cycle has no root


def events_in(values: Iterable[Any], depth: int = MAX_DEPTH) -> Iterator[Event[*tuple[Any, ...]]]:
    """The live events among `values`, and in containers there."""
    for number, value in enumerate(values):
        if number == MAX_MEMBERS:
            return
        owner = getattr(value, "__self__", value)  # a bound method, as event.trigger
        if isinstance(owner, Event):
            if owner.live:
                yield owner
        elif depth and isinstance(value, list | tuple | set | frozenset):
            yield from events_in(tuple(value), depth - 1)
        elif depth and isinstance(value, dict):
            yield from events_in(tuple(value.values()), depth - 1)


def waiter_of(event: Any) -> Closure | None:
    """The closure that waits for `event`, directly or behind adapters."""
    target = event
    while target is not None and not isinstance(target, Block | Rendezvous):
        target = getattr(target, "_rendezvous", None) or getattr(target, "target", None)
    return None if target is None else target.waiter


def outside_events(now: float) -> Iterator[tuple[Event[()], str]]:
    """Events that the loop will trigger, and when or why."""
    for when, _, event in loop.timers:
        if event.live:
            yield event, f"a timer in {max(0.0, when - now):.3f} s"
    if loop.active is not None:
        for descriptor in list(loop.active.watched.values()):
            for waiting, what in ((descriptor.reader, "readable"), (descriptor.writer, "writable")):
                if waiting is not None and waiting.live:
                    yield waiting, f"descriptor {descriptor.fd} to be {what}"


# -- as text, and as a picture ---------------------------------------------------------------------


def show(tree: Iterable[Waiting], most: int = MAX_SHOWN) -> str:
    """The tree as text of at most `most` lines, and the number of closures not shown."""
    lines: list[str] = []
    left_out = 0

    def add(node: Waiting, first: str, others: str, above: frozenset[int]) -> None:
        nonlocal left_out
        if len(lines) >= most:
            left_out += 1
            return
        if id(node) in above:
            lines.append(f"{first}{node.name} again: a cycle")
            return
        lines.append(f"{first}{node}")
        below: list[str | Waiting] = [*node.events, *node.holders]
        for number, member in enumerate(below):
            last = number == len(below) - 1
            branch, trunk = ("└─ ", "   ") if last else ("├─ ", "│  ")
            if isinstance(member, str):
                lines.append(f"{others}{branch}{member}")
            else:
                add(member, others + branch, others + trunk, above | {id(node)})

    for root in tree:
        add(root, "", "", frozenset())
    if left_out:
        lines.append(f"… and {left_out} more")
    return "\n".join(lines)


def as_dot(tree: Iterable[Waiting], most: int = MAX_SHOWN) -> str:
    """The tree for Graphviz, at most `most` closures of it, with arrows from each closure to what
    it waits for."""
    lines = ["digraph blocked {", '  rankdir=LR; node [shape=box, fontname="sans-serif"];']
    names: dict[int, str] = {}
    to_draw = list(tree)
    for node in to_draw:  # grows in the loop
        if id(node) in names or len(names) >= most:
            continue
        name = names[id(node)] = f"c{len(names)}"
        label = f"{node.name}\n{os.path.basename(node.place)}\n{node.seconds:.3f} s"
        lines.append(f"  {name} [label={quoted(label)}];")
        for number, event in enumerate(node.events):
            lines.append(f"  {name}e{number} [label={quoted(event)}, shape=ellipse];")
            lines.append(f"  {name} -> {name}e{number};")
        to_draw += node.holders
    for node in to_draw:
        for holder in node.holders:
            if id(node) in names and id(holder) in names:
                arrow = f"  {names[id(node)]} -> {names[id(holder)]};"
                if arrow not in lines:
                    lines.append(arrow)
    return "\n".join([*lines, "}"])


def quoted(text: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n")):
        text = text.replace(plain, escaped)
    return f'"{text}"'


def as_svg(tree: Iterable[Waiting]) -> str:
    """The tree drawn by Graphviz.  Raises `FileNotFoundError` if that is not installed."""
    dot = shutil.which("dot")
    if dot is None:
        raise FileNotFoundError("a picture needs dot: install Graphviz, or use as_dot()")
    drawn = subprocess.run(  # noqa: S603  (it is Graphviz)
        [dot, "-Tsvg"], input=as_dot(tree), capture_output=True, text=True, check=True
    )
    return drawn.stdout


# -- from a live program ---------------------------------------------------------------------------


def by_function() -> Counter[str]:
    """Blocked closures, by the names of their functions."""
    now_blocked = closures.alive.keys() - {closures.running, *closures.runnable}
    return Counter(closure.code.co_qualname for closure in now_blocked)


def statistics() -> Mapping[str, int]:
    """The number of blocked and of runnable closures, of timers that are set, and of descriptors
    that the kernel watches."""
    watched = len(loop.active.watched) if loop.active is not None else 0
    return {
        "blocked": len(closures.alive.keys() - {closures.running, *closures.runnable}),
        "runnable": len(closures.runnable),
        "timers": sum(event.live for _, _, event in loop.timers),
        "descriptors": watched,
    }


def report(frame: FrameType | None = None) -> str:
    """The statistics, the tree and, if `frame` is given, the stack of the program."""
    counts = ", ".join(f"{number} {name}" for name, number in statistics().items())
    parts = [f"tame: {counts}"]
    parts += [f"{number:8} {name}" for name, number in by_function().most_common(MAX_FUNCTIONS)]
    if debugging is not None:
        held = ", ".join(f"{name} {n}" for name, n in debugging.samples.most_common(MAX_FUNCTIONS))
        parts.append(f"running when sampled: {held or 'no tamed function'}")
    parts.append(show(blocked_tree()))
    if frame is not None:
        parts += ["the program is at:", "".join(traceback.format_stack(frame)).rstrip()]
    return "\n".join(part for part in parts if part)


def print_on(number: int = signal.SIGUSR1) -> None:
    """Print a `report` on standard error whenever the process gets the signal, even in the middle
    of a long step.  Call it in the main thread."""

    def handle(_: int, frame: FrameType | None) -> None:
        print(report(frame), file=sys.stderr, flush=True)

    signal.signal(number, handle)


# -- slow steps ----------------------------------------------------------------------

SLOW_STEP: Final = 0.05
"""Seconds after which a step that still holds the loop is reported."""


class Watchdog:
    """Reports steps that hold the loop for too long while they run, with the current line, and
    samples every 25 ms which function is running.

    It costs two clock readings a turn; ``TAME_DEBUG=1`` turns it on.
    """

    samples: Counter[str]
    """How often each tamed function was found running: its share of the loop's time."""

    def __init__(
        self, write: Callable[[str], None] | None = None, too_long: float = SLOW_STEP
    ) -> None:
        """`write` is called in the watchdog's thread; by default it prints on standard error."""
        self._write = write or (lambda text: print(text, file=sys.stderr, flush=True))
        self._too_long = too_long
        self.samples = Counter()
        self._began: float | None = None
        self._reported = False
        self._over = threading.Event()
        self._of = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="tame-watchdog", daemon=True)

    def turn(self, turn: Callable[[], bool]) -> Callable[[], bool]:
        """`turn`, with the watchdog looking on."""

        def watched() -> bool:
            self._reported = False
            self._began = monotonic()
            try:
                return turn()
            finally:
                began, self._began = self._began, None
                if self._reported:
                    took = monotonic() - began
                    self._write(f"tame: the loop was held for {took:.3f} s")

        return watched

    def _watch(self) -> None:
        while not self._over.wait(self._too_long / 2):
            running = closures.running
            if running is not None:
                self.samples[running.code.co_qualname] += 1
            began = self._began
            if began is None or self._reported or monotonic() - began < self._too_long:
                continue
            frame = sys._current_frames().get(self._of)
            stack = "".join(traceback.format_stack(frame)).rstrip()
            self._reported = True
            held = f"tame: a step has held the loop for {self._too_long:g} s"
            self._write(f"{held}; it is at:\n{stack}")

    def __enter__(self) -> Watchdog:
        global debugging
        debugging = self
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        global debugging
        debugging = None
        self._over.set()
        self._thread.join()


debugging: Watchdog | None = None
"""The watchdog of the running program, if it has one."""
