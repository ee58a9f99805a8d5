"""``--admin``: what operators and their programs ask of a server, at an address of its own.

    /metrics    counts, in Prometheus's text format
    /blocked    what every connection waits for
    /health     200 as long as the loop runs
    /ready      200 while new connections are accepted and all sites are there, else 503

Knot's own events model serves it, on the loop of the process that is watched: a request a
connection, few connections at a time.  Answers are made here, from what a `Source` says; no
connection is read or written here.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, cast

from knot.http.request import BadRequest, Request
from knot.http.responder import PHRASES, Deferred, Responder, Response
from knot.limits import Limits
from knot.models.events import Server, serve
from knot.monitor.exposition import CONTENT_TYPE, Exposition
from knot.monitor.sources import Source
from tame import Event, mkevent, tamed, tvars, twait
from tame.threads import Pool

LIMITS: Final = Limits(head=5, keep_alive=5, send=5, requests=1, connections=16)

HEAD: Final = (
    b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\nCache-Control: no-store\r\n"
    b"Allow: GET, HEAD\r\nConnection: close\r\n\r\n"
)
TEXT: Final = b"text/plain; charset=utf-8"


class AdminApp:
    """Answers the requests; takes the place of a `Responder`, without a site."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._exposition = Exposition(source)

    def respond(self, request: Request | BadRequest, now: float) -> Response | Deferred:
        if isinstance(request, BadRequest):
            return text(request, request.status, request.reason)
        if request.method not in (b"GET", b"HEAD"):
            return text(request, 405, "only GET and HEAD are allowed")
        match request.target.partition(b"?")[0]:
            case b"/metrics":
                return Deferred(partial(self._metrics, request), unchanged)
            case b"/blocked":
                return Deferred(partial(self._blocked, request), unchanged)
            case b"/health":
                return text(request, 200, "ok")
            case b"/ready" if self._source.is_ready():
                return text(request, 200, "ok")
            case b"/ready":
                return text(request, 503, "not ready")
        return text(request, 404, "use /metrics, /blocked, /health or /ready")

    @tamed
    def _metrics(self, request: Request, done: Event[Response]) -> None:
        with twait:
            self._source.refresh(mkevent())
        done.trigger(answer(request, 200, self._exposition.text(), CONTENT_TYPE))

    @tamed
    def _blocked(self, request: Request, done: Event[Response]) -> None:
        with tvars:
            listing: str
        with twait:
            self._source.waiting(mkevent(listing))
        done.trigger(text(request, 200, listing))


def text(request: Request | BadRequest, status: int, line: str) -> Response:
    return answer(request, status, f"{line}\n".encode(), TEXT)


def answer(request: Request | BadRequest, status: int, content: bytes, kind: bytes) -> Response:
    data = HEAD % (status, PHRASES[status], kind, len(content))
    if isinstance(request, BadRequest) or request.method != b"HEAD":
        data += content
    return Response(data, (), False, status, len(content))


def unchanged(response: Response) -> Response:
    return response


class OnLoop(Pool):
    """Has deferred answers made on the loop, which waits for workers and not for a disk."""

    def fork(self, event: Event[Any], f: Callable[..., Any], *args: Any) -> None:
        f(*args, event)


def serve_admin(listeners: Sequence[socket.socket], source: Source) -> None:
    """Serve at the admin address, for as long as the loop runs."""
    server = Server(cast(Responder, AdminApp(source)), LIMITS)
    server.disk = OnLoop()
    for listener in listeners:
        serve(listener, server)
