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
    """An open file of the site; it is closed when the last user lets go of it."""

    __slots__ = ("fd", "size", "type")

    def __init__(self, fd: int, size: int, type: bytes) -> None:
        self.fd = fd
        self.size = size
        """In bytes, when it was opened."""
        self.type = type
        """Media type with its parameters, as in ``Content-Type``."""

    def __del__(self) -> None:
        os.close(self.fd)


class Moved(NamedTuple):
    """The path is that of a directory and lacks its last slash."""

    path: str
    """Where it is, percent-encoded."""


class Missing(NamedTuple):
    """There is nothing to serve, for the reason that `status` stands for in HTTP."""

    status: int


class Site:
    """The files below one directory."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Raises `OSError` if `directory` is none, or cannot be read."""
        self.directory = Path(directory)
        self._fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._root = real_path(self._fd)

    def close(self) -> None:
        os.close(self._fd)

    def find(self, path: bytes) -> File | Moved | Missing:
        """What the absolute `path` of a URL, percent-encoded, stands for."""
        name = file_name(path)
        if name is None:
            return Missing(400)
        try:
            return self._open(name)
        except OSError as error:
            if error.errno in BUSY:
                return Missing(503)
            return Missing(403 if error.errno == errno.EACCES else 404)

    def _open(self, name: bytes) -> File | Moved | Missing:
        fd = os.open(name or b".", OPEN, dir_fd=self._fd)
        try:
            if not self._contains(fd):
                return Missing(404)
            status = os.fstat(fd)
            if S_ISREG(status.st_mode):
                if name.endswith(b"/"):
                    return Missing(404)
                file = File(fd, status.st_size, media_type(name))
                fd = -1
                return file
        finally:
            if fd >= 0:
                os.close(fd)
        if not S_ISDIR(status.st_mode):
            return Missing(404)
        if name and not name.endswith(b"/"):
            return Moved(quote(b"/" + name + b"/"))
        return self._open(name + INDEX)

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
