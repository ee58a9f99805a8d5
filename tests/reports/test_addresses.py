"""Where Knot listens: in every form in which an address is written, and beside other instances."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from serving import (
    HOST,
    Model,
    get,
    serving,
    until_closed,
    with_server,
)

from knot import AccessLog
from knot.cli import in_words, main
from knot.models.peer import name_of
from knot.process import listeners as sockets
from knot.process.listeners import (
    Listeners,
    Place,
    listen,
    listen_again,
    listen_everywhere,
    parse_address,
    parse_host,
    shown,
)

HOSTS = [
    ("127.0.0.1", "127.0.0.1"),
    ("0.0.0.0", "0.0.0.0"),
    ("::1", "::1"),
    ("[::1]", "::1"),
    ("::", "::"),
    ("[::]", "::"),
    ("0:0::0", "::"),
    ("2001:DB8:0::1", "2001:db8::1"),
    ("::ffff:127.0.0.1", "127.0.0.1"),
    ("fe80::1%eth0", "fe80::1%eth0"),
    ("[fe80::1%eth0]", "fe80::1%eth0"),
    ("localhost", "localhost"),
    ("www.example.org", "www.example.org"),
    ("müller.example", "müller.example"),
]


@pytest.mark.parametrize(("text", "host"), HOSTS)
def test_an_address_is_understood_in_every_form(text: str, host: str) -> None:
    assert parse_host(text) == host
    bracketed = f"[{text.strip('[]')}]" if ":" in text else text
    assert parse_address(f"{bracketed}:80") == (host, 80)


@pytest.mark.parametrize("text", ["", " ", "[]", "[", "a b", "a/b", "1::2::3", "::1]", "a,b", "@"])
def test_what_is_not_an_address_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        parse_host(text)


def test_a_port_that_stands_in_the_host_is_named() -> None:
    with pytest.raises(ValueError, match="is given by --port"):
        parse_host("127.0.0.1:8080")


def test_an_address_without_a_host_is_every_address() -> None:
    assert parse_address(":80") == ("::", 80)


@pytest.mark.parametrize("text", ["", ":", "80", "a:", "a:x", "a:65536", "a:-1", "::1:80", "a:٣"])
def test_an_address_without_a_port_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address with a port"):
        parse_address(text)


@pytest.fixture
def opened() -> Iterator[Listeners]:
    with closing(Listeners()) as found:
        yield found


def addresses(listeners: Listeners, hosts: list[str], port: int = 0) -> list[str]:
    """Where those listen that are opened at `hosts`, all at one port."""
    listeners += listen_everywhere(hosts, port)
    assert len({listener.getsockname()[1] for listener in listeners}) == 1
    return [listener.getsockname()[0] for listener in listeners]


COVERED = [
    (["127.0.0.1"], ["127.0.0.1"]),
    (["localhost"], ["127.0.0.1", "::1"]),
    (["LOCALHOST."], ["127.0.0.1", "::1"]),
    (["::1", "127.0.0.1", "::1"], ["::1", "127.0.0.1"]),
    (["localhost", "127.0.0.1", "127.0.0.2"], ["127.0.0.1", "::1", "127.0.0.2"]),
    (["::"], ["::"]),
    (["127.0.0.1", "::", "0.0.0.0", "::1"], ["::"]),
    (["127.0.0.1", "0.0.0.0"], ["0.0.0.0"]),
    (["::1", "0.0.0.0"], ["::1", "0.0.0.0"]),
]


@pytest.mark.parametrize(("hosts", "expected"), COVERED)
def test_several_addresses_share_one_port(
    opened: Listeners, hosts: list[str], expected: list[str]
) -> None:
    assert addresses(opened, hosts) == expected
    opened += listen_everywhere(["127.0.0.9"], 0, shared=True)
    opened += listen_again(opened[-1:])
    assert opened[-1].getsockname() == opened[-2].getsockname()


def test_a_free_port_is_looked_for_until_it_is_free_at_every_address(
    opened: Listeners, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.append(listen("::1", 0))
    taken = opened[0].getsockname()[1]
    bind, ports = sockets.bound, [taken]

    def chosen(place: Place, *, shared: bool) -> socket.socket:
        if place[1][0] == "127.0.0.1" and ports:
            place = place[0], ("127.0.0.1", ports.pop())
        return bind(place, shared=shared)

    monkeypatch.setattr(sockets, "bound", chosen)
    before = len(os.listdir("/proc/self/fd"))
    found = listen_everywhere(["localhost"], 0)
    assert not ports
    assert len(os.listdir("/proc/self/fd")) == before + 2
    assert {listener.getsockname()[1] for listener in found}.isdisjoint({taken})
    opened += found


def test_an_address_of_a_name_that_this_machine_does_not_have_is_left_out(
    opened: Listeners, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ::1 of localhost in a container without IPv6."""

    def resolved(host: str, port: int, **_: object) -> list[object]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("192.0.2.1", "127.0.0.1")
            if host == "both" or address == "192.0.2.1"
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    assert addresses(opened, ["both"]) == ["127.0.0.1"]
    with pytest.raises(OSError, match="Cannot assign") as refused:
        listen_everywhere(["other"], 0)
    assert refused.value.filename == "192.0.2.1:0"


def test_without_ipv6_every_address_is_every_ipv4_one(
    opened: Listeners, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "has_ipv6", lambda: False)
    assert addresses(opened, ["::"]) == ["0.0.0.0"]


def test_a_listener_at_every_address_takes_clients_of_both_families(opened: Listeners) -> None:
    opened += listen_everywhere(["::"], 0)
    port = opened[0].getsockname()[1]
    for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
        with socket.socket(family) as client:
            client.connect((host, port))
    assert shown(opened[0]) == f"http://[::]:{port}"


def test_the_interface_of_an_address_is_part_of_its_url(opened: Listeners) -> None:
    with open("/proc/net/if_inet6") as table:
        rows = [line.split() for line in table if line.startswith("fe80")]
    if not rows:
        pytest.skip("no interface here has an address of its link")
    digits, *_, name = rows[0]
    host = ":".join(re.findall("....", digits))
    opened += listen_everywhere([parse_host(f"{host}%{name}")], 0)
    assert re.fullmatch(rf"http://\[fe80:[0-9a-f:]*%25{name}\]:\d+", shown(opened[0]))


NAMES = [
    (("10.1.2.3", 1), "10.1.2.3"),
    (("::ffff:10.1.2.3", 1, 0, 0), "10.1.2.3"),
    (("2001:db8::1", 1, 0, 0), "2001:db8::1"),
    (("::ffff:0:102:304", 1, 0, 0), "::ffff:0:102:304"),
    ("", "unix:"),
]


@pytest.mark.parametrize(("address", "name"), NAMES)
def test_a_client_of_ipv4_has_one_name_at_every_listener(
    address: tuple[str, int] | str, name: str
) -> None:
    assert name_of(address) == name


def test_every_model_serves_at_several_listeners(model: Model, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "a").write_text("abc")
    listeners = [listen("127.0.0.1", 0), *listen_everywhere(["::"], 0)]
    ports = [listener.getsockname()[1] for listener in listeners]
    came = [("127.0.0.1", ports[0]), ("127.0.0.2", ports[1]), ("::1", ports[1])]

    def client(_: int) -> None:
        for address in came * 2:
            with socket.create_connection(address, timeout=20) as connection:
                connection.sendall(get(b"/a", b"Connection: close\r\n"))
                assert until_closed(connection).endswith(b"\r\n\r\nabc")

    with open(tmp_path / "log", "ab") as file:
        log = AccessLog("common", file.fileno())
        with_server(tmp_path / "site", client, listeners=listeners, log=log)
        log.close()
    lines = (tmp_path / "log").read_text().splitlines()
    # The loopback is 127.0.0.1 to whoever comes from there to any of its addresses.
    assert [line.split()[0] for line in lines] == ["127.0.0.1", "127.0.0.1", "::1"] * 2


def test_a_second_instance_shares_a_port_only_if_it_is_told_to(tmp_path: Path) -> None:
    site = str(tmp_path)
    with serving(site, "--workers", "1") as (_, url):
        port = url.rpartition(":")[2]
        for options in ((), ("--workers", "1")):
            result = CliRunner().invoke(main, ["serve", site, "--port", port, *options])
            assert result.exit_code == 1
            assert f"127.0.0.1:{port}: Address already in use; stop the program" in result.output
            assert "share it with another Knot by --share-port" in result.output
        with serving(site, "--share-port", listens=("--port", port)) as (_, other):
            assert other == url


def test_a_port_is_shared_by_those_that_say_so(opened: Listeners) -> None:
    hosts = ["127.0.0.1", "::1"]
    opened += listen_everywhere(hosts, 0, shared=True)
    port = opened[0].getsockname()[1]
    for shared in (False, True):
        with pytest.raises(OSError, match="in use"):
            listen_everywhere(hosts, port, shared=shared)
    opened += listen_everywhere(hosts, port, shared=True, joining=True)
    opened.append(listen("127.0.0.1", 0))
    with pytest.raises(OSError, match="in use"):
        listen_everywhere(hosts, opened[-1].getsockname()[1], shared=True, joining=True)


def test_clients_come_to_every_host_and_the_redirect_names_the_outer_port(
    tmp_path: Path, pem: Path
) -> None:
    (tmp_path / "knot.toml").write_text('host = ["127.0.0.1", "::1"]\n')
    with socket.create_server(("127.0.0.1", 0)) as probe:
        plain = probe.getsockname()[1]
    options = ("--cert", str(pem), "--redirect-http", f"localhost:{plain}", "--https-port", "443")
    with serving(str(tmp_path), "--workers", "2", *options, cwd=tmp_path) as (_, url):
        assert url.startswith("https://127.0.0.1:")
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, plain), timeout=20) as client:
                client.sendall(b"GET /a HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
                assert b"\r\nLocation: https://x/a\r\n" in until_closed(client)
            socket.create_connection((host, int(url.rpartition(":")[2])), timeout=20).close()


def test_the_line_at_the_start_has_every_address() -> None:
    assert in_words(["a"]) == "a"
    assert in_words(["a", "b"]) == "a and b"
    assert in_words(["a", "b", "c"]) == "a, b and c"


IMPOSSIBLE = [
    (["--https-port", "443"], "--https-port needs --redirect-http"),
    (["--share-port", "--unix", "a"], "--share-port needs a port"),
    (["--share-port", "--fd", "9"], "--share-port needs a port"),
    (["--host", ""], "is not an address"),
    (["--host", "a:80"], "the port of a is given by --port"),
    (["--admin", "::1:9090"], "use 127.0.0.1:9090, [::1]:9090 or :9090"),
]


@pytest.mark.parametrize(("options", "said"), IMPOSSIBLE)
def test_what_cannot_be_is_refused_in_a_sentence(options: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["serve", *options])
    assert result.exit_code == 2
    assert said in result.output
