"""HTTP/2 by events: one connection is a tamed function, as it is with HTTP/1.1.

What waits for a disk is a tamed function of its own, so that the other streams go on; what a
connection reads, answers and writes between two waits is done by `step`.
"""

from __future__ import annotations

import os
from collections import deque
from functools import partial
from time import time
from typing import Any, Final

from knot.files.representation import Bytes, Slice, read_now
from knot.http.http2 import Stream, Streams
from knot.http.responder import Deferred, Response, length_of
from knot.models.connection import close_connection, report, send_some, warm
from knot.models.events import Server, hang_up
from knot.models.handshake import PlainConnection
from knot.models.peer import HEAD, IDLE, SENDING, receive, set_nonblocking
from knot.models.server import Sent, Unsent
from tame import READ, WRITE, Event, Rendezvous, mkevent, tamed, timer, tvars, twait, wait_on_fd

AT_ONCE: Final = 128 * 1024
"""Bytes of frames that are made before the client takes some, and the others get their turn."""

MAX_UNSENT: Final = 256 * 1024
"""Bytes of frames that a client may leave untaken and be listened to all the same."""

MAX_JOBS: Final = 8
"""Streams of one connection that wait for a disk before another request is begun."""

DISK: Final = 0
TIME: Final = 8
"""What a connection waits for, beside `READ` and `WRITE`; all but `DISK` are bits."""

VERSION: Final = b"HTTP/2.0"
"""As nginx and Apache have it in their logs."""


Job = tuple[Stream, Deferred | Slice]
"""What a stream needs of a disk before it can go on."""


class Http2State:
    """What is known of a connection from one wait to the next."""

    __slots__ = ("answers", "closed", "jobs", "streams", "unsent", "untaken")

    def __init__(self, linger: float) -> None:
        self.streams = Streams(linger=linger)
        self.unsent: Unsent = deque()
        """Frames that the client has not taken."""
        self.untaken = 0
        """Bytes of those."""
        self.answers = False
        """Whether some of those are of answers: to take others is no sign of life."""
        self.jobs = 0
        """Streams that wait for a disk."""
        self.closed = False
        """Whether the client will say nothing more."""

    @property
    def wants(self) -> int:
        """What to wait for."""
        streams = self.streams
        more = streams.turn() is not None or (streams.can_begin and self.jobs < MAX_JOBS)
        reads = not self.closed and self.untaken < MAX_UNSENT
        wants = (READ if reads else 0) | (WRITE if more or self.unsent else 0)
        return wants | TIME if streams.lingers else wants


@tamed
def connection(peer: PlainConnection, server: Server) -> None:
    """One client: read, answer, wait for whatever comes first, until either side has enough."""
    with tvars:
        what: int
    r = Rendezvous[int]()
    state = Http2State(server.limits.linger)
    waited_for = 0
    what = READ  # the first of it may have come with the last of the handshake
    try:
        set_nonblocking(peer)
        while True:
            jobs = step(peer, server, state, what)
            while jobs:
                wait_for_disk(server, state, *jobs.pop(0), mkevent(r, DISK))
            wants = state.wants
            if state.streams.over and not state.unsent:
                break
            if state.closed and not wants & ~TIME and not state.jobs:
                return
            if wants & READ & ~waited_for:
                wait_on_fd(peer, READ, mkevent(r, READ))
            if wants & WRITE & ~waited_for:
                wait_on_fd(peer, WRITE, mkevent(r, WRITE))
            if wants & TIME & ~waited_for:
                timer(server.limits.linger, mkevent(r, TIME))
            waited_for |= wants
            what = twait(r)
            waited_for &= ~what
        if not state.closed:
            r.cancel()
            with twait:
                hang_up(peer, server.limits.linger, mkevent())
    except Exception as error:
        report(error)
    finally:
        r.cancel()
        state.streams.drop()
        note(peer, server, state)
        close_connection(peer, server)


@tamed
def wait_for_disk(
    server: Server,
    state: Http2State,
    stream: Stream,
    task: Response | Deferred | Slice,
    done: Event[()],
) -> None:
    """Wait for what is on a disk, and let the stream go on."""
    with tvars:
        made: Any
    state.jobs += 1
    try:
        if isinstance(task, Slice):
            with twait:
                server.disk.fork(mkevent(made), reach, task)
            if made:
                state.streams.resume(stream)
            else:
                state.streams.abandon(stream)  # the file has become shorter
        else:
            while isinstance(task, Deferred):
                with twait:
                    server.disk.fork(mkevent(made), task.work)
                task = task.finish(made)
            state.streams.answer(stream, task)
        state.jobs -= 1
        done.trigger()
    except Exception as error:
        done.fail(error)


def reach(piece: Slice) -> bool:
    """Wait for the disk, on a thread of the helper's; whether the file has that much."""
    warm(piece)
    return bool(os.pread(piece.file.fd, 1, piece.start))


def step(peer: PlainConnection, server: Server, state: Http2State, what: int) -> list[Job]:
    """Do all that can be done at once, after `what` was waited for."""
    jobs: list[Job] = []
    if what == READ:
        read_frames(peer, server, state)
    elif what == TIME:
        state.streams.feed(b"", time())
    answer(peer, server, state, jobs)
    if server.stopping or state.closed:
        state.streams.leave()
    make_frames(state, jobs)
    write_frames(peer, state)
    note(peer, server, state)
    set_state(peer, state)
    return jobs


def read_frames(peer: PlainConnection, server: Server, state: Http2State) -> None:
    data = receive(peer)
    if data:
        streams = state.streams
        streams.wanted, streams.front = server.wanted, server.front
        streams.feed(data, time())
        streams.front = None  # an idle connection holds on to no site that is served no more
    if data == b"" or (peer.tls is not None and peer.tls.over):
        state.closed = True


def answer(peer: PlainConnection, server: Server, state: Http2State, jobs: list[Job]) -> None:
    """Answer what was asked, or find that it takes a while."""
    streams = state.streams
    while streams.can_begin and state.jobs + len(jobs) < MAX_JOBS:
        stream = streams.begin()
        peer.answered += 1
        gate, respond = stream.front
        response = (respond if gate is None else partial(gate, peer))(stream.request, stream.when)
        if isinstance(response, Deferred):
            jobs.append((stream, response))
        else:
            streams.answer(stream, response)
        if peer.answered >= server.most_requests:
            streams.leave()


def make_frames(state: Http2State, jobs: list[Job]) -> None:
    """Of the answers, as much as the client should take before the others get their turn."""
    streams = state.streams
    room = AT_ONCE - state.untaken
    while room > 0 and (turn := streams.turn()) is not None:
        stream, size = turn
        piece = stream.unsent[0]
        data: Bytes | memoryview
        if isinstance(piece, Slice):
            data = read_now(piece.file.fd, size, piece.start)
        else:
            data = piece[:size]
        if data:
            streams.send(stream, data)
            room -= len(data)
        else:
            assert isinstance(piece, Slice)
            streams.pause(stream)
            jobs.append((stream, piece))
    if streams.moved:
        streams.moved, state.answers = False, True
    frames = streams.take()
    if frames:
        state.unsent.append(memoryview(frames))
        state.untaken += len(frames)


def write_frames(peer: PlainConnection, state: Http2State) -> None:
    """Send what the client takes at once."""
    unsent, age = state.unsent, peer.age
    while unsent:
        pieces, size = len(unsent), length_of(unsent[0])
        send_some(peer, unsent)
        left = length_of(unsent[0]) if len(unsent) == pieces else 0
        if left == size:
            break
        state.untaken -= size - left
    if not state.answers:
        peer.age = age
    if not unsent:
        state.answers = False


def set_state(peer: PlainConnection, state: Http2State) -> None:
    """See which of the limits the client is to keep to."""
    if state.streams.open or state.unsent:
        waits_for = SENDING
    else:
        waits_for = HEAD if state.streams.unfinished or not peer.answered else IDLE
    if peer.waits_for != waits_for:
        peer.waits_for = waits_for
        peer.age = 0


def note(peer: PlainConnection, server: Server, state: Http2State) -> None:
    """Tell the log of what has ended."""
    ended = state.streams.ended
    on_sent = server.on_sent
    if on_sent is not None:
        for stream in ended:
            if stream.response is not None:
                sent = peer.address, stream.request, stream.response, stream.when, stream.said
                on_sent(Sent(*sent, stream.unsent, VERSION))
    ended.clear()
