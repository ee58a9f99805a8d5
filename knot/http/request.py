"""Bytes to requests (RFC 9112).  No I/O: what was read goes in, requests come out.

httptools does the parsing; this file bounds it and refuses what it takes too leniently.  Its
callbacks run for each field of each request, so they do the least that they can.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from functools import partial
from ipaddress import IPv6Address
from typing import Final, NamedTuple

import httptools

from knot.http.accept import MAX_ACCEPT, prefers_json

MAX_HEAD: Final = 32 * 1024
"""Bytes of a request head; browsers send 2 KiB, nginx accepts 32."""

MAX_TARGET: Final = 8 * 1024
"""Bytes of a request target; RFC 9112, section 3 asks for 8,000 at least."""

MAX_FIELDS: Final = 32
"""Lines of fields that an answer may depend on; no client sends a dozen."""

MAX_SAID: Final = 1024
"""Bytes of Referer and of User-Agent that are logged."""

Fields = tuple[tuple[bytes, bytes], ...]

NO_NAMES: Final[frozenset[bytes]] = frozenset()

HOST: Final = b"host"
LENGTH: Final = b"content-length"
CODING: Final = b"transfer-encoding"
CONNECTION: Final = b"connection"
ACCEPT: Final = b"accept"
PREFERS_JSON: Final = (ACCEPT, b"application/json")
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
"""The fields that an answer may depend on.  Accept is another, but a request has it only if it
prefers JSON, and then always as `PREFERS_JSON`: browsers send ten forms of it, which would be ten
answers to keep."""

IGNORED_FIELDS: Final = (
    b"accept-language", b"authorization", b"cache-control", b"cookie", b"origin", b"pragma",
    b"priority", REFERER, b"sec-ch-ua", b"sec-ch-ua-mobile", b"sec-ch-ua-platform",
    b"sec-fetch-dest", b"sec-fetch-mode", b"sec-fetch-site", b"sec-fetch-user",
    b"upgrade-insecure-requests", AGENT, b"x-forwarded-for", b"x-forwarded-proto",
)  # fmt: skip
"""Fields that clients often send and that are never used: recognized as spelled, they cost no
`lower`."""


def by_spelling(names: Iterable[bytes]) -> dict[bytes, bytes]:
    """The name in lower case by each of its two usual spellings."""
    return {spelling: name for name in names for spelling in (name, name.title())}


IGNORED_SPELLINGS: Final = frozenset(by_spelling(IGNORED_FIELDS))
NAMES: Final = {
    **by_spelling((HOST, LENGTH, CODING, CONNECTION, ACCEPT, *FIELDS)),
    # llhttp takes it for the same.
    **dict.fromkeys(by_spelling((b"proxy-connection",)), CONNECTION),
}

LOGGED_FIELDS: Final = by_spelling((REFERER, AGENT))

METHOD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ ")

OPTIONS: Final = b"OPTIONS"
CONNECT: Final = b"CONNECT"

AUTHORITY: Final = re.compile(
    rb"(?P<host>(?:[0-9A-Za-z._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*+|\[(?P<literal>[^]]+)\])"
    rb"(?::0*+(?P<port>[0-9]{0,5}))?"
)
"""A host and a port (RFC 3986, section 3.2), without a user (RFC 9110, section 4.2.4)."""
IPV6: Final = re.compile(rb"[0-9A-Fa-f:.]+")
IP_FUTURE: Final = re.compile(rb"[vV][0-9A-Fa-f]+\.[0-9A-Za-z._~!$&'()*+,;=:-]+")
MAX_PORT: Final = 65535

TARGET: Final = re.compile(rb"[\x21\x22\x24-\x7e]+")
"""Visible ASCII without the number sign.  Browsers send ``|``, ``^`` and others that a URI does not
allow, as they are; a fragment is never sent (RFC 9112, section 3.2)."""
ABSOLUTE: Final = re.compile(rb"https?://([^/?]+)(?:[/?].*)?", re.IGNORECASE)

# Why requests are refused, over HTTP/1.1 and HTTP/2 alike
BAD_TARGET: Final = "the request target is not valid (RFC 9112, section 3.2)"
TOO_LONG_TARGET: Final = f"the request target is longer than {MAX_TARGET} bytes"
TOO_MANY_FIELDS: Final = f"the request has more than {MAX_FIELDS} conditions and preferences"
UNKNOWN_METHOD: Final = "the request method is not known"

NEWER: Final = re.compile(rb"(?:\A|(?<=[\r\n]))[A-Z-]+ +[^ \r\n]+ +HTTP/1\.[2-9]")
NEWER_FROM_TARGET: Final = re.compile(rb"[^\r\n]*? HTTP/1\.[2-9]")
NEWER_FROM_VERSION: Final = re.compile(rb" *(?:H?T?T?P?/?1?\.)?[2-9]")
"""A request line up to a version from HTTP/1.2 to 1.9, and what data has of it that begins before
the end of the target, or behind it."""

VERSIONS: Final = {"0.0", "0.9", "1.0", "1.1", "2.0"}
"""The versions that the parser reports before it has read one, and those that it accepts."""

SEVERAL: Final = b", "
"""A list of transfer codings; which they are does not matter."""

MAX_REMEMBERED: Final = 1000
MAX_REMEMBERED_SIZE: Final = 256
"""How many valid hosts and targets are remembered, and how long they may be, in bytes."""

_hosts_seen: set[bytes] = set()  # valid ones: a look here costs a tenth of the match
_targets_seen: set[bytes] = set()  # likewise; of the forms that every method may have
_pages_seen: set[bytes] = set()  # values of Accept that do not prefer JSON


class Request(NamedTuple):
    """A request, as far as serving a file needs it (RFC 9112, section 3).

    Equal requests get equal answers, which is why the fields are a tuple: it can be looked up.
    """

    method: bytes
    target: bytes
    keep_alive: bool = True
    """Whether the connection may be kept after the answer (RFC 9112, section 9.3)."""
    http_1_0: bool = False
    """Such a client keeps the connection only if the answer says so, too."""
    fields: Fields = ()
    """Its fields among `FIELDS`: names in lower case, and values, in the order received."""


def can_be_authority(value: bytes) -> bool:
    """Whether an http URI may have that authority (RFC 9110, section 4.2)."""
    if value in _hosts_seen:
        return True
    found = AUTHORITY.fullmatch(value)
    if found is None or not found["host"] or int(found["port"] or 0) > MAX_PORT:
        return False
    literal = found["literal"]
    if literal is not None and not can_be_literal(literal):
        return False
    if len(value) < MAX_REMEMBERED_SIZE and len(_hosts_seen) < MAX_REMEMBERED:
        _hosts_seen.add(value)
    return True


def can_be_literal(value: bytes) -> bool:
    """Whether that text is valid in brackets (RFC 3986, section 3.2.2)."""
    if not IPV6.fullmatch(value):
        return IP_FUTURE.fullmatch(value) is not None
    try:
        IPv6Address(value.decode())
    except ValueError:
        return False
    return True


def can_be_target(target: bytes, method: bytes) -> bool:
    """Whether that method may have that target (RFC 9112, section 3.2)."""
    if method == CONNECT:
        found = AUTHORITY.fullmatch(target)
        return found is not None and bool(found["port"]) and can_be_authority(target)
    if target in _targets_seen:
        return True
    if not TARGET.fullmatch(target):
        return False
    if not target.startswith(b"/"):
        if target == b"*":
            return method == OPTIONS
        absolute = ABSOLUTE.fullmatch(target)
        if absolute is None or not can_be_authority(absolute[1]):
            return False
    if len(target) < MAX_REMEMBERED_SIZE:
        if len(_targets_seen) >= MAX_REMEMBERED:
            _targets_seen.clear()  # a site may have more files, of which others are asked for now
        _targets_seen.add(target)
    return True


def without(request: Request, names: frozenset[bytes]) -> Request:
    """The request without those fields, so that it equals requests that differ in nothing else."""
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
    """A request that is refused; the connection ends with the refusal."""

    status: int
    reason: str
    target: bytes = b""
    """As far as it was read."""
    keep_alive: bool = False

    @property
    def method(self) -> bytes:
        """Empty: it may not have been read."""
        return b""

    @property
    def http_1_0(self) -> bool:
        return False


new_request = partial(tuple.__new__, Request)  # 110 ns, and Request(...) 165


class RequestParser:
    """Finds the requests of one connection in what the client sends.

    Between requests it holds nothing of the connection, so one parser can serve many: those
    that have sent whole requests so far.
    """

    __slots__ = (
        "_accept", "_asks_version", "_coding", "_fields", "_has_content", "_hosts", "_is_crowded",
        "_is_lenient", "_is_special", "_parser", "_requests", "_target", "_target_before", "ended",
        "said", "torn", "unfinished", "unread",
    )  # fmt: skip

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start again, for another connection."""
        self._parser = httptools.HttpRequestParser(self)
        self._requests: list[Request | BadRequest] = []
        self._target = b""
        self._hosts = 0
        self._is_lenient = False
        """Whether the parser takes every version."""
        self._asks_version = False
        self._has_content = self._is_crowded = False
        self._is_special = False
        """Whether there is anything that few requests have."""
        self._coding: bytes | None = None
        self._accept = b""
        self._fields: Fields = ()
        self.unfinished = 0
        """Bytes of a head that has no end yet."""
        self.torn = bytearray()
        """Those bytes, kept by the owner in case another parser has to read them again."""
        self._target_before = 0
        """The bytes of its target that came with earlier data."""
        self.ended = False
        """Whether no request will be found any more, whatever the client sends."""
        self.unread = False
        """Whether the client is sending something all the same."""
        self.said: deque[tuple[bytes, bytes]] = deque()
        """Referer and User-Agent of each request, if this is a `LoggingParser`."""

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
                requests[-1] = self._last(requests[-1])
            self.ended = self.unread = True
        except httptools.HttpParserCallbackError:
            raise  # an error of Knot's own
        except httptools.HttpParserInvalidMethodError:
            if not self.ended:
                unknown = not requests and METHOD.match(data.lstrip(b"\r\n"))
                status = 501 if unknown else 400
                self._refuse(status, UNKNOWN_METHOD)
            self.unread = True
        except httptools.HttpParserError as error:
            # Bytes after a request that ends the connection are no error of that request.
            if not self.ended:
                version = self._parser.get_http_version()
                if version not in VERSIONS and not self._is_lenient:
                    return self._feed_newer(data, version)
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
        self._target_before = len(self._target)
        if len(self._target) > MAX_TARGET:
            self._refuse(414, TOO_LONG_TARGET)
        elif self.unfinished > MAX_HEAD:
            self._refuse(431, f"the request head is longer than {MAX_HEAD} bytes")

    def _feed_newer(self, data: bytes | bytearray, version: str) -> list[Request | BadRequest]:
        """Read on after the parser has met a `version` that is too new for it.

        HTTP/1.2 to 1.9 are read as HTTP/1.1 (RFC 9110, section 2.5).  The request line goes to a
        parser that takes every version, and so do those that follow it on the connection.
        """
        requests = self._requests
        if requests or not self.unfinished:
            found = NEWER.search(data, min(len(requests), 1))  # not where another request ends
        elif len(self._target) > self._target_before:
            found = NEWER_FROM_TARGET.match(data)
        else:
            found = NEWER_FROM_VERSION.match(data)
        major, _, minor = version.partition(".")
        if major != "1" or found is None:
            self._refuse_version(major)
            return requests
        target, self._target = self._target, b""
        line = b"%b %b HTTP/1.%b" % (self._parser.get_method(), target, minor.encode())
        self._parser = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_version=True)
        self._is_lenient = self._asks_version = True
        self.unfinished = 0
        return requests + RequestParser.feed(self, line + data[found.end() :])

    def _refuse_version(self, major: str) -> None:
        # HTTP/0.9 has no version on its line, and nothing else was ever called HTTP/0.
        status = 400 if major in ("0", "1") else 505
        self._refuse(status, "only HTTP/1.0 and HTTP/1.1 are supported here")

    def _last(self, request: Request | BadRequest) -> Request | BadRequest:
        """`request` as one that ends the connection because it asks for another protocol."""
        if isinstance(request, Request) and not can_be_target(request.target, request.method):
            return BadRequest(400, BAD_TARGET, request.target)
        return request._replace(keep_alive=False)

    def _refuse(self, status: int, reason: str) -> None:
        self._requests.append(BadRequest(status, reason, self._target[:MAX_TARGET]))
        self.ended = self.unread = True

    # What httptools calls

    def on_url(self, target: bytes) -> None:
        self._target += target
        self._accept = b""  # that of the request before

    def on_header(self, name: bytes, value: bytes) -> None:
        if name in IGNORED_SPELLINGS:
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
            self._asks_version = True
        elif known is ACCEPT:
            if self._accept or value not in _pages_seen:
                self._is_special = True
                if self._accept:  # several lines are a list, and too long if the first is
                    value = self._accept[: MAX_ACCEPT + 1] + b", " + value
            self._accept = value
        elif known is CODING:
            self._is_special = self._has_content = True
            self._coding = value.lower() if self._coding is None else SEVERAL
        elif known is LENGTH:
            if value.strip(b"0"):
                self._is_special = self._has_content = True
        else:
            self._take(known, value)

    def _take(self, name: bytes, value: bytes) -> None:
        if len(self._fields) < MAX_FIELDS:
            self._fields += ((name, value),)
        else:
            self._is_special = self._is_crowded = True

    def _check_host(self, value: bytes) -> None:
        # It is empty for what has no authority (RFC 9110, section 7.2).
        if value and not can_be_authority(value):
            self._hosts = 2  # for what it matters: not the one that it must be

    def on_headers_complete(self) -> None:
        if self.ended:
            return
        parser = self._parser
        keep_alive = parser.should_keep_alive()
        old = False
        if not keep_alive or self._asks_version:  # else it is HTTP/1.1, and no need to ask
            self._asks_version = self._is_lenient
            version = parser.get_http_version()
            old = version == "1.0"
            if not version.startswith("1."):
                return self._refuse_version(version[0])
        if self._hosts != 1 and (self._hosts or not old):
            return self._refuse(
                400, "a request must have one valid Host field (RFC 9112, section 3.2)"
            )
        self._hosts = 0
        target = self._target
        if target not in _targets_seen:
            if len(target) > MAX_TARGET:
                return self._refuse(414, TOO_LONG_TARGET)
            if not can_be_target(target, parser.get_method()):
                return self._refuse(400, BAD_TARGET)
        fields, self._fields = self._fields, ()
        if self._is_special:
            self._is_special = False
            if self._is_crowded:
                return self._refuse(431, TOO_MANY_FIELDS)
            if self._accept:
                fields += self._preference()
            if self._has_content:
                if self._coding is not None and old:
                    why = "HTTP/1.0 has no transfer codings (RFC 9112, section 6.1)"
                    return self._refuse(400, why)
                if self._coding not in (None, b"chunked"):
                    return self._refuse(501, "the only supported transfer coding is chunked")
                # No method here has a use for content, so it is not read: the connection ends.
                keep_alive = False
                self.unread = True
        self._target = b""
        self._requests.append(new_request((parser.get_method(), target, keep_alive, old, fields)))
        self.ended = not keep_alive
        self.unfinished = 0

    def _preference(self) -> Fields:
        value = self._accept
        if prefers_json(value):
            return (PREFERS_JSON,)
        if len(value) <= MAX_ACCEPT:
            if len(_pages_seen) >= MAX_REMEMBERED:
                _pages_seen.clear()
            _pages_seen.add(value)
        return ()


class ExtraFieldsParser(RequestParser):
    """Takes further fields, too: those that are `wanted`, by their names in lower case."""

    __slots__ = ("_wanted",)

    def __init__(self, wanted: frozenset[bytes] = NO_NAMES) -> None:
        self._wanted = by_spelling(wanted)
        super().__init__()

    def on_header(self, name: bytes, value: bytes) -> None:
        wanted = self._wanted.get(name)
        if wanted is not None:
            self._take(wanted, value)
            super().on_header(wanted, value)
        elif name not in IGNORED_SPELLINGS:
            super().on_header(name, value)  # a rare spelling comes back in lower case


class LoggingParser(ExtraFieldsParser):
    """Keeps Referer and User-Agent as well, for an access log."""

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
        told = LOGGED_FIELDS.get(name)
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
