"""Requests to responses (RFC 9110), without a file or a socket."""

from __future__ import annotations

import pytest

from knot.request import BadRequest, Request
from knot.respond import http_date, respond, split_target
from knot.site import File, Missing, Moved

NOW = 784111777.9  # RFC 9110's own example, section 5.6.7


class Found:
    """A site on which every path leads to the same."""

    def __init__(self, found: File | Moved | Missing) -> None:
        self.found = found
        self.paths: list[bytes] = []

    def find(self, path: bytes) -> File | Moved | Missing:
        self.paths.append(path)
        return self.found


class Opened(File):
    """A file without a descriptor."""

    def __del__(self) -> None:
        pass


FILE = Opened(-1, 5, b"text/plain")


def test_a_file_is_answered_with_its_type_length_and_date() -> None:
    response = respond(Request(b"GET", b"/a?q", True), Found(FILE), NOW)
    assert response.head == (
        b"HTTP/1.1 200 OK\r\nServer: knot\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
        b"Content-Type: text/plain\r\nContent-Length: 5\r\n\r\n"
    )
    assert response.content is FILE
    assert response.keep_alive


def test_head_has_the_head_of_get_and_no_content() -> None:
    for found in (FILE, Missing(404), Moved("/x/")):
        get = respond(Request(b"GET", b"/", True), Found(found), NOW)
        head = respond(Request(b"HEAD", b"/", True), Found(found), NOW)
        assert head.head == get.head
        assert head.content == b""


@pytest.mark.parametrize(
    ("keep_alive", "http_1_0", "field"),
    [
        (True, False, b""),
        (True, True, b"Connection: keep-alive\r\n"),
        (False, False, b"Connection: close\r\n"),
        (False, True, b"Connection: close\r\n"),
    ],
)
def test_the_connection_field_says_what_happens(
    keep_alive: bool, http_1_0: bool, field: bytes
) -> None:
    for found in (FILE, Missing(404)):
        response = respond(Request(b"GET", b"/", keep_alive, http_1_0), Found(found), NOW)
        assert response.keep_alive == keep_alive
        assert response.head.endswith(field + b"\r\n")
        assert (b"Connection" in response.head) == bool(field)


REFUSALS = [
    (Request(b"GET", b"/", True), Missing(404), b"404 Not Found"),
    (Request(b"GET", b"/", True), Missing(403), b"403 Forbidden"),
    (Request(b"POST", b"/", True), Missing(404), b"405 Method Not Allowed"),
    (BadRequest(400, "why"), Missing(404), b"400 Bad Request"),
    (BadRequest(431, "why"), Missing(404), b"431 Request Header Fields Too Large"),
    (BadRequest(505, "why"), Missing(404), b"505 HTTP Version Not Supported"),
]


@pytest.mark.parametrize(("request_", "found", "status"), REFUSALS)
def test_a_refusal_has_a_small_page(
    request_: Request | BadRequest, found: Missing, status: bytes
) -> None:
    response = respond(request_, Found(found), NOW)
    assert response.head.startswith(b"HTTP/1.1 %b\r\n" % status)
    assert isinstance(response.content, bytes)
    assert b"Content-Length: %d\r\n" % len(response.content) in response.head
    assert status in response.content
    assert (b"Why." in response.content) == isinstance(request_, BadRequest)
    assert (b"Allow: GET, HEAD\r\n" in response.head) == status.startswith(b"405")
    assert response.keep_alive == isinstance(request_, Request)


def test_a_directory_is_moved_to_its_slash_with_the_query() -> None:
    response = respond(Request(b"GET", b"/a?b=c", True), Found(Moved("/a/")), NOW)
    assert response.head.startswith(b"HTTP/1.1 301 Moved Permanently\r\n")
    assert b"\r\nLocation: /a/?b=c\r\n" in response.head


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", b"/", b""),
        (b"/a?b?c", b"/a", b"?b?c"),
        (b"http://example.org/a?b", b"/a", b"?b"),
        (b"HTTPS://example.org", b"/", b""),
        (b"http://example.org?a/b", b"/", b"?a/b"),
        (b"*", b"*", b""),
        (b"ftp://example.org/", b"ftp://example.org/", b""),
    ],
)
def test_the_path_of_a_target(target: bytes, path: bytes, query: bytes) -> None:
    assert split_target(target) == (path, query)


def test_dates_are_those_of_their_second() -> None:
    assert http_date(0) == b"Thu, 01 Jan 1970 00:00:00 GMT"
    assert http_date(1) == b"Thu, 01 Jan 1970 00:00:01 GMT"
    assert http_date(0) == b"Thu, 01 Jan 1970 00:00:00 GMT"
