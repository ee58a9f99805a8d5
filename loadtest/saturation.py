"""wrk against one server, for one file or a script: as many requests as the server can answer.

Benchmarks and attacks use it.  The experiment's generators do more: they pause, keep a rate, check
every byte.  wrk runs on the second core; the server is expected on the first.
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Final, NamedTuple

from loadtest.measure import sockets
from loadtest.processes import pinned
from loadtest.servers import Running

WARM_UP: Final = 1
"""Seconds, the shortest run of wrk."""
OWN_FILES: Final = 200
"""Descriptors of this process and of wrk that are not connections."""


class Answered(NamedTuple):
    """What a run of wrk has shown."""

    requests: int
    errors: Counter[str]
    """Of sockets, by wrk's own kinds."""
    held: int
    """Connections that the server had in the middle of the run."""


def affordable(connections: int) -> int:
    """So many connections, or fewer where a process cannot have the descriptors."""
    return min(connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OWN_FILES)


def saturate(
    running: Running,
    file: str,
    seconds: int,
    *,
    connections: int,
    headers: Sequence[str] = (),
    script: str = "",
) -> Answered:
    """Run wrk on `file`, or on what the Lua `script` asks for.

    Exits if any answer has a status of 400 or above.
    """
    command = ["wrk", "-t1", f"-c{affordable(connections)}", f"-d{seconds}s"]
    for header in headers:
        command += ["-H", header]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as lua:
        if script:
            lua.write(script)
            lua.flush()
            command += ["-s", lua.name]
        command.append(f"{running.url}{running.path(file)}")
        idle = sockets(running.pid)
        with subprocess.Popen(pinned(command, 1), stdout=subprocess.PIPE, text=True) as wrk:
            time.sleep(seconds / 2)
            held = sockets(running.pid) - idle
            out, _ = wrk.communicate()
    counted = re.search(r"(\d+) requests in", out)
    if counted is None or counted[1] == "0" or "Non-2xx" in out:
        sys.exit(f"{running.server.name} does not answer {file} as it should:\n{out}")
    return Answered(int(counted[1]), errors(out), held)


def errors(out: str) -> Counter[str]:
    """What wrk reports after "Socket errors:", as `connect 0, read 12, write 0, timeout 3`."""
    line = re.search(r"Socket errors: (.*)", out)
    kinds = re.findall(r"(\w+) (\d+)", line[1]) if line else []
    return Counter({kind: int(number) for kind, number in kinds if number != "0"})


def check_file(client: HTTPConnection, running: Running, file: str, root: Path) -> str:
    """Ask for a file once: the server has it in its cache then.  The result is its ETag.

    Exits unless the answer has the bytes of the file.
    """
    client.request("GET", running.path(file))
    response = client.getresponse()
    if response.read() != (root / file).read_bytes():
        sys.exit(
            f"{running.server.name} answers {file} with other bytes than the file has, and the"
            f" status {response.status}"
        )
    return response.headers.get("ETag", "")
