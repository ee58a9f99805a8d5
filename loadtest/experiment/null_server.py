"""The fastest server there can be in plain Python: what a generator can do at most, and no more.

It understands nothing.  A request ends at an empty line, whatever it says; the answers stand ready,
one for all, or one for each path.  A generator's result against it tells how far the generator can
be trusted: a real server that comes near is bounded by the generator.
"""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path
from typing import Final

import click

READ_SIZE: Final = 64 * 1024
BATCH: Final = 64
"""Connections that are accepted before those that are open get their turn."""


Pair = tuple[bytes, bytes]
"""An answer, and the same as the last one of a connection."""


def canned(body: bytes, status: bytes = b"200 OK") -> Pair:
    head = b"HTTP/1.1 %b\r\nContent-Length: %d\r\n" % (status, len(body))
    return b"%b\r\n%b" % (head, body), b"%bConnection: close\r\n\r\n%b" % (head, body)


class Answers(dict[bytes, bytes]):
    """Answers by path, each read from its file below `root` when it is first asked for, and kept.

    `last` has those that are the last of their connections.
    """

    def __init__(self, root: Path, last: bool) -> None:
        super().__init__()
        self.root = root
        self.last = last

    def __missing__(self, path: bytes) -> bytes:
        try:
            body = (self.root / os.fsdecode(path.lstrip(b"/"))).read_bytes()
        except OSError:
            return canned(b"", b"404 Not Found")[self.last]
        answer = canned(body)[self.last]
        self[path] = answer
        return answer


class NullServer:
    """Answers `answer` to everything, or each path with its file below `root`."""

    def __init__(self, listener: socket.socket, answer: Pair, root: Path | None = None) -> None:
        self.listener = listener
        self.answer = answer
        self.answers = (Answers(root, False), Answers(root, True)) if root else None
        self.poll = select.epoll()
        self.begun: dict[int, bytes] = {}
        """What there is of requests that are not whole."""
        self.unsent: dict[int, bytes] = {}
        self.last: set[int] = set()
        """Connections that end when nothing is left to send."""

    def serve(self) -> None:
        """For ever."""
        listener, poll, read = self.listener, self.poll.poll, self.read
        listener.setblocking(False)
        # With the request comes the connection: accepting it before would cost another turn.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
        door = listener.fileno()
        self.poll.register(door, select.EPOLLIN)
        while True:
            for fd, mask in poll():
                if fd == door:
                    self.accept()
                elif mask & select.EPOLLOUT:
                    self.send(fd, self.unsent.pop(fd))
                else:
                    read(fd)

    def accept(self) -> None:
        for _ in range(BATCH):
            try:
                fd, _ = self.listener._accept()  # type: ignore[attr-defined]
            except OSError:
                return
            os.set_blocking(fd, False)
            self.poll.register(fd, select.EPOLLIN)
            self.read(fd)

    def read(self, fd: int) -> None:
        try:
            data = os.read(fd, READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            return self.close(fd)
        if fd in self.begun:
            data = self.begun.pop(fd) + data
        if not data.endswith(b"\r\n\r\n"):
            data, end, rest = data.rpartition(b"\r\n\r\n")
            self.begun[fd] = rest
            data += end
        last = b"Connection: close" in data
        if last:
            self.last.add(fd)
        if self.answers is None:
            reply = self.answer[last] * data.count(b"\r\n\r\n")
        else:
            answers = self.answers[last]
            requests = data.split(b"\r\n\r\n")[:-1]
            reply = b"".join([answers[each.split(b" ", 2)[1]] for each in requests])
        if reply:
            self.send(fd, reply)

    def send(self, fd: int, reply: bytes) -> None:
        try:
            sent = os.write(fd, reply)
        except BlockingIOError:
            sent = 0
        except OSError:
            return self.close(fd)
        if sent < len(reply):
            self.unsent[fd] = reply[sent:]
            self.poll.modify(fd, select.EPOLLOUT)
        elif fd in self.last:
            self.close(fd)
        elif len(reply) > READ_SIZE:  # it may have been waited for
            self.poll.modify(fd, select.EPOLLIN)

    def close(self, fd: int) -> None:
        self.begun.pop(fd, None)
        self.unsent.pop(fd, None)
        self.last.discard(fd)
        os.close(fd)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=0, show_default=True, help="0 takes one that is free.")
@click.option("--bytes", "size", default=1024, show_default=True, help="Of each answer's body.")
@click.option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Answer with the bytes of this file instead.")  # fmt: skip
@click.option("--root", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Answer each path with the file of that name in this directory.")  # fmt: skip
def main(host: str, port: int, size: int, file: Path | None, root: Path | None) -> None:
    """Answer every request with bytes that stand ready, as fast as plain Python can."""
    with socket.create_server((host, port), backlog=4096) as listener:
        click.echo("http://{}:{}".format(*listener.getsockname()))
        body = file.read_bytes() if file else b"x" * size
        NullServer(listener, canned(body), root).serve()


if __name__ == "__main__":
    main()
