"""Several sites at one address, told apart by the host that a request names."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import bcrypt
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from serving import Model, connect, serving, until_closed

from knot.access.gates import SiteGate
from knot.access.virtual_hosts import MAX_REMEMBERED, VirtualHosts, pattern
from knot.cli import main
from knot.http.request import Request

# -- which site ----------------------------------------------------------------------------------

NAMES = ["example.org", "www.example.org", "*.example.org", "*.b.example.org", "*.net", "[::1]"]


class Named:
    """Stands for a gate."""

    def __init__(self, name: str) -> None:
        self.name = name


def hosts(names: list[str]) -> VirtualHosts:
    gates: dict[str, SiteGate] = {name: Named(name) for name in names}  # type: ignore[misc]
    return VirtualHosts(Named("DIR"), gates)  # type: ignore[arg-type]


def found(table: VirtualHosts, host: bytes | None, target: bytes = b"/") -> str:
    fields = () if host is None else ((b"if-range", b"x"), (b"host", host))
    return table.site(Request(b"GET", target, fields=fields)).name  # type: ignore[attr-defined]


CHOSEN = [
    (b"example.org", "example.org"),
    (b"EXAMPLE.org:8080", "example.org"),
    (b"example.org.", "example.org"),
    (b"example.org.:80", "example.org"),
    (b"www.example.org", "www.example.org"),
    (b"a.example.org", "*.example.org"),
    (b"a.www.example.org", "*.example.org"),
    (b"b.example.org", "*.example.org"),
    (b"a.b.example.org", "*.b.example.org"),
    (b"x.y.B.example.org:1", "*.b.example.org"),
    (b"example.net", "*.net"),
    (b"net", "DIR"),
    (b"notexample.org", "DIR"),
    (b"example.org.evil", "DIR"),
    (b"org", "DIR"),
    (b"", "DIR"),
    (b".", "DIR"),
    (None, "DIR"),
    (b"[::1]:8080", "[::1]"),
    (b"[::2]", "DIR"),
    (b"127.0.0.1", "DIR"),
    (b"*.example.org", "*.example.org"),
]


@pytest.mark.parametrize(("host", "name"), CHOSEN)
def test_an_exact_name_goes_before_the_longest_pattern(host: bytes | None, name: str) -> None:
    table = hosts(NAMES)
    assert [found(table, host) for _ in range(2)] == [name] * 2


@pytest.mark.parametrize(
    ("target", "host", "name"),
    [
        (b"http://www.example.org/", b"example.org", "www.example.org"),
        (b"HTTPS://Example.ORG:99?q", b"example.net", "example.org"),
        (b"http://other/", b"example.org", "DIR"),
        (b"//www.example.org/", b"example.org", "example.org"),
        (b"/http://www.example.org/", b"example.org", "example.org"),
        (b"ftp://www.example.org/", b"example.org", "example.org"),
        (b"*", b"example.org", "example.org"),
        (b"http:///", b"example.org", "example.org"),
        (b"http://www.example.org/", None, "www.example.org"),
    ],
)
def test_the_host_in_the_target_goes_before_the_field(
    target: bytes, host: bytes | None, name: str
) -> None:
    assert found(hosts(NAMES), host, target) == name


@given(st.binary(max_size=40))
def test_any_host_has_a_site(host: bytes) -> None:
    assert found(hosts(NAMES), host) in [*NAMES, "DIR"]


def test_so_many_spellings_are_remembered_and_no_more() -> None:
    table = hosts(NAMES)
    for number in range(2 * MAX_REMEMBERED):
        assert found(table, b"h%d.example.org" % number) == "*.example.org"
    assert len(table._found) == MAX_REMEMBERED
    assert found(table, b"example.org") == "example.org"
    table = hosts(NAMES)
    found(table, b"x" * 1000)
    assert table._found == {}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Example.ORG", "example.org"),
        ("example.org.", "example.org"),
        ("*.Example.org", "*.example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("*.bücher.example", "*.xn--bcher-kva.example"),
        ("a_b", "a_b"),
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:DB8::1]", "[2001:db8::1]"),
    ],
)
def test_a_host_is_as_requests_name_it(text: str, name: str) -> None:
    assert pattern(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "*",
        "*.",
        "a..b",
        "a.*.b",
        "*a.b",
        "http://a",
        "a/b",
        "a:80",
        "a b",
        "::1",
        "ü" * 99,
    ],
)
def test_it_is_no_host(text: str) -> None:
    with pytest.raises(ValueError, match="is not a valid host"):
        pattern(text)


# -- as served -----------------------------------------------------------------------------------

TABLE = """
cache-control = {{ "*.css" = "max-age=1" }}
header = ["X-Of: all"]
clean-urls = true

[hosts."docs.example"]
directory = "{place}/docs"
listing = true
header = ["X-Of: docs"]
clean-urls = false

[hosts."*.app.example"]
directory = "{place}/app"
spa = true
hidden = true
cors = true
mime = {{ foo = "text/x-foo" }}
cache-control = {{ "*" = "no-cache" }}

[hosts."secret.example"]
auth = "{place}/secret/passwords"
directory = "{place}/secret"
follow-symlinks = false
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("top", "docs/sub", "app", "secret"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("top/index.html", "app/index.html", "secret/index.html", "docs/page.html"):
        (tmp_path / name).write_text(name)
    for name in ("top/a.css", "top/page.html", "app/a.foo", "app/.hidden", "docs/sub/file"):
        (tmp_path / name).write_text(name)
    hash = bcrypt.hashpw(b"wonder", bcrypt.gensalt(4))
    (tmp_path / "secret/passwords").write_bytes(b"alice:" + hash)
    (tmp_path / "knot.toml").write_text(TABLE.format(place=tmp_path))
    return tmp_path


Ask = Callable[..., bytes]


@contextmanager
def knot(place: Path, *options: str) -> Iterator[Ask]:
    config = ("--config", str(place / "knot.toml"))
    with serving(str(place / "top"), *config, *options) as (_, url):

        def ask(host: bytes, target: bytes = b"/", fields: bytes = b"") -> bytes:
            head = b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n%b\r\n"
            with connect(urlsplit(url).port or 0) as client:
                client.sendall(head % (target, host, fields))
                return until_closed(client)

        yield ask


def test_each_host_has_its_files_and_its_options(place: Path, model: Model) -> None:
    with knot(place) as ask:
        top = ask(b"elsewhere.example")
        assert top.endswith(b"\r\n\r\ntop/index.html")
        assert b"X-Of: all\r\n" in top
        assert ask(b"elsewhere.example", b"/page").endswith(b"top/page.html")
        assert b"\r\nCache-Control: max-age=1\r\n" in ask(b"x", b"/a.css")
        docs = ask(b"DOCS.example:8000")
        assert b"page.html" in docs
        assert b"X-Of: docs\r\n" in docs
        assert b"X-Of: all\r\n" not in docs
        assert ask(b"docs.example", b"/page").startswith(b"HTTP/1.1 404 ")
        app = ask(b"one.app.example", b"/any/path")
        assert app.endswith(b"\r\n\r\napp/index.html")
        assert b"\r\nCache-Control: no-cache\r\n" in app
        assert b"\r\nAccess-Control-Allow-Origin: *\r\n" in app
        assert b"X-Of: all\r\n" in app
        assert b"\r\nContent-Type: text/x-foo" in ask(b"a.b.app.example", b"/a.foo")
        assert ask(b"a.app.example", b"/.hidden").endswith(b"app/.hidden")
        assert ask(b"app.example").endswith(b"top/index.html")
        assert ask(b"x", b"http://docs.example/page.html").endswith(b"docs/page.html")


def test_a_host_may_have_its_own_passwords(place: Path) -> None:
    with knot(place) as ask:
        refused = ask(b"secret.example")
        assert refused.startswith(b"HTTP/1.1 401 ")
        assert b"secret/index.html" not in refused
        credentials = b"Authorization: Basic %b\r\n" % b64encode(b"alice:wonder")
        assert ask(b"secret.example", b"/", credentials).endswith(b"secret/index.html")
        assert ask(b"secret.example", b"/passwords", credentials).startswith(b"HTTP/1.1 404 ")
        assert ask(b"x", b"http://secret.example/").startswith(b"HTTP/1.1 401 ")
        assert ask(b"other.example", b"/", credentials).endswith(b"top/index.html")


def test_equal_requests_get_the_answer_that_is_prepared_for_them(place: Path) -> None:
    """Whatever the host's spelling, and whoever asks: what gates look at is not kept."""
    with knot(place) as ask:
        answers = {ask(host)[60:] for host in (b"a.example", b"B.example", b"c.example:80")}
        assert len(answers) == 1


def test_a_client_cannot_leave_the_host_that_it_has_named(place: Path) -> None:
    os.symlink(place / "secret" / "index.html", place / "docs" / "link")
    with knot(place) as ask:
        assert ask(b"docs.example", b"/link").startswith(b"HTTP/1.1 404 ")
        assert ask(b"docs.example", b"/../secret/index.html").startswith(b"HTTP/1.1 400 ")


def test_workers_have_the_hosts_too(place: Path) -> None:
    with knot(place, "--workers", "2") as ask:
        for _ in range(8):
            assert ask(b"one.app.example").endswith(b"app/index.html")


ERRORS = [
    ("hosts = 1", 'knot.toml: hosts must be tables, such as [hosts."example.org"]'),
    ("[hots]", "knot.toml: unknown option hots; did you mean hosts?"),
    ('[hosts]\n"a.b" = 1', 'knot.toml: host a.b must be a table: write it as [hosts."a.b"]'),
    ('[hosts."a.b:80"]', "knot.toml: hosts: 'a.b:80' is not a valid host; use a name without port"),
    ('[hosts."A.b"]\n[hosts."a.B"]', "knot.toml: host a.B is given twice"),
    (
        "[hosts.example.org]\nspa = true",
        'quote a name with dots in it, as in [hosts."example.org"]',
    ),
    (
        '[hosts."a.b"]\nlistings = true',
        "knot.toml: host a.b: unknown option listings; did you mean listing?",
    ),
    ('[hosts."a.b"]\nport = 1', "knot.toml: host a.b: unknown option port"),
    ('[hosts."a.b"]\nspa = 1', "knot.toml: host a.b: spa must be true or false"),
    ('[hosts."a.b"]\nheader = 1', "knot.toml: host a.b: header must be a list of strings"),
    ('[hosts."a.b"]\nmime = ["x"]', "knot.toml: host a.b: mime 'x' is not of the form SUFFIX=TYPE"),
    ('[hosts."a.b"]\nauth = true', "knot.toml: host a.b: auth cannot be True"),
    ('[hosts."a.b"]\nmime = { a = "x" }', "knot.toml: host a.b: 'x' is not a valid media type"),
    ('[hosts."a.b"]\nheader = ["x"]', "knot.toml: host a.b: 'x' is not a valid header field"),
    (
        '[hosts."a.b"]\ndirectory = "nowhere"',
        "knot.toml: host a.b: cannot serve nowhere: No such file or directory;",
    ),
    ('[hosts."a.b"]\nauth = "nowhere"', "knot.toml: host a.b: cannot read nowhere: No such file"),
]  # fmt: skip


@pytest.mark.parametrize(("toml", "said"), ERRORS)
def test_an_error_names_the_file_the_host_and_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toml: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("knot.toml").write_text(toml)
    result = CliRunner().invoke(main, ["serve", "--port", "0"])
    assert result.exit_code in (1, 2)
    assert said in (result.output if result.exit_code == 2 else str(result.exception))
