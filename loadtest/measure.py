"""What a server uses, as Linux reports it: CPU, memory, system calls and context switches.

A server is all of its processes: the one that was started, its children and theirs.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from loadtest.memory import memory as smaps
from loadtest.memory import private_bytes
from loadtest.results import Memory

KERNEL_STACK: Final = 16 * 1024
"""Bytes of a thread's stack in the kernel, on x86-64 and arm64 (THREAD_SIZE)."""

EVENTS: Final = "context-switches,raw_syscalls:sys_enter"
PERF: Final = "perf"
CLOSE_TIMEOUT: Final = 15
"""Seconds for a server to close the connections that a load has left."""
STEADY: Final = 64 * 1024
"""Bytes by which two readings of an idle server may differ."""
SETTLE_TIMEOUT: Final = 3.0
MAX_STRANGERS: Final = 0.1
"""Share of a core: where other processes took more, the machine was not quiet."""


# -- CPU ----------------------------------------------------------------------------------------


def family(pid: int) -> list[int]:
    """The process, its children and theirs."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in family(int(child)))]


def cpu_seconds(pid: int) -> float:
    """User and system time of a server's processes, including children that have ended."""
    ticks = 0
    for member in family(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def machine_seconds() -> float:
    """Time that the cores of the machine have worked, for any process, or were withheld.

    The latter (steal) is what a hypervisor gave to its other guests.
    """
    user, nice, system, _, _, interrupts, soft, steal = _machine()
    return user + nice + system + interrupts + soft + steal


def _machine() -> list[float]:
    line = Path("/proc/stat").read_text().split("\n", 1)[0]
    return [int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in line.split()[1:9]]


def own_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


class Watch:
    """What a server, and other processes, have used since this was created."""

    def __init__(self, pid: int | None = None) -> None:
        self.pid = pid
        self.began = time.monotonic()
        self.before = self._now()

    def _now(self) -> tuple[float, float]:
        server = cpu_seconds(self.pid) if self.pid else 0.0
        return server, machine_seconds() - own_seconds() - server

    def cpu(self) -> float:
        """CPU time of the server."""
        return self._now()[0] - self.before[0]

    def strangers(self) -> float:
        """Share of a core used by others than the server, this process and its children."""
        used = self._now()[1] - self.before[1]
        return max(0.0, used / self.seconds())

    def seconds(self) -> float:
        return time.monotonic() - self.began


# -- sockets and memory ---------------------------------------------------------------------


def sockets(pid: int) -> int:
    """Open sockets of a server's processes."""
    return sum(
        is_socket(entry.path)
        for member in family(pid)
        for entry in os.scandir(f"/proc/{member}/fd")
    )


def is_socket(path: str) -> bool:
    try:
        return os.readlink(path).startswith("socket:")
    except FileNotFoundError:
        return False  # it was closed just now


def wait_for_closing(pid: int, idle: int) -> None:
    """Wait until the server has closed the connections of a load: 10,000 take a while."""
    give_up = time.monotonic() + CLOSE_TIMEOUT
    while sockets(pid) > idle and time.monotonic() < give_up:
        time.sleep(0.02)


def memory(pid: int, connections: int) -> Memory:
    """What a server's processes hold now, with this number of connections."""
    members = family(pid)
    status = [_status(member) for member in members]

    def total(field: str) -> int:
        return sum(int(each[field].split()[0]) for each in status)

    threads = total("Threads")
    return Memory(
        connections=connections,
        threads=threads,
        rss=1024 * total("VmRSS"),
        virtual=1024 * total("VmSize"),
        pss=sum(smaps(member, "Pss") for member in members),
        private=sum(map(private_bytes, members)),
        kernel_stacks=threads * KERNEL_STACK,
        page_tables=1024 * total("VmPTE"),
    )


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":", 1) for line in lines)


def memory_at_rest(pid: int, connections: int) -> Memory:
    """The same once it is stable, or after `SETTLE_TIMEOUT`."""
    give_up = time.monotonic() + SETTLE_TIMEOUT
    last = memory(pid, connections)
    while time.monotonic() < give_up:
        time.sleep(0.1)
        now = memory(pid, connections)
        if abs(now.private - last.private) < STEADY and now.threads == last.threads:
            return now
        last = now
    return last


# -- counting -----------------------------------------------------------------------------------


class Counting:
    """What perf has counted in a server's processes and the threads that they have started."""

    switches = 0
    system_calls = 0


def cannot_count() -> str:
    """Why perf cannot count system calls here, and what to do; empty if it can."""
    if shutil.which(PERF) is None:
        return "perf is not installed: install the Debian package linux-perf"
    try:
        with counting(os.getpid()) as counted:
            os.getpid()
    except (OSError, ValueError) as error:
        return f"perf may not count system calls here: {error}"
    return "" if counted.system_calls else "perf counts no system calls here"


@contextmanager
def counting(pid: int) -> Iterator[Counting]:
    """Count during the block, which costs the server time: do not measure that time.

    Raises `OSError` or `ValueError` where perf cannot count.
    """
    counted = Counting()
    with tempfile.TemporaryFile("w+") as output:
        for last in (False, False, False, False, True):
            with attached(pid, output) as counts:
                if counts or last:
                    yield counted
                    break
            # One of the threads has ended before perf could attach to it.
        output.seek(0)
        report = output.read()
    for line in report.splitlines():
        value, _, name, *_ = [*line.split(","), "", ""]
        if name == "context-switches":
            counted.switches = int(value)
        elif name.endswith("sys_enter"):
            counted.system_calls = int(value)
    if not counted.system_calls:
        raise ValueError(report.strip() or "perf has no output")


@contextmanager
def attached(pid: int, output: IO[str]) -> Iterator[bool]:
    """Attach perf to the server; false if that failed.  `output` has its result after the block."""
    output.seek(0)
    output.truncate()
    perf = [PERF, "stat", "-x,", "-e", EVENTS, "-p", ",".join(map(str, family(pid)))]
    (commanded, command), (answer, answered) = os.pipe(), os.pipe()
    perf += ["--delay=-1", f"--control=fd:{commanded},{answered}"]
    ends = (commanded, answered)
    with subprocess.Popen(perf, stdout=subprocess.DEVNULL, stderr=output, pass_fds=ends) as process:
        for end in ends:
            os.close(end)
        try:
            with suppress(BrokenPipeError):
                os.write(command, b"enable\n")
            yield os.read(answer, 16) != b""
        finally:
            process.send_signal(signal.SIGINT)
            os.close(command)
            os.close(answer)
