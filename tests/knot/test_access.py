"""Who may have what, as clients see it."""

from __future__ import annotations

import json
import re
import shlex
import socket
import ssl
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import bcrypt
import pytest
import speaking_http2
import trustme
from click.testing import CliRunner
from serving import HOST, KNOT, Model, answers, serving, until_closed

from knot import FieldRules, Responder
from knot import Site as Files
from knot.access.gates import BasicAuth, Doorkeeper
from knot.access.networks import Networks
from knot.access.passwords import Outcome
from knot.build import HostedSite, Sites, guard, networks
from knot.cli import main, serve
from knot.config import OF_A_HOST, read_settings
from knot.http.request import BadRequest, Request
from knot.http.responder import Deferred, Response
from knot.models.events import Server
from knot.settings import Access, Settings, validate

PATIENCE = 20.0
"""Seconds after which a test that waits has failed."""

CLOSE = b"Connection: close\r\n"


def hashed(password: bytes, cost: int = 4) -> bytes:
    return bcrypt.hashpw(password, bcrypt.gensalt(cost))


def basic(pair: bytes) -> bytes:
    return b"Authorization: Basic %b\r\n" % b64encode(pair)


ALICE = basic(b"alice:wonder")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("home")
    (site / "style.css").write_text("p {}")
    (site / "passwords").write_bytes(
        b"alice:%b\nj\xc3\xb6:%b\n" % (hashed(b"wonder"), hashed(b"x"))
    )
    (site / "dir").mkdir()
    return site


class Knot:
    """A server that listens at all addresses of this machine, and its access log."""

    def __init__(self, url: str, log: Path) -> None:
        self.port = urlsplit(url).port or 0
        self._log = log

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 20, source_address=(source, 0))

    def ask(
        self,
        fields: bytes = b"",
        target: bytes = b"/",
        method: bytes = b"GET",
        source: str = "127.0.0.1",
    ) -> bytes:
        with self.connect(source) as client:
            client.sendall(b"%b %b HTTP/1.1\r\n%b%b%b\r\n" % (method, target, HOST, CLOSE, fields))
            return until_closed(client)

    def status(self, fields: bytes = b"", **about: Any) -> int:
        return int(self.ask(fields, **about).split(b" ", 2)[1])

    def log(self) -> list[str]:
        """Once the server has ended."""
        return self._log.read_text().splitlines()


@contextmanager
def knot(site: Path, *options: str, log: str = "common") -> Iterator[Knot]:
    file = site.parent / "log"
    where = ("--log", log, "--log-file", str(file))
    with serving(str(site), *where, *options) as (_, url):
        yield Knot(url, file)


# -- passwords -----------------------------------------------------------------------------------


def test_who_knows_a_password_is_served(site: Path, model: Model) -> None:
    with knot(site, "--auth", str(site / "passwords"), "--listing") as server:
        refused = server.ask()
        assert refused.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
        assert b'\r\nWWW-Authenticate: Basic realm="Knot", charset="UTF-8"\r\n' in refused
        assert b"home" not in refused
        for _ in range(2):  # checked, and remembered
            assert server.ask(ALICE).endswith(b"\r\n\r\nhome")
            assert server.status(basic(b"alice:wunder")) == 401
            assert server.status(basic(b"alice:")) == 401
            assert server.status(basic(b"nobody:wonder")) == 401
            assert server.ask(basic("jö:x".encode()), target=b"/style.css").endswith(b"p {}")
        for fields in (ALICE * 2, b"Authorization: Bearer x\r\n", b"Authorization: Basic x\r\n"):
            assert server.status(fields) == 401
        assert server.status(b"AUTHORIZATION" + ALICE[13:]) == 200
        assert server.status(ALICE, target=b"/passwords") == 404
        assert b"passwords" not in server.ask(ALICE, target=b"/dir/../?")
        assert server.status(target=b"/nowhere") == 401, "nor is it said what there is"
        assert server.status(ALICE, target=b"/nowhere") == 404
        assert server.status(ALICE, target=b"/dir") == 301
        assert server.status(ALICE, target=b"/dir/") == 200
        assert server.ask(ALICE, method=b"HEAD").endswith(b"\r\n\r\n")
        assert server.status(method=b"POST") == 401
    users = [line.split(" ")[2] for line in server.log()]
    assert users[:11] == ["-", *(["alice", "-", "-", "-", r"j\xC3\xB6"] * 2)]


def test_requests_on_one_connection_are_answered_in_their_order(site: Path, model: Model) -> None:
    first, other = (b"GET %b HTTP/1.1\r\n%b" % (path, HOST) for path in (b"/", b"/style.css"))
    asked = [
        first + ALICE, other + ALICE, first, other + basic(b"alice:no"), first + ALICE,
        other + basic(b"bob:x"), other + ALICE + CLOSE,
    ]  # fmt: skip
    with knot(site, "--auth", str(site / "passwords")) as server, server.connect() as client:
        client.sendall(b"\r\n".join(asked) + b"\r\n")
        received = answers(until_closed(client))
    assert [status for status, _ in received] == [200, 200, 401, 401, 200, 401, 200]
    assert [received[place][1] for place in (0, 1, 4, 6)] == [b"home", b"p {}", b"home", b"p {}"]


def test_many_that_come_at_once_with_one_password_are_served_after_one_check(
    site: Path, model: Model
) -> None:
    (site / "passwords").write_bytes(b"alice:" + hashed(b"wonder", cost=10))
    with knot(site, "--auth", str(site / "passwords")) as server:
        found: list[int] = []
        threads = [
            threading.Thread(target=lambda: found.append(server.status(ALICE))) for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [200] * 12


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_a_changed_file_counts_without_a_restart(site: Path, workers: tuple[str, ...]) -> None:
    file = site.parent / "outside"
    file.write_bytes(b"alice:" + hashed(b"wonder"))
    with knot(site, "--auth", str(file), *workers) as server:
        assert server.status(ALICE) == 200
        new = site.parent / "new"
        new.write_bytes(b"bob:" + hashed(b"builder"))
        new.rename(file)
        deadline = monotonic() + PATIENCE
        while {server.status(ALICE) for _ in range(8)} != {401}:
            assert monotonic() < deadline
        while {server.status(basic(b"bob:builder")) for _ in range(8)} != {200}:
            assert monotonic() < deadline


def test_answers_are_for_the_client_alone_unless_a_rule_says_otherwise(site: Path) -> None:
    rule = ("--cache-control", "*.css=public, max-age=9")
    private = b"\r\nCache-Control: private\r\n"
    with knot(site, "--auth", str(site / "passwords"), "--listing", *rule) as server:
        for target in (b"/", b"/dir", b"/dir/", b"/nowhere"):
            assert private in server.ask(ALICE, target=target)
        assert private in server.ask()
        style = server.ask(ALICE, target=b"/style.css")
        assert style.count(b"Cache-Control") == 1
        assert b"\r\nCache-Control: public, max-age=9\r\n" in style
    with knot(site, "--header", "cache-control: no-store", *rule[:0]) as server:
        assert private not in server.ask()
    options = ("--header", "cache-control: no-store", "--auth", str(site / "passwords"))
    with knot(site, *options) as server:
        assert server.ask(ALICE).lower().count(b"cache-control") == 1


def test_a_browser_may_ask_without_a_password_whether_a_script_may_ask_with_one(
    site: Path,
) -> None:
    with knot(site, "--auth", str(site / "passwords"), "--cors") as server:
        allowed = server.ask(method=b"OPTIONS")
        assert allowed.startswith(b"HTTP/1.1 204 ")
        assert b"\r\nAccess-Control-Allow-Headers: *, Authorization\r\n" in allowed
        assert server.status() == 401
    with knot(site, "--auth", str(site / "passwords")) as server:
        assert server.status(method=b"OPTIONS") == 401


@pytest.mark.parametrize("format", ["combined", "json"])
def test_the_log_has_the_user(site: Path, format: str) -> None:
    said = b"User-Agent: curl\r\nReferer: http://a.example/\r\n"
    with knot(site, "--auth", str(site / "passwords"), log=format) as server:
        for fields in (ALICE, basic(b"alice:no"), b""):
            server.ask(said + fields)
    lines = server.log()
    if format == "json":
        assert [json.loads(line)["user"] for line in lines] == ["alice", "", ""]
        assert json.loads(lines[0])["agent"] == "curl"
    else:
        assert [line.split(" ")[2] for line in lines] == ["alice", "-", "-"]
        assert all(line.endswith(' "http://a.example/" "curl"') for line in lines)


class Busy:
    """Passwords of which too many are being checked."""

    are_there = True

    def look(self, now: float) -> None:
        pass

    def known(self, credentials: bytes) -> Outcome | None:
        return None

    def begin(self, credentials: bytes) -> None:
        return None


def test_one_check_too_many_is_refused_for_now(site: Path) -> None:
    files = Files(site)
    entrance = BasicAuth(Responder(files), Busy())  # type: ignore[arg-type]
    response = entrance(None, Request(b"GET", b"/"), 1.0)  # type: ignore[arg-type]
    assert isinstance(response, Response)
    assert response.status == 503
    assert b"\r\nRetry-After: 5\r\n" in response.data
    assert response.keep_alive
    files.close()


def test_a_redirect_to_https_comes_before_the_password(site: Path, tmp_path: Path) -> None:
    pem = tmp_path / "both.pem"
    issued = trustme.CA().issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(str(pem))
    with socket.create_server(("127.0.0.1", 0)) as free:
        plain = free.getsockname()[1]
    options = ("--cert", str(pem), "--redirect-http", f"127.0.0.1:{plain}")
    with knot(site, "--auth", str(site / "passwords"), "--deny", "127.0.0.9", *options) as server:
        server.port = plain
        assert server.status() == 301
        assert server.status(source="127.0.0.9") == 403


# -- networks ------------------------------------------------------------------------------------


def test_who_is_denied_is_refused_and_if_any_are_allowed_so_are_all_others(
    site: Path, model: Model
) -> None:
    with knot(site, "--deny", "127.0.0.2", "--deny", "127.0.1.0/24") as server:
        for source, status in (("127.0.0.1", 200), ("127.0.0.2", 403), ("127.0.1.9", 403)):
            assert [server.status(source=source) for _ in range(2)] == [status] * 2
    both = ("--allow", "127.0.0.0/24", "--allow", "::1", "--deny", "127.0.0.2")
    with knot(site, *both) as server:
        for source, status in (("127.0.0.1", 200), ("127.0.0.2", 403), ("127.0.1.9", 403)):
            assert [server.status(source=source) for _ in range(2)] == [status] * 2
        refused = server.ask(source="127.0.0.2")
        assert b"home" not in refused
        assert b"Retry-After" not in refused


def test_a_path_has_to_be_allowed_by_its_name(site: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    for allowed, status in (("0.0.0.0/0", b"403"), ("unix", b"200")):
        with (
            serving(str(site), "--allow", allowed, listens=("--unix", path)),
            socket.socket(socket.AF_UNIX) as client,
        ):
            client.connect(path)
            client.sendall(b"GET / HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n")
            assert until_closed(client).split(b" ")[1] == status


def test_networks_come_from_the_environment_and_from_a_file(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KNOT_DENY", "10.0.0.0/8 127.0.0.2")
    toml = site.parent / "knot.toml"
    toml.write_text('allow = ["127.0.0.0/30"]\n')
    with knot(site, "--config", str(toml)) as server:
        found = [server.status(source=f"127.0.0.{last}") for last in (1, 2, 3, 4)]
    assert found == [200, 403, 200, 403]


# -- rates and crowds ----------------------------------------------------------------------------


def test_who_asks_too_often_has_to_wait(site: Path, model: Model) -> None:
    with knot(site, "--max-rate", "0.3") as server:  # 3 at once
        assert [server.status() for _ in range(5)] == [200, 200, 200, 429, 429]
        refused = server.ask()
        assert refused.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
        wait = refused.partition(b"\r\nRetry-After: ")[2].partition(b"\r\n")[0]
        assert 1 <= int(wait) <= 4
        assert server.status(source="127.0.0.2") == 200
        assert server.ask(b"X-Forwarded-For: 192.0.2.1\r\n").startswith(b"HTTP/1.1 429 ")


def test_what_is_no_request_counts_as_well(site: Path) -> None:
    with knot(site, "--max-rate", "0.2") as server:
        assert [server.status(target=b"/ /") for _ in range(3)] == [400, 400, 429]


def test_a_client_has_so_many_connections_and_no_more(site: Path, model: Model) -> None:
    request = b"GET / HTTP/1.1\r\n" + HOST
    with knot(site, "--max-connections-per-client", "2") as server:
        open_ones = [server.connect(), server.connect()]
        for client in open_ones:
            client.sendall(request + b"\r\n")
            assert client.recv(9999).startswith(b"HTTP/1.1 200 ")
        refused = server.ask()
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"You have too many connections open" in refused
        assert server.status(source="127.0.0.2") == 200
        open_ones[0].sendall(request + CLOSE + b"\r\n")
        until_closed(open_ones[0])
        deadline = monotonic() + PATIENCE
        while server.status() != 200:  # a thread may see the end a little later
            assert monotonic() < deadline
        for client in open_ones:
            client.close()


# -- who the client is ---------------------------------------------------------------------------


def test_a_trusted_proxy_says_who_the_client_is_and_nobody_else_does(
    site: Path, model: Model
) -> None:
    said = b"X-Forwarded-For: 198.51.100.1, 192.0.2.7\r\n"
    options = ("--trust", "127.0.0.1", "--deny", "192.0.2.7", "--deny", "127.0.0.3")
    with knot(site, *options) as server:
        assert server.status(said) == 403
        assert server.status(said, source="127.0.0.2") == 200
        assert server.status(b"X-FORWARDED-FOR: 192.0.2.8\r\n") == 200
        assert server.status(b"X-Forwarded-For: 192.0.2.7, nonsense\r\n") == 200
        assert server.status(b"X-Forwarded-For: 127.0.0.3\r\n") == 403
        assert server.status(b"Forwarded: for=192.0.2.7\r\nX-Real-IP: 192.0.2.7\r\n") == 200
        assert server.status(said, target=b"/ /") == 400
    assert [line.split(" ")[0] for line in server.log()] == [
        "192.0.2.7", "127.0.0.2", "192.0.2.8", "127.0.0.1", "127.0.0.3", "127.0.0.1", "127.0.0.1",
    ]  # fmt: skip


def test_one_connection_of_a_proxy_has_requests_of_many_clients(site: Path) -> None:
    options = ("--trust", "127.0.0.1", "--max-rate", "0.1", "--max-connections-per-client", "1")
    with knot(site, *options) as server, server.connect() as client, server.connect() as other:
        for number in (1, 2, 1, 3, 2):
            said = b"X-Forwarded-For: 2001:db8:0:%d::%d\r\n" % (number, number)
            client.sendall(b"GET / HTTP/1.1\r\n" + HOST + said + b"\r\n")
        client.sendall(b"GET / HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n")
        statuses = [status for status, _ in answers(until_closed(client))]
        assert statuses == [200, 200, 429, 200, 429, 200]
        other.sendall(b"GET / HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n")
        assert until_closed(other).startswith(b"HTTP/1.1 429 ")


# -- by HTTP/2 -----------------------------------------------------------------------------------


def test_each_request_of_a_connection_by_http_2_is_somebodys(site: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    pem, toml = tmp_path / "both.pem", tmp_path / "knot.toml"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pem))
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "index.html").write_text("secret")
    toml.write_text(
        f'[hosts."secret.example"]\ndirectory = "{secret}"\nauth = "{site}/passwords"\n'
    )
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2"])
    asked: list[tuple[bytes, list[tuple[bytes, bytes]], int, bytes]] = [
        (b"any.example", [], 200, b"home"),
        (b"secret.example", [], 401, b""),
        (b"SECRET.example:8", [(b"authorization", ALICE[15:-2])], 200, b"secret"),
        (b"secret.example", [(b"authorization", b"Basic eDp5")], 401, b""),
        (b"any.example", [(b"x-forwarded-for", b"192.0.2.7")], 200, b"home"),
        (b"any.example", [(b"x-forwarded-for", b"192.0.2.66")], 403, b""),
    ]
    options = ("--cert", str(pem), "--config", str(toml), "--trust", "127.0.0.1")
    with (
        knot(site, *options, "--deny", "192.0.2.66") as server,
        context.wrap_socket(server.connect(), server_hostname="localhost") as end,
        speaking_http2.Connected(end) as client,
    ):
        answered = [client.answers[client.ask(fields=said, host=host)] for host, said, *_ in asked]
        client.until_satisfied()
    for answer, (_, _, status, content) in zip(answered, asked, strict=True):
        assert answer.status == status
        assert answer.content == content or status > 400
    lines = sorted((line.split(" ")[0], line.split(" ")[2]) for line in server.log())
    assert lines == [
        ("127.0.0.1", "-"), ("127.0.0.1", "-"), ("127.0.0.1", "-"), ("127.0.0.1", "alice"),
        ("192.0.2.66", "-"), ("192.0.2.7", "-"),
    ]  # fmt: skip


# -- as options ----------------------------------------------------------------------------------

REFUSED = [
    (["--proxy-protocol"], "--proxy-protocol needs --trust, with the networks of the proxies"),
    (
        ["--proxy-protocol", "--trust", "10.0.0.0/8", "--model", "threads"],
        "--proxy-protocol needs --model events",
    ),
    (["--allow", "10.0.0.1/8"], "is an address within a network: write 10.0.0.0/8"),
    (["--deny", "example.org"], "'example.org' is not a valid network; use 10.0.0.0/8"),
    (["--max-rate", "0"], "'0' is not a valid rate; use requests per second, such as 20 or 0.5"),
    (["--max-rate", "nan"], "'nan' is not a valid rate"),
    (["--max-rate", "fast"], "'fast' is not a valid rate"),
    (["--max-connections-per-client", "0"], "0 is not in the range"),
    (["--max-rate", "1", "--unix", "x"], "--max-rate with --unix needs --trust unix: its clients"),
    (
        ["--max-connections-per-client", "1", "--unix", "x", "--trust", "unix"],
        "--max-connections-per-client with --unix needs --trust unix and --proxy-protocol",
    ),
]


@pytest.mark.parametrize(("options", "said"), REFUSED, ids=lambda value: " ".join(value))
def test_options_that_cannot_be_are_refused(site: Path, options: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["serve", str(site), "--port", "0", *options])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_a_file_of_passwords_that_cannot_be_used_is_refused_at_the_start(site: Path) -> None:
    (site / "passwords").write_text("alice:$apr1$x$y\n")
    for name, said in (
        ("passwords", "line 1: the password of alice is not kept by bcrypt"),
        ("nowhere", "nowhere: No such file or directory"),
    ):
        command = [*KNOT, "serve", str(site), "--port", "0", "--auth", str(site / name)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith("knot: ")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


def test_without_its_library_the_remedy_is_told(site: Path) -> None:
    program = "import sys; sys.modules['bcrypt'] = None; import knot.cli; knot.cli.main()"
    command = [sys.executable, "-c", program, "serve", str(site), "--auth", str(site / "passwords")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        1,
        "knot: --auth needs bcrypt: pip install 'knot-httpd[auth]'\n",
    )


def test_who_asks_for_none_of_it_pays_for_none_of_it(site: Path) -> None:
    program = "import sys, knot.cli, knot.run; knot.run.load_model('events'); print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    pieces = {"forwarded", "gates", "networks", "passwords", "rates", "virtual_hosts"}
    unwanted = {"bcrypt", *(f"knot.access.{name}" for name in pieces)}
    assert not unwanted & set(said.stdout.decode().split())


def test_only_what_was_asked_for_stands_in_front_of_the_site(site: Path) -> None:
    files = Files(site)
    responder = Responder(files, FieldRules())

    def guarded(access: Access) -> Server:
        server = Server(responder)
        sites = Sites({"": HostedSite(files, responder, None)})
        guard(server, sites, Settings(access=access), None)
        return server

    bare = guarded(Access())
    assert bare.gate is bare.who is bare.connection_limit is bare.proxies is None
    assert not bare.wants_addresses
    assert bare.wanted == frozenset()
    crowded = guarded(Access(max_connections_per_client=1))
    assert crowded.gate is None
    assert crowded.connection_limit is not None
    assert crowded.wants_addresses
    rated = guarded(Access(max_rate=1.0))
    assert isinstance(rated.gate, Doorkeeper)
    assert rated.who is None
    assert rated.wanted == frozenset()
    trusting = guarded(Access(trust=("10.0.0.0/8",), proxy_protocol=True))
    assert trusting.who is not None
    assert trusting.wanted == {b"x-forwarded-for"}
    assert trusting.proxies is not None
    assert trusting.proxies("10.1.2.3")
    files.close()


def test_whatever_is_asked_a_doorkeeper_answers(site: Path) -> None:
    files = Files(site)
    responder = Responder(files)

    def behind(peer: Any, request: Request | BadRequest, now: float) -> Response | Deferred:
        raise AssertionError("it is not to be asked")

    class Connection:
        address = "192.0.2.1"

    keeper = Doorkeeper(responder, behind, denied=Networks(["192.0.2.0/24"]))
    for request in (Request(b"GET", b"*"), Request(b"X", b""), BadRequest(400, "bad")):
        response = keeper(Connection(), request, 5.0)  # type: ignore[arg-type]
        assert isinstance(response, Response)
        assert response.status == 403
        assert response.keep_alive == request.keep_alive
    files.close()


# -- as the page says ----------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "access.md").read_text()

OF_HOSTS = re.search(r"A host may set its own (.*?)\.\s", PAGE, re.DOTALL)

COMMANDS = re.findall(r"^knot serve (.*?)(?: +#.*)?$", PAGE, re.MULTILINE)

OPTIONS = ["auth", "allow", "deny", "max-rate", "max-connections-per-client", "trust", "unix"]


def test_the_page_lists_what_a_host_may_have_of_its_own() -> None:
    assert OF_HOSTS is not None
    named = re.findall(r"`([\w-]+)`", OF_HOSTS[1])
    assert named == [name.replace("_", "-") for name in OF_A_HOST]


def test_the_examples_of_the_page_can_be_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("knot.toml").write_text(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0])
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(serve, "callback", lambda **options: told.append(options))
    for command in COMMANDS:
        result = CliRunner().invoke(main, ["serve", *shlex.split(command)])
        assert result.exit_code == 0, result.output
        settings = read_settings(told[-1])
        validate(settings)
        networks(settings.access.trust)
    assert len(told) >= 6
    assert list(told[-1]["config"].hosts) == [
        "example.org", "*.app.example.org", "intern.example.org",
    ]  # fmt: skip
    for option in [*OPTIONS, "proxy-protocol"]:
        assert any(f"--{option}" in command for command in COMMANDS), option
