"""What Knot is started with and cannot use: a sentence, and never a traceback."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from pwd import struct_passwd
from typing import Any
from unittest.mock import MagicMock

import pytest
import trustme
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import KNOT, connect, get, serving

from knot import cli, self_signed, tls
from knot.access.passwords import read_users
from knot.cli import LEAST_FILES, main, serve
from knot.config import doubts
from knot.process import safe_paths, supervisor
from knot.tls import Certificates

HASH = b"$2y$04$" + b"a" * 53


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a directory of its own."""
    monkeypatch.chdir(tmp_path)


def invoke(*arguments: str, **environment: str | None) -> Result:
    return CliRunner().invoke(main, ["serve", *arguments], env=environment)


# -- the environment -------------------------------------------------------------------------------

OF_KUBERNETES = {
    "KNOT_PORT": "tcp://10.96.3.7:80",
    "KNOT_SERVICE_HOST": "10.96.3.7",
    "KNOT_SERVICE_PORT": "80",
    "KNOT_SERVICE_PORT_HTTP": "80",
    "KNOT_PORT_80_TCP": "tcp://10.96.3.7:80",
    "KNOT_PORT_80_TCP_PROTO": "tcp",
    "KNOT_PORT_80_TCP_PORT": "80",
    "KNOT_PORT_80_TCP_ADDR": "10.96.3.7",
    "KNOT_HTTPS_PORT": "tcp://10.96.3.8:443",
    "KNOT_ADMIN_SERVICE_HOST": "10.96.3.9",
    "KNOT_ADMIN_PORT": "udp://10.96.3.9:9090",
}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What ``knot serve`` would serve with."""
    options: dict[str, Any] = {}
    monkeypatch.setattr(serve, "callback", lambda **told: options.update(told))

    def tell(*arguments: str, **environment: str | None) -> dict[str, Any]:
        result = invoke(*arguments, **environment)
        assert result.exit_code == 0, result.output
        return options

    return tell


def test_variables_of_a_kubernetes_service_are_ignored(
    told: Callable[..., dict[str, Any]],
) -> None:
    options = told(**OF_KUBERNETES)
    assert (options["port"], options["https_port"], options["admin"]) == (8000, None, None)
    said = list(doubts("KNOT_", ["port", "https_port", "admin"], OF_KUBERNETES))
    assert [line.partition("=")[0] for line in said] == ["KNOT_HTTPS_PORT", "KNOT_PORT"]
    assert all("enableServiceLinks: false" in line for line in said)


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_variable_is_as_none(told: Callable[..., dict[str, Any]], empty: str) -> None:
    names = [f"KNOT_{param.name.upper()}" for param in serve.params if param.name != "directory"]
    given = dict(told(**dict.fromkeys(names, empty), KNOT_DIRECTORY=""))
    assert given == told(**dict.fromkeys(names, None))


def test_a_variable_that_sets_no_option_is_reported_with_the_nearest_name() -> None:
    environment = {"KNOT_PROT": "80", "KNOT_XYZZY": "", "OTHER": "1"}
    assert list(doubts("KNOT_", ["port", "host"], environment)) == [
        "KNOT_PROT is ignored: there is no such option; did you mean KNOT_PORT?",
        "KNOT_XYZZY is ignored: there is no such option",
    ]


def test_what_is_true_of_all_workers_is_said_once(tmp_path: Path) -> None:
    old = issued(tmp_path / "old.pem", -9, -2, "localhost")
    environment = {"KNOT_PROT": "80", "KNOT_TOP_INTERVAL": "2", "KNOT_MAX_CONNECTIONS": "10000000"}
    with serving(".", "--cert", old, "--workers", "2", env=environment) as (process, _):
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    assert len(said.splitlines()) == 3
    for part in ("KNOT_PROT is ignored", "The system allows", "expired on"):
        assert said.count(part) == 1


# -- the file --------------------------------------------------------------------------------------


def test_paths_of_a_file_are_relative_to_it(
    told: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "knot.toml").write_text(
        'directory = "www"\ncert = "a.pem"\nkey = ["/b.pem"]\nauth = "c"\nlog-file = "../d"\n'
        'unix = "e"\n[hosts."x.example"]\ndirectory = "f"\ncert = ["g.pem"]\nauth = "h"\n'
    )
    options = told("--config", "etc/knot.toml")
    assert options["directory"] == "etc/www"
    assert (options["cert"], options["key"]) == (("etc/a.pem",), ("/b.pem",))
    assert (options["auth"], options["log_file"], options["unix"]) == ("etc/c", "etc/../d", "etc/e")
    assert options["config"].hosts["x.example"] == {
        "directory": "etc/f",
        "cert": ("etc/g.pem",),
        "auth": "etc/h",
    }
    options = told("here", "--config", "etc/knot.toml", "--auth", "i", KNOT_UNIX="j")
    assert (options["directory"], options["auth"], options["unix"]) == ("here", "i", "j")
    assert told(KNOT_CONFIG=str(tmp_path / "etc" / "knot.toml"))["directory"] == str(
        tmp_path / "etc" / "www"
    )


@pytest.mark.parametrize("table", ["", '[hosts."x.example"]\ndirectory = "."\n'])
def test_the_same_option_twice_is_refused(table: str) -> None:
    Path("knot.toml").write_text(f"{table}clean-urls = true\nclean_urls = false\n")
    result = invoke()
    assert result.exit_code == 2
    assert "clean-urls and clean_urls are the same option: remove one" in result.output


# -- the machine -----------------------------------------------------------------------------------


def test_without_a_home_directory_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # the user has no entry
    for cache in ({}, {"XDG_CACHE_HOME": "relative"}):
        result = invoke("--tls-self-signed", "--port", "0", **cache)
        assert result.exit_code == 1
        assert result.output.startswith("knot: there is no home directory")
        assert result.output.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_certificate_for_development_is_for_every_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    hosts = ("127.0.0.1", "192.0.2.7", "::", "fe80::1%eth0", "example.org")
    chain = self_signed.certificate(hosts)
    assert self_signed.certificate(reversed(hosts)) == chain
    shown = {value for _, value in tls.alternatives(tls.first_of(chain))}
    assert shown >= {"localhost", "127.0.0.1", "192.0.2.7", "example.org", os.uname().nodename}
    assert Path(self_signed.authority(hosts)).is_file()
    assert len(Path(self_signed.certificate([f"{n:063}.example" for n in range(9)])).name) < 100
    assert self_signed.certificate(["localhost", "::1"]) == str(tmp_path / "knot" / "localhost.pem")


def limited(files: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


@pytest.mark.parametrize("files", [16, LEAST_FILES - 1])
@pytest.mark.parametrize("options", [(), ("--workers", "1")])
def test_too_few_open_files_are_an_error_of_one_line(files: int, options: tuple[str, ...]) -> None:
    done = subprocess.run(
        [*KNOT, "serve", ".", "--port", "0", *options],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limited(files),
    )
    assert done.returncode == 1
    assert re.fullmatch(
        rf"knot: the system allows {files} open files, and this needs \d+: .*ulimit -n.*\n",
        done.stderr,
    )


@pytest.mark.parametrize("model", ["events", "threads"])
def test_as_many_open_files_as_are_needed_are_enough(model: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("abc")
    with serving(str(tmp_path), "--model", model, preexec_fn=limited(LEAST_FILES)) as (_, url):
        clients = [connect(int(url.rpartition(":")[2])) for _ in range(LEAST_FILES // 2 - 1)]
        for client in clients:
            client.sendall(get(b"/a"))
        for client in clients:
            with client:
                assert client.recv(12) == b"HTTP/1.1 200"


def test_each_worker_needs_files_of_its_supervisor() -> None:
    result = invoke("--workers", "100000")
    assert result.exit_code == 1
    assert "open files, and this needs" in result.output


# -- files that are given --------------------------------------------------------------------------


def test_the_first_user_of_a_file_with_a_byte_order_mark_is_known(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    file.write_bytes(b"\xef\xbb\xbfalice:" + HASH + b"\r\nbob:" + HASH)
    assert read_users(str(file)) == {b"alice": HASH, b"bob": HASH}


def test_a_certificate_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    made = trustme.CA().issue_cert("localhost")
    pieces = made.cert_chain_pems[0].bytes(), made.private_key_pem.bytes()
    for number, content in enumerate((pieces, reversed(pieces))):
        file = tmp_path / f"{number}.pem"
        file.write_bytes(b"\xef\xbb\xbf" + b"".join(content))
        assert Certificates([(str(file), None)])


def issued(file: Path, begin: int, end: int, *names: str) -> str:
    """A file with a certificate that is valid from `begin` to `end`, in days from now, and its
    key."""
    now = datetime.now(UTC)
    made = trustme.CA().issue_cert(
        *names, not_before=now + timedelta(days=begin), not_after=now + timedelta(days=end)
    )
    made.private_key_and_cert_chain_pem.write_to_path(str(file))
    return str(file)


def test_a_certificate_that_clients_refuse_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = issued(tmp_path / "old.pem", -9, -2, "a.example", "b.example", "c.example", "d.example")
    new = issued(tmp_path / "new.pem", 2, 9, "127.0.0.1")
    good = issued(tmp_path / "good.pem", -2, 2, "localhost")
    certificates = Certificates([(file, None) for file in (old, new, good)])
    certificates.warn()
    certificates.warn()
    (first, second) = caplog.messages
    assert re.fullmatch(
        rf"the certificate {old} for a.example, b.example, c.example, … expired on"
        r" \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC: clients refuse it",
        first,
    )
    assert f"{new} for 127.0.0.1 is not valid before " in second
    caplog.clear()
    monkeypatch.setattr(tls, "LOOK", 0)
    certificates._look_at = 0
    issued(tmp_path / "old.pem", -9, -1, "a.example")
    certificates.look()
    assert [message for message in caplog.messages if "expired on" in message]
    caplog.clear()
    certificates._look_at = 0
    now = tls.time()
    monkeypatch.setattr(tls, "time", lambda: now + 3 * 86400)
    certificates.look()
    assert [message.split()[2] for message in caplog.messages] == [good]


# -- anything at all -------------------------------------------------------------------------------

ODD = [
    "", " ", "0", "1", "-1", "x", "٣", "1e400", "nan", "inf", "1" * 5000, "a" * 300, "é",
    ".", "/", "file", "missing/x", "directory", "directory/" + "a" * 100, "a=b", "=", "*=", "A: b",
    "tcp://1", ":0", "0:0", "[::]:0", "127.0.0.1:0", "[::", "::1", "fe80::1", "1.2.3.4/99", "unix",
    "x\ny", "{}", "99999999999", "auto", "64M", "nobody", "off", "json", "threads", "pair.pem",
]  # fmt: skip
"""Values that belong to some option, or to none."""

ODD_VALUES = [
    *map(repr, (0, 1, -1, 1.5, 2**62, [], [1], ["x"], [["x"]], {})),
    "true", "nan", "1979-05-27", '{a = "b"}', '{a = 1}', '""', '"x"', '"\\u0000"', '"file"',
    '"directory"', '"127.0.0.1:0"', '"::1"', '["::1", "127.0.0.1"]', '["pair.pem"]', '"pair.pem"',
]  # fmt: skip

NAMES = sorted(str(param.name) for param in serve.params if param.name not in ("config", "help"))


class Stub:
    """A model that ends as soon as it could serve."""

    from knot.models.events import Server

    @staticmethod
    def run(*_: object, **__: object) -> int:
        return 0


@pytest.fixture
def harmless(tmp_path: Path, pem: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``knot serve`` does all but serve."""
    logs: list[int] = []

    def open_to_append(path: str, user: struct_passwd | None) -> int:
        logs.append(safe_paths.open_to_append(path, user))
        return logs[-1]

    (tmp_path / "file").write_text("x")
    (tmp_path / "directory").mkdir()
    (tmp_path / "pair.pem").write_bytes(pem.read_bytes())
    monkeypatch.setattr(cli, "load_model", lambda name: Stub)
    monkeypatch.setattr(cli, "open_browser", bool)
    monkeypatch.setattr(cli, "Signals", lambda actions: MagicMock())
    monkeypatch.setattr(supervisor, "supervise", lambda *_, **__: True)
    monkeypatch.setattr(cli.gc, "freeze", bool)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ask = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda *what, flags=0, **more: ask(*what, flags=flags | socket.AI_NUMERICHOST, **more),
    )
    monkeypatch.setattr(cli, "open_to_append", open_to_append)
    yield
    for fd in logs:
        os.close(fd)


def check_is_a_sentence(result: Result) -> None:
    """Or a start."""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    if result.exit_code == 1:
        assert re.match("knot: |The system allows ", result.output), result.output
    assert result.exit_code in (0, 1, 2)
    assert "Traceback" not in result.output


PATIENT = settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)


@PATIENT
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(ODD)), max_size=3))
def test_whatever_the_command_line_is_it_starts_or_says_why(
    harmless: None, said: list[tuple[str, str]]
) -> None:
    arguments = ["--port", "0"]
    for name, value in said:
        if name == "directory":
            arguments.append(value)
        else:
            flag = next(param for param in serve.params if param.name == name)
            arguments += [flag.opts[0], *([] if getattr(flag, "is_flag", False) else [value])]
    check_is_a_sentence(invoke(*arguments))


@PATIENT
@given(
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(ODD_VALUES), max_size=3),
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(ODD_VALUES), max_size=2),
    st.sampled_from(["x.example", "*.x", "", "a b", "::1", "x:80"]),
)
def test_whatever_the_file_is_it_starts_or_says_why(
    harmless: None, given: dict[str, str], of_a_host: dict[str, str], host: str
) -> None:
    given = {"port": "0", **given}
    lines = [f"{name} = {value}\n" for name, value in given.items()]
    if of_a_host:
        lines.append(f'[hosts."{host}"]\n')
        lines += [f"{name} = {value}\n" for name, value in of_a_host.items()]
    Path("knot.toml").write_text("".join(lines))
    try:
        check_is_a_sentence(invoke())
    finally:
        Path("knot.toml").unlink()


CANNOT = [
    # (arguments, what is said)
    (["file"], "Not a directory; name a directory to serve"),
    (["--log-file", "missing/log"], "cannot write the log to missing/log"),
    (["--log-file", "directory"], "cannot write the log to directory: Is a directory"),
    (["--cert", "directory"], "/directory: Is a directory"),
    (["--cert", "missing"], "/missing: No such file"),
    (["--cert", "pair.pem", "--key", "directory"], "/directory: Is a directory"),
    (["--auth", "directory"], "cannot read directory: Is a directory"),
    (["--unix", "directory"], "cannot listen on directory: Address already in use"),
    (["--unix", "u" * 108], "AF_UNIX path too long"),
    (["--fd", "99999"], "cannot listen on the socket 99999: Bad file descriptor"),
    (["--grace", "inf"], "'inf' is no number of seconds"),
    (["--head-timeout", "1e400"], "'1e400' is no number of seconds"),
    (["--config", "directory"], "cannot read directory: Is a directory"),
    (["--host", "192.0.2.7"], "192.0.2.7:0: Cannot assign requested address; give --host"),
    (["--host", "a..b"], "a..b:0: this cannot be a name; give --host"),
    (["--host", "fe80::1"], "[fe80::1]:0: Invalid argument; an address of a link needs"),
]


@pytest.mark.parametrize(("arguments", "said"), CANNOT)
def test_what_cannot_be_used_is_named_in_a_sentence(
    harmless: None, arguments: list[str], said: str
) -> None:
    result = invoke("--port", "0", *arguments)
    check_is_a_sentence(result)
    assert result.exit_code > 0
    assert said in result.output


def test_a_descriptor_of_a_file_is_refused_in_a_sentence(harmless: None) -> None:
    with open("file") as file:
        result = invoke("--fd", str(file.fileno()))
    check_is_a_sentence(result)
    assert "Socket operation on non-socket" in result.output
