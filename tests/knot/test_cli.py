"""`knot serve` as a user starts it, fetched by curl and by a browser."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from serving import KNOT, Model, plain_environment, serving

from knot.cli import main

WWW = Path(__file__).parents[2] / "www"


def curl(*arguments: str) -> bytes:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    return subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", "20", *arguments],
        check=True,
        capture_output=True,
    ).stdout


def test_curl_gets_the_site(model: Model) -> None:
    with serving(str(WWW)) as (_, url):
        assert curl(f"{url}/") == (WWW / "index.html").read_bytes()
        assert curl(f"{url}/style.css", f"{url}/knot.svg") == (
            (WWW / "style.css").read_bytes() + (WWW / "knot.svg").read_bytes()
        )
        head = curl("--head", f"{url}/style.css").decode()
        assert head.startswith("HTTP/1.1 200 OK\r\n")
        assert "Content-Type: text/css; charset=utf-8\r\n" in head
        status = curl("--output", os.devnull, "--write-out", "%{http_code}", f"{url}/nothing")
        assert status == b"404"


def test_a_browser_shows_the_site(model: Model, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with serving(str(WWW)) as (_, url):
        browser = [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path}",
            "--virtual-time-budget=2000",
            "--dump-dom",
            f"{url}/",
        ]
        shown = subprocess.run(browser, check=True, capture_output=True, text=True, timeout=60)
    assert "Knot serves this page" in shown.stdout


def test_the_current_directory_is_served_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index.html").write_text("here")
    monkeypatch.chdir(tmp_path)
    with serving() as (_, url), urllib.request.urlopen(url) as answer:
        assert answer.read() == b"here"


def test_ipv6(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("six")
    with serving(str(tmp_path), "--host", "::1") as (_, url):
        assert url.startswith("http://[::1]:")
        with urllib.request.urlopen(url) as answer:
            assert answer.read() == b"six"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_without_a_word(model: Model, number: signal.Signals) -> None:
    with serving(str(WWW)) as (process, url):
        with urllib.request.urlopen(url):
            pass
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert (out, err) == ("", "")
        assert process.returncode == 0


def big_site(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    root.mkdir()
    (root / "big").touch()
    os.truncate(root / "big", 64 << 20)
    return root


def start_download(url: str) -> socket.socket:
    """A connection on which the first bytes of the big file have come."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.settimeout(20)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    connection.connect((host, int(port)))
    connection.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection.recv(10) == b"HTTP/1.1 2"
    return connection


def drain(connection: socket.socket) -> int:
    """Read until the end; how many bytes came."""
    received = 0
    while data := connection.recv(1 << 20):
        received += len(data)
    return received


def test_what_is_under_way_is_finished_before_it_stops(model: Model, tmp_path: Path) -> None:
    with serving(str(big_site(tmp_path))) as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with start_download(url) as busy, socket.create_connection((host, int(port)), 20) as idle:
            idle.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
            assert idle.recv(12) == b"HTTP/1.1 404"
            process.send_signal(signal.SIGTERM)
            drain(idle)  # until it is closed: nothing was under way there
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, int(port)), 20)
            assert process.poll() is None
            assert drain(busy) > 64 << 20
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 0


def test_a_client_that_takes_too_long_is_cut_off_at_the_end(model: Model, tmp_path: Path) -> None:
    with serving(str(big_site(tmp_path)), "--grace", "0.1") as (process, url):
        with start_download(url) as stalled:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=20)
            with pytest.raises(ConnectionResetError):
                drain(stalled)
        assert said == "Stopped; 1 connection was cut after 0.1 s\n"
        assert process.returncode == 0


def test_a_second_signal_waits_for_nobody(model: Model, tmp_path: Path) -> None:
    with serving(str(big_site(tmp_path)), "--grace", "1000") as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with start_download(url), socket.create_connection((host, int(port)), 20) as idle:
            idle.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
            assert idle.recv(12) == b"HTTP/1.1 404"
            process.send_signal(signal.SIGINT)
            drain(idle)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)
        assert process.returncode == 0


def test_the_log_goes_on_in_a_new_file_when_it_was_rotated(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(str(WWW), "--log-file", str(log)) as (process, url):
        fetch_until(url, log)
        log.rename(tmp_path / "log.1")
        process.send_signal(signal.SIGUSR1)
        fetch_until(url, log)
    assert '"GET / HTTP/1.1" 200' in (tmp_path / "log.1").read_text()


def fetch_until(url: str, log: Path) -> None:
    """Fetch until the log has a line of it: it is written a little later."""
    for _ in range(10_000):
        with urllib.request.urlopen(url):
            pass
        if log.exists() and '"GET / HTTP/1.1" 200' in log.read_text():
            return
    pytest.fail("no line came into the log")


def test_the_terminal_shows_what_is_fetched_and_directories_are_listed(tmp_path: Path) -> None:
    """Both are on for a person who serves a directory by hand, and off for a program."""
    (tmp_path / "folder").mkdir()
    master, slave = os.openpty()
    process = subprocess.Popen([*KNOT, "serve", str(tmp_path), "--port", "0"], stdout=slave)
    os.close(slave)
    try:
        with open(master, "rb", buffering=0) as terminal:
            url = terminal.read(1000).decode().split(" at ")[1].split()[0]
            with urllib.request.urlopen(f"{url}/folder/") as answer:
                assert b"Index of /folder/" in answer.read()
            shown = terminal.read(1000).decode()
            assert "\x1b[32m200\x1b[0m GET     /folder/" in shown
            process.terminate()
            process.wait(timeout=20)
    finally:
        process.kill()
        process.wait()


LOST = """
import os, signal, sys
from knot import cli
from knot.files.representation import File

close = File.__del__

def interrupted(file):
    os.kill(os.getpid(), signal.SIGTERM)
    close(file)

File.__del__ = interrupted
cli.main(["serve", sys.argv[1], "--port", "0"])
"""


def test_a_signal_in_a_finalizer_is_not_lost(model: Model) -> None:
    """Python drops exceptions that come up there, so that of a handler would be none."""
    command = [sys.executable, "-c", LOST, str(WWW)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=plain_environment()
    ) as process:
        assert process.stdout
        try:
            url = process.stdout.readline().split()[3]
            with suppress(OSError), urllib.request.urlopen(url, timeout=20):
                pass
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()


def test_it_survives_without_descriptors(model: Model) -> None:
    """More connections than its limit allows; those that there is room for are served."""
    with serving(str(WWW)) as (process, url):
        host, port = url.removeprefix("http://").split(":")
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (40, 40))
        connections = [socket.create_connection((host, int(port)), 20) for _ in range(60)]
        for connection in connections:
            connection.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connections[0].recv(12) in (b"HTTP/1.1 404", b"HTTP/1.1 503")
        for connection in connections:
            connection.close()
        assert any(is_served(url) for _ in range(1000))  # as soon as it has seen them close


def is_served(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False


# -- options -------------------------------------------------------------------------------------


def test_options_may_stand_in_a_file_or_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page.html").write_text("page")
    (tmp_path / "knot.toml").write_text(
        'clean-urls = true\ncors = true\n[cache_control]\n"*.html" = "no-cache"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KNOT_HEADER", "X-One: 1 1\nX-Two: 2")
    monkeypatch.setenv("KNOT_CLEAN_URLS", "1")
    with serving("--cache-control", "*=max-age=1") as (_, url):
        with urllib.request.urlopen(f"{url}/page") as answer:
            assert answer.headers["X-One"] == "1 1"
            assert answer.headers["X-Two"] == "2"
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert answer.headers["Cache-Control"] == "max-age=1"  # the command line goes first
        with pytest.raises(urllib.error.HTTPError, match="404") as refused:
            urllib.request.urlopen(f"{url}/knot.toml")
        refused.value.close()


BROKEN = [
    ("prot = 1", "knot.toml: no option is called prot; did you mean port?"),
    ("port = ", "knot.toml is no TOML"),
    ("port = 'x'", "'x' is not a valid integer"),
    ("cache-size = 'much'", "'much' is no size: write bytes, or as 64M"),
    ("mime = ['x']", "'x' is not of the form SUFFIX=TYPE"),
]


@pytest.mark.parametrize(("config", "expected"), BROKEN)
def test_a_file_that_is_wrong_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, expected: str
) -> None:
    (tmp_path / "knot.toml").write_text(config)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["serve"])
    assert result.exit_code == 2
    assert expected in result.output
    assert "Traceback" not in result.output


# -- what it says when it cannot -----------------------------------------------------------------


def test_errors_at_the_start_are_one_sentence_with_the_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        check_errors(tmp_path, str(taken.getsockname()[1]))


def check_errors(tmp_path: Path, port: str) -> None:
    (tmp_path / "file").write_text("")
    cases = [
        (["nowhere"], "cannot serve nowhere: No such file or directory; name a directory"),
        ([str(tmp_path / "file")], "Not a directory; name a directory to serve"),
        ([".", "--port", port], f"127.0.0.1:{port}: Address already in use; stop the program"),
        ([".", "--host", "192.0.2.1"], "give --host an address of this machine"),
        ([".", "--log-file", str(tmp_path / "no" / "log")], "choose another --log-file"),
    ]
    for arguments, expected in cases:
        result = CliRunner().invoke(main, ["serve", *arguments])
        assert result.exit_code == 1
        assert expected in str(result.output), result.output
        assert result.output.startswith("knot: cannot ")
        assert result.output.count("\n") == 1


def test_threads_need_their_model() -> None:
    result = CliRunner().invoke(main, ["serve", "--threads", "4"])
    assert result.exit_code == 2
    assert "--threads needs --model threads" in result.output


def test_greenlets_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gevent", None)
    monkeypatch.delitem(sys.modules, "knot.models.greenlets", raising=False)
    result = CliRunner().invoke(main, ["serve", "--model", "greenlets"])
    assert result.exit_code == 1
    assert "pip install 'knot[greenlets]'" in result.output


def test_a_port_out_of_range_is_a_usage_error() -> None:
    result = CliRunner().invoke(main, ["serve", "--port", "70000"])
    assert result.exit_code == 2
    assert "0<=x<=65535" in result.output


def test_help_and_version() -> None:
    for arguments in (["--help"], ["serve", "--help"], ["--version"]):
        result = CliRunner().invoke(main, arguments, prog_name="knot")
        assert result.exit_code == 0
        assert "knot" in result.output.lower()


def test_a_driver_that_is_none_is_an_error_of_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [*KNOT, "serve", str(tmp_path), "--port", "0"],
        capture_output=True,
        text=True,
        check=False,
        env=plain_environment() | {"TAME_DRIVER": "foo"},
    )
    assert done.returncode == 1
    assert done.stderr == "knot: TAME_DRIVER is foo: it can be uvloop, asyncio, epoll\n"


@pytest.mark.parametrize("stdout", [">&-", ">/dev/full"])
@pytest.mark.parametrize("workers", ["", "--workers 2"])
def test_nobody_needs_to_hear_that_it_serves(tmp_path: Path, stdout: str, workers: str) -> None:
    (tmp_path / "index.html").write_text("home")
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "ready"))
        manager.settimeout(20)
        process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" {workers} {stdout}', "knot", *KNOT, "serve", str(tmp_path),
             "--unix", str(path)],
            stderr=subprocess.PIPE,
            text=True,
            env=plain_environment() | {"NOTIFY_SOCKET": str(tmp_path / "ready")},
        )  # fmt: skip
        try:
            assert manager.recv(100) == b"READY=1"
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert client.recv(1000).endswith(b"home")
        finally:
            process.terminate()
            _, err = process.communicate(timeout=20)
    assert err == ""
    assert process.returncode == 0
