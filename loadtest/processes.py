"""How a process is run: on which core, with how many descriptors."""

from __future__ import annotations

import resource
import shutil


def pinned(command: list[str], core: int | None) -> list[str]:
    """The command that runs `command` on this core only; None leaves it to the scheduler.

    Raises `FileNotFoundError` if there is no ``taskset``.
    """
    if core is None:
        return command
    if shutil.which("taskset") is None:
        raise FileNotFoundError("taskset is not installed: install the Debian package util-linux")
    return ["taskset", "-c", str(core), *command]


def raise_descriptors() -> int:
    """Allow this process, and those it starts, as many descriptors as the kernel does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
