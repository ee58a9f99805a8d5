"""What every concurrency model does with a connection between two waits.

Nothing here waits: what cannot be done at once is a `Pending`, and each model has its own way to
wait for it.  So two models differ in how they wait, and in nothing else.

Theory of operation
-------------------

A connection is always in one of these states.  `waits_for` has the state for `expire_idle`, which
cuts connections that have been silent for longer than the limit.

    state      waits_for  waits for                          limit       next
    ---------  ---------  ---------------------------------  ----------  -----------------------
    head       HEAD       the first request, or the rest of  head        answering; ended
                          one that has begun
    answering             nothing                                        any of the others
    pending    SENDING    the work of a `Deferred`, or the   send        answering, lingering,
                          client to take a response                      ended
    idle       IDLE       the next request                   keep_alive  answering; ended
    lingering  (as        the client to stop sending         linger      ended
                before)
    ended                 nothing: the descriptor is closed

One read brings any number of requests and perhaps a part of one.  `read_and_answer` takes them
through `parse` and `answer`; what it returns says where the connection goes from answering:

    None       head, if the parser is in the middle of a request (`keep_parser`), else idle
    a Pending  pending: the model waits for it and calls `resume`, which goes on answering
    LINGER     lingering: the model says that no more responses will come, and discards what it
               reads until the client closes the connection too
    END        ended: the model calls `close_connection`

The connection ends after a response that says so (``Connection: close``), at the end of what the
client sends, at an error of either side, or when it is cut from outside (`closing.py`).  It
lingers first if the client may be sending something that nobody will read.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from time import time
from typing import Final

from knot.files.representation import BUSY, Bytes, Slice, read_now
from knot.http.request import BadRequest, Request, RequestParser
from knot.http.responder import Deferred, Response, length_of
from knot.models.peer import HEAD, IDLE, Connection, is_gone, receive
from knot.models.server import NOTHING, Asked, Sent, Server, Unsent, new_sent

FIRST_SEND: Final = 64 * 1024
"""Bytes of a file that go out in one call with the head."""

SLICE: Final = 2 * 1024 * 1024
"""Bytes of a large file that are sent before other clients get their turn."""

TLS_SLICE: Final = 256 * 1024
"""The same if they have to be encrypted, which takes as long."""

DISK_THREADS: Final = 4
"""Threads that wait for disks, unless each connection has its own: enough that one slow disk does
not stop the others, few enough to be cheap."""

LOG_DELAY: Final = 0.2
"""Seconds until a line is in the access log."""

log = logging.getLogger("knot")


class Pending:
    """Something to wait for before the remaining requests of a read can be answered."""

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
        """None if nothing of the response has been sent, or all of it."""


class Ending(Enum):
    """No response will follow."""

    END = "end"
    LINGER = "linger"


END: Final = Ending.END
"""Nothing more need be read."""

LINGER: Final = Ending.LINGER
"""The client may still be sending: if it is not read, the kernel resets the connection, and a reset
overtakes the response (RFC 9112, section 9.6)."""


# -- requests and responses ------------------------------------------------------------------------


def read_and_answer(peer: Connection, server: Server) -> Pending | Ending | None:
    """Read what the client sends, and answer what can be answered at once."""
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
        server.parser = server.new_parser()  # no other client gets one in an unknown state
        raise
    asked = iter(requests), time(), parser.said, parser.unread, server.front
    if parser.unfinished or parser.ended or peer.parser is not None:
        keep_parser(peer, server, parser, data, begun=bool(requests))
    elif requests:  # an empty line is no sign of life
        peer.age = 0
        peer.waits_for = IDLE
    return asked


def keep_parser(
    peer: Connection, server: Server, parser: RequestParser, data: bytes | bytearray, begun: bool
) -> None:
    """Let the client have the parser to itself from the middle of a request to its end.

    `data` is what was read; `begun` means that it is in another request than before.
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
    """Where the unfinished head at the end of `data` begins."""
    return max(
        at + len(blank) if (at := data.rfind(blank)) >= 0 else 0 for blank in (b"\n\r\n", b"\n\n")
    )


def answer(peer: Connection, server: Server, asked: Asked) -> Pending | Ending | None:
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
        if server.on_sent is not None:
            note(server.on_sent, peer, asked, request, response)
        if not response.keep_alive:
            return END
    return None


def resume(
    peer: Connection, server: Server, pending: Pending, response: Response, unsent: Unsent | None
) -> Pending | Ending | None:
    """Go on after what was `pending`, until there is something to wait for again.

    `unsent` is what the client did not take; None if there was nothing to wait for.
    """
    if server.on_sent is not None:
        note(server.on_sent, peer, pending.asked, pending.request, response, unsent or NOTHING)
    if unsent:
        return END
    requests, _, said, unread, front = pending.asked
    if response.keep_alive and (server.gently or not server.stopping):
        peer.age = 0
        following = answer(peer, server, (requests, time(), said, unread, front))
        if following is None:
            peer.waits_for = IDLE if peer.parser is None else HEAD
        return following
    if unsent is not None or unread or peer.answered >= server.most_requests:
        return LINGER  # it may have sent more requests than will be answered, or be sending them
    return END


def refuse(peer: Connection, server: Server, request: BadRequest) -> None:
    """Send a last response to a client; what it does not take at once is lost."""
    now = time()
    response = server.respond(request, now)
    assert isinstance(response, Response)
    send(peer, response)
    if server.on_sent is not None:
        server.on_sent(Sent(peer.address, request, response, now))


def note(
    on_sent: Callable[[Sent], None],
    peer: Connection,
    asked: Asked,
    request: Request | BadRequest,
    response: Response,
    unsent: Unsent = NOTHING,
) -> None:
    """Report a response that was sent."""
    _, when, said, _, _ = asked
    about = said.popleft() if said else (b"", b"")
    on_sent(new_sent((peer.address, request, response, when, about, unsent, b"HTTP/1.1")))


def report(error: Exception) -> None:
    """Log an error that has ended a connection, unless it is the client's doing."""
    if is_gone(error):
        return
    if isinstance(error, OSError) and error.errno in BUSY:
        log.error("a connection ended because a file could not be read: %s", error.strerror)
    else:
        log.exception("a connection ended because of an error in Knot")


def close_connection(peer: Connection, server: Server) -> None:
    peer.close()
    server.peers.discard(peer)
    if server.connection_limit is not None:
        server.connection_limit.leave(peer.address)
    if not server.peers:
        while server.when_deserted:
            server.when_deserted.pop()()


# -- sending ---------------------------------------------------------------------------------------


def send(peer: Connection, response: Response) -> Unsent | None:
    """Send what goes out in one call; the rest, or None if that was all."""
    data = response.data
    if response.rest:
        return send_several(peer, data, response.rest)
    sent = send_now(peer, (data,))
    return None if sent == len(data) else deque((memoryview(data)[sent:],))


def send_now(peer: Connection, buffers: Sequence[Bytes]) -> int:
    """The number of bytes that the client takes at once; with TLS there is one buffer."""
    try:
        if peer.nonblocking:
            if peer.tls is None:
                return os.writev(peer.fd, buffers)
            return peer.tls.write(buffers[0])
        return os.pwritev(peer.fd, buffers, -1, os.RWF_NOWAIT)
    except BlockingIOError:
        return 0


def send_several(peer: Connection, head: bytes, rest: tuple[Bytes | Slice, ...]) -> Unsent | None:
    """Send the head with what follows it in memory, and with the first bytes of a file."""
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
        buffers = [b"".join(buffers)]  # in as few records as possible
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
    """Send what the client takes at once, and of a file no more than other clients can wait for.

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
    """Whether the next bytes of a file seem not to be in memory: `sendfile` would wait."""
    last = min(piece.stop, piece.start + SLICE) - 1
    fd = piece.file.fd
    return not (read_now(fd, 1, piece.start) and read_now(fd, 1, last))


def warm(piece: Slice) -> None:
    """Wait for the disk, on a thread that may; have the kernel read ahead, too."""
    os.posix_fadvise(piece.file.fd, piece.start, 4 * SLICE, os.POSIX_FADV_WILLNEED)
    os.pread(piece.file.fd, min(SLICE, piece.stop - piece.start), piece.start)
