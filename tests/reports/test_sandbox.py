"""What a process needs late is loaded before the sandbox, which could forbid it."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import pytest
from serving import SERVING, plain_environment
from speaking_http2 import Connected

LATE = """
import json, os, sys
late, confined = [], False

def hook(event, arguments):
    if confined and event == "import":
        late.append(arguments[0])
    elif confined and event == "open" and not arguments[2] & os.O_PATH:
        late.append(os.path.basename(str(arguments[0])))

sys.addaudithook(hook)
import knot.cli, knot.process.sandbox
confine = knot.process.sandbox.confine

def then_look(places):
    global confined
    confined = confine(places) or confined
    return confined

knot.process.sandbox.confine = then_look
try:
    knot.cli.main(sys.argv[1:], prog_name="knot")
finally:
    confined = False
    print(json.dumps(late))
"""
"""Knot, which says in the end what it has imported and opened since it was confined."""


def late(site: Path, options: tuple[str, ...], *, http_2: bool = False) -> list[str]:
    """What is loaded late for every kind of answer."""
    log = site / "access.log"
    command = [sys.executable, "-P", "-c", LATE, "serve", str(site), "--port", "0"]
    command += ["--listing", "--log", "json", "--log-file", str(log), *options]
    tls = bool({"--cert", "--tls-self-signed"} & set(options))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=plain_environment()
    ) as process:
        assert process.stdout is not None
        try:
            found = SERVING.fullmatch(process.stdout.readline())
            assert found is not None
            port = int(found[1].rpartition(":")[2])
            if "--admin" in options:
                ask_admin(int(process.stdout.readline().rpartition(":")[2].partition("/")[0]))
            status = Path(f"/proc/{process.pid}/status").read_text()
            if "NoNewPrivs:\t1" not in status:
                pytest.skip("the kernel has no Landlock")
            ask_all(port, tls=tls)
            if http_2:
                ask_http_2(port)
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                    assert "NoNewPrivs:\t1" in (task / "status").read_text()
            log.rename(site / "old.log")
            process.send_signal(signal.SIGUSR1)
            while not log.exists():
                ask(port, tls=tls, path="/sub/")
        finally:
            process.terminate()
        *_, last = process.stdout.read().splitlines()
    assert process.returncode == 0
    opened: list[str] = json.loads(last)
    opened.remove("access.log")  # the new one
    # A directory of the site that is listed, and a certificate that was just made is read again.
    return [path for path in opened if path not in ("b'.'", "localhost.pem")]


def anyone() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def ask(port: int, *, tls: bool, path: str = "/", fields: Mapping[str, str] = {}) -> int:
    client = HTTPConnection("127.0.0.1", port, timeout=20)
    if tls:
        client = HTTPSConnection("127.0.0.1", port, timeout=20, context=anyone())
    with closing(client):
        client.request("GET", path, headers=dict(fields))
        answer = client.getresponse()
        answer.read()
        return answer.status


def ask_all(port: int, *, tls: bool) -> None:
    for coding in ("gzip", "br", "zstd"):
        assert ask(port, tls=tls, fields={"Accept-Encoding": coding}) == 200
    assert ask(port, tls=tls, fields={"Range": "bytes=0-3,2000-2003"}) == 206
    assert ask(port, tls=tls, fields={"If-Modified-Since": "Sat, 29 Oct 1994 19:43:31 GMT"}) == 200
    assert ask(port, tls=tls, path="/sub/", fields={"Accept": "application/json"}) == 200
    assert ask(port, tls=tls, path="/%E2%82%AC") == 404
    assert ask(port, tls=tls, path="/big.bin") == 200
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(b"no request\xff\r\n\r\n")
        while client.recv(1 << 16):
            pass


def ask_http_2(port: int) -> None:
    context = anyone()
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection(("127.0.0.1", port), timeout=20)
    with Connected(context.wrap_socket(plain, server_hostname="localhost")) as client:
        stream = client.ask(b"/big.bin", (), method=b"GET", host=b"localhost")
        client.until_satisfied()
        assert client.answers[stream].status == 200


def ask_admin(port: int) -> None:
    for path in ("/metrics", "/blocked", "/health", "/ready", "/none"):
        assert ask(port, tls=False, path=path) == (404 if path == "/none" else 200)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text("home " * 1000)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("text")
    (tmp_path / "big.bin").write_bytes(bytes(3 << 20))
    return tmp_path


@pytest.mark.parametrize("name", ["events", "threads", "asyncio", "greenlets"])
def test_nothing_is_loaded_late(site: Path, name: str) -> None:
    if name == "greenlets":
        pytest.importorskip("gevent", reason="gevent is not installed")
    assert late(site, ("--model", name)) == []


def test_nothing_is_loaded_late_for_what_was_asked_for(
    site: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("trustme", "h2", "bcrypt", "prometheus_client"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    options = ("--tls-self-signed", "--admin", "127.0.0.1:0", "--max-rate", "1000")
    options += ("--trust", "127.0.0.2", "--proxy-protocol", "--max-connections-per-client", "99")
    assert late(site, options, http_2=True) == []


# -- the end of a thread ---------------------------------------------------------------------------

ENDING = """
import ctypes, os, sys, threading
from knot.process.sandbox import confine
tasks = os.open("/proc/self/task", os.O_RDONLY)
if not confine({}):
    print("no Landlock"); sys.exit()
libc = ctypes.CDLL(None)
for _ in range(50):
    # As Python ends a daemon thread that wants to go on while the process ends.
    threading.Thread(target=libc.pthread_exit, args=(None,), daemon=True).start()
while len(os.listdir(tasks)) > 1:
    pass
print("ended", flush=True)
os._exit(0)
"""


def test_fifty_threads_end_in_the_sandbox() -> None:
    """glibc loads a library for that, and ends the process if it cannot."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", ENDING], capture_output=True, text=True, timeout=20
    )
    if done.stdout == "no Landlock\n":
        pytest.skip("the kernel has no Landlock")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")
