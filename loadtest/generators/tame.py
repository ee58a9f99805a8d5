"""A load generator in Tame: clients that ask, wait, check what they get, and ask again.

Read it from `drive`: it lets the clients begin, measures for a while, and waits for what is still
to come.  A client of most scenarios is `ask_and_ask`; `browse` and `open_all` are the other two;
each stands on `request`, one question with its answer.  Every answer is compared with the file,
byte by byte.

The module runs as a program, too: ``python -m loadtest.generators.tame JOB``, with a `Job` in
JSON; that is how `generate` and `hold` start it.
"""

from __future__ import annotations

import errno
import importlib.util
import math
import os
import random
import socket
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec

from knot.process.spawn import python
from loadtest.fileset import FileSet
from loadtest.generators import GeneratorError, Target, pinned, take_descriptors
from loadtest.generators.answer import Answer, Expected, Failed
from loadtest.generators.pace import Schedule, Ticks
from loadtest.generators.tally import Tally, histogram, jain
from loadtest.results import Load
from loadtest.scenario import SCENARIOS, Scenario
from tame import (
    READ,
    WRITE,
    BlockedWarning,
    Descriptor,
    Event,
    EventDroppedError,
    Rendezvous,
    mkevent,
    run,
    tamed,
    timer,
    tvars,
    twait,
    wait_on_fd,
)

PATIENCE: Final = 10.0
"""Seconds after which a request without an answer has failed."""

ADDRESSES: Final = [f"127.0.0.{last}" for last in range(2, 18)]
"""Where clients of a server on this machine come from: each has 28,000 ports of its own."""

BIND_ADDRESS_NO_PORT: Final = 24
"""IP_BIND_ADDRESS_NO_PORT of ip(7): the port is chosen when the peer is known, and so may be one
that is in use towards another."""

UNREACHABLE: Final = {
    errno.ECONNREFUSED,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ETIMEDOUT,
}

READ_SIZE: Final = 64 * 1024
TICK: Final = 0.125
"""Seconds between two reads of a slow reader."""

WINDOW: Final = 64
"""Connections that are opened at a time where all of them stay: no server has a queue for all."""
STARTS: Final = 10_000
"""Clients that begin in a second, for the same reason."""

RESPITE: Final = 0.1
"""Seconds before a client asks again a server that has refused it."""

REMEDY: Final = "pip install 'knot[loadtest]'"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the program is told to do."""

    target: Target
    scenario: Scenario
    root: str | None = None
    """Of the files; None checks status and length of the answers only."""
    load: int = 0
    papers: bool = False
    path: str | None = None
    clients: int
    seconds: float = 0.0
    warm_up: float = 0.0
    rate: float | None = None
    seed: int = 0
    patience: float = PATIENCE
    hold: bool = False
    """Open a connection for each client, and keep them until standard input ends."""


# -- what others call ---------------------------------------------------------------------------


def available() -> str:
    for module in ("hdrh", "msgspec"):
        if importlib.util.find_spec(module) is None:
            return f"the module {module} is not installed: {REMEDY}"
    return ""


def generate(
    target: Target,
    scenario: Scenario,
    *,
    files: FileSet,
    path: str | None,
    clients: int,
    seconds: float,
    warm_up: float,
    rate: float | None,
    seed: int,
    core: int | None,
) -> Load:
    """See `loadtest.generators.generate`; all scenarios, a constant rate for those without pauses.

    A crowd that is idle is measured from its first connection on, whatever `warm_up` says.
    """
    if rate is not None and not takes_rate(scenario):
        able = ", ".join(name for name, each in SCENARIOS.items() if takes_rate(each))
        raise GeneratorError(
            f"the scenario {scenario.name} has a pace of its own: a constant rate goes with {able}"
        )
    job = Job(
        target=target,
        scenario=scenario,
        root=str(files.root),
        load=files.load,
        papers=files.papers,
        path=path,
        clients=clients,
        seconds=seconds,
        warm_up=warm_up,
        rate=rate,
        seed=seed,
    )
    longest = clients / 1000 + warm_up + seconds + 3 * PATIENCE
    try:
        done = subprocess.run(
            command(job, core), capture_output=True, timeout=longest, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise GeneratorError(f"the generator tame has not ended after {longest:.0f} s") from None
    if done.returncode != 0:
        message = done.stderr.decode(errors="replace").strip()
        raise GeneratorError(message or f"the generator tame has ended with {done.returncode}")
    return msgspec.json.decode(done.stdout, type=Load)


@contextmanager
def hold(target: Target, number: int, path: str, *, core: int | None = None) -> Iterator[None]:
    """Connections that have had one answer each and say nothing more, all open within the block.

    Raises `GeneratorError` if one could not be opened, or, after the block, if the server has
    closed any meanwhile: what was measured then is not what `number` connections cost.
    """
    job = Job(target=target, scenario=SCENARIOS["idle"], path=path, clients=number, hold=True)
    with subprocess.Popen(
        command(job, core), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
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


def command(job: Job, core: int | None) -> list[str]:
    encoded = msgspec.json.encode(job).decode()
    return pinned(python("-m", "loadtest.generators.tame", encoded), core)


# -- a connection, between two waits ------------------------------------------------------------


class Connection(Descriptor):
    """A connection to the server; a request is under way on it while `answer` is there."""

    __slots__ = ("answer", "asked", "began", "request", "uses")

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.answer: Answer | None = None
        self.asked = 0.0
        """When the request was sent, or something of its answer came to a slow reader."""
        self.began = 0.0
        """When it should have been sent."""
        self.request = b""
        self.uses = 0
        """Requests."""


class Lane:
    """Where a client has a connection, if it has one."""

    __slots__ = ("client", "connection")

    def __init__(self, client: int) -> None:
        self.client = client
        self.connection: Connection | None = None


class Crowd:
    """What all clients share."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.scenario = job.scenario
        self.address = (job.target.host, job.target.port)
        self.local = job.target.host.startswith("127.")
        self.tally = Tally(job.clients)
        self.connections: set[Connection] = set()
        self.over = False
        self.schedule = Schedule(job.rate) if job.rate else None
        self.free: deque[Event[float]] = deque()
        """Clients that wait until a request is due."""
        self.numbers = random.Random(job.seed)
        self.files = FileSet(Path(job.root or "."), job.load, papers=job.papers)
        self.expected = Expected(Path(job.root)) if job.root else None
        self.read_size = int(job.scenario.slow * TICK) if job.scenario.slow else READ_SIZE
        target = job.target
        self.before = f"GET {target.path('')}".encode()
        host = f" HTTP/1.1\r\nHost: {target.host}:{target.port}\r\n"
        self.after = f"{host}\r\n".encode(), f"{host}Connection: close\r\n\r\n".encode()
        """What stands after the path, in a request and in the last one on its connection."""
        self.broken: Event[()] = Event()
        """Fails with an error that is not the server's."""

    def connect(self, lane: Lane) -> Connection:
        """Begin to connect; the first `send` will tell whether that was possible."""
        end = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            if self.scenario.slow:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.scenario.slow // 2)
            if self.local:
                end.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
                end.bind((ADDRESSES[lane.client % len(ADDRESSES)], 0))
            error = end.connect_ex(self.address)
            if error not in (0, errno.EINPROGRESS):
                raise OSError(error, os.strerror(error))
        except OSError as error:
            end.close()
            if error.errno == errno.EADDRNOTAVAIL:
                raise GeneratorError(
                    "the generator tame has no port left for another connection: take fewer"
                    " clients, or let the server rest for a minute between two loads"
                ) from None
            raise
        connection = lane.connection = Connection(end.detach())
        self.connections.add(connection)
        return connection

    def ready(self, lane: Lane, began: float) -> Connection:
        """The lane's connection with a request that is to be sent on it."""
        connection = lane.connection
        if connection is not None and (self.scenario.pause or self.scenario.think):
            connection = self.looked_at(lane, connection)
        if connection is None:
            connection = self.connect(lane)
        connection.uses += 1
        last = connection.uses == self.scenario.requests
        name = self.job.path or self.files.draw(self.numbers)
        connection.request = self.before + name.encode() + self.after[last]
        connection.answer = Answer(self.expected.content(name) if self.expected else None)
        connection.began = began
        connection.asked = monotonic() if self.schedule else began
        return connection

    def looked_at(self, lane: Lane, connection: Connection) -> Connection | None:
        """After a pause: the connection, unless the server has closed it, as it may."""
        if is_closed(connection):
            self.close(lane)
            return None
        return connection

    def close(self, lane: Lane) -> None:
        connection, lane.connection = lane.connection, None
        if connection is not None:
            self.connections.discard(connection)
            connection.answer = None
            connection.close()

    def send(self, connection: Connection) -> bool:
        """Send the request; whether that was possible, or has to wait for the connection."""
        try:
            os.write(connection.fd, connection.request)  # there is room: all else has been read
        except BlockingIOError:
            return False
        if connection.uses == 1:
            self.tally.connected(monotonic())
        return True

    def receive(self, connection: Connection) -> bool:
        """Take what has come; whether the answer is whole.  Raises `Failed`, `OSError`."""
        assert connection.answer is not None
        try:
            data = os.read(connection.fd, self.read_size)
        except BlockingIOError:
            return False
        if self.scenario.slow:
            connection.asked = monotonic()
            self.tally.took(len(data), connection.asked)
        if not data:
            connection.answer.end()
            connection.answer.last = True
            return True
        return connection.answer.take(data)

    def right(self, lane: Lane, connection: Connection) -> None:
        """The answer is there, and right."""
        answer = connection.answer
        assert answer is not None
        connection.answer = None
        now, began = monotonic(), connection.began
        size = 0 if self.scenario.slow else answer.received
        self.tally.right(lane.client, began if self.schedule else now, now - began, size)
        if answer.last or connection.uses == self.scenario.requests:
            self.close(lane)

    def wrong(self, lane: Lane, began: float, error: Exception) -> bool:
        """The request has failed; whether the server has refused the connection."""
        connection = lane.connection
        received = connection.answer.received if connection and connection.answer else 0
        self.close(lane)
        kind = kind_of(error, received)
        if kind:
            self.tally.failed(kind, began, monotonic())
        elif not self.over:
            self.over = True
            self.broken.fail(error)
        return kind == "refused"

    def turn(self, event: Event[float]) -> None:
        """Trigger it, with the time at which that was due, when another request is due."""
        assert self.schedule is not None
        due = self.schedule.take(monotonic())
        if due is None:
            self.free.append(event)
        else:
            event.trigger(due)

    def look_at_the_clock(self) -> None:
        """End the requests whose answers take too long; the clients that wait for them are told."""
        limit = monotonic() - self.job.patience
        for connection in self.connections:
            if connection.answer is not None and connection.asked <= limit:
                connection.close()

    def waiting(self) -> list[Connection]:
        """Those without an answer yet; a slow reader that has some of it does not wait."""
        slow = self.scenario.slow is not None
        return [
            connection
            for connection in self.connections
            if connection.answer is not None and not (slow and connection.answer.received)
        ]


def kind_of(error: Exception, received: int) -> str:
    """What `Load.errors` calls it; empty if it is no failure of the server."""
    if isinstance(error, Failed):
        return error.kind
    if isinstance(error, EventDroppedError):
        return "timeout"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "cut" if received else "closed"
    unreachable = isinstance(error, OSError) and error.errno in UNREACHABLE
    return "refused" if unreachable else ""


# -- the clients --------------------------------------------------------------------------------


@tamed
def request(crowd: Crowd, lane: Lane, began: float, done: Event[()]) -> None:
    """Ask for a file and wait until the answer is whole."""
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
    """A client that has no end."""
    with tvars:
        due: float
    lane = Lane(number)
    while not crowd.over:
        if crowd.schedule is None:
            due = monotonic()
        else:
            with twait:
                crowd.turn(mkevent(due))
        with twait:
            request(crowd, lane, due, mkevent())
        if crowd.scenario.pause:
            with twait:
                timer(crowd.scenario.pause, mkevent())


@tamed
def browse(crowd: Crowd, number: int) -> None:
    """A page on one connection, what belongs to it on several at once, a while to read it."""
    with tvars:
        i: int
    scenario = crowd.scenario
    lanes = [Lane(number) for _ in range(scenario.parallel)]
    r = Rendezvous[int]()
    while True:
        with twait:  # at first, too: so the browsers begin as they go on, at any time
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
    """Let every client ask once, some at a time; their connections stay open."""
    with tvars:
        r = Rendezvous[int]()
    sent = received = 0
    while received < crowd.job.clients:
        if sent < crowd.job.clients and sent - received < WINDOW:
            request(crowd, Lane(sent), monotonic(), mkevent(r, sent))
            sent += 1
        else:
            twait(r)
            received += 1
    done.trigger()


# -- the course of it ---------------------------------------------------------------------------


@tamed
def drive(crowd: Crowd, done: Event[()]) -> None:
    """All of a load: begin, warm up, measure, and wait for what is still to come."""
    job, tally = crowd.job, crowd.tally
    sweep(crowd)
    if not job.warm_up or not crowd.scenario.asks:
        tally.begin(monotonic())  # everything counts
    with twait:
        begin_all(crowd, mkevent())
    if crowd.schedule is not None:
        crowd.schedule.begin(monotonic(), math.inf)
        keep_pace(crowd, crowd.schedule)
    if job.warm_up and crowd.scenario.asks:
        with twait:
            timer(job.warm_up, mkevent())
        tally.begin(monotonic())
    if crowd.schedule is not None:
        crowd.schedule.ends = tally.begun + job.seconds
    with twait:
        timer(tally.begun + job.seconds - monotonic(), mkevent())
    tally.end(monotonic() if crowd.schedule is None else crowd.schedule.ends)
    crowd.over = crowd.schedule is None  # what was due and has waited is asked for all the same
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
    while begun < crowd.job.clients:
        due = math.ceil((monotonic() - began) * STARTS)  # a turn may take long by now
        for number in range(begun, min(due, crowd.job.clients)):
            client(crowd, number)
        begun = due
        with twait:
            timer(0.001, mkevent())
    done.trigger()


@tamed
def keep_pace(crowd: Crowd, schedule: Schedule) -> None:
    """Give each request that is due to a client that is free; if none is, the next one takes it."""
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
            timer(crowd.job.patience / 10, mkevent())
        crowd.look_at_the_clock()


@tamed
def wait_for_the_rest(crowd: Crowd, done: Event[()]) -> None:
    """Requests that were begun in time have as long as any other; then they have failed."""
    schedule = crowd.schedule
    give_up = monotonic() + crowd.job.patience
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
    """Open the connections, say so, and keep them until nobody needs them any more."""
    clients, connections, tally = crowd.job.clients, crowd.connections, crowd.tally
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


def is_closed(connection: Connection) -> bool:
    try:
        return not os.read(connection.fd, 1)
    except BlockingIOError:
        return False
    except OSError:
        return True


# -- the program --------------------------------------------------------------------------------


def perform(job: Job) -> Load | None:
    """Do it in this process; None for connections that were only held.

    Raises `GeneratorError`, and `OSError` where the file to ask for cannot be read.
    """
    crowd = Crowd(job)

    @tamed
    def main() -> None:
        r = Rendezvous[str]()
        crowd.broken = mkevent(r, "broken")
        course = keep_open if job.hold else drive
        course(crowd, mkevent(r, "done"))
        twait(r)
        r.cancel()

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BlockedWarning)  # clients have no end
            run(main, driver="epoll")
    finally:
        for connection in crowd.connections:
            connection.close()
    return None if job.hold else told(crowd)


def told(crowd: Crowd) -> Load:
    job, tally = crowd.job, crowd.tally
    return Load(
        generator="tame",
        scenario=job.scenario.name,
        clients=job.clients,
        seconds=tally.ended - tally.begun,
        rate=job.rate,
        connections=tally.connections,
        requests=sum(tally.answered),
        bytes=tally.bytes,
        errors=dict(tally.errors),
        latency=histogram(tally.latencies.items()),
        cpu=tally.cpu,
        fairness=jain(tally.answered),
    )


def main() -> None:
    job = msgspec.json.decode(sys.argv[1], type=Job)
    try:
        take_descriptors(job.clients * job.scenario.parallel)
        load = perform(job)
    except (GeneratorError, OSError) as error:
        sys.exit(str(error))
    if load is not None:
        print(msgspec.json.encode(load).decode())


if __name__ == "__main__":
    main()
