"""Requests to responses (RFC 9110), without a socket."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import pytest

from knot.files.representation import Representation
from knot.files.site import NotServed, Redirect, Site
from knot.http.dates import http_date
from knot.http.request import BadRequest, Request
from knot.http.responder import Deferred, FieldRules, Responder, Response, split_target

NOW = 784111777.9  # RFC 9110's own example, section 5.6.7


class Found:
    """A site on which every path leads to the same."""

    def __init__(self, found: Representation | Redirect | NotServed) -> None:
        self.found = found

        self.changed: list[Callable[[], object]] = []

    def find(self, path: bytes, second: int) -> Representation | Redirect | NotServed:
        return self.found

    def find_file(self, name: bytes, second: int) -> None:
        return None

    def look(self) -> None:
        pass

    hidden = follow_symlinks = False
    opened = misses = 0
    withheld = ()

    def copies(self, found: Representation, second: int) -> dict[bytes, Representation]:
        return {}

    def compressed(self, found: Representation, coding: bytes) -> None:
        return None


def respond(request: Request | BadRequest, site: Found, now: float) -> Response:
    response = Responder(site).respond(request, now)
    assert not isinstance(response, Deferred)
    return response


@pytest.fixture
def file(tmp_path: Path) -> Representation:
    """Five bytes of text, changed a moment before RFC 9110's example."""
    name = tmp_path / "a.txt"
    name.write_text("12345")
    os.utime(name, ns=(0, 784111775 * 10**9))
    site = Site(tmp_path)
    found = site.find(b"/a.txt", 0)
    site.close()
    assert isinstance(found, Representation)
    return found


def test_a_file_is_answered_with_its_type_length_date_and_validators(file: Representation) -> None:
    response = respond(Request(b"GET", b"/a?q", True), Found(file), NOW)
    assert (
        response.data
        == (
            b"HTTP/1.1 200 OK\r\nServer: knot\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
            b'Last-Modified: Sun, 06 Nov 1994 08:49:35 GMT\r\nETag: "%b"\r\n'
            b"Vary: Accept-Encoding\r\nAccept-Ranges: bytes\r\n"
            b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\n"
            b"X-Content-Type-Options: nosniff\r\n\r\n12345"
        )
        % blake2b(b"12345", digest_size=16).hexdigest().encode()
    )
    assert response.rest == ()
    assert response.keep_alive


def test_equal_requests_of_one_second_get_one_answer(file: Representation) -> None:
    responder = Responder(Found(file))
    request = Request(b"GET", b"/a.txt")
    first = responder.respond(request, NOW)
    assert responder.respond(Request(b"GET", b"/a.txt"), NOW) is first
    for other in (
        Request(b"HEAD", b"/a.txt"),
        Request(b"GET", b"/a.txt", keep_alive=False),
        Request(b"GET", b"/a.txt", http_1_0=True),
        Request(b"GET", b"/a.txt", fields=((b"if-none-match", file.etag),)),
    ):
        assert responder.respond(other, NOW) != first
    assert responder.respond(request, NOW + 1) is not first
    assert responder.respond(request, NOW) is not first  # nor if the clock was put back


def test_the_answers_that_are_kept_have_a_bound(file: Representation) -> None:
    responder = Responder(Found(file), room=100_000)
    for number in range(10_000):
        responder.respond(Request(b"GET", b"/%d" % number), NOW)
        assert sum(len(answer.data) for answer in responder._prepared.values()) <= 100_000
    assert responder._prepared
    long = Request(b"GET", b"/" + b"x" * 2000)
    responder.respond(long, NOW)
    assert long not in responder._prepared


def test_head_has_the_head_of_get_and_no_content(file: Representation) -> None:
    for found in (file, NotServed(404), Redirect("/x/")):
        get = respond(Request(b"GET", b"/", True), Found(found), NOW)
        head = respond(Request(b"HEAD", b"/", True), Found(found), NOW)
        assert head.data == get.data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        assert head.rest == ()


def test_what_the_client_has_is_not_sent_again(file: Representation) -> None:
    for method in (b"GET", b"HEAD"):
        request = Request(method, b"/a.txt", True, fields=((b"if-none-match", file.etag),))
        response = respond(request, Found(file), NOW)
        assert response.data == (
            b"HTTP/1.1 304 Not Modified\r\nServer: knot\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
            b"Last-Modified: Sun, 06 Nov 1994 08:49:35 GMT\r\nETag: %b\r\n"
            b"Vary: Accept-Encoding\r\n\r\n" % file.etag
        )
        assert response.rest == ()


def test_a_condition_that_fails_is_an_answer_of_its_own(file: Representation) -> None:
    request = Request(b"GET", b"/a.txt", True, fields=((b"if-match", b'"other"'),))
    response = respond(request, Found(file), NOW)
    assert response.data.startswith(b"HTTP/1.1 412 Precondition Failed\r\n")
    assert respond(request, Found(NotServed(404)), NOW).data.startswith(b"HTTP/1.1 404 ")


def test_options_says_what_may_be_done(file: Representation) -> None:
    response = respond(Request(b"OPTIONS", b"*", True), Found(file), NOW)
    assert response.data.startswith(b"HTTP/1.1 204 No Content\r\n")
    assert b"\r\nAllow: GET, HEAD, OPTIONS\r\n" in response.data
    assert b"Content-Length" not in response.data


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
    file: Representation, keep_alive: bool, http_1_0: bool, field: bytes
) -> None:
    for found in (file, NotServed(404)):
        response = respond(Request(b"GET", b"/", keep_alive, http_1_0), Found(found), NOW)
        assert response.keep_alive == keep_alive
        head = response.data.partition(b"\r\n\r\n")[0] + b"\r\n"
        assert head.endswith(field)
        assert (b"Connection" in head) == bool(field)


REFUSALS = [
    (Request(b"GET", b"/", True), NotServed(404), b"404 Not Found"),
    (Request(b"GET", b"/", True), NotServed(403), b"403 Forbidden"),
    (Request(b"POST", b"/", True), NotServed(404), b"405 Method Not Allowed"),
    (BadRequest(400, "why"), NotServed(404), b"400 Bad Request"),
    (BadRequest(431, "why"), NotServed(404), b"431 Request Header Fields Too Large"),
    (BadRequest(505, "why"), NotServed(404), b"505 HTTP Version Not Supported"),
]


@pytest.mark.parametrize(("request_", "found", "status"), REFUSALS)
def test_a_refusal_has_a_small_page(
    request_: Request | BadRequest, found: NotServed, status: bytes
) -> None:
    response = respond(request_, Found(found), NOW)
    head, _, page = response.data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %b\r\n" % status)
    assert b"Content-Length: %d" % len(page) in head
    assert status in page
    assert (b"Why." in page) == isinstance(request_, BadRequest)
    assert (b"Allow: GET, HEAD, OPTIONS" in head) == status.startswith(b"405")
    assert response.keep_alive == isinstance(request_, Request)


def test_a_directory_is_moved_to_its_slash_with_the_query() -> None:
    response = respond(Request(b"GET", b"/a?b=c", True), Found(Redirect("/a/")), NOW)
    assert response.data.startswith(b"HTTP/1.1 301 Moved Permanently\r\n")
    assert b"\r\nLocation: /a/?b=c\r\n" in response.data


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


def test_a_second_that_comes_again_is_another_one(tmp_path: Path) -> None:
    """The clock was set back: what was looked at in the first one has changed since."""
    file = tmp_path / "file"
    site = Site(tmp_path)
    responder = Responder(site)

    def content(path: bytes, now: int) -> bytes:
        response = responder.respond(Request(b"GET", path), now)
        assert isinstance(response, Response)
        return response.data.rpartition(b"\r\n\r\n")[2]

    file.write_text("before")
    assert content(b"/file", NOW) == b"before"
    content(b"/", NOW - 1)
    file.write_text("after it was set back")
    assert content(b"/file", NOW) == b"after it was set back"
    site.close()


# -- what whoever serves the site wants ----------------------------------------------------------


def answer_of(root: Path, path: bytes, rules: FieldRules, method: bytes = b"GET") -> Response:
    site = Site(root)
    response = Responder(site, rules).respond(Request(method, path), NOW)
    site.close()
    assert isinstance(response, Response)
    return response


def test_cache_control_is_given_by_rules(tmp_path: Path) -> None:
    (tmp_path / "assets" / "js").mkdir(parents=True)
    for name in ("index.html", "assets/a.css", "assets/js/a.js", "assets/a.html"):
        (tmp_path / name).write_text("x")
    rules = FieldRules([("/assets/*", "max-age=9"), ("*.html", "no-cache")])
    found = {
        path: answer_of(tmp_path, path, rules).data.partition(b"Cache-Control: ")[2].split(b"\r")[0]
        for path in (b"/", b"/assets/a.css", b"/assets/js/a.js", b"/assets/a.html", b"/nothing")
    }
    assert found == {
        b"/": b"no-cache",
        b"/assets/a.css": b"max-age=9",
        b"/assets/js/a.js": b"max-age=9",
        b"/assets/a.html": b"max-age=9",
        b"/nothing": b"",
    }


def test_fields_of_ones_own_are_in_every_answer(tmp_path: Path) -> None:
    rules = FieldRules(fields=["X-Frame-Options: DENY", "server:  mine "])
    for path, method in (
        (b"/", b"GET"),
        (b"/nothing", b"HEAD"),
        (b"/", b"OPTIONS"),
        (b"/", b"PUT"),
    ):
        head = answer_of(tmp_path, path, rules, method).data.partition(b"\r\n\r\n")[0]
        assert b"\r\nX-Frame-Options: DENY\r\nserver: mine" in head
        assert b"Server: knot" not in head


def test_scripts_of_other_sites_may_read_if_that_is_wanted(tmp_path: Path) -> None:
    rules = FieldRules(cors=True)
    for method in (b"GET", b"OPTIONS"):
        assert (
            b"\r\nAccess-Control-Allow-Origin: *\r\n"
            in answer_of(tmp_path, b"/", rules, method).data
        )
    preflight = answer_of(tmp_path, b"/", rules, b"OPTIONS").data
    assert b"\r\nAccess-Control-Allow-Methods: GET, HEAD, OPTIONS\r\n" in preflight
    assert b"Access-Control" not in answer_of(tmp_path, b"/", FieldRules()).data


@pytest.mark.parametrize(
    "field",
    [
        "no colon",
        "a b: c",
        ": c",
        "X: a\r\nY: b",
        "X: \0",
        "Content-Length: 1",
        "date: now",
        "X: ü",
    ],
)
def test_what_can_be_no_field_of_ones_own_is_an_error(field: str) -> None:
    with pytest.raises(
        ValueError, match=re.escape(field.partition(":")[0].strip()) or "not a valid header field"
    ):
        FieldRules(fields=[field])


def test_a_site_may_have_its_own_page_for_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "404.html").write_text("not here")
    response = answer_of(tmp_path, b"/nothing", FieldRules())
    assert response.status == 404
    assert response.data.endswith(b"\r\n\r\nnot here")
    assert b"ETag" not in response.data
    assert answer_of(tmp_path, b"/nothing", FieldRules(), b"HEAD").length == 0


NS = 10**9


@pytest.mark.parametrize(
    ("modified", "shown"),
    [
        (-(2**40) * NS, False),
        (-1, False),
        (0, False),
        (1, False),
        (NS, True),
        ((int(NOW) - 2) * NS, True),
        ((int(NOW) - 1) * NS - 1, True),
        ((int(NOW) - 1) * NS, False),
        (int(NOW) * NS, False),
        ((int(NOW) + 1) * NS, False),
        (2**33 * NS, False),
        (2**43 * NS, False),
    ],
)
def test_a_modification_date_is_told_once_it_is_a_strong_validator(
    file: Representation, modified: int, shown: bool
) -> None:
    """RFC 9110, sections 8.8.2.1 and 8.8.2.2."""
    found = Representation(
        file.name, file.stamp._replace(modified=modified), file.type, b"12345", file.etag
    )
    date = http_date(modified // NS) if shown else http_date(int(NOW) - 100)
    for name, value, status in (
        (b"accept", b"*/*", 200),
        (b"if-unmodified-since", date, 200),
        (b"if-modified-since", date, 304 if shown else 200),
        (b"if-modified-since", http_date(int(NOW) + 1000), 304 if shown else 200),
        (b"if-unmodified-since", http_date(0), 412 if shown else 200),
        (b"if-range", date, 206 if shown else 200),
        (b"if-range", http_date(int(NOW)), 200),
        (b"if-none-match", file.etag, 304),
    ):
        fields: tuple[tuple[bytes, bytes], ...] = ((name, value),)
        if name == b"if-range":
            fields += ((b"range", b"bytes=0-1"),)
        response = respond(Request(b"GET", b"/a", True, fields=fields), Found(found), NOW)
        assert response.status == status, fields
        if status != 412:
            assert (b"\r\nLast-Modified: %b\r\n" % date in response.data) == shown
            assert (b"\r\nLast-Modified: " in response.data) == shown
