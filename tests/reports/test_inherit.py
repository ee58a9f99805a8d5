"""What a process of Knot has from whoever started it, and from where it takes its code."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from serving import KNOT, SERVING, plain_environment, serving

from knot.process import spawn

COMMAND = Path(sys.executable).with_name("knot")
"""As users start it."""

PATIENCE = 20


def until(holds: Callable[[], object]) -> None:
    deadline = monotonic() + PATIENCE
    while not holds():
        assert monotonic() < deadline


# -- the import path -------------------------------------------------------------------------------

MODULES = (
    "_strptime", "asyncio", "bcrypt", "brotli", "click", "ctypes", "email", "encodings", "gevent",
    "h2", "hashlib", "httptools", "json", "knot", "linecache", "logging", "prometheus_client",
    "random", "runpy", "secrets", "sitecustomize", "socket", "ssl", "tame", "threading",
    "traceback", "trustme", "usercustomize", "uvloop", "zstandard",
)  # fmt: skip
"""Of the standard library, of Knot and of what it uses; some are packages."""

MARK = """
import os
open(os.path.join({site!r}, "imported"), "a").write(__name__ + " ")
raise ImportError("this is a file of the site")
"""


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A site whose files leave a mark when they are imported."""
    site = tmp_path / "site"
    site.mkdir()
    for name in MODULES:
        package = site / name
        package.mkdir()
        for file in (site / f"{name}.py", package / "__init__.py"):
            file.write_text(MARK.format(site=str(site)))
    (site / "index.html").write_text("home " * 1000)
    return site


def mark(site: Path) -> str:
    """What has been imported from the site."""
    file = site / "imported"
    return file.read_text() if file.exists() else ""


def get(url: str, **fields: str) -> int:
    anyone = ssl.create_default_context()
    anyone.check_hostname = False
    anyone.verify_mode = ssl.CERT_NONE
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    request = urllib.request.Request(url, headers=named)
    context = anyone if url.startswith("https") else None
    with urllib.request.urlopen(request, timeout=PATIENCE, context=context) as answer:
        answer.read()
        return int(answer.status)


def use(url: str) -> None:
    """What may need modules that were not needed before."""
    for coding in ("gzip", "br", "zstd"):
        assert get(url, Accept_Encoding=coding, Connection="close") == 200
    assert get(url, Range="bytes=0-3,2000-2003", Connection="close") == 206
    assert get(f"{url}/random/", Accept="application/json", Connection="close") == 200


STARTS = {
    "events": ("--workers", "2"),
    "threads": ("--model", "threads"),
    "asyncio": ("--model", "asyncio"),
    "greenlets": ("--model", "greenlets"),
    "TLS": ("--tls-self-signed", "--admin", "127.0.0.1:0"),
}


@pytest.mark.parametrize("options", STARTS.values(), ids=STARTS)
def test_no_file_of_the_site_is_imported(
    trap: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Neither at the start nor later, nor by the workers that SIGHUP starts."""
    if "greenlets" in options:
        pytest.importorskip("gevent", reason="gevent is not installed")
    about: dict[str, Any] = {"cwd": trap, "env": {"XDG_CACHE_HOME": str(tmp_path)}}
    command = [str(COMMAND)] if COMMAND.exists() else KNOT
    with serving(".", "--listing", *options, knot=command, **about) as (process, url):
        use(url)
        if "--workers" in options:
            before = children(process.pid)
            process.send_signal(signal.SIGHUP)
            until(lambda: len(now := children(process.pid)) == 2 and not now & before)
            use(url)
        process.terminate()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert mark(trap) == ""


def test_no_worker_imports_from_where_pythonpath_says_here(trap: Path) -> None:
    """The first process has imported from there before it could do anything; see that the workers
    do not, by a file that comes after its start."""
    early = [trap / "sitecustomize.py", trap / "sitecustomize" / "__init__.py"]
    modules = {path: path.read_text() for path in trap.rglob("*.py")}
    for path in modules:
        path.unlink()
    about: dict[str, Any] = {"cwd": trap, "env": {"PYTHONPATH": f".:{trap}:"}}
    with serving(".", "--listing", "--workers", "1", **about) as (process, url):
        for path in early:
            path.write_text(modules[path])
        before = children(process.pid)
        process.send_signal(signal.SIGHUP)
        until(lambda: len(now := children(process.pid)) == 1 and not now & before)
        (worker,) = children(process.pid)
        assert "PYTHONPATH" not in environment(worker)
        use(url)
    assert mark(trap) == ""


def test_an_import_path_that_was_asked_for_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site, other = tmp_path / "site", tmp_path / "other"
    for place in (site, other):
        place.mkdir()
    (tmp_path / "link").symlink_to(site)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(other), str(tmp_path / "link"), "/usr/lib/x"])
    monkeypatch.setenv("PYTHONPATH", f"{other}::{tmp_path / 'link'}:site:{spawn.HOME}")
    spawn.clean_import_path(str(site))
    assert os.environ["PYTHONPATH"] == f"{other}:{spawn.HOME}"
    assert sys.path == [str(other), "/usr/lib/x"]


def test_knot_that_is_not_installed_still_finds_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``python -m knot.cli`` where it was unpacked: its workers look there, too."""
    monkeypatch.chdir(spawn.HOME)
    monkeypatch.setattr(sys, "path", [spawn.HOME, "/usr/lib/x"])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(spawn, "sys", _Python())
    spawn.clean_import_path(".")
    assert os.environ["PYTHONPATH"] == spawn.HOME
    assert sys.path == [spawn.HOME, "/usr/lib/x"]


def test_it_starts_where_the_current_directory_was_removed(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("home")
    gone = tmp_path / "gone"
    gone.mkdir()
    shell = ["bash", "-c", f'cd "{gone}" && rmdir "{gone}" && exec "$@"', "knot", *KNOT]
    log = tmp_path / "access.log"
    with serving(str(tmp_path), "--log-file", str(log), "--workers", "1", knot=shell) as (_, url):
        assert get(url) == 200


class _Python:
    """A `sys` of an interpreter that was started without ``-P``."""

    path = property(lambda _: sys.path)

    class flags:  # noqa: N801
        safe_path = False


def test_the_harness_starts_python_as_knot_does() -> None:
    """No program of this project is started with the current directory on its import path."""
    sources = [*Path(spawn.HOME, "loadtest").rglob("*.py"), *Path(spawn.HOME, "knot").rglob("*.py")]
    for path in sources:
        started = re.findall(r"\[sys\.executable\b.*", path.read_text())
        assert not started or path.name == "spawn.py", (path, started)
    for name in ("Makefile", "Dockerfile", "compose.yaml"):
        for line in Path(spawn.HOME, name).read_text().splitlines():
            if found := re.search(r"python3?\"?,? \"?-(\w+)", line):
                assert found[1] in ("P", "I") or "-m venv" in line, line


# -- what a worker has -----------------------------------------------------------------------------


def children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def environment(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in lines if line)


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}


def session(pid: int) -> tuple[int, int]:
    """Process group and session."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return int(fields[2]), int(fields[3])


def descriptors(pid: int) -> dict[int, str]:
    return {int(fd): os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}


STRANGE = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)
os.umask(0o027)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""A parent whose signals, umask and descriptors are not the usual ones."""


@contextmanager
def strangely_started(site: Path, planted: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    manager = {
        "NOTIFY_SOCKET": "@nobody", "LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web",
        "WATCHDOG_PID": "1", "WATCHDOG_USEC": "1000000", "OWN": "kept",
    }  # fmt: skip
    command = [*KNOT, "serve", str(site), "--port", "0", *options]
    with (
        open(planted) as file,
        subprocess.Popen(
            [sys.executable, "-c", STRANGE, *command],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(file.fileno(),),
            env=plain_environment() | manager,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            found = SERVING.fullmatch(process.stdout.readline())
            assert found is not None
            assert get(found[1]) == 200
            yield process
        finally:
            process.terminate()
            try:
                process.communicate(timeout=PATIENCE)
            finally:
                process.kill()  # it may be deaf
    assert process.returncode == 0


def test_a_worker_has_what_is_stated_and_nothing_else(tmp_path: Path) -> None:
    site, planted = tmp_path / "site", tmp_path / "planted"
    site.mkdir()
    (site / "index.html").write_text("home")
    planted.touch()
    with strangely_started(site, planted, "--workers", "1") as supervisor:
        (pid,) = children(supervisor.pid)
        has = environment(pid)
        assert not set(spawn.OF_ONE_PROCESS) & set(has)
        assert has["OWN"] == "kept"
        own, theirs = descriptors(pid), descriptors(supervisor.pid)
        assert own[0] == os.devnull
        assert (own[1], own[2]) == (theirs[1], theirs[2])
        assert str(planted) in theirs.values()
        files = {path for fd, path in own.items() if fd > 2 and path.startswith("/")}
        assert files == {str(site), str(site / "index.html")} & files
        found = status(pid)
        assert found["Umask"] == status(supervisor.pid)["Umask"] == "0027"
        assert int(found["SigBlk"], 16) == 0
        ignored = int(found["SigIgn"], 16)
        for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
            assert not ignored >> (number - 1) & 1, number
        assert os.readlink(f"/proc/{pid}/cwd") == os.readlink(f"/proc/{supervisor.pid}/cwd")
        assert session(pid) == (pid, session(supervisor.pid)[1])
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        assert b"-P" in words


def test_a_process_whose_signals_were_blocked_hears_them(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("home")
    with strangely_started(tmp_path, tmp_path / "index.html") as process:
        assert int(status(process.pid)["SigBlk"], 16) == 0


@pytest.mark.parametrize("workers", [(), ("--workers", "1")])
def test_a_closed_standard_stream_is_no_file_and_no_connection(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    (tmp_path / "index.html").write_text("home")
    path = tmp_path / "socket"
    command = [*KNOT, "serve", str(tmp_path), "--unix", str(path), *workers]
    closing = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "knot", *command]
    with subprocess.Popen(closing, env=plain_environment()) as process:
        try:
            until(path.exists)
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE)
                until(lambda: client.connect_ex(str(path)) == 0)
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 200")
            for pid in {process.pid, *children(process.pid)}:
                found = descriptors(pid)
                assert [found[fd] for fd in range(3)] == [os.devnull] * 3
        finally:
            process.terminate()
