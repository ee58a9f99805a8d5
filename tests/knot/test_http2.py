"""HTTP/2 (RFC 9113): what clients see, first without a socket, then with one."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest
import trustme
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hpack import Decoder
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import serving, with_server
from speaking_http2 import Answer, Client, Connected

from knot import AccessLog, Limits, Responder, Site, build
from knot.files import listing
from knot.files.representation import Slice, read_now
from knot.http.http2 import LINGER, MAX_DISCARDED, MAX_HELD, Streams
from knot.http.http2_fields import encoded, find_request
from knot.http.http2_frames import FRAME
from knot.http.request import (
    MAX_HEAD,
    MAX_TARGET,
    PREFERS_JSON,
    BadRequest,
    Request,
    RequestParser,
    without,
)
from knot.http.responder import Deferred, Response
from knot.models import closing, events
from knot.models import http2 as model
from knot.models.peer import Connection
from knot.settings import Settings, SiteSettings
from tame import WRITE, Event

T = TypeVar("T")

NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("site")
    (root / "index.html").write_text("home " * 200)
    (root / "small").write_bytes(b"small")
    (root / "empty").touch()
    (root / "large").write_bytes(os.urandom(1 << 16) * 8)
    (root / "files").mkdir()
    (root / "files" / "one").touch()
    return root


@pytest.fixture(scope="module")
def responder(root: Path) -> Iterator[Responder]:
    site = Site(root, listing=True)
    found = Responder(site)
    found.respond(Request(b"GET", b"/large"), NOW)  # the one that stays open
    yield found
    site.close()


# -- without a socket ------------------------------------------------------------------------------


def answer(streams: Streams, responder: Responder) -> None:
    """What was asked, and send what the windows allow."""
    while streams.can_begin:
        stream = streams.begin()
        found = responder.respond(stream.request, NOW)
        while isinstance(found, Deferred):
            found = found.finish(found.work())
        streams.answer(stream, found)
    while (turn := streams.turn()) is not None:
        stream, size = turn
        piece = stream.unsent[0]
        if isinstance(piece, Slice):
            streams.send(stream, os.pread(piece.file.fd, size, piece.start))
        else:
            streams.send(stream, piece[:size])


def converse(client: Client, streams: Streams, responder: Responder) -> None:
    """Until neither has anything to say."""
    while True:
        said = client.say()
        if said:
            streams.feed(said, NOW)
        answer(streams, responder)
        heard = streams.take()
        if not said and not heard:
            return
        client.hear(heard)


def ask(responder: Responder, *args: object, **about: object) -> Answer:
    client = Client()
    id = client.ask(*args, **about)  # type: ignore[arg-type]
    converse(client, Streams(), responder)
    return client.answers[id]


ASKED = [
    # method, path, further fields, status
    (b"GET", b"/", [], 200),
    (b"GET", b"/?query", [], 200),
    (b"HEAD", b"/", [], 200),
    (b"GET", b"/small", [], 200),
    (b"GET", b"/empty", [], 200),
    (b"GET", b"/large", [], 200),
    (b"HEAD", b"/large", [], 200),
    (b"GET", b"/", [(b"accept-encoding", b"gzip")], 200),
    (b"GET", b"/", [(b"if-none-match", b"*")], 304),
    (b"GET", b"/", [(b"if-match", b'"another"')], 412),
    (b"GET", b"/large", [(b"range", b"bytes=100-300000")], 206),
    (b"GET", b"/large", [(b"range", b"bytes=999999-")], 416),
    (b"GET", b"/files", [], 301),
    (b"GET", b"/files/", [], 200),
    (b"GET", b"/files/", [(b"accept", b"application/json")], 200),
    (b"GET", b"/nothing", [], 404),
    (b"GET", b"/%zz", [], 400),
    (b"GET", b"/../..", [], 400),
    (b"OPTIONS", b"*", [], 204),
    (b"OPTIONS", b"/", [], 204),
    (b"POST", b"/", [], 405),
    (b"DELETE", b"/", [], 405),
    (b"BREW", b"/", [], 501),
    (b"GET", b"/" + b"a" * MAX_TARGET, [], 414),
    (b"GET", b"/", [(b"if-match", b"x")] * 33, 431),
]


@pytest.mark.parametrize(("method", "path", "fields", "status"), ASKED)
def test_an_answer_is_the_one_that_http_1_1_has(
    responder: Responder,
    method: bytes,
    path: bytes,
    fields: list[tuple[bytes, bytes]],
    status: int,
) -> None:
    found = ask(responder, path, fields, method=method)
    lines = b"".join(b"%b: %b\r\n" % field for field in fields)
    sent = b"%b %b HTTP/1.1\r\nHost: example.org\r\n%b\r\n" % (method, path, lines)
    (request,) = RequestParser().feed(sent)
    expected = responder.respond(request, NOW)
    while isinstance(expected, Deferred):
        expected = expected.finish(expected.work())
    head, _, content = expected.data.partition(b"\r\n\r\n")
    for piece in expected.rest:
        if isinstance(piece, Slice):
            piece = os.pread(piece.file.fd, piece.stop - piece.start, piece.start)
        content += piece
    of_head = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    of_head.pop(b"Connection", None)
    assert found.status == status == expected.status
    assert found.fields == {name.lower(): value for name, value in of_head.items()}
    assert found.content == content
    assert found.ended
    assert found.reset is None


USUAL = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"x")]

REFUSED = [
    # fields, status
    ([], 400),
    (USUAL[1:], 400),  # no method
    (USUAL[:1] + USUAL[2:], 400),  # no scheme
    (USUAL[:2] + USUAL[3:], 400),  # no path
    (USUAL[:3], 400),  # no host
    ([*USUAL[:3], (b"host", b"")], 400),
    ([*USUAL[:3], (b":authority", b"")], 400),
    ([*USUAL, USUAL[0]], 400),
    ([*USUAL, (b"a", b"b"), (b":path", b"/")], 400),
    ([*USUAL[:3], (b"a", b"b"), USUAL[3]], 400),  # after others
    ([*USUAL, (b":unknown", b"x")], 400),
    ([*USUAL, (b":protocol", b"websocket")], 400),
    ([*USUAL[:2], (b":path", b""), USUAL[3]], 400),
    ([*USUAL[:2], (b":path", b"a"), USUAL[3]], 400),
    ([*USUAL[:2], (b":path", b"https://x/"), USUAL[3]], 400),
    ([*USUAL[:2], (b":path", b"/a b"), USUAL[3]], 400),
    ([*USUAL[:2], (b":path", b"/a\r\nb: c"), USUAL[3]], 400),
    ([*USUAL[:2], (b":path", b"/\xff"), USUAL[3]], 400),
    ([*USUAL[:3], (b":authority", b"a b")], 400),
    ([*USUAL[:3], (b":authority", b"a@b")], 400),
    ([*USUAL[:3], (b":authority", b"a%zz")], 400),
    ([*USUAL[:3], (b":authority", b"x:65536")], 400),
    ([*USUAL[:3], (b":authority", b":80")], 400),
    ([*USUAL[:3], (b":authority", b"[:]")], 400),
    ([*USUAL[:3], (b":authority", b"[1::2::3]:80")], 400),
    ([*USUAL[:2], (b":path", b"/a#b"), USUAL[3]], 400),
    ([*USUAL[:2], (b":path", b"*"), USUAL[3]], 400),
    ([(b":method", b"CONNECT"), (b":authority", b"x")], 400),
    ([*USUAL, (b"a", b"x\x01")], 400),
    ([*USUAL, (b"host", b"y")], 400),
    ([*USUAL[:3], (b"host", b"x"), (b"host", b"x")], 400),
    ([*USUAL, (b"connection", b"close")], 400),
    ([*USUAL, (b"transfer-encoding", b"chunked")], 400),
    ([*USUAL, (b"upgrade", b"h2c")], 400),
    ([*USUAL, (b"te", b"gzip")], 400),
    ([*USUAL, (b"Upper", b"x")], 400),
    ([*USUAL, (b"", b"x")], 400),
    ([*USUAL, (b"a b", b"x")], 400),
    ([*USUAL, (b"a:b", b"x")], 400),
    ([*USUAL, (b"a", b"x\0")], 400),
    ([*USUAL, (b"a", b"x\r\ny: z")], 400),
    ([*USUAL, (b"a", b" x")], 400),
    ([*USUAL, (b"a", b"x\t")], 400),
    ([(b":method", b"CONNECT"), *USUAL[1:]], 400),
    ([(b":method", b"GET "), *USUAL[1:]], 400),
    ([(b":method", b"G(T"), *USUAL[1:]], 400),
    ([(b":method", b""), *USUAL[1:]], 400),
    ([(b":method", b"get"), *USUAL[1:]], 501),
    ([(b":method", b"BREW"), *USUAL[1:]], 501),
    ([*USUAL, (b"cookie", b"x" * MAX_HEAD)], 431),
    ([*USUAL[:2], (b":path", b"/" + b"a" * MAX_TARGET), USUAL[3]], 414),
]


@pytest.mark.parametrize(("fields", "status"), REFUSED, ids=lambda case: repr(case)[-60:])
def test_what_is_no_request_is_refused(fields: list[tuple[bytes, bytes]], status: int) -> None:
    for _ in range(2):  # the second time it may have been remembered
        request, _ = find_request(fields)
        assert isinstance(request, BadRequest)
        assert request.status == status


TAKEN = [
    (USUAL, Request(b"GET", b"/")),
    ([*USUAL[:3], (b"host", b"x")], Request(b"GET", b"/")),
    ([*USUAL, (b"host", b"x")], Request(b"GET", b"/")),
    ([*USUAL, (b"te", b"trailers")], Request(b"GET", b"/")),
    ([*USUAL, (b"range", b"bytes=0-1")], Request(b"GET", b"/", fields=((b"range", b"bytes=0-1"),))),
    ([*USUAL, (b"accept", b"text/html")], Request(b"GET", b"/")),
    ([*USUAL, (b"accept", b"application/*")], Request(b"GET", b"/", fields=(PREFERS_JSON,))),
    (
        [*USUAL, (b"accept", b"text/html;q=0"), (b"accept", b"*/*")],
        Request(b"GET", b"/", fields=(PREFERS_JSON,)),
    ),
    ([*USUAL[:3], (b":authority", b"[v1.a]:80")], Request(b"GET", b"/")),
    (
        [(b":method", b"OPTIONS"), USUAL[1], (b":path", b"*"), USUAL[3]],
        Request(b"OPTIONS", b"*"),
    ),
    ([*USUAL, (b"x-empty", b"")], Request(b"GET", b"/")),
    ([(b":method", b"CONNECT"), (b":authority", b"x:1")], Request(b"CONNECT", b"x:1")),
]


@pytest.mark.parametrize(("fields", "request_"), TAKEN)
def test_what_is_a_request_is_taken(fields: list[tuple[bytes, bytes]], request_: Request) -> None:
    assert find_request(fields) == (request_, (b"", b""))


def test_further_fields_that_somebody_wants_are_had() -> None:
    wanted = frozenset({b"host", b"authorization"})
    said = [(b"user-agent", b"me"), (b"referer", b"there")]
    fields = [*USUAL, *said, (b"authorization", b"Basic x"), (b"range", b"bytes=0-1")]
    request, talk = find_request(fields, wanted)
    assert dict(request.fields) == {  # type: ignore[union-attr]
        b"host": b"x",
        b"authorization": b"Basic x",
        b"range": b"bytes=0-1",
    }
    assert talk == (b"there", b"me")


def test_a_refused_request_leaves_the_others_alone(responder: Responder) -> None:
    client = Client()
    first = client.ask(b"/small")
    bad = client.ask_as_is([*USUAL, (b"connection", b"close")])
    last = client.ask(b"/small")
    converse(client, Streams(), responder)
    statuses = [client.answers[id].status for id in (first, bad, last)]
    assert statuses == [200, 400, 200]
    assert client.farewell is None


def test_a_request_whose_content_nobody_reads_is_answered(responder: Responder) -> None:
    client, streams = Client(), Streams()
    for _ in range(50):  # their content would fill the window of the connection 12 times
        id = client.ask(b"/", method=b"POST", whole=False)
        client.h2.send_data(id, b"x" * FRAME)
        converse(client, streams, responder)
        found = client.answers[id]
        assert found.status == 405
        assert found.ended
        assert found.reset is None
    assert len(streams._lingering) == 50
    streams.feed(b"", NOW + LINGER)
    converse(client, streams, responder)
    assert {answer.reset for answer in client.answers.values()} == {ErrorCodes.NO_ERROR}
    assert not streams.lingers
    assert not streams.failed


@pytest.mark.parametrize("size", [0, 10, 100_000, 10 << 20])
@pytest.mark.parametrize("method", [b"POST", b"GET"])
def test_content_is_read_on_for_a_while_after_the_answer(
    responder: Responder, size: int, method: bytes
) -> None:
    """A client that goes on sending as if nothing had happened."""
    client, streams = Client(), Streams()
    fields = [(b"expect", b"100-continue")] * (size % 3)
    id = client.ask(b"/small", fields, method=method, whole=False)
    left = size
    while client.answers[id].reset is None:
        room = min(client.h2.local_flow_control_window(id), FRAME, left)
        if left and not room:
            break
        client.h2.send_data(id, bytes(room), end_stream=room == left)
        left -= room
        converse(client, streams, responder)
        if not left:
            break
    found = client.answers[id]
    assert found.status == (405 if method == b"POST" else 200)
    assert found.ended
    assert found.reset == (ErrorCodes.NO_ERROR if size > MAX_DISCARDED else None)
    assert left <= max(0, size - MAX_DISCARDED)
    assert not streams.open
    assert not streams.lingers
    assert not streams.failed
    id = client.ask(b"/small")  # and the connection is as good as before
    converse(client, streams, responder)
    assert client.answers[id].content == b"small"
    assert client.h2.outbound_flow_control_window >= 65_535 - FRAME


def test_a_server_that_leaves_reads_on_for_those_who_have_their_answers(
    responder: Responder,
) -> None:
    client, streams = Client(), Streams()
    id = client.ask(b"/", method=b"POST", whole=False)
    converse(client, streams, responder)
    streams.leave()
    assert not streams.over
    client.h2.send_data(id, b"x", end_stream=True)
    streams.feed(client.say(), NOW)
    assert streams.over


def test_what_follows_the_content_of_a_request_is_no_request(responder: Responder) -> None:
    client, streams = Client(), Streams()
    id = client.ask(b"/", method=b"POST", whole=False)
    client.h2.send_data(id, b"x" * 10)
    client.h2.send_headers(id, [(b"x-trailer", b"y")], end_stream=True)
    converse(client, streams, responder)
    assert client.answers[id].status == 405
    assert not streams.open


@given(st.lists(st.integers(0, 700), max_size=8), st.integers(1, 5))
def test_requests_are_found_however_the_bytes_come(cuts: list[int], number: int) -> None:
    client, streams = Client(), Streams()
    for n in range(number):
        client.ask(b"/%d" % n, [(b"range", b"bytes=0-%d" % n), (b"x-other", b"y" * 50)])
    said = client.say()
    places = sorted({0, len(said), *(cut for cut in cuts if cut < len(said))})
    for start, end in pairwise(places):
        streams.feed(said[start:end], NOW)
    targets = [stream.request.target for stream in streams.asked]
    assert targets == [b"/%d" % n for n in range(number)]
    assert not streams.unfinished


def test_requests_are_found_byte_by_byte() -> None:
    client, streams = Client(), Streams()
    client.ask(b"/a")
    said = client.say()
    for place in range(len(said)):
        assert not streams.asked
        streams.feed(said[place : place + 1], NOW)
        assert streams.unfinished or place >= 23
    assert not streams.unfinished
    assert [stream.request for stream in streams.asked] == [Request(b"GET", b"/a")]


def test_a_list_of_fields_may_go_on_in_several_frames(responder: Responder) -> None:
    client, streams = Client(), Streams()
    client.h2.max_outbound_frame_size = 100
    id = client.ask(b"/small", [(b"cookie", os.urandom(500).hex().encode())])
    converse(client, streams, responder)
    assert client.answers[id].content == b"small"


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    head = len(content).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4)
    return head + content


@given(
    st.lists(
        st.tuples(
            st.integers(0, 12),
            st.integers(0, 255) | st.sampled_from([0, 1, 4, 5]),
            st.integers(0, 9),
            st.binary(max_size=40)
            | st.sampled_from([bytes(4), bytes(8), b"\x82\x87\x84\x41\x01x"]),
        ),
        max_size=12,
    )
)
@settings(max_examples=300)
def test_any_frames_are_taken_or_end_the_connection(
    frames: list[tuple[int, int, int, bytes]],
) -> None:
    client, streams = Client(), Streams()
    streams.feed(client.say(), NOW)
    for one in frames:
        streams.feed(frame(*one), NOW)
        while streams.can_begin:
            stream = streams.begin()
            streams.answer(stream, Response(b"HTTP/1.1 200 OK\r\n\r\nabc", (), True, 200, 3))
        while (turn := streams.turn()) is not None:
            streams.send(turn[0], turn[0].unsent[0][: turn[1]])  # type: ignore[index]
    if streams.failed:
        assert not streams.open
        assert b"\x07\0\0\0\0\0" in streams.take()  # a GOAWAY


@given(st.binary(max_size=100), st.booleans())
def test_any_bytes_are_taken_or_end_the_connection(data: bytes, greeted: bool) -> None:
    streams = Streams()
    if greeted:
        streams.feed(Client().say(), NOW)
    streams.feed(data, NOW)
    assert streams.unfinished or streams.failed or not data


FIELD_NAME = st.from_regex(r"[A-Za-z][A-Za-z-]{0,20}", fullmatch=True).filter(
    lambda name: name.lower() not in ("connection", "keep-alive", "upgrade")
)
FIELD_VALUE = st.from_regex(r"[!-~]([ -~]{0,30}[!-~])?", fullmatch=True)


@given(st.lists(st.tuples(FIELD_NAME, FIELD_VALUE), max_size=10), st.integers(200, 599))
def test_a_head_of_http_1_1_says_the_same_as_a_block_of_fields(
    fields: list[tuple[str, str]], status: int
) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    head = f"HTTP/1.1 {status} Phrase\r\n{lines}Connection: close\r\n\r\n".encode()
    decoder = Decoder()
    for _ in range(2):  # it changes no table
        found = [(bytes(a), bytes(b)) for a, b in decoder.decode(encoded(head), raw=True)]
        assert found == [
            (b":status", b"%d" % status),
            *((name.lower().encode(), value.encode()) for name, value in fields),
        ]
    assert not decoder.header_table.dynamic_entries


# -- windows ---------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=30)
def test_content_goes_where_windows_are_open_and_arrives_whole(
    responder: Responder, root: Path, data: st.DataObject
) -> None:
    client = Client(window=data.draw(st.sampled_from([0, 1, 1000, 65_535])), greedy=False)
    streams = Streams()
    wanted = data.draw(st.lists(st.sampled_from(["large", "small", "index.html"]), max_size=6))
    ids = {client.ask(b"/" + name.encode()): name for name in wanted}
    converse(client, streams, responder)
    while not client.satisfied:
        id = data.draw(st.sampled_from([id for id in ids if not client.answers[id].over]))
        size = data.draw(st.integers(1, 300_000))
        client.h2.increment_flow_control_window(size, id)
        client.h2.increment_flow_control_window(size)
        converse(client, streams, responder)  # the client would complain of a byte too much
        assert client.farewell is None
        if streams._credit.left < 100:
            streams._credit.left = 100  # this client is allowed to dribble
    for id, name in ids.items():
        assert client.answers[id].content == (root / name).read_bytes()
    assert not streams.open
    assert streams.held == 0


def test_streams_have_their_turns(responder: Responder) -> None:
    client = Client(window=1 << 20)
    client.h2.increment_flow_control_window(1 << 20)
    ids = [client.ask(b"/large") for _ in range(4)]
    converse(client, Streams(), responder)
    assert client.frames[:8] == ids + ids
    assert client.frames[:100] == ids * 25


def test_a_stream_whose_window_is_shut_keeps_no_other_waiting(responder: Responder) -> None:
    client = Client(window=0, greedy=False)
    streams = Streams()
    client.ask(b"/large")
    other = client.ask(b"/small")
    converse(client, streams, responder)
    client.h2.increment_flow_control_window(5, other)
    converse(client, streams, responder)
    assert client.answers[other].content == b"small"


def test_windows_may_all_open_by_a_setting(responder: Responder) -> None:
    client = Client(window=0, greedy=False)
    streams = Streams()
    ids = [client.ask(b"/small") for _ in range(3)]
    converse(client, streams, responder)
    assert not client.frames
    client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 100})
    converse(client, streams, responder)
    assert [client.answers[id].content for id in ids] == [b"small"] * 3


def test_no_more_is_begun_while_too_much_waits_in_memory() -> None:
    client, streams = Client(window=0, greedy=False), Streams()
    for _ in range(10):
        client.ask(b"/")
    streams.feed(client.say(), NOW)
    page = Response(b"HTTP/1.1 200 OK\r\n\r\n", (bytes(MAX_HELD // 4),), True, 200, 1)
    begun = 0
    while streams.can_begin:
        streams.answer(streams.begin(), page)
        begun += 1
    assert begun == 5
    client.hear(streams.take())
    client.h2.reset_stream(1)
    streams.feed(client.say(), NOW)
    assert streams.can_begin


# -- the end ---------------------------------------------------------------------------------------


def test_who_is_left_gets_the_answers_that_were_begun(responder: Responder) -> None:
    client, streams = Client(window=0, greedy=False), Streams()
    first, second = client.ask(b"/small"), client.ask(b"/small")
    streams.feed(client.say(), NOW)
    stream = streams.begin()
    streams.leave()
    assert not streams.over
    found = responder.respond(stream.request, NOW)
    assert isinstance(found, Response)
    streams.answer(stream, found)
    client.ask(b"/small")
    converse(client, streams, responder)
    assert client.answers[second].reset == ErrorCodes.REFUSED_STREAM
    assert client.farewell is not None
    assert client.farewell.last_stream_id == first
    assert client.farewell.error_code == ErrorCodes.NO_ERROR
    streams.feed(window_update(first, 5), NOW)
    answer(streams, responder)
    assert b"small" in streams.take()
    assert streams.over


def window_update(stream: int, size: int) -> bytes:
    return frame(8, 0, stream, size.to_bytes(4))


def test_a_client_that_leaves_still_gets_its_answers(responder: Responder) -> None:
    client, streams = Client(), Streams()
    client.ask(b"/small")
    streams.feed(client.say() + frame(7, 0, 0, bytes(8)), NOW)
    assert not streams.over
    answer(streams, responder)
    assert b"small" in streams.take()
    assert streams.over


def test_an_answer_to_nobody_is_dropped(responder: Responder) -> None:
    client, streams = Client(), Streams()
    id = client.ask(b"/small")
    streams.feed(client.say(), NOW)
    stream = streams.begin()
    client.h2.reset_stream(id)
    streams.feed(client.say(), NOW)
    found = responder.respond(stream.request, NOW)
    assert isinstance(found, Response)
    streams.answer(stream, found)
    streams.resume(stream)
    streams.abandon(stream)
    assert streams.turn() is None
    assert streams.ended == [stream]


# -- with a socket ---------------------------------------------------------------------------------


BIG = bytes(range(256)) * 16 * 1024  # 4 MiB

PATIENT = {"head": 1000.0, "keep_alive": 1000.0, "send": 1000.0}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "site"
    (place / "folder").mkdir(parents=True)
    (place / "folder" / "file").touch()
    (place / "index.html").write_text("home")
    (place / "big").write_bytes(BIG)
    return place


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP/2 without TLS, whose clients know that it is spoken."""
    monkeypatch.setattr(events, "connection", model.connection)


@pytest.fixture
def quick_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (closing, events):
        monkeypatch.setattr(module, "SWEEP", 0.01)


@contextmanager
def connected(port: int, window: int | None = None, greedy: bool = True) -> Iterator[Connected]:
    with socket.create_connection(("127.0.0.1", port)) as end:
        yield Connected(end, window, greedy)


def with_client(root: Path, work: Callable[[Connected], T], **about: Any) -> T:
    """The result of `work` with a client that is connected to a server of `root`."""
    window, greedy = about.pop("window", None), about.pop("greedy", True)

    def client(port: int) -> T:
        with connected(port, window, greedy) as connection:
            return work(connection)

    return with_server(root, client, **about)


@pytest.mark.usefixtures("plain", "driver")
def test_many_streams_at_once(place: Path) -> None:
    def work(client: Connected) -> None:
        ids = [client.ask(path) for path in (b"/big", b"/", b"/folder/", b"/no") * 25]
        client.until_satisfied()
        contents = [bytes(client.answers[id].content) for id in ids]
        assert contents[0::4] == [BIG] * 25
        assert contents[1::4] == [b"home"] * 25
        assert all(b"./file" in page for page in contents[2::4])
        assert all(b"404" in page for page in contents[3::4])
        assert client.frames.index(ids[1]) < 100  # the small are not behind the large

    with_client(place, work, listing=True)


@pytest.mark.usefixtures("plain")
def test_a_client_that_reads_slowly_gets_everything(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "AT_ONCE", 40_000)

    def client(port: int) -> None:
        with socket.socket() as end:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            end.connect(("127.0.0.1", port))
            slow = Connected(end)
            ids = [slow.ask(b"/big") for _ in range(2)]
            slow.flush()
            while not slow.satisfied:
                slow.hear(end.recv(10_000))
                slow.flush()
            assert [slow.answers[id].content for id in ids] == [BIG] * 2

    with_server(place, client)


@pytest.mark.usefixtures("plain")
def test_a_cold_file_is_waited_for_on_a_thread(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other streams go on meanwhile."""
    others_are_served = threading.Event()
    waited: list[str] = []

    def cold(fd: int, size: int, start: int) -> bytes | bytearray:
        return read_now(fd, size, start) if waited else b""

    def slow(piece: Slice) -> None:
        assert others_are_served.wait(20)
        waited.append(threading.current_thread().name)

    monkeypatch.setattr(model, "read_now", cold)
    monkeypatch.setattr(model, "warm", slow)

    def work(client: Connected) -> None:
        first = client.ask(b"/big")
        second = client.ask(b"/")
        while not client.answers[second].over:
            client.read()
        assert not client.answers[first].content
        for _ in range(10):
            client.h2.increment_flow_control_window(1, first)
        third = client.ask(b"/")
        while not client.answers[third].over:
            client.read()
        others_are_served.set()
        client.until_satisfied()
        assert client.answers[first].content == BIG

    with_client(place, work)
    assert len(waited) == 1
    assert threading.main_thread().name not in waited


@pytest.mark.usefixtures("plain")
def test_a_slow_directory_keeps_no_other_stream_waiting(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others_are_served = threading.Event()
    read_directory = listing.read_directory

    def slow(*arguments: Any) -> Any:
        assert others_are_served.wait(20)
        return read_directory(*arguments)

    monkeypatch.setattr(listing, "read_directory", slow)

    def work(client: Connected) -> None:
        first, second = client.ask(b"/folder/"), client.ask(b"/")
        while not client.answers[second].over:
            client.read()
        assert not client.answers[first].status
        others_are_served.set()
        client.until_satisfied()
        assert client.answers[first].status == 200

    with_client(place, work, listing=True)


@pytest.mark.usefixtures("plain")
def test_a_disk_may_be_done_while_the_client_takes_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = threading.Event()
    read_directory, wait = listing.read_directory, model.wait_on_fd

    def slow(*arguments: Any) -> Any:
        assert full.wait(20)
        return read_directory(*arguments)

    def noticed(fd: Any, direction: int, event: Event[()]) -> None:
        wait(fd, direction, event)
        if direction == WRITE and not select.select([], [fd], [], 0)[1]:
            full.set()

    monkeypatch.setattr(listing, "read_directory", slow)
    monkeypatch.setattr(model, "wait_on_fd", noticed)

    def work(client: Connected) -> None:
        client.h2.increment_flow_control_window(1 << 30)
        first = client.ask(b"/folder/")
        others = [client.ask(b"/big") for _ in range(20)]
        client.flush()
        assert full.wait(20)
        client.until_satisfied()
        assert client.answers[first].status == 200
        assert [client.answers[id].content for id in others] == [BIG] * 20

    with_client(place, work, listing=True, window=1 << 24)


@pytest.mark.usefixtures("plain")
def test_a_file_that_becomes_shorter_resets_its_stream_alone(place: Path) -> None:
    def work(client: Connected) -> None:
        id = client.ask(b"/big")
        while not client.answers[id].content:
            client.read()
        os.truncate(place / "big", 100_000)
        client.h2.increment_flow_control_window(1 << 24, id)
        client.h2.increment_flow_control_window(1 << 24)
        client.until_satisfied()
        assert client.answers[id].reset == ErrorCodes.INTERNAL_ERROR
        assert client.get(b"/").content == b"home"

    with_client(place, work, greedy=False)


@pytest.mark.usefixtures("plain")
def test_an_error_of_its_own_ends_the_connection(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(listing, "read_directory", broken)

    def work(client: Connected) -> None:
        client.ask(b"/folder/")
        client.until_closed()

    with_client(place, work, listing=True)
    assert "error in Knot" in caplog.text
    caplog.clear()


@pytest.mark.usefixtures("plain")
def test_who_asks_too_often_is_left(place: Path) -> None:
    def work(client: Connected) -> list[Answer]:
        ids = [client.ask(b"/") for _ in range(5)]
        client.until_closed()
        assert client.farewell is not None
        assert client.farewell.last_stream_id == ids[2]
        assert client.farewell.error_code == ErrorCodes.NO_ERROR
        return [client.answers[id] for id in ids]

    found = with_client(place, work, limits=Limits(requests=3))
    assert [answer.content for answer in found] == [b"home"] * 3 + [b""] * 2
    assert [answer.reset for answer in found[3:]] == [ErrorCodes.REFUSED_STREAM] * 2


@pytest.mark.usefixtures("plain")
def test_a_server_that_stops_finishes_what_is_under_way(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = threading.Event()

    def start_drain(server: events.Server, gently: bool) -> None:
        closing.start_drain(server, gently)
        told.set()

    monkeypatch.setattr(events, "start_drain", start_drain)
    others: list[threading.Thread] = []

    def finish(client: Connected, id: int) -> None:
        with client:
            assert told.wait(20)
            client.h2.increment_flow_control_window(1 << 24, id)
            client.h2.increment_flow_control_window(1 << 24)
            client.until_closed()

    def begin(port: int) -> Connected:
        client = Connected(socket.create_connection(("127.0.0.1", port)), greedy=False)
        id = client.ask(b"/big")
        while not client.answers[id].content:
            client.read()
        others.append(threading.Thread(target=finish, args=(client, id)))
        others[0].start()
        return client

    client = with_server(place, begin, grace=20)
    others[0].join()
    assert client.answers[1].content == BIG
    assert client.farewell is not None
    assert client.farewell.error_code == ErrorCodes.NO_ERROR
    assert client.farewell.last_stream_id == 1


@pytest.mark.usefixtures("plain")
def test_an_idle_client_is_told_that_the_server_stops(place: Path) -> None:
    def client(port: int) -> Connected:
        idle = Connected(socket.create_connection(("127.0.0.1", port)))
        assert idle.get(b"/").content == b"home"
        return idle

    with with_server(place, client, grace=20) as idle:
        idle.until_closed()
    assert idle.farewell is not None
    assert idle.farewell.error_code == ErrorCodes.NO_ERROR


@pytest.mark.usefixtures("plain", "quick_sweeps")
def test_an_idle_client_is_left_after_a_while(place: Path) -> None:
    def work(client: Connected) -> None:
        client.get(b"/")
        client.until_closed()
        assert client.farewell is not None

    with_client(place, work, limits=Limits(**{**PATIENT, "keep_alive": 0.05}))


@pytest.mark.usefixtures("plain", "quick_sweeps")
@pytest.mark.parametrize("said", [10, 60, -1])
def test_who_does_not_finish_a_request_is_left_after_a_while(place: Path, said: int) -> None:
    def work(client: Connected) -> None:
        client.ask(b"/", [(b"x-field", b"x" * 50)])
        client.end.sendall(client.say()[:said])
        with suppress(ConnectionError):
            while client.end.recv(1000):
                pass

    with_client(place, work, limits=Limits(**{**PATIENT, "head": 0.05}))


@pytest.mark.usefixtures("plain", "quick_sweeps")
def test_who_never_opens_a_window_is_left_whatever_else_it_says(place: Path) -> None:
    def work(client: Connected) -> None:
        client.ask(b"/")
        client.end.settimeout(0.005)
        deadline = monotonic() + 20
        with suppress(ConnectionError):
            while monotonic() < deadline:
                try:
                    if not client.read():
                        break
                except TimeoutError:
                    client.h2.ping(b"alive!!!")
            else:
                pytest.fail("it was kept for ever")
        assert client.answers[1].status == 200
        assert not client.answers[1].content

    limits = Limits(**{**PATIENT, "send": 0.1})
    with_client(place, work, window=0, greedy=False, limits=limits)


@pytest.mark.usefixtures("plain")
def test_clients_that_leave_at_any_moment_hurt_nobody(place: Path) -> None:
    def client(port: int) -> bytes:
        for taken in range(0, 300_000, 30_000):
            with connected(port, window=1 << 20) as leaving:
                leaving.h2.increment_flow_control_window(1 << 20)
                leaving.ask(b"/big")
                leaving.ask(b"/folder/")
                leaving.flush()
                while taken > 0:
                    taken -= len(leaving.end.recv(taken))
        with connected(port) as last:
            return bytes(last.get(b"/").content)

    assert with_server(place, client, listing=True) == b"home"


@pytest.mark.usefixtures("plain")
def test_a_client_that_has_said_all_still_gets_its_answers(place: Path) -> None:
    def work(client: Connected) -> None:
        client.h2.increment_flow_control_window(1 << 24)
        client.flush()
        id = client.ask(b"/big")
        client.flush()
        client.end.shutdown(socket.SHUT_WR)
        while data := client.end.recv(1 << 16):
            client.hear(data)
        assert client.answers[id].content == BIG

    with_client(place, work, window=1 << 24, greedy=False)


@pytest.mark.usefixtures("plain")
def test_every_answer_has_a_line_in_the_log(place: Path, tmp_path: Path) -> None:
    def work(client: Connected) -> None:
        said = [(b"user-agent", b"a"), (b"referer", b"b")]
        client.get(b"/?q", said)
        client.get(b"/big")
        client.get(b"/", [(b"connection", b"x")])
        id = client.ask(b"/big")
        while not client.answers[id].content:
            client.read()

    with (tmp_path / "log").open("wb") as file:
        log = AccessLog("json", file.fileno())
        with_client(place, work, log=log)
        log.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    shown = [(line["method"], line["target"], line["status"]) for line in lines]
    assert shown == [
        ("GET", "/?q", 200),
        ("GET", "/big", 200),
        ("", "/", 400),
        ("GET", "/big", 200),
    ]
    assert [line["size"] for line in lines[:2]] == [4, len(BIG)]
    assert 0 < lines[3]["size"] < len(BIG)
    assert (lines[0]["agent"], lines[0]["referer"], lines[0]["version"]) == ("a", "b", "HTTP/2.0")


@pytest.mark.usefixtures("plain")
def test_a_gate_is_asked_first_and_gets_what_it_wants(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, Request | BadRequest]] = []
    begin = events.Server.__init__

    def guarded(self: events.Server, *arguments: Any) -> None:
        begin(self, *arguments)

        def gate(
            peer: Connection, request: Request | BadRequest, now: float
        ) -> Response | Deferred:
            seen.append((peer.address, request))
            assert isinstance(request, Request)
            return self.responder.respond(without(request, b"host"), now)

        self.guard(gate, frozenset({b"host"}))

    monkeypatch.setattr(events.Server, "__init__", guarded)
    with_client(place, lambda client: client.get(b"/", host=b"a.example"))
    assert seen == [("127.0.0.1", Request(b"GET", b"/", fields=((b"host", b"a.example"),)))]


# -- with TLS --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def secure(
    authority: trustme.CA, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, int]]:
    """Where ``knot serve`` does."""
    chain = tmp_path_factory.mktemp("pair") / "chain.pem"
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(chain)
    )
    with serving(str(root), "--cert", str(chain)) as (_, url):
        where = urlsplit(url)
        assert where.hostname
        assert where.port
        yield where.hostname, where.port


def open_secure(address: tuple[str, int], authority: trustme.CA, *protocols: str) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(protocols)
    return context.wrap_socket(socket.create_connection(address), server_hostname="localhost")


@pytest.mark.parametrize("window", [None, 1 << 20])
def test_who_speaks_it_gets_it_through_tls(
    secure: tuple[str, int], authority: trustme.CA, root: Path, window: int | None
) -> None:
    """Even if so much comes at once that the server has to wait."""
    with open_secure(secure, authority, "h2", "http/1.1") as end:
        assert end.selected_alpn_protocol() == "h2"
        client = Connected(end, window)
        ids = [client.ask(b"/large") for _ in range(20)]
        if window is not None:
            client.h2.increment_flow_control_window(20 * window)
            client.flush()
            select.select([end], [], [])
        client.until_satisfied()
        content = (root / "large").read_bytes()
        assert [client.answers[id].content for id in ids] == [content] * 20


def test_a_server_that_is_to_go_gently_answers_once_more(
    authority: trustme.CA, root: Path, tmp_path: Path
) -> None:
    chain = tmp_path / "chain.pem"
    pair = authority.issue_cert("localhost").private_key_and_cert_chain_pem
    pair.write_to_path(str(chain))
    with serving(str(root), "--cert", str(chain)) as (process, url):
        where = urlsplit(url)
        assert where.hostname
        assert where.port
        address = where.hostname, where.port
        with Connected(open_secure(address, authority, "h2")) as client:
            client.get(b"/small")
            process.send_signal(signal.SIGQUIT)
            with suppress(ConnectionRefusedError, ConnectionResetError):
                while True:
                    socket.create_connection(address).close()
            assert client.get(b"/small").content == b"small"
            client.until_closed()
            assert client.farewell is not None
            assert client.farewell.last_stream_id == 3
        assert process.wait(20) == 0


@pytest.mark.parametrize("protocols", [["http/1.1"], []])
def test_who_does_not_speak_it_gets_http_1_1(
    secure: tuple[str, int], authority: trustme.CA, protocols: list[str]
) -> None:
    with open_secure(secure, authority, *protocols) as end:
        end.sendall(b"GET /small HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b""
        while piece := end.recv(1 << 16):
            received += piece
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.endswith(b"\r\n\r\nsmall")


def test_without_its_library_it_is_not_offered(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = authority.issue_cert("localhost").private_key_and_cert_chain_pem
    pair.write_to_path(str(tmp_path / "pair"))
    settings = Settings(site=SiteSettings(cert=(str(tmp_path / "pair"),)))
    for spec, protocols in ((object(), ["h2", "http/1.1"]), (None, ["http/1.1"])):
        monkeypatch.setattr(build, "find_spec", lambda name, spec=spec: spec)
        found = build.load_certificates(settings)
        assert found is not None
        assert found.protocols == protocols


def test_curl_speaks_it(secure: tuple[str, int], authority: trustme.CA, root: Path) -> None:
    curl = shutil.which("curl")
    if curl is None or b"HTTP2" not in subprocess.run([curl, "-V"], capture_output=True).stdout:
        pytest.skip("no curl with HTTP/2 is installed")
    with authority.cert_pem.tempfile() as trusted:
        command = [curl, "--silent", "--http2", "--cacert", trusted, "--write-out"]
        url = f"https://{secure[0]}:{secure[1]}"
        both = [f"{url}/large", f"{url}/small"]
        said = subprocess.run(
            [*command, " %{http_version}-%{num_connects} ", *both], capture_output=True, check=True
        )
    large = (root / "large").read_bytes()
    assert said.stdout == large + b" 2-1 small 2-0 "
