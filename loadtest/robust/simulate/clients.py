"""Clients of all kinds, as tamed functions: what each does, and what it must see.

A `Visit` is one connection, which goes as its plan has it.  `write` and `read` do that, and `judge`
says in the end whether the server may have done what it did.
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil, inf
from random import Random
from typing import Any, Final

from knot import Limits
from knot.models.closing import SWEEP
from loadtest.robust.simulate.plans import Plan, new_plan
from loadtest.robust.simulate.truth import IN_PLACE, Answer, Ask, Files, may_be, seconds
from tame import (
    READ,
    WRITE,
    Descriptor,
    Event,
    Rendezvous,
    mkevent,
    now,
    tamed,
    timer,
    tvars,
    twait,
    wait_on_fd,
)
from tame.testing.simulation import EPOCH, Simulation
from tame.testing.streams import End, Listener

PATIENCE: Final = 300.0
"""Seconds after which a client takes the server for dead: longer than all that may take a while."""

MOMENT: Final = 1e-6
"""Seconds by which times may differ, because they are sums of floating-point numbers."""

DISK: Final = 0.5
"""Seconds that a job for a disk takes at most."""

ACCEPTED_WITHIN: Final = 2.0
"""Seconds, though descriptors may be short now and then."""


class Peers(list[Any]):
    """The server's connections, in the order of their coming: that of a set would be another in
    each process."""

    def __init__(self, world: Simulation, most: int) -> None:
        super().__init__()
        self.world = world
        self.most = most
        self.admitted: set[str] = set()
        self.full: list[tuple[float, float]] = []
        """From when until when there were as many as there may be."""

    def add(self, peer: Any) -> None:
        self.append(peer)
        self.admitted.add(self.world.end(peer.fd).name[:-1])
        if len(self) > self.most:
            self.world.complain(f"{len(self)} connections, of which {self.most} may be")
        if len(self) == self.most:
            self.full.append((now(), inf))

    def discard(self, peer: Any) -> None:
        if peer in self:
            if len(self) == self.most:
                self.full[-1] = (self.full[-1][0], now())
            self.remove(peer)

    def were_full(self, when: float) -> bool:
        return any(start <= when <= stop for start, stop in self.full)


@dataclass
class Crowd:
    """What all the clients share."""

    world: Simulation
    listener: Listener
    files: Files
    limits: Limits
    peers: Peers
    told: float = inf
    """When the server was told to stop."""
    gently: bool = False
    cut: float = inf
    """From when on it may cut what is under way."""
    killed: bool = False
    """Whether it was told a second time, and so has to go at once."""
    visits: list[Visit] = field(default_factory=list)

    @property
    def random(self) -> Random:
        return self.world.random


# -- one connection ------------------------------------------------------------------------------


class Wrong(Exception):  # noqa: N818  (what has happened, not what it is)
    """An answer that ought not to be."""


class Visit:
    """One connection, from its beginning to the verdict."""

    def __init__(self, crowd: Crowd, name: str, plan: Plan) -> None:
        self.crowd = crowd
        self.world = crowd.world
        self.name = name
        self.plan = plan
        self.peer = Descriptor(self.world.connect(crowd.listener, name))
        self.end: End = self.world.end(self.peer.fd)
        self.end.blocking = False
        self.server: End = self.end.other
        self.asked: list[Ask] = []
        self.sent = 0
        self.got = 0
        """Bytes."""
        self.answers: list[Answer] = []
        self.buffer = b""
        self.over = False
        """Whether nothing more will come, or nothing more is wanted."""
        self.ended = ""
        """What this client has seen of the end."""
        self.closing = False
        """Whether the last answer has said that it is the last."""
        self.whole = 0
        """Bytes of the buffer that there have to be for the next answer."""
        self.half_closed = self.left = False
        self.complete: Event[()] = Event()
        if plan.ending == "deaf":
            self.end.inbox_room, self.server.outbox_room = 1_000, 4_000

    # Answers

    def take(self, data: bytes) -> None:
        self.got += len(data)
        self.buffer += data
        while self.buffer and len(self.buffer) >= self.whole:
            answer = self._parse()
            if answer is None:
                return
            self._check(answer)
        if len(self.answers) == len(self.asked):
            self.go_on()

    def go_on(self) -> None:
        """Wake who waits for the answers to all that was asked."""
        complete, self.complete = self.complete, Event()
        complete.trigger()

    def _parse(self) -> Answer | None:
        """The next answer (RFC 9112, section 6.3), if all of it is there."""
        before, separator, rest = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return None
        line, *lines = before.decode().split("\r\n")
        version, _, status = line.partition(" ")
        if version != "HTTP/1.1" or not status[:3].isdigit():
            raise Wrong(f"{line!r} is no answer")
        pairs = [entry.split(": ", 1) for entry in lines]
        fields = {name.lower(): value for name, value in pairs}
        if len(fields) != len(pairs):
            raise Wrong(f"a field comes twice: {lines}")
        number = int(status[:3])
        ask = self.asked[len(self.answers)] if len(self.answers) < len(self.asked) else Ask()
        # Who is refused before the request was read gets all of the refusal.
        unread = number == 408 or self.name not in self.crowd.peers.admitted
        bare = number in (204, 304) or (ask.method == "HEAD" and not unread)
        size = 0 if bare else int(fields["content-length"])
        self.whole = len(before) + 4 + size
        if len(rest) < size:
            return None
        self.whole = 0
        self.buffer = rest[size:]
        return Answer(number, fields, rest[:size])

    def _check(self, answer: Answer) -> None:
        number = len(self.answers)
        self.answers.append(answer)
        self.world.note(f"{self.name} has {answer.status} {len(answer.body)}")
        if self.closing:
            raise Wrong("an answer after the last one")
        says_close = answer.fields.get("connection") == "close"
        self.closing = says_close
        if answer.status == 408 and self.plan.ending in ("dribble", "stuck"):
            return
        if answer.status == 408 and self.plan.piece < 1000:
            return  # it has been slow
        if answer.status == 503:
            if self.name not in self.crowd.peers.admitted:
                return
            if number < len(self.asked) and self._disk_failed(self.asked[number].sent):
                return
        if number >= len(self.asked):
            raise Wrong(f"an answer, {answer.status}, to no request")
        ask = self.asked[number]
        why = may_be(ask, answer, self.crowd.files)
        if why:
            raise Wrong(f"{ask.method} {ask.target} {ask.fields} {ask.ranges}: {why}")
        date = answer.fields["date"]
        if not int(ask.sent) <= seconds(date) - EPOCH <= int(now()):
            raise Wrong(f"the date is {date}")
        if not ask.keep and not says_close:
            raise Wrong(f"{ask.method} {ask.target} was to be the last, and the answer is not")
        last = number + 1 >= self.crowd.limits.requests
        if last and not says_close:
            raise Wrong(f"answer {number + 1} does not end the connection")
        if ask.keep and says_close and not last and now() < self.crowd.told:
            raise Wrong(f"{ask.method} {ask.target}: the connection ends without a reason")
        if ask.old and not says_close and answer.fields.get("connection") != "keep-alive":
            raise Wrong("HTTP/1.0, and the answer does not say that the connection is kept")

    def _disk_failed(self, since: float) -> bool:
        return any(when >= since for when in self.world.disk_errors)

    # The verdict

    def judge(self) -> None:
        """Whether the connection may have ended as it has."""
        server = self.server
        if server.waits_since is not None:
            seen_at = server.accepted_at or server.ended_at or now()
            if seen_at - server.waits_since > ACCEPTED_WITHIN:
                raise Wrong("the connection has waited for long to be accepted")
        if self.left or server.disturbed or server.refused:
            return
        if server.accepted_at is None:
            if self.crowd.told == inf:
                raise Wrong("nobody has accepted the connection")
            return
        if self.name not in self.crowd.peers.admitted:
            if not self.crowd.peers.were_full(server.accepted_at):
                raise Wrong("it was turned away, though there was room")
            return
        if server.ended_at is None:
            raise Wrong("the server has left the connection open")
        late = bool(self.answers) and self.answers[-1].status == 408
        if self.closing and not self.buffer and not late:
            stayed = server.ended_at - server.writes[-1][0]
            if stayed > MOMENT:
                raise Wrong(f"it was to be closed after the answer, and was {stayed:.1f} s later")
            return
        missing = len(self.answers) < len(self.asked)
        if self.half_closed and not missing and not self.buffer:
            return
        if self._disk_failed(server.accepted_at) or (missing and self._is_torn()):
            return
        if self.crowd.told <= server.ended_at:
            # What it sent after that has met a closed connection, and a reset overtakes answers.
            crossed = self.end.is_reset and self.sent > server.taken_in
            waits = (self.buffer and not crossed) or (self.crowd.gently and missing)
            if not waits:
                return
        closed_at = server.closed_at or 0.0
        if max(server.ended_at, closed_at) >= self.crowd.cut:
            return
        if closed_at - server.ended_at >= self.crowd.limits.linger - MOMENT:
            return  # it went on sending for longer than anybody listens
        due, limit = self._due()
        if not due + limit - MOMENT <= server.ended_at <= due + ceil(limit) + SWEEP + MOMENT:
            raise Wrong(
                f"{self.plan.ending}: ended by the server at {server.ended_at:.6f}"
                f" ({self.ended}), with {len(self.answers)} of {len(self.asked)} answers,"
                f" last sign {due:.6f}, limit {limit}"
            )

    def _is_torn(self) -> bool:
        """Whether a file may have become shorter than an answer said; the reset that comes of it
        overtakes the answers before."""
        return any(ask.name == IN_PLACE for ask in self.asked[len(self.answers) :])

    def _due(self) -> tuple[float, float]:
        """The last sign of life before the server ended the connection, and how long it waits."""
        server, limits = self.server, self.crowd.limits
        assert server.ended_at is not None
        assert server.accepted_at is not None
        reads = [entry for entry in server.reads if entry[0] <= server.ended_at]
        read = reads[-1][1] if reads else 0
        whole = [ask for ask in self.asked if ask.stop <= read]
        answered = len(self.answers)
        last_write = max((when for when, _ in server.writes if when < server.ended_at), default=0.0)
        if self.answers and self.answers[-1].status == 408:
            answered -= 1
        if answered < len(whole):
            first = min(when for when, count in reads if count >= whole[answered].stop)
            slack = DISK if whole[answered].target == "/listed/" else 0.0
            return max(last_write - slack, first), limits.send
        begun = whole[-1].stop if whole else 0
        if read > begun:
            first = min(when for when, count in reads if count > begun)
            return max(last_write, first), limits.head
        if not whole:
            return server.accepted_at, limits.head
        return last_write, limits.keep_alive


@tamed
def visit(crowd: Crowd, name: str, done: Event[()]) -> None:
    """Be one client."""
    it = Visit(crowd, name, new_plan(crowd.random, crowd.files))
    crowd.visits.append(it)
    try:
        with twait:
            write(it, mkevent())
            read(it, mkevent())
            if it.plan.ending == "abort":
                abort(it, mkevent())
        it.judge()
    except Wrong as error:
        crowd.world.complain(f"{name} ({it.plan.ending}): {error}")
    finally:
        it.peer.close()
    done.trigger()


@tamed
def abort(it: Visit, done: Event[()]) -> None:
    with twait:
        timer(it.crowd.random.random() * 2, mkevent())
    leave(it, lingers=False)
    done.trigger()


def leave(it: Visit, lingers: bool = True) -> None:
    """This client has seen enough."""
    if not it.over:
        it.over = it.left = True
        it.end.lingers = lingers
        it.peer.close()
        it.go_on()


@tamed
def write(it: Visit, done: Event[()]) -> None:
    """Ask what is to be asked."""
    plan = it.plan
    for ask in plan.asks:
        if it.over or it.closing:
            break
        ask.start, ask.sent = it.sent, now()
        it.asked.append(ask)
        data = ask.wire()
        ask.stop = it.sent + len(data)
        with twait:
            put(it, data, mkevent())
        if not plan.pipelined and not it.over and len(it.answers) < len(it.asked):
            with twait:
                it.complete = mkevent()
        if plan.pause and not it.over:
            with twait:
                timer(it.crowd.random.random() * plan.pause * 3, mkevent())
    if plan.ending == "half-close" and not it.over:
        it.half_closed = True
        with suppress(OSError):
            it.end.shutdown(socket.SHUT_WR)
    elif plan.ending in ("stuck", "dribble") and not it.over and not it.closing:
        if len(it.answers) < len(it.asked):
            with twait:
                it.complete = mkevent()
        with twait:
            put(it, b"GET /small.txt HTTP/1.1\r\nHost: a\r\n", mkevent())
        while plan.ending == "dribble" and not it.over:
            with twait:
                timer(0.4, mkevent())
            if not it.over:
                with twait:
                    put(it, b"X: y\r\n", mkevent())
    elif plan.ending == "leave" and not it.over:
        if len(it.answers) < len(it.asked):
            with twait:
                it.complete = mkevent()
        leave(it)
    done.trigger()


@tamed
def put(it: Visit, data: bytes, done: Event[()]) -> None:
    """Send all of it, in pieces as this client does."""
    plan, system = it.plan, it.world.os
    try:
        while data and not it.over:
            try:
                sent = system.write(it.peer.fd, data[: plan.piece])
            except BlockingIOError:
                with twait:
                    wait_on_fd(it.peer, WRITE, mkevent())
                continue
            it.sent += sent
            data = data[sent:]
            if plan.piece < 1000 and data:
                with twait:
                    timer(it.crowd.random.random() * 0.1, mkevent())
    except Exception as error:
        if not it.over and not isinstance(error, OSError):
            done.fail(error)
            return
    done.trigger()


@tamed
def read(it: Visit, done: Event[()]) -> None:
    """Take the answers, as slowly as this client does, until there will be no more."""
    with tvars:
        failure: Exception | None = None
    plan, system = it.plan, it.world.os
    r = Rendezvous[str]()
    timer(PATIENCE, mkevent(r, "late"))
    try:
        if plan.ending == "deaf":
            timer(it.crowd.limits.send + 6, mkevent(r, "enough"))
            twait(r)
            kept = it.server.closed and it.server.outbox and not it.end.lost
            if kept and not it.world.disk_errors:
                raise Wrong(f"{len(it.server.outbox)} bytes stay where nobody takes them")
        while not it.over:
            try:
                data = system.read(it.peer.fd, plan.takes)
            except BlockingIOError:
                wait_on_fd(it.peer, READ, mkevent(r, "ready"))
                news = twait(r)
                if news == "late":
                    if it.end.lost:
                        break
                    raise Wrong(
                        f"nothing has come for long: {len(it.answers)} of {len(it.asked)} answers"
                    ) from None
                continue
            if not data:
                it.ended = "the end"
                break
            it.take(data)
            if plan.rests:
                with twait:
                    timer(plan.rests, mkevent())
    except OSError as error:
        it.ended = errno.errorcode.get(error.errno or 0, "?")
    except Exception as error:
        if isinstance(error, Wrong) or not it.over:
            failure = error
    r.cancel()
    it.over = True
    it.peer.close()
    it.go_on()
    if failure is None:
        done.trigger()
    else:
        done.fail(failure)
