"""Bytes to requests (RFC 9112).  No I/O: what was read goes in, requests come out.

httptools does the parsing; this file bounds it and refuses what it takes too leniently.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import httptools

MAX_HEAD: Final = 32 * 1024
"""Bytes of an unfinished head that are waited for; browsers send 2 KiB, nginx takes 32."""


class Request(NamedTuple):
    """What a request asks for, as far as serving a file needs it (RFC 9112, section 3)."""

    method: bytes
    target: bytes
    keep_alive: bool
    """Whether the connection may be kept after the answer (RFC 9112, section 9.3)."""
    http_1_0: bool = False
    """Such a client keeps the connection only if the answer says so, too."""


class BadRequest(NamedTuple):
    """A request that cannot be answered as it wants; the connection ends with the refusal."""

    status: int
    reason: str
    keep_alive: bool = False


class RequestParser:
    """Finds the requests of one connection in what the client sends."""

    __slots__ = (
        "_has_content", "_hosts", "_in_head", "_parser", "_requests", "_target", "_unfinished",
        "ended", "unread",
    )  # fmt: skip

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._requests: list[Request | BadRequest] = []
        self._unfinished = 0  # bytes of a head that has no end yet
        self._in_head = False
        self._target = b""
        self._hosts = 0
        self._has_content = False
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
        except httptools.HttpParserError as error:
            # Bytes after a request that ends the connection are no error of that request.
            if not self.ended:
                self._refuse(400, str(error))
            self.unread = True
        if self._in_head:
            self._unfinished += len(data)
            if self._unfinished > MAX_HEAD:
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

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"host":
            self._hosts += 1
        elif name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            self._has_content = True

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
        else:
            # No method here has a use for content, so it is not read: the connection ends.
            keep_alive = self._parser.should_keep_alive() and not self._has_content
            method = self._parser.get_method()
            self._requests.append(Request(method, self._target, keep_alive, version == "1.0"))
            self.ended = not keep_alive
            self.unread = self._has_content
