"""Bytes to requests (RFC 9112).  No I/O: what was read goes in, requests come out.

httptools does the parsing; this file bounds it and refuses what it takes too leniently.  Its
callbacks run for each field of each request, so they do the least that they can.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Final, NamedTuple

import httptools

MAX_HEAD: Final = 32 * 1024
"""Bytes of an unfinished head that are waited for; browsers send 2 KiB, nginx takes 32."""

MAX_TARGET: Final = 8 * 1024
"""Bytes of a request target; RFC 9112, section 3 asks for 8,000 at least."""

MOST_FIELDS: Final = 32
"""Lines of those fields that count; no client sends a dozen."""

MAX_SAID: Final = 1024
"""Bytes that a log gets of what a client says of itself."""

Fields = tuple[tuple[bytes, bytes], ...]

NO_NAMES: Final[frozenset[bytes]] = frozenset()

HOST: Final = b"host"
LENGTH: Final = b"content-length"
CODING: Final = b"transfer-encoding"
CONNECTION: Final = b"connection"
ACCEPT: Final = b"accept"
JSON: Final = b"application/json"
REFERER: Final = b"referer"
AGENT: Final = b"user-agent"

FIELDS: Final = (
    b"accept-encoding",
    b"if-match",
    b"if-modified-since",
    b"if-none-match",
    b"if-range",
    b"if-unmodified-since",
    b"range",
)
"""The fields that an answer may depend on; Accept is another, but only if JSON is what it asks
for first: browsers send ten forms of it, which would be ten answers to keep."""

IDLE: Final = (
    b"accept-language", b"authorization", b"cache-control", b"cookie", b"origin", b"pragma",
    b"priority", REFERER, b"sec-ch-ua", b"sec-ch-ua-mobile", b"sec-ch-ua-platform",
    b"sec-fetch-dest", b"sec-fetch-mode", b"sec-fetch-site", b"sec-fetch-user",
    b"upgrade-insecure-requests", AGENT, b"x-forwarded-for", b"x-forwarded-proto",
)  # fmt: skip
"""Fields that clients often send and nobody asks for: known by sight, they cost no `lower`."""


def spelt(names: Iterable[bytes]) -> dict[bytes, bytes]:
    """From the two usual spellings of each of `names` to the one here."""
    return {spelling: name for name in names for spelling in (name, name.title())}


IDLE_AS_SPELT: Final = frozenset(spelt(IDLE))
NAMES: Final = {
    **spelt((HOST, LENGTH, CODING, CONNECTION, ACCEPT, *FIELDS)),
    # llhttp takes it for the same.
    **dict.fromkeys(spelt((b"proxy-connection",)), CONNECTION),
}

TOLD: Final = spelt((REFERER, AGENT))

METHOD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ ")

AUTHORITY: Final = re.compile(rb"(?:[0-9A-Za-z._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
"""A Host that could be one (RFC 9110, section 7.2); it may be empty."""

_hosts_seen: set[bytes] = set()  # those that match: a look here costs a tenth of the match


class Request(NamedTuple):
    """What a request asks for, as far as serving a file needs it (RFC 9112, section 3).

    Equal requests get equal answers, which is why the fields are a tuple: it can be looked up.
    """

    method: bytes
    target: bytes
    keep_alive: bool = True
    """Whether the connection may be kept after the answer (RFC 9112, section 9.3)."""
    http_1_0: bool = False
    """Such a client keeps the connection only if the answer says so, too."""
    fields: Fields = ()
    """Those of `FIELDS` that it has, by names in lower case, in their order."""


def without(request: Request, names: frozenset[bytes]) -> Request:
    """The request as it is without those fields, as equal requests are."""
    method, target, keep_alive, old, fields = request
    left = tuple([field for field in fields if field[0] not in names])
    return new_request((method, target, keep_alive, old, left))


def joined(fields: Fields) -> dict[bytes, bytes]:
    """Values by name; several lines of one name are a list (RFC 9110, section 5.3)."""
    values: dict[bytes, bytes] = {}
    for name, value in fields:
        values[name] = values[name] + b", " + value if name in values else value
    return values


class BadRequest(NamedTuple):
    """A request that cannot be answered as it wants; the connection ends with the refusal."""

    status: int
    reason: str
    target: bytes = b""
    """As far as it was read."""
    keep_alive: bool = False


new_request = partial(tuple.__new__, Request)  # 110 ns, and Request(...) 165


class RequestParser:
    """Finds the requests of one connection in what the client sends.

    Between requests it holds nothing of the connection, so one parser can serve many: those
    that have sent whole requests so far.
    """

    __slots__ = (
        "_coding", "_crowded", "_fields", "_has_content", "_hosts", "_parser", "_requests",
        "_says_connection", "_target", "ended", "said", "torn", "unfinished", "unread",
    )  # fmt: skip

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew, for another connection."""
        self._parser = httptools.HttpRequestParser(self)
        self._requests: list[Request | BadRequest] = []
        self._target = b""
        self._hosts = 0
        self._has_content = self._says_connection = self._crowded = False
        self._coding = b""
        self._fields: Fields = ()
        self.unfinished = 0
        """Bytes of a head that has no end yet."""
        self.torn = bytearray()
        """Those bytes, kept by whoever may have to read them again by another parser."""
        self.ended = False
        """Whether no request will be found any more, whatever the client sends."""
        self.unread = False
        """Whether the client is sending something all the same."""
        self.said: deque[tuple[bytes, bytes]] = deque()
        """Referer and User-Agent of each request, if this is a `TalkativeParser`."""

    def feed(self, data: bytes | bytearray) -> list[Request | BadRequest]:
        """The requests whose heads `data` completes; none after one that ends the connection."""
        requests: list[Request | BadRequest] = []
        self._requests = requests
        if self.ended:
            return requests
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The request is answered in HTTP/1.1, which RFC 9110, section 7.8 allows; what
            # follows it may be of another protocol.
            if requests:
                requests[-1] = requests[-1]._replace(keep_alive=False)
            self.ended = self.unread = True
        except httptools.HttpParserCallbackError:
            raise  # an error of Knot's own
        except httptools.HttpParserInvalidMethodError:
            if not self.ended:
                unknown = not requests and METHOD.match(data.lstrip(b"\r\n"))
                status = 501 if unknown else 400
                self._refuse(status, "the method of the request is not known here")
            self.unread = True
        except httptools.HttpParserError as error:
            # Bytes after a request that ends the connection are no error of that request.
            if not self.ended:
                self._refuse(400, str(error))
            self.unread = True
        if not self.ended and (self._target or not (requests and data.endswith(b"\r\n\r\n"))):
            self._count_unfinished(data)
        return requests

    def _count_unfinished(self, data: bytes | bytearray) -> None:
        if self._requests:
            # All that was found so far ended with an empty line, the last of them here.
            end = data.rfind(b"\n\r\n")
            data = data[end + 3 :] if end >= 0 else data.lstrip(b"\r\n")
            self.unfinished = 0
        if self.unfinished or self._target or data.strip(b"\r\n"):
            self.unfinished += len(data) or 1  # "PRI * HTTP/2.0" goes on after an empty line
        if len(self._target) > MAX_TARGET:
            self._refuse(414, f"the target of the request is longer than {MAX_TARGET} bytes")
        elif self.unfinished > MAX_HEAD:
            self._refuse(431, f"the head of the request is longer than {MAX_HEAD} bytes")

    def _refuse(self, status: int, reason: str) -> None:
        self._requests.append(BadRequest(status, reason, self._target[:MAX_TARGET]))
        self.ended = self.unread = True

    # What httptools calls

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        if name in IDLE_AS_SPELT:
            return
        known = NAMES.get(name)
        if known is HOST:
            self._hosts += 1
            if value not in _hosts_seen:
                self._check_host(value)
        elif known is None:
            lower = name.lower()
            if lower != name:
                self.on_header(lower, value)
        elif known is CONNECTION:
            self._says_connection = True
        elif known is CODING:
            self._has_content = True
            self._coding = value.lower()
        elif known is LENGTH:
            self._has_content = self._has_content or value.strip(b"0") != b""
        elif known is not ACCEPT or value.startswith(JSON):
            self._take(known, value)

    def _take(self, name: bytes, value: bytes) -> None:
        if len(self._fields) < MOST_FIELDS:
            self._fields += ((name, value),)
        else:
            self._crowded = True

    def _check_host(self, value: bytes) -> None:
        if not AUTHORITY.fullmatch(value):
            self._hosts = 2  # for what it matters: not the one that it must be
        elif len(value) < 256 and len(_hosts_seen) < 1000:
            _hosts_seen.add(value)

    def on_headers_complete(self) -> None:
        if self.ended:
            return
        parser = self._parser
        keep_alive = parser.should_keep_alive()
        old = False
        if not keep_alive or self._says_connection:  # else it is HTTP/1.1, and no need to ask
            self._says_connection = False
            version = parser.get_http_version()
            old = version == "1.0"
            if not old and version != "1.1":
                status = 400 if version == "0.9" else 505
                return self._refuse(status, "only HTTP/1.1 and HTTP/1.0 are spoken here")
        if self._hosts != 1 and (self._hosts or not old):
            return self._refuse(400, "a request has one Host field (RFC 9112, section 3.2)")
        self._hosts = 0
        target, self._target = self._target, b""
        if len(target) > MAX_TARGET:
            return self._refuse(414, f"the target is longer than {MAX_TARGET} bytes")
        if self._crowded:
            return self._refuse(431, f"no request has {MOST_FIELDS} conditions and preferences")
        if self._has_content:
            if self._coding not in (b"", b"chunked"):
                return self._refuse(501, "the only transfer coding known here is chunked")
            # No method here has a use for content, so it is not read: the connection ends.
            keep_alive = False
            self.unread = True
        fields, self._fields = self._fields, ()
        self._requests.append(new_request((parser.get_method(), target, keep_alive, old, fields)))
        self.ended = not keep_alive
        self.unfinished = 0


class AttentiveParser(RequestParser):
    """Takes further fields, too: those that are `wanted`, by their names in lower case."""

    __slots__ = ("_wanted",)

    def __init__(self, wanted: frozenset[bytes] = NO_NAMES) -> None:
        self._wanted = spelt(wanted)
        super().__init__()

    def on_header(self, name: bytes, value: bytes) -> None:
        wanted = self._wanted.get(name)
        if wanted is not None:
            self._take(wanted, value)
            super().on_header(wanted, value)
        elif name not in IDLE_AS_SPELT:
            super().on_header(name, value)  # a rare spelling comes back in lower case


class TalkativeParser(AttentiveParser):
    """Tells also what clients say of themselves, for an access log."""

    __slots__ = ("_agent", "_referer")

    def reset(self) -> None:
        self._referer = self._agent = b""
        super().reset()

    def feed(self, data: bytes | bytearray) -> list[Request | BadRequest]:
        self.said = deque()
        requests = super().feed(data)
        if len(self.said) < len(requests):  # the last was refused
            self.said.append((self._referer, self._agent))
        return requests

    def on_header(self, name: bytes, value: bytes) -> None:
        told = TOLD.get(name)
        if told is None:
            super().on_header(name, value)
        elif told is REFERER:
            self._referer = value[:MAX_SAID]
        else:
            self._agent = value[:MAX_SAID]

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.said.append((self._referer, self._agent))
        self._referer = self._agent = b""
