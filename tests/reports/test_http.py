"""What a request may look like, and what is chosen for it (RFC 9110 and 9112)."""

from __future__ import annotations

import gzip
import os
import re
import socket
from pathlib import Path

import pytest
from serving import Model, connect, until_closed, with_server
from ways import Answer, Ask, Way

OLD = 784111777

# -- the grammar of HTTP/1.1 -----------------------------------------------------------------------


def target(target: bytes, method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/1.1\r\nHost: x\r\n\r\n" % (method, target)


def version(version: bytes) -> bytes:
    return b"GET / %b\r\nHost: x\r\n\r\n" % version


def host(value: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % value


def field(line: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % line


def post(*lines: bytes, version: bytes = b"1.1") -> bytes:
    return b"POST / HTTP/%b\r\nHost: x\r\n%b\r\n" % (
        version,
        b"".join(b"%b\r\n" % i for i in lines),
    )


CHUNKED = b"Transfer-Encoding: chunked"

RAW: list[tuple[int, bytes]] = [
    # The four forms of a target (RFC 9112, section 3.2)
    (200, target(b"/")),
    (200, target(b'/?a=|^{}`"<>\\')),
    (200, target(b"//")),
    (400, target(b"/#a")),
    (400, target(b"/?a#b")),
    (400, target(b"/a b")),
    (400, target(b"/\x7f")),
    (400, target(b"/\x01")),
    (400, target(b"/\xe9")),
    (400, target(b"a")),
    (400, target(b"?a")),
    (200, target(b"http://x/")),
    (200, target(b"HTTP://X")),
    (200, target(b"https://x?a")),
    (200, target(b"http://x:80/")),
    (200, target(b"http://x:/")),
    (200, target(b"http://[::1]:80/")),
    (200, target(b"http://[v1.a:b]/")),
    (400, target(b"http://")),
    (400, target(b"http:///")),
    (400, target(b"http://?a")),
    (400, target(b"http://:80/")),
    (400, target(b"http://a@x/")),
    (400, target(b"http://a:b@x/")),
    (400, target(b"http://@x/")),
    (400, target(b"http://x:65536/")),
    (400, target(b"http://x:99999/")),
    (400, target(b"http://x:" + b"9" * 5000 + b"/")),
    (400, target(b"http://x:a/")),
    (400, target(b"http://x:-1/")),
    (400, target(b"http://x#a")),
    (400, target(b"http://x/#a")),
    (400, target(b"http://a%zz/")),
    (400, target(b"http://[:]/")),
    (400, target(b"http://[::1/")),
    (400, target(b"http:/x")),
    (400, target(b"http:x")),
    (400, target(b"ftp://x/")),
    (400, target(b"x:80")),
    (400, target(b"*")),
    (204, target(b"*", b"OPTIONS")),
    (400, target(b"*a", b"OPTIONS")),
    (204, target(b"http://x", b"OPTIONS")),
    (405, target(b"x:80", b"CONNECT")),
    (405, target(b"[::1]:80", b"CONNECT")),
    (400, target(b"x", b"CONNECT")),
    (400, target(b"x:65536", b"CONNECT")),
    (400, target(b"/", b"CONNECT")),
    (400, target(b"*", b"CONNECT")),
    (400, target(b"http://x:80/", b"CONNECT")),
    (400, target(b"a@x:80", b"CONNECT")),
    # Methods (section 3.1)
    (405, target(b"/", b"PUT")),
    (501, target(b"/", b"get")),
    (501, target(b"/", b"BREW")),
    (400, target(b"/", b"G(T")),
    # Versions (section 2.3, and RFC 9110, section 2.5)
    *((200, version(b"HTTP/1.%d" % minor)) for minor in range(1, 10)),
    (200, b"GET / HTTP/1.0\r\n\r\n"),
    (400, version(b"HTTP/1.10")),
    (400, version(b"HTTP/1.2 ")),
    (400, version(b"HTTP/1.29")),
    (400, version(b"HTTP/01.1")),
    (400, version(b"HTTP/1.")),
    (400, version(b"HTTP/1")),
    (400, version(b"HTTP/0.8")),
    (400, version(b"HTTP/0.9")),
    (400, b"GET /\r\n\r\n"),
    *((505, version(b"HTTP/%b" % other)) for other in (b"2.0", b"2.1", b"3.0", b"3.7", b"9.9")),
    (400, version(b"http/1.1")),
    (400, version(b"HTTPS/1.1")),
    (400, b"GET / HTTP/1.2\r\n\r\n"),  # without a Host, as HTTP/1.1
    # Host (section 3.2, and RFC 3986, section 3.2.2)
    (200, host(b"")),
    (200, host(b"a%41.example")),
    (200, host(b"x:65535")),
    (200, host(b"x:00080")),
    (200, host(b"x:")),
    (200, host(b"1.2.3.999")),
    (200, host(b"[::]")),
    (200, host(b"[1::2:3]:80")),
    (200, host(b"[::ffff:1.2.3.4]")),
    (200, host(b"[v1.a]")),
    (200, host(b"[VF.a:b]:80")),
    (400, host(b"a%zz")),
    (400, host(b"a%4")),
    (400, host(b"%")),
    (400, host(b"[:]")),
    (400, host(b"[]")),
    (400, host(b"[1::2::3]")),
    (400, host(b"[1:2:3:4:5:6:7:8:9]")),
    (400, host(b"[12345::]")),
    (400, host(b"[::1.2.3.256]")),
    (400, host(b"[1.2.3.4]")),
    (400, host(b"[fe80::1%25eth0]")),
    (400, host(b"[v1.]")),
    (400, host(b"[v.a]")),
    (400, host(b"[::1]a")),
    (400, host(b"[::1")),
    (400, host(b"::1")),
    (400, host(b"x:65536")),
    (400, host(b"x:99999")),
    (400, host(b"x:" + b"1" * 5000)),
    (400, host(b"x:a")),
    (400, host(b":80")),
    (400, host(b"a@x")),
    (400, host(b"x, y")),
    (400, host(b"x\r\nHost: x")),
    # Framing (section 6)
    (405, post(b"Content-Length: 0")),
    (405, post(b"Content-Length: 005")),
    (405, post(b"Content-Length: \t5 ")),
    (400, post(b"Content-Length: +5")),
    (400, post(b"Content-Length: -5")),
    (400, post(b"Content-Length: 5, 5")),
    (400, post(b"Content-Length: 5,6")),
    (400, post(b"Content-Length: 5 5")),
    (400, post(b"Content-Length: 0x5")),
    (400, post(b"Content-Length: ")),
    (400, post(b"Content-Length: 99999999999999999999")),
    (400, post(b"Content-Length: 5", b"Content-Length: 5")),
    (400, post(b"Content-Length: 5", CHUNKED)),
    (405, post(CHUNKED)),
    (405, post(b"transfer-encoding: Chunked")),
    (501, post(b"Transfer-Encoding: gzip, chunked")),
    (501, post(b"Transfer-Encoding: gzip", CHUNKED)),
    (400, post(CHUNKED, CHUNKED)),
    (400, post(CHUNKED, version=b"1.0")),
    (400, post(b"Connection: keep-alive", CHUNKED, version=b"1.0")),
    (400, post(b"Transfer-Encoding: gzip", version=b"1.0")),
    (400, post(b"Transfer-Encoding: ", version=b"1.0")),
    # Fields (section 5)
    (200, field(b"A:\t b \t")),
    (200, field(b"A:")),
    (200, field(b"A: \xe9")),
    (400, field(b"A: b\r\n c")),
    (400, field(b"A: b\rc")),
    (400, field(b"A: b\0c")),
    (400, field(b"A: \x01")),
    (400, field(b"A: \x7f")),
    (400, field(b"A : b")),
    (400, field(b": b")),
    (400, field(b"A")),
]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text("0123456789")
    return tmp_path


def statuses(port: int, sent: bytes) -> list[int]:
    """Those of the answers to `sent`."""
    with connect(port) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received = until_closed(connection)
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def test_a_request_is_valid_or_refused_as_the_grammar_says(model: Model, index: Path) -> None:
    def client(port: int) -> dict[bytes, tuple[list[int], int]]:
        found = {sent: (statuses(port, sent), status) for status, sent in RAW}
        return {sent: (got, wanted) for sent, (got, wanted) in found.items() if got != [wanted]}

    assert with_server(index, client) == {}


def test_after_what_is_invalid_nothing_else_is_answered(model: Model, index: Path) -> None:
    """Another server may see other requests in what follows (section 11.2)."""

    def client(port: int) -> list[bytes]:
        bad = [sent for status, sent in RAW if status in (400, 501, 505)]
        return [sent for sent in bad if len(statuses(port, sent + target(b"/"))) != 1]

    assert with_server(index, client) == []


def test_a_connection_in_a_newer_version_is_kept(model: Model, index: Path) -> None:
    """Each version is looked at again, however many requests come at once."""
    newer = version(b"HTTP/1.2")
    cases = [
        (target(b"/") + newer + target(b"/") + newer, [200, 200, 200, 200]),
        (newer * 3 + version(b"HTTP/3.7") + newer, [200, 200, 200, 505]),
        (newer + version(b"HTTP/0.8"), [200, 400]),
        (newer + b"GET / HTTP/1.0\r\n\r\n" + newer, [200, 200]),
        (b"\r\n" + newer + field(b"X: GET / HTTP/1.2") + newer, [200, 200, 200]),
        (b"GET / HTTP/1.3\r\nHost: x\r\nConnection: close\r\n\r\n" + newer, [200]),
    ]

    def client(port: int) -> None:
        for sent, expected in cases:
            assert statuses(port, sent) == expected, sent

    with_server(index, client)


# -- over either version ---------------------------------------------------------------------------

TARGETS: list[tuple[int, bytes, bytes]] = [
    (200, b"GET", b"/"),
    (200, b"GET", b"/?a=|^"),
    (400, b"GET", b"/#a"),
    (400, b"GET", b"/?#"),
    (400, b"GET", b"/%zz"),
    (200, b"GET", b"/?%zz"),
    (400, b"GET", b"*"),
    (204, b"OPTIONS", b"*"),
    (400, b"OPTIONS", b"*a"),
    (405, b"DELETE", b"/"),
    (501, b"get", b"/"),
    (501, b"BREW", b"/"),
    (400, b"G(T", b"/"),
]


def test_a_target_is_valid_or_refused_over_either_version(way: Way, index: Path) -> None:
    def client(ask: Ask) -> None:
        for status, method, path in TARGETS:
            assert ask(path, method=method).status == status, (method, path)

    way.serve(index, client)


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

ACCEPT: list[tuple[bytes, bool]] = [
    # Whether that prefers JSON to a page (RFC 9110, section 12.5.1)
    (b"application/json", True),
    (b"Application/JSON", True),
    (b"application/json;q=0.001", True),
    (b"application/json; charset=utf-8", True),
    (b"application/json, text/plain, */*", True),
    (b"application/json, text/html;q=0.9", True),
    (b"text/html;q=0.9,application/json", True),
    (b"text/html;q=0, */*", True),
    (b"application/*", True),
    (b"*/*;q=0.1, application/json;q=0.2", True),
    (b'a/b;c="application/xml, text/html", application/json', True),
    (b"", False),
    (b"*/*", False),
    (b"application/json;q=0", False),
    (b"application/json;q=0, */*", False),
    (b"application/json;q=0.000", False),
    (b"application/json; q=0 , text/html;q=0", False),
    (b"application/json-seq", False),
    (b"application/jsonx, text/html", False),
    (b"application/jso", False),
    (b"text/html, application/json", False),
    (b"application/json;q=0.5, text/html", False),
    (b"application/json;q=0.5, text/*;q=0.6", False),
    (b"application/json;q=0.5, */*", False),
    (b"application/json;q=2", False),
    (b"application/json;q=0.0001", False),
    (b"application/*, text/html", False),
    (b'a/b;c="application/json"', False),
    (b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
]


def test_a_listing_is_json_for_whoever_prefers_that_to_a_page(way: Way, tmp_path: Path) -> None:
    def client(ask: Ask) -> None:
        for value, wanted in ACCEPT:
            answer = ask(b"/", {b"accept": value} if value else {})
            assert answer.content.startswith(b'{"path"') == wanted, value
            kind = answer.fields[b"content-type"]
            assert (kind == b"application/json; charset=utf-8") == wanted, value
            assert answer.fields[b"vary"].lower() == b"accept"

    way.serve(tmp_path, client, listing=True)


def test_several_lines_of_accept_are_one_list(model: Model, tmp_path: Path) -> None:
    json = b"Accept: application/json;q=0.5"
    cases = [
        ((json,), True),
        ((json, b"Accept: text/html"), False),
        ((b"Accept: text/html", json), False),
        ((b"Accept: text/html;q=0.1", json), True),
        ((b"Accept: text/html;q=0", b"Accept: */*"), True),
        ((b"Accept: image/png", b"Accept: text/css", json), True),
        ((b"Accept: " + b"a/b," * 200, json), False),  # too long to be read
    ]

    def client(port: int) -> None:
        with connect(port) as connection, connection.makefile("rb") as received:
            for lines, wanted in cases * 2:
                sent = b"".join(b"%b\r\n" % line for line in lines)
                connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n%b\r\n" % sent)
                head = b"".join(iter(received.readline, b"\r\n")).lower()
                received.read(int(head.partition(b"content-length: ")[2].split(b"\r")[0]))
                assert (b"application/json" in head) == wanted, lines

    with_server(tmp_path, client, listing=True)


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


# -- media types -----------------------------------------------------------------------------------


def test_a_drawing_that_is_compressed_already_says_so(way: Way, tmp_path: Path) -> None:
    """``.svgz`` is one representation, in gzip for everybody."""
    drawing = b"<svg xmlns='http://www.w3.org/2000/svg'/>" * 20
    content = gzip.compress(drawing)
    (tmp_path / "a.svgz").write_bytes(content)
    (tmp_path / "a.svgz.br").write_bytes(b"a copy of a copy")
    (tmp_path / "a.svg").write_bytes(drawing)
    (tmp_path / "a.svg.gz").write_bytes(content + b"")

    def client(ask: Ask) -> None:
        tags = set()
        for accept in (b"gzip, br", b"identity", b"gzip;q=0", b"br"):
            answer = ask(b"/a.svgz", {b"accept-encoding": accept})
            assert (answer.status, answer.content) == (200, content)
            assert answer.fields[b"content-type"] == b"image/svg+xml; charset=utf-8"
            assert answer.fields[b"content-encoding"] == b"gzip"
            assert b"vary" not in answer.fields
            tags.add(answer.fields[b"etag"])
            part = ask(b"/a.svgz", {b"accept-encoding": accept, b"range": b"bytes=3-5"})
            assert (part.status, part.content) == (206, content[3:6])
            assert part.fields[b"content-encoding"] == b"gzip"
        (tag,) = tags
        assert ask(b"/a.svgz", {b"if-none-match": tag}).status == 304
        plain = ask(b"/a.svg")
        assert plain.content == drawing
        assert b"content-encoding" not in plain.fields
        assert ask(b"/a.svg", {b"accept-encoding": b"gzip"}).content == content

    way.serve(tmp_path, client)


def test_a_file_has_a_type_by_its_suffix_or_by_its_whole_name(way: Way, tmp_path: Path) -> None:
    types = {
        b"app.mjs": b"text/javascript; charset=utf-8",
        b"book.epub": b"application/epub+zip",
        b"table.parquet": b"application/vnd.apache.parquet",
        b"part.m4s": b"video/iso.segment",
        b"LICENSE": b"text/plain; charset=utf-8",
        b"apple-app-site-association": b"application/json; charset=utf-8",
        b"LICENSE.other": b"application/octet-stream",
    }
    for name in types:
        (tmp_path / os.fsdecode(name)).write_text("{}" * 500)

    def client(ask: Ask) -> None:
        for name, kind in types.items():
            answer = ask(b"/" + name, GZIP)
            assert answer.fields[b"content-type"] == kind
            is_text = kind.endswith(b"charset=utf-8")
            assert (b"content-encoding" in answer.fields) == is_text, name

    way.serve(tmp_path, client)
