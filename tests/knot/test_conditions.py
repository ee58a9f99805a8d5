"""Preconditions (RFC 9110, section 13)."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knot.http.conditions import evaluate, range_applies
from knot.http.dates import http_date, parse_http_date

ETAG = b'"1a-5"'
MODIFIED = 784111777
DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
BEFORE = b"Sun, 06 Nov 1994 08:49:36 GMT"
AFTER = b"Sun, 06 Nov 1994 08:49:38 GMT"

CASES: list[tuple[dict[bytes, bytes], int | None]] = [
    ({}, None),
    # 13.1.1
    ({b"if-match": ETAG}, None),
    ({b"if-match": b"*"}, None),
    ({b"if-match": b'"x", "1a-5"'}, None),
    ({b"if-match": b'"x"'}, 412),
    ({b"if-match": b'W/"1a-5"'}, 412),
    ({b"if-match": b"1a-5"}, 412),
    ({b"if-match": b'w/"1a-5"'}, 412),
    ({b"if-match": b'x"1a-5"'}, 412),
    ({b"if-match": b'"x""1a-5"'}, 412),
    ({b"if-match": b""}, 412),
    # 13.1.2
    ({b"if-none-match": ETAG}, 304),
    ({b"if-none-match": b"*"}, 304),
    ({b"if-none-match": b'W/"1a-5"'}, 304),
    ({b"if-none-match": b'"x,y" ,, W/"z","1a-5"'}, 304),
    ({b"if-none-match": b'"x"'}, None),
    ({b"if-none-match": b'"x, 1a-5"'}, None),
    ({b"if-none-match": b"1a-5"}, None),
    ({b"if-none-match": b'w/"1a-5"'}, None),
    ({b"if-none-match": b'"x", w/"1a-5", "y"'}, None),
    ({b"if-none-match": b'"1a-5"x, "y"'}, None),
    ({b"if-none-match": b""}, None),
    # 13.1.3
    ({b"if-modified-since": DATE}, 304),
    ({b"if-modified-since": AFTER}, 304),
    ({b"if-modified-since": BEFORE}, None),
    ({b"if-modified-since": b"yesterday"}, None),
    # 13.1.4
    ({b"if-unmodified-since": DATE}, None),
    ({b"if-unmodified-since": AFTER}, None),
    ({b"if-unmodified-since": BEFORE}, 412),
    ({b"if-unmodified-since": b"yesterday"}, None),
    # 13.2.2: a tag counts and the date beside it does not; a failure comes before a 304
    ({b"if-match": ETAG, b"if-unmodified-since": BEFORE}, None),
    ({b"if-none-match": b'"x"', b"if-modified-since": AFTER}, None),
    ({b"if-none-match": ETAG, b"if-modified-since": BEFORE}, 304),
    ({b"if-match": b'"x"', b"if-none-match": ETAG}, 412),
    ({b"if-match": ETAG, b"if-none-match": ETAG}, 304),
    ({b"if-unmodified-since": AFTER, b"if-modified-since": AFTER}, 304),
]


@pytest.mark.parametrize(("fields", "status"), CASES)
def test_conditions_lead_to_a_status(fields: dict[bytes, bytes], status: int | None) -> None:
    assert evaluate(fields, ETAG, MODIFIED) == status


@pytest.mark.parametrize(
    ("value", "applies"),
    [
        (ETAG, True),
        (b' "1a-5" ', True),
        (b'"x"', False),
        (b'W/"1a-5"', False),
        (b'w/"1a-5"', False),
        (b'"x", "1a-5"', False),
        (DATE, True),
        (AFTER, False),
        (BEFORE, False),
        (b"yesterday", False),
        (b"", False),
    ],
)
def test_a_range_applies_to_the_same_representation_only(value: bytes, applies: bool) -> None:
    assert range_applies({b"if-range": value}, ETAG, MODIFIED) == applies
    assert range_applies({}, ETAG, MODIFIED)


@pytest.mark.parametrize(
    "date",
    [DATE, b"Sunday, 06-Nov-94 08:49:37 GMT", b"Sun Nov  6 08:49:37 1994", b" %b " % DATE],
)
def test_a_date_has_three_forms(date: bytes) -> None:
    assert parse_http_date(date) == MODIFIED


@pytest.mark.parametrize(
    "date",
    [
        b"",
        b"0",
        b"Sun, 6 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 08:49:37",
        b"Sun, 06 Nov 1994 08:49:37 UTC",
        b"Sun, 06 Nov 1994 24:49:37 GMT",
        b"Sun, 06 Nov 1994 08:60:37 GMT",
        b"Sun, 00 Nov 1994 08:49:37 GMT",
        b"Sun, 32 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nox 1994 08:49:37 GMT",
        b"Sun, 06 Nov 0000 08:49:37 GMT",
    ],
)
def test_what_is_no_date(date: bytes) -> None:
    assert parse_http_date(date) is None


@given(st.integers(0, 4102444800))
def test_dates_as_they_are_sent_come_back(second: int) -> None:
    assert parse_http_date(formatdate(second, usegmt=True).encode()) == second


@given(st.binary(max_size=60))
def test_any_bytes_are_a_date_or_none(value: bytes) -> None:
    parse_http_date(value)
    for name in (b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"):
        assert evaluate({name: value}, ETAG, MODIFIED) in (None, 304, 412)
    range_applies({b"if-range": value}, ETAG, MODIFIED)


tags = st.binary(max_size=6).map(lambda tag: b'"%b"' % bytes(set(tag) - set(range(33)) - {34, 127}))


@given(st.lists(tags, max_size=5), st.integers(0, 5), st.booleans())
def test_a_tag_is_found_in_any_list_that_has_it(others: list[bytes], at: int, weak: bool) -> None:
    has = ETAG in others
    listed = [*others[:at], b"W/" * weak + ETAG, *others[at:]]
    assert evaluate({b"if-none-match": b", ".join(listed)}, ETAG, 0) == 304
    assert evaluate({b"if-match": b",".join(listed)}, ETAG, 0) == (
        412 if weak and not has else None
    )
    if not has:
        assert evaluate({b"if-none-match": b" , ".join(others)}, ETAG, 0) is None


@given(st.integers(0, 253_402_300_799))
def test_a_date_is_written_as_the_standard_library_does_and_read_back(second: int) -> None:
    written = http_date(second)
    assert written == formatdate(second, usegmt=True).encode()
    assert parse_http_date(written) == second
