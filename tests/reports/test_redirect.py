"""The port of --redirect-http: everything is sent to HTTPS but the tokens of ACME challenges."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
import trustme
from hypothesis import example, given, settings
from hypothesis import strategies as st
from serving import serving, until_closed

from knot import FieldRules, Responder, Site
from knot.access.gates import BasicAuth
from knot.access.https_redirect import HttpsRedirect
from knot.build import HostedSite, Sites, challenges, guard
from knot.files.representation import Representation, Slice
from knot.http.request import ExtraFieldsParser
from knot.http.responder import Response
from knot.models.server import Server

SECRET = b"SECRET"
"""What every file has that is no token."""

CHALLENGES = ".well-known/acme-challenge"

TOKENS = ("token", "token.gz", "index.html", "page.html")
"""Some could stand in for something else, but are to be named whole here."""

WANTED = frozenset({b"host"})

Ask = Callable[[bytes], Response]


class Plain:
    tls = None
    address = "127.0.0.1"


def make_site(root: Path) -> Path:
    place = root / CHALLENGES
    (place / "folder").mkdir(parents=True)
    (root / "sub").mkdir()
    for name in ("index.html", "404.html", "s.txt", "page.html", ".env", "sub/s.txt", "token"):
        (root / name).write_bytes(SECRET)
    for name in (".hidden", "folder/token"):
        (place / name).write_bytes(SECRET)
    (place / "link").symlink_to("../../s.txt")
    (place / "link-to-token").symlink_to("token")
    (place / "link-to-folder").symlink_to("folder")
    os.mkfifo(place / "fifo")
    for name in TOKENS:
        (place / name).write_bytes(b"proof of " + name.encode())
    return root


def content_of(response: Response) -> bytes:
    content = response.data.partition(b"\r\n\r\n")[2]
    for piece in response.rest:
        assert not isinstance(piece, Slice)
        content += piece
    return content


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """One that has everything that could stand in for a file, and one by the host a.example."""
    every = {"spa": True, "clean_urls": True, "listing": True, "hidden": True}
    found = Sites()
    for host in ("", "a.example"):
        site = Site(make_site(tmp_path_factory.mktemp("site")), **every)
        found[host] = HostedSite(site, Responder(site), None)
    (found["a.example"].site.directory / CHALLENGES / "own").write_bytes(b"own proof")
    (found["a.example"].site.directory / CHALLENGES / "token").write_bytes(b"another proof")
    (found["a.example"].site.directory / CHALLENGES / "common").symlink_to("token")
    (found[""].site.directory / CHALLENGES / "common").write_bytes(b"common proof")
    yield found
    found.close()


@pytest.fixture(scope="module")
def ask(sites: Sites) -> Ask:
    """From a whole request to the answer."""
    inner = BasicAuth(sites[""].responder, unwanted=WANTED)
    refusals = Responder(sites[""].site)
    gate = HttpsRedirect(443, refusals, inner, challenges(sites, FieldRules(), WANTED))

    def ask(said: bytes) -> Response:
        (request,) = ExtraFieldsParser(WANTED).feed(said)
        found = gate(Plain(), request, 1.0)  # type: ignore[arg-type]
        assert isinstance(found, Response)
        return found

    return ask


def get(target: bytes, host: bytes = b"x", method: bytes = b"GET", fields: bytes = b"") -> bytes:
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (method, target, host, fields)


def token_at(target: bytes) -> bytes | None:
    """What a target means, by RFC 3986 alone; None if it is not directly in the directory."""
    for scheme in (b"http://", b"HTTP://"):
        if target.startswith(scheme):
            target = b"/" + target.removeprefix(scheme).partition(b"/")[2]
    path = target.partition(b"?")[0]
    if b"%zz" in path:  # the one broken escape among `SEGMENTS`
        return None
    path = unquote_to_bytes(path)
    left: list[bytes] = []
    *segments, last = path.split(b"/")[1:]
    for segment in [*segments, last]:
        if segment == b"..":
            if not left:
                return None
            left.pop()
        elif segment not in (b"", b"."):
            left.append(segment)
    if b"\0" in path or last in (b"", b".", b".."):
        return None
    return left[2] if len(left) == 3 and left[:2] == CHALLENGES.encode().split(b"/") else None


SEGMENTS = [
    b"", b".", b"..", b"%2e", b"%2e%2E", b".%2e", b".well-known", b"acme-challenge", b"token",
    b"%74oken", b"s.txt", b"sub", b"folder", b"link", b"link-to-token", b"link-to-folder", b"fifo",
    b"index.html", b"page", b"page.html", b"missing", b".hidden", b".env", b"404.html", b"token;a",
    b"token%00", b"token%5c..", b"token.gz", b"%zz", b"%c3%bc", b"\\..",
]  # fmt: skip
FRONTS = [
    b"/", b"//", b"/.well-known/acme-challenge/", b"/.well-known//acme-challenge%2f",
    b"/.well-known/acme-challenge/../", b"/.well-known/acme-challenge/../../",
    b"http://x/", b"HTTP://x/.well-known/acme-challenge/",
]  # fmt: skip
TARGETS = st.builds(
    lambda front, pieces, end: front + b"".join(pieces) + end,
    st.sampled_from(FRONTS),
    st.lists(
        st.builds(
            lambda segment, slash: segment + slash,
            st.sampled_from(SEGMENTS),
            st.sampled_from([b"/", b"//", b"%2f", b"%2F", b"%5c", b"\\", b""]),
        ),
        max_size=6,
    ),
    st.sampled_from([b"", b"", b"?", b"?/../../s.txt", b"?a=http://b/"]),
)


@example(b"/.well-known/acme-challenge/../../s.txt")
@example(b"/.well-known/acme-challenge/%2e%2e/%2e%2e/s.txt")
@example(b"/.well-known/acme-challenge/..%2f..%2f")
@example(b"/.well-known/acme-challenge/../..//.env")
@example(b"/.well-known/acme-challenge/")
@example(b"/.well-known/acme-challenge/missing")
@example(b"/.well-known/acme-challenge/page")
@example(b"/.well-known/acme-challenge/link")
@example(b"http://x/.well-known/acme-challenge/token")
@given(TARGETS)
@settings(max_examples=300, deadline=None)
def test_however_a_target_is_written_only_tokens_are_not_redirected(
    ask: Ask, target: bytes
) -> None:
    found = ask(get(target))
    assert SECRET not in found.data
    assert SECRET not in content_of(found)
    token = token_at(target)
    if found.status in (200, 404):
        assert token is not None
        assert not token.startswith(b".")
        assert (found.status == 200) == (token.decode() in TOKENS)
        if found.status == 200:
            assert content_of(found) == b"proof of " + token
    elif found.status == 301:
        assert b"\r\nLocation: https://x/" in found.data
        assert token is None or token.startswith(b".")
    else:
        assert found.status == 400


def test_nothing_stands_in_for_a_token(ask: Ask) -> None:
    """Not its compressed copy, nor the page for what is missing."""
    token = b"/.well-known/acme-challenge/token"
    found = ask(get(token, fields=b"Accept-Encoding: gzip, br, zstd\r\n"))
    assert content_of(found) == b"proof of token"
    assert b"Content-Encoding" not in found.data
    missing = ask(get(token + b"s"))
    assert missing.status == 404
    assert b"<h1>404 Not Found</h1>" in missing.data


def test_a_token_is_had_by_get_and_head_and_nothing_else(ask: Ask) -> None:
    token = b"/.well-known/acme-challenge/token"
    assert ask(get(token, method=b"HEAD")).status == 200
    for method in (b"POST", b"OPTIONS", b"DELETE"):
        assert ask(get(token, method=method)).status == 301


def test_a_token_is_that_of_the_host_or_else_the_one_for_all_hosts(ask: Ask) -> None:
    place = b"/.well-known/acme-challenge/"
    for host in (b"a.example", b"A.EXAMPLE:80"):
        assert content_of(ask(get(place + b"token", host))) == b"another proof"
        assert content_of(ask(get(place + b"own", host))) == b"own proof"
        assert content_of(ask(get(place + b"common", host))) == b"common proof"
    assert content_of(ask(get(b"http://a.example" + place + b"own"))) == b"own proof"
    assert content_of(ask(get(place + b"token"))) == b"proof of token"
    assert ask(get(place + b"own")).status == 404


@pytest.mark.parametrize("follow", [False, True])
def test_a_link_in_the_directory_of_tokens_leads_nowhere(tmp_path: Path, follow: bool) -> None:
    """The directory itself may be a link if links may be followed."""
    site = Site(make_site(tmp_path / "site"), follow_symlinks=follow)
    place = f"{CHALLENGES}/".encode()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "token").write_bytes(b"proof")
    assert site.find_entry(place, b"token").content == b"proof of token"  # type: ignore[union-attr]
    assert not isinstance(site.find_entry(place, b"link"), Representation)
    assert not isinstance(site.find_entry(place, b"link-to-token"), Representation)
    for leads_to in ("../sub", "../../outside"):
        (tmp_path / "site" / CHALLENGES).rename(tmp_path / f"was-{leads_to.count('/')}")
        (tmp_path / "site" / CHALLENGES).symlink_to(leads_to)
        for name in (b"token", b"s.txt"):
            found = site.find_entry(place, name)
            exists = name == (b"s.txt" if leads_to == "../sub" else b"token")
            assert isinstance(found, Representation) == (follow and exists)
    site.close()


def test_a_host_that_could_not_be_one_is_not_redirected_to(ask: Ask) -> None:
    for target in (b"http://user@evil.example/", b"http://a@b:1/", b"http:///x"):
        assert ask(get(target)).status in (301, 400)
        assert b"@" not in ask(get(target)).data.partition(b"\r\n\r\n")[0]


def test_a_client_that_is_denied_or_asks_too_often_gets_no_token(sites: Sites) -> None:
    token = get(b"/.well-known/acme-challenge/token")
    (request,) = ExtraFieldsParser(WANTED).feed(token)
    for rules, statuses in (
        ({"deny": ("127.0.0.0/8",)}, [403, 403]),
        ({"allow": ("10.0.0.0/8",)}, [403, 403]),
        ({"max_rate": 1.0}, [200] * 10 + [429]),
    ):
        server = Server(sites[""].responder)
        options = dict.fromkeys(("trust", "allow", "deny", "header"), ())
        options |= dict.fromkeys(("max_connections_per_client", "proxy_protocol", "max_rate"))
        guard(server, sites, {**options, "cors": False, **rules}, 443)
        assert server.gate is not None
        found = [server.gate(Plain(), request, 1.0) for _ in statuses]  # type: ignore[arg-type]
        assert [response.status for response in found] == statuses  # type: ignore[union-attr]


def test_what_wants_a_password_is_not_had_without_one(tmp_path: Path) -> None:
    """The real program, with a site for all hosts and another for one."""
    root, other = make_site(tmp_path / "site"), make_site(tmp_path / "other")
    (other / CHALLENGES / "token").write_bytes(b"another proof")
    (tmp_path / "passwords").write_text("ann:$2b$04$" + "a" * 53 + "\n")
    pair = tmp_path / "pair.pem"
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pair))
    (tmp_path / "knot.toml").write_text(f'[hosts."a.example"]\ndirectory = "{other}"\n')
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ["--spa", "--clean-urls", "--listing", "--auth", str(tmp_path / "passwords")]
    options += ["--config", str(tmp_path / "knot.toml"), "--redirect-http", f"127.0.0.1:{port}"]
    with serving(str(root), "--cert", str(pair), *options) as (_, url):
        https = urlsplit(url).port or 0

        def asked(target: bytes, host: bytes) -> bytes:
            with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
                client.sendall(get(target, host, fields=b"Connection: close\r\n"))
                return until_closed(client)

        place = b"/.well-known/acme-challenge/"
        assert asked(place + b"token", b"localhost").endswith(b"proof of token")
        assert asked(place + b"token", b"a.example").endswith(b"another proof")
        for host in (b"localhost", b"a.example"):
            for rest in (b"../../s.txt", b"%2e%2e/%2e%2e/s.txt", b"../../", b"", b"../../anything"):
                found = asked(place + rest, host)
                assert found.startswith(b"HTTP/1.1 301 ")
                assert b"\r\nLocation: https://%b:%d%b\r\n" % (host, https, place + rest) in found
            for rest in (b"missing", b"folder", b"link", b"fifo"):
                found = asked(place + rest, host)
                assert found.startswith(b"HTTP/1.1 404 ")
                assert SECRET not in found
