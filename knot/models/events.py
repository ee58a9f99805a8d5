"""Knot by events: every connection is a tamed function, all of them on one thread.

Read it from the top: `serve` accepts, and `connection` is one client from its first byte to its
last.  The rare cases follow: a client that takes its response slowly, one that must be hung up on
with care, those that have become silent, and the stop.  ``with twait:`` is where other connections
get their turn; between two of those nothing else runs, so there is nothing to lock.
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
from knot.models.handshake import (
    PlainConnection,
    Protocols,
    TlsConnection,
    accept_proxied,
    tls_handshake,
)
from knot.models.peer import SENDING, is_gone, receive, set_nonblocking
from knot.models.server import Server as CommonServer
from knot.models.server import Unsent
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
    from knot.monitor.access_log import AccessLog
    from knot.tls import Certificates

__all__ = ["Server", "listen", "run", "serve", "stop"]

log = logging.getLogger("knot")

Start = Callable[[int, str], None]
"""Begins to serve a client, by its descriptor and address."""


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
        if not closures.closing:  # else the loop has ended, and the log flushes as it closes
            self._flush_later()

    @tamed
    def _flush_later(self) -> None:
        log = self.log
        assert log is not None
        with twait:
            timer(LOG_DELAY, mkevent())
        log.flush()


class Door(Descriptor):
    """A listener that the loop knows, and how a batch of its clients is accepted."""

    __slots__ = ("accept",)

    def __init__(self, listener: socket.socket, accept: Callable[[], OSError | None]) -> None:
        super().__init__(os.dup(listener.fileno()))  # the listener stays its owner's
        self.accept = accept


@tamed
def serve(
    listener: socket.socket, server: Server, certificates: Certificates | None = None
) -> None:
    """Accept connections until `stop`, or for as long as the loop runs; with `certificates`, they
    speak TLS."""
    if not server.doors:
        sweep(server)
    if certificates is None:
        start: Start = partial(start_plain, server)
    else:
        renew(certificates)
        start = partial(start_tls, server, certificates, protocols_of(certificates))
    accept = partial(accept_batch, listener, server, start, plain=certificates is None)
    door = Door(listener, accept)
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


def start_plain(server: Server, fd: int, address: str) -> None:
    peer = PlainConnection(fd, address)
    server.peers.add(peer)
    if server.proxies is not None and server.proxies(address):
        accept_proxied(peer, server, connection)
    else:
        connection(peer, server)


def start_tls(
    server: Server, certificates: Certificates, protocols: Protocols, fd: int, address: str
) -> None:
    peer = TlsConnection(fd, address)
    server.peers.add(peer)
    tls_handshake(peer, server, certificates, protocols)


def protocols_of(certificates: Certificates) -> Protocols:
    """How each protocol that a client may choose is spoken; the library for HTTP/2 is loaded only
    if that is one of them."""
    from knot.tls import HTTP_2

    found: Protocols = dict.fromkeys(certificates.protocols, connection)
    if HTTP_2 in found:
        from knot.models import http2

        found[HTTP_2] = http2.connection
    return found


@tamed
def connection(peer: PlainConnection, server: Server) -> None:
    """One client: read, answer, wait for more, until either side ends it.

    Reading and writing are in functions of their own, whose variables are gone when they return:
    an idle connection holds on to no request and no response.
    """
    with tvars:
        pending: Pending | Ending | None
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
    peer: PlainConnection, server: Server, pending: Pending, done: Event[Pending | Ending | None]
) -> None:
    """Wait for what is pending, and go on until there is something to wait for again."""
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
    """Send the rest of a response as fast as the client takes it.

    Something stays unsent if the client has gone, or if the file has become shorter: then the
    connection must end before the content does.
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


# -- stopping ------------------------------------------------------------------------------------


@tamed
def stop(server: Server, grace: float | None, done: Event[int]) -> None:
    """Accept the clients that wait already and no others, finish the responses under way within
    `grace` seconds, then cut the rest.

    Without a grace, wait until every client has its last response, however long that takes.
    Triggers `done` with the number of connections that were cut.
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


@tamed
def main(
    listeners: Sequence[socket.socket],
    server: Server,
    signals: Signals,
    grace: float,
    certificates: Certificates | None,
    redirects: Sequence[socket.socket],
    cut: list[int | None],
) -> None:
    """Serve until a signal, then stop; `cut` gets what `run` returns."""
    heard = Descriptor(os.dup(signals.fd))
    for listener in listeners:
        serve(listener, server, certificates)
    for listener in redirects:
        serve(listener, server)
    server.began()
    while not signals.take():
        with twait:
            wait_on_fd(heard, READ, mkevent())
    with twait:
        stop_by_signals(server, signals, heard, grace, (*listeners, *redirects), cut, mkevent())
    heard.close()


@tamed
def stop_by_signals(
    server: Server,
    signals: Signals,
    heard: Descriptor,
    grace: float,
    listeners: Sequence[socket.socket],
    cut: list[int | None],
    done: Event[()],
) -> None:
    """Stop as the first signal says, sooner after another."""
    with tvars:
        number: int
        stopped: bool
    r = Rendezvous[bool]()
    gently = signals.gently
    stop(server, None if gently else grace, mkevent(r, True, number))
    for listener in listeners:
        listener.close()  # no connection is accepted from it any more: no client may wait there
    while not cut:
        wait_on_fd(heard, READ, mkevent(r, False))
        stopped = twait(r)
        if stopped:
            cut.append(number)
        elif signals.take():
            if not gently:
                cut.append(None)
            elif not signals.gently:
                gently = False
                stop(server, grace, mkevent(r, True, number))
    r.cancel()
    done.trigger()


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlockedWarning)  # the connections that are cut
        run_loop(partial(main, listeners, server, signals, grace, certificates, redirects, cut))
    return cut[0]
