"""Requests that two servers could understand in two ways (RFC 9112, sections 2.2, 3, 5, 6, 11.2).

After each of them, on the same connection, comes a request for a canary.  A front end that read the
first one otherwise would have sent that as content, or would take its answer for that of somebody
else: so after anything ambiguous there is one answer and then the end.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from serving import serving

CANARY = b"GET /canary HTTP/1.1\r\nHost: x\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
END = b"0\r\n\r\n"

BAD = {400}
CONTENT = {400, 405, 501}
"""A method with content that Knot has no use for is refused, whatever its framing."""


def get(*lines: bytes) -> bytes:
    return GET + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def post(*lines: bytes, content: bytes = b"") -> bytes:
    return POST + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + content


def line(text: bytes) -> bytes:
    return text + b"\r\nHost: x\r\n\r\n"


AMBIGUOUS: dict[str, tuple[bytes, set[int]]] = {
    # Content-Length and Transfer-Encoding together (6.1, 6.3)
    "length and chunked": (
        post(b"Content-Length: 4", b"Transfer-Encoding: chunked", content=END),
        BAD,
    ),
    "chunked and length": (
        post(b"Transfer-Encoding: chunked", b"Content-Length: 4", content=END),
        BAD,
    ),
    "a GET with both": (get(b"Content-Length: 4", b"Transfer-Encoding: chunked") + END, BAD),
    "length 0 and chunked": (
        post(b"Content-Length: 0", b"Transfer-Encoding: chunked", content=END),
        BAD,
    ),
    # Transfer codings (6.1, 7)
    "a coding nobody knows": (post(b"Transfer-Encoding: xchunked", content=END), CONTENT),
    "identity": (post(b"Transfer-Encoding: identity"), CONTENT),
    "chunked, identity": (post(b"Transfer-Encoding: chunked, identity", content=END), CONTENT),
    "chunked twice": (post(b"Transfer-Encoding: chunked, chunked", content=END), CONTENT),
    "chunked in two lines": (post(CHUNKED.strip(), CHUNKED.strip(), content=END), CONTENT),
    "gzip, chunked": (post(b"Transfer-Encoding: gzip, chunked", content=END), CONTENT),
    "no coding": (post(b"Transfer-Encoding:", content=END), CONTENT),
    "a vertical tab before": (post(b"Transfer-Encoding: \x0bchunked", content=END), CONTENT),
    "a form feed after": (post(b"Transfer-Encoding: chunked\x0c", content=END), CONTENT),
    "quoted": (post(b'Transfer-Encoding: "chunked"', content=END), CONTENT),
    "a parameter": (post(b"Transfer-Encoding: chunked;a=b", content=END), CONTENT),
    "an empty member": (post(b"Transfer-Encoding: ,chunked", content=END), CONTENT),
    "of HTTP/1.0": (
        b"GET / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + END,
        BAD,
    ),
    "of HTTP/1.0 that is kept": (
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + END,
        BAD,
    ),
    "a name with a space": (post(b"Transfer-Encoding : chunked", content=END), BAD),
    "a name with a tab": (post(b"Transfer-Encoding\t: chunked", content=END), BAD),
    "a name with NUL": (post(b"Transfer-Encoding\0: chunked", content=END), BAD),
    "a name on two lines": (post(b"Transfer-\r\nEncoding: chunked", content=END), BAD),
    "folded": (post(b"Transfer-Encoding:\r\n chunked", content=END), CONTENT),
    "an underscore, which some take for a hyphen": (
        get(b"Transfer_Encoding: chunked", b"Content-Length: 5") + b"0\r\n\r\n",
        {200, 400},
    ),
    # Content-Length (RFC 9110, 8.6)
    "two lengths": (post(b"Content-Length: 0", b"Content-Length: 5", content=b"hello"), BAD),
    "two equal lengths": (
        post(b"Content-Length: 5", b"Content-Length: 5", content=b"hello"),
        CONTENT,
    ),
    "a list of lengths": (post(b"Content-Length: 0, 5", content=b"hello"), BAD),
    "a list of equal lengths": (post(b"Content-Length: 5, 5", content=b"hello"), CONTENT),
    "a plus": (post(b"Content-Length: +5", content=b"hello"), BAD),
    "a minus": (post(b"Content-Length: -5", content=b"hello"), BAD),
    "hexadecimal": (post(b"Content-Length: 0x5", content=b"hello"), BAD),
    "a space within": (post(b"Content-Length: 1 1", content=b"hello"), BAD),
    "no digits": (post(b"Content-Length: five", content=b"hello"), BAD),
    "empty": (post(b"Content-Length:", content=b"hello"), BAD),
    "a fraction": (post(b"Content-Length: 5.0", content=b"hello"), BAD),
    "an exponent": (post(b"Content-Length: 1e1", content=b"hello"), BAD),
    "too large": (post(b"Content-Length: 99999999999999999999", content=b"hello"), BAD),
    "a digit of Unicode": (post("Content-Length: \uff15".encode(), content=b"hello"), BAD),
    "a comment": (post(b"Content-Length: 5 (five)", content=b"hello"), BAD),
    "a length with NUL": (post(b"Content-Length: 5\0", content=b"hello"), BAD),
    "a length name with a space": (post(b"Content-Length : 5", content=b"hello"), BAD),
    "a GET with content": (get(b"Content-Length: 35") + CANARY, {200, 400}),
    "a HEAD with content": (
        b"HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 35\r\n\r\n" + CANARY,
        {200, 400},
    ),
    "an OPTIONS with content": (
        b"OPTIONS / HTTP/1.1\r\nHost: x\r\nContent-Length: 35\r\n\r\n" + CANARY,
        {200, 204, 400},
    ),
    # Chunks (7.1): the message before them is answered, nothing after it is
    "a size with a sign": (post(CHUNKED.strip(), content=b"+5\r\nhello\r\n" + END), CONTENT),
    "a size in C": (post(CHUNKED.strip(), content=b"0x5\r\nhello\r\n" + END), CONTENT),
    "a size that overflows": (
        post(CHUNKED.strip(), content=b"10000000000000005\r\nhello\r\n" + END),
        CONTENT,
    ),
    "a size without digits": (post(CHUNKED.strip(), content=b"\r\nhello\r\n" + END), CONTENT),
    "a size with LF": (post(CHUNKED.strip(), content=b"5\nhello\n0\n\n"), CONTENT),
    "an extension with LF": (post(CHUNKED.strip(), content=b"5;a\nb\r\nhello\r\n" + END), CONTENT),
    "more than its size": (post(CHUNKED.strip(), content=b"5\r\nhello!\r\n" + END), CONTENT),
    "a trailer of Content-Length": (
        post(CHUNKED.strip(), content=b"0\r\nContent-Length: 5\r\n\r\n"),
        CONTENT,
    ),
    # Fields (5)
    "a space before the colon": (get(b"Cookie : a"), BAD),
    "a tab before the colon": (get(b"Cookie\t: a"), BAD),
    "no colon": (get(b"Cookie"), BAD),
    "no name": (get(b": a"), BAD),
    "a name with a parenthesis": (get(b"Cook(ie): a"), BAD),
    "a name with a slash": (get(b"Cook/ie: a"), BAD),
    "a name that is not ASCII": (get("Çookie: a".encode()), BAD),
    "a folded field": (get(b"Cookie: a", b" b"), BAD),
    "a field folded with a tab": (get(b"Cookie: a", b"\tb"), BAD),
    "a space before the first field": (b"GET / HTTP/1.1\r\n Host: x\r\n\r\n", BAD),
    "CR in a value": (get(b"Cookie: a\rb"), BAD),
    "CR before the end": (get(b"Cookie: a\r"), BAD),
    "NUL in a value": (get(b"Cookie: a\0b"), BAD),
    "CR CR LF": (b"GET / HTTP/1.1\r\nHost: x\r\r\n\r\n", BAD),
    # Host (3.2)
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", BAD),
    "two Hosts": (get(b"Host: y"), BAD),
    "two equal Hosts": (get(b"Host: x"), BAD),
    "a Host with a space": (b"GET / HTTP/1.1\r\nHost: x y\r\n\r\n", BAD),
    "a Host with a path": (b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n", BAD),
    "a Host with a user": (b"GET / HTTP/1.1\r\nHost: a@x\r\n\r\n", BAD),
    "a list of Hosts": (b"GET / HTTP/1.1\r\nHost: x, y\r\n\r\n", BAD),
    "a Host with a port that is none": (b"GET / HTTP/1.1\r\nHost: x:80a\r\n\r\n", BAD),
    "a Host with a backslash": (b"GET / HTTP/1.1\r\nHost: x\\y\r\n\r\n", BAD),
    # The request line (3)
    "a tab": (line(b"GET\t/ HTTP/1.1"), BAD),
    "a space in the target": (line(b"GET /a b HTTP/1.1"), BAD),
    "a space at the end": (line(b"GET / HTTP/1.1 "), BAD),
    "no version": (line(b"GET /"), BAD),
    "a version of two digits": (line(b"GET / HTTP/1.10"), {400, 505}),
    "a version without a minor": (line(b"GET / HTTP/1"), {400, 505}),
    "version 2": (line(b"GET / HTTP/2.0"), {400, 505}),
    "version 0.9": (line(b"GET / HTTP/0.9"), {400, 505}),
    "http in lower case": (line(b"GET / http/1.1"), {400, 505}),
    "another protocol": (line(b"GET / ICE/1.0"), {400, 505}),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505}),
    "NUL in the target": (line(b"GET /\0 HTTP/1.1"), BAD),
    "CR in the target": (line(b"GET /\r HTTP/1.1"), BAD),
    "a control in the target": (line(b"GET /\x01 HTTP/1.1"), BAD),
    "an authority": (line(b"GET x:80 HTTP/1.1"), {400, 404}),
    "a CONNECT": (line(b"CONNECT x:80 HTTP/1.1"), {400, 405, 501}),
    "a method with a slash": (line(b"G/ET / HTTP/1.1"), {400, 501}),
    "a method that is quoted": (line(b'"GET" / HTTP/1.1'), {400, 501}),
    "no method": (line(b" / HTTP/1.1"), BAD),
    "a space before the method": (line(b" GET / HTTP/1.1"), BAD),
    "an upgrade with content": (
        get(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 5") + b"hello",
        {200, 400},
    ),
    "an upgrade to HTTP/2": (
        get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AA"),
        {200, 400},
    ),
}

TOLERATED: dict[str, tuple[bytes, int]] = {
    "LF alone ends a line": (b"GET / HTTP/1.1\nHost: x\n\n", 200),
    "LF alone ends a field": (b"GET / HTTP/1.1\r\nHost: x\nCookie: a\r\n\r\n", 200),
    "LF alone ends the head": (b"GET / HTTP/1.1\r\nHost: x\r\n\n", 200),
    "two spaces": (line(b"GET  / HTTP/1.1"), 200),
    "an asterisk": (line(b"GET * HTTP/1.1"), 400),
}
"""Where a recipient may be lenient (2.2, 3), since all agree on where the message ends."""

CLEAR: dict[str, bytes] = {
    "a GET": get(),
    "empty lines before": b"\r\n\r\n" + get(),
    "no content": get(b"Content-Length: 0"),
    "space around a value": get(b"Cookie: \t a \t "),
    "an empty value": get(b"Cookie:"),
    "the absolute form": b"GET http://y/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "a Host with a port": b"GET / HTTP/1.1\r\nHost: x:8000\r\n\r\n",
    "an empty Host": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "a newer version": line(b"GET / HTTP/1.2"),
    "an IPv6 Host": b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    "bytes above ASCII in a value": get(b"Cookie: \xe9"),
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    root: Path = tmp_path_factory.mktemp("site")
    (root / "index.html").write_text("HOME")
    (root / "canary").write_text("CANARY")
    with serving(str(root)) as (_, url):
        where = urlsplit(url)
        assert where.hostname
        assert where.port
        yield where.hostname, where.port


def exchange(address: tuple[str, int], sent: bytes) -> bytes:
    """What comes back until the server has ended the connection."""
    received = b""
    with socket.create_connection(address, timeout=20) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        while piece := client.recv(65536):
            received += piece
    return received


def statuses(received: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_is_ambiguous_has_one_answer_and_ends_the_connection(
    address: tuple[str, int], name: str
) -> None:
    sent, allowed = AMBIGUOUS[name]
    received = exchange(address, sent + CANARY)
    found = statuses(received)
    assert b"CANARY" not in received
    assert len(found) == 1, received
    assert found[0] in allowed
    assert b"\r\nConnection: close\r\n" in received


@pytest.mark.parametrize("name", TOLERATED)
def test_what_may_be_tolerated_ends_where_everyone_says(
    address: tuple[str, int], name: str
) -> None:
    """Refused and then the end, or answered, and the next request, too."""
    sent, status = TOLERATED[name]
    found = statuses(exchange(address, sent + CANARY))
    assert found in ([400], [status, 200])


@pytest.mark.parametrize("name", CLEAR)
def test_what_is_clear_is_answered_and_so_is_the_next(address: tuple[str, int], name: str) -> None:
    received = exchange(address, CLEAR[name] + CANARY)
    assert statuses(received) == [200, 200]
    assert b"CANARY" in received


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_cut_anywhere_it_is_the_same(address: tuple[str, int], name: str) -> None:
    """In two pieces, the second after the first has been read: the answer is no other one."""
    sent, allowed = AMBIGUOUS[name]
    whole = statuses(exchange(address, sent + CANARY))
    middle = len(sent) // 2
    received = b""
    with socket.create_connection(address, timeout=20) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(sent[:middle])
        exchange(address, get())  # the server has had its turn
        try:
            client.sendall(sent[middle:] + CANARY)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused by the first half
        try:
            while piece := client.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
    assert statuses(received) in (whole, [])
    if not received:
        assert allowed & {400, 501, 505}


def test_the_corpus_has_sixty_requests_at_least() -> None:
    assert len(AMBIGUOUS) + len(CLEAR) >= 60
