"""What a supervisor asks its workers while they serve, and how they answer.

Each worker has one end of a pair of sockets that keeps packets apart.  A question is a kind and a
number; the answer begins with the same number, so that one which comes too late is taken for no
other.  Who does not answer in time is left alone: nothing here waits for a worker any longer.
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
"""Write what was counted into the shared memory now."""
BEAT: Final = b"b"
"""Say anything, from the loop that serves the clients."""
WAITING: Final = b"w"
"""Tell what every call waits for."""

ANSWER_TIMEOUT: Final = 1.0
"""Seconds for an answer."""

QUESTION: Final = struct.Struct("=cQ")
NUMBER: Final = struct.Struct("=Q")

MAX_ANSWER: Final = 64 * 1024
"""Bytes of an answer; what is longer is cut."""

Answers = Mapping[bytes, Callable[[], str]]
"""What makes the answer to each kind of question."""


def pair() -> tuple[socket.socket, socket.socket]:
    """The supervisor's end and the worker's."""
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
        self.silent = 0
        """Beats that were asked for since the worker has said anything."""

    def beat(self) -> None:
        """Ask for a sign of life."""
        self.silent += 1
        with suppress(OSError):  # it has ended, or has many questions to answer
            os.write(self.descriptor.fd, QUESTION.pack(BEAT, next(self._numbers)))

    def hears(self, word: bytes) -> bool:
        """Whether that is what the worker says."""
        return os.read(self.descriptor.fd, MAX_ANSWER) == word

    @tamed
    def listen(self) -> None:
        """Pass the answers on, until the worker has ended."""
        try:
            while True:
                with twait:
                    wait_on_fd(self.descriptor, READ, mkevent())
                said = os.read(self.descriptor.fd, MAX_ANSWER)
                if not said:
                    break
                self.silent = 0
                event = self._asked.pop(NUMBER.unpack_from(said)[0], None)
                if event is not None:
                    event.trigger(said[NUMBER.size :].decode(errors="replace"))
        except (OSError, EventDroppedError):
            pass  # the worker has ended
        self.close()

    @tamed
    def ask(self, kind: bytes, done: Event[str | None]) -> None:
        """Trigger `done` with the answer, or with None if there is none in time."""
        with tvars:
            said: str | None
        said = None
        number = next(self._numbers)
        r = Rendezvous[None]()
        try:
            os.write(self.descriptor.fd, QUESTION.pack(kind, number))
        except OSError:
            done.trigger(None)  # it has ended, or has many questions to answer
            return
        self._asked[number] = mkevent(r, None, said)
        timer(ANSWER_TIMEOUT, mkevent(r, None))
        twait(r)
        r.cancel()
        self._asked.pop(number, None)
        done.trigger(said)

    def close(self) -> None:
        self.descriptor.close()
        while self._asked:
            self._asked.popitem()[1].trigger(None)


@tamed
def serve_control(fd: int, answers: Answers) -> None:
    """The worker's end: answer for as long as the loop runs."""
    supervisor = Descriptor(fd)
    try:
        while True:
            with twait:
                wait_on_fd(supervisor, READ, mkevent())
            said: dict[bytes, bytes] = {}
            for kind, number in questions(supervisor.fd):
                if kind not in said:  # who asks twice at once is told the same
                    said[kind] = answers[kind]().encode()[: MAX_ANSWER - NUMBER.size]
                with suppress(BlockingIOError):  # it takes no answers: no reason to stop
                    os.write(supervisor.fd, NUMBER.pack(number) + said[kind])
    except OSError:
        pass
    finally:
        supervisor.close()


def questions(fd: int) -> Iterator[tuple[bytes, int]]:
    """Those that were asked.  Raises `ConnectionError` when no more will come."""
    while True:
        try:
            asked = os.read(fd, QUESTION.size)
        except BlockingIOError:
            return
        if not asked:
            raise ConnectionResetError
        yield QUESTION.unpack(asked)
