"""Clients of HTTP/2 that want more than their share: what each can make the server do for nothing,
and what it can make it keep, has a bound, counted in frames and bytes."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from h2.errors import ErrorCodes
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from serving import serving
from speaking_http2 import Client, Connected

from knot.http.http2 import FOR_AN_ANSWER, MAX_STREAMS, Streams
from knot.http.http2_frames import FIRST_CREDIT, FRAME, RESET
from knot.http.request import MAX_HEAD
from knot.http.responder import Response
from loadtest.memory import private_bytes

KIB, MIB = 1 << 10, 1 << 20

NOW = 1_800_000_000.0

PAGE = Response(b"HTTP/1.1 200 OK\r\n\r\nhello", (), True, 200, 5)


def greeted(window: int | None = None) -> tuple[Client, Streams]:
    """A client that has seen the server's settings."""
    client, streams = Client(window, greedy=False), Streams()
    streams.feed(client.say(), NOW)
    client.hear(streams.take())
    streams.feed(client.say(), NOW)
    return client, streams


def answer_all(streams: Streams, page: Response = PAGE) -> int:
    """Answer what was asked and send what can be sent; how many requests those were."""
    begun = 0
    while streams.can_begin:
        streams.answer(streams.begin(), page)
        begun += 1
    while (turn := streams.turn()) is not None:
        stream, size = turn
        piece = stream.unsent[0]
        assert isinstance(piece, memoryview)
        streams.send(stream, piece[:size])
    return begun


def why(client: Client, streams: Streams) -> ErrorCodes | int:
    """With which error the server ends the connection."""
    client.hear(streams.take())
    assert client.farewell is not None
    return client.farewell.error_code


# -- for nothing -----------------------------------------------------------------------------------


def data(stream: int, size: int = 0) -> Frame:
    return DataFrame(stream, data=b"x" * size)


def settings(*values: tuple[int, int]) -> Frame:
    return SettingsFrame(0, settings=dict(values))


class Unknown(Frame):
    type = 0x66

    def serialize_body(self) -> bytes:
        return b"x"


ASKED = 1
"""The stream of a request whose end does not come."""

FLOODS: dict[str, Callable[[int], Frame]] = {
    "pings": lambda n: PingFrame(0, opaque_data=b"12345678"),
    "acknowledged pings": lambda n: PingFrame(0, opaque_data=b"12345678", flags=["ACK"]),
    "settings": lambda n: settings(),
    "settings that change windows": lambda n: settings((4, n)),
    "settings that change tables": lambda n: settings((1, n)),
    "acknowledged settings": lambda n: SettingsFrame(0, flags=["ACK"]),
    "priorities": lambda n: PriorityFrame(2 * n + 11, depends_on=3, stream_weight=5),
    "windows of the connection": lambda n: WindowUpdateFrame(0, window_increment=1),
    "windows of a stream": lambda n: WindowUpdateFrame(ASKED, window_increment=1),
    "windows of a stream that has ended": lambda n: WindowUpdateFrame(3, window_increment=1),
    "resets of a stream that has ended": lambda n: RstStreamFrame(3),
    "empty data": lambda n: data(ASKED),
    "data of a byte": lambda n: data(ASKED, 1),
    "data to a stream that has ended": lambda n: data(3, 1),
    "frames that nobody knows": lambda n: Unknown(0),
}


@pytest.mark.parametrize("name", FLOODS)
def test_frames_that_ask_for_nothing_are_counted(name: str) -> None:
    client, streams = greeted()
    asked = client.ask(whole=False)
    client.ask()
    streams.feed(client.say(), NOW)
    second = streams.asked.pop()
    streams.answer(second, PAGE)
    answer_all_but(streams, asked)
    client.hear(streams.take())
    said = 0
    for number in range(10 * FIRST_CREDIT):
        streams.feed(FLOODS[name](number).serialize(), NOW)
        if streams.failed:
            break
        said += len(streams.take())
    assert number < FIRST_CREDIT + FOR_AN_ANSWER
    assert why(client, streams) == ErrorCodes.ENHANCE_YOUR_CALM
    assert said < 40 * FIRST_CREDIT
    assert not streams.open


def answer_all_but(streams: Streams, id: int) -> None:
    while (turn := streams.turn()) is not None:
        stream, size = turn
        assert stream.id != id
        streams.send(stream, stream.unsent[0][:size])  # type: ignore[index]


def test_resets_are_counted() -> None:
    """CVE-2023-44487: requests that are given up at once leave room for others."""
    client, streams = greeted()
    begun = number = 0
    while True:
        number += 1
        id = client.ask()
        streams.feed(client.say(), NOW)
        while streams.can_begin:
            streams.begin()  # a long answer is being made
            begun += 1
        client.h2.reset_stream(id)
        streams.feed(client.say(), NOW)
        if streams.failed:
            break
        assert not streams.open
    assert begun <= number <= FIRST_CREDIT // (RESET + 1) + 1
    assert why(client, streams) == ErrorCodes.ENHANCE_YOUR_CALM


def test_requests_that_are_reset_before_they_are_looked_at_are_not_answered() -> None:
    client, streams = greeted()
    for _ in range(100):
        client.h2.reset_stream(client.ask())
    streams.feed(client.say(), NOW)
    assert not streams.failed
    assert not streams.asked


def test_resets_that_the_server_is_made_to_do_are_counted() -> None:
    """CVE-2025-8671: a window that is opened too far resets its stream."""
    client, streams = greeted()
    number = 0
    while True:
        number += 1
        id = client.ask()
        too_far = WindowUpdateFrame(id, window_increment=2**31 - 1).serialize()
        streams.feed(client.say() + too_far, NOW)
        if streams.failed:
            break
        assert not streams.open
        client.hear(streams.take())
    assert number <= FIRST_CREDIT // (RESET + 2) + 2


@pytest.mark.parametrize("length", [b"1", b"3"])
def test_contents_of_another_length_are_counted(length: bytes) -> None:
    client, streams = greeted()
    number = 0
    while True:
        number += 1
        id = client.ask(fields=[(b"content-length", length)], method=b"POST", whole=False)
        said = client.say() + DataFrame(id, data=b"xx", flags=["END_STREAM"]).serialize()
        streams.feed(said, NOW)
        if streams.failed:
            break
        assert not streams.open
        client.hear(streams.take())
        assert client.answers[id].reset == ErrorCodes.PROTOCOL_ERROR
    assert number <= FIRST_CREDIT // (RESET + 2) + 2


def test_an_answer_now_and_then_does_not_pay_for_many_resets() -> None:
    client, streams = greeted()
    number = 0
    while True:
        number += 1
        for _ in range(10):
            id = client.ask()
            client.h2.reset_stream(id)
        client.ask()
        streams.feed(client.say(), NOW)
        if streams.failed:
            break
        assert answer_all(streams) == 1
        client.hear(streams.take())
        client.h2.increment_flow_control_window(5)
    assert number < 50


def test_who_leaves_a_page_again_and_again_is_borne() -> None:
    client, streams = greeted()
    for _ in range(30):
        for path in (b"/now", b"/left"):
            ids = [client.ask(path) for _ in range(50)]
            if path == b"/left":
                for id in ids:
                    client.h2.reset_stream(id)
            client.h2.increment_flow_control_window(50 * 5)
            streams.feed(client.say(), NOW)
            answer_all(streams)
            client.hear(streams.take())
            assert not streams.failed


def test_who_reads_on_and_on_is_borne() -> None:
    """It opens both windows after each 4 KiB, as the clients do that do it most often."""
    client, streams = greeted()
    id = client.ask()
    streams.feed(client.say(), NOW)
    stream = streams.begin()
    streams.answer(stream, Response(PAGE.data, (bytes(16 * MIB),), True, 200, 16 * MIB))
    while stream.unsent:
        answer_all(streams)
        client.hear(streams.take())
        for _ in range(16 if stream.unsent else 0):
            streams.feed(WindowUpdateFrame(id, window_increment=4096).serialize(), NOW)
            streams.feed(WindowUpdateFrame(0, window_increment=4096).serialize(), NOW)
            client.h2.increment_flow_control_window(4096)
            client.h2.increment_flow_control_window(4096, id)
        client.say()
        assert not streams.failed


def test_windows_that_open_byte_by_byte_are_counted() -> None:
    """CVE-2019-9511: each byte would be a frame."""
    client, streams = greeted(window=0)
    id = client.ask()
    streams.feed(client.say(), NOW)
    sent = 0
    for _ in range(10 * FIRST_CREDIT):
        streams.feed(WindowUpdateFrame(id, window_increment=1).serialize(), NOW)
        if streams.failed:
            break
        answer_all(streams, Response(PAGE.data, (bytes(MIB),), True, 200, MIB))
        sent += len(streams.take())
    assert streams.failed
    assert sent < 20 * FIRST_CREDIT


# -- lists of fields -------------------------------------------------------------------------------


def test_a_list_of_fields_has_a_bound() -> None:
    client, streams = greeted()
    id = client.ask(b"/", [(b"cookie", b"x" * (MAX_HEAD + 1))])
    streams.feed(client.say(), NOW)
    (stream,) = streams.asked
    assert stream.request[0] == 431
    client.ask(b"/", [(b"cookie", b"x" * 2 * MAX_HEAD)])
    streams.feed(client.say(), NOW)
    assert streams.failed
    assert why(client, streams) == ErrorCodes.ENHANCE_YOUR_CALM
    assert client.answers[id].status == 0


def test_a_list_of_fields_that_unfolds_is_not_unfolded() -> None:
    """An entry of the table is 4 KiB long, and a byte names it."""
    client, streams = greeted()
    bomb = Encoder().encode([(b"x-long", b"x" * 4000)], huffman=False) + b"\xbe" * 16_000
    frame = HeadersFrame(1, data=bomb[:FRAME], flags=["END_HEADERS", "END_STREAM"]).serialize()
    tracemalloc.start()
    streams.feed(frame, NOW)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert streams.failed
    assert why(client, streams) == ErrorCodes.ENHANCE_YOUR_CALM
    assert most < MIB


@pytest.mark.parametrize("size", [0, 1, 100, FRAME])
def test_a_list_of_fields_does_not_go_on_for_ever(size: int) -> None:
    """CVE-2024-27316 and others: CONTINUATION without an end."""
    _, streams = greeted()
    streams.feed(HeadersFrame(1, data=b"\x82" * size, flags=["END_STREAM"]).serialize(), NOW)
    more = ContinuationFrame(1, data=b"\x82" * size).serialize()
    tracemalloc.start()
    number = 0
    while not streams.failed:
        streams.feed(more, NOW)
        number += 1
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert number < 100
    assert most < MIB
    assert not streams.asked


def test_a_frame_that_is_too_long_is_not_waited_for() -> None:
    client, streams = greeted()
    streams.feed((FRAME + 1).to_bytes(3) + bytes(6), NOW)
    assert streams.failed
    assert why(client, streams) == ErrorCodes.FRAME_SIZE_ERROR


# -- what is kept ----------------------------------------------------------------------------------


def test_more_streams_than_allowed_are_refused_alone() -> None:
    client, streams = greeted(window=0)
    for _ in range(MAX_STREAMS):
        client.ask()
    streams.feed(client.say(), NOW)
    assert len(streams.open) == MAX_STREAMS
    assert not streams.failed
    number = 0
    while not streams.failed:
        number += 1
        block = Encoder().encode([(b":method", b"GET")])
        id = 2 * (MAX_STREAMS + number) - 1
        streams.feed(HeadersFrame(id, data=block, flags=["END_HEADERS"]).serialize(), NOW)
        assert id not in streams.open
    assert number <= FIRST_CREDIT // (RESET + 1) + 1
    assert why(client, streams) == ErrorCodes.ENHANCE_YOUR_CALM


def test_streams_that_have_their_answers_count_as_long_as_they_are_read() -> None:
    client, streams = greeted()
    for _ in range(MAX_STREAMS):
        client.ask(method=b"POST", whole=False)
        streams.feed(client.say(), NOW)
        answer_all(streams)
        client.hear(streams.take())
    assert {answer.status for answer in client.answers.values()} == {200}
    block = Encoder().encode([(b":method", b"GET")])
    last = 2 * MAX_STREAMS + 1
    streams.feed(HeadersFrame(last, data=block, flags=["END_HEADERS"]).serialize(), NOW)
    refused = RstStreamFrame(last, error_code=ErrorCodes.REFUSED_STREAM)
    assert streams.take() == refused.serialize()


def test_settings_that_nobody_knows_are_not_kept() -> None:
    _, streams = greeted()
    tracemalloc.start()
    for start in range(1000, 13_000, 2000):
        ids = range(start, start + 2000)
        for value in (1, 2):
            content = b"".join(struct.pack(">HL", id, value) for id in ids)
            streams.feed(len(content).to_bytes(3) + b"\4\0\0\0\0\0" + content, NOW)
    now, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not streams.failed
    assert now < MIB
    assert most < 8 * MIB


def test_streams_that_have_ended_are_not_kept() -> None:
    client, streams = greeted()
    tracemalloc.start()
    for _ in range(2):
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(2000):
            client.ask()
            streams.feed(client.say(), NOW)
            answer_all(streams)
            client.hear(streams.take())
            client.h2.increment_flow_control_window(5)
            streams.ended.clear()
            client.answers.clear()
            client.frames.clear()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not streams.failed
    assert after - before < MIB


# -- a server of its own ---------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    root.mkdir()
    (root / "index.html").write_text("home " * 200)
    (root / "large").touch()
    os.truncate(root / "large", 32 * MIB)
    (root / "folder").mkdir()
    for number in range(2000):
        (root / "folder" / f"a file with a long name {number}").touch()
    return root


class Knot:
    """A server, and what it spends."""

    def __init__(self, pid: int, address: tuple[str, int], authority: trustme.CA) -> None:
        self.pid = pid
        self._address = address
        self._context = ssl.create_default_context()
        self._context.set_alpn_protocols(["h2"])
        authority.configure_trust(self._context)

    def connect(self, window: int | None = None, greedy: bool = True, buffer: int = 0) -> Connected:
        plain = socket.socket()
        if buffer:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        plain.connect(self._address)
        end = self._context.wrap_socket(plain, server_hostname="localhost")
        return Connected(end, window, greedy)

    def ask(self) -> int:
        with self.connect() as client:
            return client.get(b"/").status

    def memory(self) -> int:
        assert self.ask() == 200
        return private_bytes(self.pid)


@pytest.fixture
def knot(root: Path, tmp_path: Path) -> Iterator[Knot]:
    authority = trustme.CA()
    pair = tmp_path / "pair"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pair))
    with serving(str(root), "--cert", str(pair), "--listing", "--max-requests", "1000000") as (
        process,
        url,
    ):
        where = urlsplit(url)
        assert where.hostname
        assert where.port
        found = Knot(process.pid, (where.hostname, where.port), authority)
        for _ in range(3):
            found.ask()
        yield found
        process.terminate()
        _, err = process.communicate(timeout=20)
        assert err == ""


def test_an_idle_client_takes_little(knot: Knot) -> None:
    with ExitStack() as crowd:
        before = knot.memory()
        for _ in range(100):
            assert crowd.enter_context(knot.connect()).get(b"/").status == 200
        assert knot.memory() - before < 100 * 100 * KIB


def test_windows_that_never_open_hold_little(knot: Knot) -> None:
    """Each stream has a large file to get, or a long list of a directory."""
    with ExitStack() as crowd:
        before = knot.memory()
        for _ in range(5):
            client = crowd.enter_context(knot.connect(window=0, greedy=False))
            for number in range(MAX_STREAMS):
                client.ask(b"/large" if number % 2 else b"/folder/?%d" % number)
            while sum(answer.status == 200 for answer in client.answers.values()) < 10:
                client.read()
        assert knot.memory() - before < 5 * 12 * MIB


def test_who_reads_nothing_is_not_listened_to_for_ever(knot: Knot) -> None:
    """It is not read from, or has more streams than it may, because it does not see them end."""
    with knot.connect(buffer=4096) as client:
        before = knot.memory()
        client.h2.increment_flow_control_window(1 << 30)
        client.end.settimeout(1)
        asked = 0
        with suppress(OSError):
            while asked < 10_000_000:
                for _ in range(50):
                    id = client.ask()
                    del client.h2.streams[id], client.answers[id]
                client.flush()
                asked += 50
        assert asked < 10_000_000
        assert knot.memory() - before < 4 * MIB
