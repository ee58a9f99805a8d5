"""How connections end: the silent ones after a time-out, and all of them when a server stops."""

from __future__ import annotations

import socket
from contextlib import suppress
from math import ceil
from typing import Final

from knot.http.request import (
    BadRequest,
)
from knot.models.connection import (
    refuse,
)
from knot.models.peer import (
    HEAD,
    IDLE,
    SENDING,
    Connection,
    cut,
    set_nonblocking,
    socket_of,
)
from knot.models.server import (
    Server,
)

SWEEP: Final = 1.0
"""Seconds between two looks at how long each client has been silent."""

PARTING: Final = 0.25
"""Seconds at the end in which a client without a request under way is still answered once: it may
have sent one before it could know."""


def half_close(peer: Connection) -> None:
    """Tell the client that no more answers will come."""
    if peer.tls is not None:
        peer.tls.end()
    with socket_of(peer) as end:
        end.shutdown(socket.SHUT_WR)


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
