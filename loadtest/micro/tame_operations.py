"""The operations that `bench_tame` measures: each in Tame, and as asyncio's user would write it.

Every function here does `n` operations and times them with `clock`; what stands outside `start`
and `stop` is setting up.  The two sides of a comparison have the same structure, and neither has
anything that a program would not have.  Nothing here prints or compares.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from time import process_time_ns

from tame import Event, Rendezvous, mkevent, tamed, tvars, twait

CROWD = 1_000
"""How many wait at once where it says "a crowd": a turn of the loop is then shared by many."""

BATCH = 100
"""How many events one wait is for, where it is for several."""

WINDOW = 100
"""How many queries are outstanding at most."""


class Clock:
    """Times what stands between `start` and `stop`, as CPU time of this process: on a machine that
    others use, time on the wall is theirs, too."""

    elapsed = 0
    _begun = 0

    def start(self) -> None:
        self._begun = process_time_ns()

    def stop(self) -> None:
        self.elapsed = process_time_ns() - self._begun


# -- make and trigger ---------------------------------------------------------------------------


@tamed
def make_events(n: int, clock: Clock) -> None:
    with twait:
        clock.start()
        for _ in range(n):
            mkevent().trigger()
        clock.stop()


async def make_futures(n: int, clock: Clock) -> None:
    loop = asyncio.get_running_loop()
    clock.start()
    for _ in range(n):
        loop.create_future().set_result(None)
    clock.stop()


@tamed
def make_events_with_slot(n: int, clock: Clock) -> None:
    with tvars:
        value: int = 0
    with twait:
        clock.start()
        for i in range(n):
            mkevent(value).trigger(i)
        clock.stop()


async def make_futures_with_result(n: int, clock: Clock) -> None:
    loop = asyncio.get_running_loop()
    clock.start()
    for i in range(n):
        future = loop.create_future()
        future.set_result(i)
        future.result()
    clock.stop()


# -- waits that need not block ------------------------------------------------------------------


def answer_ev(number: int, e: Event[int]) -> None:
    e.trigger(number)


async def answer(number: int) -> int:
    return number


@tamed
def wait_for_spent_events(n: int, clock: Clock) -> None:
    clock.start()
    for _ in range(n):
        with twait:
            mkevent().trigger()
    clock.stop()


async def await_done_futures(n: int, clock: Clock) -> None:
    loop = asyncio.get_running_loop()
    clock.start()
    for _ in range(n):
        future = loop.create_future()
        future.set_result(None)
        await future
    clock.stop()


@tamed
def wait_for_answers(n: int, clock: Clock) -> None:
    with tvars:
        value: int = 0
    clock.start()
    for i in range(n):
        with twait:
            answer_ev(i, mkevent(value))
    clock.stop()


async def await_answers(n: int, clock: Clock) -> None:
    clock.start()
    for i in range(n):
        await answer(i)
    clock.stop()


@tamed
def wait_for_spent_rendezvous(n: int, clock: Clock) -> None:
    r: Rendezvous[int] = Rendezvous()
    clock.start()
    for i in range(n):
        mkevent(r, i).trigger()
        twait(r)
    clock.stop()


@tamed
def wait_for_spent_batches(n: int, clock: Clock) -> None:
    clock.start()
    for _ in range(n // BATCH):
        with twait:
            for _ in range(BATCH):
                mkevent().trigger()
    clock.stop()


async def gather_done_batches(n: int, clock: Clock) -> None:
    loop = asyncio.get_running_loop()
    clock.start()
    for _ in range(n // BATCH):
        futures = [loop.create_future() for _ in range(BATCH)]
        for future in futures:
            future.set_result(None)
        await asyncio.gather(*futures)
    clock.stop()


# -- waits that block ---------------------------------------------------------------------------
#
# Sleepers: each makes an event, wakes the one that has slept longest if more than half of them
# sleep, and waits for its own event.  With two sleepers they wake each other in turn.


@tamed
def sleeper(beds: deque[Event[()]], asleep: int, times: int, done: Event[()]) -> None:
    for _ in range(times):
        with twait:
            beds.append(mkevent())
            if len(beds) > asleep:
                beds.popleft().trigger()
    while beds:
        beds.popleft().trigger()
    done.trigger()


@tamed
def sleepers(crowd: int, n: int, clock: Clock) -> None:
    beds: deque[Event[()]] = deque()
    with twait:
        for _ in range(crowd):
            sleeper(beds, crowd // 2, n // crowd, mkevent())
        clock.start()
    clock.stop()


async def sleeping_task(beds: deque[asyncio.Future[None]], asleep: int, times: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(times):
        bed = loop.create_future()
        beds.append(bed)
        if len(beds) > asleep:
            beds.popleft().set_result(None)
        await bed
    while beds:
        beds.popleft().set_result(None)


async def sleeping_tasks(crowd: int, n: int, clock: Clock) -> None:
    beds: deque[asyncio.Future[None]] = deque()
    tasks = [asyncio.create_task(sleeping_task(beds, crowd // 2, n // crowd)) for _ in range(crowd)]
    await asyncio.sleep(0)  # starts them
    clock.start()
    await asyncio.gather(*tasks)
    clock.stop()


@tamed
def batch_sleeper(beds: deque[list[Event[()]]], times: int, done: Event[()]) -> None:
    for _ in range(times):
        with twait:
            beds.append([mkevent() for _ in range(BATCH)])
            if len(beds) > 1:
                for bed in beds.popleft():
                    bed.trigger()
    while beds:
        for bed in beds.popleft():
            bed.trigger()
    done.trigger()


@tamed
def wait_for_batches(n: int, clock: Clock) -> None:
    beds: deque[list[Event[()]]] = deque()
    with twait:
        for _ in range(2):
            batch_sleeper(beds, n // BATCH // 2, mkevent())
        clock.start()
    clock.stop()


async def batch_sleeping_task(beds: deque[list[asyncio.Future[None]]], times: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(times):
        batch = [loop.create_future() for _ in range(BATCH)]
        beds.append(batch)
        if len(beds) > 1:
            for bed in beds.popleft():
                bed.set_result(None)
        await asyncio.gather(*batch)
    while beds:
        for bed in beds.popleft():
            bed.set_result(None)


async def gather_batches(n: int, clock: Clock) -> None:
    beds: deque[list[asyncio.Future[None]]] = deque()
    tasks = [asyncio.create_task(batch_sleeping_task(beds, n // BATCH // 2)) for _ in range(2)]
    await asyncio.sleep(0)
    clock.start()
    await asyncio.gather(*tasks)
    clock.stop()


# -- a window: the paper's multidns_win ---------------------------------------------------------
#
# A name server, a closure or task of its own, is woken by the first of some queries and answers
# all that have come.


class NameServer:
    """Collects queries; `serve` answers them."""

    def __init__(self) -> None:
        self.queries: list[tuple[int, Event[int]]] = []
        self.knock: Event[()] = Event()

    def gethost_ev(self, name: int, e: Event[int]) -> None:
        self.queries.append((name, e))
        if len(self.queries) == 1:
            self.knock.trigger()

    @tamed
    def serve(self, n: int) -> None:
        answered = 0
        while answered < n:
            with twait:
                self.knock = mkevent()
            queries, self.queries = self.queries, []
            for name, e in queries:
                e.trigger(name)
            answered += len(queries)


class FutureNameServer:
    """The same with futures."""

    def __init__(self) -> None:
        self.queries: list[tuple[int, asyncio.Future[int]]] = []
        self.loop = asyncio.get_running_loop()
        self.knock: asyncio.Future[None] = self.loop.create_future()

    def gethost(self, name: int) -> asyncio.Future[int]:
        future: asyncio.Future[int] = self.loop.create_future()
        self.queries.append((name, future))
        if len(self.queries) == 1:
            self.knock.set_result(None)
        return future

    async def serve(self, n: int) -> None:
        answered = 0
        while answered < n:
            await self.knock
            self.knock = self.loop.create_future()
            queries, self.queries = self.queries, []
            for name, future in queries:
                future.set_result(name)
            answered += len(queries)


@tamed
def window(n: int, clock: Clock) -> None:
    server = NameServer()
    server.serve(n)
    a = [0] * n
    r: Rendezvous[None] = Rendezvous()
    sent = received = 0
    clock.start()
    while received < n:
        if sent < n and sent - received < WINDOW:
            server.gethost_ev(sent, mkevent(r, None, a[sent]))
            sent += 1
        else:
            twait(r)
            received += 1
    clock.stop()


async def window_as_completed(n: int, clock: Clock) -> None:
    server = FutureNameServer()
    serving = asyncio.create_task(server.serve(n))
    a = [0] * n
    window = asyncio.Semaphore(WINDOW)

    async def resolve(i: int) -> None:
        async with window:
            a[i] = await server.gethost(i)

    clock.start()
    for resolved in asyncio.as_completed([resolve(i) for i in range(n)]):
        await resolved
    clock.stop()
    await serving


async def window_of_tasks(n: int, clock: Clock) -> None:
    server = FutureNameServer()
    serving = asyncio.create_task(server.serve(n))
    a = [0] * n
    window = asyncio.Semaphore(WINDOW)

    async def resolve(i: int) -> None:
        async with window:
            a[i] = await server.gethost(i)

    clock.start()
    for task in [asyncio.create_task(resolve(i)) for i in range(n)]:
        await task
    clock.stop()
    await serving


async def window_of_workers(n: int, clock: Clock) -> None:
    server = FutureNameServer()
    serving = asyncio.create_task(server.serve(n))
    a = [0] * n

    async def work(numbers: Iterator[int]) -> None:
        for i in numbers:
            a[i] = await server.gethost(i)

    clock.start()
    numbers = iter(range(n))
    await asyncio.gather(*(work(numbers) for _ in range(WINDOW)))
    clock.stop()
    await serving


# -- calls --------------------------------------------------------------------------------------


@tamed
def plain(numbers: list[int]) -> None:
    numbers[0] += 1


async def plain_coroutine(numbers: list[int]) -> None:
    numbers[0] += 1


@tamed
def cached(numbers: list[int]) -> None:
    if not numbers:
        with twait:
            answer_ev(0, mkevent(numbers[0]))
    numbers[0] += 1


async def cached_coroutine(numbers: list[int]) -> None:
    if not numbers:
        numbers[0] = await answer(0)
    numbers[0] += 1


def call_plain(n: int, clock: Clock) -> None:
    numbers = [0]
    clock.start()
    for _ in range(n):
        plain(numbers)
    clock.stop()


def call_cached(n: int, clock: Clock) -> None:
    numbers = [0]
    clock.start()
    for _ in range(n):
        cached(numbers)
    clock.stop()


async def await_plain(n: int, clock: Clock) -> None:
    numbers = [0]
    clock.start()
    for _ in range(n):
        await plain_coroutine(numbers)
    clock.stop()


async def await_cached(n: int, clock: Clock) -> None:
    numbers = [0]
    clock.start()
    for _ in range(n):
        await cached_coroutine(numbers)
    clock.stop()


async def await_task(n: int, clock: Clock) -> None:
    numbers = [0]
    clock.start()
    for _ in range(n):
        await asyncio.create_task(cached_coroutine(numbers))
    clock.stop()


@tamed
def block_once(bells: list[Event[()]], done: Event[()]) -> None:
    with twait:
        bells.append(mkevent())
    done.trigger()


@tamed
def closures_that_block_once(n: int, clock: Clock) -> None:
    bells: list[Event[()]] = []
    clock.start()
    for _ in range(n // CROWD):
        with twait:
            for _ in range(CROWD):
                block_once(bells, mkevent())
            for bell in bells:
                bell.trigger()
            bells.clear()
    clock.stop()


async def await_once(bells: list[asyncio.Future[None]]) -> None:
    bell = asyncio.get_running_loop().create_future()
    bells.append(bell)
    await bell


async def tasks_that_block_once(n: int, clock: Clock) -> None:
    bells: list[asyncio.Future[None]] = []
    clock.start()
    for _ in range(n // CROWD):
        tasks = [asyncio.create_task(await_once(bells)) for _ in range(CROWD)]
        await asyncio.sleep(0)
        for bell in bells:
            bell.set_result(None)
        bells.clear()
        await asyncio.gather(*tasks)
    clock.stop()
