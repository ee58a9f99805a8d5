"""Where something was measured: what a reader of the figures has to know about the machine."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from loadtest.experiment.marks import STRANGERS
from loadtest.measure import Watch
from loadtest.results import Environment

PACKAGES: Final = (
    "knot",
    "uvloop",
    "httptools",
    "gevent",
    "locust",
    "hdrhistogram",
    "aiohttp",
    "starlette",
    "uvicorn",
    "granian",
)
PROGRAMS: Final = {"nginx": "-v", "wrk": "-v", "perf": "--version"}
"""With the option that makes them tell their version."""
SYSTEM: Final = {
    "somaxconn": "/proc/sys/net/core/somaxconn",
    "ip_local_port_range": "/proc/sys/net/ipv4/ip_local_port_range",
    "max_map_count": "/proc/sys/vm/max_map_count",
    "threads-max": "/proc/sys/kernel/threads-max",
}
LISTENING: Final = 1.0
"""Seconds for which strangers are watched before anything is measured."""


def environment(*, pinned: bool, loaded: str = "") -> Environment:
    return Environment(
        kernel=platform.release(),
        processor=processor(),
        cores=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        python=platform.python_version(),
        packages=versions(),
        limits=limits(),
        pinned=pinned,
        loaded=loaded,
    )


def processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def versions() -> dict[str, str]:
    """Of packages and programs, those that are there."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    for name, option in PROGRAMS.items():
        program = shutil.which(name) or shutil.which(f"/usr/sbin/{name}")
        if program is not None:
            said = subprocess.run([program, option], capture_output=True, text=True, check=False)
            number = re.search(r"\d+\.\d[\w.-]*", said.stdout + said.stderr)
            found[name] = number[0] if number else "unknown"
    return found


def limits() -> dict[str, str]:
    found = {
        "descriptors": "{}, at most {}".format(*resource.getrlimit(resource.RLIMIT_NOFILE)),
        "stack": "{}, at most {}".format(*resource.getrlimit(resource.RLIMIT_STACK)),
    }
    for name, path in SYSTEM.items():
        try:
            found[name] = Path(path).read_text().strip().replace("\t", "-")
        except OSError:
            continue
    return {name: value.replace("-1", "unlimited") for name, value in found.items()}


def why_loaded() -> str:
    """What else the machine does now; empty if it is quiet."""
    watch = Watch()
    time.sleep(LISTENING)
    share = watch.strangers()
    if share <= STRANGERS:
        return ""
    return f"other processes took {share * 100:.0f} % of a core before the first run"
