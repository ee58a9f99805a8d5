"""Bytes to requests (RFC 9112)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knot.http.request import (
    MAX_HEAD,
    MAX_SAID,
    MAX_TARGET,
    PREFERS_JSON,
    BadRequest,
    ExtraFieldsParser,
    LoggingParser,
    Request,
    RequestParser,
    joined,
    without,
)

HOST = b"Host: example.org\r\n"


def parse(*chunks: bytes) -> list[Request | BadRequest]:
    parser = RequestParser()
    return [request for chunk in chunks for request in parser.feed(chunk)]


def get(target: bytes = b"/", fields: bytes = HOST) -> bytes:
    return b"GET %b HTTP/1.1\r\n%b\r\n" % (target, fields)


KEPT = [
    # what the client sends, (method, target, keep_alive) of each request
    (get(), [(b"GET", b"/", True)]),
    (b"\r\n" + get(), [(b"GET", b"/", True)]),
    (get(b"/a?b=%20"), [(b"GET", b"/a?b=%20", True)]),
    (get(b"http://example.org/a"), [(b"GET", b"http://example.org/a", True)]),
    (get() + get(b"/2") + get(b"/3"), [(b"GET", b, True) for b in (b"/", b"/2", b"/3")]),
    (get(fields=HOST + b"Connection: close\r\n"), [(b"GET", b"/", False)]),
    (b"HEAD / HTTP/1.0\r\n\r\n", [(b"HEAD", b"/", False)]),
    (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", [(b"GET", b"/", True)]),
    (get(fields=HOST + b"Content-Length: 0\r\n"), [(b"GET", b"/", True)]),
    # What follows a request that closes the connection is not looked at.
    (get(fields=HOST + b"Connection: close\r\n") + get(), [(b"GET", b"/", False)]),
    (get(fields=HOST + b"Connection: close\r\n") + b"\0", [(b"GET", b"/", False)]),
    # Content is of no use here, so the connection ends after the answer.
    (get(fields=HOST + b"Content-Length: 3\r\n") + b"abc" + get(), [(b"GET", b"/", False)]),
    (get(fields=HOST + b"Content-Length: 3\r\n"), [(b"GET", b"/", False)]),
    (
        get(fields=HOST + b"Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n" + get(),
        [(b"GET", b"/", False)],
    ),
    # A client that expects "100 Continue" gets the answer at once (RFC 9110, section 10.1.1).
    (
        get(fields=HOST + b"Expect: 100-continue\r\nContent-Length: 3\r\n"),
        [(b"GET", b"/", False)],
    ),
    (get(fields=b"host: x\r\n"), [(b"GET", b"/", True)]),
    (get(fields=b"HOST: [::1]:80\r\n"), [(b"GET", b"/", True)]),
    (get(fields=b"Host: \r\n"), [(b"GET", b"/", True)]),
    (get(fields=HOST + b"cOnnection: CLOSE\r\n"), [(b"GET", b"/", False)]),
    (get(fields=HOST + b"Connection: keep-alive\r\n"), [(b"GET", b"/", True)]),
    # What is newer is answered in HTTP/1.1 (RFC 9110, section 2.5).
    (
        b"GET / HTTP/1.2\r\n" + HOST + b"\r\n" + get(b"/2"),
        [(b"GET", b"/", True), (b"GET", b"/2", True)],
    ),
    (
        get(b"/1.5") + b"GET /1.9 HTTP/1.9\r\n" + HOST + b"Connection: close\r\n\r\n",
        [(b"GET", b"/1.5", True), (b"GET", b"/1.9", False)],
    ),
    (b"CONNECT a:80 HTTP/1.1\r\n" + HOST + b"\r\n", [(b"CONNECT", b"a:80", False)]),
    # An upgrade is declined (RFC 9110, section 7.8).
    (
        get(fields=HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n") + b"PRI * HTTP/2.0",
        [(b"GET", b"/", False)],
    ),
]


@pytest.mark.parametrize(("sent", "expected"), KEPT)
def test_requests_are_found(sent: bytes, expected: list[tuple[bytes, bytes, bool]]) -> None:
    requests = parse(sent)
    assert [request[:3] for request in requests] == expected


@pytest.mark.parametrize(("sent", "expected"), KEPT)
def test_they_are_found_byte_by_byte_too(
    sent: bytes, expected: list[tuple[bytes, bytes, bool]]
) -> None:
    requests = parse(*(bytes([byte]) for byte in sent))
    assert [request[:2] for request in requests] == [entry[:2] for entry in expected]


REFUSED = [
    (b"\0\1\2\3", 400),
    (b"\x16\x03\x01\x02\0", 400),  # the first bytes of TLS
    (b"GET /\r\n\r\n", 400),  # HTTP/0.9
    (b"GET / HTTP/2.0\r\n\r\n", 505),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (get(fields=HOST + HOST), 400),
    (b"GET / HTTP/1.0\r\n" + HOST + HOST + b"\r\n", 400),
    (get(fields=HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n"), 400),
    (get(fields=HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400),
    (get(fields=HOST + b"Content-Length: -1\r\n"), 400),
    (get(fields=HOST + b"no colon\r\n"), 400),
    (get(fields=HOST + b"a : b\r\n"), 400),
    (get(fields=HOST + b"a: \0\r\n"), 400),
    (b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.10\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.29\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.2 \r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/0.8\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/3.7\r\n" + HOST + b"\r\n", 505),
    (get(b"/a#b"), 400),
    (get(b"http://a@b/"), 400),
    (get(b"*"), 400),
    (b"CONNECT / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"GET / HTTP/2.0\r\n" + HOST + b"Connection: keep-alive\r\n\r\n", 505),
    (b"GET /\r\n" + HOST + b"Connection: keep-alive\r\n\r\n", 400),
    (b"GET /x\nHost: x\n\n", 400),  # taken for HTTP/0.9 with a head by llhttp (issue 877)
    (b"GET / HTTP/1.1\nHost: x\n\n", 400),  # bare LF
    (b"GET / HTTP/1.1\r\n" + HOST + b"a: b\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n " + HOST + b"\r\n", 400),
    (get(fields=HOST + b"a: b\r\n folded\r\n"), 400),  # obs-fold (RFC 9112, section 5.2)
    (get(fields=HOST + b"a: b\rc\r\n"), 400),  # bare CR (section 2.2)
    (get(fields=HOST + b": b\r\n"), 400),
    (get(fields=HOST + b"a(: b\r\n"), 400),
    (get(b"/\x01"), 400),
    (get(b"/\xff"), 400),
    (get(b"a"), 400),
    (get(fields=b"Host: a b\r\n"), 400),
    (get(fields=b"Host: a/b\r\n"), 400),
    (get(fields=b"hOsT: x\r\nHost: x\r\n"), 400),
    (get(fields=HOST + b"Content-Length: 1, 1\r\n"), 400),
    (get(fields=HOST + b"Content-Length: +1\r\n"), 400),
    (get(fields=HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n"), 400),
    (get(fields=HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n"), 400),
    (get(fields=HOST + b"Transfer-Encoding: gzip, chunked\r\n"), 501),
    (get(fields=HOST + b"Transfer-Encoding: identity\r\n"), 501),
    (get(fields=HOST + b"If-Match: \r\n" * 33), 431),
    (b"GET /" + b"a" * MAX_TARGET, 414),
    (get(b"/" + b"a" * MAX_TARGET), 414),
    (b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    (b"G\0T / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_HEAD // 6 + 1), 431),
]


@pytest.mark.parametrize(("sent", "status"), REFUSED, ids=lambda case: repr(case)[:60])
def test_what_is_no_request_is_refused(sent: bytes, status: int) -> None:
    for chunks in ([sent], [sent[:9], sent[9:]]):
        parser = RequestParser()
        requests = [request for chunk in chunks for request in parser.feed(chunk)]
        assert [type(request) for request in requests] == [BadRequest]
        assert isinstance(requests[0], BadRequest)
        assert requests[0].status == status
        assert parser.ended
        assert parser.unread
        assert parser.feed(get()) == []


def test_a_newer_version_is_found_wherever_the_data_is_cut() -> None:
    """Other lines that look like that request's, and other versions, do not mislead."""
    newer = b"GET /1.3 HTTP/1.2\r\nHost: x\r\nX: %b\r\n\r\n"
    for sent in (
        newer % b"GET /1.3 HTTP/1.4" + b"\r\n" + newer % b"",
        get(b"/1.9", HOST + b"X: GET /1.3 HTTP/1.2\r\n") + newer % b"GET / HTTP/1.9",
        newer % b"" + b"GET /1.2 HTTP/1.20\r\n",
        newer % b"" + b"GET / HTTP/1.2.2\r\n\r\n",
        get() + b"\r" + newer % b"",
        get() + b"GET /2 HTTP/1.2 HTTP/1.2\r\n\r\n",
        get() + b"GET /HTTP/1.2 HTTP/1.3.3\r\n\r\n",
        get() + b"HEAD http://a/ HTTP/1.7\r\nHost: a\r\n\r\n" + get() + b"GET / HTTP/2.1\r\n\r\n",
    ):
        whole = parse(sent)
        assert len(whole) > 1
        for first in range(len(sent)):
            for second in range(first, len(sent), 7):
                assert parse(sent[:first], sent[first:second], sent[second:]) == whole


def test_the_fields_that_an_answer_may_depend_on_are_kept() -> None:
    fields = b'IF-None-Match: "a"\r\nRange: bytes=0-1\r\nX: y\r\nif-none-match: "b"\r\n'
    first, second = parse(get(fields=HOST + fields) + get())
    assert isinstance(first, Request)
    assert isinstance(second, Request)
    assert joined(first.fields) == {b"if-none-match": b'"a", "b"', b"range": b"bytes=0-1"}
    assert second.fields == ()


def test_an_old_client_is_old_whatever_its_fields_are_called() -> None:
    (request,) = parse(b"GET / HTTP/1.0\r\nProxy-Connection: keep-alive\r\n\r\n")
    assert request == Request(b"GET", b"/", keep_alive=True, http_1_0=True)


def test_an_error_of_knot_itself_is_no_fault_of_the_client() -> None:
    class Broken(RequestParser):
        def on_url(self, target: bytes) -> None:
            raise MemoryError

    with pytest.raises(httptools.HttpParserCallbackError):
        Broken().feed(get())


def test_a_request_before_a_bad_one_is_answered() -> None:
    good, bad = parse(get(b"/good") + b"\0")
    assert isinstance(good, Request)
    assert good.target == b"/good"
    assert isinstance(bad, BadRequest)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_any_bytes_give_requests_or_a_refusal(data: bytes, cuts: list[int]) -> None:
    parser = RequestParser()
    places = [0, *sorted(cuts), len(data)]
    found = [r for a, b in pairwise(places) if data[a:b] for r in parser.feed(data[a:b])]
    refusals = [r for r in found if isinstance(r, BadRequest)]
    assert refusals == found[len(found) - len(refusals) :]
    assert len(refusals) <= 1


def test_what_a_log_needs_is_kept_apart_from_the_request() -> None:
    parser = LoggingParser()
    said = b"user-agent: me\r\nReferer: there\r\n"
    first, second, bad = parser.feed(
        get(fields=HOST + said) + get() + get(fields=b"User-Agent: x\r\n")
    )
    assert first == second
    assert isinstance(bad, BadRequest)
    assert list(parser.said) == [(b"there", b"me"), (b"", b""), (b"", b"x")]
    parser.reset()
    parser.feed(b"GET / HTTP/1.1\r\nUser-Agent: " + b"x" * 5000)
    (refused,) = parser.feed(b"\0")
    assert isinstance(refused, BadRequest)
    assert all(len(text) <= MAX_SAID for text in parser.said[0])


WANTED = frozenset({b"host", b"authorization", b"x-forwarded-for"})


@pytest.mark.parametrize("parser", [ExtraFieldsParser, LoggingParser])
@pytest.mark.parametrize("spell", [bytes.lower, bytes.title, bytes.upper, bytes.swapcase])
def test_a_field_that_is_wanted_is_taken_once_however_it_is_spelt(
    parser: type[ExtraFieldsParser], spell: Callable[[bytes], bytes]
) -> None:
    said = [(b"host", b"a"), (b"authorization", b"b"), (b"x-forwarded-for", b"c")]
    others = [(b"if-range", b"d"), (b"cookie", b"e"), (b"x-other", b"f"), (b"user-agent", b"g")]
    lines = b"".join(b"%b: %b\r\n" % (spell(name), value) for name, value in said + others)
    (request,) = parser(WANTED).feed(get(fields=lines))
    assert isinstance(request, Request)
    assert request.fields == (*said, (b"if-range", b"d"))
    assert without(request, WANTED) == request._replace(fields=((b"if-range", b"d"),))
    (twice,) = parser(WANTED).feed(get(fields=lines + b"X-Forwarded-For: again\r\n"))
    assert isinstance(twice, Request)
    assert twice.fields.count((b"x-forwarded-for", b"again")) == 1
    (bad,) = parser(WANTED).feed(get(fields=lines + b"Host: again\r\n"))
    assert isinstance(bad, BadRequest)


def test_a_request_that_prefers_json_equals_every_other_that_does() -> None:
    pages = [b"Accept: text/html, application/json\r\n", b"Accept: */*\r\n", b""]
    asks = [b"ACCEPT: application/json, text/plain\r\n", b"accept: application/*\r\n"]
    for lines, fields in ((pages, ()), (asks, (PREFERS_JSON,))):
        requests = [request for line in lines * 2 for request in parse(get(fields=HOST + line))]
        assert set(requests) == {Request(b"GET", b"/", fields=fields)}
        assert parse(*(get(fields=HOST + line) for line in lines)) == requests[: len(lines)]
