"""What is no TLS, or only the beginning of it: an alert at most, the end of the connection, and
nothing that stays behind."""

from __future__ import annotations

import random
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from serving import serving

from loadtest.memory import private_bytes

KIB, MIB = 1 << 10, 1 << 20

AUTHORITY = trustme.CA()
RESET = struct.pack("ii", 1, 0)


CLIENT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
AUTHORITY.configure_trust(CLIENT)


def client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    client = CLIENT.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


HELLO = client_hello()


def record(kind: int, content: bytes, version: bytes = b"\x03\x03") -> bytes:
    return bytes([kind]) + version + struct.pack(">H", len(content)) + content


def flipped(place: int) -> bytes:
    """A ClientHello with another byte at that place."""
    return HELLO[:place] + bytes([HELLO[place] ^ 0xFF]) + HELLO[place + 1 :]


JUNK = {
    "nothing at all": b"",
    "a zero": b"\0",
    "zeros": bytes(1000),
    "ones": b"\xff" * 1000,
    "a line": b"HELO example.org\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "SMB": bytes.fromhex("00000085ff534d4272000000001853c8") + bytes(100),
    "RDP": bytes.fromhex("0300002b26e00000000000436f6f6b69653a206d737473686173683d"),
    "HTTP/2 without TLS": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "PROXY": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + HELLO,
    "SSL 2": bytes.fromhex("802e010002001500000010010080020080030080040080"),
    "SSL 3": record(22, bytes.fromhex("0100002c0300") + bytes(40), b"\x03\x00"),
    "a record of no known kind": record(99, bytes(100)),
    "an empty handshake": record(22, b""),
    "many empty handshakes": record(22, b"") * 500,
    "an alert": record(21, b"\x02\x28"),
    "many alerts": record(21, b"\x01\x5a") * 500,
    "content before keys": record(23, b"GET / HTTP/1.1\r\n\r\n"),
    "ChangeCipherSpec alone": record(20, b"\x01"),
    "many ChangeCipherSpecs": HELLO + record(20, b"\x01") * 500,
    "a heartbeat": record(24, b"\x01\xff\xff"),
    "a record that is too long": b"\x16\x03\x03\xff\xff" + bytes(0xFFFF),
    "a Hello that is too long": record(22, b"\x01\xff\xff\xff" + bytes(16000)) * 20,
    "a ServerHello": record(22, b"\x02" + HELLO[6:]),
    "a Finished first": record(22, b"\x14\x00\x00\x0c" + bytes(12)),
    "a Hello, then junk": HELLO + b"junk" * 1000,
    "a Hello, then content": HELLO + record(23, bytes(100)),
    "a Hello, then a Hello": HELLO + HELLO,
    "a Hello, then the end": HELLO,
    **{f"a Hello of {cut} bytes": HELLO[:cut] for cut in (1, 4, 5, 6, 9, 40, 43, 44, 76, 100, 200)},
    **{f"a Hello with another byte {place}": flipped(place) for place in range(0, 60, 3)},
    **{f"noise {seed}": random.Random(seed).randbytes(300) for seed in range(10)},
    **{f"a record of {seed}": record(22, random.Random(seed).randbytes(300)) for seed in range(9)},
}


class Knot:
    def __init__(self, pid: int, url: str) -> None:
        where = urlsplit(url)
        self.pid = pid
        self.address = (where.hostname or "", where.port or 0)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=20)

    def connect_securely(self) -> ssl.SSLSocket:
        return CLIENT.wrap_socket(self.connect(), server_hostname="localhost")

    def answers(self, method: bytes = b"GET", path: bytes = b"/") -> bool:
        with self.connect_securely() as client:
            request = b"%b %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            client.sendall(request % (method, path))
            received = bytearray()
            while piece := client.recv(1 << 16):
                received += piece
        return received.endswith(b"\r\n\r\nhome")

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def comes_back_to(self, descriptors: int) -> None:
        """Each answer is a turn of its loop."""
        for _ in range(2_000):
            if self.descriptors() <= descriptors:
                return
            assert self.answers()
        raise AssertionError(f"{self.descriptors()} descriptors are open, not {descriptors}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tls")
    (place / "root").mkdir()
    (place / "root" / "index.html").write_bytes(b"home")
    (place / "root" / "large").write_bytes(bytes(32 * MIB))
    issued = AUTHORITY.issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(str(place / "localhost.pem"))
    return place


@contextmanager
def knot(site: Path, *options: str) -> Iterator[Knot]:
    """Nothing is said on standard error, and all descriptors are closed in the end."""
    certificate = str(site / "localhost.pem")
    with serving(str(site / "root"), "--cert", certificate, *options) as (process, url):
        found = Knot(process.pid, url)
        assert found.answers()
        found.answers(b"HEAD", b"/large")  # the cache keeps it open
        before = found.descriptors()
        yield found
        found.comes_back_to(before)
        process.terminate()
        _, err = process.communicate(timeout=20)
        assert err == ""


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[Knot]:
    with knot(site) as found:
        yield found


def until_closed(client: socket.socket) -> bytes:
    received = bytearray()
    with suppress(ConnectionResetError):
        while piece := client.recv(1 << 16):
            received += piece
    return bytes(received)


@pytest.mark.parametrize("by_byte", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("name", JUNK)
def test_junk_ends_the_connection(server: Knot, name: str, by_byte: bool) -> None:
    before = server.descriptors()
    sent = JUNK[name][: 600 if by_byte else None]
    with server.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):  # it has ended already
            for piece in [sent[i : i + 1] for i in range(len(sent))] if by_byte else [sent]:
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
        with suppress(OSError):  # the reset has come already
            received = until_closed(client)
            assert b"home" not in received
            assert b"HTTP/1.1 200" not in received
    server.comes_back_to(before)


def test_handshakes_that_do_not_go_on_are_ended_in_time_and_cost_little(site: Path) -> None:
    number = 200
    with knot(site, "--head-timeout", "1") as server, ExitStack() as crowd:
        before = server.descriptors()
        memory = private_bytes(server.pid)
        for start in range(number):
            client = crowd.enter_context(server.connect())
            client.sendall(HELLO[: start % len(HELLO)] if start % 2 else HELLO)
        assert server.answers()
        assert private_bytes(server.pid) - memory < number * 96 * KIB
        server.comes_back_to(before)


def test_idle_connections_cost_little(site: Path) -> None:
    number = 300
    with knot(site) as server, ExitStack() as crowd:
        memory = private_bytes(server.pid)
        for _ in range(number):
            client = crowd.enter_context(server.connect_securely())
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(4096).endswith(b"home")
        assert private_bytes(server.pid) - memory < number * 32 * KIB


def test_readers_that_take_nothing_cost_little_and_are_given_up(site: Path) -> None:
    number = 100
    with knot(site, "--send-timeout", "1") as server, ExitStack() as crowd:
        before = server.descriptors()
        memory = private_bytes(server.pid)
        for _ in range(number):
            client = crowd.enter_context(server.connect_securely())
            client.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert server.answers()
        assert private_bytes(server.pid) - memory < number * 192 * KIB
        server.comes_back_to(before)


def test_a_reset_at_any_point_of_a_handshake_or_a_transfer(site: Path) -> None:
    with knot(site) as server:
        before = server.descriptors()
        for cut in (0, 1, 5, 100, len(HELLO)):
            with server.connect() as client:
                client.sendall(HELLO[:cut])
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        for taken in (0, 1, 1000, 65_536, 3 * MIB):
            with server.connect_securely() as secure:
                secure.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
                while taken > 0:
                    taken -= len(secure.recv(taken))
                secure.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        server.comes_back_to(before)


def test_others_are_served_while_somebody_shakes_hands_again_and_again(server: Knot) -> None:
    over = threading.Event()
    made = [0]

    def attack() -> None:
        while not over.is_set():
            with suppress(OSError), server.connect_securely():
                made[0] += 1

    thread = threading.Thread(target=attack)
    thread.start()
    try:
        with server.connect_securely() as client:
            for _ in range(200):
                client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert client.recv(4096).endswith(b"home")
        while not made[0]:
            pass
    finally:
        over.set()
        thread.join()
