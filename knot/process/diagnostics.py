"""What a process says on its standard streams, which nothing in it ever waits for.

A full disk, a closed pipe, one that nobody reads, a terminal that Ctrl-S has stopped: none of them
may hold up a supervisor or a request, or raise an exception in it.  So `sys.stdout` and
`sys.stderr` only hand on what is written to them: by `print`, `logging`, `warnings`, click, and by
Python itself for an exception that nobody caught.  A thread writes it; there is one only while
there is something to write.

What could not be written is counted, and the next message that can be comes with that count.
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
"""What waits for the thread; more is dropped and counted."""

EXIT_TIMEOUT = 1.0
"""Seconds that an exit waits for the last messages of both streams together."""


class LineWriter:
    """Writes whole lines to a descriptor, on a thread that may wait for it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.torn = False
        """Whether the last line was written in part."""
        self.given_up = False
        """Whether to write no more: the number may soon be that of another file."""

    def write(self, lines: bytes) -> tuple[int, OSError | None]:
        """How many of the lines were written, and why not all of them."""
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
        except BlockingIOError:  # it is shared with somebody who wants it so
            poll = select.poll()
            poll.register(self.fd, select.POLLOUT)
            poll.poll()
            return 0


class Stream(io.RawIOBase):
    """The end of a standard stream that never waits and never raises."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._writer = LineWriter(fd)
        self._changed = Condition()  # reentrant: a finalizer may have something to say meanwhile
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._lines = 0
        self._dropped = 0
        """Lines that came when there was no room, after those that wait."""
        self._lost = 0
        """Lines that could not be written, before them."""
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
        """Wait until all is written, what was lost, too, or until the time is over."""
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
        except RuntimeError:  # there are too many on this machine; the next message tries again
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
    """On a thread that writes: a terminal stops the jobs in the background that write to it, if it
    is set to (stty tostop), and every worker is such a job.  Nothing else inherits this."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU,))


def install() -> None:
    """Have all that this process says go through here."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:  # or a client's connection would get that number, and the messages
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
        setattr(sys, f"__{name}__", text)  # Python itself says its last words there
    atexit.register(end, streams)


def end(streams: list[Stream]) -> None:
    for text in (sys.stdout, sys.stderr):
        text.flush()
    for stream in streams:
        stream.end(EXIT_TIMEOUT / len(streams))
