"""``liars.py MODE PORT FILE``: a server that answers its first request as it should, then lies."""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path


def main(mode: str, port: int, file: Path) -> None:
    body = file.read_bytes()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    stalled = threading.Event()
    with socket.create_server(("127.0.0.1", port), backlog=512) as listener:
        for number in range(1_000_000):
            client, _ = listener.accept()
            lies = number > 0

            def serve(client: socket.socket = client, lies: bool = lies) -> None:
                with client:
                    while client.recv(4096):
                        if not lies:
                            client.sendall(head + body)
                        elif mode == "wrong":
                            client.sendall(head + body[:-1] + b"!")
                        elif mode == "stall":
                            stalled.wait()
                        elif mode == "drop":
                            client.sendall(head + body[: len(body) // 2])
                            return

            if lies and mode == "die":
                return
            threading.Thread(target=serve, daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
