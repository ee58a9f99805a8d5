"""What a request may look like, and what is chosen for it (RFC 9110 and 9112)."""

from __future__ import annotations

from pathlib import Path

import pytest
from ways import Ask, Way

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
