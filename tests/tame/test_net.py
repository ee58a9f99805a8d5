"""Connections, names and bytes; children and signals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

from tame import (
    Descriptor,
    Event,
    EventDroppedError,
    Rendezvous,
    mkevent,
    run,
    tamed,
    timer,
    tvars,
    twait,
)
from tame.adapters import with_timeout
from tame.drivers import DRIVERS
from tame.net import Address, Stream, accept, connect, resolve
from tame.process import at_signal, child_exit

Addresses = list[tuple[socket.AddressFamily, Address]]


@pytest.fixture(autouse=True, params=DRIVERS)
def on(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where time is real: neither a thread nor a child takes any virtual time."""
    monkeypatch.setenv("TAME_DRIVER", request.param)


def listening() -> tuple[Descriptor, int]:
    plain = socket.create_server(("127.0.0.1", 0))
    plain.setblocking(False)
    port = plain.getsockname()[1]
    return Descriptor(plain.detach()), port


@tamed
def read_all(stream: Stream, received: bytearray, done: Event[()]) -> None:
    piece = b"first"
    while piece:
        with twait:
            stream.read(65536, mkevent(piece))
        received.extend(piece)
    done.trigger()


def test_a_connection_is_made_and_accepted_and_brings_all_bytes() -> None:
    content = bytes(range(256)) * 20_000  # more than both sides' buffers take
    received = bytearray()

    @tamed
    def serve(listener: Descriptor, done: Event[()]) -> None:
        with tvars:
            client: Stream
        with twait:
            accept(listener, mkevent(client))
        with twait:
            client.write(content, mkevent())
        client.close()
        done.trigger()

    @tamed
    def main() -> None:
        with tvars:
            addresses: Addresses
            stream: Stream
        listener, port = listening()
        with twait:
            resolve("127.0.0.1", port, mkevent(addresses))
        with twait:
            connect(*addresses[0], mkevent(stream))
        with twait:
            serve(listener, mkevent())
            read_all(stream, received, mkevent())
        stream.close()
        listener.close()

    run(main)
    assert bytes(received) == content


def test_writes_and_reads_of_one_stream_keep_their_order() -> None:
    @tamed
    def main() -> None:
        one, other = (Stream(end.detach()) for end in pair())
        first, second = b"", b""
        with twait:
            other.read(6, mkevent(first))
            other.read(6, mkevent(second))
            for word in (b"first ", b"second"):
                one.write(word, mkevent())
        assert (first, second) == (b"first ", b"second")
        one.close()
        other.close()

    run(main)


def pair() -> tuple[socket.socket, socket.socket]:
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    return ends


def test_what_fails_is_raised_where_one_waits() -> None:
    said: list[str] = []

    @tamed
    def main() -> None:
        with tvars:
            stream: Stream
            addresses: Addresses
        listener, port = listening()
        listener.close()  # nobody listens there any more
        for attempt in range(3):
            try:
                with twait:
                    if attempt == 0:
                        connect(socket.AF_INET, ("127.0.0.1", port), mkevent(stream))
                    elif attempt == 1:
                        resolve("no host has spaces", 80, mkevent(addresses))
                    else:
                        accept(listener, mkevent(stream))
            except OSError as error:
                said.append(type(error).__name__)

    run(main)
    assert said == ["ConnectionRefusedError", "gaierror", "OSError"]


def test_who_waits_for_a_stream_that_is_closed_is_told() -> None:
    @tamed
    def close_soon(stream: Stream) -> None:
        with twait:
            timer(0, mkevent())
        stream.close()

    @tamed
    def main() -> None:
        one, other = pair()
        stream, data = Stream(one.detach()), b""
        close_soon(stream)
        try:
            with twait:
                stream.read(10, mkevent(data))
        except EventDroppedError:
            data = b"closed"
        assert data == b"closed"
        other.close()

    run(main)


@pytest.mark.parametrize(("program", "code"), [("pass", 0), ("exit(3)", 3), ("", -9)])
def test_a_child_is_waited_for(program: str, code: int) -> None:
    codes: list[int] = []

    @tamed
    def main() -> None:
        with tvars:
            found: int
        command = [sys.executable, "-c", program or "import time; time.sleep(1000)"]
        child = subprocess.Popen(command)  # tame: ignore[T006]
        if not program:
            child.kill()
        with twait:
            child_exit(child.pid, mkevent(found))
        codes.append(found)
        child.returncode = found  # it has been waited for

    run(main)
    assert codes == [code]


def test_a_process_that_is_no_child_is_told() -> None:
    @tamed
    def main() -> None:
        with tvars:
            code: int
        with twait:
            child_exit(2**22 + 1, mkevent(code))

    with pytest.raises(OSError, match=r"No such process|Invalid argument"):
        run(main)


def test_a_signal_is_waited_for_and_its_handler_is_there_again() -> None:
    before = signal.getsignal(signal.SIGUSR2)

    @tamed
    def main() -> None:
        with twait:
            at_signal(signal.SIGUSR2, mkevent())
            os.kill(os.getpid(), signal.SIGUSR2)
        with pytest.raises(ValueError, match="cannot be waited for"):
            at_signal(signal.SIGKILL, Event())

    run(main)
    assert signal.getsignal(signal.SIGUSR2) is before


# -- who has given up ------------------------------------------------------------------------------


def test_a_read_that_was_given_up_takes_no_bytes() -> None:
    received: list[bytes] = []

    @tamed
    def main() -> None:
        with tvars:
            data = b""
        left, right = socket.socketpair()
        left.setblocking(False)
        stream = Stream(left.detach())
        try:
            with twait:
                stream.read(10, with_timeout(0, mkevent(data)))
        except TimeoutError:
            right.send(b"kept")
        with twait:
            stream.read(10, mkevent(data))
        received.append(data)
        stream.close()
        right.close()

    run(main)
    assert received == [b"kept"]


def test_a_connection_that_was_given_up_is_left_for_who_accepts_next() -> None:
    received: list[bytes] = []

    @tamed
    def main() -> None:
        with tvars:
            stream: Stream
            data: bytes
        listener, port = listening()
        for _ in range(2):
            try:
                with twait:
                    accept(listener, with_timeout(0, mkevent(stream)))
            except TimeoutError:
                received.append(b"late")
        with twait:
            accept(listener, mkevent(stream))
            client = socket.create_connection(("127.0.0.1", port))
        client.send(b"taken")
        with twait:
            stream.read(10, mkevent(data))
        received.append(data)
        stream.close()
        client.close()
        listener.close()

    run(main)
    assert received == [b"late", b"late", b"taken"]


def test_a_connection_that_is_made_too_late_is_closed() -> None:
    received: list[bytes] = []

    @tamed
    def main() -> None:
        with tvars:
            stream: Stream
            data: bytes
        r = Rendezvous[None]()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            connect(socket.AF_INET, listener.getsockname(), mkevent(r, None, stream))
            r.cancel()
            end, _ = listener.accept()
        end.setblocking(False)
        other = Stream(end.detach())
        with twait:
            other.read(10, with_timeout(10, mkevent(data)))
        received.append(data)
        other.close()

    run(main)
    assert received == [b""]


def test_a_name_that_cannot_be_one_is_told_to_who_waits() -> None:
    @tamed
    def main() -> None:
        with tvars:
            found: Addresses
        with twait:
            resolve("a" * 64 + ".example", 80, mkevent(found))

    with pytest.raises(UnicodeError):
        run(main)
