"""Every way in which Knot is asked: by each model over HTTP/1.1, and over HTTP/2."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from serving import HOST, MODELS, Model, connect, with_server
from speaking_http2 import Connected

T = TypeVar("T")


class Answer(NamedTuple):
    status: int
    fields: dict[bytes, bytes]
    """By name in lower case."""
    content: bytes


class Ask(Protocol):
    def __call__(
        self, path: bytes, fields: Mapping[bytes, bytes] = ..., method: bytes = ...
    ) -> Answer:
        """One request on a connection of its own; names of fields are in lower case."""


class Way(NamedTuple):
    name: str
    model: Model
    http_2: bool = False

    def serve(self, root: Path, client: Callable[[Ask], T], **about: Any) -> T:
        """Serve `root` while `client` asks, on a thread; its result.

        `about` are options of `with_server` and of `Site`.
        """
        ask = ask_2 if self.http_2 else ask_1
        return with_server(
            root, lambda port: client(lambda *what, **more: ask(port, *what, **more)), **about
        )


WAYS = {
    **{name: Way(name, model) for name, model in MODELS.items()},
    "HTTP/2": Way("HTTP/2", Model("events"), http_2=True),
}


def ask_1(
    port: int, path: bytes, fields: Mapping[bytes, bytes] = {}, method: bytes = b"GET"
) -> Answer:
    """Over HTTP/1.1, whose answer the standard library reads."""
    lines = b"".join(b"%b: %b\r\n" % field for field in fields.items())
    with connect(port) as client:
        client.sendall(
            b"%b %b HTTP/1.1\r\n%b%bConnection: close\r\n\r\n" % (method, path, HOST, lines)
        )
        with HTTPResponse(client, method=method.decode()) as response:
            response.begin()
            named = {
                name.lower().encode("latin-1"): value.encode("latin-1")
                for name, value in response.getheaders()
            }
            return Answer(response.status, named, response.read())


def ask_2(
    port: int, path: bytes, fields: Mapping[bytes, bytes] = {}, method: bytes = b"GET"
) -> Answer:
    """Over HTTP/2 without TLS."""
    with Connected(socket.create_connection(("127.0.0.1", port))) as client:
        stream = client.ask(path, tuple(fields.items()), method=method, host=b"x")
        client.until_satisfied()
        answer = client.answers[stream]
        assert answer.ended
        return Answer(answer.status, answer.fields, bytes(answer.content))
