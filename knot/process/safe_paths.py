"""How Knot follows a path that it writes to, so that nobody has root write somewhere else.

A name in a directory that somebody else can change may be a link to any file by the time that it is
followed.  So it is followed with the rights of the user that Knot is to become.  Root's own are
used only where nobody but root can have put what is found, and what was opened is looked at once it
is open.  A process that is not root has no rights to lend, and opens what it can.

With write access to the directory of the log, a user can still take the log away, or read it: that
directory is the user's.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from knot.files.paths import MAX_LINKS

ROOT: Final = 0

DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

APPEND: Final = (
    os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    | os.O_NOCTTY  # it does not become the terminal of this process
    | os.O_NONBLOCK  # a FIFO does not wait for its reader
)  # fmt: skip

STREAM: Final = re.compile(r"/dev/(stdout|stderr)|/(?:dev|proc/self)/fd/(\d{1,9})", re.ASCII)


class Place(NamedTuple):
    """Where a path leads."""

    directory: int
    """A descriptor (`os.O_PATH`), to be closed."""
    name: str
    """In there; no symbolic link."""
    stranger: str
    """The first directory on the way where somebody else can replace what the path goes on to;
    empty if there is none."""
    shared: str
    """The directory itself if somebody else can add names to it, as to ``/tmp``, or `stranger`."""


# -- whose rights ---------------------------------------------------------------------------------


@contextmanager
def acting_as(user: pwd.struct_passwd) -> Iterator[None]:
    """Within the block, have the rights of that user, and no others: for root, and one thread."""
    group, groups = os.getegid(), os.getgroups()
    try:
        os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
        os.setegid(user.pw_gid)
        os.seteuid(user.pw_uid)
        yield
    finally:
        os.seteuid(ROOT)
        os.setegid(group)
        os.setgroups(groups)


def is_root() -> bool:
    return os.geteuid() == ROOT


# -- following ------------------------------------------------------------------------------------


def follow(path: str) -> Place:
    """Walk to where `path` leads, and see who could have led it elsewhere.

    A symbolic link that somebody else may have made is not followed.  Raises `OSError`.
    """
    names = parts(absolute(path))
    here, where, links = os.open("/", DIRECTORY), "/", 0
    stranger, shared = judge(here, where, "")
    try:
        while names:
            name = names.popleft()
            target, trusted = link_at(here, name)
            if target is not None:
                if shared and (stranger or not trusted):
                    raise foreign(shared)
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                names.extendleft(reversed(parts(target)))
                if not target.startswith("/"):
                    continue
                inner, where = os.open("/", DIRECTORY), "/"
            elif names:
                inner, where = os.open(name, DIRECTORY, dir_fd=here), os.path.join(where, name)
            else:
                return Place(here, name, stranger, shared)
            os.close(here)
            here = inner
            stranger, shared = judge(here, where, stranger)
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    except BaseException:
        os.close(here)
        raise


def absolute(path: str) -> str:
    """`os.path.abspath` would take ``link/..`` for nothing."""
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)


def parts(path: str) -> deque[str]:
    return deque(name for name in path.split("/") if name not in ("", "."))


def link_at(directory: int, name: str) -> tuple[str | None, bool]:
    """What a symbolic link says, or None if it is none; and whether it is `owned`."""
    try:
        link = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return None, False
    try:
        status = os.fstat(link)
        if not stat.S_ISLNK(status.st_mode):
            return None, False
        return os.readlink("", dir_fd=link), owned(status)
    finally:
        os.close(link)


def owned(status: os.stat_result) -> bool:
    """Whether it belongs to root, or to this process's user."""
    return status.st_uid in (ROOT, os.geteuid())


def judge(directory: int, where: str, stranger: str) -> tuple[str, str]:
    """`Place.stranger` and `Place.shared`, once the walk has come to a directory."""
    status = os.fstat(directory)
    writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not owned(status) or (writable and not status.st_mode & stat.S_ISVTX):
        stranger = stranger or where
    return stranger, stranger or (where if writable else "")


def foreign(where: str) -> PermissionError:
    return PermissionError(errno.EACCES, f"others than root can change {where}", where)


def refuse_strangers(path: str) -> None:
    """For root: raise `PermissionError` if somebody else can have `path` lead elsewhere; its last
    directories may be missing."""
    if not is_root():
        return
    path = absolute(path)
    while not os.path.lexists(os.path.dirname(path)):
        path = os.path.dirname(path)
    place = follow(path)
    os.close(place.directory)
    if place.stranger:
        raise foreign(place.stranger)


# -- files to append to ---------------------------------------------------------------------------


def open_to_append(path: str, user: pwd.struct_passwd | None = None) -> int:
    """A descriptor that appends to the file, made if there is none, for what this process is, or
    for the user that it is to become.  Raises `OSError`.

    ``/dev/stdout``, ``/dev/stderr`` and ``/dev/fd/N`` are the open descriptors themselves, which
    that user might not be able to open.
    """
    stream = stream_of(path)
    if stream is not None:
        return os.dup(stream)
    if not is_root():
        return append(path)
    if user is None or user.pw_uid == ROOT:
        return append_as_root(path, None)
    try:
        with acting_as(user):
            return append(path)
    except PermissionError:
        return append_as_root(path, user)


def stream_of(path: str) -> int | None:
    """The descriptor that the path names."""
    found = STREAM.fullmatch(path)
    if found is None:
        return None
    return int(found[2]) if found[1] is None else ("stdout", "stderr").index(found[1]) + 1


def append(path: str, directory: int | None = None, flags: int = 0) -> int:
    try:
        fd = os.open(path, APPEND | flags, 0o640, dir_fd=directory)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        # A FIFO that nobody reads yet: with an end of our own, its reader may come, and go.
        writable = APPEND & ~(os.O_WRONLY | os.O_CREAT) | os.O_RDWR
        fd = os.open(path, writable | flags, dir_fd=directory)
    os.set_blocking(fd, True)
    return fd


def append_as_root(path: str, user: pwd.struct_passwd | None) -> int:
    """With root's rights; to `user` belongs what was opened."""
    place = follow(path)
    try:
        if user is not None and place.shared:
            raise foreign(place.shared)
        fd = append(place.name, place.directory, os.O_NOFOLLOW)
    finally:
        os.close(place.directory)
    try:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            if status.st_nlink != 1:
                raise OSError(errno.EMLINK, "it is a file that has another name, too", path)
            if user is not None:
                os.fchown(fd, user.pw_uid, user.pw_gid)
        elif place.shared:
            raise OSError(errno.EINVAL, "it is not a regular file", path)
        elif not (stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode)):
            raise OSError(errno.EINVAL, "it is not a file to append to", path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def place_to_append(path: str) -> str | None:
    """What has to stay writable so that the file can be opened again: the directory, for a new one,
    or a device or FIFO itself; None where that needs nothing."""
    if stream_of(path) is not None:
        return None
    if os.path.exists(path) and not os.path.isfile(path):
        return path
    return os.path.dirname(os.path.abspath(path))
