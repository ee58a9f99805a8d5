"""Knot by threads: each connection has a thread of the operating system, which blocks for it.

Made as good as threads can be: no queue and no hand-off between accepting and answering, one read
and one write for each request, both on a descriptor that blocks.  Threads switch anywhere, so one
lock guards what they share, the cache and the log; no thread waits while it holds the lock.
Timeouts would cost a system call each, so the main thread looks at all connections once a second.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
from _thread import start_new_thread  # `Thread.start` waits until the other runs: 30 µs of 90
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

from knot.access.gate import Client, Gate, Respond
from knot.http.request import NO_NAMES, BadRequest, Request
from knot.http.responder import Deferred, Responder, Response
from knot.limits import Limits
from knot.models import connection as common
from knot.models.accepting import FULL, OUT_OF_DESCRIPTORS, PAUSE, admit, turn_away
from knot.models.closing import PARTING, SWEEP, cut_all, expire_idle, half_close, start_drain
from knot.models.connection import (
    END,
    LINGER,
    LOG_DELAY,
    Ending,
    Pending,
    answer,
    parse,
    report,
    resume,
    send,
    send_some,
)
from knot.models.peer import (
    HEAD,
    READ_SIZE,
    SENDING,
    FdConnection,
    is_gone,
    name_of,
    receive,
    set_nonblocking,
)
from knot.models.server import Sent, Unsent
from knot.models.server import Server as CommonServer
from knot.process.listeners import BACKLOG
from knot.process.signals import Signals

if TYPE_CHECKING:
    from knot.monitor.access_log import AccessLog

__all__ = ["Server", "run"]

CUT_TIMEOUT: Final = 1.0
"""Seconds for threads to notice that their connections have been cut."""

log = logging.getLogger("knot")


class Server(CommonServer):
    """What all the connections share, and the lock that guards it."""

    def __init__(
        self,
        responder: Responder,
        limits: Limits | None = None,
        access_log: AccessLog | None = None,
        pool: int | None = None,
    ) -> None:
        """`pool` is the number of threads; None gives each connection one of its own."""
        self.lock = threading.RLock()
        super().__init__(responder, limits, access_log)
        self.pool = pool
        self.last: deque[FdConnection] = deque()
        """Clients accepted at the stop, which threads are still to serve."""
        self.over = False
        """Whether `run` has returned: a thread that goes on fails because everything is closed."""

    def respond_by(self, responder: Responder) -> Respond:
        def respond(request: Request | BadRequest, now: float) -> Response | Deferred:
            with self.lock:
                return responder.respond(request, now)

        return respond

    def adopt(self, other: CommonServer) -> None:
        with self.lock:
            super().adopt(other)

    def guard(self, gate: Gate, wanted: frozenset[bytes] = NO_NAMES) -> None:
        def locked(peer: Client, request: Request | BadRequest, now: float) -> Response | Deferred:
            with self.lock:
                return gate(peer, request, now)

        super().guard(locked, wanted)

    def note(self, sent: Sent) -> None:
        with self.lock:
            super().note(sent)

    def flush_later(self) -> None:
        """The main thread flushes every `LOG_DELAY` seconds."""


def accept_for_each(listeners: Sequence[socket.socket], server: Server) -> None:
    """Give each connection a thread of its own."""
    while (peer := accept(listeners, server)) is not None:
        try:
            start_new_thread(connection, (peer, server))
        except RuntimeError as error:
            log.warning("cannot start a thread for a connection: %s", error)
            with server.lock:  # against the sweep, which looks at each of them
                fd, peer.fd = peer.fd, -1
                common.close_connection(peer, server)
            turn_away(fd, peer.address, server, FULL)


def accept_in_turn(listeners: Sequence[socket.socket], server: Server) -> None:
    """What a thread of the pool does: accept, serve to the end, accept again."""
    while (peer := accept(listeners, server)) is not None:
        connection(peer, server)


def accept(listeners: Sequence[socket.socket], server: Server) -> FdConnection | None:
    """Wait for the next connection; None when there will be no more."""
    listener = listeners[0]
    while not server.stopping:
        if len(listeners) > 1:
            listener = ready(listeners)
        try:
            peer = accept_one(listener, server)
        except OSError as error:
            if error.errno in OUT_OF_DESCRIPTORS:
                log.warning("cannot accept a connection: %s", error.strerror)
                sleep(PAUSE)
            continue  # the client has gone already, or `run` has shut the listener down
        if peer is not None:
            return peer
    try:
        peer = server.last.popleft()
    except IndexError:
        return None
    peer.waits_for = HEAD
    return peer


def accept_one(listener: socket.socket, server: Server) -> FdConnection | None:
    """Accept a client; None if it was one too many.  Raises `OSError`."""
    # The first half of `accept`; its socket object would cost a getsockname(), too.
    fd, address = listener._accept()  # type: ignore[attr-defined]
    with server.lock:
        name = name_of(address) if server.wants_addresses else ""
        why = admit(name, server)
        if not why:
            peer = FdConnection(fd, name)
            server.peers.add(peer)
            return peer
    turn_away(fd, name, server, why)
    return None


def accept_rest(listener: socket.socket, server: Server) -> None:
    """Accept the clients that the kernel has connected already: it would reset them."""
    listener.setblocking(False)
    with suppress(OSError):
        for _ in range(BACKLOG):
            peer = accept_one(listener, server)
            if peer is not None:
                peer.waits_for = SENDING  # `start_drain` does not cut it off
                server.last.append(peer)


def ready(listeners: Sequence[socket.socket]) -> socket.socket:
    """Wait for a client at any of them; another thread may accept that client first."""
    by_fd = {listener.fileno(): listener for listener in listeners}
    poll = select.poll()
    for fd in by_fd:
        if fd < 0:
            return by_fd[fd]  # `run` has closed it
        poll.register(fd, select.POLLIN)
    found = poll.poll()
    return by_fd[found[next(turns) % len(found)][0]]


turns = count()
"""So that all listeners are treated alike."""


def connection(peer: FdConnection, server: Server) -> None:
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
    except Exception as error:
        if not server.over:
            report(error)
    finally:
        with server.lock:  # else the sweep could cut another connection with the same number
            common.close_connection(peer, server)


def read_and_answer(peer: FdConnection, server: Server) -> Pending | Ending | None:
    """Wait for requests, and answer what can be answered without waiting again."""
    if server.stopping and not server.gently and peer.waits_for != SENDING and peer.parser is None:
        # It may have come, or become idle, since `start_drain` has looked.
        ready = select.poll()
        ready.register(peer.fd, select.POLLIN)
        if not ready.poll(0):
            return END
    data = os.read(peer.fd, READ_SIZE)
    if not data:
        return END
    with server.lock:
        asked = parse(peer, server, data)
        next_wait, peer.waits_for = peer.waits_for, SENDING  # the main thread does not cut it
    pending = answer(peer, server, asked)
    if pending is None:
        peer.waits_for = next_wait
    return pending


def wait_out(peer: FdConnection, server: Server, pending: Pending) -> Pending | Ending | None:
    """Wait for what is pending, and go on until there is something to wait for again."""
    peer.waits_for = SENDING
    unsent: Unsent | None = pending.unsent
    response = pending.response
    if isinstance(response, Deferred):
        while isinstance(response, Deferred):
            done = response.work()
            with server.lock:
                response = response.finish(done)
        unsent = send(peer, response)
    if unsent:
        send_rest(peer, unsent)
    return resume(peer, server, pending, response, unsent)


def send_rest(peer: FdConnection, unsent: Unsent) -> None:
    """Send the rest of a response as fast as the client takes it.

    A write that blocks would hide whether the client takes anything at all, so wait for room and
    then write.
    """
    set_nonblocking(peer)
    ready = select.poll()
    ready.register(peer.fd, select.POLLOUT)
    try:
        while unsent:
            ready.poll()
            send_some(peer, unsent)
        os.set_blocking(peer.fd, True)
        peer.nonblocking = False
    except EOFError:
        pass
    except OSError as error:
        if not is_gone(error):
            raise


def hang_up(peer: FdConnection, linger: float) -> None:
    """End a connection whose client may still be sending (see `LINGER`)."""
    set_nonblocking(peer)
    until = monotonic() + linger
    ready = select.poll()
    ready.register(peer.fd, select.POLLIN)
    half_close(peer)
    while receive(peer) != b"" and (left := until - monotonic()) > 0:
        ready.poll(left * 1000)


# -- the main thread -----------------------------------------------------------------------------


def run(
    listeners: Sequence[socket.socket], server: Server, signals: Signals, grace: float
) -> int | None:
    """Serve until a signal, then stop; how many connections were cut, None for a second signal."""
    acceptors = start_acceptors(listeners, server)
    watch(server, signals, None)
    for listener in listeners:
        accept_rest(listener, server)
    with server.lock:
        start_drain(server, gently=grace > 0)
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)  # a thread that is in accept() there comes out of it
        listener.close()
    stopped = watch(server, signals, min(grace, PARTING))
    with server.lock:
        start_drain(server)
    stopped = stopped and watch(server, signals, max(grace - PARTING, 0))
    cut = end_threads(server, acceptors)
    server.over = True
    return cut if stopped else None


def start_acceptors(listeners: Sequence[socket.socket], server: Server) -> list[threading.Thread]:
    """Start the threads that accept, at least one of them."""
    if server.pool is None:
        work, groups = accept_for_each, [[listener] for listener in listeners]
    else:
        work, groups = accept_in_turn, [list(listeners)] * server.pool
    for listener in listeners:
        listener.setblocking(len(groups[0]) == 1)  # no other thread takes what this one waits for
    server.began()
    acceptors: list[threading.Thread] = []
    for group in groups:
        thread = threading.Thread(target=work, args=(group, server), daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if not acceptors:
                raise
            log.warning("cannot start more than %d threads: %s", len(acceptors), error)
            break
        acceptors.append(thread)
    return acceptors


def end_threads(server: Server, acceptors: list[threading.Thread]) -> int:
    """Cut every connection that is left, and give the threads a moment to notice; how many."""
    with server.lock:
        cut = cut_all(server)
        with suppress(IndexError):  # a thread may take one of them meanwhile
            while True:
                common.close_connection(server.last.popleft(), server)
    give_up = monotonic() + CUT_TIMEOUT
    while server.peers and monotonic() < give_up:
        sleep(CUT_TIMEOUT / 100)
    for thread in acceptors:
        thread.join(max(give_up - monotonic(), 0))
    return cut


def watch(server: Server, signals: Signals, grace: float | None) -> bool:
    """Look after timeouts and the log for `grace` seconds, or until a signal: then False."""
    heard = select.poll()
    heard.register(signals.fd, select.POLLIN)
    began = swept = monotonic()
    while grace is None or (server.peers and monotonic() - began < grace):
        timeout = LOG_DELAY if server.log or grace is not None else SWEEP
        if grace is not None:
            timeout = min(timeout, max(0, began + grace - monotonic()))
        heard.poll(1000 * timeout)
        if signals.take():
            return False
        if server.log is not None:
            with server.lock:
                server.log.flush()
        if monotonic() - swept >= SWEEP:
            swept = monotonic()
            with server.lock:
                expire_idle(server)
    return True
