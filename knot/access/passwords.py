"""Names and passwords, as RFC 7617 sends them and ``htpasswd -B`` keeps them.

A check is slow on purpose, 2 ms to 1 s of a core, so that nothing here waits for one: what is known
already is answered at once, and a `Check` runs on a thread.  Checked credentials are remembered as
a keyed hash; a password is kept nowhere.
"""

from __future__ import annotations

import logging
import os
import re
from _blake2 import blake2b  # `hashlib` has it, too, and brings OpenSSL, 3.7 MiB
from binascii import Error, a2b_base64
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from threading import Event, Semaphore
from time import time
from typing import Final, NamedTuple

import bcrypt

from knot.files.paths import absolute, reason
from knot.files.representation import BUSY
from knot.files.stamps import stamp_of

MAX_RIGHT: Final = 16_384
MAX_WRONG: Final = 4096
"""Credentials that are remembered, in 5 MiB; wrong guesses do not displace right ones."""

MAX_CREDENTIALS: Final = 1024
"""Bytes of credentials."""

MAX_NAME: Final = 255
"""Bytes, as ``htpasswd`` has it."""

BCRYPT_BYTES: Final = 72
"""Bytes of a password that bcrypt looks at."""

LOOK_INTERVAL: Final = 1.0
"""Seconds between two looks at whether the file has changed."""

SCHEME: Final = b"basic "

HASH: Final = re.compile(rb"\$2[aby]\$(?:0[4-9]|[12][0-9]|3[01])\$[./0-9A-Za-z]{53}")

CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")

log = logging.getLogger("knot")


class Outcome(NamedTuple):
    """The result of a check."""

    name: bytes
    hash: bytes | None
    """The hash that the user had then; None for a user that did not exist."""
    right: bool


NOBODY: Final = Outcome(b"", None, False)
"""The outcome without a check, for a request without name and password."""


class Check:
    """One that is under way, for all who wait for it."""

    def __init__(self, find: Callable[[], Outcome]) -> None:
        self._find = find
        self._over = Event()
        self._outcome: Outcome | None = None

    def run(self) -> Outcome:
        """Find the outcome; on a thread, and once."""
        try:
            self._outcome = self._find()
        finally:
            self._over.set()
        return self._outcome

    def join(self) -> Outcome:
        """Wait for the outcome that another thread finds."""
        self._over.wait()
        assert self._outcome is not None, "the check has failed"
        return self._outcome


class Passwords:
    """The users in one file, and what is known of those who say to be one of them."""

    def __init__(self, path: str, turns: Semaphore, before: Passwords | None = None) -> None:
        """`turns` are those of all the checks in this process.  What was found out `before` by
        another reader of the same file is not checked again.

        Raises `OSError` if the file cannot be read, `ValueError` if its content is not valid.
        """
        self.path = os.fsdecode(absolute(path))
        self._turns = turns
        self._read()
        self.are_there = True
        """Whether the file can be read: if not, nobody can be let in."""
        self._looked = 0.0
        self._refused = ""
        self._keyed = blake2b(digest_size=16, key=os.urandom(32))
        self._right: dict[bytes, Outcome] = {}
        self._wrong: dict[bytes, Outcome] = {}
        self._under_way: dict[bytes, Check] = {}
        if before is not None:  # each outcome names the hash that it holds for
            self._keyed, self._under_way = before._keyed, before._under_way
            self._right, self._wrong = before._right, before._wrong

    def look(self, now: float) -> None:
        """Read the file again if it has changed.  `now` is in seconds, of any clock.

        Content that cannot be used changes nothing.  While the file is gone or may not be read,
        nobody is let in: it may have been removed for that purpose.  Either is logged once.
        """
        if abs(now - self._looked) < LOOK_INTERVAL:
            return
        self._looked = now
        try:
            if self._settled and stamp_of(os.stat(self.path)) == self._stamp and not self._refused:
                return
            self._read()
        except (OSError, ValueError) as error:
            why = str(error)
            if isinstance(error, OSError):
                why = f"{self.path}: {reason(error, self.path)}"
                self.are_there &= error.errno in BUSY
            if why != self._refused:
                then = "the old ones stay" if self.are_there else "nobody is let in"
                log.error("the changed passwords cannot be used: %s; %s", why, then)
            self._refused = why
            return
        if not self.are_there:
            log.warning("the passwords in %s can be used again", self.path)
        self._refused, self.are_there = "", True

    def _read(self) -> None:
        now, stamp = time(), stamp_of(os.stat(self.path))  # both of before
        self._users = read_users(self.path)
        self._stamp, self._settled = stamp, stamp.is_settled(now)

    def known(self, credentials: bytes) -> Outcome | None:
        """The outcome of an earlier check; None if one is needed.

        It holds for as long as the user has the same hash in the file, so that nothing need be
        forgotten when the file changes.
        """
        if not credentials:
            return NOBODY
        key = self._key_of(credentials)
        outcome = self._right.get(key) or self._wrong.get(key)
        if outcome is not None and self._users.get(outcome.name) == outcome.hash:
            return outcome
        return NOBODY if parse(credentials) is None else None

    def begin(self, credentials: bytes) -> Callable[[], Outcome] | None:
        """The check to run on a thread; None if too many run now.

        Whoever gets it passes the outcome to `keep`.
        """
        key = self._key_of(credentials)
        check = self._under_way.get(key)
        if check is not None:
            return check.join
        if not self._turns.acquire(blocking=False):
            return None
        check = self._under_way[key] = Check(lambda: self._find(credentials))
        return check.run

    def keep(self, credentials: bytes, outcome: Outcome) -> None:
        key = self._key_of(credentials)
        for known in (self._under_way, self._right, self._wrong):
            known.pop(key, None)
        kept, most = (self._right, MAX_RIGHT) if outcome.right else (self._wrong, MAX_WRONG)
        kept[key] = outcome
        if len(kept) > most:
            del kept[next(iter(kept))]

    def _key_of(self, credentials: bytes) -> bytes:
        hash = self._keyed.copy()  # faster than a new one: 540 ns instead of 870
        hash.update(credentials)
        return hash.digest()

    def _find(self, credentials: bytes) -> Outcome:
        """Compare with the file.

        A name that it does not have takes as long as one that it has: the password is compared
        with that of a user, always of the same one, as the users' hashes may differ in their cost.
        """
        try:
            name, password = parse(credentials) or (b"", b"")
            users = self._users
            hash = users.get(name)
            right = matches(password, self._stand_in(name, users) if hash is None else hash)
            return Outcome(name, hash, right and hash is not None)
        finally:
            self._turns.release()

    def _stand_in(self, name: bytes, users: Mapping[bytes, bytes]) -> bytes:
        return list(users.values())[int.from_bytes(self._key_of(name), "big") % len(users)]


def matches(password: bytes, hash: bytes) -> bool:
    try:
        return bcrypt.checkpw(password[:BCRYPT_BYTES], hash)
    except ValueError:  # it has its own idea of what a hash is
        return False


def parse(credentials: bytes) -> tuple[bytes, bytes] | None:
    """Name and password in the value of ``Authorization`` (RFC 7617, section 2); None if it has
    none."""
    if len(credentials) > MAX_CREDENTIALS or credentials[: len(SCHEME)].lower() != SCHEME:
        return None
    try:
        pair = a2b_base64(credentials[len(SCHEME) :].strip(b" "), strict_mode=True)
        pair.decode()
    except (Error, UnicodeDecodeError):
        return None
    name, colon, password = pair.partition(b":")
    if not colon or len(name) > MAX_NAME or CONTROL.search(pair):
        return None
    return name, password


def read_users(path: str) -> dict[bytes, bytes]:
    """Hashes by name, from a file as ``htpasswd -B`` writes it.

    Raises `OSError`, and `ValueError` that names the line.
    """
    users: dict[bytes, bytes] = {}
    with open(path, "rb") as file:
        lines = file.read().removeprefix(BOM_UTF8).splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(b"#"):
            continue
        name, _, hash = line.rstrip().partition(b":")
        shown = name.decode(errors="replace")
        where = f"{path}, line {number}"
        if not name or CONTROL.search(name) or len(name) > MAX_NAME:
            raise ValueError(
                f"{where}: it is not of the form name:hash; write it with htpasswd -B {path} NAME"
            )
        if not HASH.fullmatch(hash):
            raise ValueError(
                f"{where}: the password of {shown} is not kept by bcrypt, and other hashes are too"
                f" weak; set it again with htpasswd -B {path} {shown}"
            )
        if name in users:
            raise ValueError(f"{where}: {shown} occurs twice; remove one of the lines")
        users[name] = hash
    if not users:
        raise ValueError(f"{path} has no users; add one with htpasswd -B {path} NAME")
    return users
