"""What the process gives up before it serves, it does not have any more."""

from __future__ import annotations

import gzip
import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from serving import KNOT, serving

from knot.process import sandbox
from knot.process.sandbox import account, become

CONFINED = """
import binascii, os, socket, subprocess, sys
from knot.process.sandbox import READ, REMOVE, WRITE, confine
root, log, run, port = sys.argv[1:]
if not confine({root: READ, log: WRITE, run: REMOVE}):
    print("no Landlock"); sys.exit()

def attempt(name, do):
    try:
        do()
        print(name, "yes")
    except OSError as error:
        print(name, error.__class__.__name__)

attempt("read inside", open(os.path.join(root, "file")).read)
attempt("list inside", lambda: os.listdir(root))
attempt("read outside", lambda: open("/etc/passwd"))
attempt("list outside", lambda: os.listdir("/etc"))
attempt("write inside", lambda: open(os.path.join(root, "file"), "w"))
attempt("remove inside", lambda: os.unlink(os.path.join(root, "file")))
attempt("write log", lambda: open(os.path.join(log, "new.log"), "a").write("line"))
attempt("remove log", lambda: os.unlink(os.path.join(log, "new.log")))
attempt("remove socket", lambda: os.unlink(os.path.join(run, "socket")))
attempt("read beside the socket", lambda: open(os.path.join(run, "other")))
attempt("run", lambda: subprocess.run(["/bin/true"]))
attempt("connect", lambda: socket.create_connection(("127.0.0.1", int(port))))
import zipapp
print("import yes")
"""


def confined(root: Path, log: Path, run: Path, port: int) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", CONFINED, str(root), str(log), str(run), str(port)],
        capture_output=True,
        text=True,
        check=True,
    )
    if done.stdout == "no Landlock\n":
        pytest.skip("the kernel has no Landlock")
    return dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())


def test_a_confined_process_reads_the_root_and_writes_its_log(tmp_path: Path) -> None:
    root, log, run = tmp_path / "root", tmp_path / "log", tmp_path / "run"
    for directory in (root, log, run):
        directory.mkdir()
    (root / "file").write_text("content")
    (run / "socket").touch()
    (run / "other").touch()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = confined(root, log, run, listener.getsockname()[1])
    network = found.pop("connect")
    assert network in {"PermissionError", "yes"}  # from Linux 6.7 on
    assert found == {
        "read inside": "yes",
        "list inside": "yes",
        "read outside": "PermissionError",
        "list outside": "PermissionError",
        "write inside": "PermissionError",
        "remove inside": "PermissionError",
        "write log": "yes",
        "remove log": "PermissionError",
        "remove socket": "yes",
        "read beside the socket": "PermissionError",
        "run": "PermissionError",
        "import": "yes",
    }


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}


@pytest.fixture
def site() -> Iterator[Path]:
    """Where every user can read."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        root.chmod(0o755)
        (root / "index.html").write_text("home " * 1000)
        (root / "sub").mkdir()
        (root / "sub" / "file.txt").write_text("text")
        yield root


def test_knot_serves_confined_and_lacks_nothing(site: Path, tmp_path: Path) -> None:
    """Whatever is loaded late has to be there still."""
    log = tmp_path / "access.log"
    with serving(str(site), "--listing", "--log-file", str(log)) as (process, url):
        if not landlock_is_there(process.pid):
            pytest.skip("the kernel has no Landlock")

        def fetch(path: str, **fields: str) -> tuple[int, bytes]:
            names = {name.replace("_", "-"): value for name, value in fields.items()}
            request = urllib.request.Request(url + path, headers=names)
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read()

        home = (site / "index.html").read_bytes()
        assert fetch("/") == (200, home)
        assert gzip.decompress(fetch("/", Accept_Encoding="gzip")[1]) == home
        for coding in ("br", "zstd"):
            assert fetch("/", Accept_Encoding=coding)[1] != home
        assert fetch("/", Range="bytes=0-3,10-13")[0] == 206
        assert b"file.txt" in fetch("/sub/")[1]
        assert b'"file.txt"' in fetch("/sub/", Accept="application/json")[1]
        (site / "new.html").write_text("new")
        assert fetch("/new.html") == (200, b"new")
        log.rename(tmp_path / "old.log")
        process.send_signal(signal.SIGUSR1)
        asked = 0
        while not log.exists():
            fetch("/sub/file.txt")
            asked += 1
            assert asked < 10_000
        process.terminate()
        _, err = process.communicate(timeout=20)
        assert err == ""


def landlock_is_there(pid: int) -> bool:
    return status_of(pid)["NoNewPrivs"] == "1"


def test_links_that_may_lead_anywhere_and_a_sandbox_do_not_go_together(
    site: Path, tmp_path: Path
) -> None:
    (tmp_path / "far.txt").write_text("far")
    (site / "far.txt").symlink_to(tmp_path / "far.txt")
    options = [str(site), "--follow-symlinks"]
    with serving(*options) as (_, url), urllib.request.urlopen(f"{url}/far.txt") as answer:
        assert answer.read() == b"far"


def test_without_a_sandbox_nothing_is_given_up(site: Path) -> None:
    with serving(str(site), "--no-sandbox") as (process, _):
        assert status_of(process.pid)["NoNewPrivs"] == "0"


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@needs_root
@pytest.mark.parametrize("workers", [(), ("--workers", "1")])
def test_another_user_serves(site: Path, workers: tuple[str, ...]) -> None:
    nobody = pwd.getpwnam("nobody")
    with serving(str(site), *workers, "--user", "nobody") as (process, url):
        pid = process.pid
        if workers:
            (pid,) = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        status = status_of(pid)
        assert set(status["Uid"].split()) == {str(nobody.pw_uid)}
        assert set(status["Gid"].split()) == {str(nobody.pw_gid)}
        assert "0" not in status["Groups"].split()
        with urllib.request.urlopen(url) as answer:
            assert answer.read().startswith(b"home")


def test_a_user_that_is_not_there_is_an_error(site: Path) -> None:
    done = subprocess.run(
        [*KNOT, "serve", str(site), "--port", "0", "--user", "nemo-0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "knot: there is no user called nemo-0\n"


def test_to_be_who_one_is_needs_no_privilege() -> None:
    become(account(pwd.getpwuid(os.geteuid()).pw_name))


def test_a_manager_that_takes_nothing_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notify"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
    ):
        manager.bind(str(path))
        other.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                other.sendto(b"x", str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        sandbox.notify("READY=1")
