"""Frames of HTTP/2 (RFC 9113, sections 4 and 6) before the library `h2` gets them: divided, bounded
and paid for, and checked where h2 does otherwise than the RFC says.  No I/O, and nothing of what
the frames are about.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Final, NamedTuple

from h2.errors import ErrorCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from knot.http.request import MAX_HEAD

FRAME: Final = 16 * 1024
"""Bytes of a frame at most, in both directions: what every client takes (section 4.2)."""

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEAD: Final = 9
STREAM_AT: Final = 5
"""Where the number of the stream is in a frame."""

DATA: Final = DataFrame.type
HEADERS: Final = HeadersFrame.type
PRIORITY: Final = PriorityFrame.type
RST_STREAM: Final = RstStreamFrame.type
SETTINGS: Final = SettingsFrame.type
PUSH_PROMISE: Final = PushPromiseFrame.type
PING: Final = PingFrame.type
GOAWAY: Final = GoAwayFrame.type
WINDOW_UPDATE: Final = WindowUpdateFrame.type
CONTINUATION: Final = ContinuationFrame.type

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITIZED: Final = 0x20

SIZES: Final = {RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
"""Bytes of the frames that have a fixed size (section 4.2)."""

USUAL: Final = -1
"""In place of a type: several frames that h2 may have as they are."""

# A client can have us work for nothing: by resets before the response (CVE-2023-44487), pings,
# settings, priorities, empty frames, windows opened byte by byte (CVE-2019-9511 to 9518).  Each
# frame is paid for from its credit, which every response fills up again.
FIRST_CREDIT: Final = 1000
"""Frames."""
MAX_CREDIT: Final = 10_000
RESET: Final = 5
"""Frames that a reset costs; a browser that leaves a page resets all its requests."""


class Credit:
    """The frames that a client may still send without getting a response."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = FIRST_CREDIT

    def spend(self, frames: int) -> None:
        self.left -= frames

    def earn(self, frames: int) -> None:
        self.left = min(self.left + frames, MAX_CREDIT)


class FrameError(Exception):
    """The client has broken the rules for frames; the connection has to end."""

    def __init__(self, code: ErrorCodes) -> None:
        super().__init__(code)
        self.code = code


class FrameReader:
    """Divides the bytes of a client into frames."""

    __slots__ = ("_block", "_preface", "_torn", "credit", "greeted")

    def __init__(self, credit: Credit) -> None:
        self.credit = credit
        self.greeted = False
        """Whether the client's settings have come."""
        self._preface = PREFACE
        """The part that has not come yet."""
        self._torn = b""
        """The beginning of a frame."""
        self._block = -1
        """Bytes of a list of fields that goes on in the next frame; -1 if none does."""

    @property
    def unfinished(self) -> bool:
        """Whether the client is in the middle of something."""
        return bool(self._torn or self._preface) or self._block >= 0

    def read(
        self, data: bytes | bytearray, receiving: Container[int]
    ) -> Iterator[tuple[int, bytes | bytearray]]:
        """The frames that `data` completes: each of those to look at, with its type, and as `USUAL`
        the others in between, together, which takes h2 less time than one by one.

        `receiving` are the streams whose content has not ended.  Raises `FrameError`.
        """
        data = self._torn + data
        self._torn = b""
        if self._preface:
            part = data[: len(self._preface)]
            if not self._preface.startswith(part):  # section 3.4
                raise FrameError(ErrorCodes.PROTOCOL_ERROR)
            self._preface = self._preface[len(part) :]
            yield USUAL, part
            data = data[len(part) :]
        start = at = 0
        try:
            while at + FRAME_HEAD <= len(data):
                size = int.from_bytes(data[at : at + 3])
                if size > FRAME:
                    raise FrameError(ErrorCodes.FRAME_SIZE_ERROR)
                end = at + FRAME_HEAD + size
                if end > len(data):
                    break
                kind, flags = data[at + 3], data[at + 4]
                self._count(kind, flags, size)
                if not (self.greeted and is_usual(kind, flags, data, at, receiving)):
                    if start < at:
                        yield USUAL, data[start:at]
                    start, at = end, end
                    yield kind, data[end - FRAME_HEAD - size : end]
                at = end
            if start < at:
                yield USUAL, data[start:at]
        finally:
            self._torn = bytes(data[at:])

    def _count(self, kind: int, flags: int, size: int) -> None:
        """Pay for a frame, and bound a list of fields that comes in several."""
        if (self._block >= 0) != (kind == CONTINUATION):  # sections 4.3 and 6.10
            raise FrameError(ErrorCodes.PROTOCOL_ERROR)
        self.credit.spend(RESET if kind == RST_STREAM else 1)
        if kind in (HEADERS, CONTINUATION):
            self._block = max(self._block, 0) + size
            if self._block > 2 * MAX_HEAD:
                raise FrameError(ErrorCodes.ENHANCE_YOUR_CALM)
            if flags & END_HEADERS:
                self._block = -1
        if self.credit.left < 0:
            raise FrameError(ErrorCodes.ENHANCE_YOUR_CALM)


def is_usual(
    kind: int, flags: int, data: bytes | bytearray, at: int, receiving: Container[int]
) -> bool:
    """Whether h2 may have the frame that begins there as it is, together with others."""
    if kind == HEADERS:
        if not flags & END_STREAM:
            return False
        return not (flags & PRIORITIZED and depends_on_itself(flags, data, at))
    if kind == WINDOW_UPDATE:
        return data[at + 2] == 4 and number_at(data, at + FRAME_HEAD) > 0
    if kind == DATA:
        return number_at(data, at + STREAM_AT) in receiving
    return kind == CONTINUATION


class Fault(NamedTuple):
    error: ErrorCodes
    ends_connection: bool = True
    """Otherwise only the stream is reset."""


def find_fault(frame: bytearray, is_idle: bool, greeted: bool) -> Fault | None:
    """What is wrong with a frame, where h2 would not notice it or would respond differently.

    `is_idle` means that its stream has not been opened.
    """
    kind, flags = frame[3], frame[4]
    id, size = number_at(frame, STREAM_AT), len(frame) - FRAME_HEAD
    if not greeted and (kind != SETTINGS or flags & ACK):  # section 3.4
        return Fault(ErrorCodes.PROTOCOL_ERROR)
    if SIZES.get(kind, size) != size or (kind == SETTINGS and size and flags & ACK):
        return Fault(ErrorCodes.FRAME_SIZE_ERROR)
    if kind == PUSH_PROMISE or (kind == RST_STREAM and is_idle):
        return Fault(ErrorCodes.PROTOCOL_ERROR)
    if (kind == PRIORITY and not id) or (kind == GOAWAY and id):
        return Fault(ErrorCodes.PROTOCOL_ERROR)
    if kind == PRIORITY and size != 5:
        return Fault(ErrorCodes.FRAME_SIZE_ERROR, is_idle)
    if kind == WINDOW_UPDATE and id and not number_at(frame, FRAME_HEAD):  # section 6.9
        return Fault(ErrorCodes.PROTOCOL_ERROR, is_idle)
    if kind == GOAWAY and size < 8:
        return Fault(ErrorCodes.FRAME_SIZE_ERROR)
    return None


def is_for_h2(kind: int) -> bool:
    """Whether h2 gets frames of that type.  Priorities have no meaning any more; after a GOAWAY it
    would send nothing, though there are responses to finish; the rest is unknown."""
    return kind <= CONTINUATION and kind not in (PRIORITY, GOAWAY)


def number_at(frame: bytes | bytearray, at: int) -> int:
    """A number of 31 bits."""
    return int.from_bytes(frame[at : at + 4]) & 0x7FFF_FFFF


def depends_on_itself(flags: int, data: bytes | bytearray, at: int) -> bool:
    """Whether a HEADERS frame makes its stream depend on itself, for which h2 ends the connection;
    the dependency has no meaning any more."""
    dependency = at + FRAME_HEAD + bool(flags & PADDED)
    return number_at(data, dependency) == number_at(data, at + STREAM_AT)


def without_dependency(flags: int, frame: bytearray) -> bytearray:
    at = FRAME_HEAD + bool(flags & PADDED)
    frame[at : at + 4] = bytes(4)
    return frame
