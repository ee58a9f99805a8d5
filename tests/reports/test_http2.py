"""Errors of one stream, or of one client, that others felt; uploads that are refused."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import pytest
import trustme
from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame, Frame, RstStreamFrame
from serving import HOST, Model, connect, serving, until_closed, with_server
from speaking_http2 import Connected

from knot.models import events, http2

T = TypeVar("T")

MIB = 1 << 20

LARGE = os.urandom(1 << 16) * 128  # 8 MiB


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    root.mkdir()
    (root / "index.html").write_text("home")
    (root / "large").write_bytes(LARGE)
    return root


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP/2 without TLS, whose clients know that it is spoken."""
    monkeypatch.setattr(events, "connection", http2.connection)


def with_client(root: Path, work: Callable[[Connected], T]) -> T:
    def client(port: int) -> T:
        with Connected(socket.create_connection(("127.0.0.1", port))) as connected:
            return work(connected)

    return with_server(root, client)


WRONG = [
    # content-length, what is sent
    (b"-1", b""),
    (b"+5", b"abcde"),
    (b"1, 2", b"a"),
    (b"5", b"abcd"),
    (b"5", b"abcdef"),
    (b"5", None),  # the head is all that there is
]


@pytest.mark.usefixtures("plain")
def test_a_content_length_that_does_not_fit_cuts_no_download_beside_it(root: Path) -> None:
    def work(client: Connected) -> None:
        download = client.ask(b"/large")
        while len(client.answers[download].content) < MIB:
            client.read()
        wrong = []
        for length, content in WRONG:
            id = client.ask(
                fields=[(b"content-length", length)], method=b"POST", whole=content is None
            )
            wrong.append(id)
            if content is not None:
                client.flush()
                frame = DataFrame(id, data=content, flags=["END_STREAM"])
                with suppress(BrokenPipeError):
                    client.end.sendall(frame.serialize())
        client.until_satisfied()
        assert client.answers[download].content == LARGE
        assert client.farewell is None
        for id in wrong:
            found = client.answers[id]
            # A length that can be seen to be wrong is refused; another may come after the answer.
            assert found.status in (400, 405) or found.reset == ErrorCodes.PROTOCOL_ERROR

    with_client(root, work)


@pytest.mark.usefixtures("plain")
def test_fields_that_no_table_has_are_an_error_of_compression(root: Path) -> None:
    def work(client: Connected) -> None:
        assert client.get(b"/").content == b"home"
        client.end.sendall(b"\0\0\1\1\5\0\0\0\3\xff")
        client.until_closed()
        assert client.farewell is not None
        assert client.farewell.error_code == ErrorCodes.COMPRESSION_ERROR

    with_client(root, work)


@pytest.mark.usefixtures("plain")
def test_late_data_is_not_answered_frame_by_frame(root: Path) -> None:
    def work(client: Connected) -> None:
        id = client.ask(fields=[(b"content-length", b"1")], method=b"POST", whole=False)
        client.flush()
        client.end.sendall(DataFrame(id, data=b"ab").serialize())
        while client.answers[id].reset is None:  # the answer may have come before
            assert client.read()
        client.end.sendall(DataFrame(id, data=bytes(1000)).serialize() * 50)
        client.h2.ping(b"all done")
        client.flush()
        heard = b""
        while b"all done" not in heard:
            heard += client.end.recv(1 << 16)
        kinds = set()
        while heard:
            frame, size = Frame.parse_frame_header(memoryview(heard)[:9])
            kinds.add(type(frame))
            heard = heard[9 + size :]
        assert RstStreamFrame not in kinds
        assert len(kinds) == 2  # the ping's, and those for the window

    with_client(root, work)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("size", [10, 10 * MIB])
def test_an_upload_that_is_refused_gets_its_answer_before_it_is_cut(root: Path, size: int) -> None:
    def work(client: Connected) -> None:
        id = client.ask(method=b"PUT", whole=False)
        left = size
        while left and client.answers[id].reset is None:
            room = min(client.h2.local_flow_control_window(id), 16_384, left)
            if room:
                client.h2.send_data(id, bytes(room), end_stream=room == left)
                left -= room
                client.flush()
            else:
                client.read()
        client.until_satisfied()
        found = client.answers[id]
        assert found.status == 405
        assert found.ended
        assert found.reset in (None, ErrorCodes.NO_ERROR)
        assert client.get(b"/").content == b"home"

    with_client(root, work)


@pytest.mark.parametrize("expects", [b"", b"Expect: 100-continue\r\n"])
def test_an_upload_that_is_refused_gets_its_answer_over_http_1_1(
    model: Model, root: Path, expects: bytes
) -> None:
    """A client that sends all of it before it reads."""

    def client(port: int) -> bytes:
        with connect(port) as connection:
            head = b"PUT / HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n"
            connection.sendall(head % (HOST, expects, 10 * MIB))
            for _ in range(160):
                connection.sendall(bytes(1 << 16))
            return until_closed(connection)

    assert with_server(root, client).startswith(b"HTTP/1.1 405 ")


# -- real clients ----------------------------------------------------------------------------------


AUTHORITY = trustme.CA()


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Where ``knot serve`` does, with two certificates; it says nothing on standard error."""
    place = tmp_path_factory.mktemp("secure")
    (place / "site").mkdir()
    (place / "site" / "index.html").write_text("home")
    options = []
    for name in ("localhost", "other.example"):
        pair = AUTHORITY.issue_cert(name).private_key_and_cert_chain_pem
        pair.write_to_path(str(place / name))
        options += ["--cert", str(place / name)]
    with serving(str(place / "site"), *options) as (process, url):
        where = urlsplit(url)
        assert where.hostname
        assert where.port
        yield where.hostname, where.port
        process.terminate()
        assert process.communicate(timeout=20)[1] == ""


@pytest.mark.parametrize("version", ["--http2", "--http1.1"])
def test_curl_gets_the_answer_to_an_upload(
    secure: tuple[str, int], tmp_path: Path, version: str
) -> None:
    curl = shutil.which("curl")
    if curl is None or b"HTTP2" not in subprocess.run([curl, "-V"], capture_output=True).stdout:
        pytest.skip("no curl with HTTP/2 is installed")
    (tmp_path / "small").write_bytes(bytes(100))
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 10 * MIB)
    port = secure[1]
    with AUTHORITY.cert_pem.tempfile() as trusted:
        for name in ("small", "large"):
            for expect in ("Expect:", "Expect: 100-continue"):
                command = [curl, "--silent", "--show-error", version, "--cacert", trusted]
                command += ["--header", expect, "--data-binary", f"@{tmp_path / name}"]
                command += ["--max-time", "20", "--write-out", " %{http_code} %{num_connects}"]
                command += [
                    "--resolve",
                    f"localhost:{port}:{secure[0]}",
                    f"https://localhost:{port}/",
                ]
                said = subprocess.run(command, capture_output=True, text=True)
                assert (said.returncode, said.stderr) == (0, "")
                assert said.stdout.endswith(" 405 1")
                assert "<h1>405 Method Not Allowed</h1>" in said.stdout


# -- the name that a client asks for ---------------------------------------------------------------


def client_hello(names: bytes) -> bytes:
    """A ClientHello whose extension server_name (RFC 6066, section 3) has that content."""
    outgoing = ssl.MemoryBIO()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    first = client.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="placeholder")
    with suppress(ssl.SSLWantReadError):
        first.do_handshake()
    hello = outgoing.read()[9:]  # without the heads of record and message
    at = 34
    at += 1 + hello[at]  # the session
    at += 2 + int.from_bytes(hello[at : at + 2])  # ciphers
    at += 1 + hello[at]  # compression
    before, left, extensions = hello[:at], hello[at + 2 :], b""
    while left:
        kind, size = left[:2], int.from_bytes(left[2:4])
        content = names if kind == b"\0\0" else left[4 : 4 + size]
        extensions += kind + len(content).to_bytes(2) + content
        left = left[4 + size :]
    message = before + len(extensions).to_bytes(2) + extensions
    message = b"\1" + len(message).to_bytes(3) + message
    return b"\x16\3\1" + len(message).to_bytes(2) + message


def listed(*names: bytes, kind: bytes = b"\0") -> bytes:
    content = b"".join(kind + len(name).to_bytes(2) + name for name in names)
    return len(content).to_bytes(2) + content


NAMES = {
    "bytes that are no text": listed(b"\xff.test"),
    "all bytes": listed(bytes(range(1, 256))),
    "UTF-8": listed("bücher.example".encode()),
    "none": listed(),
    "an empty one": listed(b""),
    "nothing at all": b"",
    "255 bytes": listed(b"a" * 255),
    "256 bytes": listed(b"a" * 256),
    "10,000 bytes": listed(b"a" * 10_000),
    "a NUL": listed(b"a\0b"),
    "an address": listed(b"127.0.0.1"),
    "an address of IPv6": listed(b"::1"),
    "a dot at its end": listed(b"localhost."),
    "dots alone": listed(b"...."),
    "upper case": listed(b"LOCALHOST"),
    "a broken A-label": listed(b"xn--\x7f.xn--"),
    "a long label": listed(b"xn--" + b"a" * 64 + b".example"),
    "two names": listed(b"localhost", b"other.example"),
    "two names, one of them no text": listed(b"localhost", b"\xff"),
    "a name of another kind": listed(b"localhost", kind=b"\7"),
    "a length that is too long": b"\xff\xff\0\0\1a",
    "a length that is too short": b"\0\1\0\0\1a",
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_a_name_that_is_none_ends_a_handshake_or_gets_the_first_certificate(
    secure: tuple[str, int], names: bytes
) -> None:
    """And nothing is said on standard error: see `secure`."""
    with socket.create_connection(secure, timeout=20) as client:
        client.sendall(client_hello(names))
        assert client.recv(1) in (b"\x16", b"\x15")  # a handshake that goes on, or an alert
