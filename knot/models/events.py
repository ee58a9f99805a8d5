"""Knot by events: every connection is a tamed function, all of them on one thread.

Read it from the top: `serve` accepts, `connection` is one client from its first byte to its last,
and the two below it are the rare cases, a client that takes its answer slowly and one that must
be hung up on with care.  ``with twait:`` is where the others get their turn; between two of those
nothing else runs, so there is nothing to lock.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections import deque
from time import time
from typing import Final

from knot.request import RequestParser
from knot.respond import Response, respond
from knot.site import Site, Slice
from tame import (
    READ,
    WRITE,
    Descriptor,
    Event,
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

SLICE: Final = 512 * 1024
"""Bytes of a large file that are sent before the others get their turn."""

OUT_OF_DESCRIPTORS: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
PAUSE: Final = 0.1
"""Seconds without accepting when the process has no descriptor left."""

GONE: Final = (ConnectionError, TimeoutError)
"""What the system calls raise when there is no client any more."""

LINGER: Final = 2.0
"""Seconds in which a client that was refused may still send, as nginx has it by default."""

log = logging.getLogger("knot")


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
def serve(listener: socket.socket, site: Site) -> None:
    """Accept connections for as long as the loop runs, and serve `site` on each of them."""
    door = Descriptor(listener.fileno())
    while True:
        with twait:
            wait_on_fd(door, READ, mkevent())
        for _ in range(BATCH):
            try:
                # What `accept` does first; its socket object would cost a getsockname(), too.
                peer, _address = listener._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in OUT_OF_DESCRIPTORS:
                    log.warning("cannot accept a connection: %s", error.strerror)
                    with twait:
                        timer(PAUSE, mkevent())
                break
            os.set_blocking(peer, False)
            connection(Descriptor(peer), site)


@tamed
def connection(peer: Descriptor, site: Site) -> None:
    """One client: read, parse, answer, write, until either side has enough."""
    with tvars:
        sent: bool
    parser = RequestParser()
    try:
        while True:
            data = receive(peer)
            if data == b"":
                return
            for request in parser.feed(data) if data else ():
                response = respond(request, site, time())
                rest = send(peer, response)
                if rest is not None:
                    with twait:
                        send_rest(peer, rest, mkevent(sent))
                    if not sent:
                        return
                if not response.keep_alive:
                    if parser.unread:
                        with twait:
                            hang_up(peer, mkevent())
                    return
            with twait:
                wait_on_fd(peer, READ, mkevent())
    except GONE:
        pass
    except Exception:
        log.exception("a connection ended with an error that is Knot's own")
    finally:
        peer.close()


def receive(peer: Descriptor) -> bytes | None:
    """What the client has sent: b"" if nothing will come any more, None if nothing is there yet."""
    try:
        return os.read(peer.fd, READ_SIZE)
    except BlockingIOError:
        return None


Unsent = deque[memoryview | Slice]
"""What of a response has not been sent yet."""


def send(peer: Descriptor, response: Response) -> Unsent | None:
    """Send what goes out in one call; what is left, or None if that was all."""
    data, rest, _ = response
    if rest:
        data, rest = with_first_bytes(data, rest)
    try:
        sent = os.write(peer.fd, data)
    except BlockingIOError:
        sent = 0
    if sent == len(data) and not rest:
        return None
    unsent: Unsent = deque(
        piece if isinstance(piece, Slice) else memoryview(piece) for piece in rest
    )
    if sent < len(data):
        unsent.appendleft(memoryview(data)[sent:])
    return unsent


def with_first_bytes(
    data: bytes, rest: tuple[bytes | Slice, ...]
) -> tuple[bytes, tuple[bytes | Slice, ...]]:
    """The first bytes of a file go out with the head: a packet less."""
    first, *others = rest
    assert isinstance(first, Slice)  # bytes would stand in `data`
    length = min(WHOLE, first.stop - first.start)
    content = os.pread(first.file.fd, length, first.start)
    left = first._replace(start=first.start + len(content))
    return data + content, (*((left,) if left.start < left.stop else ()), *others)


@tamed
def send_rest(peer: Descriptor, unsent: Unsent, done: Event[bool]) -> None:
    """Send it as fast as the client takes it; triggers `done` with whether all has gone out.

    It has not if the file has become shorter: then the client must see the connection end before
    the length that it was told.
    """
    try:
        while unsent:
            with twait:
                wait_on_fd(peer, WRITE, mkevent())
            left = send_some(peer, unsent.popleft())
            if left is not None:
                unsent.appendleft(left)
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


@tamed
def hang_up(peer: Descriptor, done: Event[()]) -> None:
    """End a connection whose client may still be sending, without losing the answer.

    What it sends and nobody reads would make the kernel reset the connection, and a reset
    overtakes the answer (RFC 9112, section 9.6): so say that nothing more will come, and read on
    for a while.
    """
    with tvars:
        enough: bool
    r = Rendezvous[bool]()
    timer(LINGER, mkevent(r, True))
    try:
        say_the_end(peer)
        while receive(peer) != b"":
            wait_on_fd(peer, READ, mkevent(r, False))
            enough = twait(r)
            if enough:
                break
    except OSError:
        pass  # the client has gone
    r.cancel()
    done.trigger()


def say_the_end(peer: Descriptor) -> None:
    """Tell the client that nothing more will come."""
    end = socket.socket(fileno=peer.fd)
    try:
        end.shutdown(socket.SHUT_WR)
    finally:
        end.detach()
