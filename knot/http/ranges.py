"""Range requests (RFC 9110, section 14).  No I/O: a field and a size go in, ranges come out."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

MAX_RANGES: Final = 16
"""Ranges of one request.  For more than these the whole content is sent, as by nginx."""

GAP: Final = 80
"""Bytes between two ranges below which both are sent as one: the head of a part is as long."""

SPEC: Final = re.compile(rb"([0-9]++)-([0-9]*+)|-([0-9]++)")

DIGITS: Final = 19
"""Digits of the largest size that a file can have."""


class Range(NamedTuple):
    """The bytes from `start` up to `stop`."""

    start: int
    stop: int


def parse_range(value: bytes, size: int) -> list[Range] | None:
    """The ranges that a Range field asks for of a representation of `size` bytes.

    None if the field is to be ignored, which a server always may: another unit, a mistake, too
    many ranges, or more bytes than there are, so that no request makes more work than a whole
    download.  An empty list if no range can be satisfied (416).
    """
    if size == 0:
        return None
    unit, equals, specs = value.partition(b"=")
    if not equals or unit.lower() != b"bytes" or specs.startswith((b" ", b"\t")):
        return None
    wanted = [spec.strip(b" \t") for spec in specs.split(b",", MAX_RANGES + 1)]
    wanted = [spec for spec in wanted if spec]  # an empty member of a list counts nothing (5.6.1)
    if not 0 < len(wanted) <= MAX_RANGES:
        return None
    ranges = []
    for spec in wanted:
        found = SPEC.fullmatch(spec)
        if found is None:
            return None
        first, last, suffix = found.groups()
        if suffix is not None:
            part = Range(max(0, size - number(suffix)), size)
        elif last and magnitude(last) < magnitude(first):
            return None
        else:
            part = Range(number(first), min(number(last) + 1 if last else size, size))
        if part.start < part.stop:
            ranges.append(part)
    if sum(stop - start for start, stop in ranges) > size:
        return None
    return coalesce(ranges)


def number(digits: bytes) -> int:
    """`digits` as a number, or one that is larger than every size: to convert thousands of them
    takes long, and Python refuses."""
    digits = digits.lstrip(b"0")
    return int(digits or b"0") if len(digits) <= DIGITS else 10**DIGITS


def magnitude(digits: bytes) -> tuple[int, bytes]:
    """A key that compares as the number does."""
    digits = digits.lstrip(b"0")
    return len(digits), digits


def coalesce(ranges: list[Range]) -> list[Range]:
    """The same bytes without overlaps, and without gaps too small for a part (15.3.7.2).

    Ranges that touch no other keep the client's order.
    """
    merged: list[Range] = []
    for part in ranges:
        near = [
            other
            for other in merged
            if part.start <= other.stop + GAP and other.start <= part.stop + GAP
        ]
        if near:
            at = merged.index(near[0])
            part = Range(
                min(part.start, *(other.start for other in near)),
                max(part.stop, *(other.stop for other in near)),
            )
            merged = [other for other in merged if other not in near]
            merged.insert(at, part)
        else:
            merged.append(part)
    return merged


def content_range(part: Range, size: int) -> bytes:
    """The value of a Content-Range field (14.4)."""
    return b"bytes %d-%d/%d" % (part.start, part.stop - 1, size)


def part_heads(ranges: list[Range], size: int, type: bytes, boundary: bytes) -> list[bytes]:
    """The heads of the parts of a multipart/byteranges, and what follows the last part (14.6)."""
    heads = [
        b"\r\n--%b\r\nContent-Type: %b\r\nContent-Range: %b\r\n\r\n"
        % (boundary, type, content_range(part, size))
        for part in ranges
    ]
    heads[0] = heads[0].removeprefix(b"\r\n")
    return [*heads, b"\r\n--%b--\r\n" % boundary]
