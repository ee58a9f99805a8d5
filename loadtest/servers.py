"""Starting servers to measure: Knot, nginx and the other servers of Python.

While it runs, a server has its own directory for its configuration, its log and its standard error,
which becomes the message if it does not start.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from knot.process.spawn import python
from loadtest.measure import family
from loadtest.memory import private_bytes
from loadtest.processes import pinned

START_TIMEOUT: Final = 15
STOP_TIMEOUT: Final = 15

NGINX: Final = """
daemon off; {user}worker_processes {workers}; pid {run}/nginx.pid; error_log stderr error;
events {{ worker_connections {connections}; }}
http {{
  sendfile on; tcp_nopush on; open_file_cache max={open_files};
  log_format common '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent';
  access_log {access_log};
  keepalive_requests 1000000000; types {{ text/html html; image/png png; }}
  client_body_temp_path {run}; proxy_temp_path {run}; fastcgi_temp_path {run};
  uwsgi_temp_path {run}; scgi_temp_path {run};
  server {{ listen 127.0.0.1:{port} backlog=4096{tls}; root {root}; }}
}}
"""
NGINX_TLS: Final = (
    " ssl; ssl_certificate {0}; ssl_certificate_key {0}; ssl_protocols TLSv1.2 TLSv1.3"
)
NGINX_DEFAULTS: Final = {
    "workers": "1",
    "connections": "4096",
    "open_files": "10000",
    "access_log": "off",
}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a server is set up for, whichever server it is.

    In the options of Knot and the settings of nginx, `{run}` is the server's own directory.
    """

    file: str = "1k.html"
    """A file that it serves: it has started once it has answered with that."""
    tls: bool = False
    """Whether it serves over TLS, with a certificate of ECDSA P-256."""
    knot: tuple[str, ...] = ()
    """Options of Knot."""
    nginx: Mapping[str, str] = field(default_factory=dict)
    """Settings of nginx, where they are not `NGINX_DEFAULTS`."""


@dataclass(frozen=True)
class Place:
    """Where a server runs, and with which setup."""

    setup: Setup
    root: Path
    run: Path
    """Its own directory."""
    port: int

    @property
    def file(self) -> Path:
        return self.root / self.setup.file

    @property
    def certificate(self) -> Path:
        """Chain and key, if it serves over TLS."""
        return self.run / "localhost.pem"

    def fill(self, option: str) -> str:
        """An option of the setup with its placeholder replaced."""
        return option.format(run=self.run)


@dataclass(frozen=True)
class Server:
    """A server that can be started."""

    name: str
    command: Callable[[Place], list[str]]
    version: str = ""
    prefix: str = ""
    """The beginning of its paths."""
    environment: Mapping[str, str] | None = None
    stack: int = 0
    """Soft limit of the stack in bytes, which new threads reserve; 0 does not change it."""

    @property
    def label(self) -> str:
        """Name and version for a table, without Knot's version, which is that of this code."""
        return self.name if self.name.startswith("Knot") else f"{self.name} {self.version}".strip()

    def shown(self, setup: Setup) -> str:
        """The command as a user would type it, with DIR and RUN for the directories."""
        with tempfile.TemporaryDirectory() as run:
            command = self.command(Place(setup, Path("DIR"), Path(run), 8000))
        settings = [f"{name}={value}" for name, value in (self.environment or {}).items()]
        words = [*settings, *limited(command, self.stack)]
        return shlex.join(words).replace(sys.executable, "python").replace(run, "RUN")


UNCHECKED: Final = ssl.create_default_context()
UNCHECKED.check_hostname = False
UNCHECKED.verify_mode = ssl.CERT_NONE  # this program has made the certificate


class ServerError(Exception):
    """A server does not start; the message is its name and what it wrote to standard error."""


# -- the servers --------------------------------------------------------------------------------


def knot(
    name: str, *options: str, environment: Mapping[str, str] | None = None, stack: int = 0
) -> Server:
    def command(place: Place) -> list[str]:
        serve = python("-m", "knot.cli", "serve", str(place.root))
        serve += ["--cert", str(place.certificate)] if place.setup.tls else []
        return [*serve, "--port", str(place.port), *options, *map(place.fill, place.setup.knot)]

    return Server(name, command, version("knot-httpd"), environment=environment, stack=stack)


def nginx() -> Server | None:
    """None if nginx is not installed."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        return None

    def command(place: Place) -> list[str]:
        settings = {name: place.fill(value) for name, value in place.setup.nginx.items()}
        config = place.run / "nginx.conf"
        # By default its workers run as nobody, who cannot read directories of root.
        user = "user root; " if os.geteuid() == 0 else ""
        config.write_text(
            NGINX.format(
                user=user,
                run=place.run,
                root=place.root,
                port=place.port,
                tls=NGINX_TLS.format(place.certificate) if place.setup.tls else "",
                **(NGINX_DEFAULTS | settings),
            )
        )
        return [program, "-c", str(config), "-p", str(place.run)]

    shown = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
    return Server("nginx", command, shown.strip().rpartition("/")[2])


def http_server(place: Place) -> list[str]:
    serve = python("-m", "http.server", "--protocol", "HTTP/1.1")
    return [*serve, "--bind", "127.0.0.1", "--directory", str(place.root), str(place.port)]


def peer(name: str) -> Callable[[Place], list[str]]:
    """One of the programs in `loadtest.peers`."""
    module = python("-m", "loadtest.peers", name)
    return lambda place: [*module, str(place.root), str(place.port)]


GRANIAN: Final = "--interface asginl --loop uvloop --http 1 --no-ws --backlog 4096 --no-log"


def granian(place: Place) -> list[str]:
    serve = python("-m", "granian", *GRANIAN.split(), "--port", str(place.port))
    static = ["--static-path-mount", str(place.root)]
    return [*serve, *static, "loadtest.peers:granian_application"]


PEERS: Final = {
    # name: (package that has the version, command, beginning of paths)
    "aiohttp": ("aiohttp", peer("aiohttp"), ""),
    "Starlette on uvicorn": ("uvicorn", peer("starlette"), ""),
    "Granian": ("granian", granian, "/static"),
}


def null(root: Path | None = None) -> Server:
    """A server that answers with one file, or with the files below `root`."""

    def command(place: Place) -> list[str]:
        serve = python("-m", "loadtest.null_server", "--port", str(place.port))
        return [*serve, *(["--root", str(root)] if root else ["--file", str(place.file)])]

    return Server("null", command, version("knot-httpd"))


def peers() -> tuple[list[Server], list[str]]:
    """The other servers of Python that are installed, and the names of those that are not."""
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
    tls: bool = False

    def client(self) -> HTTPConnection:
        if not self.tls:
            return HTTPConnection("127.0.0.1", self.port, timeout=START_TIMEOUT)
        return HTTPSConnection("127.0.0.1", self.port, timeout=START_TIMEOUT, context=UNCHECKED)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def path(self, file: str) -> str:
        return f"{self.server.prefix}/{file}"

    def private(self) -> int:
        """Private bytes of all its processes."""
        return sum(map(private_bytes, family(self.pid)))


@contextmanager
def started(server: Server, setup: Setup, root: Path, core: int | None = 0) -> Iterator[Running]:
    """Run the server on a free port until the block ends; it has answered once.

    Raises `ServerError` if it does not start.
    """
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory)
        run.chmod(0o755)
        if setup.tls:
            make_certificate(run)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        with open(run / "stderr", "wb") as stderr:
            process = subprocess.Popen(
                pinned(limited(server.command(Place(setup, root, run, port)), server.stack), core),
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                cwd=run,  # where there is no knot.toml
                env={**os.environ, **(server.environment or {})},
            )
        try:
            running = Running(server, process.pid, port, setup.tls)
            if not wait_until_it_answers(process, running, setup.file):
                output = (run / "stderr").read_text(errors="replace").strip()
                raise ServerError(f"{server.name} does not start:\n{output}")
            yield running
        finally:
            end(process)


def make_certificate(run: Path) -> None:
    """Write `Place.certificate`."""
    import trustme

    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(str(run / "localhost.pem"))


def limited(command: list[str], stack: int) -> list[str]:
    return ["prlimit", f"--stack={stack}:", *command] if stack else command


def wait_until_it_answers(process: subprocess.Popen[bytes], running: Running, file: str) -> bool:
    give_up = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < give_up:
        client = running.client()
        try:
            client.request("GET", running.path(file), headers={"Connection": "close"})
            return client.getresponse().read() != b""
        except (OSError, HTTPException):
            time.sleep(0.01)
        finally:
            client.close()
    return False


def end(process: subprocess.Popen[bytes]) -> None:
    """End the server; if it does not end on SIGTERM, kill all its processes."""
    members = family(process.pid) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        for member in members:
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        process.wait()
