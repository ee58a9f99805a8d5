"""Which media type a client prefers (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knot.http.accept import MAX_ACCEPT, prefers_json

VALUES: list[tuple[bytes, bool]] = [
    (b"application/json", True),
    (b"APPLICATION/JSON;Q=0.5", True),
    (b" application/json ;q=0.5\t,", True),
    (b"application/json;q=1.000", True),
    (b"application/json;v=1", True),
    (b'application/json;v=";q=0,"', True),
    (b"text/html;v=1;q=0.9, text/html;q=0.1, application/json;q=0.5", True),
    (b"application/json, text/html;q=0.999", True),
    (b"application/json, text/*", True),  # it is named more exactly
    (b"application/json, */*", True),
    (b"application/*, */*", True),
    (b"text/html;q=0, */*;q=0.1", True),
    (b"text/*;q=0.1, */*", True),
    (b"", False),
    (b"*/*", False),
    (b"text/html", False),
    (b"text/html, application/json", False),
    (b"application/json, text/html", False),
    (b"application/json;q=0, application/*", False),
    (b"application/json;q=0, text/html;q=0", False),
    (b"application/json;q=0", False),
    (b"application/json;q=0.0005", False),  # malformed, as all that follow
    (b"application/json;q=1.5", False),
    (b"application/json;q=.5", False),
    (b"application/json;q=", False),
    (b"application/json;q=a", False),
    (b"application/json q=1", False),
    (b"application/json-seq", False),
    (b"xapplication/json", False),
    (b'"application/json"', False),
    (b'"application/json', True),  # a quote that is never closed counts as nothing
    (b"a/b" * 170 + b", application/json", False),
]


@pytest.mark.parametrize(("value", "expected"), VALUES, ids=lambda case: repr(case)[:50])
def test_json_is_preferred_by(value: bytes, expected: bool) -> None:
    assert prefers_json(value) == expected


weights = st.integers(0, 1000).map(lambda weight: b"%d.%03d" % divmod(weight, 1000))
names = st.sampled_from([b"application/json", b"text/html", b"text/*", b"application/*", b"*/*"])
ranges = st.dictionaries(names, weights, max_size=5)


@given(ranges)
def test_the_most_specific_range_counts_and_the_greater_weight_wins(
    given: dict[bytes, bytes],
) -> None:
    def weight(*names: bytes) -> float:
        return next((float(given[name]) for name in (*names, b"*/*") if name in given), 0)

    value = b", ".join(b"%b;q=%b" % entry for entry in given.items())
    json = weight(b"application/json", b"application/*")
    page = weight(b"text/html", b"text/*")
    if json != page:
        assert prefers_json(value) == (json > page)


@given(st.binary(max_size=MAX_ACCEPT + 5))
def test_any_value_prefers_something(value: bytes) -> None:
    prefers_json(value)


def test_no_value_takes_long() -> None:
    for piece in (b'"', b'"\\', b"\\", b",", b";", b" ", b'a"', b'";', b"q=0"):
        started = process_time()
        prefers_json(piece * (MAX_ACCEPT // len(piece)))
        assert process_time() - started < 0.5
