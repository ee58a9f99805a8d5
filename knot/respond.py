"""A request and a site to a response (RFC 9110).  No I/O: files are found by the site and sent by
the concurrency model."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from typing import Final, NamedTuple, Protocol

from knot.request import BadRequest, Request
from knot.site import File, Missing, Moved

METHODS: Final = b"GET, HEAD"

KEEP: Final = {
    # (the connection is kept, the client speaks HTTP/1.0): RFC 9112, section 9.3
    (True, False): b"",
    (True, True): b"Connection: keep-alive\r\n",
    (False, False): b"Connection: close\r\n",
    (False, True): b"Connection: close\r\n",
}


class Finder(Protocol):
    """What is asked of a site."""

    def find(self, path: bytes) -> File | Moved | Missing: ...


class Response(NamedTuple):
    """An answer: its head, and its content as bytes or as a whole file."""

    head: bytes
    content: bytes | File
    keep_alive: bool


def respond(request: Request | BadRequest, site: Finder, now: float) -> Response:
    """The answer to `request` at the time `now`, in seconds since the epoch."""
    date = http_date(int(now))
    if isinstance(request, BadRequest):
        return refusal(request, request.status, date, why=request.reason)
    if request.method not in (b"GET", b"HEAD"):
        return refusal(request, 405, date, b"Allow: %b\r\n" % METHODS)
    path, query = split_target(request.target)
    found = site.find(path)
    if isinstance(found, Missing):
        return refusal(request, found.status, date)
    if isinstance(found, Moved):
        return refusal(request, 301, date, b"Location: %b%b\r\n" % (found.path.encode(), query))
    head = (
        b"HTTP/1.1 200 OK\r\nServer: knot\r\nDate: %b\r\nContent-Type: %b\r\n"
        b"Content-Length: %d\r\n%b\r\n"
    ) % (date, found.type, found.size, KEEP[request.keep_alive, request.http_1_0])
    return Response(head, found if request.method == b"GET" else b"", request.keep_alive)


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """The path of a request target, and its query with the question mark (RFC 9112, 3.2)."""
    if not target.startswith(b"/"):  # the absolute form, which every server must take
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            return target, b""
        authority, slash, rest = rest.partition(b"/")
        if b"?" in authority:
            return b"/", authority[authority.index(b"?") :] + slash + rest
        target = b"/" + rest
    path, mark, query = target.partition(b"?")
    return path, mark + query


def refusal(
    request: Request | BadRequest, status: int, date: bytes, field: bytes = b"", why: str = ""
) -> Response:
    """Any answer that is no file: a small page that says what is the matter."""
    phrase = HTTPStatus(status).phrase
    page = (
        "<!doctype html>\n"
        f'<html lang="en"><meta charset="utf-8"><title>{status} {phrase}</title>\n'
        f"<h1>{status} {phrase}</h1>\n"
        f"{f'<p>{why[:1].upper()}{why[1:]}.</p>' if why else ''}\n"
    ).encode()
    http_1_0 = isinstance(request, Request) and request.http_1_0
    head = (
        b"HTTP/1.1 %d %b\r\nServer: knot\r\nDate: %b\r\n%b"
        b"Content-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n%b\r\n"
    ) % (status, phrase.encode(), date, field, len(page), KEEP[request.keep_alive, http_1_0])
    head_only = isinstance(request, Request) and request.method == b"HEAD"
    return Response(head, b"" if head_only else page, request.keep_alive)


_date: tuple[int, bytes] = (0, b"")


def http_date(second: int) -> bytes:
    """The date in HTTP's form (RFC 9110, section 5.6.7), made once a second."""
    global _date
    if _date[0] != second:
        _date = second, formatdate(second, usegmt=True).encode()
    return _date[1]
