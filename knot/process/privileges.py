"""The user that a process is, becomes, or acts as for a moment.

What a process may still do as that user is `knot.process.sandbox`'s.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

ROOT: Final = 0


def is_root() -> bool:
    return os.geteuid() == ROOT


def account(user: str) -> pwd.struct_passwd:
    """The account of that name.  Raises `ValueError` if there is none, or if this process may not
    become that user."""
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise ValueError(f"there is no user called {user}") from None
    if os.geteuid() not in (ROOT, found.pw_uid):
        raise ValueError(f"only root can become {user}: omit --user, or start as root")
    return found


def become(user: pwd.struct_passwd) -> None:
    """Become that user, with its groups, for good."""
    if is_root():
        os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)


@contextmanager
def acting_as(user: pwd.struct_passwd) -> Iterator[None]:
    """Have the rights of that user, and no others, within the block.  For root, in a process with
    one thread."""
    group, groups = os.getegid(), os.getgroups()
    try:
        os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
        os.setegid(user.pw_gid)
        os.seteuid(user.pw_uid)
        yield
    finally:
        os.seteuid(ROOT)
        os.setegid(group)
        os.setgroups(groups)
