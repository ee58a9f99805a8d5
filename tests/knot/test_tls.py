"""HTTPS: what clients with the standard library's TLS see, and what the channel does in between."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPSConnection
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st
from serving import KNOT, plain_environment, serving

from knot import Responder, Site
from knot.access.gates import BasicAuth
from knot.access.https_redirect import HttpsRedirect, host_name
from knot.files.stamps import stamp_of
from knot.http.request import Request
from knot.tls import LOOK, RECORD, Certificate, Certificates, Channel

AUTHORITY = trustme.CA()
OTHER = trustme.CA()

GET = b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n"
LAST = b"Connection: close\r\n"


def client_context(**settings: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(context)
    for name, value in settings.items():
        setattr(context, name, value)
    return context


def write_pair(place: Path, *names: str, authority: trustme.CA = AUTHORITY) -> tuple[str, str]:
    """Files with a chain and its key for those names."""
    issued = authority.issue_cert(*names)
    chain, key = place / "chain.pem", place / "key.pem"
    place.mkdir(exist_ok=True)
    for file, content in ((chain, issued.cert_chain_pems[0]), (key, issued.private_key_pem)):
        new = file.with_suffix(".new")
        content.write_to_path(str(new))
        new.replace(file)
    return str(chain), str(key)


def as_options(pair: tuple[str, str]) -> list[str]:
    return ["--cert", pair[0], "--key", pair[1]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return write_pair(tmp_path_factory.mktemp("pair"), "localhost", "127.0.0.1")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    root.mkdir()
    (root / "index.html").write_bytes(b"home")
    (root / "large").write_bytes(os.urandom(1 << 16) * 80)
    challenge = root / ".well-known" / "acme-challenge"
    challenge.mkdir(parents=True)
    (challenge / "token").write_bytes(b"proof")
    return root


def open_client(
    url: str, context: ssl.SSLContext | None = None, name: str = "localhost"
) -> ssl.SSLSocket:
    where = urlsplit(url)
    plain = socket.create_connection((where.hostname, where.port), timeout=20)
    try:
        return (context or client_context()).wrap_socket(
            plain, server_hostname=name, suppress_ragged_eofs=False
        )
    except BaseException:
        plain.close()
        raise


def until_closed(client: ssl.SSLSocket) -> bytes:
    received = bytearray()
    while piece := client.recv(1 << 16):
        received += piece
    return bytes(received)


def ask(url: str, path: bytes = b"/", fields: bytes = LAST, **about: Any) -> bytes:
    with open_client(url, **about) as client:
        client.sendall(GET % (path, fields))
        return until_closed(client)


def serial(url: str, name: str = "localhost") -> str:
    """Of the certificate that is shown to who asks for that name."""
    context = client_context(check_hostname=False)
    OTHER.configure_trust(context)
    with open_client(url, context, name) as client:
        return str((client.getpeercert() or {})["serialNumber"])


# -- what clients get ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_file_comes_by_either_version(
    site: Path, pair: tuple[str, str], version: ssl.TLSVersion
) -> None:
    context = client_context(minimum_version=version, maximum_version=version)
    with serving(str(site), *as_options(pair)) as (_, url):
        assert url.startswith("https://")
        received = ask(url, context=context)
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert received.endswith(b"\r\n\r\nhome")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_older_versions_are_refused(site: Path, pair: tuple[str, str]) -> None:
    context = client_context(
        minimum_version=ssl.TLSVersion.TLSv1_1, maximum_version=ssl.TLSVersion.TLSv1_1
    )
    context.set_ciphers("ALL:@SECLEVEL=0")
    with serving(str(site), *as_options(pair)) as (_, url), pytest.raises(ssl.SSLError):
        ask(url, context=context)


def test_a_connection_is_kept_and_a_tag_is_known(site: Path, pair: tuple[str, str]) -> None:
    with serving(str(site), *as_options(pair)) as (_, url):
        where = urlsplit(url)
        client = HTTPSConnection(
            where.hostname or "", where.port, context=client_context(), timeout=20
        )
        client.request("GET", "/")
        response = client.getresponse()
        assert response.read() == b"home"
        used = client.sock
        client.request("GET", "/", headers={"If-None-Match": response.headers["ETag"]})
        response = client.getresponse()
        assert (response.status, response.read()) == (304, b"")
        client.request("GET", "/large", headers={"Range": "bytes=100000-300000"})
        response = client.getresponse()
        assert response.read() == (site / "large").read_bytes()[100000:300001]
        assert client.sock is used
        client.close()


@pytest.mark.parametrize("at_once", [True, False])
def test_pipelined_requests_are_answered_in_their_order(
    site: Path, pair: tuple[str, str], at_once: bool
) -> None:
    requests = [GET % (b"/%d" % number, b"") for number in range(20)] + [GET % (b"/", LAST)]
    with serving(str(site), *as_options(pair)) as (_, url), open_client(url) as client:
        for request in [b"".join(requests)] if at_once else requests:  # a record each
            client.sendall(request)
        received = until_closed(client)
        assert received.count(b"HTTP/1.1 404 ") == 20
        assert received.endswith(b"\r\n\r\nhome")


def test_a_large_file_comes_whole_to_a_slow_reader(site: Path, pair: tuple[str, str]) -> None:
    content = (site / "large").read_bytes()
    with serving(str(site), *as_options(pair)) as (_, url):
        where = urlsplit(url)
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(20)
        plain.connect((where.hostname, where.port))
        with client_context().wrap_socket(plain, server_hostname="localhost") as client:
            client.sendall(GET % (b"/large", LAST))
            received = bytearray()
            while piece := client.recv(5000):
                received += piece
        assert bytes(received).partition(b"\r\n\r\n")[2] == content


def test_the_end_is_said_before_the_connection_is_closed(site: Path, pair: tuple[str, str]) -> None:
    """A client that insists on a close_notify (RFC 8446, section 6.1) sees no truncation."""
    with serving(str(site), *as_options(pair)) as (_, url):
        assert ask(url).endswith(b"home")  # which takes no ragged end
        received = ask(url, fields=b"Content-Length: 5\r\n")  # refused, and lingered for
        assert received.startswith(b"HTTP/1.1 200 ")


def test_who_says_that_it_has_finished_gets_its_answer_and_the_end(
    site: Path, pair: tuple[str, str]
) -> None:
    with serving(str(site), *as_options(pair)) as (_, url):
        where = urlsplit(url)
        with socket.create_connection((where.hostname, where.port), timeout=20) as plain:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
            while True:
                with suppress(ssl.SSLWantReadError):
                    client.do_handshake()
                    break
                plain.sendall(outgoing.read())
                incoming.write(plain.recv(1 << 16))
            client.write(GET % (b"/", b""))  # which would keep the connection
            with suppress(ssl.SSLWantReadError):
                client.unwrap()
            plain.sendall(outgoing.read())
            while piece := plain.recv(1 << 16):
                incoming.write(piece)
            assert client.read().endswith(b"home")


def test_who_speaks_http_is_told(site: Path, pair: tuple[str, str]) -> None:
    with serving(str(site), *as_options(pair)) as (_, url):
        where = urlsplit(url)
        with socket.create_connection((where.hostname, where.port), timeout=20) as client:
            client.sendall(GET % (b"/", b""))
            received = client.recv(4096)
        assert received.startswith(b"HTTP/1.1 400 ")
        assert b"This port speaks HTTPS, not HTTP" in received


def test_the_files_of_the_certificate_are_not_served(site: Path) -> None:
    pair = write_pair(site / "tls", "localhost")
    with serving(str(site), *as_options(pair)) as (_, url):
        assert ask(url, b"/tls/key.pem").startswith(b"HTTP/1.1 404 ")
        assert ask(url, b"/tls/chain.pem").startswith(b"HTTP/1.1 404 ")


# -- which certificate -----------------------------------------------------------------------------


def test_the_certificate_is_that_of_the_name(site: Path, tmp_path: Path) -> None:
    pairs = [
        write_pair(tmp_path / "first", "first.example"),
        write_pair(tmp_path / "second", "second.example", "*.third.example"),
    ]
    options = [option for pair in pairs for option in as_options(pair)]
    with serving(str(site), *options) as (_, url):
        for name in ("first.example", "second.example", "SECOND.example", "a.third.example"):
            assert ask(url, name=name).endswith(b"home")
        assert serial(url, "first.example") != serial(url, "second.example")
        for name in ("elsewhere.example", "a.b.third.example"):  # a star is one label
            assert serial(url, name) == serial(url, "first.example")


def test_a_host_of_its_own_has_a_certificate_of_its_own(site: Path, tmp_path: Path) -> None:
    first = write_pair(tmp_path / "first", "first.example")
    chain, key = write_pair(tmp_path / "second", "second.example")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "index.html").write_bytes(b"other")
    config = tmp_path / "knot.toml"
    config.write_text(
        f"""
        [hosts."second.example"]
        directory = "{tmp_path / "other"}"
        cert = ["{chain}"]
        key = ["{key}"]
        """
    )
    with serving(str(site), *as_options(first), "--config", str(config)) as (_, url):
        assert ask(url, name="first.example").endswith(b"home")
        with open_client(url, name="second.example") as client:
            client.sendall((GET % (b"/", LAST)).replace(b"localhost", b"second.example"))
            assert until_closed(client).endswith(b"other")
    status, error = refusal(site, "--config", str(config))
    assert status == 2
    assert "second.example has a certificate: other hosts need --cert, too" in error


def through(certificates: Certificates, name: str = "localhost") -> dict[str, Any]:
    """The certificate that a handshake in memory shows."""
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = client_context(check_hostname=False)
    client = context.wrap_bio(ours, theirs, server_hostname=name)
    server = certificates.context.wrap_bio(theirs, ours, server_side=True)
    for side in (client, server, client):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    return client.getpeercert() or {}


def test_a_renewed_certificate_is_shown_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("knot.tls.monotonic", lambda: clock[0])
    pair = write_pair(tmp_path / "one", "localhost")
    certificates = Certificates([pair, write_pair(tmp_path / "two", "two.example")])
    old = through(certificates)
    write_pair(tmp_path / "one", "localhost")
    write_pair(tmp_path / "two", "two.example", "new.example")
    certificates.look()
    assert through(certificates) == old  # it is not looked at each time
    clock[0] += LOOK
    certificates.look()
    assert through(certificates)["serialNumber"] != old["serialNumber"]
    for name in ("new.example", "NEW.example", "new.example."):
        assert ("DNS", "new.example") in through(certificates, name)["subjectAltName"]


def test_a_renewed_certificate_of_equal_size_and_time_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As `tar` and `cp -p` leave it, in the same file; whether its time has passed or not."""
    caplog.set_level(logging.WARNING)
    for number, ahead in enumerate((0.0, 3600.0)):
        clock = [0.0]
        monkeypatch.setattr("knot.tls.monotonic", lambda clock=clock: clock[0])
        monkeypatch.setattr("knot.tls.time", lambda ahead=ahead: time() + ahead)
        chain, key = write_pair(tmp_path / f"{number}", "localhost")
        certificates = Certificates([(chain, key)])
        old = through(certificates)
        times = [(file, os.stat(file)) for file in (chain, key)]
        for source in write_pair(tmp_path / f"new {number}", "localhost"):
            target = tmp_path / f"{number}" / Path(source).name
            target.write_bytes(Path(source).read_bytes())
        for file, status in times:
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        stamps = [stamp_of(os.stat(file)) for file in (chain, key)]
        if number == 0:  # nor does the stamp of a coarse file system tell them apart
            monkeypatch.setattr(certificates._all[0], "_stamps", stamps)
        clock[0] += LOOK
        certificates.look()
        assert through(certificates)["serialNumber"] != old["serialNumber"]
    said = len(caplog.records)
    for _ in range(3):
        clock[0] += LOOK
        certificates.look()
    assert len(caplog.records) == said == 2


def test_a_key_that_cannot_be_read_any_more_is_not_taken_for_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was made a moment before `--user` gave up the right to read it."""

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    clock = [0.0]
    monkeypatch.setattr("knot.tls.monotonic", lambda: clock[0])
    certificates = Certificates([write_pair(tmp_path / "one", "localhost")])
    monkeypatch.setattr(Certificate, "_hashes", denied)
    for _ in range(3):
        clock[0] += LOOK
        certificates.look()
    assert not caplog.records


def test_a_renewed_certificate_that_is_broken_changes_nothing_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [0.0]
    monkeypatch.setattr("knot.tls.monotonic", lambda: clock[0])
    chain, key = write_pair(tmp_path / "one", "localhost")
    certificates = Certificates([(chain, key)])
    old = through(certificates)
    other, _ = write_pair(tmp_path / "other", "localhost")
    Path(other).replace(chain)  # and the key is still the old one's
    for _ in range(3):
        clock[0] += LOOK
        certificates.look()
        assert through(certificates) == old
    Path(chain).unlink()
    for _ in range(3):
        clock[0] += LOOK
        certificates.look()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "does not match the certificate" in said[0]
    assert "No such file" in said[1]
    write_pair(tmp_path / "one", "localhost")
    clock[0] += LOOK
    with caplog.at_level(logging.WARNING):
        certificates.look()
    assert "was renewed" in caplog.records[-1].getMessage()
    assert through(certificates)["serialNumber"] != old["serialNumber"]


def test_workers_take_a_renewed_certificate_by_sighup_and_keep_their_clients(
    site: Path, tmp_path: Path
) -> None:
    pair = write_pair(tmp_path / "one", "localhost")
    with serving(str(site), *as_options(pair), "--workers", "2") as (process, url):
        before = serial(url)
        with open_client(url) as kept:
            kept.sendall(GET % (b"/", b""))
            assert kept.recv(4096).endswith(b"home")
            write_pair(tmp_path / "one", "localhost")
            process.send_signal(signal.SIGHUP)
            while serial(url) == before:
                pass
            kept.sendall(GET % (b"/", b""))
            received = kept.recv(4096)
            assert received.startswith(b"HTTP/1.1 200 ")
            assert received.endswith(b"home")


# -- beside it, HTTP -------------------------------------------------------------------------------


def asked_plainly(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while piece := client.recv(1 << 16):
            received += piece
    return received


def free_port() -> int:
    """One that was free a moment ago: this listener's address is not printed."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_who_comes_by_http_is_sent_to_https(
    site: Path, pair: tuple[str, str], workers: list[str]
) -> None:
    port = free_port()
    options = ["--redirect-http", f"127.0.0.1:{port}", "--hsts", "1000", *workers]
    with serving(str(site), *as_options(pair), *options) as (_, url):
        https = urlsplit(url).port or 0
        received = asked_plainly(port, GET % (b"/a?b=%20", b""))
        assert received.startswith(b"HTTP/1.1 301 ")
        assert b"\r\nLocation: https://localhost:%d/a?b=%%20\r\n" % https in received
        assert b"Strict-Transport-Security" not in received  # RFC 6797, section 7.2
        challenge = asked_plainly(port, GET % (b"/.well-known/acme-challenge/token", b""))
        assert challenge.endswith(b"proof")
        assert b"Strict-Transport-Security" not in challenge
        assert asked_plainly(port, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert b"\r\nStrict-Transport-Security: max-age=1000\r\n" in ask(url)


@pytest.mark.parametrize(
    ("target", "host", "location"),
    [
        (b"/", b"example.org", b"https://example.org/"),
        (b"/a?b", b"example.org:8080", b"https://example.org/a?b"),
        (b"/", b"[::1]:8080", b"https://[::1]/"),
        (b"http://other.example:80/x?y", b"example.org", b"https://other.example/x?y"),
        (b"//evil.example/", b"example.org", b"https://example.org//evil.example/"),
    ],
)
def test_the_target_stays_what_it_was(
    site: Path, target: bytes, host: bytes, location: bytes
) -> None:
    with_site = Site(site)
    responder = Responder(with_site)
    gate = HttpsRedirect(443, responder, BasicAuth(responder), BasicAuth(responder))

    class Plain:
        tls = None

    response = gate(Plain(), Request(b"GET", target, fields=((b"host", host),)), 1.0)  # type: ignore[arg-type]
    assert b"\r\nLocation: %b\r\n" % location in response.data  # type: ignore[union-attr]
    with_site.close()


def test_the_name_of_a_host_is_without_its_port() -> None:
    for authority, name in ((b"a:1", b"a"), (b"a", b"a"), (b"[::1]:1", b"[::1]"), (b"", b"")):
        assert host_name(authority) == name


# -- what cannot be --------------------------------------------------------------------------------


def refusal(site: Path, *options: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [*KNOT, "serve", str(site), "--port", "0", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env=plain_environment() | environment,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, " ".join(done.stderr.split())


def test_files_that_are_no_certificate_are_refused_in_a_sentence(
    site: Path, pair: tuple[str, str], tmp_path: Path
) -> None:
    chain, key = pair
    other, _ = write_pair(tmp_path / "other", "localhost")
    private = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    (tmp_path / "secret").write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    for options, said in (
        (["--cert", "/nowhere"], "cannot read /nowhere: No such file or directory"),
        (["--cert", chain], "name the key's file with --key"),
        (["--cert", other, "--key", key], f"the key in {key} does not match the certificate"),
        (
            ["--cert", str(site / "index.html"), "--key", key],
            "are not a certificate and key in PEM",
        ),
        (["--cert", chain, "--key", str(tmp_path / "secret")], "a key with a password"),
    ):
        status, error = refusal(site, *options)
        assert status == 1
        assert said in error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cert", "a", "--cert", "b", "--key", "c"], "2 --cert and 1 --key"),
        (["--hsts", "5"], "--hsts needs --cert"),
        (["--redirect-http", "127.0.0.1:0"], "--redirect-http needs --cert"),
        (["--cert", "a", "--tls-self-signed"], "choose one"),
        (["--cert", "a", "--redirect-http", "127.0.0.1:0", "--unix", "b"], "and --unix has none"),
        (["--cert", "a", "--model", "threads"], "HTTPS needs --model events"),
    ],
)
def test_options_that_cannot_be_are_refused(site: Path, options: list[str], said: str) -> None:
    status, error = refusal(site, *options)
    assert status == 2
    assert said in error


# -- a certificate of one's own --------------------------------------------------------------------


def test_a_certificate_for_development_is_made_once(site: Path, tmp_path: Path) -> None:
    options = {"env": {"XDG_CACHE_HOME": str(tmp_path / "cache")}}
    for workers in ([], ["--workers", "2"]):
        with serving(str(site), "--tls-self-signed", *workers, **options) as (_, url):
            authority = tmp_path / "cache" / "knot" / "localhost-authority.pem"
            context = ssl.create_default_context(cafile=str(authority))
            assert ask(url, context=context).endswith(b"home")
            assert ask(url, context=context, name="127.0.0.1").endswith(b"home")
    kept = tmp_path / "cache" / "knot" / "localhost.pem"
    assert kept.stat().st_mode & 0o777 == 0o600


def test_without_its_library_the_remedy_is_told(site: Path, tmp_path: Path) -> None:
    (tmp_path / "trustme.py").write_text("raise ImportError('trustme')")
    status, error = refusal(
        site, "--tls-self-signed", PYTHONPATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path)
    )
    assert status == 1
    assert "pip install 'knot-httpd[self-signed]'" in error


# -- the channel -----------------------------------------------------------------------------------


@contextmanager
def channel(pair: tuple[str, str], buffer: int) -> Iterator[tuple[Channel, ssl.SSLSocket]]:
    """A channel, and the client at its other end, after their handshake."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    ours.setblocking(False)
    theirs.settimeout(20)
    found = Channel(ours.fileno(), Certificates([pair]).context)
    clients: list[ssl.SSLSocket] = []

    def shake() -> None:
        clients.append(client_context().wrap_socket(theirs, server_hostname="localhost"))

    thread = threading.Thread(target=shake)
    thread.start()
    while not found.handshake():
        pass
    with suppress(BlockingIOError):
        found.read()  # which sends the tickets
    thread.join()
    with ours, clients[0]:
        yield found, clients[0]


@given(
    writes=st.lists(st.integers(1, 700_000), max_size=4),
    buffer=st.sampled_from([2048, 20_000, 1 << 20]),
    take=st.integers(1000, 100_000),
)
def test_what_is_written_in_any_pieces_arrives_as_it_was(
    pair: tuple[str, str], writes: list[int], buffer: int, take: int
) -> None:
    sent = [bytes([number]) * size for number, size in enumerate(writes)]
    with channel(pair, buffer) as (ours, theirs):
        received = bytearray()

        def read() -> None:
            while len(received) < sum(writes):
                received.extend(theirs.recv(take))

        thread = threading.Thread(target=read)
        thread.start()
        room = select.poll()
        room.register(ours._fd, select.POLLOUT)
        for data in sent:
            while data:  # as `send_some` does
                room.poll(20_000)
                with suppress(BlockingIOError):
                    data = data[ours.write(data) :]
        thread.join()
        assert received == b"".join(sent)


@given(sizes=st.lists(st.integers(1, 3 * RECORD), min_size=1, max_size=6))
def test_what_the_client_sends_is_read_whole(pair: tuple[str, str], sizes: list[int]) -> None:
    """Records come in any pieces, and several at once."""
    with channel(pair, 1 << 20) as (ours, theirs):
        sent = b"".join(bytes([number]) * size for number, size in enumerate(sizes))
        thread = threading.Thread(target=theirs.sendall, args=(sent,))
        thread.start()
        received = bytearray()
        while len(received) < len(sent):
            with suppress(BlockingIOError):
                received += ours.read()
        thread.join()
        assert received == sent


def test_a_client_that_leaves_is_seen(pair: tuple[str, str]) -> None:
    with channel(pair, 1 << 20) as (ours, theirs):
        theirs.settimeout(None)
        os.write(theirs.fileno(), b"junk that is no record")
        with pytest.raises(ConnectionError):
            ours.read()
    with channel(pair, 1 << 20) as (ours, theirs):
        theirs.shutdown(socket.SHUT_RDWR)
        assert ours.read() == b""
        assert ours.over
