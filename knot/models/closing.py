"""How connections end: silent ones by a time-out, and all of them when a server stops.

Nothing here waits: each model calls these functions when it is time.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from math import ceil
from typing import Final

from knot.http.request import BadRequest
from knot.models.connection import refuse
from knot.models.peer import HEAD, IDLE, SENDING, Connection, cut, set_nonblocking, socket_of
from knot.models.server import Server

SWEEP: Final = 1.0
"""Seconds between two looks at how long each client has been silent."""

PARTING: Final = 0.25
"""Seconds of a stop in which an idle client still gets a response: it may have sent a request
before it could know."""


def half_close(peer: Connection) -> None:
    """Tell the client that no more responses will come."""
    if peer.tls is not None:
        peer.tls.end()
    with socket_of(peer) as end:
        end.shutdown(socket.SHUT_WR)


def expire_idle(server: Server) -> None:
    """End the connections that have been silent for too long; every `SWEEP` seconds.

    One look at each of them is all that timeouts cost; a request costs an assignment.
    """
    for call in server.watched:
        call()
    limits = server.limits
    max_age = {
        HEAD: ceil(limits.head / SWEEP),
        IDLE: ceil(limits.keep_alive / SWEEP),
        SENDING: ceil(limits.send / SWEEP),
    }
    for peer in list(server.peers):
        peer.age += 1
        if peer.age > max_age[peer.waits_for]:
            if peer.waits_for == HEAD and peer.parser is not None:
                late = BadRequest(408, "the request took too long")
                with suppress(OSError):
                    set_nonblocking(peer)
                    refuse(peer, server, late)
            cut(peer)
    server.on_sweep()


def start_drain(server: Server, gently: bool = False) -> None:
    """Finish the responses under way and send no others; cut connections that wait for none.

    If done `gently`, each client gets one more response, and an idle one keeps its time: a client
    that is about to send a request must not find its connection closed.  Each model first drains
    gently, and `PARTING` seconds later ends what is idle.
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
    """Cut every connection that is left; how many there were."""
    left = list(server.peers)
    for peer in left:
        peer.waits_for = SENDING
        cut(peer)
    return len(left)
