"""What all the connections of a server share, and what is reported of each response.

Each concurrency model adds its own to `Server`.  Nothing here reads or sends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

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
from knot.models.peer import Connection, cut, name_of, socket_of

if TYPE_CHECKING:
    from knot.access.rates import ConnectionLimit
    from knot.monitor.access_log import AccessLog

Asked = tuple[Iterator[Request | BadRequest], float, deque[tuple[bytes, bytes]], bool, Front]
"""What one read has brought: the requests that are not answered yet, the time of the read, Referer
and User-Agent of each, whether the client sends something that nobody will read, and what answers.

A plain tuple, which is always unpacked: a named one costs 150 ns more for each request."""

Unsent = deque[memoryview | Slice]
"""What is left to send of a response."""

NOTHING: Final[Unsent] = deque()


class Sent(NamedTuple):
    """A response that was sent, or as much of it as the client took; for the log and the counts."""

    address: str
    """That the connection is from."""
    request: Request | BadRequest
    response: Response
    when: float
    """When the request was read, in seconds since the epoch."""
    said: tuple[bytes, bytes] = (b"", b"")
    """Referer and User-Agent."""
    unsent: Unsent = NOTHING
    """What the client did not take."""
    version: bytes = b"HTTP/1.1"

    @property
    def size(self) -> int:
        """Bytes of content that the client took."""
        return max(0, self.response.length - sum(map(length_of, self.unsent)))


new_sent = partial(tuple.__new__, Sent)  # half the time of Sent(...)


def nothing() -> None:
    """In place of a callback, where there is none."""


class Server:
    """What all the connections share; each model adds what it needs."""

    def __init__(
        self,
        responder: Responder,
        limits: Limits | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        # The configuration; `adopt` replaces it while clients are served.
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
        """Whether connections from an address begin with a PROXY header, which names the client."""

        # The connections
        self.peers: set[Connection] = set()
        self.parser = self.new_parser()
        """For all clients whose requests have come whole."""
        self.turned_away = 0
        """Clients that were too many."""
        self.most_requests = self.limits.requests
        """On one connection; 0 when the server stops."""
        self.stopping = False
        self.gently = False
        """Whether each client that is still connected gets one more response while it stops."""

        # Callbacks
        self.on_sent: Callable[[Sent], None] | None = self.note if access_log is not None else None
        """Called with each response that was sent."""
        self.on_sweep: Callable[[], object] = nothing
        """Called every `SWEEP` seconds, by the thread or loop that serves the clients."""
        self.watched: list[Callable[[], object]] = []
        """Called every `SWEEP` seconds, before that."""
        self.began: Callable[[], object] = nothing
        """Called when clients are served, on the main thread."""
        self.ended: Callable[[], object] = nothing
        """Called when no client is served any more."""
        self.when_deserted: list[Callable[[], object]] = []
        """Called when the last client has gone."""
        self.has_all: Callable[[], bool] = lambda: True
        """Whether everything that is to be served is there."""

    def new_parser(self) -> RequestParser:
        if self.log is not None and self.log.wants_more:
            return LoggingParser(self.wanted)
        return ExtraFieldsParser(self.wanted) if self.wanted else RequestParser()

    def guard(self, gate: Gate, wanted: frozenset[bytes] = NO_NAMES) -> None:
        """Have `gate` answer in place of the responder; `wanted` are the names of the fields that
        it looks at, in lower case.  Before any client is served."""
        self.gate, self.wanted = gate, wanted
        self.front = gate, self.respond
        self.parser = self.new_parser()

    def respond_by(self, responder: Responder) -> Respond:
        return responder.respond

    def adopt(self, other: Server) -> None:
        """Serve from now on as `other` would, which has served no client yet.

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
                parse_again(peer, self)

    @property
    def wants_addresses(self) -> bool:
        """Whether it matters where a client is."""
        return any(
            user is not None for user in (self.log, self.gate, self.connection_limit, self.proxies)
        )

    def note(self, sent: Sent) -> None:
        """Put a line into the access log; it is written a little later, together with others."""
        log = self.log
        if log is None:  # another thread may have switched it off meanwhile
            return
        if not log.pending:
            self.flush_later()
        client, user = sent.address, b""
        if self.who is not None:
            client, user = self.who(sent.address, sent.request)
        log.note(sent, client, user)

    def flush_later(self) -> None:
        """The first line is pending: flush the log after `LOG_DELAY` seconds."""
        raise NotImplementedError


def parse_again(peer: Connection, server: Server) -> None:
    """Give an unfinished head to another parser: the new gates may want fields that the old parser
    has skipped."""
    assert peer.parser is not None
    torn = peer.parser.torn
    peer.parser = server.new_parser()
    if peer.parser.feed(torn) or peer.parser.ended or not peer.parser.unfinished:
        peer.parser.ended = True  # the two parsers do not agree on where the head ends
        cut(peer)
    peer.parser.torn = torn


def find_address(peer: Connection) -> str:
    """The address of a client that was accepted when addresses did not matter."""
    try:
        with socket_of(peer) as end:
            return name_of(end.getpeername())
    except OSError:  # it has gone
        cut(peer)
        return ""
