"""What begins as a PROXY header and is none, from proxies that are trusted and from others, in one
piece and byte by byte: it closes its own connection at once, names no client, and costs nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from serving import serving, until_closed

TRUSTED, OTHER = "127.0.0.2", "127.0.0.1"

SAID = "192.0.2.66"
"""The address that all the junk would have."""

ASK = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

START = b"\r\n\r\n\0\r\nQUIT\n"
V4 = b"\xc0\0\x02\x42" + b"\x0a\0\0\1" + b"\x11\x11\0\x50"
V6 = b"\0" * 10 + b"\xff\xff" + V4[:4] + b"\0" * 16 + b"\x11\x11\0\x50"


def line(text: str) -> bytes:
    return text.format(a=SAID, b="10.0.0.1").encode("latin-1")


def block(first: int, kind: int, length: int, content: bytes) -> bytes:
    return START + bytes((first, kind)) + length.to_bytes(2, "big") + content


JUNK = {
    # -- version 1
    "no header": b"",
    "another protocol": b"SSH-2.0-x\r\n",
    "lower case": line("proxy TCP4 {a} {b} 1 2\r\n"),
    "a space before": line(" PROXY TCP4 {a} {b} 1 2\r\n"),
    "an empty line before": line("\r\nPROXY TCP4 {a} {b} 1 2\r\n"),
    "a method": line("PROXY /{a} HTTP/1.1\r\n"),
    "no kind": line("PROXY {a} {b} 1 2\r\n"),
    "two spaces after the name": line("PROXY  TCP4 {a} {b} 1 2\r\n"),
    "a tab": line("PROXY\tTCP4 {a} {b} 1 2\r\n"),
    "kind in lower case": line("PROXY tcp4 {a} {b} 1 2\r\n"),
    "kind of nothing": line("PROXY TCP5 {a} {b} 1 2\r\n"),
    "kind of datagrams": line("PROXY UDP4 {a} {b} 1 2\r\n"),
    "unknown and more": line("PROXY UNKNOWNS {a} {b} 1 2\r\n"),
    "nearly unknown": line("PROXY UNKNOW {a} {b} 1 2\r\n"),
    "no addresses": line("PROXY TCP4\r\n"),
    "nothing but a kind": line("PROXY TCP4 \r\n"),
    "one address": line("PROXY TCP4 {a} 1 2\r\n"),
    "three addresses": line("PROXY TCP4 {a} {b} {b} 1 2\r\n"),
    "one port": line("PROXY TCP4 {a} {b} 1\r\n"),
    "three ports": line("PROXY TCP4 {a} {b} 1 2 3\r\n"),
    "a space at the end": line("PROXY TCP4 {a} {b} 1 2 \r\n"),
    "two spaces": line("PROXY TCP4 {a}  {b} 1 2\r\n"),
    "the other family": line("PROXY TCP6 {a} {b} 1 2\r\n"),
    "the other family again": line("PROXY TCP4 ::ffff:{a} ::1 1 2\r\n"),
    "mixed families": line("PROXY TCP4 {a} ::1 1 2\r\n"),
    "an address too short": line("PROXY TCP4 192.0.2 {b} 1 2\r\n"),
    "an address too long": line("PROXY TCP4 {a}.1 {b} 1 2\r\n"),
    "an octet too large": line("PROXY TCP4 192.0.2.256 {b} 1 2\r\n"),
    "an octet with a zero before": line("PROXY TCP4 192.0.2.066 {b} 1 2\r\n"),
    "an address in brackets": line("PROXY TCP6 [::1] [::1] 1 2\r\n"),
    "a zone": line("PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n"),
    "a name": line("PROXY TCP4 localhost {b} 1 2\r\n"),
    "a network": line("PROXY TCP4 {a}/32 {b} 1 2\r\n"),
    "a port too large": line("PROXY TCP4 {a} {b} 65536 2\r\n"),
    "a port with a zero before": line("PROXY TCP4 {a} {b} 01 2\r\n"),
    "a negative port": line("PROXY TCP4 {a} {b} -1 2\r\n"),
    "a port of letters": line("PROXY TCP4 {a} {b} abc 2\r\n"),
    "a port of other digits": "PROXY TCP4 192.0.2.66 10.0.0.1 \u0661 2\r\n".encode(),
    "no carriage return": line("PROXY TCP4 {a} {b} 1 2\n"),
    "a carriage return within": line("PROXY TCP4 {a}\r {b} 1 2\r\n"),
    "a zero byte": line("PROXY TCP4 {a}\0 {b} 1 2\r\n"),
    "no end": line("PROXY TCP4 {a} {b} 1 2") + b"2" * 100,
    "no end of unknown": b"PROXY UNKNOWN " + b"x" * 100,
    "unknown, a byte too long": b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    # -- version 2
    "a start cut off": START[:-1] + b"\x21\x11\0\x0c" + V4,
    "a start changed": START[:-1] + b"\r\x21\x11\0\x0c" + V4,
    "version 0": block(0x01, 0x11, 12, V4),
    "version 1 in 2": block(0x11, 0x11, 12, V4),
    "version 3": block(0x31, 0x11, 12, V4),
    "an unknown command": block(0x22, 0x11, 12, V4),
    "another unknown command": block(0x2F, 0x11, 12, V4),
    "an unknown family": block(0x21, 0x41, 12, V4),
    "an unknown transport": block(0x21, 0x13, 12, V4),
    "no transport": block(0x21, 0x10, 12, V4),
    "all bits": block(0x21, 0xFF, 12, V4),
    "addresses cut off": block(0x21, 0x11, 11, V4[:11]),
    "no addresses in 2": block(0x21, 0x11, 0, b""),
    "addresses of the other family": block(0x21, 0x21, 12, V4),
    "longer addresses cut off": block(0x21, 0x21, 35, V6[:35]),
    "a path cut off": block(0x21, 0x31, 215, b"/" * 215),
    "as long as can be": block(0x21, 0x11, 0xFFFF, V4 + b"x" * 5000),
    "a byte too long": block(0x21, 0x11, 2033, V4 + b"x" * 2021),
    "local and too long": block(0x20, 0x00, 2033, b"x" * 2033),
}

GOOD = {
    "version 1": line("PROXY TCP4 {a} {b} 1 2\r\n"),
    "version 2": block(0x21, 0x11, 12, V4),
    "version 2 with more": block(0x21, 0x21, 40, V6 + b"\x04\0\x01x"),
}


class Knot:
    def __init__(self, port: int) -> None:
        self.port = port

    def send(self, source: str, data: bytes, size: int) -> bytes:
        """All that comes back; nothing if the connection is closed without an answer."""
        where = ("127.0.0.1", self.port)
        with socket.create_connection(where, 20, source_address=(source, 0)) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                for start in range(0, len(data), size):
                    client.sendall(data[start : start + size])
                return until_closed(client)
            except (ConnectionResetError, BrokenPipeError):
                return b""


@contextmanager
def knot(root: Path, *options: str) -> Iterator[tuple[Knot, Path, list[str]]]:
    """It waits longer for a head than this test does: what closes a connection is the junk."""
    log = root.parent / "log"
    errors: list[str] = []
    always = ("--log-file", str(log), "--trust", TRUSTED, "--head-timeout", "600")
    with serving(str(root), *always, *options) as (process, url):
        before = len(os.listdir(f"/proc/{process.pid}/fd"))
        server = Knot(urlsplit(url).port or 0)
        yield server, log, errors
        assert server.send(OTHER, ASK, 99).startswith(b"HTTP/1.1 200 ")
        assert len(os.listdir(f"/proc/{process.pid}/fd")) <= before + 4  # log, cache, a connection
        process.terminate()
        _, said = process.communicate(timeout=20)
        errors += said.splitlines()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    root.mkdir()
    (root / "index.html").write_text("home")
    return root


def test_there_is_junk_enough() -> None:
    assert len(JUNK) >= 60
    assert len(set(JUNK.values())) == len(JUNK)


@pytest.mark.parametrize("size", [1 << 20, 1], ids=["in one piece", "byte by byte"])
def test_junk_of_a_proxy_closes_its_connection_at_once(root: Path, size: int) -> None:
    with knot(root, "--proxy-protocol") as (server, log, errors):
        for name, junk in JUNK.items():
            assert server.send(TRUSTED, junk + ASK, size) == b"", name
        for name, header in GOOD.items():
            assert server.send(TRUSTED, header + ASK, size).startswith(b"HTTP/1.1 200 "), name
    clients = [entry.split(" ")[0] for entry in log.read_text().splitlines()]
    assert clients == [SAID] * len(GOOD) + [OTHER]
    assert len(errors) <= 16, "each reason is told once"
    assert all(
        error.startswith(f"connections from the proxy at {TRUSTED} are closed: ")
        for error in errors
    )


@pytest.mark.parametrize("size", [1 << 20, 1], ids=["in one piece", "byte by byte"])
def test_junk_of_others_is_no_request_and_names_nobody(root: Path, size: int) -> None:
    with knot(root, "--proxy-protocol") as (server, log, errors):
        for name, header in (JUNK | GOOD).items():
            if header:
                received = server.send(OTHER, header + ASK, size)
                assert received[:10] in (b"HTTP/1.1 4", b"HTTP/1.1 5", b""), name
    clients = {entry.split(" ")[0] for entry in log.read_text().splitlines()}
    assert clients == {OTHER}
    assert errors == []


def test_without_the_option_a_header_is_nothing_even_from_a_trusted_proxy(root: Path) -> None:
    with knot(root) as (server, log, errors):
        for name, header in GOOD.items():
            assert server.send(TRUSTED, header + ASK, 99)[:10] in (b"HTTP/1.1 4", b"HTTP/1.1 5"), (
                name
            )
    assert {entry.split(" ")[0] for entry in log.read_text().splitlines()} == {TRUSTED, OTHER}
    assert errors == []
