"""Sockets: connections made and accepted, names looked up, bytes read and written in order."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from tame.adapters import in_front
from tame.drivers import READ, WRITE
from tame.errors import TameError
from tame.event import Event
from tame.language import mkevent, tamed, tvars, twait
from tame.loop import Descriptor, wait_on_fd
from tame.sync import Lock
from tame.threads import fork

Address = tuple[Any, ...]
"""A socket address; its form depends on the family, as in `socket`."""


@tamed
def resolve(host: str, port: int, done: Event[list[tuple[socket.AddressFamily, Address]]]) -> None:
    """Trigger `done` with the addresses of a TCP service, best first (RFC 6724).

    The system's own resolver is called in a thread.  Fails with `socket.gaierror`, or with
    `UnicodeError` for an invalid name.
    """
    with tvars:
        found: list[Any]
    try:
        with twait:
            fork(mkevent(found), socket.getaddrinfo, host, port, 0, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        done.fail(error)
    else:
        done.trigger([(family, address) for family, _, _, _, address in found])


@tamed
def connect(family: socket.AddressFamily, address: Address, done: Event[Stream]) -> None:
    """Trigger `done` with a connection; fails with `OSError`.

    If `done` is forgotten, the connection is closed as soon as it is established.
    """
    end = socket.socket(family, socket.SOCK_STREAM)
    end.setblocking(False)
    stream = Stream(end.detach())
    try:
        number = stream.connect(family, address)
        if number == errno.EINPROGRESS:
            with twait:
                wait_on_fd(stream.descriptor, WRITE, mkevent())
            number = stream.error(family)
        if number:
            raise OSError(number, os.strerror(number))
    except BaseException as error:
        stream.close()
        if not isinstance(error, OSError):
            raise
        done.fail(error)
    else:
        if done.live:
            done.trigger(stream)
        else:
            stream.close()


def accept(listener: Descriptor, done: Event[Stream]) -> None:
    """Trigger `done` with the next connection of `listener`, which must be non-blocking.

    Fails with `OSError`, for instance without a free descriptor, and with `EventDroppedError` if
    the listener is closed.  If `done` is forgotten, the connection is left for the next `accept`.
    """
    if not done.live:
        return
    try:
        if listener.fd < 0:
            raise OSError(errno.EBADF, "the listener is closed")
        with socket.socket(fileno=listener.fd) as borrowed:
            try:
                fd, _ = borrowed._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                fd = -1
            finally:
                borrowed.detach()
        if fd < 0:
            # An event in front of `done`: it waits for the listener only as long as `done` is live.
            wait_on_fd(listener, READ, in_front(done, lambda: accept(listener, done)))
            return
        os.set_blocking(fd, False)
    except (OSError, TameError) as error:  # TameError: another event waits for the listener
        done.fail(error)
    else:
        done.trigger(Stream(fd))


class Stream:
    """A connection, or any other non-blocking descriptor.

    Reads are done one after the other, in the order of the calls, and so are writes; a read and a
    write do not wait for each other.
    """

    def __init__(self, fd: int) -> None:
        """Take over `fd`, which `close` will close."""
        self.descriptor = Descriptor(fd)
        self._reading = Lock()
        self._writing = Lock()

    def close(self) -> None:
        """Close the descriptor; a closure that still waits for it gets `EventDroppedError`."""
        self.descriptor.close()

    @tamed
    def read(self, size: int, done: Event[bytes]) -> None:
        """Trigger `done` with the next bytes, at most `size`; with none at the end of the stream.

        Fails with `OSError`.  If `done` is forgotten, the bytes are left for the next `read`.
        """
        data: bytes | None = None
        with twait:
            self._reading.acquire(mkevent())
        try:
            while done.live:
                try:
                    data = os.read(self.descriptor.fd, size)
                    break
                except BlockingIOError:
                    pass
                with twait:
                    wait_on_fd(self.descriptor, READ, mkevent())
        except Exception as error:
            done.fail(error)
        else:
            if data is not None:
                done.trigger(data)
        finally:
            self._reading.release()

    @tamed
    def write(self, data: bytes, done: Event[()]) -> None:
        """Trigger `done` when all of `data` is written.  Fails with `OSError`.

        All of `data` is written even if `done` is forgotten, because half of it would be worse.
        """
        with twait:
            self._writing.acquire(mkevent())
        try:
            left = memoryview(data)
            while left:
                try:
                    left = left[os.write(self.descriptor.fd, left) :]
                    continue
                except BlockingIOError:
                    pass
                with twait:
                    wait_on_fd(self.descriptor, WRITE, mkevent())
        except Exception as error:
            done.fail(error)
        else:
            done.trigger()
        finally:
            self._writing.release()

    def connect(self, family: socket.AddressFamily, address: Address) -> int:
        """Begin to connect; return the number of the error, or 0."""
        with socket.socket(family, fileno=self.descriptor.fd) as borrowed:
            try:
                return borrowed.connect_ex(address)
            finally:
                borrowed.detach()

    def error(self, family: socket.AddressFamily) -> int:
        """The number of the pending error, or 0."""
        with socket.socket(family, fileno=self.descriptor.fd) as borrowed:
            try:
                return borrowed.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            finally:
                borrowed.detach()
