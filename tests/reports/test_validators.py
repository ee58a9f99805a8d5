"""Tags and dates: what was reported of files that change, and of those that seem not to."""

from __future__ import annotations

import gzip
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest
from ways import Ask, Way

from knot.files import representation
from knot.files import site as sites
from knot.files.representation import IN_MEMORY

OLD = 784_111_777
SIZES = (100, IN_MEMORY + 1)
"""Of a file in memory, and of one that is kept open."""


class Clock:
    """What all of Knot takes for the time: it goes on as usual, and is put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    for name, module in list(sys.modules.items()):
        if name.startswith("knot.") and callable(getattr(module, "time", None)):
            monkeypatch.setattr(module, "time", found)
    return found


def put(path: Path, content: bytes, modified: int = OLD) -> Path:
    path.write_bytes(content)
    os.utime(path, (modified, modified))
    return path


def test_a_file_replaced_by_one_of_equal_size_and_time_is_another(
    way: Way, clock: Clock, tmp_path: Path
) -> None:
    """As `tar`, `cp -p` and `unzip` do it: the old bytes stayed for good."""
    clock.ahead = 3600
    for size in SIZES:
        put(tmp_path / f"{size}", b"a" * size)

    def client(ask: Ask) -> None:
        for size in SIZES:
            file, path = tmp_path / f"{size}", b"/%d" % size
            before = ask(path)
            assert before.content == b"a" * size
            tag = before.fields[b"etag"]
            assert tag.startswith(b'"')
            assert ask(path, {b"if-none-match": tag}).status == 304
            file.unlink()
            put(file, b"b" * size)
            clock.ahead += 1
            after = ask(path, {b"if-none-match": tag})
            assert (after.status, after.content) == (200, b"b" * size)
            assert after.fields[b"etag"] != tag
            assert ask(path, {b"if-range": tag, b"range": b"bytes=50-"}).status == 200
            assert ask(path, {b"if-match": tag}).status == 412

    way.serve(tmp_path, client)


def test_a_large_file_written_in_place_is_never_sent_under_its_old_tag(
    way: Way, clock: Clock, tmp_path: Path
) -> None:
    """Not even in the second in which it was looked at."""
    clock.ahead = 3600
    size = SIZES[1]
    put(tmp_path / "a", b"a" * size)

    def client(ask: Ask) -> None:
        before = ask(b"/a")
        put(tmp_path / "a", b"b" * size)
        after = ask(b"/a")
        assert (before.content, after.content) == (b"a" * size, b"b" * size)
        assert before.fields[b"etag"] != after.fields[b"etag"]

    way.serve(tmp_path, client)


def test_a_file_that_may_still_change_unseen_has_no_strong_tag_but_that_of_its_bytes(
    way: Way, clock: Clock, tmp_path: Path
) -> None:
    for size in SIZES:
        put(tmp_path / f"{size}", b"a" * size)

    def client(ask: Ask) -> None:
        small, large = (ask(b"/%d" % size) for size in SIZES)
        assert small.fields[b"etag"].startswith(b'"')
        weak = large.fields[b"etag"]
        assert weak.startswith(b'W/"')
        path = b"/%d" % SIZES[1]
        for tag in (weak, weak.removeprefix(b"W/")):
            assert ask(path, {b"if-range": tag, b"range": b"bytes=0-9"}).status == 200
            assert ask(path, {b"if-match": tag}).status == 412
        clock.ahead += 3
        # A weak tag is forgotten: what it was of may have been other bytes.
        assert ask(path, {b"if-none-match": weak}).status == 200
        strong = ask(path).fields[b"etag"]
        assert strong.startswith(b'"')
        assert ask(path, {b"if-range": strong, b"range": b"bytes=0-9"}).status == 206
        assert ask(b"/%d" % SIZES[0]).fields == small.fields | {
            b"date": ask(b"/%d" % SIZES[0]).fields[b"date"]
        }

    way.serve(tmp_path, client)


def test_equal_bytes_have_an_equal_tag_wherever_and_whenever_they_were_written(
    way: Way, clock: Clock, tmp_path: Path
) -> None:
    put(tmp_path / "a.html", b"text" * 100, OLD)
    put(tmp_path / "b.html", b"text" * 100, OLD + 1000)

    def client(ask: Ask) -> None:
        for coding in (b"identity", b"gzip"):
            tags = [
                ask(path, {b"accept-encoding": coding}).fields[b"etag"]
                for path in (b"/a.html", b"/b.html")
            ]
            os.utime(tmp_path / "a.html")
            clock.ahead += 1
            tags.append(ask(b"/a.html", {b"accept-encoding": coding}).fields[b"etag"])
            assert len(set(tags)) == 1

    way.serve(tmp_path, client)


@pytest.mark.parametrize("cache_size", [0, sites.CACHE_SIZE])
def test_a_file_on_the_disk_has_the_tag_that_it_has_in_memory(
    way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_size: int
) -> None:
    put(tmp_path / "a.html", b"text" * 100)
    put(tmp_path / "b.html", b"text" * 100)
    put(tmp_path / "b.html.gz", gzip.compress(b"text" * 100, mtime=1))
    asked: list[tuple[bytes, dict[bytes, bytes]]] = [
        (path, fields)
        for path in (b"/a.html", b"/b.html")
        for fields in (
            {},
            {b"accept-encoding": b"gzip"},
            {b"range": b"bytes=10-19"},
            {b"accept-encoding": b"gzip", b"range": b"bytes=10-19"},
        )
    ]

    def client(ask: Ask) -> list[tuple[int, bytes, bytes]]:
        found = []
        for path, fields in asked:
            answer = ask(path, fields)
            found.append((answer.status, answer.fields[b"etag"], answer.content))
            if b"range" not in fields:  # which counts for GET alone
                head = ask(path, fields, b"HEAD")
                assert head.fields[b"etag"] == answer.fields[b"etag"]
            again = ask(path, {**fields, b"if-none-match": answer.fields[b"etag"]})
            assert again.status == 304
        return found

    warm = way.serve(tmp_path, client)
    monkeypatch.setattr(representation, "read_now", lambda *_: b"")
    assert way.serve(tmp_path, client, cache_size=cache_size) == warm


def test_a_disk_that_fails_under_a_small_file_is_503(
    way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "a.html", b"text")

    def failing(*_: object) -> bytearray:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(representation, "read_now", lambda *_: b"")
    monkeypatch.setattr(representation, "read", failing)
    assert way.serve(tmp_path, lambda ask: ask(b"/a.html").status) == 503


def test_a_date_is_told_once_no_other_version_can_have_it(
    way: Way, clock: Clock, tmp_path: Path
) -> None:
    """A range by the date was of a second version, written in the same second."""
    (tmp_path / "new").write_bytes(b"a" * 10)
    put(tmp_path / "future", b"a" * 10, 2**33)
    put(tmp_path / "never", b"a" * 10, 0)

    def client(ask: Ask) -> None:
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time())).encode()
        for path in (b"/new", b"/future", b"/never"):
            answer = ask(path)
            assert b"last-modified" not in answer.fields
            said = answer.fields[b"date"]
            for value in (date, said, b"Thu, 01 Jan 1970 00:00:00 GMT"):
                ranged = ask(path, {b"if-range": value, b"range": b"bytes=5-"})
                assert (ranged.status, ranged.content) == (200, b"a" * 10)
                assert ask(path, {b"if-unmodified-since": value}).status == 200
                assert ask(path, {b"if-modified-since": value}).status == 200
            tag = answer.fields[b"etag"]
            assert b"last-modified" not in ask(path, {b"if-none-match": tag}).fields
        clock.ahead += 3
        told = ask(b"/new").fields[b"last-modified"]
        assert ask(b"/new", {b"if-range": told, b"range": b"bytes=5-"}).status == 206
        assert ask(b"/new", {b"if-unmodified-since": told}).status == 200
        assert ask(b"/new", {b"if-modified-since": told}).status == 304
        assert b"last-modified" not in ask(b"/future").fields

    way.serve(tmp_path, client)


def test_a_deleted_file_is_closed_though_nobody_asks(
    way: Way, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took up the disk until then."""
    clock.ahead = 3600
    size = SIZES[1]
    put(tmp_path / "deleted.bin", b"a" * size)
    put(tmp_path / "replaced.bin", b"a" * size)
    put(tmp_path / "page.html", b"a" * size)
    put(tmp_path / "page.html.gz", b"b" * size)
    for name, module in list(sys.modules.items()):
        if name.startswith("knot.models.") and hasattr(module, "SWEEP"):
            monkeypatch.setattr(module, "SWEEP", 0.02)

    def client(ask: Ask) -> None:
        for path in (b"/deleted.bin", b"/replaced.bin", b"/page.html"):
            assert ask(path, {b"accept-encoding": b"gzip"}).status == 200
        assert len(open_below(tmp_path)) >= 4
        (tmp_path / "deleted.bin").unlink()
        (tmp_path / "page.html.gz").unlink()
        put(tmp_path / "new", b"b" * size).rename(tmp_path / "replaced.bin")
        eventually(lambda: not any("deleted" in name for name in open_below(tmp_path)))

    way.serve(tmp_path, client)


def open_below(root: Path) -> list[str]:
    """Files that this process has open; the name of one that is not there any more says so."""
    names = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{entry}"))
        except OSError:
            continue  # closed meanwhile
    return [name.removeprefix(f"{root}/") for name in names if name.startswith(f"{root}/")]


def eventually(happens: Callable[[], bool]) -> None:
    deadline = monotonic() + 20
    while not happens():
        assert monotonic() < deadline


COPIES = [
    # nanoseconds of the file and of its copy, and whether the copy counts
    (10.5, 10.4, False),
    (10.5, 10.5, True),
    (10.5, 10.6, True),
    (10.5, 10.0, True),
    (10.0, 10.0, True),
    (10.5, 9.0, False),
    (10.5, 9.9, False),
    (10.5, 11.0, True),
]


def test_a_copy_counts_if_it_is_not_older_by_a_nanosecond_nor_empty(
    way: Way, tmp_path: Path
) -> None:
    copy = gzip.compress(b"copy" * 100)
    for number, (modified, of_copy, _) in enumerate(COPIES):
        for name, content, when in (("", b"text" * 99, modified), (".gz", copy, of_copy)):
            path = put(tmp_path / f"{number}.html{name}", content)
            os.utime(path, ns=(0, int(when * 10**9) + OLD * 10**9))
    put(tmp_path / "empty.html", b"text" * 99)
    put(tmp_path / "empty.html.gz", b"")
    put(tmp_path / "both.html", b"")
    put(tmp_path / "both.html.gz", b"")

    def client(ask: Ask) -> None:
        for number, (_, _, counts) in enumerate(COPIES):
            answer = ask(b"/%d.html" % number, {b"accept-encoding": b"gzip"})
            assert (answer.content == copy) == counts, COPIES[number]
        answer = ask(b"/empty.html", {b"accept-encoding": b"gzip"})
        assert gzip.decompress(answer.content) == b"text" * 99
        assert ask(b"/both.html", {b"accept-encoding": b"gzip"}).content == b""

    way.serve(tmp_path, client)
