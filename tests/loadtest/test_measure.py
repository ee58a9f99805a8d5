"""What Linux tells about a process is what the process has done."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from loadtest.experiment.marks import (
    BEHIND,
    DROPPED,
    IDLE,
    LOADED,
    NEAR_NULL,
    SILENT,
    WRONG,
    Use,
    beside_null,
    marks,
)
from loadtest.experiment.rounds import GENERATOR_BOUND
from loadtest.measure import (
    KERNEL_STACK,
    Watch,
    cannot_count,
    counting,
    cpu_seconds,
    family,
    memory,
    sockets,
    wait_for_closing,
)
from loadtest.results import Cost, Load, Run


@contextmanager
def program(code: str) -> Iterator[subprocess.Popen[bytes]]:
    """Python that runs this, up to where it prints, and on when a line is written to it."""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            step(process, write=False)
            yield process
        finally:
            process.kill()


def step(process: subprocess.Popen[bytes], *, write: bool = True) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    if write:
        process.stdin.write(b"\n")
        process.stdin.flush()
    assert process.stdout.readline()


BURN = """
import os, sys, time
def wait():
    print("here", flush=True); sys.stdin.readline()
def burn(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until: pass
"""


def test_cpu_is_that_of_all_processes_those_that_have_ended_too() -> None:
    code = f"""{BURN}
wait()
burn(0.2)
if not os.fork():
    burn(0.2); os._exit(0)
os.wait()
wait()
wait()
"""
    with program(code) as process:
        watch = Watch(process.pid)
        step(process)
        assert 0.35 <= watch.cpu() <= 1
        before = cpu_seconds(process.pid)
        step(process)
        assert cpu_seconds(process.pid) - before <= 0.05


def test_the_server_and_this_process_are_no_strangers() -> None:
    with program(f"{BURN}\nwait()\nburn(0.3)\nwait()") as server:
        mine, others = Watch(server.pid), Watch()
        step(server)
        assert others.strangers() - mine.strangers() > 0.5


def test_memory_has_all_threads_and_processes() -> None:
    code = f"""{BURN}
import threading
for _ in range(3):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
if not os.fork():
    sys.stdin.readline(); os._exit(0)
wait()
"""
    with program(code) as process:
        assert len(family(process.pid)) == 2
        found = memory(process.pid, 7)
    assert found.connections == 7
    assert found.threads == 5
    assert found.kernel_stacks == 5 * KERNEL_STACK
    assert 0 < found.private < found.rss < found.virtual
    assert found.page_tables > 0


def test_sockets_are_counted_and_waited_for() -> None:
    code = f"""{BURN}
import socket
held = [socket.socket() for _ in range(5)]
wait()
held.clear()
wait()
"""
    with program(code) as process:
        assert sockets(process.pid) == 5
        step(process)
        wait_for_closing(process.pid, 0)
        assert sockets(process.pid) == 0


@pytest.mark.skipif(bool(cannot_count()), reason="perf cannot count system calls here")
def test_system_calls_are_counted_those_of_new_threads_too() -> None:
    code = f"""{BURN}
import threading
def call():
    for _ in range(1000): os.getppid()
wait()
call()
thread = threading.Thread(target=call); thread.start(); thread.join()
wait()
"""
    with program(code) as process:
        with counting(process.pid) as counted:
            step(process)
        assert 2000 <= counted.system_calls < 2500
        assert counted.switches >= 1


@pytest.mark.skipif(bool(cannot_count()), reason="perf cannot count system calls here")
def test_what_cannot_be_counted_is_an_error() -> None:
    with program(f"{BURN}\nwait()") as process:
        pass
    with pytest.raises((OSError, ValueError)), counting(process.pid):
        pass


def test_without_perf_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "linux-perf" in cannot_count()


# -- marks ---------------------------------------------------------------------------------------


def load(requests: int = 1000, *, rate: float | None = None, **errors: int) -> Load:
    return Load(
        generator="tame",
        scenario="kept",
        clients=10,
        seconds=1.0,
        rate=rate,
        connections=10,
        requests=requests,
        bytes=0,
        errors=errors,
        cpu=1.0,
    )


@pytest.mark.parametrize(
    ("seen", "use", "expected"),
    [
        (load(), Use(0.95, 0.5), ()),
        (load(), Use(0.95, 0.95), ()),
        (load(), Use(0.5, 0.95), (GENERATOR_BOUND,)),
        (load(), Use(0.5, 0.5), (IDLE,)),
        (load(rate=1000), Use(0.5, 0.5), ()),
        (load(rate=2000), Use(0.5, 0.5), (BEHIND,)),
        (load(rate=1000), Use(0.5, 0.95), (GENERATOR_BOUND,)),
        (load(wrong=1), Use(1, 0.5), (WRONG,)),
        (load(status=1, wrong=1), Use(1, 0.5), (WRONG,)),
        (load(timeout=1), Use(1, 0.5), (SILENT,)),
        (load(cut=1, closed=2, refused=3), Use(1, 0.5), (DROPPED,)),
        (load(wrong=0), Use(1, 0.5), ()),
        (load(), Use(1, 0.5, strangers=0.2), (LOADED,)),
    ],
)
def test_marks_say_what_bounded_a_run(seen: Load, use: Use, expected: tuple[str, ...]) -> None:
    assert marks(seen, use) == expected


def run(server: str, requests: int, busy: float) -> Run:
    cost = Cost(seconds=1.0, cpu=busy)
    return Run(server=server, part="curve", round=0, load=load(requests), cost=cost)


def test_who_comes_near_the_null_server_is_marked() -> None:
    runs = [run("null", 1000, 0.5), run("fast", 701, 1.0), run("slow", 699, 1.0)]
    assert [one.marks for one in beside_null(runs)] == [(), (NEAR_NULL,), ()]


def test_a_null_server_that_was_the_limit_itself_marks_nobody() -> None:
    runs = [run("null", 1000, 1.0), run("fast", 900, 1.0)]
    assert [one.marks for one in beside_null(runs)] == [(), ()]
