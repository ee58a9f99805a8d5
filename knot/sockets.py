"""The sockets that a server listens on: of its own, at a path, or opened by whoever started it."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from typing import Final

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


def listen_at(path: str) -> PathListener:
    """A socket that listens at a path, where one that nobody listens on any more is replaced.

    Raises `OSError`.
    """
    listener = PathListener()
    try:
        try:
            listener.take(path)
        except OSError:
            if not is_left_behind(path):
                raise
            os.unlink(path)
            listener.take(path)
        os.chmod(path, 0o666)  # noqa: S103  (as open as a port of this machine is)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    prepared(listener)
    return listener


def is_left_behind(path: str) -> bool:
    """Whether it is a socket whose server has ended without removing it."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
    except OSError:
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # it would wait for room in the queue of a server that is stuck
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


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
