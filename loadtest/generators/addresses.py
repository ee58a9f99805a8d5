"""Where clients of a server on this machine come from: ports for more than one address has."""

from __future__ import annotations

import socket
from typing import Final

ADDRESSES: Final = [f"127.0.0.{last}" for last in range(2, 18)]
"""Each has 28,000 ports of its own."""

BIND_ADDRESS_NO_PORT: Final = 24
"""IP_BIND_ADDRESS_NO_PORT of ip(7): the port is chosen when the server's address is known, and may
be one that is in use for another server."""

NO_PORT: Final = (
    "no port is left for another connection: take fewer clients, or let the server rest for a"
    " minute between two loads"
)


def is_local(host: str) -> bool:
    return host.startswith("127.")


def bind(end: socket.socket, client: int) -> None:
    """Give the socket an address for this client, before it connects to a local server."""
    end.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
    end.bind((ADDRESSES[client % len(ADDRESSES)], 0))
