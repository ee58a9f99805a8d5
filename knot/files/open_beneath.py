"""Opening files so that no path leads out of a directory, even while files are being moved.

The kernel's own `openat2` with ``RESOLVE_BENEATH`` (Linux 5.6) resolves a name and never leaves
the directory on the way.  It refuses a symbolic link with an absolute target even where that lies
inside; such a name, and every name on a kernel or in a sandbox without `openat2`, is resolved to
a place first (``O_PATH`` opens nothing), and opened only if the kernel says that the place lies
in the directory.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from stat import S_ISDIR, S_ISREG
from typing import Final

OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
PLACE: Final = os.O_PATH | os.O_CLOEXEC
"""A descriptor of where something is, for which search permission on the way is enough."""

SYS_OPENAT2: Final = 437  # on every architecture
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08

BENEATH: Final = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
DIRECT: Final = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS

NOT_FOR_US: Final = {
    errno.ENOSYS,  # an old kernel
    errno.EPERM,  # a sandbox that does not know the call
    errno.EXDEV,  # it would lead out, or a link in it has an absolute target
    errno.EAGAIN,  # something was renamed at that moment
    errno.E2BIG,
}

Open = Callable[[int, bytes, int, int], int]
"""From a directory, a name, flags, and how to resolve the name, to a descriptor."""


class RootDirectory:
    """A directory, and what lies in it.

    It need not be readable, as nothing lists it here: search permission is enough.
    """

    fd = -1

    def __init__(self, path: str | bytes, *, follow_symlinks: bool = False) -> None:
        """With `follow_symlinks` a link may lead out of it.  Raises `OSError`."""
        self.fd = os.open(path, PLACE | os.O_DIRECTORY)
        status = os.fstat(self.fd)
        self.identity = status.st_dev, status.st_ino
        """Its identity, which no other directory has while this one is open."""
        self._follow = follow_symlinks
        self._openat2 = None if follow_symlinks else _openat2()

    @property
    def path(self) -> bytes:
        """Where it really is now: it may be moved while it is open."""
        return real_path(self.fd)

    def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def __del__(self) -> None:
        """A site that is no longer served ends with its last request."""
        self.close()

    def open(self, name: bytes) -> tuple[int, bool]:
        """Open the file `name`, which has no dot segments, for reading; whether no symbolic link
        was on the way.

        Raises `OSError`: `IsADirectoryError` for a directory in here.
        """
        if self._openat2 is not None:
            # To open a device could set it to work, and a FIFO would let its writer go on.  Who
            # puts one there at this very moment gets just that.
            mode = os.stat(name, dir_fd=self.fd).st_mode
            if S_ISDIR(mode):
                os.close(self.open_directory(name))  # it may lie outside
            check_mode(mode)
            for resolve in (DIRECT, BENEATH):
                try:
                    return self._openat2(self.fd, name, OPEN, resolve), resolve == DIRECT
                except OSError as error:
                    if error.errno == errno.ELOOP and resolve == DIRECT:
                        continue
                    if error.errno not in NOT_FOR_US:
                        raise
                break
        place = self._resolve(name, PLACE)
        try:
            check_mode(os.fstat(place).st_mode)
            return os.open(b"/proc/self/fd/%d" % place, OPEN), False
        finally:
            os.close(place)

    def open_directory(self, name: bytes) -> int:
        """Open the directory `name` as a place: to read it takes another descriptor.  Raises
        `OSError`."""
        name = name or b"."
        if self._openat2 is not None:
            try:
                return self._openat2(self.fd, name, PLACE | os.O_DIRECTORY, BENEATH)
            except OSError as error:
                if error.errno not in NOT_FOR_US:
                    raise
        return self._resolve(name, PLACE | os.O_DIRECTORY)

    def _resolve(self, name: bytes, flags: int) -> int:
        place = os.open(name, flags, dir_fd=self.fd)
        if self._follow or self.contains(real_path(place)):
            return place
        os.close(place)
        raise OSError(errno.ENOENT, "it lies outside the directory")

    def contains(self, path: bytes) -> bool:
        """Whether the real `path` is that of the directory or of something below it."""
        own = self.path
        return path == own or path.startswith(own.rstrip(b"/") + b"/")


def read_permission(place: int) -> None:
    """Raises `OSError` if the directory at `place` cannot be read although its mode lets this
    process do so: a sandbox does not cover it, nor what lies in it."""
    try:
        os.close(os.open(b".", OPEN | os.O_DIRECTORY, dir_fd=place))
    except PermissionError:
        if os.access(b".", os.R_OK, dir_fd=place):
            raise


def check_mode(mode: int) -> None:
    """Raises `OSError` for what is not a file."""
    if S_ISDIR(mode):
        raise OSError(errno.EISDIR, "a directory")
    if not S_ISREG(mode):
        raise OSError(errno.ENOENT, "neither a file nor a directory")


def real_path(fd: int) -> bytes:
    """Where the open file is, free of symbolic links: the kernel's own answer."""
    return os.readlink(b"/proc/self/fd/%d" % fd)


def _openat2() -> Open:
    """`openat2` by its number, which no library in Python has."""
    import ctypes

    class How(ctypes.Structure):
        _fields_ = (
            ("flags", ctypes.c_uint64),
            ("mode", ctypes.c_uint64),
            ("resolve", ctypes.c_uint64),
        )

    pointers = {
        (flags, resolve): ctypes.pointer(How(flags, 0, resolve))
        for flags, resolve in (
            (OPEN, DIRECT),
            (OPEN, BENEATH),
            (PLACE | os.O_DIRECTORY, BENEATH),
        )
    }
    size = ctypes.sizeof(How)
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.argtypes = (
        ctypes.c_long,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.c_size_t,
    )
    syscall.restype = ctypes.c_long

    def openat2(directory: int, name: bytes, flags: int, resolve: int) -> int:
        fd = syscall(SYS_OPENAT2, directory, name, pointers[flags, resolve], size)
        if fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return int(fd)

    return openat2
