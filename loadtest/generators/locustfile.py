"""The scenarios as users of locust: for many machines, and for watching a load live.

    locust -f loadtest/generators/locustfile.py --host http://127.0.0.1:8000 --class-picker

`docs/loadtest.md` has more; ``make loadtest-watch`` does it all.  locust loads this file, gives
each user a greenlet, shares users out to workers and draws its page.  What is ours:

* **The client.**  locust's own `FastHttpUser` asks again when a server drops a connection, which
  hides it, and beyond descriptor 1,023 makes a new connection for each request, since it looks at
  kept ones with select(2).  Here a dropped connection is a failure, and connections are counted.
* **The figures.**  locust rounds latencies to whole milliseconds.  Ours are kept in microseconds by
  the same `Tally` as those of the other generators, and handed on as a `Load`: by workers to their
  master, by the master or a lone process to its log and to the file ``--outcome``.
* **A constant rate.**  locust's `constant_throughput` forgets what a slow answer has delayed.  Here
  each user keeps a schedule, and a latency begins when its request was due.

Files are those of SPECweb99 (``--load`` as the server has them), or the one of ``--path``.  Every
answer is compared with what the name says it has in it, so a worker needs no copy of the files.
"""

from __future__ import annotations

import errno
import logging
import random
import socket
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import gevent
import msgspec
from gevent.pool import Group
from locust import LoadTestShape, User, events, task
from locust.env import Environment
from locust.exception import StopTest
from locust.runners import MasterRunner, WorkerRunner

from loadtest.fileset import FileSet
from loadtest.generators.answer import Answer, Failed
from loadtest.generators.locust import PATIENCE, describe, merged
from loadtest.generators.tally import Tally, histogram, jain
from loadtest.results import Load
from loadtest.scenario import SCENARIOS, Scenario

RESPITE: Final = 0.1
"""Seconds before a user asks again a server that has failed it."""
READ_SIZE: Final = 64 * 1024
TICK: Final = 0.125
"""Seconds between two reads of a slow reader."""
OVER: Final = 86_400.0
"""Seconds that a user waits when the measured time is over: it is ended before."""
KNOWN: Final = 1_000
"""Contents of files that are remembered."""
ADDRESSES: Final = [f"127.0.0.{last}" for last in range(2, 18)]
"""Where users of a server on this machine come from: each has 28,000 ports of its own."""
BIND_ADDRESS_NO_PORT: Final = 24
"""IP_BIND_ADDRESS_NO_PORT of ip(7): the port is chosen when the peer is known, and so may be one
that is in use towards another."""

log = logging.getLogger("loadtest")


# -- options ------------------------------------------------------------------------------------


def add_options(parser: ArgumentParser, **_: Any) -> None:
    add = parser.add_argument_group("Knot's experiment").add_argument
    add("--load", type=int, default=10, help="Connections that the server's file set is made for")
    add("--papers", action="store_true", help="Draw as SEDA's and Capriccio's clients did")
    add("--path", default="", help="The one file to ask for, not the mix")
    add("--files", default="", help="Directory of --path, if it is not of the file set")
    add("--file-seed", type=int, default=0, help="Of the file set's bytes")
    add("--seed", type=int, default=0, help="Of what is drawn")
    add("--rate-each", type=float, default=0.0, help="Requests a second of each user")
    add("--warm-up", type=float, default=0.0, help="Seconds before those that are measured")
    add("--measure", type=float, default=0.0, help="Seconds; 0 measures from start to stop")
    add("--patience", type=float, default=PATIENCE, help="Seconds until silence is a failure")
    add("--outcome", default="", help="File for what was measured, as JSON")
    add("--shape", default="", choices=["", "Steps", "Hold"], help="How users come and go")


# -- what the users of this process share -------------------------------------------------------


class Session:
    """From the start of a test to its end."""

    def __init__(self, environment: Environment) -> None:
        options = environment.parsed_options
        assert options is not None
        self.environment = environment
        self.options = options
        self.files = FileSet(
            Path(options.files), options.load, seed=options.file_seed, papers=options.papers
        )
        self.content = lru_cache(KNOWN)(self.read)
        self.tally = Tally(0)
        self.users: list[Client] = []
        self.timed = False
        self.ended = False
        kinds: list[Any] = list(environment.user_classes)
        asks = any(kind.scenario.asks for kind in kinds)
        if not asks or not options.measure:
            self.tally.begin(monotonic())

    def join(self, user: Client) -> int:
        """The number of a new user."""
        self.users.append(user)
        self.tally.answered.append(0)
        return len(self.users) - 1

    def draw(self, numbers: random.Random) -> str:
        name: str = self.options.path
        return name or self.files.draw(numbers)

    def read(self, name: str) -> bytes:
        if self.files.has(name):
            return self.files.content(name)
        return (self.files.root / name).read_bytes()

    def measure(self) -> None:
        """Warm up, measure, and hand on what was seen; once, however often users are added."""
        if self.timed or not self.options.measure:
            return
        self.timed = True
        if self.tally.begun == inf:
            gevent.sleep(self.options.warm_up)
            self.tally.begin(monotonic())
        gevent.sleep(self.tally.begun + self.options.measure - monotonic())
        self.tally.end(monotonic())
        self.wait_for_the_rest()
        self.hand_on()

    def wait_for_the_rest(self) -> None:
        """Requests that were begun in time have as long as any other; then they have failed.

        Slow readers are not waited for: they need minutes for a file.
        """
        give_up = monotonic() + self.options.patience
        asked = [user for user in self.users if user.scenario.slow is None]
        late = [each for user in asked for each in user.pending if each.began < self.tally.ended]
        while monotonic() < give_up and not all(each.over for each in late):
            gevent.sleep(0.01)
        for each in late:
            if not each.over:
                self.tally.failed("timeout", each.began, monotonic())

    def hand_on(self) -> None:
        """Give what was seen to the master, or to whoever reads the log and the outcome."""
        if self.ended:
            return
        self.ended = True
        runner = self.environment.runner
        if isinstance(runner, WorkerRunner):
            runner.send_message("load", msgspec.to_builtins(self.load()))
        else:
            conclude(self.environment, self.load())

    def load(self) -> Load:
        """What the users of this process have seen."""
        tally, rate = self.tally, self.options.rate_each
        return Load(
            generator="locust",
            scenario=", ".join(sorted({user.scenario.name for user in self.users})),
            clients=len(self.users),
            seconds=tally.ended - tally.begun,
            rate=rate * len(self.users) if rate else None,
            connections=tally.connections,
            requests=sum(tally.answered),
            bytes=tally.bytes,
            errors=dict(tally.errors),
            latency=histogram(tally.latencies.items()),
            cpu=tally.cpu,
            fairness=jain(tally.answered),
        )


def conclude(environment: Environment, load: Load) -> None:
    """The end of a test, where its results are read: at the master, or in the only process."""
    runner, options = environment.runner, environment.parsed_options
    assert runner is not None
    assert options is not None
    log.info("%s", describe(load))
    if options.outcome and not runner.exceptions:  # those are of this file, never of a server
        Path(options.outcome).write_bytes(msgspec.json.encode(load))
    if options.measure and options.headless:
        gevent.spawn(runner.quit)  # which ends the greenlet that we are in


# -- the course of a test -----------------------------------------------------------------------


session: Session | None = None
"""Of the test that runs, or ran last."""


class Gathering:
    """What a master, which has no session, gets from its workers."""

    workers = 0
    loads: ClassVar[list[Load]] = []


def on_init(environment: Environment, **_: Any) -> None:
    runner, options = environment.runner, environment.parsed_options
    assert options is not None
    environment.shape_class = None  # unasked, locust has taken the first
    if options.shape:
        assert environment.available_shape_classes is not None
        environment.shape_class = environment.available_shape_classes[options.shape]
        environment.shape_class.runner = runner
    if isinstance(runner, MasterRunner):
        runner.register_message("load", on_load)


def on_load(environment: Environment, msg: Any) -> None:
    """A worker has ended; its `Load` has come."""
    Gathering.loads.append(msgspec.convert(msg.data, Load))
    if len(Gathering.loads) == Gathering.workers:
        conclude(environment, merged(Gathering.loads))


def on_test_start(environment: Environment, **_: Any) -> None:
    global session
    if isinstance(environment.runner, MasterRunner):
        Gathering.workers = environment.runner.worker_count
        Gathering.loads.clear()
    else:
        session = Session(environment)


def on_spawning_complete(**_: Any) -> None:
    if session is not None:
        gevent.spawn(session.measure)


def on_test_stop(**_: Any) -> None:
    """Stopped by hand, or by a shape that has come to its end; what has its time ends itself."""
    if session is None or session.options.measure:
        return
    session.tally.end(monotonic())
    session.hand_on()


LISTENERS: Final = {
    events.init_command_line_parser: add_options,
    events.init: on_init,
    events.test_start: on_test_start,
    events.spawning_complete: on_spawning_complete,
    events.test_stop: on_test_stop,
}
for event, listener in LISTENERS.items():
    event.add_listener(listener)  # type: ignore[no-untyped-call]


# -- a connection -------------------------------------------------------------------------------


class Pending:
    """A request without an answer yet."""

    __slots__ = ("began", "over")

    def __init__(self, began: float) -> None:
        self.began = began
        self.over = False


@lru_cache
def address_of(name: str) -> str:
    """Looked up once: a look-up for each connection would be measured, too."""
    return socket.gethostbyname(name)


class Connection:
    """One connection at a time to the server, made when it is needed."""

    def __init__(self, session: Session, host: str, number: int, scenario: Scenario) -> None:
        self.session = session
        url = urlsplit(host)
        self.address = (address_of(url.hostname or ""), url.port or 80)
        self.prefix = url.path.rstrip("/")
        self.host = url.netloc
        self.local = self.address[0].startswith("127.")
        self.number = number
        self.scenario = scenario
        self.socket: socket.socket | None = None
        self.uses = 0

    def get(self, name: str, expected: bytes) -> Answer:
        """The answer to a request for `name`; raises `Failed` unless it is the right one."""
        answer = Answer(expected)
        slow = self.scenario.slow
        size = int(slow * TICK) if slow else READ_SIZE
        try:
            connection = self.socket or self.connect()
            self.uses += 1
            last = self.uses == self.scenario.requests
            connection.sendall(self.request(name, last))
            while not answer.take(data := connection.recv(size)):
                if not data:
                    answer.end()
                    last = True
                    break
                if slow:
                    gevent.sleep(TICK)
        except TimeoutError:
            raise Failed("timeout") from None
        except OSError:
            raise Failed("cut" if answer.received else "closed") from None
        if last or answer.last:
            self.close()
        return answer

    def request(self, name: str, last: bool) -> bytes:
        head = f"GET {self.prefix}/{name} HTTP/1.1\r\nHost: {self.host}\r\n"
        return f"{head}Connection: close\r\n\r\n".encode() if last else f"{head}\r\n".encode()

    def connect(self) -> socket.socket:
        connection = socket.socket()
        connection.settimeout(self.session.options.patience)
        if self.scenario.slow:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.scenario.slow // 2)
        try:
            if self.local:
                connection.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
                connection.bind((ADDRESSES[self.number % len(ADDRESSES)], 0))
            connection.connect(self.address)
        except OSError as error:
            connection.close()
            if error.errno == errno.EADDRNOTAVAIL:
                raise StopTest(
                    "no port is left for another connection: take fewer users, or let the server"
                    " rest for a minute between two loads"
                ) from None
            raise Failed("refused") from None
        self.uses = 0
        self.socket = connection
        self.session.tally.connected(monotonic())
        return connection

    def closed_meanwhile(self) -> bool:
        """After a pause: whether the server has closed the connection, as it may."""
        if self.socket is None:
            return False
        self.socket.settimeout(0)
        try:
            if self.socket.recv(1):
                raise Failed("wrong")  # nobody has asked
        except BlockingIOError:
            self.socket.settimeout(self.session.options.patience)
            return False
        except OSError:
            pass
        return True

    def wait_for_end(self) -> None:
        """Say nothing until the server closes the connection."""
        assert self.socket is not None
        self.socket.settimeout(None)
        with suppress(OSError):
            self.socket.recv(1)
        self.close()

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None


# -- users --------------------------------------------------------------------------------------


class Client(User):
    """A user of a scenario, whose numbers are all in `loadtest.scenario`."""

    abstract = True
    scenario: ClassVar[Scenario]

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        assert session is not None
        self.session = session
        self.number = session.join(self)
        options, runner = session.options, environment.runner
        process = runner.worker_index if isinstance(runner, WorkerRunner) else 0
        self.numbers = random.Random(f"{options.seed} {process} {self.number}")
        self.connections = [
            Connection(session, self.host or "", self.number, self.scenario)
            for _ in range(self.scenario.parallel)
        ]
        self.interval = (1 + self.scenario.assets) / options.rate_each if options.rate_each else 0.0
        self.due = inf
        """At a constant rate, when the next request is to be made."""
        self.failing = False
        self.pending: set[Pending] = set()

    def on_start(self) -> None:
        """Begin at any time of an interval, lest all users ask at once."""
        delay = self.numbers.uniform(0, self.interval) if self.interval else self.think()
        if self.interval:
            self.due = monotonic() + delay
        gevent.sleep(delay)

    def think(self) -> float:
        mean = self.scenario.think
        return self.numbers.expovariate(1 / mean) if mean else 0.0

    def on_stop(self) -> None:
        for connection in self.connections:
            connection.close()

    def wait_time(self) -> float:
        """Seconds until the next `act`; locust asks after each."""
        if self.session.tally.ended < inf:
            return OVER
        if self.interval:
            self.due += self.interval
            return max(0.0, self.due - monotonic())
        if self.failing:
            return RESPITE
        return self.think() or self.scenario.pause

    @task
    def act(self) -> None:
        self.ask(self.connections[0], min(self.due, monotonic()))

    def ask(self, connection: Connection, began: float) -> None:
        """Get a file that should have been asked for at `began`, look at it and count it."""
        name = self.session.draw(self.numbers)
        expected = self.session.content(name)
        pending = Pending(began)
        self.pending.add(pending)
        failure, size = None, 0
        try:
            rested = self.scenario.pause or self.scenario.think or self.interval or self.failing
            if rested and connection.closed_meanwhile():
                connection.close()
            size = connection.get(name, expected).received
        except Failed as error:
            failure = error
            connection.close()
        finally:
            self.pending.discard(pending)
        pending.over = True
        now = monotonic()
        self.failing = failure is not None
        if failure is None:
            counts = began if self.interval else now
            self.session.tally.right(self.number, counts, now - began, size)
        else:
            self.session.tally.failed(failure.kind, began, now)
        self.environment.events.request.fire(
            request_type=self.scenario.name,
            name=self.session.options.path or name.rpartition("/")[2].partition("_")[0],
            response_time=(now - began) * 1000,
            response_length=size,
            exception=failure,
            context={},
        )


class One(Client):
    scenario = SCENARIOS["one"]


class Five(Client):
    scenario = SCENARIOS["five"]


class FivePaused(Client):
    scenario = SCENARIOS["five-paused"]


class Kept(Client):
    scenario = SCENARIOS["kept"]


class Slow(Client):
    scenario = SCENARIOS["slow"]


class Browsers(Client):
    scenario = SCENARIOS["browsers"]

    @task
    def act(self) -> None:
        """A page, then what belongs to it over all connections at once."""
        self.ask(self.connections[0], min(self.due, monotonic()))
        assets = iter(range(self.scenario.assets))
        group = Group()
        try:
            for connection in self.connections:
                group.spawn(self.load_some, connection, assets)
            group.join(raise_error=True)
        finally:
            group.kill()

    def load_some(self, connection: Connection, assets: Iterator[int]) -> None:
        for _ in assets:
            self.ask(connection, monotonic())


class Idle(Client):
    scenario = SCENARIOS["idle"]

    @task
    def act(self) -> None:
        self.ask(self.connections[0], monotonic())
        if self.connections[0].socket is not None:
            self.connections[0].wait_for_end()


# -- how users come and go ----------------------------------------------------------------------


def run_time(shape: LoadTestShape) -> float:
    return float(shape.get_run_time())  # type: ignore[no-untyped-call]


class Steps(LoadTestShape):
    """1, 2, 4 … 1,024 users: the curve of SEDA and Capriccio."""

    use_common_options = True
    seconds = 10
    most = 1024

    def tick(self) -> tuple[int, float] | None:
        users = 2 ** int(run_time(self) / self.seconds)
        return (users, users) if users <= self.most else None


class Hold(LoadTestShape):
    """Up to --users within a quarter of --run-time (a minute, if not given), and holding them."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        users, seconds = options.num_users or 1, options.run_time or 60
        if run_time(self) > seconds:
            return None
        return users, max(1.0, users / (seconds / 4))
