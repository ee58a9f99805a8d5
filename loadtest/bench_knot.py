"""CPU per request: Knot on each driver beside nginx.  ``make bench-knot``

Each server runs on one core and wrk on the other.  A round gives every server its turn, because
the speed of a shared machine drifts by a factor of two within minutes; what is compared is the
ratio of medians over the rounds.  CPU per request is the user and system time of all of a
server's processes over the requests that wrk counted: it holds also where the load generator is
the one that is out of breath.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final

from tabulate import tabulate

from loadtest.memory import private_bytes

ROUNDS: Final = 5
SECONDS: Final = 2
CONNECTIONS: Final = 64
DRIVERS: Final = ("uvloop", "asyncio", "epoll")

CASES: Final = {
    # name: (file, bytes, header of wrk or none)
    "1 KiB, kept alive": ("1k.html", 1024, ""),
    "100 KiB, kept alive": ("100k.bin", 100 * 1024, ""),
    "1 KiB, a connection each": ("1k.html", 1024, "Connection: close"),
}

NGINX: Final = """
daemon off; worker_processes 1; pid {work}/nginx.pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; open_file_cache max=10000;
  keepalive_requests 1000000000; types {{ text/html html; }}
  client_body_temp_path {work}; proxy_temp_path {work}; fastcgi_temp_path {work};
  uwsgi_temp_path {work}; scgi_temp_path {work};
  server {{ listen 127.0.0.1:{port} backlog=4096; root {root}; }}
}}
"""


def main() -> None:
    wrk = shutil.which("wrk")
    if wrk is None:
        sys.exit("bench-knot needs wrk: install the Debian package wrk")
    with tempfile.TemporaryDirectory() as work:
        os.chmod(work, 0o755)
        root = Path(work, "root")
        root.mkdir()
        for file, size, _ in CASES.values():
            (root / file).write_bytes(b"x" * size)
        servers: dict[str, Callable[[int], list[str]]] = {
            f"knot, {driver}": lambda port: knot(root, port) for driver in DRIVERS
        }
        nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
        if nginx is not None:
            servers["nginx"] = lambda port: nginx_command(nginx, Path(work), root, port)
        print(f"{ROUNDS} rounds of {SECONDS} s, {CONNECTIONS} connections, wrk on the other core.")
        print(f"Python {platform.python_version()}, {version(nginx) if nginx else 'no nginx'}.\n")
        if nginx is None:
            print("nginx is left out: install the Debian package nginx-light.\n")
        measured = measure(wrk, servers)
        print(table(measured))
        print("\nPrivate memory at start, after one request:\n")
        print(memory(servers))


def knot(root: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "knot.cli", "serve", str(root), "--port", str(port)]


def nginx_command(nginx: str, work: Path, root: Path, port: int) -> list[str]:
    config = work / "nginx.conf"
    config.write_text(NGINX.format(work=work, root=root, port=port))
    return [nginx, "-c", str(config), "-p", str(work)]


def version(nginx: str) -> str:
    ran = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True)
    return ran.stderr.strip().removeprefix("nginx version: ")


# -- measuring ---------------------------------------------------------------------------------

Servers = dict[str, Callable[[int], list[str]]]
Row = tuple[float, float, float]  # CPU seconds per request, requests per second, how busy


def measure(wrk: str, servers: Servers) -> dict[tuple[str, str], list[Row]]:
    """Every case with every server, round by round."""
    rows: dict[tuple[str, str], list[Row]] = {}
    for _ in range(ROUNDS):
        for case, (file, _, header) in CASES.items():
            for name, command in servers.items():
                with started(name, command) as (process, port):
                    load(wrk, port, file, header, 0.3)
                    rows.setdefault((case, name), []).append(one(wrk, process, port, file, header))
    return rows


def one(wrk: str, process: subprocess.Popen[bytes], port: int, file: str, header: str) -> Row:
    before, began = cpu_seconds(process.pid), time.monotonic()
    requests = load(wrk, port, file, header, SECONDS)
    cpu, took = cpu_seconds(process.pid) - before, time.monotonic() - began
    return cpu / requests, requests / took, cpu / took


def load(wrk: str, port: int, file: str, header: str, seconds: float) -> int:
    """The requests that were answered; an answer that is no 200 ends the benchmark."""
    command = ["taskset", "-c", "1", wrk, "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s"]
    if header:
        command += ["-H", header]
    command.append(f"http://127.0.0.1:{port}/{file}")
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in out:
        sys.exit(f"answers that are no 200:\n{out}")
    counted = re.search(r"(\d+) requests in", out)
    assert counted
    return int(counted[1])


@contextmanager
def started(
    name: str, command: Callable[[int], list[str]]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The server on a free port of the first core, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    driver = name.partition(", ")[2] or "uvloop"
    process = subprocess.Popen(
        ["taskset", "-c", "0", *command(port)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TAME_DRIVER": driver},
    )
    try:
        wait_until_it_listens(process, port)
        yield process, port
    finally:
        process.terminate()
        process.wait()


def wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(500):
        if process.poll() is not None:
            sys.exit("the server ended at its start; its message is above")
        try:
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"GET /1k.html HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                while client.recv(65536):
                    pass
                return
        except ConnectionError:
            time.sleep(0.01)
    sys.exit("the server does not listen after 5 s")


def family(pid: int) -> list[int]:
    """The process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(int(child) for child in children)]


def cpu_seconds(pid: int) -> float:
    """User and system time of a server's processes."""
    ticks = 0
    for member in family(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


# -- reporting ---------------------------------------------------------------------------------


def table(measured: dict[tuple[str, str], list[Row]]) -> str:
    lines = []
    for (case, name), rows in measured.items():
        cpu = sorted(row[0] * 1e6 for row in rows)
        reference = measured.get((case, "nginx"))
        ratio = f"{median(cpu) / median(r[0] * 1e6 for r in reference):.2f}" if reference else "-"
        busy = median(row[2] for row in rows)
        lines.append(
            [
                case,
                name,
                f"{median(cpu):.1f}",
                f"{cpu[0]:.1f} to {cpu[-1]:.1f}",
                ratio,
                f"{median(row[1] for row in rows):,.0f}",
                f"{busy:.0%}" + (" (generator-bound)" if busy < 0.9 else ""),
            ]
        )
    heads = ["case", "server", "CPU µs/request", "spread", "of nginx", "requests/s", "server busy"]
    return tabulate(lines, heads, "github", disable_numparse=True)


def memory(servers: Servers) -> str:
    lines = []
    for name, command in servers.items():
        with started(name, command) as (process, _):
            private = sum(private_bytes(member) for member in family(process.pid))
            lines.append([name, f"{private / 2**20:.1f} MiB"])
    return tabulate(lines, ["server", "private"], "github", disable_numparse=True)


if __name__ == "__main__":
    main()
