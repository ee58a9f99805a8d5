"""Several sites at one address, distinguished by the host that a request names.  No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from knot.access.gate import Client
from knot.access.gates import SiteGate
from knot.access.https_redirect import host_name
from knot.http.request import HOST, BadRequest, Request
from knot.http.responder import Deferred, Response, authority_of

NAME: Final = re.compile(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]")

MAX_REMEMBERED: Final = 1024
"""Spellings of hosts whose sites are remembered."""


def pattern(text: str) -> str:
    """A host, or ``*.`` and one whose subdomains are meant, as requests name it: in lower case, and
    in ASCII (RFC 5890).  Raises `ValueError` for anything else."""
    name = text.lower().removesuffix(".")
    if not name.isascii():
        star, name = ("*.", name[2:]) if name.startswith("*.") else ("", name)
        try:
            name = star + name.encode("idna").decode()
        except UnicodeError:
            raise ValueError(f"{text!r} is not a valid host") from None
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{text!r} is not a valid host; use a name without port, such as example.org, or"
            " *.example.org for all its subdomains"
        )
    return name


class VirtualHosts:
    """A gate that asks the one of the site that the request is for."""

    def __init__(self, default: SiteGate, others: Mapping[str, SiteGate]) -> None:
        """`others` are by `pattern`; a host that fits none of them is the `default` one's."""
        self._default = default
        self._exact = {n.encode(): gate for n, gate in others.items() if n[0] != "*"}
        self._below = {n[2:].encode(): gate for n, gate in others.items() if n[0] == "*"}
        self._found: dict[bytes, SiteGate] = {}

    def __call__(
        self, peer: Client, request: Request | BadRequest, now: float
    ) -> Response | Deferred:
        if isinstance(request, BadRequest):
            return self._default(peer, request, now)
        return self.site(request)(peer, request, now)

    def user(self, request: Request) -> bytes:
        return self.site(request).user(request)

    def site(self, request: Request) -> SiteGate:
        """The gate of the host in the target, else in the Host field (RFC 9112, section 3.2.2)."""
        target = request.target
        authority = b"" if target.startswith(b"/") else authority_of(target)
        if not authority:
            for name, value in request.fields:
                if name == HOST:
                    authority = value
                    break
        found = self._found.get(authority)
        if found is None:
            found = self._find(host_name(authority).lower().removesuffix(b"."))
            if len(self._found) >= MAX_REMEMBERED or len(authority) > 255:
                return found
            self._found[authority] = found
        return found

    def _find(self, name: bytes) -> SiteGate:
        """An exact name goes before any other, and a longer pattern before a shorter one."""
        found = self._exact.get(name)
        while found is None and name:
            name = name.partition(b".")[2]
            found = self._below.get(name)
        return found or self._default
