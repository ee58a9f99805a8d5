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
"""As `socket` has it for the family."""


@tamed
def resolve(host: str, port: int, done: Event[list[tuple[socket.AddressFamily, Address]]]) -> None:
    """Trigger `done` with the addresses of a TCP service, the best first (RFC 6724), by the
    system's own look-up on a thread.  Fails with `socket.gaierror`, or with `UnicodeError` for
    what is no name.
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

    If `done` is forgotten meanwhile, the connection is closed as soon as it is there.
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
    """Trigger `done` with the next connection; the listener does not block.  Fails with `OSError`,
    for want of a descriptor, say, and with `EventDroppedError` if the listener is closed.

    If `done` is forgotten, the connection is left for who accepts next.
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
            # In front of `done`, so that it holds the listener only while that is waited for.
            wait_on_fd(listener, READ, in_front(done, lambda: accept(listener, done)))
            return
        os.set_blocking(fd, False)
    except (OSError, TameError) as error:  # TameError: somebody else waits for the listener
        done.fail(error)
    else:
        done.trigger(Stream(fd))


class Stream:
    """A connection, or anything else whose descriptor does not block.

    Calls of one direction are done one after the other, in the order in which they were made; a
    reader and a writer do not wait for each other.
    """

    def __init__(self, fd: int) -> None:
        """The descriptor is the stream's from now on."""
        self.descriptor = Descriptor(fd)
        self._reading = Lock()
        self._writing = Lock()

    def close(self) -> None:
        """Who still waits for it gets `EventDroppedError`."""
        self.descriptor.close()

    @tamed
    def read(self, most: int, done: Event[bytes]) -> None:
        """Trigger `done` with what comes next, at most so many bytes, none at the end.  Fails with
        `OSError`.

        If `done` is forgotten, the bytes are left for who reads next.
        """
        data: bytes | None = None
        with twait:
            self._reading.acquire(mkevent())
        try:
            while done.live:
                try:
                    data = os.read(self.descriptor.fd, most)
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
        """Trigger `done` when all of `data` has been taken.  Fails with `OSError`.

        It is written whether or not `done` is forgotten: half of it would be worse.
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
        """Begin to; an error's number, or 0."""
        with socket.socket(family, fileno=self.descriptor.fd) as borrowed:
            try:
                return borrowed.connect_ex(address)
            finally:
                borrowed.detach()

    def error(self, family: socket.AddressFamily) -> int:
        """The number of the error that is pending, or 0."""
        with socket.socket(family, fileno=self.descriptor.fd) as borrowed:
            try:
                return borrowed.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            finally:
                borrowed.detach()
