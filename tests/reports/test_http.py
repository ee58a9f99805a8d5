"""What a request may look like, and what is chosen for it (RFC 9110 and 9112)."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from ways import Answer, Ask, Way

OLD = 784111777

# -- over either version ---------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text("0123456789")
    return tmp_path


MUCH = b"9" * 5000

RANGES: list[tuple[bytes, bytes | None]] = [
    # RFC 9110, section 14.1.1, of ten bytes; None is 416, and a refusal to look at it is 200
    (b"bytes=2-3", b"23"),
    (b"Bytes=2-3", b"23"),
    (b"bytes=8-%b" % MUCH, b"89"),
    (b"bytes=-%b" % MUCH, b"0123456789"),
    (b"bytes=%b-" % MUCH, None),
    (b"bytes=%b-%b" % (MUCH, MUCH), None),
    (b"bytes=" + b"0" * 5000 + b"2-" + b"0" * 5000 + b"3", b"23"),
    (b"bytes=18446744073709551618-18446744073709551619", None),
    (b"bytes=-0", None),
    (b"bytes=-000", None),
    (b"bytes=2-3,", b"23"),
    (b"bytes=,2-3", b"23"),
    (b"bytes=, ,2-3\t,", b"23"),
]
NO_RANGES = [
    b"bytes = 2-3", b"bytes =2-3", b"bytes= 2-3", b"bytes:2-3", b"bytes", b"bytes=", b"bytes=,",
    b"bytes=2", b"bytes=-", b"bytes=3-2", b"bytes=%b1-%b" % (MUCH, MUCH), b"bytes=2 - 3",
    b"bytes=+2-3", b"bytes=2-3-", b"bytes=0x2-3", b"bytes=2-3;4-5", b"lines=2-3",
    b"bytes=2-3, bytes=4-5",
]  # fmt: skip


def test_a_range_is_of_any_length_and_in_the_grammar_or_none(way: Way, index: Path) -> None:
    def client(ask: Ask) -> None:
        for value, content in RANGES:
            answer = ask(b"/", {b"range": value})
            if content is None:
                assert answer.status == 416, value[:60]
                assert answer.fields[b"content-range"] == b"bytes */10"
            else:
                assert (answer.status, answer.content) == (206, content), value[:60]
        for value in NO_RANGES:
            assert ask(b"/", {b"range": value}).status == 200, value[:60]

    way.serve(index, client)


def test_a_tag_is_weak_in_upper_case_only(way: Way, index: Path) -> None:
    """RFC 9110, section 8.8.3: ``w/"a"`` is no tag in any field that has some."""

    def client(ask: Ask) -> None:
        tag = ask(b"/").fields[b"etag"]
        for name, value, status in [
            (b"if-none-match", b"W/" + tag, 304),
            (b"if-none-match", b"w/" + tag, 200),
            (b"if-none-match", b'"a", w/%b, "b"' % tag, 200),
            (b"if-none-match", b'"a" ,, W/%b\t, "b"' % tag, 304),
            (b"if-none-match", b"x" + tag, 200),
            (b"if-none-match", tag + b"x", 200),
            (b"if-none-match", b'"a"' + tag, 200),
            (b"if-match", tag, 200),
            (b"if-match", b"w/" + tag, 412),
            (b"if-match", b"W/" + tag, 412),
            (b"if-match", tag + tag, 412),
            (b"if-match", b'"a"\t,' + tag, 200),
        ]:
            assert ask(b"/", {name: value}).status == status, (name, value)
        for value, status in [(tag, 206), (b"w/" + tag, 200), (b"W/" + tag, 200)]:
            assert ask(b"/", {b"if-range": value, b"range": b"bytes=0-1"}).status == status, value

    way.serve(index, client)


# -- what is chosen --------------------------------------------------------------------------------

PAGE = b"<p>A paragraph of it.</p>\n" * 100


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """One with a copy in gzip, and one that is compressed when it is asked for."""
    for name, content in (
        ("page.html", PAGE),
        ("page.html.gz", gzip.compress(PAGE)),
        ("alone.html", PAGE),
    ):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (OLD, OLD))
    return tmp_path


TEN = {b"range": b"bytes=0-9"}
GZIP = {b"accept-encoding": b"gzip, deflate"}


@pytest.mark.parametrize("path", [b"/page.html", b"/alone.html"])
def test_a_range_is_of_the_file_unless_it_names_a_coding(
    way: Way, pages: Path, path: bytes
) -> None:
    """Every client in Python takes gzip, and few mean a part of that when they ask for bytes."""

    def client(ask: Ask) -> None:
        plain, coded = ask(path), ask(path, GZIP)
        assert coded.fields[b"content-encoding"] == b"gzip"
        tags = {False: plain.fields[b"etag"], True: coded.fields[b"etag"]}
        assert tags[False] != tags[True]

        def part(is_coded: bool, fields: dict[bytes, bytes], start: int = 0) -> Answer:
            answer = ask(path, {**fields, b"range": b"bytes=%d-%d" % (start, start + 9)})
            whole = coded if is_coded else plain
            assert (answer.status, answer.content) == (206, whole.content[start : start + 10])
            assert (b"content-encoding" in answer.fields) == is_coded
            assert answer.fields[b"etag"] == tags[is_coded]
            assert answer.fields[b"vary"].lower() == b"accept-encoding"
            return answer

        # Without a validator, of the file; beyond the end of its compressed form, too
        part(False, {})
        part(False, GZIP)
        part(False, GZIP, len(PAGE) - 10)
        part(False, {b"accept-encoding": b"x-gzip;q=0.5, *"})
        part(False, {**GZIP, b"if-none-match": tags[True]})
        # With one that names either
        part(False, {**GZIP, b"if-range": tags[False]})
        part(True, {**GZIP, b"if-range": tags[True]})
        part(True, {b"accept-encoding": b"x-gzip", b"if-range": tags[True]})
        part(True, {**GZIP, b"if-match": b'"a", %b' % tags[True]})
        part(False, {**GZIP, b"if-match": b"*"})
        # Whoever takes nothing but codings means a part of one (section 12.5.3)
        part(True, {b"accept-encoding": b"gzip, identity;q=0"})
        part(True, {b"accept-encoding": b"gzip;q=0.5, *;q=0"})
        part(False, {b"accept-encoding": b"identity;q=0"})  # there is nothing else

        several = ask(path, {**GZIP, b"range": b"bytes=0-1,-2"})
        assert several.status == 206
        assert b"\r\n\r\n<p\r\n" in several.content
        beyond = ask(path, {**GZIP, b"range": b"bytes=%d-" % len(PAGE)})
        assert beyond.status == 416
        assert beyond.fields[b"content-range"] == b"bytes */%d" % len(PAGE)

        # Where the range does not count, the answer is what it is without
        for fields, expected in (
            ({**GZIP, b"if-range": b'"other"'}, coded),
            ({**GZIP, b"if-range": b"W/" + tags[True]}, coded),
            ({b"if-range": tags[True]}, plain),
            ({b"accept-encoding": b"gzip;q=0", b"if-range": tags[True]}, plain),
            ({**GZIP, b"range": b"lines=0-9"}, coded),
            ({**GZIP, b"range": b"bytes=9-0"}, coded),
        ):
            answer = ask(path, {**TEN, **fields})
            assert (answer.status, answer.content) == (200, expected.content), fields
            assert answer.fields[b"etag"] == expected.fields[b"etag"]
        for fields in (GZIP, {}):
            head = ask(path, {**fields, **TEN}, b"HEAD")
            without = ask(path, fields, b"HEAD")
            assert (head.status, head.fields) == (200, without.fields | head.fields)
            assert head.fields[b"content-length"] == without.fields[b"content-length"]
        assert ask(path, {**GZIP, **TEN, b"if-match": b'"other"'}).status == 412

    way.serve(pages, client)
