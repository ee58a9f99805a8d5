"""What every concurrency model does with a connection between two waits.

Nothing here waits: what cannot be done at once is a `Pending`, and each model has its own way to
wait for it.  So two models differ in how they wait, and in nothing else.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from time import time
from typing import Final

from knot.files.representation import (
    BUSY,
    Bytes,
    Slice,
    read_now,
)
from knot.http.request import (
    BadRequest,
    Request,
    RequestParser,
)
from knot.http.responder import Deferred, Response, length_of
from knot.models.peer import (
    HEAD,
    IDLE,
    Connection,
    FdConnection,
    is_gone,
    name_of,
    receive,
    set_nonblocking,
)
from knot.models.server import (
    NOTHING,
    Asked,
    Server,
    Unsent,
)
from knot.process.listeners import BACKLOG

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

LOG_DELAY: Final = 0.2
"""Seconds after which a line stands in the access log."""

log = logging.getLogger("knot")

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
