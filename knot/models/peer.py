"""A client's connection: what is known of it between two requests, and the system calls on its
descriptor, none of which waits.

Nothing here knows of HTTP but that there is a parser, nor of the server that the connection is of.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from knot.http.request import RequestParser
from knot.process.addresses import MAPPED

if TYPE_CHECKING:
    from knot.tls import Channel  # it brings OpenSSL, 3.7 MiB, which others do without

READ_SIZE: Final = 16 * 1024
"""Bytes read at once; the requests of a browser have 2 KiB."""

# What a connection waits for; see `connection.py`.
HEAD: Final = 0
IDLE: Final = 1
SENDING: Final = 2

GONE: Final = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.ENOTCONN}
"""Errors that mean that there is no client any more."""

RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER without time: what the client has not taken yet is discarded."""

# -- connections -----------------------------------------------------------------------------------

STATE: Final = ("address", "age", "answered", "parser", "nonblocking", "waits_for")
"""The slots of a `Connection` beside its descriptor."""

NO_SLOTS: Final[tuple[str, ...]] = ()


class Connection:
    """A client's connection: its descriptor, and what is known of it between two requests."""

    __slots__ = NO_SLOTS  # each model's class has them

    fd: int
    """-1 once it is closed."""
    address: str
    """The client's, without a port; empty if it does not matter."""
    age: int
    """The number of sweeps since the client last sent or took something."""
    answered: int
    """Requests; counted upwards, because Python has the small numbers already."""
    parser: RequestParser | None
    """Its own while a request is incomplete."""
    waits_for: int
    """`HEAD`, `IDLE` or `SENDING`."""
    nonblocking: bool
    """Whether the descriptor is non-blocking.  One that is closed after its first response need not
    be, which spares a system call: that response is sent with a flag for this one call."""
    tls: Channel | None = None
    """What encrypts it, in a class that has a slot for that."""

    def close(self) -> None:
        raise NotImplementedError


class FdConnection(Connection):
    """For models without a class of their own for descriptors."""

    __slots__ = ("fd", *STATE)

    def __init__(self, fd: int, address: str) -> None:
        self.fd = fd
        begin(self, address)

    def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


def begin(peer: Connection, address: str) -> None:
    peer.address = address
    peer.age = 0
    peer.answered = 0
    peer.parser = None
    peer.waits_for = HEAD
    peer.nonblocking = False


def name_of(address: tuple[Any, ...] | str) -> str:
    """A client's address as text; a client of a Unix socket has none of its own."""
    if not isinstance(address, tuple):
        return "unix:"
    host: str = address[0]
    if len(address) > 2 and "." in host:  # IPv4, on a socket of IPv6
        return host.removeprefix(MAPPED)
    return host


# -- system calls ----------------------------------------------------------------------------------

_buffer = bytearray(READ_SIZE)
_buffers = [_buffer]


def set_nonblocking(peer: Connection) -> None:
    if not peer.nonblocking:
        os.set_blocking(peer.fd, False)
        peer.nonblocking = True


def receive(peer: Connection) -> bytes | bytearray | None:
    """What the client has sent; b"" at the end, None if nothing has come yet."""
    try:
        if peer.nonblocking:
            return os.read(peer.fd, READ_SIZE) if peer.tls is None else peer.tls.read()
        return _buffer[: os.preadv(peer.fd, _buffers, -1, os.RWF_NOWAIT)]
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        set_nonblocking(peer)  # a kernel before 5.12
        return receive(peer)


def peek(peer: Connection, size: int) -> bytes:
    """What the client has sent, up to `size` bytes, without taking it; b"" at the end.

    Raises `BlockingIOError` if nothing has come yet.
    """
    with socket_of(peer) as end:
        return end.recv(size, socket.MSG_PEEK)


def cut(peer: Connection) -> None:
    """End the connection from outside: the code that serves it sees the end of what the client
    sends, or a broken pipe.

    An idle one may still say goodbye, as TLS and HTTP/2 do.
    """
    with suppress(OSError), socket_of(peer) as end:
        if peer.waits_for == SENDING:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        end.shutdown(socket.SHUT_RD if peer.waits_for == IDLE else socket.SHUT_RDWR)


def is_gone(error: Exception) -> bool:
    """Whether a system call has failed because there is no client any more."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return isinstance(error, OSError) and error.errno in GONE


@contextmanager
def socket_of(peer: Connection) -> Iterator[socket.socket]:
    """The connection as a socket object, which has calls that descriptors lack."""
    end = socket.socket(fileno=peer.fd)
    try:
        yield end
    finally:
        end.detach()
