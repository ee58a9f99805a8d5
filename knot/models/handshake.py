"""What comes before a client's first request, in the events model: the PROXY header, in which a
proxy names its client, and the handshake of TLS.

A client without either costs nothing here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from knot.http.request import BadRequest
from knot.models.accepting import CROWDED, turn_away
from knot.models.connection import close_connection, refuse, report
from knot.models.peer import STATE, Connection, begin, peek, set_nonblocking
from knot.models.server import Server
from tame import READ, WRITE, Descriptor, Event, mkevent, tamed, tvars, twait, wait_on_fd

if TYPE_CHECKING:
    from knot.tls import Certificates, Channel

log = logging.getLogger("knot")

Serve = Callable[["PlainConnection", Any], None]
"""Serves a connection from its first request on, for a server of the events model."""

Protocols = dict[str, Serve]
"""By the name that a client chooses one by (ALPN)."""


class PlainConnection(Descriptor, Connection):
    """A connection that the loop of the events model knows."""

    __slots__ = STATE

    def __init__(self, fd: int, address: str) -> None:
        super().__init__(fd)
        begin(self, address)


class TlsConnection(PlainConnection):
    """A connection over TLS."""

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
    peer: TlsConnection, server: Server, certificates: Certificates, protocols: Protocols
) -> None:
    """Agree with a client on keys and on one of the `protocols`, and serve it by that."""
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
            refuse(peer, server, BadRequest(400, "this port speaks HTTPS, not HTTP"))
    except Exception as error:
        report(error)
    finally:
        if not greeted:
            close_connection(peer, server)
    if greeted:
        protocols[tls.protocol](peer, server)


@tamed
def accept_proxied(peer: PlainConnection, server: Server, connection: Serve) -> None:
    """Serve by `connection` a client without TLS, once a proxy has named it."""
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
    """Wait for the PROXY header and give the connection the client's address; triggers `done` with
    whether the client may be served.

    Only the header is taken out of the socket.  While it is incomplete, everything that has come
    belongs to it, and is taken at once: what stays there would wake the loop again and again.
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
                raise ConnectionResetError("the proxy has gone in the middle of its header")
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
    """Once for each mistake: a proxy repeats it on every connection."""
    log.warning("connections from the proxy at %s are closed: %s", address, why)


def is_let_in(peer: PlainConnection, server: Server, address: str) -> bool:
    """Give the connection the address of the proxy's client, unless that may not be served."""
    if server.connection_limit is None or server.connection_limit.enter(address):
        if server.connection_limit is not None:
            # The proxy's own was counted, if it is no longer trusted.
            server.connection_limit.leave(peer.address)
        peer.address = address
        return True
    if isinstance(peer, TlsConnection):
        server.turned_away += 1  # no response can be sent before the handshake
    else:
        turn_away(os.dup(peer.fd), address, server, CROWDED)
    return False
