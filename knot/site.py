"""From the path of a URL to a file, safely.

A site is a directory.  What it gives out is a `File`: opened, so that a name that changes later
changes nothing, and checked to lie in the directory after it was opened, so that no symbolic link
leads out, whoever moves it at what moment.  This file knows neither HTTP nor sockets.
"""

from __future__ import annotations

import errno
import mimetypes
import os
import re
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

INDEX: Final = b"index.html"

# O_NONBLOCK: a FIFO in the directory must not stop the server.
OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

BROKEN_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")

IN_MEMORY: Final = 128 * 1024
"""Bytes of a file that is kept in memory; a larger one is kept open."""

ENTRY: Final = 1024
"""What a file in the cache takes beside its bytes."""

OPEN_FILE: Final = 256 * 1024
"""What an open file takes of the cache's budget: 64 MiB are 256 descriptors."""

BUSY: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}

# The standard library's table, not the machine's: a site is the same wherever it is served.
_types = mimetypes.MimeTypes(filenames=())
for _suffix, _type in {
    ".avif": "image/avif",
    ".gz": "application/gzip",
    ".js": "text/javascript",
    ".jsonld": "application/ld+json",
    ".md": "text/markdown",
    ".opus": "audio/ogg",
    ".webp": "image/webp",
    ".whl": "application/zip",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xz": "application/x-xz",
    ".zst": "application/zstd",
}.items():
    _types.add_type(_type, _suffix)
_types.encodings_map = {}  # `.tar.gz` is sent as the gzip file that it is, not as an encoded tar


class File:
    """An open file; it is closed when the last user lets go of it."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Slice(NamedTuple):
    """Bytes of an open file."""

    file: File
    start: int
    stop: int


class Representation:
    """A file as it was at one moment: what HTTP says of it, and its bytes or where they are.

    The site keeps it as long as the file has not changed, which it looks after once a second.
    `prepared` is for whoever makes answers of it, to keep one for the rest of that second.
    """

    __slots__ = (
        "content", "etag", "file", "modified", "name", "prepared", "second", "size", "stamp",
        "type",
    )  # fmt: skip

    def __init__(self, name: bytes, file: File, status: os.stat_result) -> None:
        self.name = name
        """Below the site's directory."""
        self.file: File | None = file
        """None if all of it is in memory: a descriptor for each small file would be too many."""
        self.content: bytes | None = None
        self.type = media_type(name)
        """Media type with its parameters, as in ``Content-Type``."""
        self.size = status.st_size
        """In bytes."""
        self.modified = int(status.st_mtime)
        """In seconds since the epoch, as ``Last-Modified`` has it."""
        self.etag = b'"%x-%x"' % (status.st_mtime_ns, status.st_size)
        """Strong: the time is in ns, and bytes that change within one tick of the file system's
        clock change the content only of a file that is still being written."""
        self.stamp = stamp(status)
        self.second = 0
        self.prepared: object = None

    @property
    def cost(self) -> int:
        """Bytes of the cache's budget that it takes."""
        return OPEN_FILE if self.content is None else ENTRY + self.size

    def slice(self, start: int, stop: int) -> bytes | Slice:
        """Its bytes from `start` up to `stop`."""
        if self.content is not None:
            return self.content[start:stop]
        assert self.file is not None
        return Slice(self.file, start, stop)


def stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    """What tells one state of a file from another."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class Moved(NamedTuple):
    """The path is that of a directory and lacks its last slash."""

    path: str
    """Where it is, percent-encoded."""


class Missing(NamedTuple):
    """There is nothing to serve, for the reason that `status` stands for in HTTP."""

    status: int


class Site:
    """The files below one directory, and a cache of those that were asked for."""

    def __init__(
        self, directory: str | os.PathLike[str], cache_size: int = 64 * 1024 * 1024
    ) -> None:
        """`cache_size` is in bytes.  Raises `OSError` if `directory` is none, or unreadable."""
        self.directory = Path(directory)
        self._fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._root = real_path(self._fd)
        self._cache: dict[bytes, Representation] = {}  # by path, the least recent first
        self._free = cache_size

    def close(self) -> None:
        self._cache.clear()
        os.close(self._fd)

    def find(self, path: bytes, second: int) -> Representation | Moved | Missing:
        """What the absolute `path` of a URL, percent-encoded, stands for in this `second`."""
        found = self._cache.get(path)
        if found is None:
            name = file_name(path)
            if name is None:
                return Missing(400)
            path = b"/" + name  # of the many spellings the cache has this one
            found = self._cache.get(path)
        if found is not None and self._is_current(path, found, second):
            return found
        return self._find_anew(path[1:], second)

    def _find_anew(self, name: bytes, second: int) -> Representation | Moved | Missing:
        try:
            found = self._open(name)
        except OSError as error:
            if error.errno in BUSY:
                return Missing(503)
            return Missing(403 if error.errno == errno.EACCES else 404)
        if isinstance(found, Representation):
            found.second = second
            self._keep(b"/" + name, found)
        return found

    def _is_current(self, path: bytes, found: Representation, second: int) -> bool:
        """Whether the file is still what it was; looked at once a second."""
        if found.second != second:
            del self._cache[path]
            try:
                status = os.stat(found.name, dir_fd=self._fd)
            except OSError:
                status = None
            if status is None or stamp(status) != found.stamp:
                self._free += found.cost
                return False
            found.second = second
            found.prepared = None
            self._cache[path] = found  # as the one used last
        return True

    def _keep(self, path: bytes, found: Representation) -> None:
        """Put it into the cache, and take out what was not used for longest."""
        cache = self._cache
        self._free -= found.cost
        while self._free < 0 and cache:
            self._free += cache.pop(next(iter(cache))).cost
        if self._free < 0:
            self._free += found.cost
        else:
            cache[path] = found

    def _open(self, name: bytes) -> Representation | Moved | Missing:
        file = File(os.open(name or b".", OPEN, dir_fd=self._fd))
        if not self._contains(file.fd):
            return Missing(404)
        status = os.fstat(file.fd)
        if S_ISDIR(status.st_mode):
            if name and not name.endswith(b"/"):
                return Moved(quote(b"/" + name + b"/"))
            return self._open(name + INDEX)
        if not S_ISREG(status.st_mode) or name.endswith(b"/"):
            return Missing(404)
        found = Representation(name, file, status)
        if found.size <= IN_MEMORY:
            content = os.pread(file.fd, found.size + 1, 0)
            if len(content) == found.size and stamp(os.fstat(file.fd)) == found.stamp:
                found.content = content
                found.file = None
        return found

    def _contains(self, fd: int) -> bool:
        path = real_path(fd)
        return path == self._root or path.startswith(self._root.rstrip(b"/") + b"/")


def real_path(fd: int) -> bytes:
    """Where the open file is, free of symbolic links: the kernel's own answer."""
    return os.readlink(b"/proc/self/fd/%d" % fd)


def file_name(path: bytes) -> bytes | None:
    """The name below the site's directory, without a slash at its front; None if there is none.

    Decoded once (RFC 3986, section 2.4), and free of dot segments (section 5.2.4) and of empty
    ones; a path that leads above the root has no name.
    """
    if b"%" in path:
        if BROKEN_ESCAPE.search(path):
            return None
        path = unquote_to_bytes(path)
    if b"\0" in path or not path.startswith(b"/"):
        return None
    if b"/." not in path and b"//" not in path:
        return path[1:]
    name: list[bytes] = []
    segments = path.split(b"/")
    for segment in segments:
        if segment == b"..":
            if not name:
                return None
            name.pop()
        elif segment not in (b"", b"."):
            name.append(segment)
    if name and segments[-1] in (b"", b".", b".."):
        name.append(b"")
    return b"/".join(name)


def media_type(name: bytes) -> bytes:
    """The media type that the end of a file's name stands for (RFC 9110, section 8.3)."""
    found, _ = _types.guess_type("x" + os.path.splitext(os.fsdecode(name))[1])
    if found is None:
        return b"application/octet-stream"
    if found.startswith("text/") or found in ("application/json", "image/svg+xml"):
        found += "; charset=utf-8"
    return found.encode()
