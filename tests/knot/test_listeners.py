"""Where Knot listens: at a path, on what it was started with, on what systemd has opened."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from serving import KNOT, SERVING, plain_environment, serving

from knot.process.listeners import Listeners, listen
from knot.process.systemd import FIRST
from knot.process.unix_sockets import listen_at

ASK = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("home")
    return tmp_path / "site"


def ask(client: socket.socket) -> bytes:
    with client:
        client.settimeout(20)
        client.sendall(ASK)
        found = b""
        while piece := client.recv(4096):
            found += piece
        return found


def ask_at(path: Path) -> bytes:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    return ask(client)


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_a_path(site: Path, tmp_path: Path, workers: tuple[str, ...]) -> None:
    path = tmp_path / "knot.socket"
    with serving(str(site), *workers, listens=("--unix", str(path))) as (process, where):
        assert where == f"unix:{path}"
        assert ask_at(path).endswith(b"home")
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        assert not path.exists()


def test_a_client_at_a_path_stands_in_the_log(site: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "knot.socket", tmp_path / "log"
    listens = ("--unix", str(path), "--log-file", str(log))
    with serving(str(site), listens=listens):
        ask_at(path)
    assert log.read_text().startswith("unix: - - [")


def test_a_socket_that_was_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "knot.socket"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    with listen_at(str(path)) as listener:
        assert listener.getsockname() == str(path)


def test_a_socket_that_is_in_use_is_not(tmp_path: Path) -> None:
    path = tmp_path / "knot.socket"
    with listen_at(str(path)), pytest.raises(OSError, match="in use"):
        listen_at(str(path))
    assert not path.exists()


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(OSError, match="in use"):
        listen_at(str(path))
    assert path.read_text() == "mine"


def test_a_path_that_cannot_be_is_an_error_of_one_line(site: Path, tmp_path: Path) -> None:
    path = tmp_path / "no" / "such" / "directory"
    done = subprocess.run(
        [*KNOT, "serve", str(site), "--unix", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"knot: cannot listen on {path}: No such file or directory\n"


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_an_inherited_descriptor(site: Path, workers: tuple[str, ...]) -> None:
    with listen("127.0.0.1", 0) as listener:
        fd, address = listener.fileno(), listener.getsockname()
        listens = ("--fd", str(fd))
        with serving(str(site), *workers, listens=listens, pass_fds=(fd,)) as (_, url):
            assert url == f"http://127.0.0.1:{address[1]}"
            assert ask(socket.create_connection(address)).endswith(b"home")


def test_a_descriptor_that_does_not_listen_is_refused(site: Path) -> None:
    with socket.socket() as deaf:
        fd = deaf.fileno()
        done = subprocess.run(
            [*KNOT, "serve", str(site), "--fd", str(fd)],
            pass_fds=(fd,),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "does not listen" in done.stderr


def start_as_systemd_does(
    site: Path, count: str, *options: str, hosts: tuple[str, ...] = ("127.0.0.1",)
) -> subprocess.Popen[str]:
    """With sockets as descriptors 3, 4 …, and the variables that say so."""
    with closing(Listeners(listen(host, 0) for host in hosts)) as listeners:
        fds = [listener.fileno() for listener in listeners]
        moved = "; ".join(f"exec {FIRST + each}<&{fd}" for each, fd in enumerate(fds))
        shell = f'{moved}; LISTEN_PID=$$ LISTEN_FDS={count} exec "$@"'
        return subprocess.Popen(
            ["bash", "-c", shell, "knot", *KNOT, "serve", str(site), *options],
            pass_fds=fds,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=plain_environment(),
        )


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_a_socket_of_systemd(site: Path, workers: tuple[str, ...]) -> None:
    process = start_as_systemd_does(site, "1", *workers)
    try:
        assert process.stdout is not None
        found = SERVING.fullmatch(process.stdout.readline())
        assert found is not None
        host, port = found[1].removeprefix("http://").split(":")
        assert ask(socket.create_connection((host, int(port)))).endswith(b"home")
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_several_sockets_of_systemd(site: Path) -> None:
    process = start_as_systemd_does(site, "2", hosts=("127.0.0.1", "::1"))
    try:
        assert process.stdout is not None
        found = re.findall(r"http://(\S+):(\d+)", process.stdout.readline())
        assert [host for host, _ in found] == ["127.0.0.1", "[::1]"]
        for host, port in found:
            assert ask(socket.create_connection((host.strip("[]"), int(port)))).endswith(b"home")
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.mark.parametrize(
    ("count", "said"),
    [
        ("x", "LISTEN_FDS is 'x'"),
        ("-1", "LISTEN_FDS is '-1'"),
        ("99999999", "LISTEN_FDS is '99999999'"),
        ("2000000", "descriptor "),
    ],
)
def test_a_number_of_sockets_that_cannot_be_is_an_error_of_one_line(
    site: Path, count: str, said: str
) -> None:
    process = start_as_systemd_does(site, count)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert err.startswith("knot: cannot listen on the sockets of systemd: ")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_the_service_manager_is_told(site: Path, tmp_path: Path, workers: tuple[str, ...]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        with serving(str(site), *workers, env=environment) as (process, _):
            assert manager.recv(100) == b"READY=1"
            if workers:
                process.send_signal(signal.SIGHUP)
                assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
                assert manager.recv(100) == b"READY=1"
                process.send_signal(signal.SIGTERM)
                assert manager.recv(100) == b"STOPPING=1"


def test_sockets_may_be_shared_when_they_say_so() -> None:
    with listen("127.0.0.1", 0, shared=True) as first:
        port = first.getsockname()[1]
        with listen("127.0.0.1", port, shared=True):
            pass
        with pytest.raises(OSError, match="in use"):
            listen("127.0.0.1", port)


def test_nothing_is_left_open_by_a_failure(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        listen_at(str(tmp_path / "no" / "where"))
    with pytest.raises(OSError, match="in use"):
        listen_at(str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before
