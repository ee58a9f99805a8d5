"""What comes before a client's first request, by events: a proxy's word for whose connection it
is, and the handshake of TLS.

A client without either has nothing to do with this file, and pays nothing for it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from knot.http.request import BadRequest
from knot.models.connection import (
    CROWDED,
    close_connection,
    refuse,
    report,
    turn_away,
)
from knot.models.peer import (
    STATE,
    Connection,
    begin,
    peek,
    set_nonblocking,
)
from knot.models.server import Server
from tame import READ, WRITE, Descriptor, Event, mkevent, tamed, tvars, twait, wait_on_fd

if TYPE_CHECKING:
    from knot.tls import Certificates, Channel

log = logging.getLogger("knot")

S = TypeVar("S", bound=Server)


class PlainConnection(Descriptor, Connection):
    """A connection that the loop knows."""

    __slots__ = STATE

    def __init__(self, fd: int, address: str) -> None:
        super().__init__(fd)
        begin(self, address)


class TlsConnection(PlainConnection):
    """One that is spoken to through TLS."""

    __slots__ = ("tls",)

    tls: Channel | None

    def __init__(self, fd: int, address: str) -> None:
        super().__init__(fd, address)
        self.tls = None

    def close(self) -> None:
        if self.tls is not None and self.fd >= 0:
            self.tls.end()
        super().close()


@tamed
def tls_handshake(
    peer: TlsConnection,
    server: S,
    certificates: Certificates,
    connections: Mapping[str, Callable[[PlainConnection, S], None]],
) -> None:
    """Agree with a client on keys and on a protocol, and serve it by that of `connections`."""
    from knot.tls import Channel, PlainTextError

    with tvars:
        named: bool
        tls: Channel
    greeted = False
    try:
        set_nonblocking(peer)
        if server.proxies is not None and server.proxies(peer.address):
            with twait:
                read_proxy_header(peer, server, mkevent(named))
            if not named:
                return
        tls = Channel(peer.fd, certificates.context)
        while not tls.handshake():
            with twait:
                wait_on_fd(peer, WRITE if tls.blocked else READ, mkevent())
        peer.tls = tls
        greeted = True
    except PlainTextError:
        with suppress(OSError):
            refuse(peer, server, BadRequest(400, "this port speaks HTTPS, and not HTTP"))
    except Exception as error:
        report(error)
    finally:
        if not greeted:
            close_connection(peer, server)
    if greeted:
        connections[tls.protocol](peer, server)


@tamed
def accept_proxied(
    peer: PlainConnection, server: S, connection: Callable[[PlainConnection, S], None]
) -> None:
    """Serve by `connection` a client without TLS, once a proxy has said who it is."""
    with tvars:
        named: bool
    set_nonblocking(peer)
    with twait:
        read_proxy_header(peer, server, mkevent(named))
    if named:
        connection(peer, server)
    else:
        close_connection(peer, server)


@tamed
def read_proxy_header(peer: PlainConnection, server: Server, done: Event[bool]) -> None:
    """Wait for the header in which a proxy says whose connection this is, and give it that client's
    address; whether it may be served.

    Only the header is taken out of the socket.  As long as it may go on, all that has come belongs
    to it, and is taken at once: what lies there would wake us again and again.
    """
    from knot.access.forwarded import MAX_HEADER, parse_header

    head = b""
    header = None
    try:
        while header is None:
            try:
                piece = peek(peer, MAX_HEADER - len(head))
            except BlockingIOError:
                with twait:
                    wait_on_fd(peer, READ, mkevent())
                continue
            if not piece:
                raise ConnectionResetError("the proxy has left during its header")
            header = parse_header(head + piece)
            size = len(piece) if header is None else header.size - len(head)
            os.read(peer.fd, size)
            head += piece[:size]
        done.trigger(not header.client or is_let_in(peer, server, header.client))
        return
    except ValueError as error:
        complain(peer.address, str(error))
    except Exception as error:
        report(error)
    done.trigger(False)


@lru_cache(16)
def complain(address: str, why: str) -> None:
    """Once: a proxy that gets it wrong does so at each connection."""
    log.warning("connections from the proxy at %s are closed: %s", address, why)


def is_let_in(peer: PlainConnection, server: Server, address: str) -> bool:
    """Whether the connection that a proxy has begun may be that of a client there; then it is."""
    if server.connection_limit is None or server.connection_limit.enter(address):
        if server.connection_limit is not None:
            server.connection_limit.leave(
                peer.address
            )  # which was counted if nobody trusts it any more
        peer.address = address
        return True
    if isinstance(peer, TlsConnection):
        server.turned_away += 1  # nothing can be said to it yet
    else:
        turn_away(os.dup(peer.fd), address, server, CROWDED)
    return False
