"""The sockets that a server listens on: of its own, at a path, or opened by whoever started it."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pwd import struct_passwd
from typing import Any, Final

from knot.process.safe_paths import acting_as, is_root, owned, refuse_strangers

BACKLOG: Final = 4096
FIRST: Final = 3
"""The first descriptor that systemd gives (sd_listen_fds(3))."""

EVERY_4: Final = "0.0.0.0"  # noqa: S104
EVERY_6: Final = "::"
"""Addresses of all interfaces; the second takes clients of both families."""

MAPPED: Final = "::ffff:"
"""Before an address of IPv4 that is written as one of IPv6 (RFC 4291, section 2.5.5.2)."""

ABSENT: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""This machine does not have the address, or no address of its family."""

ATTEMPTS: Final = 20
"""To find a port that is free at every address."""

Place = tuple[socket.AddressFamily, tuple[Any, ...]]
"""Family and address, as the system has them; the port is still open."""

# -- addresses, as users write them ----------------------------------------------------------------

NUMBER: Final = re.compile("[0-9]{1,7}")
NOT_IN_A_NAME: Final = re.compile(r"[\s/\[\]@?#%,\0]")


def parse_host(text: str) -> str:
    """An address or a name, as `resolve` takes it.  Raises `ValueError`."""
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" in inner:
        address, percent, zone = inner.partition("%")
        try:
            found = socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, address))
        except (OSError, ValueError):
            host, _, port = inner.rpartition(":")
            hint = f"; the port of {host} is given by --port" if port and ":" not in host else ""
            raise ValueError(f"{text!r} is not an address{hint}") from None
        if found.startswith(MAPPED) and "." in found:
            return found.removeprefix(MAPPED)
        return found + percent + zone
    if not text or NOT_IN_A_NAME.search(text):
        raise ValueError(f"{text!r} is not an address or a name: use 127.0.0.1, ::1 or localhost")
    return text


def parse_address(text: str) -> tuple[str, int]:
    """Host and port; without a host it means every address.  Raises `ValueError`."""
    host, colon, port = text.rpartition(":")
    bare = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if bare or not (colon and NUMBER.fullmatch(port) and int(port) < 65536):
        raise ValueError(
            f"{text!r} is not an address with a port: use 127.0.0.1:9090, [::1]:9090 or :9090"
        )
    return parse_host(host) if host else EVERY_6, int(port)


def written(host: str, port: int) -> str:
    """The opposite of `parse_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# -- sockets of its own ----------------------------------------------------------------------------


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket that listens at an address; port 0 means any that is free.  Raises `OSError`.

    If it is `shared`, further processes may listen there, and the kernel spreads the connections.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return listen_to((family, (host, port)), shared=shared)


def listen_to(place: Place, *, shared: bool) -> socket.socket:
    listener = bound(place, shared=shared)
    try:
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    prepared(listener)
    return listener


def bound(place: Place, *, shared: bool) -> socket.socket:
    family, address = place
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


def listen_everywhere(
    hosts: Sequence[str], port: int, *, shared: bool = False, joining: bool = False
) -> list[socket.socket]:
    """Sockets that listen at all addresses of `hosts`, all at the same port; 0 means any that is
    free.

    `shared` is as for `listen`.  A port that others share is refused as any that is taken, unless
    this process is `joining` them.  Raises `OSError`, whose `filename` is the address.
    """
    places = uncovered([(host, list(resolve(host, port))) for host in hosts])
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return listen_at_port(places, port, shared=shared, joining=joining)
        except OSError as error:
            # Port 0: what the kernel chose at the first address may be taken at another.
            if port or error.errno != errno.EADDRINUSE or attempt == ATTEMPTS:
                raise
    raise AssertionError


def resolve(host: str, port: int) -> Iterator[Place]:
    """All addresses of a host, those of IPv4 first.  Raises `OSError`."""
    if host == EVERY_6 and not has_ipv6():
        host = EVERY_4
    if host.lower().rstrip(".") == "localhost":  # both, whatever /etc/hosts has (RFC 6761, 6.3)
        yield socket.AF_INET, ("127.0.0.1", port)
        yield socket.AF_INET6, ("::1", port, 0, 0)
        return
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:  # its labels are too long, or there are empty ones
        raise OSError(errno.EINVAL, "this cannot be a name", written(host, port)) from None
    except OSError as error:
        error.filename = written(host, port)
        raise
    for family, _, _, _, address in sorted(found, key=lambda each: each[0] != socket.AF_INET):
        if family in (socket.AF_INET, socket.AF_INET6):
            yield family, address


def has_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6).close()
    except OSError:
        return False
    return True


def uncovered(hosts: Iterable[tuple[str, list[Place]]]) -> list[tuple[str, list[Place]]]:
    """Without the addresses that another one has in it: both could not be bound."""
    given = list(hosts)
    everywhere = {address[0] for _, places in given for _, address in places}
    seen: set[Place] = set()

    def is_new(place: Place) -> bool:
        host = place[1][0]
        covered = host != EVERY_6 and (
            EVERY_6 in everywhere
            or (place[0] == socket.AF_INET and host != EVERY_4 and EVERY_4 in everywhere)
        )
        if covered or place in seen:
            return False
        seen.add(place)
        return True

    return [(host, [place for place in places if is_new(place)]) for host, places in given]


def listen_at_port(
    hosts: Iterable[tuple[str, list[Place]]], port: int, *, shared: bool, joining: bool
) -> list[socket.socket]:
    with ExitStack() as undo:
        listeners: list[socket.socket] = []
        for _, places in hosts:
            absent: OSError | None = None
            before = len(listeners)
            for family, address in places:
                place = family, (address[0], port, *address[2:])
                try:
                    if shared and port and not joining:
                        bound(place, shared=False).close()
                    listener = undo.enter_context(listen_to(place, shared=shared))
                except OSError as error:
                    error.filename = written(address[0], port)
                    if error.errno not in ABSENT:
                        raise
                    absent = error  # as ::1, which is localhost where there is no IPv6, too
                    continue
                listeners.append(listener)
                port = port or listener.getsockname()[1]
            if absent is not None and len(listeners) == before:
                raise absent
        undo.pop_all()
        return listeners


def listen_again(listeners: Iterable[socket.socket]) -> list[socket.socket]:
    """As many sockets more at the same addresses.  Raises `OSError`."""
    with ExitStack() as undo:
        found = [
            undo.enter_context(listen_to((listener.family, listener.getsockname()), shared=True))
            for listener in listeners
        ]
        undo.pop_all()
        return found


# -- sockets of others -----------------------------------------------------------------------------


class PathListener(socket.socket):
    """A socket that listens at a path, which it removes when it is closed.

    Unless another server has taken the path meanwhile.  What is kept open until then is the file,
    which listens to nothing: the number of an inode that nobody has would soon be another's.
    """

    def __init__(self) -> None:
        super().__init__(socket.AF_UNIX)
        self._path = ""
        self._file = -1

    def take(self, path: str) -> None:
        """Bind it.  Raises `OSError`."""
        self.bind(path)
        try:
            self._file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            os.unlink(path)
            raise
        self._path = path

    def close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            with suppress(OSError):
                if os.path.samestat(os.fstat(file), os.lstat(self._path)):
                    os.unlink(self._path)
            os.close(file)
        super().close()


def listen_at(path: str, user: struct_passwd | None = None) -> PathListener:
    """A socket that listens at a path, where one that nobody listens on any more is replaced.

    Root makes it with the rights of `user`, if it is to become one who can, else with its own, but
    only where nobody but root can have the path lead elsewhere.  Raises `OSError`.
    """
    if user is not None and is_root():
        try:
            with acting_as(user):
                return bound_to(path)
        except PermissionError:
            pass
    refuse_strangers(path)
    return bound_to(path)


def bound_to(path: str) -> PathListener:
    listener = PathListener()
    # As open as a port of this machine is, and from the first moment: to change the mode afterwards
    # would be to follow the path again.
    umask = os.umask(0o111)
    try:
        try:
            listener.take(path)
        except OSError:
            if not remove_left_behind(path):
                raise
            listener.take(path)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(umask)
    prepared(listener)
    return listener


def remove_left_behind(path: str) -> bool:
    """Remove a socket, root's or this user's, whose server has ended without removing it; whether
    it was one.

    Its successor may have taken its name since it was found, and that one is put back.
    """
    found = left_behind(path)
    if found is None:
        return False
    aside = f"{path}.{os.getpid()}"
    os.rename(path, aside)
    if identity(os.lstat(aside)) == identity(found):
        os.unlink(aside)
        return True
    with suppress(FileExistsError):
        os.link(aside, path)
    os.unlink(aside)
    return False


def identity(status: os.stat_result) -> tuple[int, int, int]:
    """The number alone is soon that of another file."""
    return status.st_dev, status.st_ino, status.st_mtime_ns


def left_behind(path: str) -> os.stat_result | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if not (stat.S_ISSOCK(status.st_mode) and owned(status)):
        return None
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # it would wait for room in the queue of a server that is stuck
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return status
        except OSError:
            pass
    return None


def inherited(fd: int) -> socket.socket:
    """The socket that this process was started with as descriptor `fd`, and that listens.

    Raises `OSError` if it is none, or does not listen.
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


def activated() -> list[socket.socket]:
    """The sockets that systemd has opened for this process (sd_listen_fds(3)), if it has.

    Raises `OSError` if one does not listen, or if it is not said how many there are.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = os.environ.get("LISTEN_FDS", "")
    if not NUMBER.fullmatch(count):
        raise OSError(f"LISTEN_FDS is {count!r}, which is not a number of sockets")
    found: list[socket.socket] = []
    with ExitStack() as undo:
        for fd in range(FIRST, FIRST + int(count)):
            try:
                found.append(undo.enter_context(inherited(fd)))
            except OSError as error:
                raise OSError(f"descriptor {fd}: {error.strerror or error}") from None
        undo.pop_all()
    return found


def prepared(listener: socket.socket) -> socket.socket:
    listener.setblocking(False)
    if listener.family != socket.AF_UNIX:
        # What is accepted inherits it: an answer is one send, and must not wait for an old one's
        # ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Accepted when the request is there: `connection` then reads it without waiting.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
    return listener


def shown(listener: socket.socket, scheme: str = "http") -> str:
    """Its address, as a user would write it."""
    address = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{address}"
    host = address[0]
    if listener.family == socket.AF_INET6 and address[3]:
        host += f"%25{socket.if_indextoname(address[3])}"  # RFC 6874, section 2
    return f"{scheme}://{written(host, address[1])}"


class Listeners(list[socket.socket]):
    """Sockets that are closed together."""

    def close(self) -> None:
        for listener in self:
            listener.close()


def port_of(listeners: Iterable[socket.socket]) -> int | None:
    """The port that clients come to; None if they come by paths only."""
    ports = (each.getsockname()[1] for each in listeners if each.family != socket.AF_UNIX)
    return next(ports, None)
