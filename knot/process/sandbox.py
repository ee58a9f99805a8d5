"""What a process may still do once it serves: Landlock, and no new privileges.

The restriction holds until the process ends, for it and for every thread that it starts later.
Which user the process is, is `knot.process.privileges`'s.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

PR_SET_NO_NEW_PRIVS: Final = 38

LANDLOCK_CREATE_RULESET: Final = 444
LANDLOCK_ADD_RULE: Final = 445
LANDLOCK_RESTRICT_SELF: Final = 446
VERSION: Final = 1
PATH_BENEATH: Final = 1

# Rights of Landlock, by the version of its interface that added them
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
"""Rights for `confine`: read files and directories; write and create files; remove files."""


class Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64))


class Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def confine(places: Mapping[str | bytes, int]) -> bool:
    """From now on this thread, and those that it starts, have the given rights below these
    directories and no others anywhere: they can neither run programs nor connect to anything.  Open
    descriptors stay as they are.

    Python's own modules stay readable, since it imports some of them late; the other libraries that
    are loaded late are loaded here.  Returns whether the kernel supports this: false before 5.13,
    or where Landlock is disabled.
    """
    load_late_libraries()
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


def load_late_libraries() -> None:
    """Load the library that glibc loads when a thread is ended, as Python ends its daemon threads
    at exit: without it, glibc aborts the process.  bcrypt, which a reload may be the first to need,
    is linked to it too.
    """
    with suppress(OSError):  # no other libc needs it
        ctypes.CDLL("libgcc_s.so.1")


def up_to(version: int, rights: dict[int, int]) -> int:
    return sum(right for since, right in rights.items() if since <= version)


def allow(ruleset: int, path: str | bytes, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # it does not exist, or this user cannot open it anyway
    try:
        rule = Beneath(rights, place)
        if landlock(LANDLOCK_ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0) < 0:
            # A file, such as an archive in `sys.path`, has no entries to list.
            rule = Beneath(rights & (READ_FILE | WRITE_FILE), place)
            landlock(LANDLOCK_ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(place)


def landlock(call: int, *arguments: object) -> int:
    return int(libc.syscall(ctypes.c_long(call), *arguments))


libc = ctypes.CDLL(None, use_errno=True)
