"""The control channel: what a supervisor asks its workers while they serve, and their answers.

Each worker has one end of a pair of sockets that keeps packets apart.  A question is a kind and a
number; the answer begins with the same number, so that a late answer is not mistaken for another.
The supervisor waits a bounded time for an answer, and the worker does not wait at all.

What an answer means is known to whoever asks, and not here.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Final

from tame import (
    READ,
    Descriptor,
    Event,
    EventDroppedError,
    Rendezvous,
    mkevent,
    tamed,
    timer,
    tvars,
    twait,
    wait_on_fd,
)

COUNT: Final = b"c"
"""Write the counts into the shared memory now."""
BEAT: Final = b"b"
"""Answer anything, from the loop that serves the clients."""
WAITING: Final = b"w"
"""List what every call waits for."""

ANSWER_TIMEOUT: Final = 1.0
"""Seconds for an answer."""

QUESTION: Final = struct.Struct("=cQ")
NUMBER: Final = struct.Struct("=Q")

MAX_ANSWER: Final = 64 * 1024
"""Bytes of an answer; a longer one is cut."""

Answers = Mapping[bytes, Callable[[], str]]
"""For each kind of question, the function that makes the answer."""


def pair() -> tuple[socket.socket, socket.socket]:
    """The supervisor's end and the worker's end."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


class ControlChannel:
    """The supervisor's end."""

    def __init__(self, fd: int) -> None:
        self.descriptor = Descriptor(fd)
        self._numbers = itertools.count()
        self._asked: dict[int, Event[str | None]] = {}
        self.missed = 0
        """Heartbeats asked for since the worker last answered anything."""

    def beat(self) -> None:
        """Ask for a heartbeat."""
        self.missed += 1
        with suppress(OSError):  # the worker has ended, or many questions wait for it
            os.write(self.descriptor.fd, QUESTION.pack(BEAT, next(self._numbers)))

    def hears(self, word: bytes) -> bool:
        """Whether the worker's next packet is `word`."""
        return os.read(self.descriptor.fd, MAX_ANSWER) == word

    @tamed
    def listen(self) -> None:
        """Pass answers on until the worker ends."""
        try:
            while True:
                with twait:
                    wait_on_fd(self.descriptor, READ, mkevent())
                packet = os.read(self.descriptor.fd, MAX_ANSWER)
                if not packet:
                    break
                self.missed = 0
                event = self._asked.pop(NUMBER.unpack_from(packet)[0], None)
                if event is not None:
                    event.trigger(packet[NUMBER.size :].decode(errors="replace"))
        except (OSError, EventDroppedError):
            pass  # the worker has ended
        self.close()

    @tamed
    def ask(self, kind: bytes, done: Event[str | None]) -> None:
        """Trigger `done` with the answer, or with None if there is none in time."""
        with tvars:
            answer: str | None
        answer = None
        number = next(self._numbers)
        r = Rendezvous[None]()
        try:
            os.write(self.descriptor.fd, QUESTION.pack(kind, number))
        except OSError:
            done.trigger(None)  # the worker has ended, or many questions wait for it
            return
        self._asked[number] = mkevent(r, None, answer)
        timer(ANSWER_TIMEOUT, mkevent(r, None))
        twait(r)
        r.cancel()
        self._asked.pop(number, None)
        done.trigger(answer)

    def close(self) -> None:
        self.descriptor.close()
        while self._asked:
            self._asked.popitem()[1].trigger(None)


@tamed
def serve_control(fd: int, answers: Answers) -> None:
    """The worker's end: answer questions for as long as the loop runs."""
    supervisor = Descriptor(fd)
    try:
        while True:
            with twait:
                wait_on_fd(supervisor, READ, mkevent())
            made: dict[bytes, bytes] = {}
            for kind, number in questions(supervisor.fd):
                if kind not in made:  # equal questions at once share an answer
                    made[kind] = answers[kind]().encode()[: MAX_ANSWER - NUMBER.size]
                with suppress(BlockingIOError):  # the supervisor reads no answers: carry on
                    os.write(supervisor.fd, NUMBER.pack(number) + made[kind])
    except OSError:
        pass
    finally:
        supervisor.close()


def questions(fd: int) -> Iterator[tuple[bytes, int]]:
    """The questions that have arrived.  Raises `ConnectionError` when no more can come."""
    while True:
        try:
            packet = os.read(fd, QUESTION.size)
        except BlockingIOError:
            return
        if not packet:
            raise ConnectionResetError
        yield QUESTION.unpack(packet)
