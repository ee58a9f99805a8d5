"""From the path of a URL to a file, safely.

A site is a directory.  What it gives out is a `File`: opened, so that a name that changes later
changes nothing, and opened beneath the directory (`beneath.py`), so that no path leads out.
This file knows neither HTTP nor sockets, and never waits for content to come from a disk: what is
not in the kernel's memory is left to be read by whoever sends it.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from knot.beneath import Directory, real_path
from knot.encodings import SUFFIXES, compress, compressible, may_have_copies
from knot.media_types import CODINGS, TYPES

INDEX: Final = b"index.html"

WELL_KNOWN: Final = b".well-known/"
"""The one hidden name that is there to be served (RFC 8615)."""

BROKEN_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")

CACHE_SIZE: Final = 64 * 1024 * 1024

IN_MEMORY: Final = 128 * 1024
"""Bytes of a file that is kept in memory; a larger one is kept open."""

ENTRY: Final = 1024
"""What a file in the cache takes beside its bytes."""

OPEN_FILES: Final = 256
"""Descriptors that the cache of a site holds at most, if it is the only one."""

BUSY: Final = {
    errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO,
    errno.ESTALE, errno.ETIMEDOUT,  # of network file systems
    errno.EBADMSG, errno.EUCLEAN, errno.EREMOTEIO, errno.ENODATA,  # of disks that have lost bytes
}  # fmt: skip
"""What says nothing of whether there is such a file: 503, for a 404 would be remembered."""

LAST_SECOND: Final = 253_402_300_799
"""That of the year 9999."""

MEDIA_TYPE: Final = re.compile(
    r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?:[ \t]*;[\x20-\x7e]*)?"
)

OTHER_TYPE: Final = b"application/octet-stream"

IN_UTF_8: Final = {"application/json", "application/manifest+json", "image/svg+xml"}
"""Types that are told to be UTF-8, beside those of text."""


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


Bytes = bytes | bytearray
"""Content in memory, which nobody changes; to read it as `bytes` would be to copy it."""

Stamp = tuple[int, int, int, int]


class Representation:
    """A file as it was at one moment: what HTTP says of it, and its bytes or where they are.

    The site keeps it as long as the file has not changed, which it looks after once a second.
    """

    __slots__ = (
        "coding", "compressed", "content", "copies", "cost", "etag", "file", "modified", "name",
        "path", "second", "size", "stamp", "type", "varies",
    )  # fmt: skip

    def __init__(
        self,
        name: bytes,
        stamp: Stamp,
        kind: bytes,
        file: File | None,
        content: Bytes | None = None,
        coding: bytes = b"",
    ) -> None:
        self.name = name
        """Below the site's directory."""
        self.file = file
        """None if all of it is in memory: a descriptor for each small file would be too many."""
        self.content = content
        self.type = kind
        """Media type with its parameters, as in ``Content-Type``."""
        self.coding = coding
        """The content coding (RFC 9110, section 8.4.1), empty for none."""
        self.size = stamp[2] if content is None else len(content)
        """In bytes."""
        self.modified = second_of(stamp[3])
        """In seconds since the epoch, as ``Last-Modified`` has it."""
        self.etag = b'"%x-%x%b"' % (stamp[3], stamp[2], coding and b"-" + coding)
        """Strong: the time is in ns, and bytes that change within one tick of the file system's
        clock change the content only of a file that is still being written."""
        self.stamp = stamp
        self.varies = may_have_copies(kind)
        """Whether a client with another ``Accept-Encoding`` may get other bytes."""
        self.copies: dict[bytes, Representation] | None = None
        """Those that were compressed beforehand, by coding; None if that is not known yet."""
        self.compressed: dict[bytes, Representation | None] = {}
        """Those that were compressed here."""
        self.cost = ENTRY if content is None else ENTRY + self.size
        """Bytes of the cache's budget that it takes."""
        self.path: bytes | None = None
        """What the cache has it under; None if it is not there."""
        self.second = 0
        """When the file was looked at last."""

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

    def load(self) -> None:
        """Take it into memory if it is small and in the kernel's."""
        if self.file is None or self.size > IN_MEMORY:
            return
        content = read_now(self.file.fd, self.size)
        if len(content) == self.size and stamp_of(os.fstat(self.file.fd)) == self.stamp:
            self.content = content
            self.file = None
            self.cost += self.size


def read_now(fd: int, size: int, start: int = 0) -> bytearray:
    """So many bytes of a file, or fewer if reading on would wait for the disk."""
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


def stamp_of(status: os.stat_result) -> Stamp:
    """What tells one state of a file from another."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class Moved(NamedTuple):
    """The path is that of a directory and lacks its last slash."""

    path: str
    """Where it is, percent-encoded."""


class Missing(NamedTuple):
    """There is nothing to serve, for the reason that `status` stands for in HTTP."""

    status: int


class Folder(NamedTuple):
    """The path is that of a directory without an index, which may be listed."""

    path: str
    """As in a URL, decoded."""
    file: File


Found = Representation | Moved | Missing | Folder


class Site:
    """The files below one directory, and a cache of those that were asked for."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        cache_size: int = CACHE_SIZE,
        hidden: bool = False,
        follow_symlinks: bool = False,
        clean_urls: bool = False,
        spa: bool = False,
        listing: bool = False,
        types: Mapping[str, str] | None = None,
        withheld: Iterable[str | os.PathLike[str]] = (),
        open_files: int = OPEN_FILES,
    ) -> None:
        """Raises `OSError` if `directory` is none, or unreadable, `ValueError` for a bad type.

        `cache_size` is in bytes.  `hidden` serves names that begin with a dot, too;
        `follow_symlinks` lets symbolic links lead out of the directory; with `clean_urls`
        ``/about`` is also ``about.html``; with `spa` a path without a file is the index of the
        root, if its last segment has no dot; `listing` gives directories without an index.
        `types` are media types by suffix, as ``{".foo": "text/x-foo"}``, or by whole name, as
        ``{"LICENSE": "text/plain"}``; `withheld` are files that are served under no name;
        `open_files` is how many the cache holds open at most.
        """
        self.directory = Path(directory)
        self.hidden = hidden
        self.follow_symlinks = follow_symlinks
        self._clean_urls = clean_urls
        self._spa = spa
        self._listing = listing
        self._types = full_types(types or {})
        self.withheld: Container[bytes] = {os.path.realpath(os.fsencode(name)) for name in withheld}
        """Real paths."""
        self._top = Directory(directory, follow_symlinks=follow_symlinks)
        self._cache: dict[bytes, Representation] = {}  # by path, the least recent first
        self._open_files: dict[bytes, Representation] = {}  # those of them, likewise
        self._size = self._free = cache_size
        self._most_open = open_files
        self.opened = 0
        """How often a file or a directory had to be, because the cache did not have it."""
        self.misses = 0
        """Answers for which one had to be; whoever makes them counts those."""

    @property
    def root(self) -> bytes:
        """Where the directory really is."""
        return self._top.path

    @property
    def held(self) -> int:
        """Bytes that the cache takes."""
        return self._size - self._free

    def close(self) -> None:
        self._cache.clear()
        self._open_files.clear()
        self._top.close()

    def find(self, path: bytes, second: int) -> Found:
        """What the absolute `path` of a URL, percent-encoded, stands for in this `second`: a number
        that is another in each, and none of which comes again."""
        # A raw path with a % in it may also be the name of another file.
        found = self._cache.get(path) if b"%" not in path else None
        if found is None:
            name = file_name(path)
            if name is None:
                return Missing(400)
            if path[-3:].lower() == b"%2f":  # what is relative to it would lead elsewhere
                return Moved(quote(b"/" + name))
            path = b"/" + name  # of the many spellings the cache has this one
            found = self._cache.get(path)
        if found is not None and self._is_current(path, found, second):
            return found
        return self._find_anew(path[1:], second)

    def copies(self, found: Representation, second: int) -> Mapping[bytes, Representation]:
        """Those files beside `found` that are its compressed forms, by coding.

        One that is older than the file itself is none: somebody forgot to make it anew.
        """
        if found.copies is None:
            found.copies = {}
            if found.varies:
                for coding, suffix in SUFFIXES.items():
                    copy = self._copy(found, found.name + suffix, coding, second)
                    if copy is not None:
                        found.copies[coding] = copy
        return found.copies

    def _copy(
        self, found: Representation, name: bytes, coding: bytes, second: int
    ) -> Representation | None:
        if b"/" + name not in self._cache and not self._exists(name):
            return None
        copy = self.find_file(name, second)
        if copy is None or copy.modified < found.modified:
            return None
        return Representation(found.name, copy.stamp, found.type, copy.file, copy.content, coding)

    def _exists(self, name: bytes) -> bool:
        try:
            os.stat(name, dir_fd=self._top.fd)
        except OSError:
            return False
        return True

    def compressed(self, found: Representation, coding: bytes) -> Representation | None:
        """`found` in that coding, made here and kept; None if that is not worth it."""
        if found.content is None or not compressible(found.type, found.size):
            return None
        if coding not in found.compressed:
            content = compress(found.content, coding)
            copy = None
            if content is not None:
                copy = Representation(found.name, found.stamp, found.type, None, content, coding)
            path = self._forget(found)
            found.compressed[coding] = copy
            found.cost += copy.cost if copy is not None else 0
            if path is not None:
                self._keep(path, found)
        return found.compressed[coding]

    def find_file(self, name: bytes, second: int) -> Representation | None:
        """The file called `name`, below the directory; None if there is none."""
        found = self.find(b"/" + quote(name).encode(), second)
        return found if isinstance(found, Representation) and found.name == name else None

    def _find_anew(self, name: bytes, second: int) -> Found:
        if not self.hidden and is_hidden(name):
            return Missing(404)
        try:
            found = self._open(name)
        except OSError as error:
            if error.errno in BUSY:
                return Missing(503)
            found = Missing(403 if error.errno in (errno.EACCES, errno.EPERM) else 404)
        else:
            self.opened += 1
        if isinstance(found, Representation):
            found.second = second
            self._keep(b"/" + name, found)
        elif found == Missing(404) and self._spa and b"." not in name.rpartition(b"/")[2]:
            return self.find_file(INDEX, second) or found
        return found

    def _is_current(self, path: bytes, found: Representation, second: int) -> bool:
        """Whether the file is still what it was; looked at once a second."""
        if found.second != second:
            try:
                status = os.stat(found.name, dir_fd=self._top.fd)
            except OSError:
                status = None
            self._forget(found)
            if status is None or stamp_of(status) != found.stamp:
                return False
            if path[1:] + b".html" == found.name and self._exists(path[1:]):
                return False  # a clean URL, whose file has come since
            found.second = second
            found.copies = None
            self._keep(path, found)  # as the one used last
        if found.is_cold:
            self._forget(found)
            try:
                found.load()
            except OSError:
                return False  # to open it anew tells why it cannot be read
            self._keep(path, found)
        return True

    def _keep(self, path: bytes, found: Representation) -> None:
        """Put it into the cache, and take out what was not used for longest."""
        if found.cost > self._size:
            return
        self._free -= found.cost
        while self._free < 0:
            self._forget(next(iter(self._cache.values())))
        if found.file is not None:
            self._open_files[path] = found
            if len(self._open_files) > self._most_open:
                self._forget(next(iter(self._open_files.values())))
        found.path = path
        self._cache[path] = found

    def _forget(self, found: Representation) -> bytes | None:
        """Take it out of the cache, if it is there; the path that it had."""
        path, found.path = found.path, None
        if path is not None:
            del self._cache[path]
            self._open_files.pop(path, None)
            self._free += found.cost
        return path

    def _open(self, name: bytes) -> Found:
        try:
            file = File(self._top.open(name))
        except FileNotFoundError:
            if self._clean_urls and name and not name.endswith(b"/"):
                return self._open_file(name + b".html")
            raise
        status = os.fstat(file.fd)
        if not S_ISDIR(status.st_mode):
            return self._opened(name, file, status)
        if name and not name.endswith(b"/"):
            return Moved(quote(b"/" + name + b"/"))
        try:
            return self._open_file(name + INDEX)
        except FileNotFoundError:
            if self._listing:
                return Folder("/" + os.fsdecode(name), file)
            raise

    def _open_file(self, name: bytes) -> Representation | Missing:
        file = File(self._top.open(name))
        return self._opened(name, file, os.fstat(file.fd))

    def _opened(self, name: bytes, file: File, status: os.stat_result) -> Representation | Missing:
        stamp = stamp_of(status)
        if not S_ISREG(status.st_mode) or name.endswith(b"/"):
            return Missing(404)
        if self.withheld and real_path(file.fd) in self.withheld:
            return Missing(404)
        coding = self.coding(name)
        found = Representation(name, stamp, self.media_type(name), file, coding=coding)
        found.varies = found.varies and not coding  # whoever asks for it gets it as it is
        found.load()
        return found

    def media_type(self, name: bytes) -> bytes:
        """The media type that a file's name or its suffix has (RFC 9110, section 8.3).

        What was given goes before what is usual, and a whole name before a suffix.
        """
        whole = name.rpartition(b"/")[2].lower()
        suffix = suffix_of(name)
        for types in (self._types, USUAL_TYPES):
            found = types.get(whole) or types.get(suffix)
            if found:
                return found
        return OTHER_TYPE

    def coding(self, name: bytes) -> bytes:
        """The content coding that a file has already (section 8.4), empty for none."""
        suffix = suffix_of(name)
        return b"" if suffix in self._types else CODINGS.get(suffix, b"")


def suffix_of(name: bytes) -> bytes:
    """From the last dot of a file's name on, in lower case; empty if there is none."""
    suffix = name[name.rfind(b".") :].lower()
    return suffix if suffix.startswith(b".") and b"/" not in suffix else b""


def full_types(types: Mapping[str, str]) -> dict[bytes, bytes]:
    return {name.lower().encode(): full_type(kind) for name, kind in types.items()}


def full_type(kind: str) -> bytes:
    """A media type with its charset, as ``Content-Type`` has it."""
    if not MEDIA_TYPE.fullmatch(kind):
        raise ValueError(f"{kind!r} is no media type: write it as text/plain")
    if ";" not in kind and (kind.startswith("text/") or kind in IN_UTF_8):
        kind += "; charset=utf-8"
    return kind.encode()


USUAL_TYPES: Final = full_types(TYPES)


def is_hidden(name: bytes) -> bool:
    """Whether a segment of the name begins with a dot, other than ``.well-known`` at its front."""
    return b"/." in b"/" + name.removeprefix(WELL_KNOWN)


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
