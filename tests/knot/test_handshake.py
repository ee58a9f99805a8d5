"""What comes before a client's first request: a proxy's word for whose connection it is."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from proxy_headers import START, version_1, version_2
from serving import answers, get, serving, until_closed

ONCE = get(b"/", b"Connection: close\r\n")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("home")
    return site


@contextmanager
def knot(site: Path, *options: str) -> Iterator[tuple[int, Path]]:
    """The port of a server, and its access log."""
    log = site.parent / "log"
    with serving(str(site), "--log-file", str(log), *options) as (_, url):
        yield urlsplit(url).port or 0, log


def ask(port: int, *pieces: bytes, source: str = "127.0.0.1") -> bytes:
    with socket.create_connection(("127.0.0.1", port), 20, source_address=(source, 0)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sent(client, pieces)


def sent(client: socket.socket, pieces: Iterable[bytes]) -> bytes:
    """All that comes back; nothing if what is sent is not even read."""
    try:
        for piece in pieces:
            client.sendall(piece)
        return until_closed(client)
    except (ConnectionResetError, BrokenPipeError):
        return b""


def clients(log: Path) -> list[str]:
    return [line.split(" ", 1)[0] for line in log.read_text().splitlines()]


TAKEN = [
    (version_1("192.0.2.7", "192.0.2.1"), "192.0.2.7"),
    (version_1("2001:db8::7", "2001:db8::1"), "2001:db8::7"),
    (version_2("192.0.2.8", "192.0.2.1"), "192.0.2.8"),
    (version_2("2001:db8::8", "2001:db8::1", more=b"\x02\0\x0bexample.org"), "2001:db8::8"),
    (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    (START + b"\x20\x00\0\0", "127.0.0.1"),
]


def test_a_header_comes_before_the_request_in_any_pieces(site: Path) -> None:
    with knot(site, "--trust", "127.0.0.1", "--proxy-protocol") as (port, log):
        for header, _ in TAKEN:
            whole = header + ONCE
            assert answers(ask(port, whole)) == [(200, b"home")]
            assert answers(ask(port, header, ONCE)) == [(200, b"home")]
            assert answers(ask(port, *(whole[i : i + 1] for i in range(len(whole))))) == [
                (200, b"home")
            ]
    assert clients(log) == [client for _, client in TAKEN for _ in range(3)]


def test_a_header_is_required_of_a_proxy_and_taken_from_nobody_else(site: Path) -> None:
    header = version_1("192.0.2.7", "192.0.2.1")
    with knot(site, "--trust", "127.0.0.2", "--proxy-protocol") as (port, log):
        assert ask(port, ONCE, source="127.0.0.2") == b""
        assert answers(ask(port, header + ONCE, source="127.0.0.2")) == [(200, b"home")]
        assert answers(ask(port, ONCE)) == [(200, b"home")]
        assert ask(port, header + ONCE).startswith(b"HTTP/1.1 501 ")
        assert ask(port, version_2("192.0.2.7", "192.0.2.1") + ONCE).startswith(b"HTTP/1.1 400 ")
    assert clients(log) == ["192.0.2.7", "127.0.0.1", "127.0.0.1", "127.0.0.1"]


def test_no_second_header_is_taken(site: Path) -> None:
    header = version_1("192.0.2.7", "192.0.2.1")
    with knot(site, "--trust", "127.0.0.1", "--proxy-protocol") as (port, _):
        assert ask(port, header + header + ONCE).startswith(b"HTTP/1.1 501 ")


def test_a_proxy_that_says_nothing_is_waited_for_no_longer_than_for_a_request(site: Path) -> None:
    options = ("--trust", "127.0.0.1", "--proxy-protocol", "--head-timeout", "0")
    with knot(site, *options) as (port, _):
        assert ask(port) == b""
        assert ask(port, b"PROXY TCP4 ") == b""


def test_the_word_of_a_proxy_counts_for_what_follows(site: Path) -> None:
    options = ("--trust", "127.0.0.1", "--proxy-protocol", "--deny", "192.0.2.0/24")
    with knot(site, *options) as (port, _):
        for source, status in (("192.0.2.7", 403), ("198.51.100.7", 200)):
            for version in (version_1, version_2):
                found = ask(port, version(source, "10.0.0.1") + ONCE)
                assert found.startswith(b"HTTP/1.1 %d " % status)
        lying = get(b"/", b"X-Forwarded-For: 198.51.100.1\r\nConnection: close\r\n")
        assert ask(port, version_1("192.0.2.7", "10.0.0.1") + lying).startswith(b"HTTP/1.1 403 ")


def test_connections_are_counted_for_the_client_behind_the_proxy(site: Path) -> None:
    options = ("--trust", "127.0.0.1", "--proxy-protocol", "--max-connections-per-client", "1")
    one, other = (version_1(f"192.0.2.{number}", "10.0.0.1") for number in (1, 2))
    with knot(site, *options) as (port, _):
        with socket.create_connection(("127.0.0.1", port), 20) as first:
            first.sendall(one + get(b"/"))
            assert first.recv(9999).startswith(b"HTTP/1.1 200 ")
            assert ask(port, one + ONCE).startswith(b"HTTP/1.1 503 ")
            assert ask(port, other + ONCE).startswith(b"HTTP/1.1 200 ")
            assert ask(port, other + ONCE).startswith(b"HTTP/1.1 200 ")
            first.sendall(ONCE)
            until_closed(first)
        assert ask(port, one + ONCE).startswith(b"HTTP/1.1 200 ")


def test_not_a_byte_of_tls_behind_the_header_is_lost(site: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    pem = tmp_path / "both.pem"
    issued = authority.issue_cert("localhost")
    pem.write_bytes(
        issued.private_key_pem.bytes() + b"".join(c.bytes() for c in issued.cert_chain_pems)
    )
    context = ssl.create_default_context()
    authority.configure_trust(context)
    options = ("--trust", "127.0.0.1", "--proxy-protocol", "--cert", str(pem))
    with knot(site, *options) as (port, log):
        for version in (version_1, version_2):
            for step in (1, 5000):
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                secret = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
                with socket.create_connection(("127.0.0.1", port), 20) as client:
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sent = version("192.0.2.7", "10.0.0.1")
                    while True:
                        try:
                            secret.do_handshake()
                            break
                        except ssl.SSLWantReadError:
                            sent += outgoing.read()
                            for start in range(0, len(sent), step):
                                client.sendall(sent[start : start + step])
                            sent = b""
                            incoming.write(client.recv(1 << 16))
                    secret.write(ONCE)
                    client.sendall(outgoing.read())
                    incoming.write(until_closed(client))
                    assert secret.read(9999).startswith(b"HTTP/1.1 200 ")
    assert clients(log) == ["192.0.2.7"] * 4


def test_a_proxy_at_a_path_says_who_the_client_is(site: Path, tmp_path: Path) -> None:
    path, log = str(tmp_path / "socket"), tmp_path / "log"
    log_to = ("--log-file", str(log))

    def at_path(request: bytes, name: str = "") -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            if name:
                client.bind(name)
            client.connect(path)
            return sent(client, [request])

    said = get(b"/", b"X-Forwarded-For: 192.0.2.7\r\nConnection: close\r\n")
    with serving(str(site), *log_to, listens=("--unix", path)):
        assert at_path(said).startswith(b"HTTP/1.1 200 ")
    with serving(str(site), *log_to, "--trust", "unix", listens=("--unix", path)):
        assert at_path(said).startswith(b"HTTP/1.1 200 ")
        assert at_path(said, str(tmp_path / "its own")).startswith(b"HTTP/1.1 200 ")
    with serving(
        str(site), *log_to, "--trust", "unix", "--proxy-protocol", listens=("--unix", path)
    ):
        assert at_path(said) == b""
        header = version_1("192.0.2.9", "192.0.2.1")
        assert at_path(header + said).startswith(b"HTTP/1.1 200 ")
    assert clients(log) == ["unix:", "192.0.2.7", "192.0.2.7", "192.0.2.9"]


def test_a_proxy_that_gets_it_wrong_is_told_of_once(site: Path) -> None:
    with serving(str(site), "--trust", "127.0.0.1", "--proxy-protocol") as (process, url):
        for _ in range(3):
            assert ask(urlsplit(url).port or 0, ONCE) == b""
        process.terminate()
        _, said = process.communicate(timeout=20)
    assert said == (
        "connections from the proxy at 127.0.0.1 are closed: it is not a PROXY header\n"
    )
