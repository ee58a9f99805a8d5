"""How many workers are ``auto``: what affinity and control groups leave, on made-up machines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from knot.process.cpus import available

V2 = "35 24 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "32 30 0:28 / /sys/fs/cgroup/cpuset rw shared:10 - cgroup cgroup rw,cpuset\n"
)
HYBRID = f"{V1}33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
OF_CPU = "sys/fs/cgroup/cpu,cpuacct"

MACHINES: list[tuple[str, str, str, Mapping[str, str], int]] = [
    # what, /proc/self/cgroup, mountinfo, files, CPUs of 8
    ("no control groups", "", "", {}, 8),
    ("version 2", "0::/a", V2, {"sys/fs/cgroup/a/cpu.max": "200000 100000"}, 2),
    ("a part of a CPU", "0::/a", V2, {"sys/fs/cgroup/a/cpu.max": "250000 100000"}, 3),
    ("less than one", "0::/a", V2, {"sys/fs/cgroup/a/cpu.max": "1000 100000"}, 1),
    ("more than there are", "0::/a", V2, {"sys/fs/cgroup/a/cpu.max": "9900000 100000"}, 8),
    ("no quota", "0::/a", V2, {"sys/fs/cgroup/a/cpu.max": "max 100000"}, 8),
    (
        "a parent with less",
        "0::/a/b/c",
        V2,
        {
            "sys/fs/cgroup/a/cpu.max": "300000 100000",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000",
            "sys/fs/cgroup/a/b/c/cpu.max": "500000 100000",
        },
        3,
    ),
    ("a namespace of its own", "0::/", V2, {"sys/fs/cgroup/cpu.max": "400000 100000"}, 4),
    (
        "a mount of the group alone",
        "0::/docker/1",
        V2.replace(" / /sys", " /docker/1 /sys"),
        {"sys/fs/cgroup/cpu.max": "200000 100000"},
        2,
    ),
    ("a namespace of another", "0::/../x", V2, {"sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
    (
        "a mount with a space",
        "0::/a",
        V2.replace("cgroup rw", "my\\040cgroup rw"),
        {"sys/fs/my cgroup/a/cpu.max": "200000 100000"},
        2,
    ),
    (
        "version 1",
        "4:cpu,cpuacct:/a\n3:cpuset:/b\n",
        V1,
        {f"{OF_CPU}/a/cpu.cfs_quota_us": "150000", f"{OF_CPU}/a/cpu.cfs_period_us": "50000"},
        3,
    ),
    (
        "version 1 without a quota",
        "4:cpu,cpuacct:/a\n",
        V1,
        {f"{OF_CPU}/a/cpu.cfs_quota_us": "-1", f"{OF_CPU}/a/cpu.cfs_period_us": "50000"},
        8,
    ),
    (
        "version 1, a parent with less",
        "4:cpu,cpuacct:/a/b\n",
        V1,
        {
            f"{OF_CPU}/a/cpu.cfs_quota_us": "100000",
            f"{OF_CPU}/a/cpu.cfs_period_us": "50000",
            f"{OF_CPU}/a/b/cpu.cfs_quota_us": "-1",
            f"{OF_CPU}/a/b/cpu.cfs_period_us": "50000",
        },
        2,
    ),
    (
        "both versions",
        "4:cpu,cpuacct:/a\n0::/a\n",
        HYBRID,
        {f"{OF_CPU}/a/cpu.cfs_quota_us": "50000", f"{OF_CPU}/a/cpu.cfs_period_us": "50000"},
        1,
    ),
    ("nonsense", "0::/a", V2, {"sys/fs/cgroup/a/cpu.max": "much"}, 8),
]


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "files", "cpus"),
    [machine[1:] for machine in MACHINES],
    ids=[machine[0] for machine in MACHINES],
)
def test_the_smallest_limit_counts(
    cgroup: str,
    mountinfo: str,
    files: Mapping[str, str],
    cpus: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    machine = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mountinfo, **files}
    for name, text in machine.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text.rstrip()}\n")
    assert available(tmp_path) == cpus


def test_affinity_counts_without_a_quota(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert available(tmp_path) == 1
