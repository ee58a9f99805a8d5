"""Whether a file has changed: no history of one brings two contents under one tag."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import Any, Final
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from knot.build import open_sites
from knot.cli import serve
from knot.config import read_settings
from knot.files import representation
from knot.files import site as sites
from knot.files.representation import (
    IN_MEMORY,
    Bytes,
    Representation,
    Slice,
)
from knot.files.site import Site
from knot.files.stamps import Stamp, stamp_of
from knot.http.request import Request
from knot.http.responder import Deferred, Responder, Response

SECOND: Final = 10**9
BEGIN: Final = 1_700_000_000

PATH: Final = b"/file.txt"


def test_a_stamp_proves_something_once_its_time_has_passed() -> None:
    stamp = Stamp(1, 2, 3, 5 * SECOND, 100 * SECOND)
    for now, settled in ((0, False), (99, False), (100, False), (102, False), (102.2, True)):
        assert stamp.is_settled(now) is settled


def test_a_stamp_has_what_the_file_system_says(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("abc")
    os.utime(tmp_path / "a", ns=(1, 2))
    status = os.stat(tmp_path / "a")
    assert stamp_of(status) == (status.st_dev, status.st_ino, 3, 2, status.st_ctime_ns)


# -- tags ------------------------------------------------------------------------------------------

OLD: Final = (784_111_777, 784_111_777)


def tag(root: Path, shared: bool) -> bytes:
    """That of the only file there, which is large and old."""
    site = Site(root, shared_tags=shared)
    with patch.object(sites, "time", lambda: time() + 3600):
        found = site.find(b"/large.bin", 1)
    site.close()
    assert isinstance(found, Representation)
    assert found.file is not None
    return found.etag


def test_a_shared_tag_is_that_of_size_and_modification_time(tmp_path: Path) -> None:
    files = []
    for machine in ("one", "other"):
        (tmp_path / machine).mkdir()
        files.append(tmp_path / machine / "large.bin")
        files[-1].write_bytes(b"x" * (IN_MEMORY + 1))
        os.utime(files[-1], OLD)
    for shared in (True, False):
        tags = {tag(file.parent, shared) for file in files}
        assert len(tags) == (1 if shared else 2)
        assert all(found.startswith(b'"') for found in tags)
    before = tag(tmp_path / "one", True)
    os.utime(files[0])
    assert tag(tmp_path / "one", True) != before


def test_a_shared_tag_is_an_option_of_each_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large.bin").write_bytes(b"x" * (IN_MEMORY + 1))
    os.utime(tmp_path / "large.bin", OLD)
    config = tmp_path / "knot.toml"
    config.write_text("[hosts.a]\nshared-tags = true\n[hosts.b]\nspa = true\n")
    monkeypatch.setattr(sites, "time", lambda: time() + 3600)
    for option, shared in (("--no-sandbox", ["a"]), ("--shared-tags", ["", "a", "b"])):
        asked = serve.make_context("serve", [str(tmp_path), option, "--config", str(config)])
        opened = open_sites(read_settings(asked.params))
        for host, place in opened.items():
            found = place.site.find(b"/large.bin", 1)
            assert isinstance(found, Representation)
            assert (found.etag == tag(tmp_path, True)) == (host in shared)
            del found
        opened.close()


# -- any history -----------------------------------------------------------------------------------


class World:
    """One file, on a file system with a clock of its own, and a client that remembers."""

    def __init__(self, root: Path, step: int, in_memory: bool) -> None:
        """Times of files are multiples of `step` ns."""
        self.file = root / "file.txt"
        self.step = step
        self.in_memory = in_memory
        self.now = float(BEGIN)
        self.times: dict[int, tuple[int, int]] = {}
        """When each inode was modified, and changed."""
        self.contents: list[tuple[float, bytes | None]] = []
        """What the file was from which moment on; None where there was none."""
        self.set = False
        """Whether a time was set, so that dates prove nothing."""
        self.strong: dict[str, bytes] = {}
        self.known: tuple[dict[str, str], bytes] | None = None
        """The last answer: its fields and content."""
        self.site = Site(root, cache_size=100_000 if in_memory else 0)
        self.responder = Responder(self.site)
        self.write(b"0000")

    # What happens to the file

    def kernel(self) -> int:
        """Its clock lags behind by up to 10 ms."""
        now = int(self.now * SECOND)
        return (now - (0 if self.step > SECOND else 9_000_000)) // self.step * self.step

    def put(self, path: Path, content: bytes, modified: int | None = None) -> None:
        path.write_bytes(content)
        self.times[path.stat().st_ino] = self.kernel() if modified is None else modified, 0
        self.change(path)

    def change(self, path: Path) -> None:
        inode = path.stat().st_ino
        self.times[inode] = self.times[inode][0], self.kernel()

    @property
    def modified(self) -> int:
        return self.times[self.file.stat().st_ino][0]

    def became(self, content: bytes | None) -> None:
        self.contents.append((self.now, content))

    def write(self, content: bytes) -> None:
        self.put(self.file, content)
        self.became(content)

    def write_and_set(self, content: bytes) -> None:
        """As `cp -p` does over an old file."""
        if self.file.exists():
            self.set = True
            self.put(self.file, content, self.modified)
            self.became(content)

    def unlink_and_create(self, content: bytes) -> None:
        """As `tar` does: with the time that the file had before."""
        if self.file.exists():
            self.set = True
            modified = self.modified
            self.file.unlink()
            self.put(self.file, content, modified)
            self.became(content)

    def replace(self, content: bytes) -> None:
        new = self.file.with_name("new")
        self.put(new, content)
        new.rename(self.file)
        self.change(self.file)
        self.became(content)

    def touch(self, _: bytes) -> None:
        if self.file.exists():
            self.times[self.file.stat().st_ino] = self.kernel(), self.kernel()

    def backdate(self, _: bytes) -> None:
        if self.file.exists():
            self.set = True
            self.times[self.file.stat().st_ino] = SECOND, self.kernel()

    def remove(self, _: bytes) -> None:
        self.file.unlink(missing_ok=True)
        self.became(None)

    # What a client sees

    def possible(self) -> list[bytes | None]:
        """What the file was in this second."""
        found: list[bytes | None] = []
        for when, content in reversed(self.contents):
            found.append(content)
            if when < int(self.now):
                break
        return found

    def ask(self, *fields: tuple[bytes, bytes]) -> tuple[int, dict[str, str], bytes]:
        response = self.responder.respond(Request(b"GET", PATH, fields=fields), self.now)
        while isinstance(response, Deferred):
            response = response.finish(response.work())
        return read(response)

    def check(self, content: bytes, fields: dict[str, str]) -> None:
        assert content in self.possible()
        tag = fields["etag"]
        if tag.startswith('"'):
            assert self.strong.setdefault(tag, content) == content
        else:
            assert tag.startswith('W/"')

    def get(self, _: bytes) -> None:
        status, fields, content = self.ask()
        if status == 404:
            assert None in self.possible()
            self.known = None
            return
        assert status == 200
        self.check(content, fields)
        self.known = fields, content

    def revalidate(self, _: bytes) -> None:
        if self.known is not None:
            fields, content = self.known
            self.again(content, (b"if-none-match", fields["etag"].encode()))

    def revalidate_by_date(self, _: bytes) -> None:
        if self.known is not None and "last-modified" in self.known[0] and not self.set:
            fields, content = self.known
            self.again(content, (b"if-modified-since", fields["last-modified"].encode()))

    def again(self, known: bytes, condition: tuple[bytes, bytes]) -> None:
        status, fields, content = self.ask(condition)
        if status == 304:
            assert known in self.possible()
        elif status == 200:
            self.check(content, fields)
        else:
            assert status == 404

    def go_on(self, _: bytes) -> None:
        if self.known is not None:
            fields, content = self.known
            self.rest(content, fields["etag"])

    def go_on_by_date(self, _: bytes) -> None:
        if self.known is not None and "last-modified" in self.known[0] and not self.set:
            fields, content = self.known
            self.rest(content, fields["last-modified"])

    def rest(self, known: bytes, validator: str) -> None:
        """All but the first byte, which the client has."""
        fields = (b"range", b"bytes=1-"), (b"if-range", validator.encode())
        status, said, content = self.ask(*fields)
        if status == 206:
            self.check(known[:1] + content, said)
        elif status == 200:
            self.check(content, said)
        else:
            assert status == 404


def read(response: Response) -> tuple[int, dict[str, str], bytes]:
    head, _, content = response.data.partition(b"\r\n\r\n")
    for piece in response.rest:
        content += bytes_of(piece)
    status, *lines = head.decode().split("\r\n")
    pairs = [line.split(": ", 1) for line in lines]
    return int(status.split()[1]), {name.lower(): value for name, value in pairs}, content


def bytes_of(piece: Bytes | Slice) -> bytes:
    if isinstance(piece, Slice):
        return os.pread(piece.file.fd, piece.stop - piece.start, piece.start)
    return bytes(piece)


@contextmanager
def world(step: int, in_memory: bool, cold: bool) -> Iterator[World]:
    """In which the site lives."""
    found: World

    def stamp(status: os.stat_result) -> Stamp:
        modified, changed = found.times[status.st_ino]
        return stamp_of(status)._replace(modified=modified, changed=changed)

    def read_now(*arguments: Any) -> bytearray:
        return bytearray() if cold else original(*arguments)

    original = representation.read_now
    with (
        tempfile.TemporaryDirectory() as directory,
        patch.object(representation, "stamp_of", stamp),
        patch.object(sites, "stamp_of", stamp),
        patch.object(sites, "time", lambda: found.now),
        patch.object(representation, "IN_MEMORY", 8),
        patch.object(sites, "IN_MEMORY", 8),
        patch.object(representation, "read_now", read_now),
    ):
        found = World(Path(directory), step, in_memory)
        try:
            yield found
        finally:
            found.site.close()
            found.responder.sweep()


CHANGES: Final = (
    World.write, World.write_and_set, World.unlink_and_create, World.replace, World.touch,
    World.backdate, World.remove,
)  # fmt: skip
REQUESTS: Final = (
    World.get, World.revalidate, World.revalidate_by_date, World.go_on, World.go_on_by_date,
)  # fmt: skip

event = st.one_of(
    st.tuples(st.sampled_from(REQUESTS), st.just(b"")),
    st.tuples(st.sampled_from(CHANGES), st.sampled_from([b"aaaa", b"bbbb", b"A" * 9, b"B" * 9])),
    st.sampled_from([0.001, 0.3, 1.0, 1.9, 2.2, 100.0]),
)


@given(
    st.lists(event, min_size=3, max_size=25),
    st.sampled_from([1, 10_000_000, SECOND, 2 * SECOND]),
    st.booleans(),
    st.booleans(),
)
@example(  # `tar` over a file that clients have
    [2.2, (World.get, b""), (World.unlink_and_create, b"1111"), 1.0, (World.get, b"")],
    1,
    True,
    False,
)
@example(  # the same, of a file that is kept open
    [
        (World.write, b"A" * 9), 100.0, (World.get, b""), (World.unlink_and_create, b"B" * 9),
        100.0, (World.go_on, b""),
    ],
    1, True, False,
)  # fmt: skip
@example(  # twice within a tick of the clock
    [(World.write, b"aaaa"), (World.get, b""), (World.write, b"bbbb"), 1.0, (World.get, b"")],
    10_000_000, True, False,
)  # fmt: skip
@example(  # a clock that lags behind still gives the last second's date
    [(World.get, b""), (World.write, b"bbbb"), 1.0, (World.go_on_by_date, b"")], 1, True, False
)
@example(  # twice within a tick of a large file's clock
    [
        (World.write, b"A" * 9), (World.get, b""), (World.write, b"B" * 9), (World.go_on, b""), 1.0,
        (World.revalidate, b""), (World.go_on, b""), 100.0, (World.revalidate, b""),
    ],
    SECOND, True, False,
)  # fmt: skip
@example(  # in place, in the second in which it was looked at
    [
        (World.write, b"A" * 9), 100.0, (World.get, b""), 0.3, (World.write_and_set, b"B" * 9),
        (World.go_on, b""), (World.get, b""),
    ],
    1, True, False,
)  # fmt: skip
@settings(max_examples=150)
def test_no_tag_covers_two_contents_and_no_old_one_lasts(
    events: list[Any], step: int, in_memory: bool, cold: bool
) -> None:
    with world(step, in_memory, cold) as it:
        for happening in events:
            if isinstance(happening, float):
                it.now += happening
            else:
                what, content = happening
                what(it, content)
