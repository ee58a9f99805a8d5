"""Range requests (RFC 9110, section 14)."""

from __future__ import annotations

from email.parser import BytesParser
from itertools import pairwise
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knot.http.ranges import GAP, MAX_RANGES, Range, coalesce, parse_range, part_heads

CASES: list[tuple[bytes, list[tuple[int, int]] | None]] = [
    # Of 1,000 bytes:
    (b"bytes=0-99", [(0, 100)]),
    (b"bytes=0-0", [(0, 1)]),
    (b"bytes=999-", [(999, 1000)]),
    (b"bytes=0-", [(0, 1000)]),
    (b"bytes=100-5000", [(100, 1000)]),
    (b"bytes=-10", [(990, 1000)]),
    (b"bytes=-5000", [(0, 1000)]),
    (b"Bytes=0-9", [(0, 10)]),
    (b"bytes=000-0009", [(0, 10)]),
    (b"bytes=5-" + b"9" * 30_000, [(5, 1000)]),
    (b"bytes=-" + b"9" * 30_000, [(0, 1000)]),
    (b"bytes=" + b"0" * 10_000 + b"5-" + b"0" * 10_000 + b"6", [(5, 7)]),
    (b"bytes=0-9,200-209", [(0, 10), (200, 210)]),
    (b"bytes=200-209 , , 0-9", [(200, 210), (0, 10)]),
    (b"bytes=, 200-209\t,", [(200, 210)]),
    (b"bytes=0-9,5-19", [(0, 20)]),
    (b"bytes=0-9,10-19", [(0, 20)]),
    (b"bytes=0-9,50-59", [(0, 60)]),
    (b"bytes=0-9,500-509,300-309,20-320", [(0, 321), (500, 510)]),
    (b"bytes=0-9,2000-", [(0, 10)]),
    # Nothing that there is:
    (b"bytes=1000-", []),
    (b"bytes=1000-1005,-0", []),
    (b"bytes=-0", []),
    (b"bytes=-000", []),
    (b"bytes=" + b"9" * 5000 + b"-", []),
    (b"bytes=" + b"9" * 5000 + b"-" + b"9" * 5000, []),
    # To be ignored:
    (b"", None),
    (b"bytes", None),
    (b"bytes=", None),
    (b"bytes=,", None),
    (b"lines=0-9", None),
    (b"bytes=9-0", None),
    (b"bytes=a-b", None),
    (b"bytes=-", None),
    (b"bytes=0-9-", None),
    (b"bytes=--9", None),
    (b"bytes=+1-2", None),
    (b"bytes=0-9;5", None),
    (b"bytes=" + b"9" * 5000 + b"-" + b"9" * 4999, None),
    (b"bytes=10-00000000000000000009", None),
    (b"bytes = 0-9", None),
    (b"bytes =0-9", None),
    (b"bytes= 0-9", None),
    (b"bytes=0 - 9", None),
    (b"bytes=\x0b0-9", None),
    (b"bytes=0-,0-", None),
    (b"bytes=" + b"0-0," * (MAX_RANGES + 1), None),
    (b"bytes=" + b"," * 100_000, None),
]


@pytest.mark.parametrize(("value", "expected"), CASES, ids=lambda case: repr(case)[:50])
def test_ranges_of_a_thousand_bytes(value: bytes, expected: list[tuple[int, int]] | None) -> None:
    assert parse_range(value, 1000) == expected


def test_a_long_number_costs_nothing() -> None:
    """Digits that could belong to two parts of a pattern take minutes to be refused."""
    for value in (b"0" * 30_000, b"0" * 30_000 + b"x", b"1-" + b"0" * 30_000 + b"x"):
        started = process_time()
        assert parse_range(b"bytes=" + value, 1000) is None
        assert process_time() - started < 1


def test_an_empty_representation_has_no_ranges() -> None:
    for value in (b"bytes=0-", b"bytes=-5", b"bytes=0-0"):
        assert parse_range(value, 0) is None


@given(st.binary(max_size=40), st.integers(0, 100))
def test_any_bytes_are_ranges_or_ignored(value: bytes, size: int) -> None:
    for field in (value, b"bytes=" + value):
        for start, stop in parse_range(field, size) or []:
            assert 0 <= start < stop <= size


numbers = st.integers(0, 1200)
specs = st.one_of(
    st.tuples(numbers, numbers).map(lambda pair: b"%d-%d" % (min(pair), max(pair))),
    numbers.map(lambda number: b"%d-" % number),
    numbers.map(lambda number: b"-%d" % number),
)


@given(st.lists(specs, min_size=1, max_size=MAX_RANGES))
def test_the_bytes_are_those_that_were_asked_for(wanted: list[bytes]) -> None:
    asked = [covered(spec) for spec in wanted]
    ranges = parse_range(b"bytes=" + b",".join(wanted), 1000)
    if sum(map(len, asked)) > 1000:
        assert ranges is None
        return
    assert ranges is not None
    got = [set(range(*part)) for part in ranges]
    assert set().union(*asked) <= set().union(*got)
    assert sum(map(len, got)) <= 1000
    extra = set().union(*got) - set().union(*asked)
    assert len(extra) <= GAP * len(wanted)
    for one, other in pairwise(sorted(ranges)):
        assert one.stop + GAP < other.start


def covered(spec: bytes) -> set[int]:
    """The bytes that one range has of 1,000, said as slowly as can be."""
    first, _, last = spec.partition(b"-")
    if not first:
        return set(range(1000)[max(0, 1000 - int(last)) :])
    return {at for at in range(1000) if int(first) <= at <= (int(last) if last else 1000)}


def test_ranges_that_touch_no_other_keep_their_order() -> None:
    parts = [Range(500, 510), Range(0, 10), Range(900, 910)]
    assert coalesce(parts) == parts


def test_parts_are_a_multipart_message() -> None:
    content = bytes(range(256)) * 4
    parts = [Range(0, 10), Range(500, 700)]
    *heads, end = part_heads(parts, len(content), b"text/plain", b"limit")
    body = b"".join(
        head + content[start:stop] for head, (start, stop) in zip(heads, parts, strict=True)
    )
    message = BytesParser().parsebytes(
        b"Content-Type: multipart/byteranges; boundary=limit\r\n\r\n" + body + end
    )
    assert not message.defects
    found = message.get_payload()
    assert isinstance(found, list)
    for part, (start, stop) in zip(found, parts, strict=True):
        assert part["Content-Range"] == f"bytes {start}-{stop - 1}/1024"
        assert part["Content-Type"] == "text/plain"
    assert body.count(content[500:700]) == 1
