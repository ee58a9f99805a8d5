"""Gates, which answer in place of a site where it matters who asks.  Types only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from knot.http.request import BadRequest, Request
from knot.http.responder import Deferred, Response


class Client(Protocol):
    """What a gate may know of the connection that a request came by."""

    @property
    def address(self) -> str:
        """The client's, without a port."""

    @property
    def tls(self) -> object | None:
        """What encrypts the connection, if anything does."""


Gate = Callable[[Client, Request | BadRequest, float], Response | Deferred]
"""Answers at that time, in seconds since the epoch: it refuses, or passes the request on."""

Who = Callable[[str, Request | BadRequest], tuple[str, bytes]]
"""From the address of a connection, and a request that came by it, to the client's address and the
name of its user, for the access log."""

Respond = Callable[[Request | BadRequest, float], Response | Deferred]

Front = tuple[Gate | None, Respond]
"""What answers requests: the gate if there is one, else the responder.  It is replaced as a whole
when the configuration changes; a request is answered by the front that it was read for."""
