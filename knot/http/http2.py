"""HTTP/2 (RFC 9113).  No I/O: bytes from the client go in and requests come out; responses go in,
and frames come out as far as the client has room for them.

The library `h2` knows the protocol's states; `http2_frames.py` bounds and checks the frames that it
gets; `http2_fields.py` turns header fields into a `Request`, and the head of a `Response` into
header fields.  Here are the streams: which requests are open, and whose turn it is to send.  The
owner of the `Streams` reads the files that responses consist of, and does the waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame, WindowUpdateFrame

from knot.files.representation import Bytes, Slice
from knot.http.http2_fields import FieldDecoder, can_be_trailer, encoded, find_request, length_in
from knot.http.http2_frames import (
    DATA,
    END_STREAM,
    FRAME,
    FRAME_HEAD,
    GOAWAY,
    HEADERS,
    PRIORITIZED,
    RESET,
    STREAM_AT,
    USUAL,
    Credit,
    FrameError,
    FrameReader,
    depends_on_itself,
    find_fault,
    is_for_h2,
    number_at,
    without_dependency,
)
from knot.http.request import MAX_HEAD, NO_NAMES, BadRequest, Request
from knot.http.responder import Response, length_of

MAX_STREAMS: Final = 100
"""At once; RFC 9113, section 6.5.2 recommends no fewer."""

MAX_HELD: Final = 4 * 1024 * 1024
"""Bytes of responses in memory that wait for the client's window, before more are begun."""

# The rest of a request that has its response is read for a while.  A server may reset the stream at
# once (RFC 9113, section 8.1), but some clients (curl 7.88) lose the response then.
LINGER: Final = 2.0
"""Seconds."""
MAX_DISCARDED: Final = 1024 * 1024
"""Bytes."""
WINDOW: Final = 65_535
"""Bytes that a client may send at first.  If the response is no error, curl 7.88 goes on sending,
but ignores that it may send more than this: then the reset must come with the response."""

MAX_IGNORED: Final = MAX_STREAMS
"""Streams that were reset last, whose DATA frames may still be on their way (section 5.1)."""

FOR_AN_ANSWER: Final = 20
"""Frames of credit for each response."""
FOR_BYTES: Final = 1024
"""Bytes of content that are worth a frame: clients open two windows for each 4 KiB, or more."""

ANY_HEAD: Final = [(b":status", b"200")]

CONFIGURATION: Final = H2Configuration(
    client_side=False,
    header_encoding=None,
    # `http2_fields.py` does both.
    validate_inbound_headers=False,
    normalize_inbound_headers=False,
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
)


class Encoded:
    """In place of h2's HPACK encoder: what h2 has it encode is encoded already."""

    header_table_size = 0

    def __init__(self) -> None:
        self.block = b""

    def encode(self, headers: object) -> bytes:
        return self.block


def new_h2(encoder: Encoded) -> H2Connection:
    """A connection whose settings have been sent."""
    h2 = H2Connection(CONFIGURATION)
    h2.local_settings = Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEAD,
        },
    )
    # A list that is a little too long gets a response, a longer one ends the connection.
    h2.decoder = FieldDecoder(2 * MAX_HEAD)
    h2.encoder = encoder  # type: ignore[assignment]
    h2.initiate_connection()
    # A stream too many is refused by `Streams`, and does not end the connection (section 5.1.2).
    h2.local_settings = Settings(
        client=False, initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: 2**31 - 1}
    )
    return h2


class Content:
    """What a client sends with a request, which is discarded."""

    __slots__ = ("broken", "length", "received", "withheld")

    def __init__(self, length: int | None) -> None:
        self.length = length
        """As the client has declared it."""
        self.received = 0
        """Bytes."""
        self.withheld = 0
        """Bytes of the stream's window that have not been given back."""
        self.broken = False
        """Whether its end is not valid (section 8.1)."""


class Stream:
    """A request, and what is left to send of its response."""

    __slots__ = ("front", "id", "paused", "request", "response", "said", "unsent", "when")

    def __init__(
        self,
        id: int,
        request: Request | BadRequest,
        said: tuple[bytes, bytes],
        when: float,
        front: Any = None,
    ) -> None:
        self.front = front
        """The value of `Streams.front` when the request came."""
        self.id = id
        self.request = request
        self.said = said
        """Referer and User-Agent."""
        self.when = when
        """Seconds since the epoch."""
        self.response: Response | None = None
        self.unsent: deque[memoryview | Slice] = deque()
        self.paused = False
        """Whether it gets no turn, however wide its window is open."""


class Streams:
    """All streams of one connection.

    Once it is `over`, the rest of `take()` is to be sent, and nothing more need be read.
    """

    def __init__(self, wanted: frozenset[bytes] = NO_NAMES, linger: float = LINGER) -> None:
        """The content of a request that has its response is read for `linger` seconds."""
        self.wanted = wanted
        """Lower-case names of further fields that requests are to have."""
        self.front: Any = None
        """What is to answer the requests that come now; `Streams` only passes it on."""
        self._linger = linger
        self._encoded = Encoded()
        self._h2 = new_h2(self._encoded)
        self._credit = Credit()
        self._frames = FrameReader(self._credit)
        self._own_frames = bytearray()
        """Frames for the client, to be sent before those of h2."""
        self._now = 0.0
        self._begun = 0
        """The stream of the last request that was begun."""

        # What clients send with their requests
        self._contents: dict[int, Content] = {}
        """By stream, those that have not ended."""
        self._lingering: dict[int, float] = {}
        """Streams of contents whose requests have their responses, and until when they are read."""
        self._ignored: dict[int, None] = {}
        """Streams that were reset here, of which frames may still come."""
        self._discarded = 0
        """Bytes of such frames, by which the window of the connection has still to be opened."""

        # Requests and their responses
        self.open: dict[int, Stream] = {}
        """Streams whose responses have not been sent."""
        self.asked: deque[Stream] = deque()
        """Streams among them whose answer has not been begun."""
        self._ready: deque[Stream] = deque()
        """Streams that have something to send, in the order of their turns."""
        self.ended: list[Stream] = []
        """Streams that were answered, or given up with something `unsent`; the owner clears it."""
        self.held = 0
        """Bytes in memory of responses that have not been sent."""
        self.moved = False
        """Set when some of a response is to be sent."""

        self.leaving = False
        """Whether the open streams are the last."""
        self.failed = False
        """Whether the client has broken the rules."""

    @property
    def over(self) -> bool:
        return self.failed or (self.leaving and not self.open and not self._lingering)

    @property
    def lingers(self) -> bool:
        """Whether content is read of requests that have their responses: for a while only."""
        return bool(self._lingering)

    @property
    def unfinished(self) -> bool:
        """Whether the client is in the middle of a frame or a list of fields."""
        return self._frames.unfinished

    # -- what the client sends ---------------------------------------------------------------------

    def feed(self, data: bytes | bytearray, now: float) -> None:
        """Take in what was read at the time `now`; `asked` has the requests in it."""
        if self.failed:
            return
        self._now = now
        if self._lingering:
            self._end_lingering()
        try:
            for kind, frames in self._frames.read(data, self._contents):
                if kind != USUAL:
                    frames = self._look(kind, bytearray(frames))
                if frames and not self.failed:
                    self._take(frames)
                if self.failed:
                    break
        except FrameError as error:
            self._give_up(error.code)
        except ProtocolError:
            self._give_up()
        if self._discarded and not self.failed:
            window = WindowUpdateFrame(0, window_increment=self._discarded)
            self._own_frames += window.serialize()
            self._discarded = 0

    def _look(self, kind: int, frame: bytearray) -> bytes | bytearray:
        """The bytes of a frame that are passed to h2."""
        id = number_at(frame, STREAM_AT)
        is_idle = id > self._h2.highest_inbound_stream_id or (id > 0 and id % 2 == 0)
        fault = find_fault(frame, is_idle, self._frames.greeted)
        self._frames.greeted = True
        if fault is not None:
            if fault.ends_connection:
                self._give_up(fault.error)
            else:
                self._break(id, fault.error)
            return b""
        if kind == DATA and id and not is_idle:
            return self._look_at_data(id, frame)
        if kind == HEADERS:
            return self._look_at_headers(id, frame)
        if kind == GOAWAY:
            self.leaving = True
        return frame if is_for_h2(kind) else b""

    def _look_at_data(self, id: int, frame: bytearray) -> bytes | bytearray:
        """DATA for a stream that should have no more: it may have been on its way when the stream
        was reset.  The window of the connection has to be opened again all the same."""
        if id in self._contents:
            return frame
        if id in self._ignored:
            self._discarded += len(frame) - FRAME_HEAD
            return b""
        self._credit.spend(RESET)
        self._ignore(id)  # once h2 has said that it is closed
        return frame

    def _look_at_headers(self, id: int, frame: bytearray) -> bytearray:
        flags = frame[4]
        content = self._contents.get(id)
        if content is not None and not flags & END_STREAM:
            content.broken = True  # trailers have to be the end (section 8.1)
            frame[4] |= END_STREAM
        if flags & PRIORITIZED and depends_on_itself(flags, frame, 0):
            return without_dependency(flags, frame)
        return frame

    def _take(self, frames: bytes | bytearray) -> None:
        for event in self._h2.receive_data(frames):
            handle = HANDLERS.get(type(event))
            if handle is not None:
                handle(self, event)

    def _on_request(self, event: RequestReceived) -> None:
        assert event.stream_id is not None
        assert event.headers is not None
        id, whole = event.stream_id, event.stream_ended is not None
        if self.leaving:  # section 8.7: the client may ask for the same elsewhere
            return self._reset(id, ErrorCodes.REFUSED_STREAM)
        if len(self.open) + len(self._lingering) >= MAX_STREAMS:
            return self._break(id, ErrorCodes.REFUSED_STREAM)
        request, said = find_request(event.headers, self.wanted, whole)
        stream = Stream(id, request, said, self._now, self.front)
        if not whole:
            self._contents[id] = Content(length_in(event.headers))
        self.open[id] = stream
        self.asked.append(stream)

    def _on_reset(self, event: StreamReset) -> None:
        id = event.stream_id or 0
        if not event.remote_reset:  # the client has made h2 do it (CVE-2025-8671)
            self._credit.spend(RESET)
            self._ignore(id)
        self._contents.pop(id, None)
        self._lingering.pop(id, None)
        if id in self.open:
            self._forget(self.open[id])

    def _on_window(self, event: WindowUpdated) -> None:
        self._open_window(event.stream_id)

    def _on_settings(self, event: RemoteSettingsChanged) -> None:
        for setting in event.changed_settings:
            if not isinstance(setting, SettingCodes):  # h2 would keep every one that is sent
                self._h2.remote_settings.pop(setting, None)
        for id in self.open:
            self._open_window(id)

    def _open_window(self, id: int | None) -> None:
        stream = self.open.get(id or 0)
        if stream is not None and stream.unsent and not stream.paused:
            self.resume(stream)

    # -- the content of requests -------------------------------------------------------------------

    def _on_data(self, event: DataReceived) -> None:
        """Discard content: no method uses it.  The window of the connection stays open."""
        id, size = event.stream_id or 0, event.flow_controlled_length or 0
        if size:
            self._h2.increment_flow_control_window(size)
        content = self._contents.get(id)
        if content is None:
            return
        content.received += len(event.data or b"")
        content.withheld += size
        if content.length is not None and content.received > content.length:
            self._break(id, ErrorCodes.PROTOCOL_ERROR)  # section 8.1.1
        elif content.received > MAX_DISCARDED:
            if id in self._lingering:
                self._reset(id, ErrorCodes.NO_ERROR)
        elif id in self._lingering and event.stream_ended is None:
            self._read_on(id, content)
        if size >= FOR_BYTES:
            self._credit.earn(1)

    def _on_trailers(self, event: TrailersReceived) -> None:
        content = self._contents.get(event.stream_id or 0)
        if content is not None and not all(map(can_be_trailer, event.headers or ())):
            content.broken = True

    def _on_end(self, event: StreamEnded) -> None:
        id = event.stream_id
        if id not in self._contents:
            return
        self._lingering.pop(id, None)
        content = self._contents.pop(id)
        if content.broken or content.length not in (None, content.received):
            self._break(id, ErrorCodes.PROTOCOL_ERROR)  # sections 8.1 and 8.1.1

    def _read_on(self, id: int, content: Content) -> None:
        """Let the client send more."""
        if content.withheld:
            self._h2.increment_flow_control_window(content.withheld, id)
            content.withheld = 0

    def _end_lingering(self) -> None:
        """Reset the streams whose clients have had time enough to see their responses."""
        while self._lingering:
            id, until = next(iter(self._lingering.items()))
            if until > self._now:
                break
            self._reset(id, ErrorCodes.NO_ERROR)

    # -- streams and connections that end early ----------------------------------------------------

    def _reset(self, id: int, error: ErrorCodes) -> None:
        with suppress(ProtocolError):  # it may have ended already
            self._h2.reset_stream(id, error)
        self._contents.pop(id, None)
        self._lingering.pop(id, None)
        self._ignore(id)

    def _ignore(self, id: int) -> None:
        self._ignored[id] = None
        if len(self._ignored) > MAX_IGNORED:
            del self._ignored[next(iter(self._ignored))]

    def _break(self, id: int, error: ErrorCodes) -> None:
        """Reset a stream for which the client has broken the rules: it costs as much credit as a
        reset by the client."""
        self._credit.spend(RESET)
        self._reset(id, error)
        if id in self.open:
            self._forget(self.open[id])

    def _forget(self, stream: Stream) -> None:
        """Stop sending it."""
        self.pause(stream)
        with suppress(ValueError):
            self.asked.remove(stream)
        self._end(stream)

    def _give_up(self, error: ErrorCodes | None = None) -> None:
        """End the connection because the client has broken the rules; without an `error`, h2 has
        said so already."""
        self.failed = True
        if error is not None:
            with suppress(ProtocolError):
                self._h2.close_connection(error)
        self.drop()

    # -- what the client gets ----------------------------------------------------------------------

    @property
    def can_begin(self) -> bool:
        """Whether a request waits, and responses do not take up too much memory."""
        return bool(self.asked) and self.held <= MAX_HELD

    def begin(self) -> Stream:
        """The next request to answer."""
        stream = self.asked.popleft()
        self._begun = stream.id
        return stream

    def answer(self, stream: Stream, response: Response) -> None:
        """Send `response` as soon as possible, unless the client has reset the stream."""
        if stream.id not in self.open:
            return
        stream.response = response
        data = response.data
        end = data.index(b"\r\n\r\n") + 4
        if end < len(data):
            stream.unsent.append(memoryview(data)[end:])
        for piece in response.rest:
            if length_of(piece):
                stream.unsent.append(piece if isinstance(piece, Slice) else memoryview(piece))
        self.held += held(stream)
        self.moved = True
        self._encoded.block = encoded(data[:end])
        self._h2.send_headers(stream.id, ANY_HEAD, end_stream=not stream.unsent)
        if stream.unsent:
            self._ready.append(stream)
        else:
            self._complete(stream)

    def turn(self) -> tuple[Stream, int] | None:
        """The stream whose turn it is, and how many bytes of its first `unsent` piece to send."""
        ready = self._ready
        while ready and self._h2.outbound_flow_control_window > 0:
            stream = ready[0]
            room = self._h2.local_flow_control_window(stream.id)
            if room > 0:
                return stream, min(room, FRAME, length_of(stream.unsent[0]))
            ready.popleft()  # until the window opens
        return None

    def send(self, stream: Stream, data: Bytes | memoryview) -> None:
        """Send `data`, the next bytes of the stream whose turn it is."""
        assert stream is self._ready[0]
        size = len(data)
        piece = stream.unsent[0]
        left: memoryview | Slice
        if isinstance(piece, Slice):
            left = piece._replace(start=piece.start + size)
        else:
            left = piece[size:]
            self.held -= size
        if length_of(left):
            stream.unsent[0] = left
        else:
            stream.unsent.popleft()
        self._h2.send_data(stream.id, bytes(data), end_stream=not stream.unsent)
        self._credit.earn(size // FOR_BYTES)
        self.moved = True
        if stream.unsent:
            self._ready.rotate(-1)
        else:
            self._ready.popleft()
            self._complete(stream)

    def pause(self, stream: Stream) -> None:
        """Skip its turns until `resume`."""
        stream.paused = True
        with suppress(ValueError):
            self._ready.remove(stream)

    def resume(self, stream: Stream) -> None:
        stream.paused = False
        if stream.id in self.open and stream not in self._ready:
            self._ready.append(stream)

    def abandon(self, stream: Stream) -> None:
        """Reset a stream whose response cannot be completed."""
        if stream.id in self.open:
            self._reset(stream.id, ErrorCodes.INTERNAL_ERROR)
            self._forget(stream)

    def leave(self) -> None:
        """Send the responses that were begun, and no others: the client may send the other requests
        again, elsewhere (section 8.7)."""
        if self.leaving or self.failed:
            return
        self.leaving = True
        # Not by h2, for which a GOAWAY ends all streams.
        self._own_frames += self._h2.data_to_send()
        self._own_frames += GoAwayFrame(0, last_stream_id=self._begun).serialize()
        while self.asked:
            stream = self.asked.popleft()
            del self.open[stream.id]
            self._reset(stream.id, ErrorCodes.REFUSED_STREAM)

    def drop(self) -> None:
        """Nothing more can be sent."""
        self.asked.clear()
        self._ready.clear()
        self._contents.clear()
        self._lingering.clear()
        for stream in list(self.open.values()):
            self._end(stream)

    def take(self) -> bytes:
        """What is to be sent now."""
        if not self._own_frames:
            return self._h2.data_to_send()
        frames, self._own_frames = self._own_frames, bytearray()
        return bytes(frames) + self._h2.data_to_send()

    def _complete(self, stream: Stream) -> None:
        content = self._contents.get(stream.id)
        if content is not None:
            assert stream.response is not None
            if stream.response.status < 400 and (content.length or 0) > WINDOW:
                self._reset(stream.id, ErrorCodes.NO_ERROR)
            else:
                self._lingering[stream.id] = self._now + self._linger
                self._read_on(stream.id, content)
        self._credit.earn(FOR_AN_ANSWER)
        self._end(stream)

    def _end(self, stream: Stream) -> None:
        del self.open[stream.id]
        self.held -= held(stream)
        self.ended.append(stream)


HANDLERS: Final[dict[type[Event], Callable[[Streams, Any], None]]] = {
    RequestReceived: Streams._on_request,
    DataReceived: Streams._on_data,
    TrailersReceived: Streams._on_trailers,
    StreamEnded: Streams._on_end,
    StreamReset: Streams._on_reset,
    WindowUpdated: Streams._on_window,
    RemoteSettingsChanged: Streams._on_settings,
}


def held(stream: Stream) -> int:
    """Bytes in memory that have not been sent."""
    return sum(len(piece) for piece in stream.unsent if not isinstance(piece, Slice))
