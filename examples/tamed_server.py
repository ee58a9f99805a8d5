"""An asyncio program with a tamed server and clients in asyncio, on one thread.

python examples/tamed_server.py
"""

from __future__ import annotations

import asyncio
import socket

from tame import Descriptor, Event, EventDroppedError, mkevent, tamed, tvars, twait
from tame.aio import run_inside
from tame.net import Stream, accept


@tamed
def greet(client: Stream) -> None:
    """Serve one client: answer each line with a greeting."""
    line = b"first"
    try:
        while line:
            with twait:
                client.read(1000, mkevent(line))
            if line:
                with twait:
                    client.write(b"hello, " + line, mkevent())
    except OSError:
        pass  # the client has gone
    finally:
        client.close()


@tamed
def serve(listener: Descriptor, over: Event[()]) -> None:
    """Accept clients until the listener is closed, then trigger `over`."""
    with tvars:
        client: Stream
    try:
        while True:
            with twait:
                accept(listener, mkevent(client))
            greet(client)
    except (OSError, EventDroppedError):
        over.trigger()


async def ask(port: int, name: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(name.encode())
    print((await reader.read(1000)).decode())
    writer.close()
    await writer.wait_closed()


async def main() -> None:
    plain = socket.create_server(("127.0.0.1", 0))
    plain.setblocking(False)
    port = plain.getsockname()[1]
    listener = Descriptor(plain.detach())

    @tamed
    def server() -> None:
        with twait:
            serve(listener, mkevent())

    running = asyncio.create_task(run_inside(server))
    await asyncio.sleep(0)
    for name in ("world", "tame"):
        await ask(port, name)
    listener.close()
    await running


if __name__ == "__main__":
    asyncio.run(main())
