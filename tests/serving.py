"""A server on a thread's other side, and the bytes that clients send and get."""

from __future__ import annotations

import _thread
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, TypeVar

import pytest

from knot import AccessLog, FieldRules, Limits, Responder, Site
from knot.process.listeners import listen
from knot.process.signals import Signals
from knot.process.spawn import python
from tame.drivers import DRIVERS

T = TypeVar("T")

HOST = b"Host: x\r\n"


class Model(NamedTuple):
    """How `with_server` serves."""

    name: str = "events"
    driver: str = ""
    """Of Tame; empty for the default one."""
    pool: int | None = None

    @property
    def module(self) -> Any:
        return import_module(f"knot.models.{self.name}")

    @property
    def options(self) -> dict[str, int]:
        return {"pool": self.pool} if self.pool else {}


MODELS = {
    **{f"events on {driver}": Model("events", driver) for driver in DRIVERS},
    "threads": Model("threads"),
    "threads in a pool": Model("threads", pool=4),
    "asyncio": Model("asyncio"),
    "greenlets": Model("greenlets"),
}

model = Model()
"""What `chosen` sets."""


@contextmanager
def chosen(found: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    """Have `with_server` and ``knot serve`` use this model."""
    if found.driver == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not installed; asyncio stands in for it")
    if found.name == "greenlets":
        pytest.importorskip("gevent", reason="gevent is not installed")
    monkeypatch.setenv("KNOT_MODEL", found.name)
    if found.driver:
        monkeypatch.setenv("TAME_DRIVER", found.driver)
    if found.pool:
        monkeypatch.setenv("KNOT_THREADS", str(found.pool))
    monkeypatch.setattr(sys.modules[__name__], "model", found)
    yield found
    if found.name == "greenlets":
        import_module("gevent").get_hub().destroy(destroy_loop=True)


def with_server(
    root: Path,
    client: Callable[[int], T],
    *,
    limits: Limits | None = None,
    log: AccessLog | None = None,
    rules: FieldRules | None = None,
    listener: socket.socket | None = None,
    listeners: Sequence[socket.socket] = (),
    grace: float = 0,
    **options: Any,
) -> T:
    """Serve `root` while `client`, given the port of the first listener, runs on a thread; its
    result."""
    results: list[T] = []
    errors: list[BaseException] = []
    listeners = listeners or [listener or listen("127.0.0.1", 0)]
    port = listeners[0].getsockname()[1]
    site = Site(root, **options)
    responder = Responder(site, rules)
    server = model.module.Server(responder, limits, log, **model.options)
    server.watched += [site.look, site.sweep, responder.sweep]
    signals = Signals()

    def work() -> None:
        try:
            results.append(client(port))
        except BaseException as error:
            errors.append(error)
        signals.tell(signal.SIGTERM)

    thread = threading.Thread(target=work)
    thread.start()
    model.module.run(listeners, server, signals, grace)
    thread.join()
    if model.name == "threads":
        await_end_of_threads()
    signals.close()
    assert not server.peers
    site.close()
    for error in errors:
        raise error
    return results[0]


def await_end_of_threads() -> None:
    """They have let go of their connections, but still have the server."""
    deadline = monotonic() + 20
    while _thread._count() >= threading.active_count():  # which counts the main thread, too
        assert monotonic() < deadline


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def until_closed(client: socket.socket) -> bytes:
    received = b""
    while data := client.recv(1 << 20):
        received += data
    return received


def exchange(root: Path, sent: bytes) -> bytes:
    """All that the server answers to `sent` until it closes the connection."""

    def client(port: int) -> bytes:
        with connect(port) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            return until_closed(connection)

    return with_server(root, client)


def get(path: bytes, fields: bytes = b"") -> bytes:
    return b"GET %b HTTP/1.1\r\n%b%b\r\n" % (path, HOST, fields)


def answers(received: bytes, methods: str = "") -> list[tuple[int, bytes]]:
    """Status and content of each answer; `methods` has an H where a HEAD was sent."""
    found = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(fields[b"content-length"])
        if methods[len(found) : len(found) + 1] == "H":
            length = 0
        assert len(received) >= length
        found.append((status, received[:length]))
        received = received[length:]
    return found


# -- as a user starts it ---------------------------------------------------------------------------

KNOT = python("-m", "knot.cli")

SERVING = re.compile(
    r"Serving .* at (\S+?)((?:(?:,| and) \S+://\S+)*)(?:, \d+ workers?)? \(Ctrl-C stops\)\n"
)
"""The first address, and the others."""


@contextmanager
def serving(
    *arguments: str,
    listens: tuple[str, ...] = ("--port", "0"),
    knot: Sequence[str] = KNOT,
    **options: Any,
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``knot serve``: the process, and the address that it printed."""
    command = [*knot, "serve", *arguments, *listens]
    environment = plain_environment() | options.pop("env", {})
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )
    assert process.stdout
    try:
        line = process.stdout.readline()
        found = SERVING.fullmatch(line)
        assert found, line
        yield process, found[1]
    finally:
        process.terminate()
        process.communicate(timeout=20)


@contextmanager
def administered(
    site: Path, *options: str, admin: str = "127.0.0.1:0"
) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The process, and the addresses of the site and of who looks after it."""
    with serving(str(site), "--admin", admin, *options) as (process, url):
        assert process.stdout is not None
        found = re.fullmatch(r"Metrics at (http://\S+)/metrics\n", process.stdout.readline())
        assert found is not None
        yield process, url, found[1]


def fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def plain_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1"}
