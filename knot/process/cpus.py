"""How many CPUs this process may use: fewer than the machine has where affinity or the quota of a
control group says so (cgroups(7)).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from math import ceil
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

ESCAPE: Final = re.compile(r"\\([0-7]{3})")


def available(root: Path = Path("/")) -> int:
    """At least 1; `root` is where ``proc`` is, and what is mounted."""
    allowed = len(os.sched_getaffinity(0))
    quotas = [quota for directory in groups(root) if (quota := quota_of(directory)) is not None]
    return max(1, min([allowed, *map(ceil, quotas)]))


class Mount(NamedTuple):
    """A hierarchy of control groups, of which `top` is mounted at `point`."""

    top: str
    point: str
    unified: bool
    """Whether it is of version 2."""
    options: list[str]
    """In version 1, the controllers among others."""


def groups(root: Path) -> Iterator[Path]:
    """The directories of this process's control groups, and of all that these are in."""
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = [*parse_mounts((root / "proc/self/mountinfo").read_text())]
    except OSError:
        return
    for line in filter(None, memberships):
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in mounts:
            if mount.unified if not controllers else "cpu" in mount.options:
                point = root / mount.point.lstrip("/")
                yield from [point / part for part in ancestry(path, mount.top)]


def parse_mounts(text: str) -> Iterator[Mount]:
    """Those of control groups in a ``mountinfo`` (proc_pid_mountinfo(5))."""
    for line in filter(None, text.splitlines()):
        fields, _, rest = line.partition(" - ")
        _, _, _, top, point, *_ = fields.split(" ")
        kind, _, options = rest.split(" ")[:3]
        if kind in ("cgroup", "cgroup2"):
            yield Mount(unescape(top), unescape(point), kind == "cgroup2", options.split(","))


def unescape(text: str) -> str:
    return ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)


def ancestry(path: str, top: str) -> list[PurePosixPath]:
    """From the group at `path` up to `top`, relative to that; `top` alone if the path is not below
    it, as it is seen from another namespace."""
    try:
        inside = PurePosixPath(path).relative_to(top)
    except ValueError:
        inside = PurePosixPath()
    if ".." in inside.parts:
        inside = PurePosixPath()
    return [inside, *inside.parents]


def quota_of(directory: Path) -> float | None:
    """CPUs that a group may use at once on average; None if it has no quota."""
    try:
        if (directory / "cpu.max").exists():
            quota, period = (directory / "cpu.max").read_text().split()
        else:
            quota = (directory / "cpu.cfs_quota_us").read_text()
            period = (directory / "cpu.cfs_period_us").read_text()
        cpus = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max" is not a number
        return None
    return cpus if cpus > 0 else None
