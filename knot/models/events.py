"""Knot by events: every connection is a tamed function, all of them on one thread.

Read it from the top: `serve` accepts, `connection` is one client from its first byte to its last,
and what stands below are the rare cases: a client that takes its answer slowly, one that must be
hung up on with care, those that have become silent, and the end of it all.  ``with twait:`` is
where the others get their turn; between two of those nothing else runs, so there is nothing to
lock.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from time import time
from typing import Final

from knot.limits import Limits
from knot.log import AccessLog, Record
from knot.models.helper import Helper
from knot.request import BadRequest, Request, RequestParser, TalkativeParser
from knot.respond import Later, Responder, Response, length_of
from knot.site import Bytes, Slice, read_now
from tame import (
    READ,
    WRITE,
    Descriptor,
    Event,
    EventDroppedError,
    Rendezvous,
    mkevent,
    tamed,
    timer,
    tvars,
    twait,
    wait_on_fd,
)

BATCH: Final = 64
"""Connections accepted before those that are open get their turn again."""

READ_SIZE: Final = 16 * 1024
"""Bytes read at once; the requests of a browser have 2 KiB."""

WHOLE: Final = 64 * 1024
"""Bytes of a file that go out in one call with the head."""

SLICE: Final = 2 * 1024 * 1024
"""Bytes of a large file that are sent before the others get their turn."""

OUT_OF_DESCRIPTORS: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
PAUSE: Final = 0.1
"""Seconds without accepting when the process has no descriptor left."""

UNREACHABLE: Final = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN}

SWEEP: Final = 1.0
"""Seconds between two looks at how long each client has been silent."""

LOG_DELAY: Final = 0.2
"""Seconds after which a line stands in the access log."""

RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: what the client has not taken yet is thrown away."""

# What a connection waits for
HEAD: Final = 0
IDLE: Final = 1
TAKING: Final = 2

log = logging.getLogger("knot")


class Peer(Descriptor):
    """A client's connection, with what the sweep must know of it."""

    __slots__ = ("address", "age", "answered", "parser", "settled", "waits_for")

    def __init__(self, fd: int, address: str) -> None:
        super().__init__(fd)
        self.address = address
        self.age = 0
        """How many sweeps ago something came from the client, or was taken by it."""
        self.answered = 0
        """Requests; counted upwards, because Python has the small numbers already."""
        self.parser: RequestParser | None = None
        """Its own while a request is incomplete."""
        self.waits_for = HEAD
        self.settled = False
        """Whether the descriptor is non-blocking.  One that is closed after its first answer never
        needs to be, which spares a system call: that answer goes with a flag for this one call."""

    def settle(self) -> None:
        if not self.settled:
            os.set_blocking(self.fd, False)
            self.settled = True


class Server:
    """What all the connections share."""

    def __init__(
        self,
        responder: Responder,
        limits: Limits | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        self.responder = responder
        self.limits = limits or Limits()
        self.log = access_log
        self.helper = Helper()
        self.peers: set[Peer] = set()
        self.parser = self.new_parser()
        """For every client whose requests have come whole."""
        self.door: Descriptor | None = None
        self.stopping = False
        self.most_requests = self.limits.requests
        """On one connection; 0 when the server stops."""
        self.deserted: Event[()] | None = None
        """Triggered when the last client has gone."""

    def new_parser(self) -> RequestParser:
        talkative = self.log is not None and self.log.wants_more
        return TalkativeParser() if talkative else RequestParser()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 means any that is free.  Raises `OSError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=4096)
    listener.setblocking(False)
    # What is accepted inherits it: an answer is one send, and must not wait for an old one's ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Accepted when the request is there: `connection` then reads it without waiting.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
    return listener


@tamed
def serve(listener: socket.socket, server: Server) -> None:
    """Accept connections until `stop`, or for as long as the loop runs."""
    server.helper.listen()
    sweep(server)
    server.door = door = Descriptor(os.dup(listener.fileno()))  # the listener stays its owner's
    most = server.limits.connections
    try:
        while door.fd >= 0:
            with twait:
                wait_on_fd(door, READ, mkevent())
            for _ in range(BATCH):
                try:
                    # What `accept` does first; its socket object would cost a getsockname(), too.
                    fd, address = listener._accept()  # type: ignore[attr-defined]
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno in OUT_OF_DESCRIPTORS:
                        log.warning("cannot accept a connection: %s", error.strerror)
                        with twait:
                            timer(PAUSE, mkevent())
                    break
                if len(server.peers) >= most:
                    turn_away(fd, address[0], server)
                    continue
                peer = Peer(fd, address[0] if server.log else "")
                server.peers.add(peer)
                connection(peer, server)
    except EventDroppedError:
        pass  # `stop` has closed the door
    finally:
        door.close()


@tamed
def connection(peer: Peer, server: Server) -> None:
    """One client: read, answer, wait for more, until either side has enough.

    What is read and written at once happens in functions of its own, whose variables are gone
    when they return: an idle connection holds on to no request and to no answer.
    """
    with tvars:
        obstacle: Obstacle | None
    try:
        while True:
            obstacle = exchange(peer, server)
            while obstacle is not None:
                if obstacle is END:
                    return
                with twait:
                    overcome(peer, server, obstacle, mkevent(obstacle))
            peer.settle()
            with twait:
                wait_on_fd(peer, READ, mkevent())
    except Exception as error:
        if not is_gone(error):
            log.exception("a connection ended with an error that is Knot's own")
    finally:
        forget(peer, server)


class Obstacle:
    """What has to be waited for before the answers to what one read has brought can go on."""

    __slots__ = ("asked", "request", "response", "unsent")

    def __init__(
        self,
        asked: Asked,
        request: Request | BadRequest,
        response: Response | Later,
        unsent: Unsent,
    ) -> None:
        self.asked = asked
        self.request = request
        self.response = response
        self.unsent = unsent


END: Final = Obstacle.__new__(Obstacle)
"""No answer will follow, and nothing more need be read."""


Asked = tuple[Iterator[Request | BadRequest], float, deque[tuple[bytes, bytes]], bool]
"""What one read has brought: the requests that have no answer yet, when that was, what the client
says of itself with each, and whether it sends something that nobody will look at."""


Unsent = deque[memoryview | Slice]
"""What of a response has not been sent yet."""

NOTHING: Final[Unsent] = deque()


def exchange(peer: Peer, server: Server) -> Obstacle | None:
    """Read what the client asks, and answer what can be answered at once."""
    data = receive(peer)
    if not data:
        return None if data is None else END
    parser = peer.parser or server.parser
    try:
        requests = parser.feed(data)
    except BaseException:
        server.parser = server.new_parser()  # whatever state it is in, no other client gets it
        raise
    asked = iter(requests), time(), parser.said, parser.unread
    if parser.unfinished or parser.ended or peer.parser is not None:
        keep_parser(peer, server, parser, begun=bool(requests))
    elif requests:  # an empty line is no sign of life
        peer.age = 0
        peer.waits_for = IDLE
    return answer(peer, server, asked)


def answer(peer: Peer, server: Server, asked: Asked) -> Obstacle | None:
    """Answer, in their order, as many requests as can be answered at once."""
    requests, when, _, unread = asked
    respond = server.responder.respond
    for request in requests:
        peer.answered += 1
        last = peer.answered >= server.most_requests
        if last:
            request = request._replace(keep_alive=False)
        response = respond(request, when)
        if isinstance(response, Later):
            return Obstacle(asked, request, response, deque())
        unsent = send(peer, response)
        if unsent is not None:
            return Obstacle(asked, request, response, unsent)
        if not response.keep_alive:
            if server.log is None and not last and not unread:
                return END
            return Obstacle(asked, request, response, deque())
        if server.log is not None:
            note(server.log, peer.address, request, response, asked)
    return None


@tamed
def overcome(peer: Peer, server: Server, obstacle: Obstacle, done: Event[Obstacle | None]) -> None:
    """Wait for what has to be waited for, and go on until the next obstacle."""
    with tvars:
        response: Response
        sent: bool
    peer.settle()
    peer.waits_for = TAKING
    asked, request, unsent = obstacle.asked, obstacle.request, obstacle.unsent
    requests, _, said, unread = asked
    try:
        if isinstance(obstacle.response, Later):
            with twait:
                server.helper.do(obstacle.response.make, mkevent(response))
            obstacle.response.keep(response)
            unsent = send(peer, response) or unsent
        else:
            response = obstacle.response
        sent = True
        slow = bool(unsent)
        if unsent:
            try:
                with twait:
                    send_rest(peer, server, unsent, mkevent(sent))
            except OSError as error:
                if not is_gone(error):
                    raise
                sent = False
        if server.log is not None:
            note(server.log, peer.address, request, response, asked, unsent)
        following: Obstacle | None = END
        if sent:
            if response.keep_alive and not server.stopping:
                peer.age = 0
                peer.waits_for = IDLE
                following = answer(peer, server, (requests, time(), said, unread))
            elif slow or unread or peer.answered >= server.most_requests:
                # It may have asked for more than it will get, or do so meanwhile.
                with twait:
                    hang_up(peer, server.limits.linger, mkevent())
        done.trigger(following)
    except Exception as error:
        done.fail(error)


def receive(peer: Peer) -> bytes | bytearray | None:
    """What the client has sent: b"" if nothing will come any more, None if nothing is there yet."""
    try:
        if peer.settled:
            return os.read(peer.fd, READ_SIZE)
        return _buffer[: os.preadv(peer.fd, _buffers, -1, os.RWF_NOWAIT)]
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        peer.settle()  # a kernel before 5.12
        return receive(peer)


_buffer = bytearray(READ_SIZE)
_buffers = [_buffer]


def keep_parser(peer: Peer, server: Server, parser: RequestParser, begun: bool) -> None:
    """In the middle of a request a parser belongs to that client, until the request is whole.

    `begun` tells whether the request is another than before.
    """
    shared = parser is server.parser
    if parser.unfinished and not parser.ended:
        if shared:
            peer.parser = parser
            server.parser = server.new_parser()
        if shared or begun:
            peer.age = 0
            peer.waits_for = HEAD
        return
    peer.parser = None
    peer.age = 0
    peer.waits_for = IDLE
    if shared:
        parser.reset()


def is_gone(error: Exception) -> bool:
    """Whether a system call has failed because there is no client any more."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return isinstance(error, OSError) and error.errno in UNREACHABLE


def forget(peer: Peer, server: Server) -> None:
    """The connection has ended."""
    peer.close()
    server.peers.discard(peer)
    if not server.peers and server.deserted is not None:
        server.deserted.trigger()
        server.deserted = None


def note(
    access_log: AccessLog,
    address: str,
    request: Request | BadRequest,
    response: Response,
    asked: Asked,
    unsent: Unsent = NOTHING,
) -> None:
    """Put a line into the access log; it is written a little later, together with others.

    `unsent` is what the client did not take.
    """
    now = time()
    method, version = b"", b"HTTP/1.1"
    if isinstance(request, Request):
        method = request.method
        version = b"HTTP/1.0" if request.http_1_0 else version
    if not access_log.pending:
        flush(access_log)
    _, when, said, _ = asked
    referer, agent = said.popleft() if said else (b"", b"")
    size = max(0, response.length - sum(map(length_of, unsent)))
    access_log.add(
        Record(
            now, address, method, request.target, version, response.status, size, referer,
            agent, now - when,
        )
    )  # fmt: skip


@tamed
def flush(access_log: AccessLog) -> None:
    with twait:
        timer(LOG_DELAY, mkevent())
    access_log.flush()


# -- sending -------------------------------------------------------------------------------------


def send(peer: Peer, response: Response) -> Unsent | None:
    """Send what goes out in one call; what is left, or None if that was all."""
    data = response.data
    if response.rest:
        return send_several(peer, data, response.rest)
    try:
        if peer.settled:
            sent = os.write(peer.fd, data)
        else:
            sent = os.pwritev(peer.fd, (data,), -1, os.RWF_NOWAIT)
    except BlockingIOError:
        sent = 0
    return None if sent == len(data) else deque((memoryview(data)[sent:],))


def send_several(peer: Peer, head: bytes, rest: tuple[Bytes | Slice, ...]) -> Unsent | None:
    """The head goes out with what follows it in memory, and with the first bytes of a file."""
    peer.settle()
    buffers: list[Bytes] = [head]
    later: Unsent = deque()
    for place, piece in enumerate(rest):
        if isinstance(piece, Slice):
            first = read_now(piece.file.fd, min(WHOLE, piece.stop - piece.start), piece.start)
            buffers.append(first)
            left = piece._replace(start=piece.start + len(first))
            later.extend([left] if left.start < left.stop else [])
            later.extend(as_unsent(other) for other in rest[place + 1 :])
            break
        buffers.append(piece)
    try:
        sent = os.writev(peer.fd, buffers)
    except BlockingIOError:
        sent = 0
    unsent: Unsent = deque()
    for buffer in buffers:
        if sent < len(buffer):
            unsent.append(memoryview(buffer)[sent:])
        sent = max(0, sent - len(buffer))
    return (unsent + later) or None


def as_unsent(piece: Bytes | Slice) -> memoryview | Slice:
    return piece if isinstance(piece, Slice) else memoryview(piece)


@tamed
def send_rest(peer: Peer, server: Server, unsent: Unsent, done: Event[bool]) -> None:
    """Send it as fast as the client takes it; triggers `done` with whether all has gone out.

    It has not if the file has become shorter: then the client must see the connection end before
    the length that it was told.
    """
    with tvars:
        warmed: None
    try:
        while unsent:
            with twait:
                wait_on_fd(peer, WRITE, mkevent())
            piece = unsent[0]
            if isinstance(piece, Slice) and is_cold(piece):
                with twait:
                    server.helper.do(partial(warm, piece), mkevent(warmed))
            left = send_some(peer, piece)
            if left is None:
                unsent.popleft()
            else:
                unsent[0] = left
            if left is not piece:
                peer.age = 0
    except EOFError:
        done.trigger(False)
    except OSError as error:
        done.fail(error)
    else:
        done.trigger(True)


def send_some(peer: Descriptor, piece: memoryview | Slice) -> memoryview | Slice | None:
    """Send what the client takes at once, and of a file no more than others can wait for.

    What is left is the result.  Raises `EOFError` if the file ends before the slice does.
    """
    try:
        if not isinstance(piece, Slice):
            return piece[os.write(peer.fd, piece) :] or None
        count = min(SLICE, piece.stop - piece.start)
        sent = os.sendfile(peer.fd, piece.file.fd, piece.start, count)
    except BlockingIOError:
        return piece
    if not sent:
        raise EOFError
    left = piece._replace(start=piece.start + sent)
    return left if left.start < left.stop else None


def is_cold(piece: Slice) -> bool:
    """Whether the next bytes of a file seem to be on the disk only: `sendfile` would wait."""
    last = min(piece.stop, piece.start + SLICE) - 1
    fd = piece.file.fd
    return not (read_now(fd, 1, piece.start) and read_now(fd, 1, last))


def warm(piece: Slice) -> None:
    """Wait for the disk, on a thread of the helper's; what follows is asked for, too."""
    os.posix_fadvise(piece.file.fd, piece.start, 4 * SLICE, os.POSIX_FADV_WILLNEED)
    os.pread(piece.file.fd, min(SLICE, piece.stop - piece.start), piece.start)


# -- the end of a connection -----------------------------------------------------------------------


@tamed
def hang_up(peer: Peer, linger: float, done: Event[()]) -> None:
    """End a connection whose client may still be sending, without losing the answer.

    What it sends and nobody reads would make the kernel reset the connection, and a reset
    overtakes the answer (RFC 9112, section 9.6): so say that nothing more will come, and read on
    for a while.
    """
    with tvars:
        enough: bool
    r = Rendezvous[bool]()
    timer(linger, mkevent(r, True))
    try:
        with socket_of(peer) as end:
            end.shutdown(socket.SHUT_WR)
        while receive(peer) != b"":
            wait_on_fd(peer, READ, mkevent(r, False))
            enough = twait(r)
            if enough:
                break
    except OSError:
        pass  # the client has gone
    r.cancel()
    done.trigger()


@contextmanager
def socket_of(peer: Descriptor) -> Iterator[socket.socket]:
    """The connection as a socket object, which has calls that descriptors lack."""
    end = socket.socket(fileno=peer.fd)
    try:
        yield end
    finally:
        end.detach()


def turn_away(fd: int, address: str, server: Server) -> None:
    """One client too many: read what it asks for, or the refusal would be lost, and refuse."""
    with suppress(OSError):
        os.set_blocking(fd, False)
        refuse(fd, address, server, BadRequest(503, "there are too many clients"))
        os.read(fd, READ_SIZE)
    os.close(fd)


def refuse(fd: int, address: str, server: Server, request: BadRequest) -> None:
    """An answer to a client that is not listened to any more."""
    now = time()
    response = server.responder.respond(request, now)
    assert isinstance(response, Response)
    os.write(fd, response.data)
    if server.log is not None:
        note(server.log, address, request, response, (iter(()), now, deque(), False))


@tamed
def sweep(server: Server) -> None:
    """End the connections that have been silent for too long, for as long as the loop runs.

    One look a second at each of them is all that timeouts cost; a request costs an assignment.
    """
    limits = server.limits
    most = {HEAD: limits.head / SWEEP, IDLE: limits.keep_alive / SWEEP, TAKING: limits.send / SWEEP}
    while True:
        with twait:
            timer(SWEEP, mkevent())
        for peer in list(server.peers):
            peer.age += 1
            if peer.age > most[peer.waits_for]:
                if peer.waits_for == HEAD and peer.parser is not None:
                    late = BadRequest(408, "the request took too long")
                    with suppress(OSError):
                        refuse(peer.fd, peer.address, server, late)
                cut(peer)


def cut(peer: Peer) -> None:
    """End it from outside: its closure sees the end of what the client sends, or a broken pipe."""
    with suppress(OSError), socket_of(peer) as end:
        if peer.waits_for == TAKING:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        end.shutdown(socket.SHUT_RDWR)


@tamed
def stop(server: Server, grace: float, done: Event[int]) -> None:
    """Accept nothing more, finish what is under way within `grace` seconds, then cut the rest.

    Triggers `done` with the number of connections that had to be cut.
    """
    server.stopping = True
    server.most_requests = 0
    if server.door is not None:
        server.door.close()
    for peer in server.peers:
        if peer.waits_for == IDLE or (peer.waits_for == HEAD and peer.parser is None):
            cut(peer)  # it has no request under way
    r = Rendezvous[bool]()
    if server.peers:
        server.deserted = mkevent(r, False)
        timer(grace, mkevent(r, True))
        twait(r)
    r.cancel()
    left = len(server.peers)
    for peer in list(server.peers):
        peer.waits_for = TAKING
        cut(peer)
    done.trigger(left)
