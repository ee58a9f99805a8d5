"""Knot by greenlets: each connection is a user-level thread of gevent's, today's nearest to the
paper's Capriccio.

It reads like `threads` and runs like `events`: a wait switches to another greenlet's stack, and
between two waits nothing else runs, so there is nothing to lock.  Nothing is patched: the waits
are gevent's own.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import gevent
import gevent.event
from gevent.hub import get_hub
from gevent.pool import Group

from knot.files.representation import Slice
from knot.http.responder import Deferred, Responder
from knot.limits import Limits
from knot.models.accepting import OUT_OF_DESCRIPTORS, PAUSE, accept_batch, accept_rest
from knot.models.closing import PARTING, SWEEP, cut_all, expire_idle, half_close, start_drain
from knot.models.connection import (
    DISK_THREADS,
    END,
    LINGER,
    LOG_DELAY,
    Ending,
    Pending,
    close_connection,
    is_cold,
    read_and_answer,
    report,
    resume,
    send,
    send_some,
    warm,
)
from knot.models.peer import SENDING, FdConnection, is_gone, receive, set_nonblocking
from knot.models.server import Server as CommonServer
from knot.models.server import Unsent
from knot.process.signals import Signals

if TYPE_CHECKING:
    from knot.monitor.access_log import AccessLog

__all__ = ["Server", "run"]

CUT_TIMEOUT: Final = 1.0
"""Seconds for greenlets to see that their connections have been cut."""

READ: Final = 1
WRITE: Final = 2
"""As libev counts them."""

T = TypeVar("T")

log = logging.getLogger("knot")


class PlainConnection(FdConnection):
    """A connection, and libev's watcher of it."""

    __slots__ = ("_reader",)

    def __init__(self, fd: int, address: str) -> None:
        super().__init__(fd, address)
        self._reader: Any = None

    def readable(self) -> None:
        if self._reader is None:
            self._reader = get_hub().loop.io(self.fd, READ)
        get_hub().wait(self._reader)

    def writable(self) -> None:
        wait(self.fd, WRITE)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        super().close()


def wait(fd: int, events: int) -> None:
    watcher = get_hub().loop.io(fd, events)
    try:
        get_hub().wait(watcher)
    finally:
        watcher.close()


class Server(CommonServer):
    """What all the connections share."""

    def __init__(
        self,
        responder: Responder,
        limits: Limits | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        super().__init__(responder, limits, access_log)
        self.disk = get_hub().threadpool
        self.disk.maxsize = DISK_THREADS
        self.connections = Group()

    def on_disk(self, job: Callable[[], T]) -> T:
        """What `job` returns, or raises, done on a thread."""
        try:
            done = self.disk.spawn(job)
        except RuntimeError as error:  # there are too many on this machine
            log.warning("cannot start a thread to wait for the disk: %s", error)
            return job()
        found: T = done.get()
        return found

    def flush_later(self) -> None:
        assert self.log is not None
        gevent.spawn_later(LOG_DELAY, self.log.flush)


def serve(listener: socket.socket, server: Server) -> None:
    """Accept connections until it is killed."""
    while True:
        wait(listener.fileno(), READ)
        error = accept_batch(listener, server, partial(start_greenlet, server))
        if error is not None and error.errno in OUT_OF_DESCRIPTORS:
            log.warning("cannot accept a connection: %s", error.strerror)
            gevent.sleep(PAUSE)


def start_greenlet(server: Server, fd: int, name: str) -> None:
    peer = PlainConnection(fd, name)
    server.peers.add(peer)
    server.connections.spawn(connection, peer, server)


def connection(peer: PlainConnection, server: Server) -> None:
    """One client: read, answer, wait for more, until either side has enough."""
    try:
        while True:
            pending = read_and_answer(peer, server)
            while pending is not None:
                if pending is END:
                    return
                if pending is LINGER:
                    return hang_up(peer, server.limits.linger)
                pending = wait_out(peer, server, pending)
            set_nonblocking(peer)
            peer.readable()
    except Exception as error:
        report(error)
    finally:
        close_connection(peer, server)


def wait_out(peer: PlainConnection, server: Server, pending: Pending) -> Pending | Ending | None:
    """Wait for what is pending, and go on until there is something to wait for again."""
    set_nonblocking(peer)
    peer.waits_for = SENDING
    unsent: Unsent | None = pending.unsent
    response = pending.response
    if isinstance(response, Deferred):
        while isinstance(response, Deferred):
            response = response.finish(server.on_disk(response.work))
        unsent = send(peer, response)
    if unsent:
        send_rest(peer, server, unsent)
    return resume(peer, server, pending, response, unsent)


def send_rest(peer: PlainConnection, server: Server, unsent: Unsent) -> None:
    """Send it as fast as the client takes it.

    Something stays unsent if the client has gone, or if the file has become shorter: then the
    client must see the connection end before the length that it was told.
    """
    try:
        while unsent:
            peer.writable()
            piece = unsent[0]
            if isinstance(piece, Slice) and is_cold(piece):
                server.on_disk(partial(warm, piece))
            send_some(peer, unsent)
    except EOFError:
        pass
    except OSError as error:
        if not is_gone(error):
            raise


def hang_up(peer: PlainConnection, linger: float) -> None:
    """End a connection whose client may still be sending (see `LINGER`)."""
    half_close(peer)
    with gevent.Timeout(linger, False):
        while receive(peer) != b"":
            peer.readable()


def sweep(server: Server) -> None:
    while True:
        gevent.sleep(SWEEP)
        expire_idle(server)


# -- the end -------------------------------------------------------------------------------------


def run(
    listeners: Sequence[socket.socket], server: Server, signals: Signals, grace: float
) -> int | None:
    """Serve until a signal, then stop; how many connections were cut, None for a second signal."""
    fd = os.dup(signals.fd)
    serving = [gevent.spawn(serve, listener, server) for listener in listeners]
    sweeping = gevent.spawn(sweep, server)
    server.began()
    wait_for_stop(fd, signals)
    gevent.killall(serving)
    start_drain(server, gently=grace > 0)
    for listener in listeners:
        accept_rest(partial(accept_batch, listener, server, partial(start_greenlet, server)))
        listener.close()
    again = gevent.spawn(wait_for_stop, fd, signals)
    if server.peers:
        deserted = gevent.event.Event()
        server.when_deserted.append(deserted.set)
        for patience in (min(grace, PARTING), max(grace - PARTING, 0)):
            gevent.wait([again, deserted], timeout=patience, count=1)
            start_drain(server)
    cut = None if again.ready() else len(server.peers)
    gevent.killall([again, sweeping])
    cut_all(server)
    server.connections.join(CUT_TIMEOUT)
    os.close(fd)
    return cut


def wait_for_stop(fd: int, signals: Signals) -> None:
    while not signals.take():
        wait(fd, READ)
