"""What the files were at each moment, and so what the answer to a request may be.

Written from the specification and not from Knot: what both have wrong, neither finds.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from hashlib import blake2b, shake_128
from math import inf
from pathlib import Path
from random import Random
from typing import Final

from tame.testing.simulation import EPOCH

SIZES: Final = {
    "empty.txt": 0,
    "small.txt": 90,
    "page.html": 1_500,
    "style.css": 3_000,
    "data.bin": 5_000,
    "large.bin": 12_000,
    "huge.bin": 40_000,
    "folder/index.html": 700,
}
"""Of files that are replaced under way, by names; bytes, about."""

IN_PLACE: Final = "unstable.bin"
"""A file that is written in place, so that who is being sent it may get some of each."""

TYPES: Final = {
    "txt": "text/plain; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "bin": "application/octet-stream",
}

LISTED: Final = {"one.txt": b"1", "two.txt": b"22", "ten.bin": b"0123456789"}
"""A directory without an index, which stays as it is."""

LARGE: Final = 8_000
"""Bytes from which on the tag of a file is made of what the file system says of it."""

YOUNG: Final = 2.1
"""Virtual seconds in which such a file may still change unseen, and so has a weak tag."""

EARLY: Final = formatdate(0, usegmt=True)
LATE: Final = formatdate(2**32, usegmt=True)


@dataclass
class Version:
    """A file for as long as it was so."""

    content: bytes
    time: int
    """When it was written, in ns since the epoch."""
    since: float
    """In virtual seconds."""
    until: float = inf

    @property
    def modified(self) -> int:
        return self.time // 10**9

    @property
    def is_large(self) -> bool:
        return len(self.content) > LARGE

    def tag(self, coding: str = "") -> str:
        """Of its bytes, or of a large file's inode, size and times: the simulation knows no inodes,
        and has one time."""
        data = self.content
        if self.is_large:
            data = repr((0, len(data), self.time, self.time)).encode()
        elif coding:
            data = zlib.compress(data, 6, wbits=31)
        return f'"{blake2b(data, digest_size=16).hexdigest()}{coding and "-" + coding}"'

    def may_be_weak(self, since: float) -> bool:
        """Whether it can have been young at any moment from `since` on, or in that second."""
        return self.is_large and since - self.since < YOUNG + 1

    def may_be_strong(self, now: float) -> bool:
        return not self.is_large or now - self.since >= YOUNG

    @property
    def date(self) -> str:
        return formatdate(self.modified, usegmt=True)


class Files:
    """A directory whose files change, and all that they were."""

    def __init__(self, root: Path, random: Random, clock: Callable[[], float]) -> None:
        self.root = root
        self.random = random
        self.clock = clock
        self.versions: dict[str, list[Version]] = {name: [] for name in (*SIZES, IN_PLACE)}
        self.count = 0
        for folder in ("folder", "listed"):
            (root / folder).mkdir()
        for name, content in LISTED.items():
            self._put(root / "listed" / name, content, EPOCH * 10**9)
        for name in self.versions:
            self.replace(name)

    def replace(self, name: str) -> None:
        """A new version, put in its place whole."""
        self.remove(name)
        version = self._new(name)
        self._put(self.root / ".new", version.content, version.time)
        os.rename(self.root / ".new", self.root / name)
        self.versions[name].append(version)

    def rewrite(self, name: str) -> None:
        """A new version in the same file; whoever is reading it gets some of both."""
        self.remove(name, unlink=False)
        version = self._new(name)
        self._put(self.root / name, version.content, version.time)
        self.versions[name].append(version)

    def remove(self, name: str, unlink: bool = True) -> None:
        now = self.clock()
        if self.versions[name] and self.versions[name][-1].until == inf:
            self.versions[name][-1].until = now
            if unlink:
                os.unlink(self.root / name)

    def change(self) -> None:
        """Something, as the seed has it."""
        if self.random.random() < 0.3:
            self.rewrite(IN_PLACE)
            return
        name = self.random.choice(list(SIZES))
        if self.random.random() < 0.2 and name != "folder/index.html":
            self.remove(name)
        else:
            self.replace(name)

    def _new(self, name: str) -> Version:
        self.count += 1
        now = self.clock()
        size = SIZES.get(name, 30_000)
        if name == IN_PLACE:
            size = self.random.choice((20, 9_000, 30_000))
        elif size:
            size += self.count % 89
        head = f"{name} {self.count} ".encode()
        content = (head + shake_128(head).hexdigest(size // 2 + 1).encode())[:size]
        # Two versions of a file never have the same time, which is ns as the system has it.
        return Version(content, EPOCH * 10**9 + int(now * 10**6) * 1000 + self.count, now)

    def _put(self, path: Path, content: bytes, time: int) -> None:
        path.write_bytes(content)
        os.utime(path, ns=(time, time))

    def current(self, name: str, since: float) -> Iterator[Version | None]:
        """What the file was at any moment from `since` until now; None where there was none."""
        before = 0.0
        for version in self.versions[name]:
            if version.since > before and version.since >= since:
                yield None
            if version.until >= since:
                yield version
            before = version.until
        if before != inf:
            yield None


# -- requests and answers ------------------------------------------------------------------------


@dataclass
class Ask:
    """A request that a client sends, and what it wants by it."""

    method: str = "GET"
    target: str = "/"
    name: str | None = None
    """Of the file, if it is one that changes."""
    fields: dict[str, str] = field(default_factory=dict)
    ranges: list[tuple[int | None, int | None]] = field(default_factory=list)
    """First and last byte; (None, n) are the last n."""
    old: bool = False
    """HTTP/1.0"""
    keep: bool = True
    """Whether the connection may go on."""
    statuses: tuple[int, ...] = ()
    """What the answer must be whatever the files are."""
    raw: bytes | None = None
    """What is sent instead of a proper request."""
    # Where it stands in what the client sends, and when that began
    start: int = 0
    stop: float = inf
    sent: float = 0.0

    def wire(self) -> bytes:
        if self.raw is not None:
            return self.raw
        fields = dict(self.fields)
        if not self.old:
            fields = {"Host": "simulated.example", **fields}
        if self.ranges:
            fields["Range"] = "bytes=" + ", ".join(
                f"{'' if first is None else first}-{'' if last is None else last}"
                for first, last in self.ranges
            )
        if self.old and self.keep:
            fields["Connection"] = "keep-alive"
        elif not self.old and not self.keep:
            fields["Connection"] = "close"
        lines = [f"{self.method} {self.target} HTTP/1.{0 if self.old else 1}"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        return "\r\n".join([*lines, "", ""]).encode()


@dataclass(frozen=True)
class Answer:
    """What a client has got."""

    status: int
    fields: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Outcome:
    """What an answer must be if the file was in a certain state."""

    status: int
    tag: str | None = None
    body: bytes | None = None
    range: str | None = None
    version: Version | None = None
    date: str | None = None
    """When it was modified, as far as the answer says so."""


def may_be(ask: Ask, answer: Answer, files: Files) -> str:
    """Why `answer` cannot be the one to `ask`; empty if it can."""
    if ask.statuses:
        if answer.status not in ask.statuses:
            return f"status {answer.status}, not {ask.statuses}"
        return ""
    assert ask.name is not None
    if ask.name == IN_PLACE:
        return "" if answer.status in (200, 206, 304, 404, 416) else f"status {answer.status}"
    coding = answer.fields.get("content-encoding", "")
    if coding and coding not in ask.fields.get("Accept-Encoding", ""):
        return f"coding {coding}, which was not asked for"
    named = "If-Range" in ask.fields or "If-Match" in ask.fields
    if coding and answer.status == 206 and not named:
        return f"a part in the coding {coding}, which the range does not name"
    codings = {coding, "gzip"} if "Accept-Encoding" in ask.fields else {coding}
    second = seconds(answer.fields["date"])
    possible = [
        outcome(ask, version, coding, second, weak)
        for version in files.current(ask.name, float(int(ask.sent)))
        for coding in sorted(codings)
        for weak in (False, True)
        if version is None
        or (version.may_be_weak(ask.sent) if weak else version.may_be_strong(files.clock()))
    ]
    reasons = [differs(ask, answer, expected) for expected in possible]
    return "" if not all(reasons) else " / ".join(dict.fromkeys(reasons))


WEAK: Final = "weak"
"""A tag that no client can have from elsewhere."""


def outcome(
    ask: Ask, version: Version | None, coding: str, second: int, weak: bool = False
) -> Outcome:
    """RFC 9110, sections 13.2.2 and 14.2, for a file in that state, and an answer of that
    second."""
    if version is None:
        return Outcome(404)
    tag, fields = WEAK if weak else version.tag(coding), ask.fields
    # Another version may yet have the same date until that second has been over for one.
    modified = version.modified if version.modified + 2 <= second else None
    date = None if modified is None else version.date
    if "If-Match" in fields:
        if fields["If-Match"] not in ("*", tag):
            return Outcome(412)
    elif modified is not None and modified > seconds(fields.get("If-Unmodified-Since", LATE)):
        return Outcome(412)
    if "If-None-Match" in fields:
        if tag in fields["If-None-Match"] or fields["If-None-Match"] == "*":
            return Outcome(304, tag)
    elif modified is not None and modified <= seconds(fields.get("If-Modified-Since", EARLY)):
        return Outcome(304, tag)
    whole = Outcome(200, tag, version.content, version=version, date=date)
    size = len(version.content)
    if not ask.ranges or ask.method != "GET" or not size:
        return whole
    if "If-Range" in fields and fields["If-Range"] not in ("" if weak else tag, date):
        return whole
    spans = []
    for first, last in ask.ranges:
        start = max(0, size - (last or 0)) if first is None else first
        stop = size if last is None or first is None else min(last + 1, size)
        if start < stop:
            spans.append((start, stop))
    if sum(stop - start for start, stop in spans) > size:
        return whole
    if not spans:
        return Outcome(416, range=f"bytes */{size}")
    if len(spans) == 1:
        [(start, stop)] = spans
        place = f"bytes {start}-{stop - 1}/{size}"
        return Outcome(206, tag, version.content[start:stop], place, version, date)
    parts = [
        b"Content-Range: bytes %d-%d/%d\r\n\r\n%b"
        % (start, stop - 1, size, version.content[start:stop])
        for start, stop in spans
    ]
    return Outcome(206, tag, b"|".join(parts), "several", version, date)


def differs(ask: Ask, answer: Answer, expected: Outcome) -> str:
    """In what `answer` is another than `expected`; empty if it is not."""
    fields = answer.fields
    if answer.status != expected.status:
        return f"status {answer.status}, not {expected.status}"
    tag = fields.get("etag", "")
    if (WEAK if tag.startswith('W/"') else tag or None) != expected.tag:
        return f"tag {fields.get('etag')}, not {expected.tag}"
    several = expected.range == "several"
    if fields.get("content-range") != (None if several else expected.range):
        return f"range {fields.get('content-range')}, not {expected.range}"
    version = expected.version
    if version is None:
        return ""
    if ("content-encoding" in fields) != ('-gzip"' in (expected.tag or "")):
        return "the tag is that of another coding"
    if fields.get("last-modified") != expected.date:
        return f"modified {fields.get('last-modified')}, not {expected.date}"
    assert ask.name is not None
    assert expected.body is not None
    if not several and fields.get("content-type") != TYPES[ask.name.rpartition(".")[2]]:
        return f"type {fields.get('content-type')}"
    if ask.method == "HEAD":
        if "content-encoding" not in fields and int(fields["content-length"]) != len(expected.body):
            return f"length {fields['content-length']}, not {len(expected.body)}"
        return ""
    body = answer.body
    if "content-encoding" in fields:
        body = gzip.decompress(body)
    elif several:
        body = parts_of(answer)
    return "" if body == expected.body else f"{len(body)} bytes that are not those of the version"


def parts_of(answer: Answer) -> bytes:
    """The parts of a multipart/byteranges as `outcome` has them, if they are well put together."""
    boundary = re.search(r"boundary=(\w+)", answer.fields["content-type"])
    assert boundary is not None
    line = b"--" + boundary[1].encode()
    body = b"\r\n" + answer.body
    if not body.endswith(b"\r\n" + line + b"--\r\n"):
        return b"no end"
    pieces = body.removesuffix(b"\r\n" + line + b"--\r\n").split(b"\r\n" + line + b"\r\n")
    return b"|".join(piece.partition(b"\r\n")[2] for piece in pieces[1:])


def seconds(date: str) -> int:
    return int(parsedate_to_datetime(date).timestamp())
