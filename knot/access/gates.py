"""Who may have what: gates in front of a site, each of which refuses or asks the one behind it.

From the outside in: a `Doorkeeper` looks at who the client is, and knows nothing of sites;
`VirtualHosts` (`virtual_hosts.py`) finds the site; the site's `BasicAuth` requires a password.  No
I/O: a file of passwords is read by `passwords.py`, and connections are counted where they are
accepted.
"""

from __future__ import annotations

from time import monotonic, time
from typing import TYPE_CHECKING, Final, Protocol

from knot.access.forwarded import Forwarded
from knot.access.gate import Client, Gate, Who
from knot.access.networks import Networks, client_at
from knot.access.rates import Rates
from knot.http.request import NO_NAMES, BadRequest, Request, without
from knot.http.responder import Deferred, Responder, Response

if TYPE_CHECKING:
    from knot.access.passwords import Outcome, Passwords  # it needs bcrypt, which is an extra

AUTHORIZATION: Final = b"authorization"

CHALLENGE: Final = b'WWW-Authenticate: Basic realm="Knot", charset="UTF-8"\r\n'
"""RFC 7617, sections 2 and 2.1."""


class SiteGate(Protocol):
    """A gate that also knows the user of a request, for the log."""

    def __call__(
        self, peer: Client, request: Request | BadRequest, now: float
    ) -> Response | Deferred:
        """Answer."""

    def user(self, request: Request) -> bytes:
        """The authenticated user; empty if there is none."""


class BasicAuth:
    """A gate in front of one site that requires a password, if the site has any."""

    def __init__(
        self,
        responder: Responder,
        passwords: Passwords | None = None,
        unwanted: frozenset[bytes] = NO_NAMES,
    ) -> None:
        """`unwanted` are the fields that gates look at and sites are not to see, as equal requests
        get equal answers."""
        self._responder = responder
        self._passwords = passwords
        self._unwanted = unwanted

    def __call__(
        self, peer: Client, request: Request | BadRequest, now: float
    ) -> Response | Deferred:
        passwords = self._passwords
        if passwords is None or isinstance(request, BadRequest) or self._is_preflight(request):
            return self._answer(request, now)
        passwords.look(now)
        if not passwords.are_there:
            why = "the passwords cannot be read at the moment"
            return self._responder.refuse(request, now, 503, why=why)
        credentials = credentials_of(request)
        outcome = passwords.known(credentials)
        if outcome is not None:
            return self._decide(request, now, outcome)
        find = passwords.begin(credentials)
        if find is None:
            why = "too many passwords are being checked"
            return self._responder.refuse(request, now, 503, why=why)

        def finish(outcome: Outcome) -> Response | Deferred:
            passwords.keep(credentials, outcome)
            return self._decide(request, time(), outcome)

        return Deferred(find, finish)

    def _is_preflight(self, request: Request) -> bool:
        """Browsers ask without a password whether scripts may ask with one (Fetch, 3.3.5)."""
        return request.method == b"OPTIONS" and self._responder.rules.cors

    def _decide(self, request: Request, now: float, outcome: Outcome) -> Response | Deferred:
        return self._answer(request, now) if outcome.right else self._refuse(request, now)

    def _answer(self, request: Request | BadRequest, now: float) -> Response | Deferred:
        if self._unwanted and isinstance(request, Request):
            request = without(request, self._unwanted)
        return self._responder.respond(request, now)

    def _refuse(self, request: Request, now: float) -> Response:
        why = "a name and a password are required"
        return self._responder.refuse(request, now, 401, CHALLENGE, why)

    def user(self, request: Request) -> bytes:
        if self._passwords is None:
            return b""
        outcome = self._passwords.known(credentials_of(request))
        return outcome.name if outcome is not None and outcome.right else b""


def credentials_of(request: Request) -> bytes:
    """The value of Authorization; empty if it occurs twice."""
    values = [value for name, value in request.fields if name == AUTHORIZATION]
    return values[0] if len(values) == 1 else b""


class Doorkeeper:
    """A gate in front of all sites that looks at the client's address and rate."""

    def __init__(
        self,
        responder: Responder,
        behind: Gate,
        *,
        trusted: Networks | None = None,
        allowed: Networks | None = None,
        denied: Networks | None = None,
        rates: Rates | None = None,
    ) -> None:
        """The `responder` makes the refusals."""
        self._responder = responder
        self._behind = behind
        self._forwarded = None if trusted is None else Forwarded(trusted.have)
        self._allowed = allowed
        self._denied = denied
        self._rates = rates

    def client(self, address: str, request: Request | BadRequest) -> str:
        """The address of the client whose request came by a connection from `address`."""
        if self._forwarded is None or isinstance(request, BadRequest):
            return address
        return self._forwarded.client(address, request.fields)

    def __call__(
        self, peer: Client, request: Request | BadRequest, now: float
    ) -> Response | Deferred:
        client = peer.address
        if self._forwarded is not None:
            client = self.client(client, request)
        if self._denied is not None and self._denied.have(client):
            return self._forbid(request, now)
        if self._allowed is not None and not self._allowed.have(client):
            return self._forbid(request, now)
        if self._rates is not None:
            wait = self._rates.wait(client_at(client), monotonic())
            if wait:
                field = b"Retry-After: %d\r\n" % wait
                why = "too many requests from your address"
                return self._responder.refuse(request, now, 429, field, why)
        return self._behind(peer, request, now)

    def _forbid(self, request: Request | BadRequest, now: float) -> Response:
        return self._responder.refuse(request, now, 403, why="not from where you are")


def introducer(doorkeeper: Doorkeeper | None, inner: SiteGate) -> Who:
    """Finds the client and user of a request, for the log."""

    def who(address: str, request: Request | BadRequest) -> tuple[str, bytes]:
        if isinstance(request, BadRequest):
            return address, b""
        client = address if doorkeeper is None else doorkeeper.client(address, request)
        return client, inner.user(request)

    return who
