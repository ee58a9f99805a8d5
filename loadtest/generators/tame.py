"""A load generator in Tame: clients that ask, wait, check what they get, and ask again.

Start reading at `drive`: it starts the clients, measures for a while, and waits for the answers
that are still due.  In most scenarios a client is `ask_and_ask`; `browse` and `open_all` are the
other two.  All of them use `request`, which sends one request and waits for its answer.  Every
answer is compared with the file, byte by byte.

The module is also a program: ``python -m loadtest.generators.tame ORDER``, with an `Order` in JSON.
`generate` and `hold` start it that way.
"""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

import msgspec

from knot.process.spawn import python
from loadtest.generators import GeneratorError, Job, Target, take_descriptors
from loadtest.generators.crowd import Connection, Crowd, Lane, Order, is_closed
from loadtest.generators.pace import Schedule, Ticks
from loadtest.generators.tally import histogram, jain
from loadtest.processes import pinned
from loadtest.results import Load
from loadtest.scenario import ANSWER_TIMEOUT, RESPITE, SCENARIOS, TICK, Scenario
from tame import (
    READ,
    WRITE,
    BlockedWarning,
    Event,
    Rendezvous,
    mkevent,
    run,
    tamed,
    timer,
    tvars,
    twait,
    wait_on_fd,
)

WINDOW: Final = 64
"""Connections opened at a time where all of them stay: no server can queue them all."""
STARTS: Final = 10_000
"""Clients that start in a second, for the same reason."""

REMEDY: Final = "pip install '.[loadtest]'"


# -- what others call ---------------------------------------------------------------------------


def available() -> str:
    for module in ("hdrh", "msgspec"):
        if importlib.util.find_spec(module) is None:
            return f"the module {module} is not installed: {REMEDY}"
    return ""


def generate(job: Job) -> Load:
    """See `loadtest.generators.generate`: all scenarios; a constant rate where none pauses.

    An idle crowd is measured from its first connection on, whatever `Job.warm_up` is.
    """
    if job.rate is not None and not takes_rate(job.scenario):
        able = ", ".join(name for name, each in SCENARIOS.items() if takes_rate(each))
        raise GeneratorError(
            f"the scenario {job.scenario.name} has a pace of its own: a constant rate goes with"
            f" {able}"
        )
    order = Order(
        target=job.target,
        scenario=job.scenario,
        root=str(job.files.root),
        load=job.files.load,
        papers=job.files.papers,
        path=job.path,
        clients=job.clients,
        seconds=job.seconds,
        warm_up=job.warm_up,
        rate=job.rate,
        seed=job.seed,
    )
    timeout = job.clients / 1000 + job.warm_up + job.seconds + 3 * ANSWER_TIMEOUT
    return msgspec.json.decode(run_program(command(order, job.core), timeout), type=Load)


def run_program(command: list[str], timeout: float) -> bytes:
    """Its standard output."""
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise GeneratorError(f"the generator tame has not ended after {timeout:.0f} s") from None
    if done.returncode != 0:
        message = done.stderr.decode(errors="replace").strip()
        raise GeneratorError(message or f"the generator tame has ended with {done.returncode}")
    return done.stdout


@contextmanager
def hold(target: Target, number: int, path: str, *, core: int | None = None) -> Iterator[None]:
    """Keep `number` idle connections open within the block; each has had one answer.

    Raises `GeneratorError` if one cannot be opened, or, after the block, if the server has closed
    any of them: what was measured is then not the cost of `number` connections.
    """
    order = Order(target=target, scenario=SCENARIOS["idle"], path=path, clients=number, hold=True)
    with subprocess.Popen(
        command(order, core), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            if process.stdout.readline() == b"open\n":
                yield
            process.stdin.close()
            message = process.stderr.read().decode(errors="replace").strip()
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise GeneratorError(message or f"the generator tame has ended with {process.returncode}")


def takes_rate(scenario: Scenario) -> bool:
    waits = scenario.pause or scenario.think or scenario.assets or scenario.slow
    return scenario.asks and not waits


def command(order: Order, core: int | None) -> list[str]:
    encoded = msgspec.json.encode(order).decode()
    return pinned(python("-m", "loadtest.generators.tame", encoded), core)


# -- the clients --------------------------------------------------------------------------------


@tamed
def request(crowd: Crowd, lane: Lane, began: float, done: Event[()]) -> None:
    """Ask for a file and wait for the whole answer."""
    with tvars:
        connection: Connection
    refused = False
    try:
        connection = crowd.ready(lane, began)
        while not crowd.send(connection):
            with twait:
                wait_on_fd(connection, WRITE, mkevent())
        while True:
            with twait:
                wait_on_fd(connection, READ, mkevent())
            if crowd.receive(connection):
                break
            if crowd.scenario.slow:
                with twait:
                    timer(TICK, mkevent())
        crowd.right(lane, connection)
    except Exception as error:
        refused = crowd.wrong(lane, began, error)
    if refused:
        with twait:
            timer(RESPITE, mkevent())
    done.trigger()


@tamed
def ask_and_ask(crowd: Crowd, number: int) -> None:
    """A client that asks until the load is over."""
    with tvars:
        due: float
    lane = Lane(number)
    while not crowd.over:
        if crowd.schedule is None:
            due = monotonic()
        else:
            with twait:
                crowd.wait_for_turn(mkevent(due))
        with twait:
            request(crowd, lane, due, mkevent())
        if crowd.scenario.pause:
            with twait:
                timer(crowd.scenario.pause, mkevent())


@tamed
def browse(crowd: Crowd, number: int) -> None:
    """A client that loads a page, then its assets over several connections, and reads it."""
    with tvars:
        i: int
    scenario = crowd.scenario
    lanes = [Lane(number) for _ in range(scenario.parallel)]
    r = Rendezvous[int]()
    while True:
        with twait:  # also before the first page, so that not all browsers start at once
            timer(crowd.numbers.expovariate(1 / scenario.think), mkevent())
        if crowd.over:
            break
        with twait:
            request(crowd, lanes[0], monotonic(), mkevent())
        free = list(range(scenario.parallel))
        asked = 0
        while asked < scenario.assets or len(free) < len(lanes):
            if asked < scenario.assets and free:
                i = free.pop()
                request(crowd, lanes[i], monotonic(), mkevent(r, i))
                asked += 1
            else:
                i = twait(r)
                free.append(i)


@tamed
def open_all(crowd: Crowd, done: Event[()]) -> None:
    """Let every client ask once, `WINDOW` at a time; their connections stay open."""
    with tvars:
        r = Rendezvous[int]()
    sent = received = 0
    while received < crowd.order.clients:
        if sent < crowd.order.clients and sent - received < WINDOW:
            request(crowd, Lane(sent), monotonic(), mkevent(r, sent))
            sent += 1
        else:
            twait(r)
            received += 1
    done.trigger()


# -- the course of a load -----------------------------------------------------------------------


@tamed
def drive(crowd: Crowd, done: Event[()]) -> None:
    """All of a load: start, warm up, measure, and wait for the answers still due."""
    order, tally = crowd.order, crowd.tally
    sweep(crowd)
    if not order.warm_up or not crowd.scenario.asks:
        tally.begin(monotonic())  # everything counts
    with twait:
        begin_all(crowd, mkevent())
    if crowd.schedule is not None:
        crowd.schedule.begin(monotonic(), math.inf)
        keep_pace(crowd, crowd.schedule)
    if order.warm_up and crowd.scenario.asks:
        with twait:
            timer(order.warm_up, mkevent())
        tally.begin(monotonic())
    if crowd.schedule is not None:
        crowd.schedule.ends = tally.begun + order.seconds
    with twait:
        timer(tally.begun + order.seconds - monotonic(), mkevent())
    tally.end(monotonic() if crowd.schedule is None else crowd.schedule.ends)
    crowd.over = crowd.schedule is None  # at a constant rate, requests that were due are still sent
    with twait:
        wait_for_the_rest(crowd, mkevent())
    done.trigger()


@tamed
def begin_all(crowd: Crowd, done: Event[()]) -> None:
    if not crowd.scenario.asks:
        open_all(crowd, done)
        return
    client = browse if crowd.scenario.assets else ask_and_ask
    began, begun = monotonic(), 0
    while begun < crowd.order.clients:
        due = math.ceil((monotonic() - began) * STARTS)  # a turn of the loop may take long
        for number in range(begun, min(due, crowd.order.clients)):
            client(crowd, number)
        begun = due
        with twait:
            timer(0.001, mkevent())
    done.trigger()


@tamed
def keep_pace(crowd: Crowd, schedule: Schedule) -> None:
    """Give each request that is due to a free client; if none is free, the next one takes it."""
    ticks = Ticks(schedule)
    try:
        while not schedule.over:
            with twait:
                wait_on_fd(ticks, READ, mkevent())
            now = ticks.clear()
            while crowd.free:
                due = schedule.take(now)
                if due is None:
                    break
                crowd.free.popleft().trigger(due)
    finally:
        ticks.close()


@tamed
def sweep(crowd: Crowd) -> None:
    while True:
        with twait:
            timer(crowd.order.timeout / 10, mkevent())
        crowd.expire()


@tamed
def wait_for_the_rest(crowd: Crowd, done: Event[()]) -> None:
    """Give requests that were begun in time as long as any other; then they have failed."""
    schedule = crowd.schedule
    give_up = monotonic() + crowd.order.timeout
    while (schedule and not schedule.over) or crowd.waiting():
        with twait:
            timer(0.01, mkevent())
        if monotonic() >= give_up:
            break
    while schedule is not None:
        due = schedule.take(math.inf)
        if due is None:
            break
        crowd.tally.failed("timeout", due, monotonic())
    for connection in crowd.waiting():
        connection.close()
    while crowd.waiting():  # until their clients have counted them
        with twait:
            timer(0.001, mkevent())
    done.trigger()


@tamed
def keep_open(crowd: Crowd, done: Event[()]) -> None:
    """Open the connections, report it, and keep them until standard input ends."""
    clients, connections, tally = crowd.order.clients, crowd.connections, crowd.tally
    tally.begin(monotonic())
    sweep(crowd)
    with twait:
        open_all(crowd, mkevent())
    if tally.errors:
        failed, kinds = f"{tally.errors.total():,}", ", ".join(tally.errors)
        done.fail(GeneratorError(f"{failed} of {clients:,} requests have failed: {kinds}"))
        return
    print("open", flush=True)
    with twait:
        wait_on_fd(0, READ, mkevent())
    closed = clients - len(connections) + sum(map(is_closed, connections))
    if closed:
        done.fail(GeneratorError(f"the server has closed {closed:,} of {clients:,} connections"))
    else:
        done.trigger()


# -- the program --------------------------------------------------------------------------------


def perform(order: Order) -> Load | None:
    """Make the load in this process; None if connections were only held.

    Raises `GeneratorError`, and `OSError` if the file to ask for cannot be read.
    """
    crowd = Crowd(order)

    @tamed
    def main() -> None:
        r = Rendezvous[str]()
        crowd.broken = mkevent(r, "broken")
        course = keep_open if order.hold else drive
        course(crowd, mkevent(r, "done"))
        twait(r)
        r.cancel()

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BlockedWarning)  # clients never end
            run(main, driver="epoll")
    finally:
        for connection in crowd.connections:
            connection.close()
    return None if order.hold else load_of(crowd)


def load_of(crowd: Crowd) -> Load:
    order, tally = crowd.order, crowd.tally
    return Load(
        generator="tame",
        scenario=order.scenario.name,
        clients=order.clients,
        seconds=tally.ended - tally.begun,
        rate=order.rate,
        connections=tally.connections,
        requests=sum(tally.answered),
        bytes=tally.bytes,
        errors=dict(tally.errors),
        latency=histogram(tally.latencies.items()),
        cpu=tally.cpu,
        fairness=jain(tally.answered),
    )


def main() -> None:
    order = msgspec.json.decode(sys.argv[1], type=Order)
    try:
        take_descriptors(order.clients * order.scenario.parallel)
        load = perform(order)
    except (GeneratorError, OSError) as error:
        sys.exit(str(error))
    if load is not None:
        print(msgspec.json.encode(load).decode())


if __name__ == "__main__":
    main()
