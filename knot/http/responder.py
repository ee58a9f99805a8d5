"""A request and a site to a response (RFC 9110).  No I/O: files are found by the site and sent by
the concurrency model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import translate
from functools import partial
from http import HTTPStatus
from itertools import count
from random import SystemRandom
from typing import Any, Final, NamedTuple, Protocol

from knot.files import listing
from knot.files.representation import Bytes, Representation, Slice
from knot.files.site import (
    CACHE_SIZE,
    DirectoryListing,
    Found,
    NotServed,
    Redirect,
)
from knot.http.conditions import NOT_MODIFIED, check_if_match, evaluate, range_applies
from knot.http.content_coding import acceptable, refuses_identity
from knot.http.dates import http_date
from knot.http.ranges import Range, content_range, parse_range, part_heads
from knot.http.request import ACCEPT, BadRequest, Request, joined

METHODS: Final = b"GET, HEAD, OPTIONS"

NOT_FOUND: Final = b"404.html"
"""The page of a site for paths without a file."""

PHRASES: Final = {status.value: status.phrase.encode() for status in HTTPStatus}

VARY: Final = b"Vary: Accept-Encoding\r\n"
VARY_ACCEPT: Final = b"Vary: Accept\r\n"
"""Tells caches that other clients may get another representation (section 12.5.5)."""

NOSNIFF: Final = b"X-Content-Type-Options: nosniff\r\n"
"""Browsers are not to guess another type (Fetch standard, section 3.6)."""

KEEP: Final = {
    # (the connection is kept, the client speaks HTTP/1.0): RFC 9112, section 9.3
    (True, False): b"",
    (True, True): b"Connection: keep-alive\r\n",
    (False, False): b"Connection: close\r\n",
    (False, True): b"Connection: close\r\n",
}

JOINED: Final = 16 * 1024
"""Bytes of content up to which head and content are one `bytes`; beyond, copying costs more than
the second buffer of a `writev` (180 ns)."""

PRIVATE: Final = b"Cache-Control: private\r\n"

OPEN_FILE: Final = 256 * 1024
"""Bytes for which an answer with an open file counts: 64 MiB are 256 descriptors."""

MAX_PREPARED: Final = 4096
MAX_PREPARED_SIZE: Final = 1024
"""How many answers are kept for equal requests, and how long a request may be, in bytes."""

DATED: Final = 2
"""Seconds, counted from the beginning of the one in which a file was modified, until that date is
a strong validator: no later change has it, not even by a clock that lags behind (8.8.2.2)."""

FROM_FILES: Final = (200, 206, 304)
"""Statuses of answers that come from a file."""

CORS: Final = b"Access-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: *\r\n"
PREFLIGHT: Final = (
    b"Access-Control-Allow-Methods: GET, HEAD, OPTIONS\r\n"
    b"Access-Control-Allow-Headers: *, Authorization\r\nAccess-Control-Max-Age: 86400\r\n"
)

_generations: Final = count(1)

random_bits: Final = SystemRandom().getrandbits
"""Not `secrets`, which brings OpenSSL: 3.6 MiB, and a library that the sandbox cannot load."""

FIELD: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\t]*)")
RESERVED_FIELDS: Final = {
    "accept-ranges", "connection", "content-encoding", "content-length", "content-range",
    "content-type", "date", "etag", "keep-alive", "last-modified", "location", "transfer-encoding",
}  # fmt: skip
"""Fields that only Knot sets: another value would be wrong, or would break the framing."""


class Finder(Protocol):
    """What a responder needs of a site."""

    opened: int
    misses: int
    changed: list[Callable[[], object]]

    def look(self) -> None: ...
    def find(self, path: bytes, second: int) -> Found: ...
    def find_file(self, name: bytes, second: int) -> Representation | None: ...
    def copies(self, found: Representation, second: int) -> Mapping[bytes, Representation]: ...
    def compressed(self, found: Representation, coding: bytes) -> Representation | None: ...
    def read(self, cold: Representation) -> Representation | NotServed: ...
    def replace(
        self, found: Representation, cold: Representation, read: Representation
    ) -> None: ...


class Response(NamedTuple):
    """An answer: bytes that begin with its head, and what follows them."""

    data: bytes
    rest: tuple[Bytes | Slice, ...]
    keep_alive: bool
    status: int
    length: int
    """Bytes of content."""


class Deferred(NamedTuple):
    """A response that takes a while: the work is done where it delays no other client."""

    work: Callable[[], Any]
    """May wait for a disk, or compute for long; it may run on another thread."""
    finish: Callable[[Any], Response | Deferred]
    """From the result of the work to the response; called by the owner of the responder."""


class FieldRules:
    """The fields that the operator adds to answers."""

    def __init__(
        self,
        cache_control: Iterable[tuple[str, str]] = (),
        fields: Iterable[str] = (),
        cors: bool = False,
        private: bool = False,
    ) -> None:
        """`cache_control` has glob patterns for paths without their first slash, and the values
        of ``Cache-Control`` for files under them, of which the first that fits counts; `fields`
        are lines as ``"Name: value"``; a `private` site's answers are for the client alone that
        asked, unless a rule says otherwise.  Raises `ValueError` for what cannot be a field."""
        rules = [
            (pattern, field_line(f"Cache-Control: {value}")) for pattern, value in cache_control
        ]
        self._cache_control = [
            (re.compile(translate(pattern.removeprefix("/"))), line) for pattern, line in rules
        ]
        self.cors = cors
        self.everywhere = b"".join(map(field_line, fields)) + (CORS if cors else b"")
        names = b"\n" + self.everywhere.lower()
        self.server = b"" if b"\nserver:" in names else b"Server: knot\r\n"
        # Shared caches keep no answer to a request with Authorization of themselves (RFC 9111,
        # section 3.5); this is for those that look at the answer alone, and for what a proxy has
        # put the Authorization on.  Vary would have them keep one for each user.
        self.otherwise = PRIVATE if private and b"\ncache-control:" not in names else b""
        """``Cache-Control`` where no rule has one."""

    def cache_control(self, name: bytes) -> bytes:
        """The field for the file called `name`; it may be empty."""
        text = name.decode("utf-8", "surrogateescape") if self._cache_control else ""
        for pattern, line in self._cache_control:
            if pattern.match(text):
                return line
        return self.otherwise


def field_line(text: str) -> bytes:
    """``"Name: value"`` as a line of a head.  Raises `ValueError` if it cannot be one."""
    found = FIELD.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a valid header field; use 'Name: value'")
    if found[1].lower() in RESERVED_FIELDS:
        raise ValueError(f"{found[1]} is a field that Knot sets itself")
    return f"{found[1]}: {found[2].strip()}\r\n".encode()


class Responder:
    """Answers the requests for one site.

    Equal requests get equal answers until the second ends: those to usual requests are kept that
    long.  A new second has a new Date, and the site looks at its files again.
    """

    def __init__(
        self, site: Finder, rules: FieldRules | None = None, room: int = CACHE_SIZE
    ) -> None:
        """`room` bounds the bytes of the answers that are kept."""
        self.site = site
        self.rules = rules or FieldRules()
        self.room = room
        self._free = room
        self._prepared: dict[Request | BadRequest, Response] = {}
        self._of_open_files: dict[Request | BadRequest, Response] = {}
        """Kept answers whose bytes are still to be read, from a file that may change meanwhile."""
        self.second = 0
        self._until = 0
        self.generation = 0
        """Changes every second, even if the clock is set back and a second repeats: the site must
        check its files again then."""
        site.changed.append(self.forget)

    def respond(self, request: Request | BadRequest, now: float) -> Response | Deferred:
        """The answer to `request` at the time `now`, in seconds since the epoch."""
        if self.second <= now < self._until:
            prepared = self._prepared.get(request)
            if prepared is not None:
                return prepared
            if self._of_open_files:
                prepared = self._of_open_files.get(request)
                if prepared is not None and is_current(prepared):  # for 1 µs; the bytes cost 100
                    return prepared
        else:
            self._begin(int(now))
        if isinstance(request, BadRequest):
            return self.refuse(request, now, request.status, why=request.reason)
        opened = self.site.opened
        response = Answer(self, request).make()
        if self.site.opened != opened and (
            isinstance(response, Deferred) or response.status in FROM_FILES
        ):
            self.site.misses += 1
        return response

    def refuse(
        self,
        request: Request | BadRequest,
        now: float,
        status: int,
        fields: bytes = b"",
        why: str = "",
    ) -> Response:
        """An answer with that `status`, whatever the site has; `fields` are whole lines."""
        if not self.second <= now < self._until:
            self._begin(int(now))
        if isinstance(request, BadRequest):
            request = Request(b"", b"", keep_alive=False)
        return Answer(self, request).refusal(status, fields, why)

    def keep(self, request: Request, response: Response, generation: int) -> None:
        """Keep what was made in that `generation` for equal requests, unless there could be too
        many of those, or too long ones."""
        asked = len(request.target)
        for name, value in request.fields:
            asked += len(name) + len(value)
        if asked > MAX_PREPARED_SIZE or generation != self.generation:
            return
        opened = response.rest and isinstance(response.rest[0], Slice)
        prepared = self._of_open_files if opened else self._prepared
        if request in prepared:
            self._free += cost(prepared.pop(request))
        prepared[request] = response
        self._free -= cost(response)
        while self._free < 0 or len(prepared) > MAX_PREPARED:
            self._free += cost(prepared.pop(next(iter(prepared))))

    def sweep(self) -> None:
        """Close files that are no longer needed; called about once a second."""
        while self._of_open_files:
            _, response = self._of_open_files.popitem()
            self._free += cost(response)

    def _begin(self, second: int) -> None:
        self.site.look()
        self.second, self._until = second, second + 1
        self.forget()

    def forget(self) -> None:
        """Discard all kept answers, and those that are being made now."""
        self.generation = next(_generations)
        self._prepared.clear()
        self._of_open_files.clear()
        self._free = self.room


class Answer:
    """One request on its way to its answer."""

    def __init__(self, responder: Responder, request: Request) -> None:
        self._keep = responder.keep
        self._site = responder.site
        self._rules = responder.rules
        self._second = responder.second
        self._generation = responder.generation
        self._request = request
        self._fields = joined(request.fields)

    def make(self) -> Response | Deferred:
        method = self._request.method
        if method not in (b"GET", b"HEAD"):
            if method == b"OPTIONS":
                return self.options()
            return self.refusal(405, b"Allow: %b\r\n" % METHODS)
        path, query = split_target(self._request.target)
        found = self._site.find(path, self._generation)
        if isinstance(found, Representation):
            return self.represent(found)
        if isinstance(found, DirectoryListing):
            return self.folder(found)
        location = b""
        if isinstance(found, Redirect):
            location = b"Location: %b%b\r\n" % (found.path.encode(), query)
        response = self.refusal(found.status, location)
        if found.status in (301, 308, 404):
            self._keep(self._request, response, self._generation)
        return response

    def represent(self, found: Representation) -> Response | Deferred:
        """The answer to a GET or HEAD whose target is a file."""
        # A cold one has no tag yet, which a range may be asked for by.
        chosen = found if found.is_cold and b"range" in self._fields else self.choose(found)
        if chosen.is_cold:
            return Deferred(partial(self._site.read, chosen), partial(self.warmed, found, chosen))
        return self.kept(chosen)

    def kept(self, chosen: Representation) -> Response:
        response = self.selected(chosen)
        if b"range" not in self._fields:
            self._keep(self._request, response, self._generation)
        return response

    def warmed(
        self, found: Representation, cold: Representation, read: Representation | NotServed
    ) -> Response | Deferred:
        if isinstance(read, NotServed):
            return self.refusal(read.status)
        self._site.replace(found, cold, read)
        if cold is found:
            return self.represent(read)
        return self.kept(read)  # not chosen again: it could be forgotten by now, and cold for ever

    def choose(self, found: Representation) -> Representation:
        """The file or the compressed copy that the client prefers (section 12.5.3)."""
        value = self._fields.get(b"accept-encoding")
        codings = acceptable(value) if value and found.varies else ()
        if not codings:
            return found
        coded = self.coded(found, codings)
        if value and self._request.method == b"GET" and b"range" in self._fields:
            return self.choose_for_range(found, coded, refuses_identity(value))
        return next(coded, found)

    def choose_for_range(
        self, found: Representation, coded: Iterator[Representation], only_coded: bool
    ) -> Representation:
        """The one that If-Range or If-Match names by its tag, else the file as it is.

        Clients that know nothing of codings have libraries that ask for them: to those, a part of
        a compressed form is of no use.
        """
        fields = self._fields
        if parse_range(fields[b"range"], found.size) is None:
            return next(coded, found)
        if b"if-range" in fields:
            is_named = self.range_applies_to
        elif b"if-match" in fields:
            is_named = self.matches
        else:
            return next(coded, found) if only_coded else found
        if is_named(found):
            return found
        forms = [*coded, found]
        return next(filter(is_named, forms), forms[0])

    def matches(self, found: Representation) -> bool:
        return check_if_match(self._fields[b"if-match"], found.etag)

    def range_applies_to(self, found: Representation) -> bool:
        return range_applies(self._fields, found.etag, self.modified(found))

    def modified(self, found: Representation) -> int | None:
        """Its modification date, once that is a strong validator (section 8.8.2.2)."""
        return found.modified if 0 < found.modified <= self._second - DATED else None

    def coded(self, found: Representation, codings: Iterable[bytes]) -> Iterator[Representation]:
        """Its compressed forms, those that were compressed beforehand first."""
        copies = self._site.copies(found, self._generation)
        for coding in codings:
            if coding in copies:
                yield copies[coding]
        for coding in codings:
            if coding not in copies:
                compressed = self._site.compressed(found, coding)
                if compressed is not None:
                    yield compressed

    def selected(self, found: Representation) -> Response:
        """The answer that has this representation, or a part of it, unless a condition fails."""
        modified = self.modified(found)
        about = b"%bETag: %b\r\n%b%b" % (
            b"" if modified is None else b"Last-Modified: %b\r\n" % http_date(modified),
            found.etag,
            VARY if found.varies else b"",
            self._rules.cache_control(found.name),
        )
        fields = self._fields
        if fields:
            status = evaluate(fields, found.etag, modified)
            if status == NOT_MODIFIED:  # section 15.4.5
                return self.response(304, about)
            if status is not None:
                return self.refusal(status)
        about += b"Accept-Ranges: bytes\r\n"
        if found.coding:
            about += b"Content-Encoding: %b\r\n" % found.coding
        ranges = self.wanted_ranges(found) if b"range" in fields else None
        if ranges is None:
            return self.response(200, about, found.type, [found.slice(0, found.size)])
        return self.partial(found, about, ranges)

    def wanted_ranges(self, found: Representation) -> list[Range] | None:
        """The ranges that the Range field asks for; None if it is to be ignored (section 14.2)."""
        if self._request.method != b"GET":
            return None
        if not self.range_applies_to(found):
            return None
        return parse_range(self._fields[b"range"], found.size)

    def partial(self, found: Representation, about: bytes, ranges: list[Range]) -> Response:
        """An answer with some of a representation's bytes (section 15.3.7), or with 416."""
        size = found.size
        if not ranges:
            return self.refusal(416, b"Content-Range: bytes */%d\r\n" % size)
        if len(ranges) == 1:
            start, stop = ranges[0]
            about += b"Content-Range: %b\r\n" % content_range(ranges[0], size)
            return self.response(206, about, found.type, [found.slice(start, stop)])
        boundary = b"%032x" % random_bits(128)
        *heads, end = part_heads(ranges, size, found.type, boundary)
        pieces: list[Bytes | Slice] = []
        for part_head, (start, stop) in zip(heads, ranges, strict=True):
            pieces += [part_head, found.slice(start, stop)]
        kind = b"multipart/byteranges; boundary=%b" % boundary
        return self.response(206, about, kind, [*pieces, end])

    def options(self) -> Response:
        """The answer to OPTIONS (section 9.3.7)."""
        return self.response(
            204, b"Allow: %b\r\n%b" % (METHODS, PREFLIGHT if self._rules.cors else b"")
        )

    def folder(self, found: DirectoryListing) -> Deferred:
        """The list of what is in a directory, as a page or as JSON (section 12.5.1)."""
        render, kind = listing.as_html, b"text/html; charset=utf-8"
        if ACCEPT in self._fields:
            render, kind = listing.as_json, b"application/json; charset=utf-8"

        def work() -> Response:
            try:
                entries = listing.read_directory(found.file.fd, found.scope)
            except OSError as error:
                return self.refusal(403 if isinstance(error, PermissionError) else 503, VARY_ACCEPT)
            page = render(found.path, entries)
            fields = VARY_ACCEPT + self._rules.otherwise
            return self.response(200, fields, kind, [page])

        def finish(response: Response) -> Response:
            self._keep(self._request, response, self._generation)
            return response

        return Deferred(work, finish)

    def refusal(self, status: int, field: bytes = b"", why: str = "") -> Response:
        """Any other answer: a small page that names the status and the reason."""
        field += self._rules.otherwise
        if status == 503:
            field += b"Retry-After: 5\r\n"
        if status == 404:
            found = self._site.find_file(NOT_FOUND, self._generation)
            if found is not None:
                return self.response(404, field, found.type, [found.slice(0, found.size)])
        phrase = HTTPStatus(status).phrase
        page = (
            "<!doctype html>\n"
            f'<html lang="en"><meta charset="utf-8"><title>{status} {phrase}</title>\n'
            f"<h1>{status} {phrase}</h1>\n"
            f"{f'<p>{why[:1].upper()}{why[1:]}.</p>' if why else ''}\n"
        ).encode()
        return self.response(status, field, b"text/html; charset=utf-8", [page])

    def response(
        self,
        status: int,
        fields: bytes,
        kind: bytes = b"",
        content: Sequence[Bytes | Slice] = (),
    ) -> Response:
        """Head and content, as one `bytes` if that is short; a HEAD gets the head alone."""
        request, rules = self._request, self._rules
        length = sum([length_of(piece) for piece in content])
        if kind:
            fields += b"Content-Type: %b\r\nContent-Length: %d\r\n%b" % (kind, length, NOSNIFF)
        head = b"HTTP/1.1 %d %b\r\n%bDate: %b\r\n%b%b%b\r\n" % (
            status,
            PHRASES[status],
            rules.server,
            http_date(self._second),
            fields,
            rules.everywhere,
            KEEP[request.keep_alive, request.http_1_0],
        )
        if request.method == b"HEAD":
            return Response(head, (), request.keep_alive, status, 0)
        in_memory = [piece for piece in content if not isinstance(piece, Slice)]
        if length <= JOINED and len(in_memory) == len(content):
            head = b"".join((head, *in_memory))
            content = ()
        return Response(head, tuple(content), request.keep_alive, status, length)


def cost(response: Response) -> int:
    """Bytes that stay in memory, or a descriptor open, as long as it is kept."""
    bytes_held = len(response.data)
    for piece in response.rest:
        bytes_held += OPEN_FILE if isinstance(piece, Slice) else len(piece)
    return bytes_held


def is_current(response: Response) -> bool:
    """Whether the file of a kept answer is unchanged."""
    piece = response.rest[0]
    return isinstance(piece, Slice) and piece.file.is_unchanged


def length_of(piece: Bytes | memoryview | Slice) -> int:
    return piece.stop - piece.start if isinstance(piece, Slice) else len(piece)


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


def authority_of(target: bytes) -> bytes:
    """The authority of a target in absolute form, which goes before Host (RFC 9112, 3.2.2); empty
    for every other form."""
    scheme, separator, rest = target.partition(b"://")
    if target.startswith(b"/") or not separator or scheme.lower() not in (b"http", b"https"):
        return b""
    return rest.partition(b"/")[0].partition(b"?")[0]
