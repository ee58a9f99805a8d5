"""A request and a site to a response (RFC 9110).  No I/O: files are found by the site and sent by
the concurrency model."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from typing import Final, NamedTuple, Protocol, cast

from knot.conditions import NOT_MODIFIED, evaluate, range_applies
from knot.ranges import Range, content_range, parse_range, part_heads
from knot.request import BadRequest, Request
from knot.site import Missing, Moved, Representation, Slice

METHODS: Final = b"GET, HEAD, OPTIONS"

KEEP: Final = {
    # (the connection is kept, the client speaks HTTP/1.0): RFC 9112, section 9.3
    (True, False): b"",
    (True, True): b"Connection: keep-alive\r\n",
    (False, False): b"Connection: close\r\n",
    (False, True): b"Connection: close\r\n",
}


class Finder(Protocol):
    """What is asked of a site."""

    def find(self, path: bytes, second: int) -> Representation | Moved | Missing: ...


class Response(NamedTuple):
    """An answer: bytes that begin with its head, and slices of files that follow."""

    data: bytes
    rest: tuple[bytes | Slice, ...]
    keep_alive: bool


def respond(request: Request | BadRequest, site: Finder, now: float) -> Response:
    """The answer to `request` at the time `now`, in seconds since the epoch."""
    second = int(now)
    if isinstance(request, BadRequest):
        return refusal(request, request.status, second, why=request.reason)
    method = request.method
    if method not in (b"GET", b"HEAD"):
        if method == b"OPTIONS":
            return options(request, second)
        return refusal(request, 405, second, b"Allow: %b\r\n" % METHODS)
    path, query = split_target(request.target)
    found = site.find(path, second)
    if isinstance(found, Representation):
        if request.fields or method == b"HEAD" or not request.keep_alive or request.http_1_0:
            return selected(request, found, second)
        if found.prepared is None:
            found.prepared = selected(request, found, second)
        return cast(Response, found.prepared)
    if isinstance(found, Moved):
        field = b"Location: %b%b\r\n" % (found.path.encode(), query)
        return refusal(request, 301, second, field)
    return refusal(request, found.status, second)


def selected(request: Request, found: Representation, second: int) -> Response:
    """The answer to a GET or HEAD whose target has a representation."""
    if request.fields:
        status = evaluate(request.fields, found.etag, found.modified)
        if status == NOT_MODIFIED:
            return not_modified(request, found, second)
        if status is not None:
            return refusal(request, status, second)
        ranges = wanted_ranges(request, found)
        if ranges is not None:
            return partial(request, found, ranges, second)
    head = head_of(b"200 OK", request, found, second, found.type, found.size)
    if request.method == b"HEAD":
        return Response(head, (), request.keep_alive)
    return assemble([head, found.slice(0, found.size)], request.keep_alive)


def wanted_ranges(request: Request, found: Representation) -> list[Range] | None:
    """What a Range field asks for; None if there is none, or none that counts (section 14.2)."""
    value = request.fields.get(b"range")
    if value is None or request.method != b"GET":
        return None
    if not range_applies(request.fields, found.etag, found.modified):
        return None
    return parse_range(value, found.size)


def partial(request: Request, found: Representation, ranges: list[Range], second: int) -> Response:
    """Some of a representation's bytes (RFC 9110, section 15.3.7), or none that there are."""
    size = found.size
    if not ranges:
        return refusal(request, 416, second, b"Content-Range: bytes */%d\r\n" % size)
    status = b"206 Partial Content"
    if len(ranges) == 1:
        start, stop = ranges[0]
        field = b"Content-Range: %b\r\n" % content_range(ranges[0], size)
        head = head_of(status, request, found, second, found.type, stop - start, field)
        return assemble([head, found.slice(start, stop)], request.keep_alive)
    from secrets import token_hex  # it brings OpenSSL, 3.7 MiB, and few ask for several ranges

    boundary = token_hex(16).encode()
    *heads, end = part_heads(ranges, size, found.type, boundary)
    length = sum(map(len, heads)) + sum(stop - start for start, stop in ranges) + len(end)
    kind = b"multipart/byteranges; boundary=%b" % boundary
    pieces: list[bytes | Slice] = [head_of(status, request, found, second, kind, length)]
    for part_head, (start, stop) in zip(heads, ranges, strict=True):
        pieces += [part_head, found.slice(start, stop)]
    return assemble([*pieces, end], request.keep_alive)


def head_of(
    status: bytes,
    request: Request,
    found: Representation,
    second: int,
    kind: bytes,
    length: int,
    field: bytes = b"",
) -> bytes:
    """The head of an answer with content of a representation."""
    return (
        b"HTTP/1.1 %b\r\nServer: knot\r\nDate: %b\r\n%bAccept-Ranges: bytes\r\n%b"
        b"Content-Type: %b\r\nContent-Length: %d\r\n%b\r\n"
    ) % (
        status,
        http_date(second),
        validators(found),
        field,
        kind,
        length,
        KEEP[request.keep_alive, request.http_1_0],
    )


def assemble(pieces: list[bytes | Slice], keep_alive: bool) -> Response:
    """A response of `pieces`, those in memory joined."""
    data: list[bytes] = []
    for at, piece in enumerate(pieces):
        if not isinstance(piece, bytes):
            return Response(b"".join(data), tuple(pieces[at:]), keep_alive)
        data.append(piece)
    return Response(b"".join(data), (), keep_alive)


def not_modified(request: Request, found: Representation, second: int) -> Response:
    """The client has it already (RFC 9110, section 15.4.5)."""
    head = (b"HTTP/1.1 304 Not Modified\r\nServer: knot\r\nDate: %b\r\nETag: %b\r\n%b\r\n") % (
        http_date(second),
        found.etag,
        KEEP[request.keep_alive, request.http_1_0],
    )
    return Response(head, (), request.keep_alive)


def validators(found: Representation) -> bytes:
    """The fields by which a client can ask whether it has this (RFC 9110, section 8.8)."""
    modified = formatdate(found.modified, usegmt=True).encode()
    return b"Last-Modified: %b\r\nETag: %b\r\n" % (modified, found.etag)


def options(request: Request, second: int) -> Response:
    """What may be done with any target here (RFC 9110, section 9.3.7)."""
    head = (b"HTTP/1.1 204 No Content\r\nServer: knot\r\nDate: %b\r\nAllow: %b\r\n%b\r\n") % (
        http_date(second),
        METHODS,
        KEEP[request.keep_alive, request.http_1_0],
    )
    return Response(head, (), request.keep_alive)


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
    request: Request | BadRequest, status: int, second: int, field: bytes = b"", why: str = ""
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
    ) % (
        status,
        phrase.encode(),
        http_date(second),
        field,
        len(page),
        KEEP[request.keep_alive, http_1_0],
    )
    head_only = isinstance(request, Request) and request.method == b"HEAD"
    return Response(head if head_only else head + page, (), request.keep_alive)


_date: tuple[int, bytes] = (0, b"")


def http_date(second: int) -> bytes:
    """The date in HTTP's form (RFC 9110, section 5.6.7), made once a second."""
    global _date
    if _date[0] != second:
        _date = second, formatdate(second, usegmt=True).encode()
    return _date[1]
