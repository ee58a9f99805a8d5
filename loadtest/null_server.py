"""The fastest possible server in plain Python, to see how much load a generator can make.

It does not parse HTTP: a request ends at an empty line, whatever it contains, and the answers are
prepared, one for everything or one for each path.  A real server that comes near its throughput is
limited by the generator.
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
"""Connections accepted before the open ones are served again."""


Pair = tuple[bytes, bytes]
"""An answer, and the same answer as the last one of a connection."""


def canned(body: bytes, status: bytes = b"200 OK") -> Pair:
    head = b"HTTP/1.1 %b\r\nContent-Length: %d\r\n" % (status, len(body))
    return b"%b\r\n%b" % (head, body), b"%bConnection: close\r\n\r\n%b" % (head, body)


class Answers(dict[bytes, bytes]):
    """Answers by path, each read from its file below `root` when it is first needed, and kept.

    `last` prepares them as the last ones of their connections.
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
    """Gives `answer` to every request, or the file of its path below `root`."""

    def __init__(self, listener: socket.socket, answer: Pair, root: Path | None = None) -> None:
        self.listener = listener
        self.answer = answer
        self.answers = (Answers(root, False), Answers(root, True)) if root else None
        self.poll = select.epoll()
        self.begun: dict[int, bytes] = {}
        """What has come of incomplete requests."""
        self.unsent: dict[int, bytes] = {}
        self.last: set[int] = set()
        """Connections to close when everything is sent."""

    def serve(self) -> None:
        """Serve until the process ends."""
        listener, poll, read = self.listener, self.poll.poll, self.read
        listener.setblocking(False)
        # Accept a connection when its request has come: otherwise it would cost a turn more.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
        door = listener.fileno()
        self.poll.register(door, select.EPOLLIN)
        while True:
            for fd, mask in poll():
                if fd == door:
                    self.accept()
                elif mask & select.EPOLLOUT:
                    self.send_rest(fd)
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

    def send_rest(self, fd: int) -> None:
        self.poll.modify(fd, select.EPOLLIN)  # `send` waits again if there is still too little room
        self.send(fd, self.unsent.pop(fd))

    def close(self, fd: int) -> None:
        self.begun.pop(fd, None)
        self.unsent.pop(fd, None)
        self.last.discard(fd)
        os.close(fd)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=0, show_default=True, help="0 chooses a free one.")
@click.option("--bytes", "size", default=1024, show_default=True, help="Size of the bodies.")
@click.option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Answer with the bytes of this file instead.")  # fmt: skip
@click.option("--root", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Answer each path with the file of that name in this directory.")  # fmt: skip
def main(host: str, port: int, size: int, file: Path | None, root: Path | None) -> None:
    """Answer every request with prepared bytes, as fast as plain Python can."""
    with socket.create_server((host, port), backlog=4096) as listener:
        click.echo("http://{}:{}".format(*listener.getsockname()))
        body = file.read_bytes() if file else b"x" * size
        NullServer(listener, canned(body), root).serve()


if __name__ == "__main__":
    main()
