"""What comes before a client's first request, by events: the handshake of TLS.

A client without it has nothing to do with this file, and pays nothing for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from knot.models.connection import STATE, Peer, Server, begin, forget, is_gone, refuse, settle
from knot.request import BadRequest
from tame import READ, WRITE, Descriptor, mkevent, tamed, tvars, twait, wait_on_fd

if TYPE_CHECKING:
    from knot.tls import Certificates, Channel

log = logging.getLogger("knot")

S = TypeVar("S", bound=Server)


class Client(Descriptor, Peer):
    """A connection that the loop knows."""

    __slots__ = STATE

    def __init__(self, fd: int, address: str) -> None:
        super().__init__(fd)
        begin(self, address)


class SecureClient(Client):
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
def greet(
    peer: SecureClient,
    server: S,
    certificates: Certificates,
    connections: Mapping[str, Callable[[Client, S], None]],
) -> None:
    """Agree with a client on keys and on a protocol, and serve it by that of `connections`."""
    from knot.tls import Channel, PlainTextError

    with tvars:
        tls: Channel
    greeted = False
    try:
        settle(peer)
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
        if not is_gone(error):
            log.exception("a connection ended with an error that is Knot's own")
    finally:
        if not greeted:
            forget(peer, server)
    if greeted:
        connections[tls.protocol](peer, server)
