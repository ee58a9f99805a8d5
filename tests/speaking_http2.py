"""A client of HTTP/2, by the library `h2`, which complains if the server breaks the rules."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import suppress

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.settings import SettingCodes, Settings
from hyperframe.frame import Frame, GoAwayFrame

Fields = Iterable[tuple[bytes, bytes]]


class Answer:
    def __init__(self) -> None:
        self.status = 0
        self.fields: dict[bytes, bytes] = {}
        self.content = bytearray()
        self.ended = False
        self.reset: ErrorCodes | int | None = None

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None


class Client:
    """What it says is taken by `say`, what it is told is given to `hear`."""

    def __init__(self, window: int | None = None, greedy: bool = True) -> None:
        """`window` is the first of each stream; a `greedy` client opens windows as it reads."""
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.greedy = greedy
        self.answers: dict[int, Answer] = {}
        self.frames: list[int] = []
        """The streams of the DATA frames that came, in their order."""
        self.farewell: GoAwayFrame | None = None
        self._torn = b""
        if window is not None:
            first = {SettingCodes.INITIAL_WINDOW_SIZE: window}
            self.h2.local_settings = Settings(client=True, initial_values=first)
        self.h2.initiate_connection()

    def ask(
        self,
        path: bytes = b"/",
        fields: Fields = (),
        *,
        method: bytes = b"GET",
        host: bytes = b"example.org",
        whole: bool = True,
    ) -> int:
        """The stream of the request; without `whole` there is more of it to come."""
        head = [(b":method", method), (b":scheme", b"https"), (b":authority", host)]
        return self.ask_as_is([*head, (b":path", path), *fields], whole=whole)

    def ask_as_is(self, fields: Fields, *, whole: bool = True) -> int:
        """Whatever the fields are."""
        self.h2.config.validate_outbound_headers = False
        self.h2.config.normalize_outbound_headers = False
        id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(id, list(fields), end_stream=whole)
        self.answers[id] = Answer()
        return id

    def say(self) -> bytes:
        return self.h2.data_to_send()

    def hear(self, data: bytes) -> None:
        data, self._torn = self._torn + data, b""
        start = 0
        while start + 9 <= len(data):
            found, size = Frame.parse_frame_header(memoryview(data)[start : start + 9])
            end = start + 9 + size
            if end > len(data):
                break
            if isinstance(found, GoAwayFrame):  # after which h2 would hear nothing more
                found.parse_body(memoryview(data)[start + 9 : end])
                self.farewell = found
            else:
                self._handle_event(data[start:end])
            start = end
        self._torn = data[start:]

    def _handle_event(self, frame: bytes) -> None:
        for event in self.h2.receive_data(frame):
            if isinstance(event, ResponseReceived):
                assert event.stream_id is not None
                assert event.headers is not None
                answer = self.answers[event.stream_id]
                answer.fields = {bytes(name): bytes(value) for name, value in event.headers}
                answer.status = int(answer.fields.pop(b":status"))
            elif isinstance(event, DataReceived):
                assert event.stream_id is not None
                assert event.data is not None
                self.frames.append(event.stream_id)
                self.answers[event.stream_id].content += event.data
                if self.greedy and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                assert event.stream_id is not None
                self.answers[event.stream_id].ended = True
            elif isinstance(event, StreamReset):
                assert event.stream_id is not None
                self.answers[event.stream_id].reset = event.error_code

    @property
    def satisfied(self) -> bool:
        return all(answer.over for answer in self.answers.values())


class Connected(Client):
    """One at a socket."""

    def __init__(self, end: socket.socket, window: int | None = None, greedy: bool = True) -> None:
        super().__init__(window, greedy)
        self.end = end
        end.settimeout(20)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Connected:
        return self

    def __exit__(self, *_: object) -> None:
        self.end.close()

    def flush(self) -> None:
        self.end.sendall(self.say())

    def read(self) -> bool:
        """Hear what has come; whether more may come."""
        with suppress(BrokenPipeError):  # it may have said something before it left
            self.flush()
        data = self.end.recv(1 << 16)
        if data:
            self.hear(data)
        return bool(data)

    def until_satisfied(self) -> None:
        while not self.satisfied:
            assert self.read(), "the connection has ended"

    def until_closed(self) -> None:
        while self.read():
            pass

    def get(self, path: bytes = b"/", fields: Fields = (), **about: bool | bytes) -> Answer:
        id = self.ask(path, fields, **about)  # type: ignore[arg-type]
        self.until_satisfied()
        return self.answers[id]
