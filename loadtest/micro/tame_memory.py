"""What `bench_tame` measures of memory, each in a process of its own.

    python -m loadtest.micro.tame_memory PROBE

prints what PROBE finds, numbers on one line.  Nothing is imported before a probe needs it, or it
would count as the probe's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from loadtest.memory import memory, private_bytes

if TYPE_CHECKING:
    import asyncio

    from tame import Event

BLOCKED = 100_000
"""How many closures or tasks wait while memory is read."""

CALLS = 1_000_000
"""How many calls must not leave anything behind."""


# -- a blocked closure, a blocked task ----------------------------------------------------------


def blocked_closures() -> list[float]:
    """Private bytes of a closure that waits for one event."""
    from tame import mkevent, run, tamed, timer, twait

    @tamed
    def sleeper(beds: list[Event[()]]) -> None:
        with twait:
            beds.append(mkevent())

    @tamed
    def last_sleeper(beds: list[Event[()]], done: Event[()]) -> None:
        with twait:
            beds.append(mkevent())
        done.trigger()

    used: list[float] = []

    @tamed
    def main() -> None:
        beds: list[Event[()]] = []
        with twait:
            timer(0, mkevent())  # from here on it is resumed, as the callers in a server are
        before = private_bytes()
        for _ in range(BLOCKED):
            sleeper(beds)
        used.append((private_bytes() - before) / BLOCKED)
        with twait:
            last_sleeper(beds, mkevent())
            for bed in beds:
                bed.trigger()

    run(main)
    return used


def blocked_tasks() -> list[float]:
    """Private bytes of a task that awaits a future."""
    import asyncio

    import uvloop

    async def sleeper(beds: list[asyncio.Future[None]]) -> None:
        bed = asyncio.get_running_loop().create_future()
        beds.append(bed)
        await bed

    async def main() -> list[float]:
        beds: list[asyncio.Future[None]] = []
        before = private_bytes()
        tasks = [asyncio.create_task(sleeper(beds)) for _ in range(BLOCKED)]
        await asyncio.sleep(0)
        used = (private_bytes() - before) / BLOCKED
        for bed in beds:
            bed.set_result(None)
        await asyncio.gather(*tasks)
        return [used]

    return uvloop.run(main())


# -- growth -------------------------------------------------------------------------------------


def growth() -> list[float]:
    """Bytes that a million closures leave behind, each of which blocks once and ends."""
    import tracemalloc

    from tame import mkevent, run, tamed, twait

    @tamed
    def sleeper(beds: list[Event[()]], done: Event[()]) -> None:
        with twait:
            beds.append(mkevent())
        done.trigger()

    @tamed
    def sleep(times: int) -> None:
        beds: list[Event[()]] = []
        for _ in range(times):
            with twait:
                sleeper(beds, mkevent())
                beds.pop().trigger()

    tracemalloc.start()
    run(sleep, 1_000)
    before = tracemalloc.get_traced_memory()[0]
    run(sleep, CALLS)
    return [tracemalloc.get_traced_memory()[0] - before]


# -- a process at its start ---------------------------------------------------------------------


def at_start() -> list[float]:
    """Private bytes and resident bytes of this process."""
    return [private_bytes(), memory("self", "Rss")]


def minimal_tamed(driver: str) -> list[float]:
    """The same for a tamed program on `driver` that has waited once."""
    from tame import mkevent, run, tamed, timer, twait

    @tamed
    def main() -> None:
        with twait:
            timer(0, mkevent())
        used.extend(at_start())

    used: list[float] = []
    run(main, driver=driver)
    return used


def minimal_asyncio(loop: str) -> list[float]:
    """The same for a coroutine on asyncio's loop or on uvloop's."""
    import asyncio

    async def main() -> list[float]:
        await asyncio.sleep(0)
        return at_start()

    if loop == "asyncio":
        return asyncio.run(main())
    import uvloop

    return uvloop.run(main())


PROBES: dict[str, Callable[[], list[float]]] = {
    "blocked-closures": blocked_closures,
    "blocked-tasks": blocked_tasks,
    "growth": growth,
    "python": at_start,
    "tame-epoll": partial(minimal_tamed, "epoll"),
    "tame-asyncio": partial(minimal_tamed, "asyncio"),
    "tame-uvloop": partial(minimal_tamed, "uvloop"),
    "asyncio": partial(minimal_asyncio, "asyncio"),
    "uvloop": partial(minimal_asyncio, "uvloop"),
}

if __name__ == "__main__":
    print(*PROBES[sys.argv[1]]())
