"""How much memory a process has, as the kernel counts it (proc_pid_statm(5))."""

from __future__ import annotations

import os


def resident_of(pid: int) -> int:
    """Resident bytes of a process; 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as statm:
            return resident(statm.read())
    except OSError:
        return 0


def resident(statm: bytes) -> int:
    """Resident bytes, from the content of ``statm``."""
    return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")
