"""Paths that are followed, because what they lead to changes while the server runs: a symbolic link
is switched to another release, a directory is moved away and another put in its place.

This module resolves paths and looks at files; it opens none, and knows nothing of HTTP.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic
from typing import Final

from knot.files.compression import SUFFIXES

Path = str | bytes | os.PathLike[str]

MAX_LINKS: Final = 40
"""Symbolic links on the way to a file, as in the kernel (path_resolution(7))."""

REFRESH: Final = 0.5
"""Seconds between two looks at where files are; the server asks once a second."""


def absolute(path: Path) -> bytes:
    """`path` from the root of the file system: the current directory may be removed later.

    Dot segments stay, since ``link/..`` need not be where the link is.  An empty path is an
    `OSError`, and not the current directory: it comes of a variable that is not set.
    """
    name = os.fsencode(path)
    if not name:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "")
    return name if os.path.isabs(name) else os.path.join(os.getcwdb(), name)


def grants(path: Path) -> set[bytes]:
    """Directories which a sandbox has to leave readable for `path` to be followed.

    They are the parent of what `path` leads to, where another may be put in its place, and the
    parents of what each symbolic link on the way leads to: a switch of ``current ->
    releases/42`` leads to another entry of ``releases``.  Never the root of the file system, which
    would be no sandbox; what lies directly there is granted itself.
    """
    found: set[bytes] = set()
    place = _resolve(b"/", absolute(path), found, [MAX_LINKS])
    found.discard(b"/")
    return found | {place}


def _resolve(here: bytes, path: bytes, found: set[bytes], links: list[int]) -> bytes:
    """Where `path` leads to from the real path `here`; the parents go to `found`."""
    if path.startswith(b"/"):
        here = b"/"
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    for number, name in enumerate(names, 1):
        if name == b"..":
            here = os.path.dirname(here)
            continue
        if number == len(names):
            found.add(here)  # a link may be replaced by a file or a directory
        place = os.path.join(here, name)
        try:
            target = os.readlink(place) if links[0] else b""
        except OSError:
            target = b""
        if target:
            links[0] -= 1
            here = _resolve(here, target, found, links)
        else:
            here = place
    found.add(os.path.dirname(here))
    return here


def reason(error: OSError, path: Path) -> str:
    """Why `path` cannot be used, with the remedy if it is only the sandbox that forbids it."""
    # Landlock is asked when a file is opened, and not by access(2).
    if error.errno == errno.EACCES and os.access(path, os.R_OK):
        return (
            "the sandbox does not cover it; restart Knot (or send SIGHUP, with --workers), or use"
            " --no-sandbox"
        )
    return error.strerror or str(error)


Inode = tuple[int, int]
"""Device and number, which a file has under each of its names."""


class Withheld:
    """Files of the server's own, which are served under no name, and neither are their compressed
    copies."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = [absolute(path) for path in paths if os.fsencode(path)]
        self.places: set[bytes] = set()
        """Their real paths, those of the copies, and the ones that they had before: a switched link
        does not make an old key public."""
        self._resolve()
        self._refreshed = monotonic()
        self.changed: list[Callable[[], object]] = []
        """Called when one of them has another real path."""

    def __bool__(self) -> bool:
        return bool(self._paths)

    def inodes(self) -> set[Inode]:
        """Their inodes now: one may have further names."""
        found = set()
        for path in self._paths:
            with suppress(OSError):
                status = os.stat(path)
                found.add((status.st_dev, status.st_ino))
        return found

    def _resolve(self) -> None:
        for place in map(os.path.realpath, self._paths):
            self.places.update(place + suffix for suffix in (b"", *SUFFIXES.values()))

    def look(self, *, now: bool = False) -> None:
        """Resolve the paths again, unless that was a moment ago; but `now` do so in any case."""
        if not self._paths or (not now and monotonic() - self._refreshed < REFRESH):
            return
        self._refreshed = monotonic()
        before = len(self.places)
        self._resolve()
        if len(self.places) != before:
            for call in self.changed:
                call()
