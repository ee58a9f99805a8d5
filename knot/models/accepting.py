"""How connections begin: clients are accepted in batches, and those too many are turned away.

Nothing here waits.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from knot.http.request import BadRequest
from knot.models.connection import refuse
from knot.models.peer import FdConnection, name_of, receive, set_nonblocking
from knot.models.server import Server
from knot.process.listeners import BACKLOG

BATCH: Final = 64
"""Clients accepted before those that are connected get their turn again."""

OUT_OF_DESCRIPTORS: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

PAUSE: Final = 0.1
"""Seconds without accepting when the process has no descriptor left."""

FULL: Final = "there are too many clients"

CROWDED: Final = "you have too many connections open"


def accept_batch(
    listener: socket.socket,
    server: Server,
    start: Callable[[int, str], object],
    *,
    plain: bool = True,
) -> OSError | None:
    """Accept a batch of the waiting clients, and `start` each by its descriptor and its address;
    the error that ended the batch early.

    A client too many gets a response only if the port speaks `plain` HTTP.
    """
    for _ in range(BATCH):
        try:
            # The first half of `accept`; its socket object would cost a getsockname(), too.
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
    """Accept, when the server stops, the clients that the kernel has connected already: it would
    reset them."""
    for _ in range(BACKLOG // BATCH):
        if accept() is not None:
            break


def admit(address: str, server: Server) -> str:
    """Count a client at that address in, or say why it cannot be served now."""
    if len(server.peers) >= server.limits.connections:
        return FULL
    if server.connection_limit is not None and not server.connection_limit.enter(address):
        return CROWDED
    return ""


def turn_away(fd: int, address: str, server: Server, why: str) -> None:
    """Refuse a client; its request is read, or the refusal would be lost."""
    server.turned_away += 1
    peer = FdConnection(fd, address)
    with suppress(OSError):
        set_nonblocking(peer)
        refuse(peer, server, BadRequest(503, why))
        receive(peer)
    peer.close()
