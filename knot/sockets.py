"""The sockets that a server listens on: of its own, at a path, or opened by whoever started it."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pwd import struct_passwd
from typing import Final

from knot.safe_paths import acting_as, is_root, owned, refuse_strangers

BACKLOG: Final = 4096
FIRST: Final = 3
"""The first descriptor that systemd gives (sd_listen_fds(3))."""


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket that listens there; port 0 means any that is free.  Raises `OSError`.

    If it is `shared`, further processes may listen there, and the kernel spreads the connections.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return prepared(
        socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=shared)
    )


def listen_at(path: str, user: struct_passwd | None = None) -> socket.socket:
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


def bound_to(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    # As open as a port of this machine is, and from the first moment: to change the mode afterwards
    # would be to follow the path again.
    umask = os.umask(0o111)
    try:
        try:
            listener.bind(path)
        except OSError:
            if not remove_left_behind(path):
                raise
            listener.bind(path)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(umask)
    return prepared(listener)


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


def activated() -> socket.socket | None:
    """The socket that systemd has opened for this process (sd_listen_fds(3)), if it has.

    Raises `OSError` if it has opened several, or one that does not listen.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = int(os.environ.get("LISTEN_FDS", "0"))
    if count > 1:
        raise OSError(f"systemd gives {count} sockets; name one in ListenStream=")
    return inherited(FIRST) if count else None


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
    host = f"[{address[0]}]" if listener.family == socket.AF_INET6 else address[0]
    return f"{scheme}://{host}:{address[1]}"
