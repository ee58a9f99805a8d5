"""What all the connections of a server share.  Each concurrency model adds what it needs."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from time import time
from typing import TYPE_CHECKING, Final, Protocol

from knot.access.gate import Front, Gate, Respond, Who
from knot.files.representation import Slice
from knot.http.request import (
    NO_NAMES,
    BadRequest,
    ExtraFieldsParser,
    LoggingParser,
    Request,
    RequestParser,
)
from knot.http.responder import Responder, Response, length_of
from knot.limits import Limits
from knot.models.peer import (
    Connection,
    cut,
    name_of,
    socket_of,
)
from knot.monitor.access_log import AccessLog, Record

if TYPE_CHECKING:
    from knot.access.rates import ConnectionLimit

log = logging.getLogger("knot")


Asked = tuple[Iterator[Request | BadRequest], float, deque[tuple[bytes, bytes]], bool, Front]
"""What one read has brought: the requests that have no answer yet, when that was, what the client
says of itself with each, whether it sends something that nobody will look at, and what answers."""

Unsent = deque[memoryview | Slice]
"""What of a response has not been sent yet."""

NOTHING: Final[Unsent] = deque()


class Note(Protocol):
    def __call__(
        self,
        address: str,
        request: Request | BadRequest,
        response: Response,
        asked: Asked,
        unsent: Unsent = NOTHING,
        version: bytes = b"HTTP/1.1",
        /,
    ) -> None: ...


class Server:
    """What all the connections share; each model adds what it needs."""

    def __init__(
        self,
        responder: Responder,
        limits: Limits | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        self.responder = responder
        self.respond = self.respond_by(responder)
        self.limits = limits or Limits()
        self.log = access_log
        self.gate: Gate | None = None
        self.front: Front = None, self.respond
        self.wanted = NO_NAMES
        self.who: Who | None = None
        self.connection_limit: ConnectionLimit | None = None
        self.proxies: Callable[[str], bool] | None = None
        """Whether a client at that address begins with a PROXY header, which says who it is."""
        self.on_sent: Note | None = self.note if access_log is not None else None
        """Called with each answer that has gone out, or as much of it as the client took; None if
        nobody wants to know."""
        self.turned_away = 0
        """Clients that were too many."""
        self.on_sweep: Callable[[], object] = bool
        """Called once every `SWEEP` seconds, by what serves the clients."""
        self.peers: set[Connection] = set()
        self.parser = self.new_parser()
        """For every client whose requests have come whole."""
        self.stopping = False
        self.gently = False
        """Whether, although it stops, a client whose connection stays gets one more answer."""
        self.most_requests = self.limits.requests
        """On one connection; 0 when the server stops."""
        self.began: Callable[[], object] = bool
        """Called when clients are served, on the main thread."""
        self.ended: Callable[[], object] = bool
        """Called when nobody is served any more."""
        self.when_deserted: list[Callable[[], object]] = []
        """Called when the last client has gone."""
        self.watched: list[Callable[[], object]] = []
        """Called every `SWEEP` seconds."""
        self.has_all: Callable[[], bool] = lambda: True
        """Whether all that is to be served is there."""

    def new_parser(self) -> RequestParser:
        if self.log is not None and self.log.wants_more:
            return LoggingParser(self.wanted)
        return ExtraFieldsParser(self.wanted) if self.wanted else RequestParser()

    def guard(self, gate: Gate, wanted: frozenset[bytes] = NO_NAMES) -> None:
        """Have `gate` asked in place of the responder, and the fields that it has `wanted`, by
        their names in lower case, among those of each request.  Before anybody is served."""
        self.gate, self.wanted = gate, wanted
        self.front = gate, self.respond
        self.parser = self.new_parser()

    def respond_by(self, responder: Responder) -> Respond:
        return responder.respond

    def adopt(self, other: Server) -> None:
        """Serve from now on as `other` would, which nobody has asked anything yet.

        Requests that were read before are answered as before.
        """
        parses_alike = (type(other.parser), other.wanted) == (type(self.parser), self.wanted)
        self.responder, self.respond = other.responder, self.respond_by(other.responder)
        self.limits, self.log, self.who = other.limits, other.log, other.who
        self.connection_limit, self.proxies = other.connection_limit, other.proxies
        self.watched, self.has_all = other.watched, other.has_all
        if other.gate is None:
            self.gate, self.wanted = None, NO_NAMES
            self.front = None, self.respond
            self.parser = self.new_parser()
        else:
            self.guard(other.gate, other.wanted)
        if not self.stopping:
            self.most_requests = self.limits.requests
        self.on_sent = self.note if self.log is not None else None
        for peer in list(self.peers):
            if self.wants_addresses and not peer.address:
                peer.address = find_address(peer)
            if self.connection_limit is not None:
                self.connection_limit.count(peer.address)
            if peer.parser is not None and not parses_alike:
                read_again(peer, self)

    @property
    def wants_addresses(self) -> bool:
        """Whether it matters which client it is."""
        return any(
            user is not None for user in (self.log, self.gate, self.connection_limit, self.proxies)
        )

    def note(
        self,
        address: str,
        request: Request | BadRequest,
        response: Response,
        asked: Asked,
        unsent: Unsent = NOTHING,
        version: bytes = b"HTTP/1.1",
    ) -> None:
        """Put a line into the access log; it is written a little later, together with others.

        `unsent` is what the client did not take.
        """
        if self.log is None:  # which another thread may have switched off meanwhile
            return
        now = time()
        method = b""
        if isinstance(request, Request):
            method = request.method
            version = b"HTTP/1.0" if request.http_1_0 else version
        if not self.log.pending:
            self.flush_later()
        client, user = (address, b"") if self.who is None else self.who(address, request)
        _, when, said, _, _ = asked
        referer, agent = said.popleft() if said else (b"", b"")
        size = max(0, response.length - sum(map(length_of, unsent)))
        self.log.add(
            Record(
                now, client, method, request.target, version, response.status, size, referer,
                agent, max(0.0, now - when), user,  # the clock may have been set back
            )
        )  # fmt: skip

    def flush_later(self) -> None:
        """A first line is pending: the log is to be flushed after `LOG_DELAY` seconds."""
        raise NotImplementedError


def read_again(peer: Connection, server: Server) -> None:
    """Have the head that is unfinished read by another parser: the gates that are there now may
    want fields which the one that has begun it does not take."""
    assert peer.parser is not None
    torn = peer.parser.torn
    peer.parser = server.new_parser()
    if peer.parser.feed(torn) or peer.parser.ended or not peer.parser.unfinished:
        peer.parser.ended = True  # a line ends where nobody takes it for an end
        cut(peer)
    peer.parser.torn = torn


def find_address(peer: Connection) -> str:
    """Of a client that was accepted when addresses did not matter."""
    try:
        with socket_of(peer) as end:
            return name_of(end.getpeername())
    except OSError:  # it has gone
        cut(peer)
        return ""
