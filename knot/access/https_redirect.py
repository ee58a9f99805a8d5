"""From HTTP to HTTPS: how a port without TLS answers beside one with TLS.  No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from knot.access.gate import Client, Gate
from knot.files.representation import Representation
from knot.files.site import (
    Found,
    NotServed,
    Site,
    file_name,
)
from knot.http.request import AUTHORITY, HOST, BadRequest, Request
from knot.http.responder import Deferred, Responder, Response, authority_of, split_target

CHALLENGES: Final = b".well-known/acme-challenge/"
"""The path of files that a certificate authority requests over HTTP before there is a certificate
(RFC 8555, section 8.3)."""

HTTPS: Final = 443


class HttpsRedirect:
    """A gate that sends clients without TLS to the same target with it, and lets others through."""

    def __init__(self, port: int, plain: Responder, secure: Gate, challenges: Gate) -> None:
        """`port` is that of HTTPS; `secure` answers clients with TLS, `plain` makes the redirects;
        `challenges` answers requests for the token of a challenge."""
        self._port = b"" if port == HTTPS else b":%d" % port
        self._plain = plain
        self._secure = secure
        self._challenges = challenges

    def __call__(
        self, peer: Client, request: Request | BadRequest, now: float
    ) -> Response | Deferred:
        if peer.tls is not None:
            return self._secure(peer, request, now)
        if isinstance(request, BadRequest):
            return self._plain.respond(request, now)
        path, query = split_target(request.target)
        if request.method in (b"GET", b"HEAD") and token_of(path):
            return self._challenges(peer, request, now)
        host = host_name(authority_of(request.target) or dict(request.fields).get(HOST, b""))
        if not (host and AUTHORITY.fullmatch(host) and path.startswith(b"/")):
            why = "this site is served over HTTPS, and the request names no host"
            return self._plain.refuse(request, now, 400, why=why)
        location = b"Location: https://%b%b%b%b\r\n" % (host, self._port, path, query)
        return self._plain.refuse(request, now, 301, location)


class Challenges:
    """What is served without TLS: the tokens of challenges, and nothing else.

    Passwords do not apply here, so there is no fallback: no index, no listing, no other page.
    """

    opened = misses = 0

    def __init__(self, *sites: Site) -> None:
        """The first site that has a token is used."""
        self._sites = sites
        self.changed: list[Callable[[], object]] = []

    def find(self, path: bytes, second: int) -> Found:
        found: Representation | NotServed = NotServed(404)
        token = token_of(path)
        for site in self._sites if token else ():
            found = site.find_entry(CHALLENGES, token)
            if isinstance(found, Representation):
                break
        return found

    def find_file(self, name: bytes, second: int) -> Representation | None:
        return None

    def look(self) -> None:
        """The sites check themselves."""

    def read(self, cold: Representation) -> Representation | NotServed:
        return self._sites[0].read(cold)

    def replace(self, found: Representation, cold: Representation, read: Representation) -> None:
        """Keeps nothing."""

    def copies(self, found: Representation, second: int) -> Mapping[bytes, Representation]:
        return {}

    def compressed(self, found: Representation, coding: bytes) -> Representation | None:
        return None


def token_of(path: bytes) -> bytes:
    """The name below `CHALLENGES` that the path of a URL leads to, however it is written; empty
    for every other path."""
    name = file_name(path) or b""
    token = name.removeprefix(CHALLENGES)
    return b"" if token == name or b"/" in token or token.startswith(b".") else token


def host_name(authority: bytes) -> bytes:
    """The host of an authority (RFC 3986, section 3.2), without its port."""
    if authority.startswith(b"["):
        return authority.partition(b"]")[0] + b"]"
    return authority.partition(b":")[0]
