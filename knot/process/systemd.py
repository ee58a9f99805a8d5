"""What a service manager says to this process, and what it is told: readiness, the watchdog, and
sockets that it has opened (sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3)).

Without a service manager every function here does nothing.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack, suppress
from typing import Final

from knot.process.addresses import NUMBER
from knot.process.listeners import inherited

FIRST: Final = 3
"""The first descriptor that systemd passes."""

ALIVE: Final = "WATCHDOG=1"
"""What a process reports at least once a second if `is_watched`."""


def notify(*lines: str) -> None:
    """Send a state, such as ``READY=1``, to the manager at NOTIFY_SOCKET.

    It never waits: a manager that does not read misses the message.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, address)


def is_watched() -> bool:
    """Whether systemd restarts this process if it stops reporting that it is `ALIVE`
    (WatchdogSec=)."""
    return os.environ.get("WATCHDOG_USEC", "").isdecimal() and os.environ.get(
        "WATCHDOG_PID", str(os.getpid())
    ) == str(os.getpid())


def activated() -> list[socket.socket]:
    """The sockets that systemd has opened for this process, if any.

    Raises `OSError` if one does not listen, or if their number is missing.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = os.environ.get("LISTEN_FDS", "")
    if not NUMBER.fullmatch(count):
        raise OSError(f"LISTEN_FDS is {count!r}, which is not a number of sockets")
    found: list[socket.socket] = []
    with ExitStack() as undo:
        for fd in range(FIRST, FIRST + int(count)):
            try:
                found.append(undo.enter_context(inherited(fd)))
            except OSError as error:
                raise OSError(f"descriptor {fd}: {error.strerror or error}") from None
        undo.pop_all()
    return found
