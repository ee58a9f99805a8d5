"""Knot by coroutines: each connection is a task of asyncio's, on uvloop where that is installed.

Without asyncio's streams and transports, which would cost more than all of the rest: a coroutine
waits until its descriptor is ready, and reads and writes it itself, as the tamed function in
`events` does.  The loop knows a descriptor from its first wait until nobody waits for it when it is
ready, which spares two system calls for each request.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from knot.files.representation import Slice
from knot.http.responder import Deferred, Responder
from knot.limits import Limits
from knot.models.accepting import OUT_OF_DESCRIPTORS, PAUSE, accept_batch, accept_rest
from knot.models.closing import PARTING, SWEEP, cut_all, expire_idle, half_close, start_drain
from knot.models.connection import (
    DISK_THREADS,
    END,
    LINGER,
    LOG_DELAY,
    Ending,
    Pending,
    answer,
    close_connection,
    is_cold,
    parse,
    read_and_answer,
    report,
    resume,
    send,
    send_some,
    warm,
)
from knot.models.peer import SENDING, FdConnection, is_gone, receive, set_nonblocking
from knot.models.server import Server as CommonServer
from knot.models.server import Unsent
from knot.process.signals import Signals

if TYPE_CHECKING:
    from knot.monitor.access_log import AccessLog

__all__ = ["Server", "run"]

T = TypeVar("T")

log = logging.getLogger("knot")


class PlainConnection(FdConnection):
    """A connection, and the future that its task waits for."""

    __slots__ = ("_data", "_loop", "_watched")

    def __init__(self, fd: int, address: str, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(fd, address)
        self._loop = loop
        self._data: asyncio.Future[bytes | bytearray] | None = None
        self._watched = False

    async def receive(self) -> bytes | bytearray:
        """What the client sends next; empty if nothing will come any more."""
        self._data = self._loop.create_future()
        if not self._watched:
            self._loop.add_reader(self.fd, self._read)
            self._watched = True
        return await self._data

    def _read(self) -> None:
        """Read at once: the task has its turn after libuv has polled again, up to 48 times if more
        than 1,024 descriptors are ready, and it would find each as ready as before."""
        waiting, self._data = self._data, None
        if waiting is None:
            self._loop.remove_reader(self.fd)
            self._watched = False
        elif not waiting.done():
            try:
                data = receive(self)
            except OSError as error:
                waiting.set_exception(error)
            else:
                if data is None:
                    self._data = waiting
                else:
                    waiting.set_result(data)

    async def writable(self) -> None:
        ready = asyncio.Event()
        self._loop.add_writer(self.fd, ready.set)
        try:
            await ready.wait()
        finally:
            self._loop.remove_writer(self.fd)

    def close(self) -> None:
        if self._watched:
            self._loop.remove_reader(self.fd)
            self._watched = False
        super().close()


class Disk:
    """Threads for what would stop the loop, started when there are any jobs for them.

    They are daemons: those of an executor Python joins before it exits, and a disk that does not
    answer would keep the process from its end.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None]
        self._jobs = SimpleQueue()
        self._threads = 0
        self._under_way = 0

    async def do(self, job: Callable[[], T]) -> T:
        """What `job` returns, or raises."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._under_way += 1
        try:
            if self._under_way > self._threads and self._threads < DISK_THREADS:
                self._start_thread()
            if not self._threads:
                return job()
            self._jobs.put((job, done))
            return await done
        finally:
            self._under_way -= 1

    def _start_thread(self) -> None:
        try:
            threading.Thread(target=self._work, name="knot-disk", daemon=True).start()
        except RuntimeError as error:  # there are too many on this machine
            log.warning("cannot start a thread to wait for the disk: %s", error)
        else:
            self._threads += 1

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None:
            job, done = entry
            try:
                tell = partial(done.set_result, job())
            except Exception as error:
                tell = partial(done.set_exception, error)
            with suppress(RuntimeError):  # the loop has ended
                done.get_loop().call_soon_threadsafe(if_awaited, done, tell)
            del entry, job, done, tell  # an idle thread holds on to nothing

    def close(self) -> None:
        """End the threads; one whose disk does not answer is left to itself."""
        for _ in range(self._threads):
            self._jobs.put(None)


def if_awaited(done: asyncio.Future[T], tell: Callable[[], object]) -> None:
    if not done.done():
        tell()


class Server(CommonServer):
    """What all the connections share."""

    def __init__(
        self,
        responder: Responder,
        limits: Limits | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        super().__init__(responder, limits, access_log)
        self.disk = Disk()
        self.tasks: set[asyncio.Task[None]] = set()

    def flush_later(self) -> None:
        assert self.log is not None
        asyncio.get_running_loop().call_later(LOG_DELAY, self.log.flush)


async def serve(listener: socket.socket, server: Server) -> None:
    """Accept connections until it is cancelled."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(listener.fileno(), ready.set)
    try:
        while True:
            await ready.wait()
            ready.clear()
            error = accept_batch(listener, server, partial(start_task, server, loop))
            if error is not None and error.errno in OUT_OF_DESCRIPTORS:
                log.warning("cannot accept a connection: %s", error.strerror)
                loop.remove_reader(listener.fileno())  # it stays ready all the while
                await asyncio.sleep(PAUSE)
                loop.add_reader(listener.fileno(), ready.set)
    finally:
        loop.remove_reader(listener.fileno())


def start_task(server: Server, loop: asyncio.AbstractEventLoop, fd: int, name: str) -> None:
    peer = PlainConnection(fd, name, loop)
    server.peers.add(peer)
    task = loop.create_task(connection(peer, server))
    server.tasks.add(task)  # the loop's own reference is a weak one
    task.add_done_callback(server.tasks.discard)


async def connection(peer: PlainConnection, server: Server) -> None:
    """One client: read, answer, wait for more, until either side has enough."""
    try:
        pending = read_and_answer(peer, server)
        while True:
            while pending is not None:
                if pending is END:
                    return
                if pending is LINGER:
                    await hang_up(peer, server.limits.linger)
                    return
                pending = await wait_out(peer, server, pending)
            set_nonblocking(peer)
            data = await peer.receive()
            pending = answer(peer, server, parse(peer, server, data)) if data else END
    except Exception as error:
        report(error)
    finally:
        close_connection(peer, server)


async def wait_out(
    peer: PlainConnection, server: Server, pending: Pending
) -> Pending | Ending | None:
    """Wait for what is pending, and go on until there is something to wait for again."""
    set_nonblocking(peer)
    peer.waits_for = SENDING
    unsent: Unsent | None = pending.unsent
    response = pending.response
    if isinstance(response, Deferred):
        while isinstance(response, Deferred):
            response = response.finish(await server.disk.do(response.work))
        unsent = send(peer, response)
    if unsent:
        await send_rest(peer, server, unsent)
    return resume(peer, server, pending, response, unsent)


async def send_rest(peer: PlainConnection, server: Server, unsent: Unsent) -> None:
    """Send it as fast as the client takes it.

    Something stays unsent if the client has gone, or if the file has become shorter: then the
    client must see the connection end before the length that it was told.
    """
    try:
        while unsent:
            await peer.writable()
            piece = unsent[0]
            if isinstance(piece, Slice) and is_cold(piece):
                await server.disk.do(partial(warm, piece))
            send_some(peer, unsent)
    except EOFError:
        pass
    except OSError as error:
        if not is_gone(error):
            raise


async def hang_up(peer: PlainConnection, linger: float) -> None:
    """End a connection whose client may still be sending (see `LINGER`)."""
    half_close(peer)
    with suppress(TimeoutError):
        async with asyncio.timeout(linger):
            while await peer.receive():
                pass


async def sweep(server: Server) -> None:
    while True:
        await asyncio.sleep(SWEEP)
        expire_idle(server)


# -- the end -------------------------------------------------------------------------------------


async def main(
    listeners: Sequence[socket.socket], server: Server, signals: Signals, grace: float
) -> int | None:
    loop = asyncio.get_running_loop()
    heard = asyncio.Event()
    fd = os.dup(signals.fd)  # uvloop keeps what it polls: it has to be a number of its own
    loop.add_reader(fd, heard.set)
    serving = [loop.create_task(serve(listener, server)) for listener in listeners]
    sweeping = loop.create_task(sweep(server))
    server.began()
    try:
        await stop_told(signals, heard)
        for task in serving:
            await ended(task)
        start_drain(server, gently=grace > 0)
        for listener in listeners:
            accept_rest(partial(accept_batch, listener, server, partial(start_task, server, loop)))
            listener.close()
        return await stop(server, signals, heard, grace)
    finally:
        for task in (*serving, sweeping):
            await ended(task)
        loop.remove_reader(fd)
        os.close(fd)
        for task in list(server.tasks):
            await ended(task)
        server.disk.close()


async def stop_told(signals: Signals, heard: asyncio.Event) -> None:
    while not signals.take():
        heard.clear()
        await heard.wait()


async def stop(server: Server, signals: Signals, heard: asyncio.Event, grace: float) -> int | None:
    deserted = asyncio.Event()
    server.when_deserted.append(deserted.set)
    told = asyncio.create_task(stop_told(signals, heard))
    if server.peers:
        gone = asyncio.create_task(deserted.wait())
        for patience in (min(grace, PARTING), max(grace - PARTING, 0)):
            await asyncio.wait((gone, told), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            start_drain(server)
        await ended(gone)
    again = told.done()
    await ended(told)
    cut = cut_all(server)
    return None if again else cut


async def ended(task: asyncio.Task[None] | asyncio.Task[bool]) -> None:
    task.cancel()
    await asyncio.wait((task,))


def run(
    listeners: Sequence[socket.socket], server: Server, signals: Signals, grace: float
) -> int | None:
    """Serve until a signal, then stop; how many connections were cut, None for a second signal."""
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with suppress(ImportError):
        from uvloop import new_event_loop as new_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main(listeners, server, signals, grace))
