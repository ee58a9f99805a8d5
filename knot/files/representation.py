"""A file as it was at one moment: its bytes or where they are, its entity tag, its times.

Nothing here knows the path that a client asks for, or waits for a disk unless it is asked to.
"""

from __future__ import annotations

import errno
import os
from _blake2 import blake2b  # `hashlib` has it, too, and brings OpenSSL, 3.7 MiB
from typing import Final, NamedTuple

from knot.files.compression import may_have_copies
from knot.files.stamps import Stamp, stamp_of

IN_MEMORY: Final = 128 * 1024
"""Bytes of a file that is kept in memory; a larger one is kept open."""

ENTRY: Final = 1024
"""What a file in the cache takes beside its bytes."""

ATTEMPTS: Final = 3
"""How often a small file is read if it changes meanwhile."""

BUSY: Final = {
    errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO,
    errno.ESTALE, errno.ETIMEDOUT,  # of network file systems
    errno.EBADMSG, errno.EUCLEAN, errno.EREMOTEIO, errno.ENODATA,  # of disks that have lost bytes
}  # fmt: skip
"""Errors that do not tell whether the file exists: 503, because a 404 would be cached."""

LAST_SECOND: Final = 253_402_300_799
"""The last second of the year 9999."""


class File:
    """An open file; it is closed with its last reference."""

    __slots__ = ("fd", "mode", "stamp")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        status = os.fstat(fd)
        self.mode = status.st_mode
        self.stamp = stamp_of(status)
        """When it was opened."""

    def __del__(self) -> None:
        os.close(self.fd)

    @property
    def is_unchanged(self) -> bool:
        """Whether it is as it was when it was opened."""
        return stamp_of(os.fstat(self.fd)) == self.stamp


class Slice(NamedTuple):
    """Bytes of an open file."""

    file: File
    start: int
    stop: int


Bytes = bytes | bytearray
"""Content in memory, which nobody changes; to read it as `bytes` would be to copy it."""


class Representation:
    """A file as it was at one moment: what HTTP says of it, and its bytes or where they are.

    The site keeps it as long as the file has not changed, which it checks once a second.
    """

    __slots__ = (
        "coding", "compressed", "content", "copies", "cost", "etag", "file", "modified", "name",
        "path", "second", "settled", "size", "stamp", "type", "varies",
    )  # fmt: skip

    def __init__(
        self,
        name: bytes,
        stamp: Stamp,
        kind: bytes,
        content: File | Bytes,
        etag: bytes,
        coding: bytes = b"",
        settled: bool = False,
    ) -> None:
        self.name = name
        """Below the site's directory."""
        self.file = content if isinstance(content, File) else None
        """None if all of it is in memory: a descriptor for each small file would be too many."""
        self.content = None if isinstance(content, File) else content
        self.type = kind
        """Media type with its parameters, as in ``Content-Type``."""
        self.coding = coding
        """The content coding (RFC 9110, section 8.4.1), empty for none."""
        self.size = stamp.size if isinstance(content, File) else len(content)
        """In bytes."""
        self.modified = second_of(stamp.modified)
        """In seconds since the epoch."""
        self.etag = etag
        """The entity tag with its quotes (section 8.8.3); empty while it `is_cold`."""
        self.stamp = stamp
        self.settled = settled
        """Whether an equal stamp proves that the file is still the same."""
        self.varies = may_have_copies(kind)
        """Whether a client with another ``Accept-Encoding`` may get other bytes."""
        self.copies: dict[bytes, Representation] | None = None
        """Copies compressed beforehand, by coding; None if that is not known yet."""
        self.compressed: dict[bytes, Representation | None] = {}
        """Copies compressed here."""
        self.cost = ENTRY if self.content is None else ENTRY + self.size
        """Bytes of the cache's budget that it takes."""
        self.path: bytes | None = None
        """Its key in the cache; None if it is not there."""
        self.second = 0
        """When the file was last checked."""

    @property
    def is_cold(self) -> bool:
        """Whether it should be in memory and could not be read without waiting for the disk."""
        return self.content is None and self.size <= IN_MEMORY

    def slice(self, start: int, stop: int) -> Bytes | Slice:
        """Its bytes from `start` up to `stop`."""
        if self.content is not None:
            return self.content if stop - start == self.size else self.content[start:stop]
        assert self.file is not None
        return Slice(self.file, start, stop)


def read_whole(file: File, wait: bool) -> tuple[Stamp, Bytes | None]:
    """A file and its stamp before it was read; None if it is too large for the memory, or if it
    would have to be waited for and nobody is to `wait`.

    A file that changes all the time is taken as it was read last, and does not count as settled.
    """
    stamp, content = file.stamp, None
    for _ in range(ATTEMPTS):
        if stamp.size > IN_MEMORY:
            return stamp, None
        before = stamp
        content = read(file.fd, stamp.size) if wait else read_now(file.fd, stamp.size)
        if len(content) < stamp.size and not wait:
            return stamp, None
        stamp = stamp_of(os.fstat(file.fd))
        if stamp == before:
            break
    return before, content


def read(fd: int, size: int) -> bytearray:
    """`size` bytes of a file, or fewer if it ends before."""
    buffer = bytearray(size)
    del buffer[os.preadv(fd, [buffer], 0) :]
    return buffer


def read_now(fd: int, size: int, start: int = 0) -> bytearray:
    """`size` bytes of a file, or fewer if reading on would wait for the disk."""
    buffer = bytearray(size)
    try:
        count = os.preadv(fd, [buffer], start, os.RWF_NOWAIT)
    except BlockingIOError:
        count = 0
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        count = os.preadv(fd, [buffer], start)  # a file system that can only be waited for
    del buffer[count:]
    return buffer


def second_of(time: int) -> int:
    """A time in ns as a second that a date can have: some file systems have stranger ones."""
    return min(max(time // 10**9, 0), LAST_SECOND)


def etag_of(content: Bytes, coding: bytes = b"") -> bytes:
    """A strong tag: a hash of the bytes, the same on every machine, also after a `touch`."""
    digest = blake2b(content, digest_size=16).hexdigest().encode()
    return coded(b'"%b"' % digest, coding)


def etag_by_stamp(stamp: Stamp, settled: bool, shared: bool) -> bytes:
    """The tag of a file that is not in memory.  A `shared` tag is the same on every machine that
    has the file with the same size and modification time.

    A file that may still change under its stamp has a weak tag that nothing else will ever match.
    """
    if not settled:
        return b'W/"%b"' % os.urandom(16).hex().encode()
    # The inode distinguishes files whose times were set by a program, and must not be public.
    parts = stamp[2:4] if shared else stamp[1:]
    digest = blake2b(repr(tuple(parts)).encode(), digest_size=16).hexdigest().encode()
    return b'"%b"' % digest


def coded(etag: bytes, coding: bytes) -> bytes:
    """The tag of the same file as the form of another in that coding."""
    return b'%b-%b"' % (etag[:-1], coding) if etag and coding else etag


def is_fresh(copy: Stamp, original: Stamp) -> bool:
    """Whether a copy that was compressed beforehand is not older than the file itself.

    `tar`, `zip` and many others leave times of whole seconds; within one second the order
    is unknown.
    """
    if copy.modified % 10**9 == 0:
        return copy.modified // 10**9 >= original.modified // 10**9
    return copy.modified >= original.modified


def is_same(old: Representation, new: Representation) -> bool:
    """Whether a file in memory has the bytes that it had, and the same name and times."""
    return old.name == new.name and old.stamp == new.stamp and old.etag == new.etag != b""
