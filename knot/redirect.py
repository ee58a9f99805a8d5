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

    def __init__(
        self, port: int, plain: Responder, secure: Gate, unwanted: frozenset[bytes]
    ) -> None:
        """`port` is that of HTTPS; `plain` answers clients without TLS, `secure` those with it;
        `unwanted` are the fields that gates look at, Host among them."""
        self._port = b"" if port == HTTPS else b":%d" % port
        self._plain = plain
        self._secure = secure
        self._unwanted = unwanted

    def __call__(self, peer: Peer, request: Request | BadRequest, now: float) -> Response | Later:
        if peer.tls is not None:
            return self._secure(peer, request, now)
        if isinstance(request, BadRequest):
            return self._plain.respond(request, now)
        path, query = split_target(request.target)
        if path.startswith(CHALLENGE):
            return self._plain.respond(without(request, self._unwanted), now)
        host = host_name(authority_of(request.target) or dict(request.fields).get(HOST, b""))
        if not (host and path.startswith(b"/")):
            why = "this is served over HTTPS, and the request does not say from which host"
            return self._plain.refuse(request, now, 400, why=why)
        location = b"Location: https://%b%b%b%b\r\n" % (host, self._port, path, query)
        return self._plain.refuse(request, now, 301, location)


def host_name(authority: bytes) -> bytes:
    """Of an authority as RFC 3986, section 3.2 has it, without its port."""
    if authority.startswith(b"["):
        return authority.partition(b"]")[0] + b"]"
    return authority.partition(b":")[0]
