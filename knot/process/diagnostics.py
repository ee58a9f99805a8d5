"""Messages on the standard streams, which never block the process.

A full disk, a closed pipe, a pipe that nobody reads, a terminal stopped by Ctrl-S: none of them may
delay a supervisor or a request, or raise an exception in it.  So `sys.stdout` and `sys.stderr` only
queue what is written to them: by `print`, `logging`, `warnings`, click, and by Python itself for an
uncaught exception.  A thread writes it, and runs only while there is something to write.

Lines that could not be written are counted, and the next message that can be written comes with
their number.  Nothing here knows what the messages say.
"""

from __future__ import annotations

import atexit
import io
import os
import select
import signal
import sys
from _thread import start_new_thread  # `Thread.start` waits for the thread
from threading import Condition

MAX_BYTES = 256 * 1024
MAX_LINES = 1_000
"""What may wait for the thread; more is dropped and counted."""

EXIT_TIMEOUT = 1.0
"""Seconds that an exit waits for the last messages of both streams."""


class LineWriter:
    """Writes whole lines to a descriptor, in a thread that may block."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.torn = False
        """Whether only a part of the last line was written."""
        self.given_up = False
        """Whether to stop writing: the descriptor's number may soon be that of another file."""

    def write(self, lines: bytes) -> tuple[int, OSError | None]:
        """The number of lines that were written, and the error if there are fewer than given."""
        torn = self.torn
        data = b"\n" * torn + lines
        sent = 0
        failure = None
        try:
            while sent < len(data) and not self.given_up:
                sent += self._write_some(data[sent:])
        except OSError as error:
            failure = error
        if sent:
            self.torn = not data.endswith(b"\n", 0, sent)
        return max(data.count(b"\n", 0, sent) - torn, 0), failure

    def _write_some(self, data: bytes) -> int:
        try:
            return os.write(self.fd, data)
        except BlockingIOError:  # another process that shares it has made it non-blocking
            poll = select.poll()
            poll.register(self.fd, select.POLLOUT)
            poll.poll()
            return 0


class Stream(io.RawIOBase):
    """A standard stream whose methods never block and never raise."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._writer = LineWriter(fd)
        self._changed = Condition()  # reentrant: a finalizer may print something meanwhile
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._lines = 0
        self._dropped = 0
        """Lines that were dropped for want of room, after those that wait."""
        self._lost = 0
        """Lines that could not be written, before those that wait."""
        self._writing = False
        self._ending = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        piece = bytes(data)
        lines = piece.count(b"\n") or 1
        with self._changed:
            if self._bytes + len(piece) > MAX_BYTES or self._lines + lines > MAX_LINES:
                self._dropped += lines
            else:
                self._waiting.append(piece)
                self._bytes += len(piece)
                self._lines += lines
            self._start()
        return len(piece)

    def end(self, timeout: float) -> None:
        """Wait until everything is written, including the number of lost lines, or for `timeout`
        seconds."""
        with self._changed:
            self._ending = True
            self._start()
            self._changed.wait_for(lambda: not self._writing, timeout)

    def _start(self) -> None:
        if self._writing:
            return
        self._writing = True
        try:
            start_new_thread(self._run, ())
        except RuntimeError:  # too many threads on this machine; the next message tries again
            self._writing = False

    # -- in the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        block_sigttou()
        while True:
            with self._changed:
                if not (self._waiting or self._dropped or (self._ending and self._lost)):
                    self._writing = False
                    self._changed.notify_all()
                    return
                self._ending = self._ending and bool(self._waiting)  # one attempt
                lines = b"".join(self._waiting)
                self._waiting.clear()
                lost, dropped = self._lost, self._dropped
                self._bytes = self._lines = self._dropped = 0
            parts = [lost_line(lost), lines, lost_line(dropped)]
            written, _ = self._writer.write(b"".join(parts))
            with self._changed:
                self._lost = 0
                for part, meant in zip(parts, (lost, lines.count(b"\n"), dropped), strict=True):
                    count = part.count(b"\n")
                    if written < count:
                        self._lost += meant - written if part is lines else meant
                    written = max(written - count, 0)


def lost_line(count: int) -> bytes:
    if not count:
        return b""
    lines = "1 line" if count == 1 else f"{count} lines"
    return f"knot: {lines} could not be written here\n".encode()


def block_sigttou() -> None:
    """For a thread that writes: a terminal set to ``stty tostop`` stops background jobs that write
    to it, and every worker is such a job.  No other thread inherits this."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU,))


def install() -> None:
    """Replace the standard streams of this process."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:  # else a client's connection would get this number, and the messages
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    streams = []
    for fd, name in ((1, "stdout"), (2, "stderr")):
        replaced = getattr(sys, name)
        encoding = "utf-8" if replaced is None else replaced.encoding
        streams.append(Stream(fd))
        text = io.TextIOWrapper(
            streams[-1],  # type: ignore[type-var]
            encoding=encoding,
            errors="backslashreplace",
            line_buffering=True,
        )
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)  # where Python itself writes its last messages
    atexit.register(end, streams)


def end(streams: list[Stream]) -> None:
    for text in (sys.stdout, sys.stderr):
        text.flush()
    for stream in streams:
        stream.end(EXIT_TIMEOUT / len(streams))
