"""From bytes to responses without a socket: whatever comes in, what goes out is HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from knot import FieldRules, Responder, Site
from knot.files.representation import Slice
from knot.http.request import Request, RequestParser
from knot.http.responder import Deferred, Response

CONTENT = bytes(range(256)) * 4  # 1,024 bytes

HEAD = re.compile(
    rb"HTTP/1\.1 (\d{3}) [A-Za-z ]+\r\n((?:[A-Za-z-]+: [^\r\n]*\r\n)*)\r\n", re.DOTALL
)

NOW = 784111777.0


@pytest.fixture
def responder(tmp_path: Path) -> Iterator[Responder]:
    root = tmp_path / "site"
    root.mkdir()
    (root / "a").write_bytes(CONTENT)
    (root / "text.html").write_text("<p>" * 400)
    (root / "big").write_bytes(b"b" * 200_000)
    (root / "folder").mkdir()
    (tmp_path / "secret").write_text("SECRET")
    (root / "out").symlink_to("../secret")
    site = Site(root, listing=True)
    yield Responder(site, FieldRules([("*.html", "no-cache")], ["X-Own: 1"], cors=True))
    site.close()


def received(responder: Responder, request: object) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, fields and content of an answer, as a client reads them."""
    response = responder.respond(request, NOW)  # type: ignore[arg-type]
    if isinstance(response, Deferred):
        response = response.work()
    assert isinstance(response, Response)
    data = response.data + b"".join(map(bytes_of, response.rest))
    found = HEAD.match(data)
    assert found, data[:200]
    status, content = int(found[1]), data[found.end() :]
    fields = dict(line.split(b": ", 1) for line in found[2].split(b"\r\n")[:-1])
    assert len(fields) == found[2].count(b"\r\n"), "a field occurs twice"
    assert status == response.status
    head_only = isinstance(request, Request) and request.method == b"HEAD"
    if b"Content-Length" in fields and not head_only:
        assert int(fields[b"Content-Length"]) == len(content) == response.length
    else:
        assert content == b""
    return status, fields, content


def bytes_of(piece: bytes | Slice) -> bytes:
    return b"b" * (piece.stop - piece.start) if isinstance(piece, Slice) else piece


# -- any bytes -----------------------------------------------------------------------------------

line = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n", b"GET /a HTTP/1.1\r\n", b"HEAD /big HTTP/1.0\r\n", b"Host: x\r\n",
        b"GET /out HTTP/1.1\r\n", b"GET /folder/ HTTP/1.1\r\n", b"OPTIONS * HTTP/1.1\r\n",
        b"GET /%2e%2e/secret HTTP/1.1\r\n", b"POST /a HTTP/1.1\r\n", b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n",
        b"Range: bytes=0-1,-1\r\n", b"If-None-Match: *\r\n", b"Accept-Encoding: gzip\r\n",
        b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\nConnection: upgrade\r\n", b" folded\r\n",
        b"\r\n", b"\r\n\r\n", b"\n", b"\0", b"0\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\n",
    ]
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(line | st.binary(max_size=20), max_size=30), st.integers(1, 100))
@example([b"GET /a HTTP/1.1\r\n", b"Host: x\r\n", b"\r\n"] * 3, 7)
def test_any_bytes_get_answers_or_a_clean_refusal(
    responder: Responder, lines: list[bytes], step: int
) -> None:
    sent = b"".join(lines)
    parser = RequestParser()
    last = None
    for start in range(0, len(sent), step):
        for request in parser.feed(sent[start : start + step]):
            assert last is None or last.keep_alive, "nothing follows an answer that closes"
            status, fields, content = received(responder, request)
            assert status in (200, 204, 206, 301, 304, 400, 404, 405, 412, 414, 416, 431, 501, 505)
            assert (fields.get(b"Connection") == b"close") == (not request.keep_alive)
            assert b"SECRET" not in content
            assert fields[b"X-Own"] == b"1"
            last = request


def whole(sent: bytes, step: int) -> list[object]:
    parser = RequestParser()
    return [r for at in range(0, len(sent), step) for r in parser.feed(sent[at : at + step])]


@given(st.lists(line, max_size=30), st.integers(1, 60))
def test_how_the_bytes_are_cut_makes_no_difference(lines: list[bytes], step: int) -> None:
    """Beyond what is refused: a broken request may be refused with another reason."""
    sent = b"".join(lines)
    at_once = [r for r in whole(sent, len(sent) or 1) if isinstance(r, Request)]
    in_parts = [r for r in whole(sent, step) if isinstance(r, Request)]
    assert in_parts == at_once or in_parts[:-1] == at_once[: len(in_parts) - 1]


@given(st.lists(st.lists(line, max_size=8), max_size=5))
@example([[b"GET /a HTTP/1.1\r\n", b"Host: x\r\n", b"\r\n", b"PRI * HTTP/2.0\r\n\r\n"]])
def test_a_parser_that_was_reset_is_as_good_as_new(connections: list[list[bytes]]) -> None:
    """One parser serves many clients: nothing of one may be left for the next."""
    shared = RequestParser()
    for lines in connections:
        sent = b"".join(lines)
        fresh = RequestParser()
        assert shared.feed(sent) == fresh.feed(sent)
        assert (shared.ended, shared.unread, shared.unfinished) == (
            fresh.ended,
            fresh.unread,
            fresh.unfinished,
        )
        if shared.ended:
            shared.reset()
        elif shared.unfinished:
            shared = RequestParser()
        assert shared.feed(PLAIN) == [Request(b"GET", b"/a")]


PLAIN = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


# -- any ranges ----------------------------------------------------------------------------------

number = st.integers(0, 1500)
spec = st.one_of(
    st.builds(lambda a, b: b"%d-%d" % (a, b), number, number),
    st.builds(lambda a: b"%d-" % a, number),
    st.builds(lambda a: b"-%d" % a, number),
)


def reference(specs: list[bytes], size: int) -> list[tuple[int, int]] | None:
    """What RFC 9110, section 14.1.2 says that each spec asks for; None if one is invalid."""
    wanted = []
    for text in specs:
        first, _, last = text.partition(b"-")
        if not first:
            start, stop = max(0, size - int(last)), size
        elif last and int(last) < int(first):
            return None
        else:
            start, stop = int(first), min(size, int(last) + 1 if last else size)
        if start < min(stop, size):
            wanted.append((start, stop))
    return wanted


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(spec, min_size=1, max_size=6))
def test_any_ranges_give_the_bytes_that_were_asked_for(
    responder: Responder, specs: list[bytes]
) -> None:
    value = b"bytes=" + b", ".join(specs)
    status, fields, content = received(
        responder, Request(b"GET", b"/a", fields=((b"range", value),))
    )
    size = len(CONTENT)
    wanted = reference(specs, size)
    if wanted is None or sum(stop - start for start, stop in wanted) > size:
        assert (status, content) == (200, CONTENT)
    elif not wanted:
        assert status == 416
        assert fields[b"Content-Range"] == b"bytes */%d" % size
    else:
        assert status == 206
        got = parts(fields, content)
        asked = {place for start, stop in wanted for place in range(start, stop)}
        sent = [place for start, piece in got for place in range(start, start + len(piece))]
        assert asked <= set(sent)
        assert len(sent) == len(set(sent)), "a byte was sent twice"
        assert all(CONTENT[start : start + len(piece)] == piece for start, piece in got)


def parts(fields: dict[bytes, bytes], content: bytes) -> list[tuple[int, bytes]]:
    """Where each part begins, and its bytes."""
    if b"Content-Range" in fields:
        return [(first_byte(fields[b"Content-Range"]), content)]
    boundary = fields[b"Content-Type"].partition(b"boundary=")[2]
    _, *pieces, end = content.split(b"--" + boundary)
    assert end.strip(b"\r\n") == b"--"
    found = []
    for piece in pieces:
        head, _, rest = piece.partition(b"\r\n\r\n")
        field = re.search(rb"Content-Range: ([^\r]*)", head)
        assert field
        found.append((first_byte(field[1]), rest.removesuffix(b"\r\n")))
    return found


def first_byte(content_range: bytes) -> int:
    return int(content_range.removeprefix(b"bytes ").partition(b"-")[0])


# -- any path ------------------------------------------------------------------------------------

segment = st.sampled_from(
    [b"", b".", b"..", b"a", b"out", b"folder", b"%2e%2e", b"..%2f", b"%00", b"secret", b"site0"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(segment, max_size=8))
def test_no_path_leads_outside(responder: Responder, segments: list[bytes]) -> None:
    _, _, content = received(responder, Request(b"GET", b"/" + b"/".join(segments)))
    assert b"SECRET" not in content


def test_the_secret_would_be_seen(responder: Responder) -> None:
    """The properties above would fail if something led outside."""
    assert isinstance(responder.site, Site)
    site = Site(responder.site.directory, follow_symlinks=True)
    assert received(Responder(site), Request(b"GET", b"/out"))[2] == b"SECRET"
    site.close()
