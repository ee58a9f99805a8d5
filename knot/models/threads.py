"""Knot by threads: each connection has one of the operating system's, which blocks for it.

Made as good as threads can be: no queue and no hand-off between accepting and answering, one read
and one write for a request, both on a descriptor that blocks.  Threads really take turns anywhere,
so that what they share, the cache and the log, is under one lock; no thread waits while it has it.
Timeouts would cost a system call each, so the main thread looks once a second at all of them.
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
from typing import Final

from knot.access.gate import Client, Gate, Respond
from knot.http.request import NO_NAMES, BadRequest, Request
from knot.http.responder import Deferred, Responder, Response
from knot.limits import Limits
from knot.models import connection as common
from knot.models.closing import (
    PARTING,
    SWEEP,
    cut_all,
    expire_idle,
    half_close,
    start_drain,
)
from knot.models.connection import (
    END,
    FULL,
    LINGER,
    LOG_DELAY,
    OUT_OF_DESCRIPTORS,
    PAUSE,
    Pending,
    admit,
    answer,
    parse,
    report,
    resume,
    send,
    send_some,
    turn_away,
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
from knot.models.server import NOTHING, Asked, Unsent
from knot.models.server import Server as CommonServer
from knot.monitor.access_log import AccessLog
from knot.process.listeners import BACKLOG
from knot.process.signals import Signals

__all__ = ["Server", "run"]

CUT_TIMEOUT: Final = 1.0
"""Seconds for threads to see that their connections have been cut."""

log = logging.getLogger("knot")


class Server(CommonServer):
    """What all the connections share, and the lock for it."""

    def __init__(
        self,
        responder: Responder,
        limits: Limits | None = None,
        access_log: AccessLog | None = None,
        pool: int | None = None,
    ) -> None:
        """`pool` is how many threads take turns; None gives each connection one of its own."""
        self.lock = threading.RLock()
        super().__init__(responder, limits, access_log)
        self.pool = pool
        self.last: deque[FdConnection] = deque()
        """Clients that were accepted at the stop, for threads to take."""
        self.over = False
        """Whether `run` has returned: what threads fail at that go on is the end of their files."""

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

    def note(
        self,
        address: str,
        request: Request | BadRequest,
        response: Response,
        asked: Asked,
        unsent: Unsent = NOTHING,
        version: bytes = b"HTTP/1.1",
    ) -> None:
        with self.lock:
            super().note(address, request, response, asked, unsent, version)

    def flush_later(self) -> None:
        """The main thread flushes every `LOG_DELAY` seconds."""


def accept_for_each(listeners: Sequence[socket.socket], server: Server) -> None:
    """Give each connection a thread of its own."""
    while (peer := accept(listeners, server)) is not None:
        try:
            start_new_thread(connection, (peer, server))
        except RuntimeError as error:
            log.warning("cannot start a thread for a connection: %s", error)
            with server.lock:  # which the sweep has, too, while it looks at each of them
                fd, peer.fd = peer.fd, -1
                common.close_connection(peer, server)
            turn_away(fd, peer.address, server, FULL)


def accept_in_turn(listeners: Sequence[socket.socket], server: Server) -> None:
    """One of a pool of threads: each accepts, serves to the end, and accepts again."""
    while (peer := accept(listeners, server)) is not None:
        connection(peer, server)


def accept(listeners: Sequence[socket.socket], server: Server) -> FdConnection | None:
    """Wait for the next connection; None when there will be none."""
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
            continue  # the client has gone already, or `run` has shut the door
        if peer is not None:
            return peer
    try:
        peer = server.last.popleft()
    except IndexError:
        return None
    peer.waits_for = HEAD
    return peer


def accept_one(listener: socket.socket, server: Server) -> FdConnection | None:
    """None if it was one too many.  Raises `OSError`."""
    # What `accept` does first; its socket object would cost a getsockname(), too.
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
    """Accept the clients whose connections the kernel has made already; it would reset them."""
    listener.setblocking(False)
    with suppress(OSError):
        for _ in range(BACKLOG):
            peer = accept_one(listener, server)
            if peer is not None:
                peer.waits_for = SENDING  # `start_drain` does not cut it off
                server.last.append(peer)


def ready(listeners: Sequence[socket.socket]) -> socket.socket:
    """Wait until a client comes to one of them; another thread may accept that client first."""
    by_fd = {listener.fileno(): listener for listener in listeners}
    poll = select.poll()
    for fd in by_fd:
        if fd < 0:
            return by_fd[fd]  # `run` has closed it
        poll.register(fd, select.POLLIN)
    found = poll.poll()
    return by_fd[found[next(turns) % len(found)][0]]


turns = count()
"""So that no listener is preferred."""


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
        with server.lock:  # else the sweep could cut what has got this descriptor's number since
            common.close_connection(peer, server)


def read_and_answer(peer: FdConnection, server: Server) -> Pending | None:
    """Wait for what the client asks, and answer what can be answered without waiting again."""
    if server.stopping and not server.gently and peer.waits_for != SENDING and peer.parser is None:
        # It may have come, or become idle, after `start_drain` has looked.
        ready = select.poll()
        ready.register(peer.fd, select.POLLIN)
        if not ready.poll(0):
            return END
    data = os.read(peer.fd, READ_SIZE)
    if not data:
        return END
    with server.lock:
        asked = parse(peer, server, data)
        next_wait, peer.waits_for = peer.waits_for, SENDING  # the main thread does not cut that off
    pending = answer(peer, server, asked)
    if pending is None:
        peer.waits_for = next_wait
    return pending


def wait_out(peer: FdConnection, server: Server, pending: Pending) -> Pending | None:
    """Do what takes a while, and go on until the next obstacle."""
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
    """Send it as fast as the client takes it.

    A write that blocks would not say whether the client takes anything at all; so this one waits
    and writes what there is room for.
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
    if server.pool is None:
        work, groups = accept_for_each, [[listener] for listener in listeners]
    else:
        work, groups = accept_in_turn, [list(listeners)] * server.pool
    for listener in listeners:
        listener.setblocking(len(groups[0]) == 1)  # no other thread takes what this one waits for
    acceptors = [
        threading.Thread(target=work, args=(group, server), daemon=True) for group in groups
    ]
    server.began()
    for number, thread in enumerate(acceptors):
        try:
            thread.start()
        except RuntimeError as error:
            if not number:
                raise
            log.warning("cannot start more than %d threads: %s", number, error)
            del acceptors[number:]
            break
    watch(server, signals, None)
    for listener in listeners:
        accept_rest(listener, server)
    with server.lock:
        start_drain(server, gently=grace > 0)
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)  # whoever is in accept() there comes out of it
        listener.close()
    stopped = watch(server, signals, min(grace, PARTING))
    with server.lock:
        start_drain(server)
    stopped = stopped and watch(server, signals, max(grace - PARTING, 0))
    with server.lock:
        cut = cut_all(server)
        with suppress(IndexError):
            while True:
                common.close_connection(server.last.popleft(), server)
    give_up = monotonic() + CUT_TIMEOUT
    while server.peers and monotonic() < give_up:
        sleep(CUT_TIMEOUT / 100)
    for thread in acceptors:
        thread.join(max(give_up - monotonic(), 0))
    server.over = True
    return cut if stopped else None


def watch(server: Server, signals: Signals, grace: float | None) -> bool:
    """Look after timeouts and the log until a signal, or until `grace` is over; whether it is."""
    heard = select.poll()
    heard.register(signals.fd, select.POLLIN)
    began = swept = monotonic()
    while grace is None or (server.peers and monotonic() - began < grace):
        patience = LOG_DELAY if server.log or grace is not None else SWEEP
        if grace is not None:
            patience = min(patience, max(0, began + grace - monotonic()))
        heard.poll(1000 * patience)
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
