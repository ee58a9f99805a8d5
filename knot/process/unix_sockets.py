"""A socket that listens at a path of the file system, and how a stale one is replaced.

The path is followed as `knot.process.safe_paths` does.  Nothing here accepts a connection.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pwd import struct_passwd

from knot.process.listeners import BACKLOG, prepared
from knot.process.privileges import acting_as, is_root
from knot.process.safe_paths import owned, refuse_strangers


class PathListener(socket.socket):
    """A socket that listens at a path, which it removes when it is closed.

    The path stays if another server has taken it meanwhile.  To know that, the socket's file is
    kept open: the number of a removed inode is soon given to another file.
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
    """A socket that listens at a path; a stale socket there is replaced.

    Root creates it with the rights of `user`, the one that the process is to become, if those
    suffice; else with its own, but only if nobody except root can redirect the path.  Raises
    `OSError`.
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
    # Every user may connect, as to a port, and from the first moment: changing the mode afterwards
    # would follow the path again.
    umask = os.umask(0o111)
    try:
        try:
            listener.take(path)
        except OSError:
            if not remove_stale(path):
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


def remove_stale(path: str) -> bool:
    """Remove a socket of root or of this user whose server ended without removing it; whether there
    was one.

    If a new server has replaced it since it was found, that server's socket is put back.
    """
    found = find_stale(path)
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
    """More than the inode's number, which is soon given to another file."""
    return status.st_dev, status.st_ino, status.st_mtime_ns


def find_stale(path: str) -> os.stat_result | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if not (stat.S_ISSOCK(status.st_mode) and owned(status)):
        return None
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # else it would wait for room in the queue of a stuck server
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return status
        except OSError:
            pass
    return None
