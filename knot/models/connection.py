"""What every concurrency model does with a connection between two waits.

Nothing here waits: what cannot be done at once is an `Pending`, and each model has its own way to
overcome it.  So whatever differs between two models is how they wait, and nothing else.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from math import ceil
from time import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from knot.files.site import BUSY, Bytes, Slice, read_now
from knot.http.request import (
    NO_NAMES,
    BadRequest,
    ExtraFieldsParser,
    LoggingParser,
    Request,
    RequestParser,
)
from knot.http.responder import Deferred, Responder, Response, length_of
from knot.limits import Limits
from knot.monitor.access_log import AccessLog, Record
from knot.process.listeners import BACKLOG, MAPPED

if TYPE_CHECKING:
    from knot.access.rates import ConnectionLimit
    from knot.tls import Channel  # it brings OpenSSL, 3.7 MiB, which others do without

READ_SIZE: Final = 16 * 1024
"""Bytes read at once; the requests of a browser have 2 KiB."""

FIRST_SEND: Final = 64 * 1024
"""Bytes of a file that go out in one call with the head."""

SLICE: Final = 2 * 1024 * 1024
"""Bytes of a large file that are sent before the others get their turn."""

TLS_SLICE: Final = 256 * 1024
"""The same where they have to be encrypted, which takes as long."""

DISK_THREADS: Final = 4
"""At most, where something else than the connection's own thread waits for a disk: enough that one
slow disk does not stop the others, few enough to be cheap."""

BATCH: Final = 64
"""Connections accepted before those that are open get their turn again."""

OUT_OF_DESCRIPTORS: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
PAUSE: Final = 0.1
"""Seconds without accepting when the process has no descriptor left."""

GONE: Final = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.ENOTCONN}

SWEEP: Final = 1.0
"""Seconds between two looks at how long each client has been silent."""

PARTING: Final = 0.25
"""Seconds at the end in which a client without a request under way is still answered once: it may
have sent one before it could know."""

LOG_DELAY: Final = 0.2
"""Seconds after which a line stands in the access log."""

RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: what the client has not taken yet is thrown away."""

# What a connection waits for
HEAD: Final = 0
IDLE: Final = 1
SENDING: Final = 2

log = logging.getLogger("knot")


STATE: Final = ("address", "age", "answered", "parser", "nonblocking", "waits_for")
"""What a `Connection` has beside its descriptor."""

NO_SLOTS: Final[tuple[str, ...]] = ()


class Connection:
    """A client's connection: its descriptor, and what is known of it between two requests."""

    __slots__ = NO_SLOTS  # those are in each model's class

    fd: int
    """-1 once it is closed."""
    address: str
    age: int
    """How many sweeps ago something came from the client, or was taken by it."""
    answered: int
    """Requests; counted upwards, because Python has the small numbers already."""
    parser: RequestParser | None
    """Its own while a request is incomplete."""
    waits_for: int
    nonblocking: bool
    """Whether the descriptor is non-blocking.  One that is closed after its first answer never
    needs to be, which spares a system call: that answer goes with a flag for this one call."""
    tls: Channel | None = None
    """What encrypts it, in a class that has a place for that: a plain connection has none."""

    def close(self) -> None:
        raise NotImplementedError


class FdConnection(Connection):
    """For the models that have no descriptors of their own."""

    __slots__ = ("fd", *STATE)

    def __init__(self, fd: int, address: str) -> None:
        self.fd = fd
        begin(self, address)

    def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


def begin(peer: Connection, address: str) -> None:
    peer.address = address
    peer.age = 0
    peer.answered = 0
    peer.parser = None
    peer.waits_for = HEAD
    peer.nonblocking = False


def set_nonblocking(peer: Connection) -> None:
    if not peer.nonblocking:
        os.set_blocking(peer.fd, False)
        peer.nonblocking = True


Gate = Callable[[Connection, Request | BadRequest, float], Response | Deferred]
"""What answers where it matters who asks: it refuses, or passes the request on to a responder."""

Who = Callable[[str, Request | BadRequest], tuple[str, bytes]]
"""From the address of a connection, and a request that comes by it, to the client's address and the
name of its user, for the log."""

Respond = Callable[[Request | BadRequest, float], Response | Deferred]

Front = tuple[Gate | None, Respond]
"""What answers requests: the gate if there is one, else the responder.  It is replaced as a whole
when the configuration changes, and a request is answered by the one that it was read for."""

Asked = tuple[Iterator[Request | BadRequest], float, deque[tuple[bytes, bytes]], bool, Front]
"""What one read has brought: the requests that have no answer yet, when that was, what the client
says of itself with each, whether it sends something that nobody will look at, and what answers."""

Unsent = deque[memoryview | Slice]
"""What of a response has not been sent yet."""

NOTHING: Final[Unsent] = deque()


class Note(Protocol):
    def __call__(
        self,
        address: str,
        request: Request | BadRequest,
        response: Response,
        asked: Asked,
        unsent: Unsent = NOTHING,
        version: bytes = b"HTTP/1.1",
        /,
    ) -> None: ...


class Server:
    """What all the connections share; each model adds what it needs."""

    def __init__(
        self,
        responder: Responder,
        limits: Limits | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        self.responder = responder
        self.respond = self.respond_by(responder)
        self.limits = limits or Limits()
        self.log = access_log
        self.gate: Gate | None = None
        self.front: Front = None, self.respond
        self.wanted = NO_NAMES
        self.who: Who | None = None
        self.connection_limit: ConnectionLimit | None = None
        self.proxies: Callable[[str], bool] | None = None
        """Whether a client at that address begins with a PROXY header, which says who it is."""
        self.on_sent: Note | None = self.note if access_log is not None else None
        """Called with each answer that has gone out, or as much of it as the client took; None if
        nobody wants to know."""
        self.turned_away = 0
        """Clients that were too many."""
        self.on_sweep: Callable[[], object] = bool
        """Called once every `SWEEP` seconds, by what serves the clients."""
        self.peers: set[Connection] = set()
        self.parser = self.new_parser()
        """For every client whose requests have come whole."""
        self.stopping = False
        self.gently = False
        """Whether, although it stops, a client whose connection stays gets one more answer."""
        self.most_requests = self.limits.requests
        """On one connection; 0 when the server stops."""
        self.began: Callable[[], object] = bool
        """Called when clients are served, on the main thread."""
        self.ended: Callable[[], object] = bool
        """Called when nobody is served any more."""
        self.when_deserted: list[Callable[[], object]] = []
        """Called when the last client has gone."""
        self.watched: list[Callable[[], object]] = []
        """Called every `SWEEP` seconds."""
        self.has_all: Callable[[], bool] = lambda: True
        """Whether all that is to be served is there."""

    def new_parser(self) -> RequestParser:
        if self.log is not None and self.log.wants_more:
            return LoggingParser(self.wanted)
        return ExtraFieldsParser(self.wanted) if self.wanted else RequestParser()

    def guard(self, gate: Gate, wanted: frozenset[bytes] = NO_NAMES) -> None:
        """Have `gate` asked in place of the responder, and the fields that it has `wanted`, by
        their names in lower case, among those of each request.  Before anybody is served."""
        self.gate, self.wanted = gate, wanted
        self.front = gate, self.respond
        self.parser = self.new_parser()

    def respond_by(self, responder: Responder) -> Respond:
        return responder.respond

    def adopt(self, other: Server) -> None:
        """Serve from now on as `other` would, which nobody has asked anything yet.

        Requests that were read before are answered as before.
        """
        parses_alike = (type(other.parser), other.wanted) == (type(self.parser), self.wanted)
        self.responder, self.respond = other.responder, self.respond_by(other.responder)
        self.limits, self.log, self.who = other.limits, other.log, other.who
        self.connection_limit, self.proxies = other.connection_limit, other.proxies
        self.watched, self.has_all = other.watched, other.has_all
        if other.gate is None:
            self.gate, self.wanted = None, NO_NAMES
            self.front = None, self.respond
            self.parser = self.new_parser()
        else:
            self.guard(other.gate, other.wanted)
        if not self.stopping:
            self.most_requests = self.limits.requests
        self.on_sent = self.note if self.log is not None else None
        for peer in list(self.peers):
            if self.wants_addresses and not peer.address:
                peer.address = find_address(peer)
            if self.connection_limit is not None:
                self.connection_limit.count(peer.address)
            if peer.parser is not None and not parses_alike:
                read_again(peer, self)

    @property
    def wants_addresses(self) -> bool:
        """Whether it matters which client it is."""
        return any(
            user is not None for user in (self.log, self.gate, self.connection_limit, self.proxies)
        )

    def note(
        self,
        address: str,
        request: Request | BadRequest,
        response: Response,
        asked: Asked,
        unsent: Unsent = NOTHING,
        version: bytes = b"HTTP/1.1",
    ) -> None:
        """Put a line into the access log; it is written a little later, together with others.

        `unsent` is what the client did not take.
        """
        if self.log is None:  # which another thread may have switched off meanwhile
            return
        now = time()
        method = b""
        if isinstance(request, Request):
            method = request.method
            version = b"HTTP/1.0" if request.http_1_0 else version
        if not self.log.pending:
            self.flush_later()
        client, user = (address, b"") if self.who is None else self.who(address, request)
        _, when, said, _, _ = asked
        referer, agent = said.popleft() if said else (b"", b"")
        size = max(0, response.length - sum(map(length_of, unsent)))
        self.log.add(
            Record(
                now, client, method, request.target, version, response.status, size, referer,
                agent, max(0.0, now - when), user,  # the clock may have been set back
            )
        )  # fmt: skip

    def flush_later(self) -> None:
        """A first line is pending: the log is to be flushed after `LOG_DELAY` seconds."""
        raise NotImplementedError


def name_of(address: tuple[Any, ...] | str) -> str:
    """Of a client; one that comes by a path of the file system has no address of its own."""
    if not isinstance(address, tuple):
        return "unix:"
    host: str = address[0]
    if len(address) > 2 and "." in host:  # of IPv4, but the socket is of IPv6
        return host.removeprefix(MAPPED)
    return host


FULL: Final = "there are too many clients"
CROWDED: Final = "you have too many connections open"


def admit(address: str, server: Server) -> str:
    """Why no client at that address can be served now; empty if one can, and it has entered."""
    if len(server.peers) >= server.limits.connections:
        return FULL
    if server.connection_limit is not None and not server.connection_limit.enter(address):
        return CROWDED
    return ""


def accept_batch(
    listener: socket.socket,
    server: Server,
    start: Callable[[int, str], object],
    *,
    plain: bool = True,
) -> OSError | None:
    """Accept a batch of the clients that wait at the listener, and `start` each by its descriptor
    and its address; why there are not more.

    One too many gets an answer only if the port speaks `plain` HTTP.
    """
    for _ in range(BATCH):
        try:
            # What `accept` does first; its socket object would cost a getsockname(), too.
            fd, address = listener._accept()  # type: ignore[attr-defined]
        except OSError as error:
            return error
        name = name_of(address) if server.wants_addresses else ""
        why = admit(name, server)
        if not why:
            start(fd, name)
        elif plain:
            turn_away(fd, name, server, why)
        else:
            server.turned_away += 1
            os.close(fd)  # a handshake costs too much for a refusal
    return None


def accept_rest(accept: Callable[[], OSError | None]) -> None:
    """Accept, at the end, the clients whose connections the kernel has made already; it would reset
    them."""
    for _ in range(BACKLOG // BATCH):
        if accept() is not None:
            break


class Pending:
    """What has to be waited for before the answers to what one read has brought can go on."""

    __slots__ = ("asked", "request", "response", "unsent")

    def __init__(
        self,
        asked: Asked,
        request: Request | BadRequest,
        response: Response | Deferred,
        unsent: Unsent | None,
    ) -> None:
        self.asked = asked
        self.request = request
        self.response = response
        self.unsent = unsent


END: Final = Pending.__new__(Pending)
"""No answer will follow, and nothing more need be read."""

LINGER: Final = Pending.__new__(Pending)
"""No answer will follow, but the client may still be sending: what it sends and nobody reads would
make the kernel reset the connection, and a reset overtakes the answer (RFC 9112, section 9.6).  So
say that nothing more will come, and read on for a while."""


def read_and_answer(peer: Connection, server: Server) -> Pending | None:
    """Read what the client asks, and answer what can be answered at once."""
    data = receive(peer)
    if not data:
        return None if data is None else END
    following = answer(peer, server, parse(peer, server, data))
    if following is None and peer.tls is not None and peer.tls.over:
        return END  # that came with the last request, and will not wake us again
    return following


def parse(peer: Connection, server: Server, data: bytes | bytearray) -> Asked:
    """Find the requests in what the client has sent."""
    parser = peer.parser or server.parser
    try:
        requests = parser.feed(data)
    except BaseException:
        server.parser = server.new_parser()  # whatever state it is in, no other client gets it
        raise
    asked = iter(requests), time(), parser.said, parser.unread, server.front
    if parser.unfinished or parser.ended or peer.parser is not None:
        keep_parser(peer, server, parser, data, begun=bool(requests))
    elif requests:  # an empty line is no sign of life
        peer.age = 0
        peer.waits_for = IDLE
    return asked


def answer(peer: Connection, server: Server, asked: Asked) -> Pending | None:
    """Answer, in their order, as many requests as can be answered at once."""
    requests, when, _, unread, (gate, respond) = asked
    if gate is not None:
        respond = partial(gate, peer)
    for request in requests:
        peer.answered += 1
        last = peer.answered >= server.most_requests
        if last:
            request = request._replace(keep_alive=False)
        response = respond(request, when)
        if isinstance(response, Deferred):
            return Pending(asked, request, response, None)
        unsent = send(peer, response)
        if unsent is not None:
            return Pending(asked, request, response, unsent)
        if not response.keep_alive and (last or unread):
            return Pending(asked, request, response, None)
        on_sent = server.on_sent
        if on_sent is not None:
            on_sent(peer.address, request, response, asked)
        if not response.keep_alive:
            return END
    return None


def resume(
    peer: Connection, server: Server, pending: Pending, response: Response, unsent: Unsent | None
) -> Pending | None:
    """After an obstacle: what comes next, until another stands in the way.

    `unsent` is what the client did not take; None if there was nothing to wait for.
    """
    requests, _, said, unread, front = pending.asked
    on_sent = server.on_sent
    if on_sent is not None:
        on_sent(peer.address, pending.request, response, pending.asked, unsent or NOTHING)
    if unsent:
        return END
    if response.keep_alive and (server.gently or not server.stopping):
        peer.age = 0
        following = answer(peer, server, (requests, time(), said, unread, front))
        if following is None:
            peer.waits_for = IDLE if peer.parser is None else HEAD
        return following
    if unsent is not None or unread or peer.answered >= server.most_requests:
        return LINGER  # it may have asked for more than it will get, or do so meanwhile
    return END


def receive(peer: Connection) -> bytes | bytearray | None:
    """What the client has sent: b"" if nothing will come any more, None if nothing is there yet."""
    try:
        if peer.nonblocking:
            return os.read(peer.fd, READ_SIZE) if peer.tls is None else peer.tls.read()
        return _buffer[: os.preadv(peer.fd, _buffers, -1, os.RWF_NOWAIT)]
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        set_nonblocking(peer)  # a kernel before 5.12
        return receive(peer)


def peek(peer: Connection, size: int) -> bytes:
    """What the client has sent, up to `size` bytes, which will be read all the same; b"" if nothing
    will come any more.  Raises `BlockingIOError` if nothing is there yet."""
    with socket_of(peer) as end:
        return end.recv(size, socket.MSG_PEEK)


_buffer = bytearray(READ_SIZE)
_buffers = [_buffer]


def keep_parser(
    peer: Connection, server: Server, parser: RequestParser, data: bytes | bytearray, begun: bool
) -> None:
    """In the middle of a request a parser belongs to that client, until the request is whole.

    `data` is what was read; `begun` tells whether the request is another than before.
    """
    shared = parser is server.parser
    if parser.unfinished and not parser.ended:
        if shared:
            peer.parser = parser
            server.parser = server.new_parser()
        if shared or begun:
            peer.age = 0
            peer.waits_for = HEAD
            parser.torn[:] = data[end_of_heads(data) :]
        else:
            parser.torn += data
        return
    peer.parser = None
    peer.age = 0
    peer.waits_for = IDLE
    if shared:
        parser.reset()


def end_of_heads(data: bytes | bytearray) -> int:
    """Where the unfinished head begins that is the last in `data`."""
    return max(
        at + len(blank) if (at := data.rfind(blank)) >= 0 else 0 for blank in (b"\n\r\n", b"\n\n")
    )


def read_again(peer: Connection, server: Server) -> None:
    """Have the head that is unfinished read by another parser: the gates that are there now may
    want fields which the one that has begun it does not take."""
    assert peer.parser is not None
    torn = peer.parser.torn
    peer.parser = server.new_parser()
    if peer.parser.feed(torn) or peer.parser.ended or not peer.parser.unfinished:
        peer.parser.ended = True  # a line ends where nobody takes it for an end
        cut(peer)
    peer.parser.torn = torn


def find_address(peer: Connection) -> str:
    """Of a client that was accepted when addresses did not matter."""
    try:
        with socket_of(peer) as end:
            return name_of(end.getpeername())
    except OSError:  # it has gone
        cut(peer)
        return ""


def is_gone(error: Exception) -> bool:
    """Whether a system call has failed because there is no client any more."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return isinstance(error, OSError) and error.errno in GONE


def report(error: Exception) -> None:
    """Say that it has ended a connection, unless that is the client's doing."""
    if is_gone(error):
        return
    if isinstance(error, OSError) and error.errno in BUSY:
        log.error("a connection ended because a file could not be read: %s", error.strerror)
    else:
        log.exception("a connection ended with an error that is Knot's own")


def close_connection(peer: Connection, server: Server) -> None:
    """The connection has ended."""
    peer.close()
    server.peers.discard(peer)
    if server.connection_limit is not None:
        server.connection_limit.leave(peer.address)
    if not server.peers:
        while server.when_deserted:
            server.when_deserted.pop()()


# -- sending -------------------------------------------------------------------------------------


def send(peer: Connection, response: Response) -> Unsent | None:
    """Send what goes out in one call; what is left, or None if that was all."""
    data = response.data
    if response.rest:
        return send_several(peer, data, response.rest)
    sent = send_now(peer, (data,))
    return None if sent == len(data) else deque((memoryview(data)[sent:],))


def send_now(peer: Connection, buffers: Sequence[Bytes]) -> int:
    """How many bytes the client takes at once; through TLS there is one buffer."""
    try:
        if peer.nonblocking:
            if peer.tls is None:
                return os.writev(peer.fd, buffers)
            return peer.tls.write(buffers[0])
        return os.pwritev(peer.fd, buffers, -1, os.RWF_NOWAIT)
    except BlockingIOError:
        return 0


def send_several(peer: Connection, head: bytes, rest: tuple[Bytes | Slice, ...]) -> Unsent | None:
    """The head goes out with what follows it in memory, and with the first bytes of a file."""
    buffers: list[Bytes] = [head]
    later: Unsent = deque()
    for place, piece in enumerate(rest):
        if isinstance(piece, Slice):
            first = read_now(piece.file.fd, min(FIRST_SEND, piece.stop - piece.start), piece.start)
            buffers.append(first)
            left = piece._replace(start=piece.start + len(first))
            later.extend([left] if left.start < left.stop else [])
            later.extend(as_unsent(other) for other in rest[place + 1 :])
            break
        buffers.append(piece)
    if peer.tls is not None:
        buffers = [b"".join(buffers)]  # in as few records as can be
    sent = send_now(peer, buffers)
    unsent: Unsent = deque()
    for buffer in buffers:
        if sent < len(buffer):
            unsent.append(memoryview(buffer)[sent:])
        sent = max(0, sent - len(buffer))
    return (unsent + later) or None


def as_unsent(piece: Bytes | Slice) -> memoryview | Slice:
    return piece if isinstance(piece, Slice) else memoryview(piece)


def send_some(peer: Connection, unsent: Unsent) -> None:
    """Send what the client takes at once, and of a file no more than others can wait for.

    Raises `EOFError` if a file ends before its slice does.
    """
    piece, tls = unsent[0], peer.tls
    left: memoryview | Slice
    try:
        if isinstance(piece, Slice):
            count = min(SLICE, piece.stop - piece.start)
            if tls is None:
                sent = os.sendfile(peer.fd, piece.file.fd, piece.start, count)
            else:
                sent = tls.write(os.pread(piece.file.fd, min(count, TLS_SLICE), piece.start))
            if not sent:
                raise EOFError
            left = piece._replace(start=piece.start + sent)
        else:
            left = piece[os.write(peer.fd, piece) if tls is None else tls.write(piece) :]
    except BlockingIOError:
        return
    peer.age = 0
    if length_of(left):
        unsent[0] = left
    else:
        unsent.popleft()


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


def half_close(peer: Connection) -> None:
    """Tell the client that no more answers will come."""
    if peer.tls is not None:
        peer.tls.end()
    with socket_of(peer) as end:
        end.shutdown(socket.SHUT_WR)


@contextmanager
def socket_of(peer: Connection) -> Iterator[socket.socket]:
    """The connection as a socket object, which has calls that descriptors lack."""
    end = socket.socket(fileno=peer.fd)
    try:
        yield end
    finally:
        end.detach()


def turn_away(fd: int, address: str, server: Server, why: str) -> None:
    """One client too many: read what it asks for, or the refusal would be lost, and refuse."""
    server.turned_away += 1
    peer = FdConnection(fd, address)
    with suppress(OSError):
        set_nonblocking(peer)
        refuse(peer, server, BadRequest(503, why))
        receive(peer)
    peer.close()


def refuse(peer: Connection, server: Server, request: BadRequest) -> None:
    """An answer to a client that is not listened to any more."""
    now = time()
    response = server.respond(request, now)
    assert isinstance(response, Response)
    send(peer, response)
    on_sent = server.on_sent
    if on_sent is not None:
        on_sent(peer.address, request, response, (iter(()), now, deque(), False, server.front))


def expire_idle(server: Server) -> None:
    """Once every `SWEEP` seconds: end the connections that have been silent for too long.

    One look at each of them is all that timeouts cost; a request costs an assignment.
    """
    for call in server.watched:
        call()
    limits = server.limits
    most = {
        HEAD: ceil(limits.head / SWEEP),
        IDLE: ceil(limits.keep_alive / SWEEP),
        SENDING: ceil(limits.send / SWEEP),
    }
    for peer in list(server.peers):
        peer.age += 1
        if peer.age > most[peer.waits_for]:
            if peer.waits_for == HEAD and peer.parser is not None:
                late = BadRequest(408, "the request took too long")
                with suppress(OSError):
                    set_nonblocking(peer)
                    refuse(peer, server, late)
            cut(peer)
    server.on_sweep()


def start_drain(server: Server, gently: bool = False) -> None:
    """Nobody gets another answer than the one under way; who waits for none is cut off.

    Done `gently`, each client gets one more, and who asks for none has the time that idle clients
    have: one that is about to ask must not meet a closed connection.  Each model does so at first,
    and once more `PARTING` seconds later to end what is idle.
    """
    server.stopping = True
    server.gently = gently
    server.most_requests = 0
    if gently:
        return
    for peer in list(server.peers):
        if peer.waits_for == IDLE or (peer.waits_for == HEAD and peer.parser is None):
            cut(peer)


def cut_all(server: Server) -> int:
    """The end: how many connections had to be cut."""
    left = list(server.peers)
    for peer in left:
        peer.waits_for = SENDING
        cut(peer)
    return len(left)


def cut(peer: Connection) -> None:
    """End it from outside: its closure sees the end of what the client sends, or a broken pipe.

    One that is idle may still take leave, as TLS and HTTP/2 do.
    """
    with suppress(OSError), socket_of(peer) as end:
        if peer.waits_for == SENDING:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        end.shutdown(socket.SHUT_RD if peer.waits_for == IDLE else socket.SHUT_RDWR)
