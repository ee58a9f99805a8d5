"""What a process says: it is written when it can be, and waited for by nobody."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from time import monotonic

import pytest

from knot.process.diagnostics import MAX_LINES, Stream

PATIENCE = 20.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def fill(writer: int) -> int:
    """How many bytes it took."""
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    filled = 0
    try:
        while True:
            filled += os.write(writer, b"x")
    except BlockingIOError:
        pass
    os.set_blocking(writer, True)
    return filled


def read(reader: int, end: bytes) -> bytes:
    """All up to `end`."""
    found = b""
    while not found.endswith(end):
        found += os.read(reader, 1 << 16)
    return found


def test_what_is_said_is_written(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = Stream(writer)
    stream.write(b"one\n")
    stream.write(b"two\n")
    assert read(reader, b"two\n") == b"one\ntwo\n"
    stream.end(PATIENCE)


def test_nobody_waits_for_a_pipe_that_nobody_reads(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    filled = fill(writer)
    stream = Stream(writer)
    for number in range(2 * MAX_LINES):
        stream.write(b"message %d\n" % number)
    began = monotonic()
    stream.end(0.05)
    assert monotonic() - began < PATIENCE / 2
    assert read(reader, b"x" * filled) == b"x" * filled
    *said, last = read(reader, b"could not be written here\n").splitlines()
    assert said == [b"message %d" % number for number in range(len(said))]
    assert len(said) + int(last.split()[1]) == 2 * MAX_LINES
    stream.end(PATIENCE)


def test_a_failure_is_counted_and_told_later(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    fd = os.dup(writer)
    stream = Stream(fd)
    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), fd)
    stream.write(b"one\ntwo\n")
    stream.end(PATIENCE)
    os.dup2(writer, fd)
    stream.write(b"three\n")
    stream.end(PATIENCE)
    assert read(reader, b"three\n") == b"knot: 2 lines could not be written here\nthree\n"
    os.close(fd)


def test_what_was_lost_last_is_told_at_the_end(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    fd = os.dup(writer)
    stream = Stream(fd)
    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), fd)
    stream.write(b"one\n")
    stream._changed.acquire()
    stream._changed.wait_for(lambda: not stream._writing, PATIENCE)
    stream._changed.release()
    os.dup2(writer, fd)
    stream.end(PATIENCE)
    assert read(reader, b"\n") == b"knot: 1 line could not be written here\n"
    os.close(fd)


def test_without_a_thread_it_waits_for_the_next_message(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    reader, writer = pipe
    stream = Stream(writer)
    with monkeypatch.context() as patch:
        patch.setattr("knot.process.diagnostics.start_new_thread", none_left)
        stream.write(b"one\n")
    stream.write(b"two\n")
    assert read(reader, b"two\n") == b"one\ntwo\n"
    stream.end(PATIENCE)
