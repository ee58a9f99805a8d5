"""Bytes to requests (RFC 9112).  No I/O: what was read goes in, requests come out.

httptools does the parsing; this file bounds it and refuses what it takes too leniently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import httptools

MAX_HEAD: Final = 32 * 1024
"""Bytes of an unfinished head that are waited for; browsers send 2 KiB, nginx takes 32."""


MAX_TARGET: Final = 8 * 1024
"""Bytes of a request target; RFC 9112, section 3 asks for 8,000 at least."""

FIELDS: Final = frozenset(
    {
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"range",
    }
)
"""The fields that an answer may depend on; the others are not kept."""

NO_FIELDS: Final[Mapping[bytes, bytes]] = MappingProxyType({})

METHOD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ ")


class Request(NamedTuple):
    """What a request asks for, as far as serving a file needs it (RFC 9112, section 3)."""

    method: bytes
    target: bytes
    keep_alive: bool
    """Whether the connection may be kept after the answer (RFC 9112, section 9.3)."""
    http_1_0: bool = False
    """Such a client keeps the connection only if the answer says so, too."""
    fields: Mapping[bytes, bytes] = NO_FIELDS
    """Those of `FIELDS` that it has, in lower case; several lines of one are joined (5.3)."""


class BadRequest(NamedTuple):
    """A request that cannot be answered as it wants; the connection ends with the refusal."""

    status: int
    reason: str
    keep_alive: bool = False


class RequestParser:
    """Finds the requests of one connection in what the client sends."""

    __slots__ = (
        "_fields", "_has_content", "_hosts", "_in_head", "_parser", "_requests", "_target",
        "_unfinished", "ended", "unread",
    )  # fmt: skip

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._requests: list[Request | BadRequest] = []
        self._unfinished = 0  # bytes of a head that has no end yet
        self._in_head = False
        self._target = b""
        self._hosts = 0
        self._has_content = False
        self._fields: dict[bytes, bytes] | None = None
        self.ended = False
        """Whether no request will be found any more, whatever the client sends."""
        self.unread = False
        """Whether the client is sending something all the same."""

    def feed(self, data: bytes) -> list[Request | BadRequest]:
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
        if self._in_head:
            self._unfinished += len(data)
            if len(self._target) > MAX_TARGET:
                self._refuse(414, f"the target of the request is longer than {MAX_TARGET} bytes")
            elif self._unfinished > MAX_HEAD:
                self._refuse(431, f"the head of the request is longer than {MAX_HEAD} bytes")
        return requests

    def _refuse(self, status: int, reason: str) -> None:
        self._requests.append(BadRequest(status, reason))
        self.ended = self.unread = True

    # What httptools calls

    def on_message_begin(self) -> None:
        self._in_head = True
        self._unfinished = 0
        self._target = b""
        self._hosts = 0
        self._has_content = False
        self._fields = None

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"host":
            self._hosts += 1
        elif name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            self._has_content = True
        elif name in FIELDS:
            fields = self._fields
            if fields is None:
                fields = self._fields = {}
            fields[name] = fields[name] + b", " + value if name in fields else value

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self.ended:
            return
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            status = 400 if version == "0.9" else 505
            self._refuse(status, "only HTTP/1.1 and HTTP/1.0 are spoken here")
        elif self._hosts != 1 and (self._hosts or version == "1.1"):
            self._refuse(400, "a request has one Host field (RFC 9112, section 3.2)")
        elif len(self._target) > MAX_TARGET:
            self._refuse(414, f"the target of the request is longer than {MAX_TARGET} bytes")
        else:
            # No method here has a use for content, so it is not read: the connection ends.
            keep_alive = self._parser.should_keep_alive() and not self._has_content
            method = self._parser.get_method()
            fields = NO_FIELDS if self._fields is None else self._fields
            old = version == "1.0"
            self._requests.append(Request(method, self._target, keep_alive, old, fields))
            self.ended = not keep_alive
            self.unread = self._has_content
