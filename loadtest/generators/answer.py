"""An HTTP answer as it arrives, compared with the expected one; no I/O.

A client that only counted bytes would reward a server for answering nonsense quickly.  Here every
byte of every answer is compared as it arrives, without a copy: `bytes.endswith` and
`bytes.startswith` do that.  Nothing of an answer is kept.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

FIELD: Final = rb"(?im)^%b[ \t]*:[ \t]*(%b)[ \t]*\r?$"
LENGTH: Final = re.compile(FIELD % (b"content-length", rb"\d+"))
CLOSE: Final = re.compile(FIELD % (b"connection", b"close"))
KEEP: Final = re.compile(FIELD % (b"connection", b"keep-alive"))
STATUS: Final = re.compile(rb"HTTP/1\.([01]) (\d\d\d)[ \r]")

MAX_HEAD: Final = 64 * 1024
MAX_KNOWN_HEADS: Final = 1_000
"""Heads that are remembered: those of a server change once a second at most."""


class Failed(Exception):  # noqa: N818  (an outcome, not an error of this program)
    """A request without the right answer; the first argument is a kind of `Load.errors`."""

    @property
    def kind(self) -> str:
        return str(self.args[0])


class Head(NamedTuple):
    status: int
    length: int
    """Of the body; -1 if it ends with the connection."""
    last: bool
    """True if the server closes the connection afterwards."""


_heads: dict[bytes, Head] = {}


def read_head(data: bytes) -> Head:
    """Parse the head of an answer, given without the empty line at its end.

    Raises `Failed` if it is not HTTP.
    """
    head = _heads.get(data)
    if head is None:
        begin = STATUS.match(data)
        if begin is None:
            raise Failed("wrong")
        length = LENGTH.search(data)
        keeps = CLOSE.search(data) is None and (begin[1] == b"1" or KEEP.search(data) is not None)
        size = int(length[1]) if length else -1
        head = Head(int(begin[2]), size, last=not keeps or size < 0)
        if len(_heads) >= MAX_KNOWN_HEADS:
            _heads.clear()
        _heads[data] = head
    return head


class Answer:
    """One answer, whose body should be `expected`; None accepts any body."""

    __slots__ = ("begun", "expected", "last", "left", "received", "size", "status", "wrong")

    def __init__(self, expected: bytes | None) -> None:
        self.expected = expected
        self.begun = b""
        """What has come of a head that is not complete yet."""
        self.received = 0
        """Bytes, including the head."""
        self.status = 0
        """0 until the head is complete."""
        self.size = 0
        """Bytes of the body so far."""
        self.left = 0
        """Bytes of the body still to come; negative if only the end of the connection ends it."""
        self.last = False
        self.wrong = False

    def take(self, data: bytes) -> bool:
        """Check what has arrived; true if the answer is complete.

        Raises `Failed` if it is not the right answer.
        """
        self.received += len(data)
        if self.status:
            return self.take_body(data)
        if self.begun:
            data = self.begun + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > MAX_HEAD:
                raise Failed("wrong")
            self.begun = data
            return False
        head = read_head(data[:end])
        self.begun = b""
        self.status = head.status
        self.last = head.last
        size = len(data) - end - 4
        self.left = head.length - size if head.length >= 0 else -1
        if not self.left and head.status == 200:  # all at once, the usual case
            expected = self.expected
            if expected is not None and (size != len(expected) or not data.endswith(expected)):
                raise Failed("wrong")
            return True
        self.left = head.length
        return self.take_body(data[end + 4 :])

    def take_body(self, data: bytes) -> bool:
        if self.left >= 0:
            self.left -= len(data)
            if self.left < 0:
                raise Failed("wrong")  # more than announced
        if self.expected is not None and not self.expected.startswith(data, self.size):
            self.wrong = True
        self.size += len(data)
        if self.left:
            return False
        return self.judge()

    def end(self) -> None:
        """The connection has ended.  Raises `Failed` unless that ends the answer."""
        if not self.received:
            raise Failed("closed")
        if not self.status or self.left > 0:
            raise Failed("cut")
        self.judge()

    def judge(self) -> bool:
        if self.status != 200:
            raise Failed("status")
        if self.wrong or (self.expected is not None and self.size != len(self.expected)):
            raise Failed("wrong")
        return True
