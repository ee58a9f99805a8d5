"""Memory of a process, as the kernel counts it."""

from __future__ import annotations


def memory(pid: int | str, *fields: str) -> int:
    """The sum of these fields of ``/proc/PID/smaps_rollup``, in bytes."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        lines = [line.split() for line in rollup]
    return 1024 * sum(int(line[1]) for line in lines if line[0].rstrip(":") in fields)


def private_bytes(pid: int | str = "self") -> int:
    """What the process would free if it ended: the pages that only it uses."""
    return memory(pid, "Private_Clean", "Private_Dirty")
