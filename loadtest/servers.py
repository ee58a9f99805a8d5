"""How `bench_knot` starts Knot, nginx and their peers, each on the first core.

A server has a directory of its own while it runs, for its configuration, its log and what it says
on standard error; where it does not start, that is the message.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from loadtest.knot_cases import Case, mix_sizes

PATIENCE: Final = 15
"""Seconds for a server to start, and to end."""

NGINX: Final = """
daemon off; worker_processes 1; pid {run}/nginx.pid; error_log stderr error;
events {{ worker_connections {connections}; }}
http {{
  sendfile on; tcp_nopush on; open_file_cache max={open_files};
  log_format common '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent';
  access_log {access_log};
  keepalive_requests 1000000000; types {{ text/html html; image/png png; }}
  client_body_temp_path {run}; proxy_temp_path {run}; fastcgi_temp_path {run};
  uwsgi_temp_path {run}; scgi_temp_path {run};
  server {{ listen 127.0.0.1:{port} backlog=4096; root {root}; }}
}}
"""
NGINX_DEFAULTS: Final = {"connections": "4096", "open_files": "10000", "access_log": "off"}


@dataclass(frozen=True)
class Place:
    """Where a server is to run, and for which case."""

    case: Case
    root: Path
    run: Path
    port: int

    def fill(self, option: str) -> str:
        """An option of the case with its placeholders replaced."""
        return option.format(run=self.run, tenth=sum(mix_sizes()) // 10)


@dataclass(frozen=True)
class Server:
    """A server that can be started."""

    name: str
    command: Callable[[Place], list[str]]
    version: str = ""
    prefix: str = ""
    """What its paths begin with."""
    environment: Mapping[str, str] | None = None

    @property
    def label(self) -> str:
        return f"{self.name} {self.version}".strip()


# -- the servers --------------------------------------------------------------------------------


def knot(driver: str, name: str) -> Server:
    def command(place: Place) -> list[str]:
        serve = [sys.executable, "-m", "knot.cli", "serve", str(place.root)]
        return [*serve, "--port", str(place.port), *map(place.fill, place.case.knot)]

    return Server(name, command, environment={"TAME_DRIVER": driver})


def nginx() -> Server | None:
    """nginx, unless it is not installed."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        return None

    def command(place: Place) -> list[str]:
        settings = {name: place.fill(value) for name, value in place.case.nginx.items()}
        config = place.run / "nginx.conf"
        config.write_text(
            NGINX.format(
                run=place.run, root=place.root, port=place.port, **(NGINX_DEFAULTS | settings)
            )
        )
        return [program, "-c", str(config), "-p", str(place.run)]

    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
    return Server("nginx", command, said.strip().rpartition("/")[2])


def http_server(place: Place) -> list[str]:
    serve = [sys.executable, "-m", "http.server", "--protocol", "HTTP/1.1"]
    return [*serve, "--bind", "127.0.0.1", "--directory", str(place.root), str(place.port)]


def of_module(name: str) -> Callable[[Place], list[str]]:
    """One of the programs in `knot_peers`."""
    module = [sys.executable, "-m", "loadtest.knot_peers", name]
    return lambda place: [*module, str(place.root), str(place.port)]


GRANIAN: Final = "--interface asginl --loop uvloop --http 1 --no-ws --backlog 4096 --no-log"


def granian(place: Place) -> list[str]:
    serve = [sys.executable, "-m", "granian", *GRANIAN.split(), "--port", str(place.port)]
    static = ["--static-path-mount", str(place.root)]
    return [*serve, *static, "loadtest.knot_peers:granian_application"]


PEERS: Final = {
    # name: (package whose version is told, command, what paths begin with)
    "aiohttp": ("aiohttp", of_module("aiohttp"), ""),
    "Starlette on uvicorn": ("uvicorn", of_module("starlette"), ""),
    "Granian": ("granian", granian, "/static"),
}


def peers() -> tuple[list[Server], list[str]]:
    """The peers that are installed, and the names of those that are not."""
    found, missing = [Server("http.server", http_server, platform.python_version())], []
    for name, (package, command, prefix) in PEERS.items():
        try:
            found.insert(-1, Server(name, command, version(package), prefix))
        except PackageNotFoundError:
            missing.append(name)
    return found, missing


# -- running them -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    server: Server
    pid: int
    port: int

    def path(self, file: str) -> str:
        return f"{self.server.prefix}/{file}"


@contextmanager
def started(server: Server, case: Case, root: Path) -> Iterator[Running]:
    """The server on a free port of the first core, until the block ends; it has answered once."""
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory)
        run.chmod(0o755)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        with open(run / "stderr", "wb") as stderr:
            process = subprocess.Popen(
                ["taskset", "-c", "0", *server.command(Place(case, root, run, port))],
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                cwd=run,  # no knot.toml from here
                env={**os.environ, **(server.environment or {})},
            )
        try:
            running = Running(server, process.pid, port)
            if not wait_until_it_answers(process, running):
                sys.exit(f"{server.name} does not start:\n{(run / 'stderr').read_text()}")
            yield running
        finally:
            end(process)


def wait_until_it_answers(process: subprocess.Popen[bytes], running: Running) -> bool:
    give_up = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < give_up:
        client = HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE)
        try:
            client.request("GET", running.path("1k.html"), headers={"Connection": "close"})
            return client.getresponse().read() != b""
        except (OSError, HTTPException):
            time.sleep(0.01)
        finally:
            client.close()
    return False


def end(process: subprocess.Popen[bytes]) -> None:
    """End the server, and what it leaves behind where it does not end by itself."""
    members = family(process.pid) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        for member in members:
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        process.wait()


def family(pid: int) -> list[int]:
    """The process, its children and theirs."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in family(int(child)))]
