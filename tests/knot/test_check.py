"""``knot check``: what a start would refuse, and where each setting comes from."""

from __future__ import annotations

import os
import socket
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import knot.run
from knot.cli import main, serve
from knot.config import read_settings
from knot.settings import Settings


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in os.environ:
        if name.startswith("KNOT_"):
            monkeypatch.delenv(name)


def check(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, ["check", *arguments], env=environment)


def lines_of(result: Result) -> dict[str, tuple[str, str]]:
    """By setting: the value as it is written, and where it comes from."""
    found = {}
    for line in result.stdout.splitlines():
        setting, sharp, source = line.rpartition(" # ")
        if sharp:
            name, _, value = setting.removeprefix("# ").partition(" = ")
            found[name.strip()] = (value.strip(), source)
    return found


def test_each_setting_is_shown_with_its_source() -> None:
    Path("other.toml").write_text(
        'port = 3\nmax-rate = 0.5\nheader = ["A: b"]\n[cache-control]\n"*" = "no-cache"\n'
    )
    result = check(
        "--config", "other.toml", "--listing", "--redirect-http", ":80", "--tls-self-signed",
        KNOT_CACHE_SIZE="2097152", KNOT_HOST="127.0.0.1,::1", KNOT_DIRECTORY="",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = lines_of(result)
    expected = {
        "directory": ('"."', "default"),
        "host": ('["127.0.0.1", "::1"]', "KNOT_HOST"),
        "port": ("3", "other.toml"),
        "listing": ("true", "command line"),
        "spa": ("false", "default"),
        "max-rate": ("0.5", "other.toml"),
        "header": ('["A: b"]', "other.toml"),
        "cache-control": ('["*=no-cache"]', "other.toml"),
        "cache-size": ('"2M"', "KNOT_CACHE_SIZE"),
        "redirect-http": ('"[::]:80"', "command line"),
        "log": ('"off"', "default: short on a tty"),
        "auth": ("", "not set"),
    }
    assert {name: found[name] for name in expected} == expected
    options = {str(param.name).replace("_", "-") for param in serve.params}
    assert set(found) == options - {"config"}


TOML = """
directory = "www"
host = ["127.0.0.1"]
cache-size = 1536
grace = 0.25
hidden = true
mime = ["a=b/c"]
trust = ["10.0.0.0/8", "unix"]
admin = "127.0.0.1:0"
log = "json"
log-file = 'log "1"'

[cache-control]
"a b/*" = "max-age=1"

[hosts."X.example"]
directory = "other"
spa = true
[hosts."*.example"]
header = ["A: \\"b\\""]
"""


def settings_of(monkeypatch: pytest.MonkeyPatch) -> Settings:
    found: list[Settings] = []
    with monkeypatch.context() as patch:
        patch.setattr(serve, "callback", lambda **values: found.append(read_settings(values)))
        result = CliRunner().invoke(main, ["serve"])
    assert result.exit_code == 0, result.output
    return found[0]


def test_what_is_shown_is_a_file_that_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("www", "other"):
        Path(name).mkdir()
    Path("knot.toml").write_text(TOML)
    before = settings_of(monkeypatch)
    shown = check().stdout
    tomllib.loads(shown)
    Path("knot.toml").write_text(shown)
    assert settings_of(monkeypatch) == before
    assert before.hosts["x.example"].spa


def test_a_path_of_any_bytes_can_be_shown(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff \xc3\xbc")
    Path(name).mkdir()
    result = check(name)
    assert result.exit_code == 0
    assert b'directory = "\xff \xc3\xbc"' in result.stdout_bytes


WRONG = [
    # (arguments, what is said)
    (["nowhere"], "cannot serve nowhere: No such file or directory; name a directory to serve"),
    (["file"], "cannot serve file: Not a directory"),
    (["--cert", "missing"], "/missing: No such file"),
    (["--cert", "file"], "/file has no certificate and key in PEM"),
    (["--auth", "missing"], "cannot read missing: No such file"),
    (["--auth", "file"], "file, line 1"),
    (["--header", "x"], "'x' is no"),
    (["--user", "no-such-user"], "there is no user called no-such-user"),
    (["--host", "a..b"], "cannot listen on a..b:8000: not a valid name; give --host"),
    (["--admin", "a..b:1"], "cannot listen on a..b:1: not a valid name; give --admin"),
    (["--unix", "missing/socket"], "cannot listen on missing/socket: its directory does not"),
    (["--log-file", "missing/log"], "missing/log: its directory does not exist; choose another"),
    (["--log-file", "directory"], "cannot write the log to directory: it is a directory"),
    (["--workers", "100000"], "open files, and this needs"),
]


@pytest.fixture
def files() -> None:
    Path("file").write_text("x\n")
    Path("directory").mkdir()


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("arguments", "said"), WRONG)
def test_what_is_wrong_is_said_in_a_sentence(arguments: list[str], said: str) -> None:
    result = check(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("knot: ")
    assert said in line


@pytest.mark.usefixtures("files")
def test_all_that_is_wrong_is_said_at_once() -> None:
    result = check("nowhere", "--cert", "missing", "--log-file", "directory", "--host", "a..b")
    assert result.exit_code == 2
    assert [line.split()[1:3] for line in result.stderr.splitlines()] == [
        ["cannot", "listen"], ["cannot", "read"], ["cannot", "serve"], ["cannot", "write"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--threads", "4"], "--threads needs --model threads"),
        (["--port", "x"], "'x' is not a valid integer"),
        (["--config", "missing"], "cannot read missing: No such file or directory"),
    ],
)
def test_what_cannot_be_meant_is_said_as_at_a_start(arguments: list[str], said: str) -> None:
    result = check(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knot.run, "find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    monkeypatch.delitem(sys.modules, "knot.access.passwords", raising=False)
    result = check("--admin", "127.0.0.1:0", "--auth", "x")
    assert result.exit_code == 2
    assert "pip install 'knot-httpd[metrics]'" in result.stderr
    assert "pip install 'knot-httpd[auth]'" in result.stderr


def test_nothing_is_made_and_no_port_is_needed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = check("--port", port, "--tls-self-signed", "--log-file", "log")
        assert result.exit_code == 0, result.output
        assert check("--unix", "socket").exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_variable_that_sets_nothing_is_reported() -> None:
    result = check(KNOT_PROT="1")
    assert result.exit_code == 0
    assert "KNOT_PROT is ignored" in result.stderr
