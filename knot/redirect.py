"""From HTTP to HTTPS: what a port without TLS answers beside one that has it.  No I/O."""

from __future__ import annotations

from typing import Final

from knot.models.connection import Gate, Peer
from knot.request import HOST, BadRequest, Request, without
from knot.respond import Later, Responder, Response, authority_of, split_target

CHALLENGE: Final = b"/.well-known/acme-challenge/"
"""What an authority asks for over HTTP before there is a certificate (RFC 8555, section 8.3)."""

HTTPS: Final = 443


class Redirect:
    """A gate that sends clients without TLS to the same target with it, and lets others through."""

    wanted: Final = frozenset({HOST})

    def __init__(self, port: int, plain: Responder, secure: Gate) -> None:
        """`port` is that of HTTPS; `plain` answers clients without TLS, `secure` those with it."""
        self._port = b"" if port == HTTPS else b":%d" % port
        self._plain = plain
        self._secure = secure

    def __call__(self, peer: Peer, request: Request | BadRequest, now: float) -> Response | Later:
        if peer.tls is not None:
            return self._secure(peer, request, now)
        if isinstance(request, BadRequest):
            return self._plain.respond(request, now)
        path, query = split_target(request.target)
        if path.startswith(CHALLENGE):
            return self._plain.respond(without(request, self.wanted), now)
        host = host_name(authority_of(request.target) or dict(request.fields).get(HOST, b""))
        if not (host and path.startswith(b"/")):
            why = "this is served over HTTPS, and the request does not say from which host"
            return self._plain.refuse(request, now, 400, why=why)
        location = b"Location: https://%b%b%b%b\r\n" % (host, self._port, path, query)
        return self._plain.refuse(request, now, 301, location)


def open_gate(responder: Responder) -> Gate:
    """One that lets everybody through."""

    def gate(_: Peer, request: Request | BadRequest, now: float) -> Response | Later:
        if isinstance(request, Request):
            request = without(request, Redirect.wanted)
        return responder.respond(request, now)

    return gate


def host_name(authority: bytes) -> bytes:
    """Of an authority as RFC 3986, section 3.2 has it, without its port."""
    if authority.startswith(b"["):
        return authority.partition(b"]")[0] + b"]"
    return authority.partition(b":")[0]
