"""System calls are most of what a request costs: so many, and no more."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from serving import KNOT, connect, get, until_closed

CALL = re.compile(r"^(?:\d+ +)?(\w+)\(", re.MULTILINE)

POLLS = {"epoll_wait", "epoll_pwait", "epoll_pwait2", "epoll_ctl", "io_uring_enter", "futex"}
"""Calls that serve all the connections that are ready at once."""

REQUESTS = 50


Connect = Callable[[int], socket.socket]


def traced(
    tmp_path: Path, client: Callable[[Connect, int], None], connect: Connect, *options: str
) -> Counter[str]:
    """How often each system call was made between two requests for a file that is not there."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_bytes(b"x" * 1024)
    log = tmp_path / "trace"
    command = [strace, "-f", "-qq", "-s", "20", "-e", "signal=none", "-o", str(log)]
    command += [*KNOT, "serve", str(tmp_path / "site"), "--port", "0"]
    command += options
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        assert process.stdout
        line = process.stdout.readline()
        try:
            port = int(line.split()[3].rpartition(":")[2])
            client(connect, port)  # from here on everything has been opened and looked at
            ask_for(b"/first-mark", connect, port)
            client(connect, port)
            ask_for(b"/second-mark", connect, port)
        finally:
            for child in (
                Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            ):
                os.kill(int(child), signal.SIGTERM)
            process.wait(timeout=20)
    _, between, _ = re.split(r'^.*"(?:first|second)-mark".*$', log.read_text(), flags=re.MULTILINE)
    # What else happens once a second: the files are looked at again, the clients are counted.
    return Counter(CALL.findall(between))


def ask_for(path: bytes, connect: Connect, port: int) -> None:
    with connect(port) as connection:
        connection.sendall(get(path, b"Connection: close\r\n"))
        until_closed(connection)


def kept_alive(connect: Connect, port: int) -> None:
    with connect(port) as connection:
        for _ in range(REQUESTS):
            connection.sendall(get(b"/"))
            while not connection.recv(65536).endswith(b"x"):
                pass


def one_each(connect: Connect, port: int) -> None:
    for _ in range(REQUESTS):
        with connect(port) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(get(b"/", b"Connection: close\r\n"))
            until_closed(connection)


def test_a_request_on_a_kept_connection_is_a_read_and_a_write(tmp_path: Path) -> None:
    calls = traced(tmp_path, kept_alive, connect)
    others = sum(count for call, count in calls.items() if call not in POLLS)
    assert calls["read"] >= REQUESTS
    assert others <= 2 * REQUESTS + 20, calls  # 20 for the connection itself, and for the second


def test_a_request_with_a_connection_of_its_own_is_four_calls(tmp_path: Path) -> None:
    calls = traced(tmp_path, one_each, connect)
    others = sum(count for call, count in calls.items() if call not in POLLS)
    polls = sum(count for call, count in calls.items() if call in POLLS)
    in_vain = calls["accept4"] - REQUESTS  # the last of each turn, and turns are the machine's
    assert in_vain <= polls + 20, calls
    assert others - in_vain <= 4 * REQUESTS + 20, calls  # accept, read, write, close


def test_through_tls_a_request_is_a_read_and_a_write_too(tmp_path: Path) -> None:
    """Where a record is as long as a segment; OpenSSL by itself would read each in two calls."""
    authority = trustme.CA()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    file = str(tmp_path / "localhost.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(file)

    def connect_securely(port: int) -> ssl.SSLSocket:
        return context.wrap_socket(connect(port), server_hostname="localhost")

    calls = traced(tmp_path, kept_alive, connect_securely, "--cert", file)
    others = sum(count for call, count in calls.items() if call not in POLLS | {"getpid"})
    assert calls["writev"] >= REQUESTS
    assert others <= 2 * REQUESTS + 40, calls
