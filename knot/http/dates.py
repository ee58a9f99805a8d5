"""Dates as HTTP writes them (RFC 9110, section 5.6.7).  No I/O, and no clock.

Not by `email.utils`, which brings sockets.
"""

from __future__ import annotations

import re
from calendar import timegm
from functools import lru_cache
from time import gmtime
from typing import Final

DAYS: Final = (b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun")
MONTHS: Final = (
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun",
    b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
)  # fmt: skip

_MONTH = rb"(?P<month>" + b"|".join(MONTHS) + rb")"
_TIME = rb"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"

FORMS: Final = [
    re.compile(form)
    for form in (
        rb"[A-Z][a-z]{2}, (?P<day>\d\d) " + _MONTH + rb" (?P<year>\d{4}) " + _TIME + rb" GMT",
        rb"[A-Z][a-z]{5,8}, (?P<day>\d\d)-" + _MONTH + rb"-(?P<year>\d\d) " + _TIME + rb" GMT",
        rb"[A-Z][a-z]{2} " + _MONTH + rb" (?P<day>[ \d]\d) " + _TIME + rb" (?P<year>\d{4})",
    )
]
"""The three forms of a date: the current one, that of RFC 850, and that of asctime()."""

PIVOT: Final = 70
"""Two-digit years from here on belong to the last century: RFC 850's form died out before 2038."""


@lru_cache(256)  # a browser sends the date it was given again and again
def parse_http_date(value: bytes) -> int | None:
    """Seconds since the epoch, or None if it is not a valid HTTP date."""
    for form in FORMS:
        found = form.fullmatch(value.strip())
        if found:
            break
    else:
        return None
    year, day = int(found["year"]), int(found["day"])
    month = MONTHS.index(found["month"]) + 1
    if len(found["year"]) == 2:
        year += 1900 if year >= PIVOT else 2000
    hour, minute, second = int(found["hour"]), int(found["minute"]), int(found["second"])
    if year < 1 or not 1 <= day <= 31 or hour > 23 or minute > 59 or second > 60:
        return None
    return timegm((year, month, day, hour, minute, second))


@lru_cache(4096)
def http_date(second: int) -> bytes:
    """A second since the epoch in the current form: ``Sun, 06 Nov 1994 08:49:37 GMT``."""
    year, month, day, hour, minute, second, weekday, *_ = gmtime(second)
    return b"%b, %02d %b %04d %02d:%02d:%02d GMT" % (
        DAYS[weekday], day, MONTHS[month - 1], year, hour, minute, second,
    )  # fmt: skip
