"""SIGHUP to a single process: the configuration changes in place, and no client notices more."""

from __future__ import annotations

import base64
import fcntl
import os
import signal
import socket
import ssl
import subprocess
import tempfile
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from time import monotonic
from typing import IO
from urllib.parse import urlsplit

import bcrypt
import pytest
import trustme
from serving import KNOT, MODELS, Model, administered, chosen, fetch, serving
from speaking_http2 import Connected

from knot import Responder, Site
from knot.access.gates import AUTHORIZATION, BasicAuth
from knot.access.passwords import Passwords
from knot.access.rates import ConnectionLimit
from knot.models import events, http2
from knot.models.accepting import admit
from knot.models.connection import close_connection
from knot.models.peer import FdConnection
from knot.models.server import Server
from knot.monitor.access_log import AccessLog, Record
from knot.process import sandbox
from knot.process.listeners import listen
from knot.process.signals import Signals

KNOWN = {"Authorization": "Basic " + base64.b64encode(b"ada:secret").decode()}


class Config:
    """A directory with a ``knot.toml``, and roots whose content says which they are."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.file = place / "knot.toml"
        for name in ("0", "1", "host"):
            (place / name).mkdir()
            (place / name / "index.html").write_text(name)
        hash = bcrypt.hashpw(b"secret", bcrypt.gensalt(4))
        (place / "users").write_bytes(b"ada:" + hash + b"\n")

    def write(self, text: str) -> None:
        """Replace it as an editor does."""
        new = self.place / "new.toml"
        new.write_text(text)
        new.rename(self.file)

    def version(self, number: int, more: str = "") -> None:
        root = self.place / str(number % 2)
        self.write(f'directory = "{root}"\nheader = ["X-Version: {number}"]\n{more}')


@pytest.fixture(params=["events on uvloop", "threads", "asyncio", "greenlets"])
def each_model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    """With one driver: they know nothing of all this."""
    with chosen(MODELS[request.param], monkeypatch) as found:
        yield found


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(tmp_path)


class Clients:
    """Threads that ask without a pause: on connections that stay, and on new ones."""

    def __init__(self, url: str) -> None:
        self.where = urlsplit(url)
        self.newest = 0
        """The version that every answer has to a request which is sent from now on, or a newer."""
        self.stopped = threading.Event()
        self.answers = 0
        self.failures: list[str] = []
        self.threads = [threading.Thread(target=self.ask, args=(stays,)) for stays in (True, False)]
        for thread in self.threads:
            thread.start()

    def ask(self, stays: bool) -> None:
        connections = 0
        client = HTTPConnection(self.where.hostname or "", self.where.port, timeout=20)
        try:
            while not self.stopped.is_set():
                connections += client.sock is None
                least = self.newest
                client.request("GET", "/")
                response = client.getresponse()
                content, version = response.read(), int(response.headers["X-Version"])
                if response.status != 200 or content != b"%d" % (version % 2):
                    self.failures.append(f"{response.status} {content!r} of {version}")
                if version < least:
                    self.failures.append(f"{version} after {least}")
                self.answers += 1
                if not stays:
                    client.close()
            if stays and connections != 1:
                self.failures.append(f"{connections} connections")
        except Exception as error:
            self.failures.append(repr(error))
        finally:
            client.close()


@contextmanager
def clients(url: str) -> Iterator[Clients]:
    found = Clients(url)
    try:
        yield found
    finally:
        found.stopped.set()
        for thread in found.threads:
            thread.join()


def ask(url: str, host: str = "x", **fields: str) -> tuple[int, bytes, str | None]:
    where = urlsplit(url)
    client = HTTPConnection(where.hostname or "", where.port, timeout=20)
    client.request("GET", "/", headers={"Host": host, **fields})
    response = client.getresponse()
    found = response.status, response.read(), response.headers["X-Version"]
    client.close()
    return found


def until(what: Callable[[], bool]) -> None:
    deadline = monotonic() + 20
    while not what():
        assert monotonic() < deadline


def reload(process: subprocess.Popen[str], url: str, version: int, **fields: str) -> None:
    process.send_signal(signal.SIGHUP)
    until(lambda: ask(url, **fields)[2] == str(version))


def line_of(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def holds(pid: int, path: Path) -> bool:
    """Whether the process has that file or directory open."""
    found = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return str(path) in found


@contextmanager
def served(config: Config, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with serving("--config", str(config.file), *options) as (process, url):
        yield process, url


@pytest.mark.usefixtures("each_model")
def test_twenty_changes_cost_no_request_and_no_connection(config: Config) -> None:
    config.version(0)
    # The roots are beside each other, and a sandbox for the first one leaves the file's directory.
    with served(config, "--max-requests", "1000000") as (process, url):
        with clients(url) as live:
            for number in range(1, 21):
                config.version(number)
                reload(process, url, number)
                live.newest = number
        assert live.failures == []
        assert live.answers > 20
        until(lambda: not holds(process.pid, config.place / "1"))  # but the one that is served


def test_what_is_wrong_changes_nothing_and_is_said_in_a_sentence(config: Config) -> None:
    config.version(0)
    with served(config) as (process, url):
        for wrong, said in (
            ("hedaer = []", "did you mean header"),
            ("[", "TOML"),
            ('directory = "nowhere"', "/nowhere: No such file or directory"),
            ('auth = "nobody"', "/nobody: No such file or directory"),
            ("keep-alive = -1", "seconds"),
        ):
            config.write(wrong)
            process.send_signal(signal.SIGHUP)
            line = line_of(process.stderr)
            assert said in line
            assert line.startswith("the configuration is unchanged: ")
            assert ask(url) == (200, b"0", "0")
        config.version(1, 'host = "127.0.0.2"\ngrace = 1\n')
        reload(process, url, 1)
        assert "--host and --grace cannot change while Knot runs" in line_of(process.stderr)


class Torn:
    """A request whose head ends only after the change."""

    def __init__(self, url: str, first: bytes, rest: bytes, before: bytes = b"") -> None:
        """`before` are fields of another request, whose answer shows that the server has read the
        first half of this one."""
        where = urlsplit(url)
        self.rest = rest
        self.client = socket.create_connection((where.hostname, where.port), timeout=20)
        self.client.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\n%b\r\nGET / HTTP/1.1\r\n%b" % (before, first)
        )
        assert self.answer()[0] == 200

    def answer(self) -> tuple[int, bytes]:
        response = HTTPResponse(self.client)
        response.begin()
        return response.status, response.read()

    def end(self) -> tuple[int, bytes]:
        with self.client:
            self.client.sendall(self.rest)
            return self.answer()


@pytest.mark.usefixtures("each_model")
def test_new_gates_see_all_that_they_want_of_every_request(config: Config) -> None:
    """Also of one that was half read when they came, and on connections that were there before."""
    config.version(0)
    users = f'auth = "{config.place / "users"}"\n'
    field = b"Authorization: %b\r\n" % KNOWN["Authorization"].encode()
    with served(config) as (process, url):
        unknown = Torn(url, b"Host:", b" x\r\n\r\n")
        known = Torn(url, b"Host: x\r\n" + field + b"X: ", b"y\r\n\r\n")
        config.version(1, users)
        process.send_signal(signal.SIGHUP)
        until(lambda: ask(url)[0] == 401)
        assert unknown.end()[0] == 401
        assert known.end() == (200, b"1")
        assert ask(url, **KNOWN) == (200, b"1", "1")

        other = Torn(url, b"Host: b.example\r\n" + field + b"X: ", b"y\r\n\r\n", field)
        config.version(2, f'{users}[hosts."b.example"]\ndirectory = "{config.place / "host"}"\n')
        reload(process, url, 2, **KNOWN)
        assert ask(url, "b.example", **KNOWN)[:2] == (200, b"host")
        assert other.end() == (200, b"host")

        config.version(3)
        reload(process, url, 3)
        assert ask(url, "b.example") == (200, b"1", "3")

        config.version(4, 'deny = ["127.0.0.1"]\n')
        waits = Torn(url, b"Host:", b" x\r\n\r\n")
        process.send_signal(signal.SIGHUP)
        until(lambda: ask(url)[0] == 403)
        assert waits.end()[0] == 403


# -- what else there is to a process ---------------------------------------------------------------


def test_counts_go_on(config: Config) -> None:
    pytest.importorskip("prometheus_client")
    config.version(0)

    def count(name: str) -> float:
        return sum(
            float(line.rpartition(" ")[2])
            for line in fetch(f"{admin}/metrics")[1].splitlines()
            if line.startswith(name)
        )

    with administered(config.place / "0", "--config", str(config.file)) as (process, url, admin):
        assert ask(url)[0] == 200
        config.write('header = ["X-Version: 4"]')
        reload(process, url, 4)
        last = dict.fromkeys(("knot_requests", "knot_connections_total", "knot_cache_misses"), 0.0)
        asked = count("knot_requests")
        for number in range(1, 4):
            config.write(
                f'header = ["X-Version: {number}"]\nlog = "{["off", "short"][number % 2]}"'
            )
            reload(process, url, number)
            for _ in range(5):
                assert ask(url)[0] == 200
            now = {name: count(name) for name in last}
            assert all(now[name] > last[name] for name in now)
            last = now
        assert last["knot_requests"] >= asked + 3 * 6
        # One for each cache that there was, and one for each second in which the file was too new.
        assert last["knot_cache_misses"] >= 5
        hits = count("knot_cache_hits_total")
        assert last["knot_requests"] == hits + last["knot_cache_misses"]


def test_a_root_outside_the_sandbox_needs_a_restart_and_says_so(
    config: Config, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if sandbox.landlock(sandbox.LANDLOCK_CREATE_RULESET, None, 0, sandbox.VERSION) < 1:
        pytest.skip("the kernel has no Landlock")
    config.version(0)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with served(config) as (process, url):
        config.write(f'directory = "{elsewhere}"\n')
        process.send_signal(signal.SIGHUP)
        line = line_of(process.stderr)
        assert str(elsewhere) in line
        assert "sandbox" in line
        assert "restart Knot" in line
        assert ask(url) == (200, b"0", "0")


def test_the_log_goes_on_in_another_file_or_form(config: Config) -> None:
    logs = [config.place / f"{name}.log" for name in ("a", "old", "b")]
    config.version(0, f'log-file = "{logs[0]}"\n')
    with served(config) as (process, url):
        assert ask(url)[0] == 200
        logs[0].rename(logs[1])
        config.version(1, f'log-file = "{logs[0]}"\n')
        reload(process, url, 1)
        until(lambda: bool(ask(url)) and logs[0].exists() and bool(logs[0].read_text()))
        config.version(2, f'log-file = "{logs[2]}"\nlog = "json"\n')
        reload(process, url, 2)
        until(lambda: bool(ask(url)) and logs[2].exists() and bool(logs[2].read_text()))
        assert logs[2].read_text().startswith("{")
        until(lambda: not holds(process.pid, logs[0]))
    lines = "".join(log.read_text() for log in logs[:2]).splitlines()
    assert all("GET / HTTP/1.1" in line for line in lines)


def test_a_file_that_the_user_may_not_read_changes_nothing() -> None:
    if os.geteuid():
        pytest.skip("only root becomes another user")
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        place.chmod(0o755)
        config = Config(place)
        config.version(0)
        options = ("--user", "nobody", "--no-sandbox")
        with served(config, *options) as (process, url):
            config.version(1)
            config.file.chmod(0o600)
            process.send_signal(signal.SIGHUP)
            assert "not readable" in line_of(process.stderr)
            assert ask(url) == (200, b"0", "0")


def test_what_was_started_in_a_terminal_ends_with_it(config: Config) -> None:
    config.version(0)
    own, other = os.openpty()
    process = subprocess.Popen(
        [*KNOT, "serve", "--config", str(config.file), "--port", "0"],
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(other)
    said = b""
    while b"Ctrl-C" not in said:
        said += os.read(own, 1000)
    os.close(own)
    assert process.wait(20) == 0


# -- inside one process ----------------------------------------------------------------------------


def test_streams_are_answered_by_what_they_were_asked_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over HTTP/2 one connection sees the old site and the new one, each with its gate."""
    config = Config(tmp_path)
    monkeypatch.setattr(events, "connection", http2.connection)
    server = events.Server(Responder(Site(tmp_path / "0")))
    new = Server(Responder(Site(tmp_path / "1")))
    passwords = Passwords(str(config.place / "users"), threading.Semaphore(2))
    wanted = frozenset({AUTHORIZATION})
    new.guard(BasicAuth(new.responder, passwords, wanted), wanted)
    changed = threading.Event()

    def change() -> None:
        server.adopt(new)
        changed.set()

    signals = Signals({signal.SIGHUP: change})
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    found: list[tuple[int, bytes]] = []

    def client() -> None:
        try:
            with Connected(socket.create_connection(("127.0.0.1", port))) as client:
                asked = []
                for fields in ((), None, (), ((AUTHORIZATION, KNOWN["Authorization"].encode()),)):
                    if fields is None:
                        signals.tell(signal.SIGHUP)
                        assert changed.wait(20)
                        continue
                    asked.append(client.ask(b"/", fields, host=b"x"))
                    client.until_satisfied()
                for stream in asked:
                    answer = client.answers[stream]
                    found.append((answer.status, bytes(answer.content)))
        finally:
            signals.tell(signal.SIGTERM)

    thread = threading.Thread(target=client)
    thread.start()
    events.run([listener], server, signals, 0)
    thread.join()
    signals.close()
    assert [found[0], found[1][0], found[2]] == [(200, b"0"), 401, (200, b"1")]


def test_a_password_that_was_checked_is_not_checked_again(tmp_path: Path) -> None:
    path = str(Config(tmp_path).place / "users")
    turns = threading.Semaphore(2)
    before = Passwords(path, turns)
    credentials = KNOWN["Authorization"].encode()
    check = before.begin(credentials)
    assert check is not None
    after = Passwords(path, turns, before)
    before.keep(credentials, check())
    outcome = after.known(credentials)
    assert outcome is not None
    assert outcome.right
    (tmp_path / "users").write_bytes(b"ada:" + bcrypt.hashpw(b"other", bcrypt.gensalt(4)) + b"\n")
    assert Passwords(path, turns, after).known(credentials) is None


def test_a_log_that_is_left_writes_what_is_pending_and_closes_its_file(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    log = AccessLog("common", writer)
    log.add(Record(0, "::1", b"GET", b"/", b"HTTP/1.1", 200, 1, b"", b"", 0))
    log.leave(closes=True)
    with open(reader) as pipe:
        assert "GET / HTTP/1.1" in pipe.read()  # to its end


def test_connections_that_are_there_count_and_have_addresses_when_that_begins_to_matter(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    server, new = Server(Responder(site)), Server(Responder(site))
    assert not server.wants_addresses
    new.connection_limit = ConnectionLimit(2)
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as ends:
        peers = []
        for _ in range(3):
            ends.enter_context(socket.create_connection(listener.getsockname()))
            peers.append(FdConnection(listener.accept()[0].detach(), ""))
        server.peers.update(peers)
        server.adopt(new)
        assert {peer.address for peer in peers} == {"127.0.0.1"}
        for crowded, peer in zip((True, True, False), peers, strict=True):
            assert bool(admit("127.0.0.1", server)) == crowded
            close_connection(peer, server)
    site.close()


def test_certificates_change_and_https_stays(config: Config) -> None:
    authority = trustme.CA()
    for name in ("a", "b"):
        issued = authority.issue_cert(f"{name}.example")
        issued.private_key_and_cert_chain_pem.write_to_path(str(config.place / f"{name}.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)

    def version(host: str) -> str | None:
        """What a client sees that insists on the certificate of `host`."""
        try:
            with (
                socket.create_connection((where.hostname, where.port), timeout=20) as plain,
                context.wrap_socket(plain, server_hostname=host) as client,
            ):
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                response = HTTPResponse(client)
                response.begin()
                return response.headers["X-Version"]
        except ssl.SSLCertVerificationError:
            return None

    def cert(*names: str) -> str:
        return f"cert = {[str(config.place / f'{name}.pem') for name in names]}\n"

    config.version(0, cert("a"))
    with served(config) as (process, url):
        where = urlsplit(url)
        assert [version("a.example"), version("b.example")] == ["0", None]
        config.version(1, cert("a", "b"))
        process.send_signal(signal.SIGHUP)
        until(lambda: version("b.example") == "1")
        assert version("a.example") == "1"
        config.version(2)
        process.send_signal(signal.SIGHUP)
        assert "--cert cannot change while Knot runs" in line_of(process.stderr)
        until(lambda: version("a.example") == "2")
