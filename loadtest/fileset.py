"""SPECweb99's static files, and how often each is requested.

This module has names, sizes, bytes and probabilities; it serves nothing and requests nothing.  As
in the kit's ``manager`` and ``wafgen99`` are the number of directories, the names and sizes, the
weights of the classes, the order of popularity, and Zipf's law over files and over directories.
The bytes follow the kit's rule with a different generator of pseudo-random numbers; the tags for
advertisements, which the dynamic part of SPECweb99 replaces, are left out.

The bytes of a file follow from its name: a client needs no disk to check an answer.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Final

VERSION: Final = 1
"""The version of the bytes; a set of another version is written again."""

CLASSES: Final = (0.35, 0.50, 0.14, 0.01)
"""The share of requests for each class."""

POPULARITY: Final = (4, 3, 5, 2, 6, 1, 7, 8, 0)
"""The files of a class, the most popular first."""

BASE: Final = 1024
"""Ten times the size of the smallest file of class 0; each class is ten times larger."""

LINE: Final = 64
MARK: Final = 4096
"""Distance between the bytes of the name in a file."""

BLOCK: Final = 4096
"""The unit in which disks allocate space."""

NAME: Final = re.compile(r"file_set/dir([0-9]{5})/class[0-3]_[0-8]")

PRINTABLE: Final = bytes(33 + byte % 92 for byte in range(256))
"""Maps any byte to one from 33 to 124."""


class FileSetError(Exception):
    """The files cannot be written; the message is for the user."""


def cache_of(load: int) -> Path:
    """The directory that keeps the files for `load` between runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "knot" / f"load-{load}"


def directories_for(load: int) -> int:
    """The number of directories for `load` simultaneous connections.

    A user has a line of 400,000 bit/s; the mean answer has 122,000 bits.
    """
    return int(25 + (400_000 / 122_000) * load / 5)


def size_of(kind: int, number: int) -> int:
    """Bytes of the file `number` of the class `kind`."""
    return BASE * (10, 100, 1000, 10_000)[kind] * (number + 1) // 100


def zipf(count: int) -> list[float]:
    """Probabilities by rank, ~ 1/rank."""
    total = sum(1 / rank for rank in range(1, count + 1))
    return [1 / rank / total for rank in range(1, count + 1)]


class FileSet:
    """The files for a load, below the directory `root`, which a server serves.

    With `papers`, files are chosen as the clients of SEDA and Capriccio did, whose table lacks the
    least popular file of each class, ``class*_0``: it is written but never requested.
    """

    def __init__(self, root: Path, load: int, *, seed: int = 0, papers: bool = False) -> None:
        if load < 0:
            raise ValueError(f"a load is a number of connections, not {load}")
        self.root = root
        self.load = load
        self.seed = seed
        self.papers = papers
        self.directories = directories_for(load)
        order = POPULARITY[: 8 if papers else 9]
        self._files = [
            (kind, number, weight * share)
            for kind, weight in enumerate(CLASSES)
            for number, share in zip(order, zipf(len(order)), strict=True)
        ]
        self._file_limits = limits(share for _, _, share in self._files)
        self._directory_limits = limits(zipf(self.directories))
        self._names = [
            [name_of(directory, kind, number) for kind, number, _ in self._files]
            for directory in range(self.directories)
        ]

    # -- what there is ---------------------------------------------------------------------------

    def names(self) -> Iterator[str]:
        """Every file, such as ``file_set/dir00000/class0_0``: its path below `root` and in URLs."""
        for directory in range(self.directories):
            yield from names_in(directory)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self.directories * sum(map(size_of_name, names_in(0)))

    def mean_reply(self) -> float:
        """Bytes of the mean answer without its head: 14,727; with `papers`, 15,206."""
        return sum(size_of(kind, number) * share for kind, number, share in self._files)

    # -- what is requested ----------------------------------------------------------------------

    def draw(self, numbers: random.Random) -> str:
        """A random file, as often as SPECweb99 requests it."""
        names = self._names[bisect(self._directory_limits, numbers.random())]
        return names[bisect(self._file_limits, numbers.random())]

    # -- what is in it ---------------------------------------------------------------------------

    def content(self, name: str) -> bytes:
        """The bytes of the file `name`.  Raises `KeyError` if it is not in the set."""
        if not self.has(name):
            raise KeyError(name)
        return content(name, size_of_name(name), self.seed)

    def verify(self, name: str, body: bytes) -> bool:
        """True if the set has the file `name` and `body` is its content."""
        return self.has(name) and body == self.content(name)

    def has(self, name: str) -> bool:
        known = NAME.fullmatch(name)
        return known is not None and int(known[1]) < self.directories

    # -- writing it ------------------------------------------------------------------------------

    @property
    def written(self) -> bool:
        """True if all files are written: the stamp is written last and removed first."""
        try:
            return self._stamp.read_text() == self._label
        except FileNotFoundError:
            return False

    def write(self, progress: Callable[[int], object] = lambda size: None) -> None:
        """Write the files, unless they are already written.

        `progress` is called with the size of each file after it is written.  Raises `FileSetError`
        if there is not enough space, `OSError` for errors of the disk.
        """
        if self.written:
            return
        self.root.mkdir(parents=True, exist_ok=True)
        self._check_room()
        self._stamp.unlink(missing_ok=True)
        for directory in range(self.directories):
            (self.root / directory_of(directory)).mkdir(parents=True, exist_ok=True)
            for name in names_in(directory):
                data = self.content(name)
                (self.root / name).write_bytes(data)
                progress(len(data))
        self._stamp.write_text(self._label)

    @property
    def _stamp(self) -> Path:
        return self.root / ".file_set"

    @property
    def _label(self) -> str:
        return f"file set of version {VERSION} for load {self.load}, seed {self.seed}\n"

    def _check_room(self) -> None:
        needed = sum(-(-size_of_name(name) // BLOCK) * BLOCK for name in self._missing())
        free = shutil.disk_usage(self.root).free
        if needed > free:
            raise FileSetError(
                f"the file set for load {self.load} needs {needed / 2**20:,.0f} MiB more in"
                f" {self.root}, where {free / 2**20:,.0f} MiB are free: make room, or choose a"
                " smaller load or another directory"
            )

    def _missing(self) -> Iterator[str]:
        """Files that are not there yet, or not completely."""
        for name in self.names():
            try:
                there = (self.root / name).stat().st_size
            except FileNotFoundError:
                there = 0
            if there < size_of_name(name):
                yield name


def limits(shares: Iterable[float]) -> list[float]:
    """The upper ends of the shares between 0 and 1, without the last, which is 1."""
    return list(accumulate(shares))[:-1]


def directory_of(directory: int) -> str:
    return f"file_set/dir{directory:05d}"


def name_of(directory: int, kind: int, number: int) -> str:
    return f"{directory_of(directory)}/class{kind}_{number}"


def names_in(directory: int) -> list[str]:
    return [
        name_of(directory, kind, number)
        for kind in range(len(CLASSES))
        for number in range(len(POPULARITY))
    ]


def size_of_name(name: str) -> int:
    return size_of(int(name[-3]), int(name[-1]))


def content(name: str, size: int, seed: int) -> bytes:
    """What the kit writes: a line with size and name, then lines of printable noise.

    After the first line, every 4096th byte, beginning with the first, is the next byte of the name,
    and every 64th byte ends a line.
    """
    head = b"%9d %b\n" % (size, name.encode())
    length = size - len(head)
    noise = hashlib.shake_128(f"{seed} {name}".encode()).digest(length)
    data = bytearray(noise.translate(PRINTABLE))
    data[LINE - 1 :: LINE] = b"\n" * (length // LINE)
    marks = -(-length // MARK)
    data[::MARK] = (name.encode() * (marks // len(name) + 1))[:marks]
    return head + data
