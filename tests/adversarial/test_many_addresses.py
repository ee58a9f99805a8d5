"""Clients with more addresses, hosts and passwords than anybody has: what is known of them has a
bound, and those who come meanwhile are served.

A trusted proxy makes the addresses, by X-Forwarded-For: each stands for a client of its own.
"""

from __future__ import annotations

import socket
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import bcrypt
import pytest
from serving import serving

from loadtest.memory import private_bytes

MIB = 1 << 20

BATCH = 100

ROUNDS = 40_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    root.mkdir()
    (root / "index.html").write_text("home")
    hash = bcrypt.hashpw(b"wonder", bcrypt.gensalt(4))
    (tmp_path / "passwords").write_bytes(b"alice:" + hash)
    (tmp_path / "knot.toml").write_text('[hosts."*.example"]\nspa = true\n')
    return root


def flood(port: int, fields: Iterable[bytes]) -> None:
    """Ask once with each of the `fields`, a hundred requests at a time."""
    waiting = [b"HEAD / HTTP/1.1\r\n%b\r\n" % lines for lines in fields]
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        for start in range(0, len(waiting), BATCH):
            client.sendall(b"".join(waiting[start : start + BATCH]))
            received = b""
            while received.count(b"\r\n\r\n") < BATCH:
                piece = client.recv(1 << 20)
                assert piece
                received += piece


def address(number: int) -> bytes:
    """Of a network of its own."""
    return b"Host: x\r\nX-Forwarded-For: 2001:db8:%x:%x::1\r\n" % divmod(number, 1 << 16)


def test_what_is_known_of_clients_has_a_bound(root: Path) -> None:
    options = (
        "--trust", "127.0.0.1", "--max-rate", "0.001", "--deny", "10.0.0.0/8",
        "--max-connections-per-client", "5", "--max-requests", "1000000",
    )  # fmt: skip
    with serving(str(root), *options) as (process, url):
        port = urlsplit(url).port or 0
        flood(port, map(address, range(ROUNDS // 2)))
        before = private_bytes(process.pid)
        flood(port, map(address, range(ROUNDS // 2, ROUNDS)))
        assert private_bytes(process.pid) - before < 1.5 * MIB


def test_what_is_known_of_hosts_and_guesses_has_a_bound(root: Path) -> None:
    options = (
        "--auth", str(root.parent / "passwords"), "--config", str(root.parent / "knot.toml"),
        "--max-requests", "1000000",
    )  # fmt: skip
    with serving(str(root), *options) as (process, url):
        port = urlsplit(url).port or 0

        def guess(number: int) -> bytes:
            guessed = b64encode(b"alice:%d" % (number % 2500))
            return b"Host: %d.example\r\nAuthorization: Basic %b\r\n" % (number, guessed)

        flood(port, map(guess, range(5000)))
        before = private_bytes(process.pid)
        flood(port, map(guess, range(5000, ROUNDS // 2)))
        assert private_bytes(process.pid) - before < 1.5 * MIB
