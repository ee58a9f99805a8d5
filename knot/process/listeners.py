"""The TCP sockets that a server listens on: opened at addresses, or inherited.

Addresses are parsed in `knot.process.addresses`; `knot.process.unix_sockets` listens at paths.
Nothing here accepts a connection.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Final

from knot.process.addresses import EVERY_6, Endpoint, format_address, resolve, without_covered

BACKLOG: Final = 4096

ABSENT: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""This machine does not have the address, or no address of its family."""

MAX_ATTEMPTS: Final = 20
"""To find a port that is free at every address."""


# -- opened at addresses ---------------------------------------------------------------------------


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket that listens at an address; port 0 means any free port.  Raises `OSError`.

    If it is `shared`, other processes may listen there too, and the kernel distributes the
    connections.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return listen_to((family, (host, port)), shared=shared)


def listen_to(endpoint: Endpoint, *, shared: bool) -> socket.socket:
    listener = bound(endpoint, shared=shared)
    try:
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return prepared(listener)


def bound(endpoint: Endpoint, *, shared: bool) -> socket.socket:
    family, address = endpoint
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            only = address[0] != EVERY_6
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        listener.bind(address)
    except BaseException:
        listener.close()
        raise
    return listener


def prepared(listener: socket.socket) -> socket.socket:
    listener.setblocking(False)
    if listener.family != socket.AF_UNIX:
        # Accepted sockets inherit this: an answer is one send, and must not wait for the ACK of an
        # earlier one.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A connection is accepted when its request is there, which is then read without waiting.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
    return listener


def listen_everywhere(
    hosts: Sequence[str], port: int, *, shared: bool = False, joining: bool = False
) -> list[socket.socket]:
    """Sockets that listen at all addresses of `hosts`, all at the same port; 0 means any free port.

    `shared` is as for `listen`.  A port that other processes share is refused like any port that is
    in use, unless this process is `joining` them.  Raises `OSError`, whose `filename` is the
    address.
    """
    endpoints = without_covered([resolve(host, port) for host in hosts])
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            return listen_at_port(endpoints, port, shared=shared, joining=joining)
        except OSError as error:
            # Port 0: what the kernel chose at the first address may be in use at another.
            if port or error.errno != errno.EADDRINUSE or attempt == MAX_ATTEMPTS:
                raise
    raise AssertionError


def listen_at_port(
    hosts: Iterable[Iterable[Endpoint]], port: int, *, shared: bool, joining: bool
) -> list[socket.socket]:
    with ExitStack() as undo:
        listeners: list[socket.socket] = []
        for endpoints in hosts:
            for listener in listen_at_host(endpoints, port, shared=shared, joining=joining):
                listeners.append(undo.enter_context(listener))
                port = port or listener.getsockname()[1]
        undo.pop_all()
        return listeners


def listen_at_host(
    endpoints: Iterable[Endpoint], port: int, *, shared: bool, joining: bool
) -> Iterator[socket.socket]:
    """A socket at each of those that this machine has; `OSError` if it has none of them.  ::1 may
    be absent, for example, which is localhost on every machine."""
    absent: OSError | None = None
    listens = False
    for family, address in endpoints:
        endpoint = family, (address[0], port, *address[2:])
        try:
            if shared and port and not joining:
                bound(endpoint, shared=False).close()
            listener = listen_to(endpoint, shared=shared)
        except OSError as error:
            error.filename = format_address(address[0], port)
            if error.errno not in ABSENT:
                raise
            absent = error
        else:
            port = port or listener.getsockname()[1]
            listens = True
            yield listener
    if absent is not None and not listens:
        raise absent


def listen_again(listeners: Iterable[socket.socket]) -> list[socket.socket]:
    """As many more sockets at the same addresses.  Raises `OSError`."""
    with ExitStack() as undo:
        found = [
            undo.enter_context(listen_to((listener.family, listener.getsockname()), shared=True))
            for listener in listeners
        ]
        undo.pop_all()
        return found


# -- inherited -------------------------------------------------------------------------------------


def inherited(fd: int) -> socket.socket:
    """The listening socket that this process was started with as descriptor `fd`.

    Raises `OSError` if it is not a socket, or does not listen.
    """
    listener = socket.socket(fileno=fd)
    try:
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise OSError(f"the socket {fd} does not listen")
    except BaseException:
        listener.detach()
        raise
    listener.set_inheritable(False)
    return prepared(listener)


# -- all of them -----------------------------------------------------------------------------------


class Listeners(list[socket.socket]):
    """Sockets that are closed together."""

    def close(self) -> None:
        for listener in self:
            listener.close()


def shown(listener: socket.socket, scheme: str = "http") -> str:
    """The URL of a listener, or ``unix:`` and its path."""
    address = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{address}"
    host = address[0]
    if listener.family == socket.AF_INET6 and address[3]:
        host += f"%25{socket.if_indextoname(address[3])}"  # RFC 6874, section 2
    return f"{scheme}://{format_address(host, address[1])}"


def port_of(listeners: Iterable[socket.socket]) -> int | None:
    """The port of the first TCP listener; None if all of them listen at paths."""
    ports = (each.getsockname()[1] for each in listeners if each.family != socket.AF_UNIX)
    return next(ports, None)
