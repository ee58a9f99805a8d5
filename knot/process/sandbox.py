"""What the service manager is told (sd_notify(3)), and what the process gives up before it serves.

Nothing here is needed to serve files; each is a fact of the process that holds until it ends.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

# -- telling ------------------------------------------------------------------------------------


def notify(*lines: str) -> None:
    """Tell whoever waits at NOTIFY_SOCKET, as ``READY=1``; without systemd nobody does.

    A manager that takes nothing is not waited for.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, address)


ALIVE: Final = "WATCHDOG=1"
"""What a process says at least once a second that `is_watched`."""


def is_watched() -> bool:
    """Whether systemd restarts this process unless it says that it is alive (WatchdogSec=,
    sd_watchdog_enabled(3))."""
    return os.environ.get("WATCHDOG_USEC", "").isdecimal() and os.environ.get(
        "WATCHDOG_PID", str(os.getpid())
    ) == str(os.getpid())


# -- giving up ----------------------------------------------------------------------------------


def account(user: str) -> pwd.struct_passwd:
    """Raises `ValueError` if there is none of that name, or if this process may not become it."""
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise ValueError(f"there is no user called {user}") from None
    if os.geteuid() not in (0, found.pw_uid):
        raise ValueError(f"only root can become {user}: leave out --user, or be root")
    return found


def become(user: pwd.struct_passwd) -> None:
    """Be that user, with its groups, for good."""
    if os.geteuid() == 0:
        os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)


PR_SET_PDEATHSIG: Final = 1
PR_SET_NO_NEW_PRIVS: Final = 38

LANDLOCK_CREATE_RULESET: Final = 444
LANDLOCK_ADD_RULE: Final = 445
LANDLOCK_RESTRICT_SELF: Final = 446
VERSION: Final = 1
PATH_BENEATH: Final = 1

# Rights of Landlock, by the version of its interface that brought them
WRITE_FILE: Final = 1 << 1
READ_FILE: Final = 1 << 2
READ_DIR: Final = 1 << 3
REMOVE_FILE: Final = 1 << 5
MAKE_REG: Final = 1 << 8
FILES: Final = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
NETWORK: Final = {4: 0b11}
"""To bind and to connect."""

READ: Final = READ_FILE | READ_DIR
WRITE: Final = WRITE_FILE | MAKE_REG
REMOVE: Final = REMOVE_FILE
"""For `confine`: to read files and directories; to write files, new ones, too; to remove files."""


class Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64))


class Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def confine(places: Mapping[str | bytes, int]) -> bool:
    """From now on this thread, and those that it starts, have these rights below these directories
    and no others anywhere: they can neither run programs nor connect to anything (Landlock, and no
    new privileges).  Open descriptors stay as they are.

    Python's own modules stay readable, since it looks for some of them late; what it needs beside
    them is loaded here.  Whether the kernel has it: false from before 5.13, or where it is switched
    off.
    """
    load_what_comes_late()
    version = landlock(LANDLOCK_CREATE_RULESET, None, 0, VERSION)
    if version < 1:
        return False
    handled = Ruleset(up_to(version, FILES), up_to(version, NETWORK))
    ruleset = landlock(LANDLOCK_CREATE_RULESET, ctypes.byref(handled), ctypes.sizeof(handled), 0)
    if ruleset < 0:
        return False
    try:
        for path, rights in [*places.items(), *((path, READ) for path in sys.path)]:
            allow(ruleset, path, rights & handled.files)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return landlock(LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def load_what_comes_late() -> None:
    """The library that glibc loads when a thread ends in the middle of something: it ends the whole
    process if it cannot.  Python ends daemon threads so, when the process is about to end.
    bcrypt, which a reload may be the first to need, is linked to it, too.
    """
    with suppress(OSError):  # no other libc needs it
        ctypes.CDLL("libgcc_s.so.1")


def up_to(version: int, rights: dict[int, int]) -> int:
    return sum(right for since, right in rights.items() if since <= version)


def allow(ruleset: int, path: str | bytes, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # it is not there, or was closed to this user before
    try:
        rule = Beneath(rights, place)
        if landlock(LANDLOCK_ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0) < 0:
            # A file, as an archive in `sys.path`, has no entries to list.
            rule = Beneath(rights & (READ_FILE | WRITE_FILE), place)
            landlock(LANDLOCK_ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(place)


def landlock(call: int, *arguments: object) -> int:
    return int(libc.syscall(ctypes.c_long(call), *arguments))


def end_with_parent(number: int) -> None:
    """Be sent this signal when the process that started this one ends."""
    libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)


libc = ctypes.CDLL(None, use_errno=True)
