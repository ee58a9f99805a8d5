"""Preconditions (RFC 9110, section 13): is the request to be answered, or does the client have the
representation already?

No I/O: fields and validators go in, a status comes out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from knot.http.dates import parse_http_date

Fields = Mapping[bytes, bytes]
"""Lower-case field names to values; several lines of one name are joined by a comma."""

NOT_MODIFIED: Final = 304
FAILED: Final = 412

TAG: Final = re.compile(rb'(?:^|,)[ \t]*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")(?=[ \t]*(?:,|\Z))')
"""An entity tag as a member of a list (section 8.8.3); it may have commas in it."""


def evaluate(fields: Fields, etag: bytes, modified: int | None) -> int | None:
    """The status that the preconditions of a GET or HEAD lead to; None to answer as usual.

    `etag` is the representation's tag with its quotes, `modified` its modification date in whole
    seconds since the epoch; None if it has none, and then conditions on dates are ignored (13.1.3,
    13.1.4).  The order is that of section 13.2.2.
    """
    if b"if-match" in fields:
        met = check_if_match(fields[b"if-match"], etag)
    else:
        met = check_if_unmodified_since(fields.get(b"if-unmodified-since", b""), modified)
    if not met:
        return FAILED
    if b"if-none-match" in fields:
        new = check_if_none_match(fields[b"if-none-match"], etag)
    else:
        new = check_if_modified_since(fields.get(b"if-modified-since", b""), modified)
    return None if new else NOT_MODIFIED


def check_if_match(value: bytes, etag: bytes) -> bool:
    """True if one of the tags is the representation's, by strong comparison (13.1.1)."""
    return value.strip() == b"*" or (etag.startswith(b'"') and etag in TAG.findall(value))


def check_if_none_match(value: bytes, etag: bytes) -> bool:
    """True if none of the tags is the representation's, by weak comparison (13.1.2)."""
    if value.strip() == b"*":
        return False
    etag = etag.removeprefix(b"W/")
    return etag not in (tag.removeprefix(b"W/") for tag in TAG.findall(value))


def check_if_modified_since(value: bytes, modified: int | None) -> bool:
    """True if it was modified after that date, or if either is unknown (13.1.3)."""
    date = parse_http_date(value)
    return date is None or modified is None or modified > date


def check_if_unmodified_since(value: bytes, modified: int | None) -> bool:
    """True if it was not modified after that date, or if either is unknown (13.1.4)."""
    date = parse_http_date(value)
    return date is None or modified is None or modified <= date


def range_applies(fields: Fields, etag: bytes, modified: int | None) -> bool:
    """Whether the Range field counts: without an If-Range, or with one that fits (13.1.5).

    A tag is compared strongly, a date exactly; `modified` is as in `evaluate`.
    """
    value = fields.get(b"if-range")
    if value is None:
        return True
    value = value.strip()
    if value.endswith(b'"'):
        return value == etag and etag.startswith(b'"')
    return modified is not None and parse_http_date(value) == modified
