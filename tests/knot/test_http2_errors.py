"""Which error HTTP/2 has for what (RFC 9113, in its order): that of a stream, or of all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from h2.errors import ErrorCodes
from hpack import Decoder
from hyperframe.frame import Frame, GoAwayFrame, HeadersFrame, RstStreamFrame, WindowUpdateFrame

from knot.http.http2 import MAX_IGNORED, Streams
from knot.http.http2_frames import FIRST_CREDIT, FRAME
from knot.http.responder import Response

NOW = 1_800_000_000.0

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW, MORE = range(10)
ALTSVC, PRIORITY_UPDATE, UNKNOWN = 0xA, 0x10, 0x66

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITIZED = 0x20
WHOLE = END_STREAM | END_HEADERS


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    return len(content).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + content


def number(value: int) -> bytes:
    return value.to_bytes(4)


def setting(name: int, value: int) -> bytes:
    return name.to_bytes(2) + number(value)


def field(name: bytes, value: bytes) -> bytes:
    """Without an index (RFC 7541, section 6.2.2)."""
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


TARGET = b"\x87\x84\x01\x01x"  # https, /, x
GET = b"\x82" + TARGET
POST = b"\x83" + TARGET

HELLO = PREFACE + frame(SETTINGS, 0, 0)

ASKED = frame(HEADERS, WHOLE, 1, GET)
"""A request that is whole, and has its answer."""
WAITING = frame(WINDOW, 0, 0, number(1)) + frame(
    HEADERS, WHOLE, 1, b"\x82\x87\x04\x05/wait\x01\x01x"
)
"""One that is whole, and has none yet."""
BEGUN = frame(HEADERS, END_HEADERS, 1, POST)
"""One that is not whole, and has its answer."""
BEGUN_WAITING = frame(HEADERS, END_HEADERS, 1, b"\x83\x87\x04\x05/wait\x01\x01x")
"""One that is neither."""


def sized(value: bytes, *others: bytes, flags: int = END_HEADERS, path: bytes = b"\x84") -> bytes:
    """A request with that content-length."""
    fields = b"".join(field(b"content-length", each) for each in (value, *others))
    return frame(HEADERS, flags, 1, b"\x83\x87" + path + b"\x01\x01x" + fields)


class All(NamedTuple):
    """The connection ends."""

    error: ErrorCodes


class One(NamedTuple):
    """A stream is reset."""

    error: ErrorCodes
    stream: int = 1


class Status(NamedTuple):
    """The request is answered."""

    status: int
    stream: int = 1


PROTOCOL = All(ErrorCodes.PROTOCOL_ERROR)
SIZE = All(ErrorCodes.FRAME_SIZE_ERROR)
COMPRESSION = All(ErrorCodes.COMPRESSION_ERROR)
FLOW = All(ErrorCodes.FLOW_CONTROL_ERROR)

NOTHING = None
"""Nobody is told anything."""

FIRST = [
    b"GET / HTTP/1.1\r\n\r\n",
    PREFACE[:-1] + b"x",
    PREFACE + ASKED,
    PREFACE + frame(WINDOW, 0, 0, number(1)),
    PREFACE + frame(PRIORITY, 0, 1, bytes(5)),
    PREFACE + frame(UNKNOWN, 0, 0),
    PREFACE + frame(GOAWAY, 0, 0, bytes(8)),
    PREFACE + frame(SETTINGS, ACK, 0),
]
"""What is no preface with settings after it (section 3.4)."""

CASES: dict[str, tuple[list[bytes], All | One | Status | None]] = {
    # what it is: the frames after the settings; what they lead to
    "4.1 flags that nobody knows": (
        [frame(PING, 0xFE, 0, bytes(8))],
        NOTHING,
    ),
    "4.1 the reserved bit": ([frame(HEADERS, WHOLE, 0x8000_0001, GET)], Status(200)),
    "4.2 the longest frame": ([BEGUN, frame(DATA, END_STREAM, 1, bytes(FRAME))], Status(405)),
    "4.2 one that is longer": (
        [BEGUN, frame(DATA, END_STREAM, 1, bytes(FRAME + 1))],
        SIZE,
    ),
    "4.3 index 0": ([frame(HEADERS, WHOLE, 1, b"\x80")], COMPRESSION),
    "4.3 an index that no table has": (
        [frame(HEADERS, WHOLE, 1, b"\xbe")],
        COMPRESSION,
    ),
    "4.3 a number that does not end": (
        [frame(HEADERS, WHOLE, 1, b"\xff\xff\xff\xff")],
        COMPRESSION,
    ),
    "4.3 a name that does not end": (
        [frame(HEADERS, WHOLE, 1, b"\x00\x0aabc")],
        COMPRESSION,
    ),
    "4.3 a table that is too large": (
        [frame(HEADERS, WHOLE, 1, b"\x3f\xe2\x1f" + GET)],
        COMPRESSION,
    ),
    "4.3 a table's size after a field": (
        [frame(HEADERS, WHOLE, 1, GET + b"\x20")],
        COMPRESSION,
    ),
    "4.3 an end of Huffman's code within": (
        [frame(HEADERS, WHOLE, 1, GET + b"\x00\x01a\x84\xff\xff\xff\xff")],
        COMPRESSION,
    ),
    "4.3 Huffman's code filled up by a byte": (
        [frame(HEADERS, WHOLE, 1, GET + b"\x00\x01a\x83\xf8\xf8\xff")],
        COMPRESSION,
    ),
    "4.3 trailers that no table has": (
        [BEGUN, frame(HEADERS, WHOLE, 1, b"\xbe")],
        COMPRESSION,
    ),
    "4.3 a priority within a block": (
        [frame(HEADERS, END_STREAM, 1, GET), frame(PRIORITY, 0, 3, bytes(5))],
        PROTOCOL,
    ),
    "4.3 a block within a block": (
        [frame(HEADERS, END_STREAM, 1, GET), frame(HEADERS, WHOLE, 3, GET)],
        PROTOCOL,
    ),
    "4.3 a frame that nobody knows within a block": (
        [frame(HEADERS, END_STREAM, 1, GET) + frame(UNKNOWN, 0, 1)],
        PROTOCOL,
    ),
    "4.3 a farewell within a block": (
        [frame(HEADERS, END_STREAM, 1, GET) + frame(GOAWAY, 0, 0, bytes(8))],
        PROTOCOL,
    ),
    "5.1 idle: data": ([frame(DATA, 0, 1, b"x")], PROTOCOL),
    "5.1 idle: a reset": ([frame(RST_STREAM, 0, 1, number(8))], PROTOCOL),
    "5.1 idle: a reset of one of the server's": (
        [ASKED, frame(RST_STREAM, 0, 2, number(8))],
        PROTOCOL,
    ),
    "5.1 idle: a window": ([frame(WINDOW, 0, 1, number(9))], PROTOCOL),
    "5.1 idle: more fields": ([frame(MORE, END_HEADERS, 1)], PROTOCOL),
    "5.1 idle: a priority": ([frame(PRIORITY, 0, 1, bytes(5))], NOTHING),
    "5.1 half-closed: data": (
        [WAITING, frame(DATA, END_STREAM, 1, b"x")],
        One(ErrorCodes.STREAM_CLOSED),
    ),
    "5.1 half-closed: fields": (
        [WAITING, frame(HEADERS, WHOLE, 1, GET)],
        One(ErrorCodes.STREAM_CLOSED),
    ),
    "5.1 half-closed: a window": ([WAITING, frame(WINDOW, 0, 1, number(9))], NOTHING),
    "5.1 reset: data": (
        [WAITING, frame(RST_STREAM, 0, 1, number(8)), frame(DATA, 0, 1, b"x")],
        One(ErrorCodes.STREAM_CLOSED),
    ),
    "5.1 reset: fields": (
        [WAITING, frame(RST_STREAM, 0, 1, number(8)), frame(HEADERS, WHOLE, 1, GET)],
        One(ErrorCodes.STREAM_CLOSED),
    ),
    "5.1 reset: a reset": ([WAITING, frame(RST_STREAM, 0, 1, number(8)) * 2], NOTHING),
    "5.1 closed: data": ([ASKED, frame(DATA, 0, 1, b"x")], One(ErrorCodes.STREAM_CLOSED)),
    "5.1 closed: fields": (
        [ASKED, frame(HEADERS, WHOLE, 1, GET)],
        All(ErrorCodes.STREAM_CLOSED),
    ),
    "5.1 closed: more fields": (
        [ASKED, frame(MORE, END_HEADERS, 1)],
        PROTOCOL,
    ),
    "5.1 closed: a window, a reset, a priority": (
        [
            ASKED,
            frame(WINDOW, 0, 1, number(9)),
            frame(WINDOW, 0, 1, number(0)),
            frame(RST_STREAM, 0, 1, number(8)),
            frame(PRIORITY, 0, 1, bytes(5)),
        ],
        Status(200),
    ),
    "5.1.1 an even number": ([frame(HEADERS, WHOLE, 2, GET)], PROTOCOL),
    "5.1.1 a number that is less than the last": (
        [frame(HEADERS, WHOLE, 5, GET), frame(HEADERS, WHOLE, 3, GET)],
        PROTOCOL,
    ),
    "5.3 a request that depends on itself": (  # which had a meaning in RFC 7540
        [frame(HEADERS, WHOLE | PRIORITIZED, 1, number(1) + b"\1" + GET)],
        Status(200),
    ),
    "5.3 a padded one that depends on itself": (
        [
            frame(
                HEADERS, WHOLE | PRIORITIZED | PADDED, 1, b"\2" + number(1) + b"\1" + GET + b"\0\0"
            ),
        ],
        Status(200),
    ),
    "5.3 a stream that depends on itself": ([frame(PRIORITY, 0, 1, number(1) + b"\1")], NOTHING),
    "5.5 frames that nobody knows": (
        [frame(UNKNOWN, 0xFF, 1, b"x"), frame(UNKNOWN, 0, 0), frame(0xFF, 0, 7, b"x")],
        NOTHING,
    ),
    "5.5 extensions that are nothing to a server": (
        [frame(ALTSVC, 0, 0, b"\xff"), frame(ALTSVC, 0, 1), frame(PRIORITY_UPDATE, 0, 0)],
        NOTHING,
    ),
    "6.1 data of no stream": ([frame(DATA, 0, 0, b"x")], PROTOCOL),
    "6.1 padding that is longer than the frame": (
        [BEGUN, frame(DATA, PADDED, 1, b"\5abcd")],
        PROTOCOL,
    ),
    "6.1 padding that is as long as the frame": (
        [BEGUN, frame(DATA, PADDED, 1, b"\5abcde")],
        Status(405),
    ),
    "6.1 no room for the padding's length": (
        [BEGUN, frame(DATA, PADDED, 1)],
        SIZE,
    ),
    "6.2 fields of no stream": ([frame(HEADERS, WHOLE, 0, GET)], PROTOCOL),
    "6.2 padding that is longer than the fields": (
        [frame(HEADERS, WHOLE | PADDED, 1, b"\x20" + GET)],
        PROTOCOL,
    ),
    "6.2 no room for the priority": (
        [frame(HEADERS, WHOLE | PRIORITIZED, 1, b"\0\0")],
        SIZE,
    ),
    "6.3 a priority of no stream": ([frame(PRIORITY, 0, 0, bytes(5))], PROTOCOL),
    "6.3 a priority of 4 bytes": (
        [BEGUN, frame(PRIORITY, 0, 1, bytes(4))],
        One(ErrorCodes.FRAME_SIZE_ERROR),
    ),
    "6.4 a reset of no stream": ([frame(RST_STREAM, 0, 0, number(8))], PROTOCOL),
    "6.4 a reset of 3 bytes": (
        [WAITING, frame(RST_STREAM, 0, 1, bytes(3))],
        SIZE,
    ),
    "6.5 acknowledged settings with some": (
        [frame(SETTINGS, ACK, 0, setting(1, 1))],
        SIZE,
    ),
    "6.5 settings of a stream": ([frame(SETTINGS, 0, 1)], PROTOCOL),
    "6.5 settings of 5 bytes": ([frame(SETTINGS, 0, 0, bytes(5))], SIZE),
    "6.5.2 push that is neither on nor off": (
        [frame(SETTINGS, 0, 0, setting(2, 2))],
        PROTOCOL,
    ),
    "6.5.2 a window that is too large": (
        [frame(SETTINGS, 0, 0, setting(4, 1 << 31))],
        FLOW,
    ),
    "6.5.2 frames that are too short": (
        [frame(SETTINGS, 0, 0, setting(5, FRAME - 1))],
        PROTOCOL,
    ),
    "6.5.2 frames that are too long": (
        [frame(SETTINGS, 0, 0, setting(5, 1 << 24))],
        PROTOCOL,
    ),
    "6.5.2 a setting that nobody knows": ([frame(SETTINGS, 0, 0, setting(99, 1))], NOTHING),
    "6.6 a push": (
        [BEGUN, frame(PUSH_PROMISE, END_HEADERS, 1, number(2) + GET)],
        PROTOCOL,
    ),
    "6.6 a push without an end": (
        [BEGUN, frame(PUSH_PROMISE, 0, 1, number(2) + GET)],
        PROTOCOL,
    ),
    "6.7 an acknowledged ping": ([frame(PING, ACK, 0, bytes(8))], NOTHING),
    "6.7 a ping of a stream": ([frame(PING, 0, 1, bytes(8))], PROTOCOL),
    "6.7 a ping of 7 bytes": ([frame(PING, 0, 0, bytes(7))], SIZE),
    "6.8 a farewell of a stream": (
        [frame(GOAWAY, 0, 1, bytes(8))],
        PROTOCOL,
    ),
    "6.8 a farewell of 7 bytes": ([frame(GOAWAY, 0, 0, bytes(7))], SIZE),
    "6.9 a window that opens by nothing": (
        [frame(WINDOW, 0, 0, number(0))],
        PROTOCOL,
    ),
    "6.9 a stream's window that opens by nothing": (
        [WAITING, frame(WINDOW, 0, 1, number(0))],
        One(ErrorCodes.PROTOCOL_ERROR),
    ),
    "6.9 an idle stream's window that opens by nothing": (
        [frame(WINDOW, 0, 1, number(0))],
        PROTOCOL,
    ),
    "6.9 a window of 3 bytes": ([frame(WINDOW, 0, 0, bytes(3))], SIZE),
    "6.9.1 a window that opens too far": (
        [frame(WINDOW, 0, 0, number((1 << 31) - 1))],
        FLOW,
    ),
    "6.9.1 a stream's window that opens too far": (
        [WAITING, frame(WINDOW, 0, 1, number((1 << 31) - 1))],
        One(ErrorCodes.FLOW_CONTROL_ERROR),
    ),
    "6.9.1 more data than the window": (
        [BEGUN_WAITING, *[frame(DATA, 0, 1, bytes(FRAME))] * 4],
        FLOW,
    ),
    "6.9.2 windows that a setting opens too far": (
        [
            WAITING,
            frame(WINDOW, 0, 1, number((1 << 31) - 70_000)),
            frame(SETTINGS, 0, 0, setting(4, 1 << 30)),
        ],
        FLOW,
    ),
    "6.10 more fields of another stream": (
        [frame(HEADERS, END_STREAM, 1, GET), frame(MORE, END_HEADERS, 3)],
        PROTOCOL,
    ),
    "6.10 more fields after the end": (
        [WAITING, frame(MORE, END_HEADERS, 1)],
        PROTOCOL,
    ),
    "6.10 more fields after data": (
        [BEGUN, frame(DATA, 0, 1, b"x") + frame(MORE, END_HEADERS, 1)],
        PROTOCOL,
    ),
    "6.10 fields in several frames": (
        [
            frame(HEADERS, END_STREAM, 1, GET[:1]),
            frame(MORE, 0, 1, GET[1:2]),
            frame(MORE, 4, 1, GET[2:]),
        ],
        Status(200),
    ),
    "8.1 trailers": ([BEGUN, frame(HEADERS, WHOLE, 1, field(b"a", b"b"))], Status(405)),
    "8.1 trailers that are no end": (
        [BEGUN_WAITING, frame(HEADERS, END_HEADERS, 1, field(b"a", b"b"))],
        One(ErrorCodes.PROTOCOL_ERROR),
    ),
    "8.1 trailers that are no end, after the answer": (  # of which the client may have seen nothing
        [BEGUN, frame(HEADERS, END_HEADERS, 1, field(b"a", b"b"))],
        Status(405),
    ),
    "8.1 trailers with a pseudo-field": (
        [BEGUN_WAITING, frame(HEADERS, WHOLE, 1, field(b":path", b"/"))],
        One(ErrorCodes.PROTOCOL_ERROR),
    ),
    "8.1 trailers with an impossible name": (
        [BEGUN_WAITING, frame(HEADERS, WHOLE, 1, field(b"A", b"b"))],
        One(ErrorCodes.PROTOCOL_ERROR),
    ),
    "8.1 a status": ([frame(HEADERS, WHOLE, 1, field(b":status", b"100") + GET)], Status(400)),
    "8.1.1 as long as it is said": (
        [sized(b"5"), frame(DATA, END_STREAM, 1, b"abcde")],
        Status(405),
    ),
    "8.1.1 in several frames, with trailers": (
        [
            sized(b"5"),
            frame(DATA, 0, 1, b"abc"),
            frame(DATA, PADDED, 1, b"\1de\0"),
            frame(HEADERS, WHOLE, 1, b""),
        ],
        Status(405),
    ),
    "8.1.1 longer than it is said": (
        [sized(b"5"), frame(DATA, 0, 1, b"abcdef")],
        One(ErrorCodes.PROTOCOL_ERROR),
    ),
    "8.1.1 longer than it is said, in one read": (
        [sized(b"5") + frame(DATA, END_STREAM, 1, b"abcdef")],
        One(ErrorCodes.PROTOCOL_ERROR),
    ),
    "8.1.1 shorter than it is said": (
        [sized(b"5", path=b"\x04\x05/wait"), frame(DATA, END_STREAM, 1, b"abcd")],
        One(ErrorCodes.PROTOCOL_ERROR),
    ),
    "8.1.1 shorter than it is said, in one read": (
        [sized(b"5") + frame(DATA, END_STREAM, 1, b"abcd")],
        One(ErrorCodes.PROTOCOL_ERROR),
    ),
    "8.1.1 shorter than it is said, with trailers": (
        [sized(b"5", path=b"\x04\x05/wait"), frame(HEADERS, WHOLE, 1, b"")],
        One(ErrorCodes.PROTOCOL_ERROR),
    ),
    "8.1.1 nothing, and it is said": ([sized(b"0", flags=WHOLE)], Status(405)),
    "8.1.1 nothing, and something is said": ([sized(b"5", flags=WHOLE)], Status(400)),
    **{
        f"8.1.1 a length of {value!r}": ([sized(value)], Status(400))
        for value in (
            b"-1",
            b"+5",
            b"1, 2",
            b"5, 5",
            b"",
            b" 5",
            b"0x5",
            b"5\xb2",
            b"9" * 99,
            b"1_0",
        )
    },
    "8.1.1 two lengths": ([sized(b"5", b"6")], Status(400)),
    "8.1.1 the same length twice": ([sized(b"5", b"5")], Status(400)),
    "8.5 a tunnel": (
        [
            frame(
                HEADERS,
                END_HEADERS,
                1,
                field(b":method", b"CONNECT") + field(b":authority", b"x:1"),
            )
        ],
        Status(405),
    ),
    "8441 another protocol": (
        [
            frame(
                HEADERS,
                END_HEADERS,
                1,
                field(b":method", b"CONNECT") + TARGET + field(b":protocol", b"websocket"),
            )
        ],
        Status(400),
    ),
}


class Talk:
    """A server whose requests are answered at once, but for those of /wait."""

    def __init__(self) -> None:
        self.streams = Streams()
        self.decoder = Decoder()
        self.seen: list[All | One | Status] = []
        self.windows: dict[int, int] = {}
        """Bytes that the client has been given back, by stream."""

    def say(self, data: bytes) -> None:
        streams = self.streams
        streams.feed(data, NOW)
        while streams.can_begin:
            stream = streams.begin()
            if b"/wait" in stream.request.target:
                continue
            status = getattr(stream.request, "status", 0)
            status = status or (405 if stream.request[0] in (b"POST", b"CONNECT") else 200)
            head = b"HTTP/1.1 %d Some\r\n\r\nabc" % status
            streams.answer(stream, Response(head, (), True, status, 3))
        while (turn := streams.turn()) is not None:
            streams.send(turn[0], turn[0].unsent[0][: turn[1]])  # type: ignore[index]
        for said in frames(streams.take()):
            if isinstance(said, GoAwayFrame):
                self.seen.append(All(ErrorCodes(said.error_code)))
            elif isinstance(said, RstStreamFrame):
                self.seen.append(One(ErrorCodes(said.error_code), said.stream_id))
            elif isinstance(said, HeadersFrame):
                ((_, status), *_) = self.decoder.decode(said.data, raw=True)
                self.seen.append(Status(int(status), said.stream_id))
            elif isinstance(said, WindowUpdateFrame):
                given = self.windows.get(said.stream_id, 0)
                self.windows[said.stream_id] = given + said.window_increment


def frames(said: bytes) -> Iterator[Frame]:
    while said:
        found, size = Frame.parse_frame_header(memoryview(said)[:9])
        found.parse_body(memoryview(said)[9 : 9 + size])
        yield found
        said = said[9 + size :]


READS = [(name, False) for name in CASES] + [
    (name, True)
    for name in CASES
    if not name.startswith("5.1 closed")  # which it is once there was an answer
]


@pytest.mark.parametrize(("name", "at_once"), READS)
def test_an_error_is_the_one_that_rfc_9113_has(name: str, at_once: bool) -> None:
    """Whether the frames come one by one or at once; a stream's error is no other's."""
    reads, expected = CASES[name]
    talk = Talk()
    talk.say(HELLO)
    for read in [b"".join(reads)] if at_once else reads:
        talk.say(read)
    if isinstance(expected, All):
        assert [seen for seen in talk.seen if isinstance(seen, All)] == [expected]
        assert talk.streams.failed
        assert not talk.streams.open
        return
    other = Status(200, 9)
    talk.say(frame(HEADERS, WHOLE, other.stream, GET))
    assert talk.seen.pop() == other
    errors = [seen for seen in talk.seen if isinstance(seen, One)]
    if isinstance(expected, One):
        assert errors == [expected]
        assert expected.stream not in talk.streams.open
    elif not at_once or not errors:  # else it was seen before there was an answer
        assert errors == []
        assert expected is None or expected in talk.seen


@pytest.mark.parametrize("said", FIRST)
def test_a_connection_begins_with_the_preface_and_settings(said: bytes) -> None:
    for pieces in ([said], [said[at : at + 1] for at in range(len(said))]):
        talk = Talk()
        for piece in pieces:
            talk.say(piece)
        assert talk.seen == [PROTOCOL]


def begin_and_reset(talk: Talk, id: int, size: int = 1) -> None:
    """Have the server reset a stream of which more may come."""
    length = field(b"content-length", b"0")
    talk.say(frame(HEADERS, END_HEADERS, id, POST + length) + frame(DATA, 0, id, bytes(size)))
    assert talk.seen.pop() == One(ErrorCodes.PROTOCOL_ERROR, id)


@pytest.mark.parametrize("padded", [False, True])
def test_data_that_comes_after_a_reset_is_taken_in_silence(padded: bool) -> None:
    talk = Talk()
    talk.say(HELLO)
    begin_and_reset(talk, 1, FRAME)
    late = frame(DATA, PADDED if padded else 0, 1, bytes(FRAME))
    for _ in range(10):
        talk.say(late * 3)
    assert talk.seen == []
    assert talk.windows == {0: 31 * FRAME}  # that of the connection is given back
    talk.say(frame(HEADERS, WHOLE, 3, GET))
    assert talk.seen == [Status(200, 3)]


def test_data_that_comes_after_a_reset_is_counted() -> None:
    talk = Talk()
    talk.say(HELLO)
    begin_and_reset(talk, 1)
    number = 0
    while not talk.streams.failed:
        number += 1
        talk.say(frame(DATA, 0, 1, bytes(FRAME)))
    assert number <= FIRST_CREDIT
    assert talk.seen == [All(ErrorCodes.ENHANCE_YOUR_CALM)]


def test_a_stream_that_was_reset_long_ago_is_closed() -> None:
    talk = Talk()
    talk.say(HELLO)
    for number in range(MAX_IGNORED + 1):
        begin_and_reset(talk, 2 * number + 1)
        talk.streams._credit.left = FIRST_CREDIT
    for _ in range(3):
        talk.say(frame(DATA, 0, 3, b"x") + frame(DATA, 0, 1, b"x"))
    assert talk.seen == [One(ErrorCodes.STREAM_CLOSED, 1), One(ErrorCodes.STREAM_CLOSED, 3)]


def test_data_after_the_end_is_refused_once() -> None:
    talk = Talk()
    talk.say(HELLO)
    talk.say(ASKED)
    for _ in range(10):
        talk.say(frame(DATA, 0, 1, b"x"))
    assert talk.seen == [Status(200), One(ErrorCodes.STREAM_CLOSED)]
    assert talk.windows[0] >= 9  # h2 gives the first back later
