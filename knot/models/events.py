"""Knot by events: every connection is a tamed function, all of them on one thread.

Read it from the top: `serve` accepts, `connection` is one client from its first byte to its last,
and what stands below are the rare cases: a client that takes its answer slowly, one that must be
hung up on with care, those that have become silent, and the end of it all.  ``with twait:`` is
where the others get their turn; between two of those nothing else runs, so there is nothing to
lock.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from knot.files.representation import Slice
from knot.http.responder import Deferred, Responder
from knot.limits import Limits
from knot.models.closing import (
    PARTING,
    SWEEP,
    cut_all,
    expire_idle,
    half_close,
    start_drain,
)
from knot.models.connection import (
    DISK_THREADS,
    END,
    LINGER,
    LOG_DELAY,
    OUT_OF_DESCRIPTORS,
    PAUSE,
    Pending,
    accept_batch,
    accept_rest,
    close_connection,
    is_cold,
    read_and_answer,
    report,
    resume,
    send,
    send_some,
    warm,
)
from knot.models.handshake import PlainConnection, TlsConnection, accept_proxied, tls_handshake
from knot.models.peer import (
    SENDING,
    is_gone,
    receive,
    set_nonblocking,
)
from knot.models.server import Server as CommonServer
from knot.models.server import Unsent
from knot.monitor.access_log import AccessLog
from knot.process.listeners import listen
from knot.process.signals import Signals
from tame import (
    READ,
    WRITE,
    BlockedWarning,
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
from tame import closure as closures
from tame import run as run_loop
from tame.threads import Pool

if TYPE_CHECKING:
    from knot.tls import Certificates

__all__ = ["Server", "listen", "run", "serve", "stop"]

log = logging.getLogger("knot")


class Server(CommonServer):
    """What all the connections share."""

    def __init__(
        self,
        responder: Responder,
        limits: Limits | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        super().__init__(responder, limits, access_log)
        self.disk = Pool(DISK_THREADS, "knot-disk")
        self.doors: list[Door] = []

    def flush_later(self) -> None:
        if not closures.closing:  # else the loop has ended, and so does the log: it flushes then
            self._flush_later()

    @tamed
    def _flush_later(self) -> None:
        log = self.log
        assert log is not None
        with twait:
            timer(LOG_DELAY, mkevent())
        log.flush()


class Door(Descriptor):
    """A listener, as the loop knows it, and how a batch of its clients is accepted."""

    __slots__ = ("accept",)

    def __init__(self, listener: socket.socket, accept: Callable[[], OSError | None]) -> None:
        super().__init__(os.dup(listener.fileno()))  # the listener stays its owner's
        self.accept = accept


@tamed
def serve(
    listener: socket.socket, server: Server, certificates: Certificates | None = None
) -> None:
    """Accept connections until `stop`, or for as long as the loop runs; with `certificates`, such
    as speak TLS."""
    if not server.doors:
        sweep(server)
    if certificates is not None:
        renew(certificates)
        connections = connections_of(certificates.protocols)

    def start(fd: int, name: str) -> None:
        if certificates is None:
            peer = PlainConnection(fd, name)
            server.peers.add(peer)
            if server.proxies is not None and server.proxies(name):
                accept_proxied(peer, server, connection)
            else:
                connection(peer, server)
        else:
            secure = TlsConnection(fd, name)
            server.peers.add(secure)
            tls_handshake(secure, server, certificates, connections)

    door = Door(
        listener, partial(accept_batch, listener, server, start, plain=certificates is None)
    )
    server.doors.append(door)
    try:
        while door.fd >= 0:
            with twait:
                wait_on_fd(door, READ, mkevent())
            error = door.accept()
            if error is not None and error.errno in OUT_OF_DESCRIPTORS:
                log.warning("cannot accept a connection: %s", error.strerror)
                with twait:
                    timer(PAUSE, mkevent())
    except EventDroppedError:
        pass  # `stop` has closed the door
    finally:
        door.close()


def connections_of(
    protocols: Sequence[str],
) -> dict[str, Callable[[PlainConnection, Server], None]]:
    """How each of `protocols` is spoken; those who do not speak HTTP/2 do without its library."""
    from knot.tls import HTTP_2

    found: dict[str, Callable[[PlainConnection, Server], None]] = dict.fromkeys(
        protocols, connection
    )
    if HTTP_2 in found:
        from knot.models import http2

        found[HTTP_2] = http2.connection
    return found


@tamed
def connection(peer: PlainConnection, server: Server) -> None:
    """One client: read, answer, wait for more, until either side has enough.

    What is read and written at once happens in functions of its own, whose variables are gone
    when they return: an idle connection holds on to no request and to no answer.
    """
    with tvars:
        pending: Pending | None
    try:
        while True:
            pending = read_and_answer(peer, server)
            while pending is not None:
                if pending is END:
                    return
                if pending is LINGER:
                    with twait:
                        hang_up(peer, server.limits.linger, mkevent())
                    return
                with twait:
                    wait_out(peer, server, pending, mkevent(pending))
            set_nonblocking(peer)
            with twait:
                wait_on_fd(peer, READ, mkevent())
    except Exception as error:
        report(error)
    finally:
        close_connection(peer, server)


@tamed
def wait_out(
    peer: PlainConnection, server: Server, pending: Pending, done: Event[Pending | None]
) -> None:
    """Wait for what has to be waited for, and go on until the next obstacle."""
    with tvars:
        made: Any
    set_nonblocking(peer)
    peer.waits_for = SENDING
    unsent: Unsent | None = pending.unsent
    response = pending.response
    try:
        if isinstance(response, Deferred):
            while isinstance(response, Deferred):
                with twait:
                    server.disk.fork(mkevent(made), response.work)
                response = response.finish(made)
            unsent = send(peer, response)
        if unsent:
            with twait:
                send_rest(peer, server, unsent, mkevent())
        done.trigger(resume(peer, server, pending, response, unsent))
    except Exception as error:
        done.fail(error)


@tamed
def send_rest(peer: PlainConnection, server: Server, unsent: Unsent, done: Event[()]) -> None:
    """Send it as fast as the client takes it.

    Something stays unsent if the client has gone, or if the file has become shorter: then the
    client must see the connection end before the length that it was told.
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
                    server.disk.fork(mkevent(warmed), warm, piece)
            send_some(peer, unsent)
    except EOFError:
        pass
    except Exception as error:
        if not is_gone(error):
            done.fail(error)
            return
    done.trigger()


@tamed
def hang_up(peer: PlainConnection, linger: float, done: Event[()]) -> None:
    """End a connection whose client may still be sending (see `LINGER`)."""
    with tvars:
        enough: bool
    r = Rendezvous[bool]()
    timer(linger, mkevent(r, True))
    try:
        half_close(peer)
        while receive(peer) != b"":
            wait_on_fd(peer, READ, mkevent(r, False))
            enough = twait(r)
            if enough:
                break
    except OSError:
        pass  # the client has gone
    r.cancel()
    done.trigger()


@tamed
def sweep(server: Server) -> None:
    while True:
        with twait:
            timer(SWEEP, mkevent())
        expire_idle(server)


@tamed
def renew(certificates: Certificates) -> None:
    while True:
        with twait:
            timer(SWEEP, mkevent())
        certificates.look()


# -- the end -------------------------------------------------------------------------------------


@tamed
def stop(server: Server, grace: float | None, done: Event[int]) -> None:
    """Accept nothing more but what waits to be, finish what is under way within `grace` seconds,
    then cut the rest.

    Without a grace, wait until every client has had its last answer, however long that takes.
    Triggers `done` with the number of connections that had to be cut.
    """
    with tvars:
        over: bool
    start_drain(server, gently=grace is None or grace > 0)
    for door in server.doors:
        if door.fd >= 0:
            accept_rest(door.accept)
            door.close()
    r = Rendezvous[bool]()
    if server.peers:
        server.when_deserted.append(mkevent(r, True).trigger)
        if grace is not None:
            timer(min(grace, PARTING), mkevent(r, False))
            timer(grace, mkevent(r, True))
        over = twait(r)
        if not over:
            start_drain(server)
            if server.peers:
                twait(r)
    r.cancel()
    done.trigger(cut_all(server))


def run(
    listeners: Sequence[socket.socket],
    server: Server,
    signals: Signals,
    grace: float,
    certificates: Certificates | None = None,
    redirects: Sequence[socket.socket] = (),
) -> int | None:
    """Serve until a signal, then stop; how many connections were cut, None for a second signal.

    `redirects` listen for clients without TLS, whom the server's gate sends elsewhere.
    """
    cut: list[int | None] = []

    @tamed
    def main() -> None:
        with tvars:
            number: int
        heard = Descriptor(os.dup(signals.fd))
        for listener in listeners:
            serve(listener, server, certificates)
        for listener in redirects:
            serve(listener, server)
        server.began()
        while not signals.take():
            with twait:
                wait_on_fd(heard, READ, mkevent())
        r = Rendezvous[bool]()
        gently = signals.gently
        stop(server, None if gently else grace, mkevent(r, True, number))
        for listener in (*listeners, *redirects):
            listener.close()  # nobody accepts from it any more: no client may wait there
        while not cut:
            wait_on_fd(heard, READ, mkevent(r, False))
            stopped = twait(r)
            if stopped:
                cut.append(number)
            elif signals.take():
                if gently and not signals.gently:
                    gently = False
                    stop(server, grace, mkevent(r, True, number))
                elif not gently:
                    cut.append(None)
        r.cancel()
        heard.close()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlockedWarning)  # the connections that are cut
        run_loop(main)
    return cut[0]
