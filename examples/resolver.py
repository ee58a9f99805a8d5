"""A DNS stub resolver for the other examples: the paper's `gethost_ev`.

    NAMESERVER=127.0.0.1:5353 python examples/multidns_par.py example.org

asks that name server; without the variable, the first one in /etc/resolv.conf is asked.
`gethost_ev` is tamed; `gethostbyname` is the same lookup with blocking calls, for comparison.  The
functions that make and read datagrams (RFC 1035) use neither events nor sockets.

Only IPv4 addresses are looked up; /etc/hosts, search domains and DNS over TCP are not supported.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from contextlib import closing, suppress

from tame import (
    READ,
    Descriptor,
    Event,
    Rendezvous,
    mkevent,
    tamed,
    timer,
    tvars,
    twait,
    wait_on_fd,
)

ATTEMPTS = 3
RETRY_AFTER = 2.0  # seconds

HEADER = struct.Struct("!6H")  # id, flags, and how many records each of the four sections has
RECORD = struct.Struct("!2HIH")  # type, class, time to live, length of the data
MAX_DATAGRAM = 512  # bytes in a datagram (RFC 1035, 2.3.4)
ANSWER, TRUNCATED, RECURSE = 0x8000, 0x0200, 0x0100
A, CNAME, INTERNET = 1, 5, 1
REFUSALS = {2: "the name server failed (SERVFAIL)", 3: "there is no such name (NXDOMAIN)"}


class ResolverError(OSError):
    """A name could not be looked up."""


@tamed
def gethost_ev(name: str, e: Event[str]) -> None:
    """Trigger `e` with the address of `name`, or fail it with a `ResolverError`."""
    with tvars:
        r = Rendezvous[bool]()  # True: there is something to read; False: time to ask again
    if is_address(name):
        e.trigger(name)
        return
    try:
        query = make_query(os.urandom(2), name)
        with closing(Descriptor(connect(blocking=False).detach())) as server:
            for _ in range(ATTEMPTS):
                os.write(server.fd, query)
                timer(RETRY_AFTER, mkevent(r, False))
                wait_on_fd(server, READ, mkevent(r, True))
                while twait(r):
                    address = receive(server, query)
                    if address is not None:
                        e.trigger(address)
                        return
                    wait_on_fd(server, READ, mkevent(r, True))
                r.cancel()
        raise ResolverError("the name server does not answer")
    except OSError as error:
        e.fail(ResolverError(f"{name}: {error}"))
    finally:
        r.cancel()  # the timer


def receive(server: Descriptor, query: bytes) -> str | None:
    """The address in the datagram that has arrived; None if it does not answer `query`."""
    with suppress(BlockingIOError):  # the kernel has discarded it for its checksum
        return read_answer(os.read(server.fd, MAX_DATAGRAM), query)
    return None


def gethostbyname(name: str) -> str:
    """The address of `name`; the whole program waits for it.  Raises `ResolverError`."""
    if is_address(name):
        return name
    try:
        with connect(blocking=True) as server:
            return ask(server, make_query(os.urandom(2), name))
    except OSError as error:
        raise ResolverError(f"{name}: {error}") from error


def ask(server: socket.socket, query: bytes) -> str:
    """Send `query` until it is answered, and return the address."""
    server.settimeout(RETRY_AFTER)
    for _ in range(ATTEMPTS):
        server.send(query)
        with suppress(TimeoutError):
            while True:
                address = read_answer(server.recv(MAX_DATAGRAM), query)
                if address is not None:
                    return address
    raise ResolverError("the name server does not answer")


# -- the name server -----------------------------------------------------------------------------


def name_server(resolv_conf: str = "/etc/resolv.conf") -> tuple[str, str]:
    """The host and the port of the name server, both as numbers."""
    given = os.environ.get("NAMESERVER")
    if given:
        host, _, port = given.rpartition(":")
        return host.strip("[]"), port
    with open(resolv_conf) as lines:
        fields = [line.split() for line in lines]
    servers = [field[1] for field in fields if field[:1] == ["nameserver"] and len(field) > 1]
    return (servers or ["127.0.0.1"])[0], "53"


def connect(blocking: bool) -> socket.socket:
    """A UDP socket connected to the name server, so that the kernel drops what others send."""
    host, port = name_server()
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=numeric)
    family, kind, protocol, _, address = found[0]
    server = socket.socket(family, kind, protocol)
    try:
        server.setblocking(blocking)
        server.connect(address)
    except OSError:
        server.close()
        raise
    return server


# -- datagrams -----------------------------------------------------------------------------------


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def make_query(id: bytes, name: str) -> bytes:
    """A query for the address of `name`, with the two bytes `id`."""
    try:
        labels = name.removesuffix(".").encode("idna").split(b".")
    except UnicodeError:
        labels = [b""]
    if not all(0 < len(label) < 64 for label in labels) or sum(map(len, labels), len(labels)) > 254:
        raise ResolverError("this is not a host name")
    question = b"".join(bytes([len(label)]) + label for label in labels)
    header = HEADER.pack(0, RECURSE, 1, 0, 0, 0)
    return id + header[2:] + question + struct.pack("!x2H", A, INTERNET)


def read_answer(answer: bytes, query: bytes) -> str | None:
    """The address in `answer`; None if it does not answer `query`.

    Raises `ResolverError` if it says that there is no address, or if it is malformed.
    """
    same_question = answer[12 : len(query)].lower() == query[12:].lower()
    if answer[:2] != query[:2] or not same_question:
        return None
    _, flags, _, records, _, _ = HEADER.unpack_from(answer)
    if not flags & ANSWER:
        return None
    refusal = flags & 0xF
    if refusal:
        raise ResolverError(REFUSALS.get(refusal, f"the name server refused (code {refusal})"))
    if flags & TRUNCATED:
        raise ResolverError("the answer is too long for a datagram")
    try:
        return find_address(answer, len(query), records)
    except (IndexError, struct.error):
        raise ResolverError("the answer cannot be read") from None


def find_address(answer: bytes, at: int, records: int) -> str:
    """The address of the name in the question, or of the name that it is an alias of.

    `at` is the offset of the first of the `records`.
    """
    aliases: dict[bytes, bytes] = {}
    addresses: dict[bytes, str] = {}
    for _ in range(records):
        owner, at = read_name(answer, at)
        kind, network, _, length = RECORD.unpack_from(answer, at)
        at += RECORD.size
        if (kind, network, length) == (A, INTERNET, 4):
            addresses.setdefault(owner, ".".join(str(answer[at + i]) for i in range(4)))
        elif (kind, network) == (CNAME, INTERNET):
            aliases[owner] = read_name(answer, at)[0]
        at += length
    name, _ = read_name(answer, HEADER.size)
    while name in aliases:
        name = aliases.pop(name)  # `pop`, so that a cycle of aliases ends
    if name not in addresses:
        raise ResolverError("this name has no IPv4 address")
    return addresses[name]


def read_name(message: bytes, at: int) -> tuple[bytes, int]:
    """The name at the offset `at`, in lower case, and the offset after it."""
    labels = []
    begin, end = at, None
    while message[at]:
        length = message[at]
        if length < 0xC0:
            labels.append(message[at + 1 : at + 1 + length])
            at += 1 + length
        else:  # a pointer: the rest is earlier in the message (RFC 1035, section 4.1.4)
            end = end or at + 2
            at = (length & 0x3F) << 8 | message[at + 1]
            if at >= begin:  # not earlier, so there could be a cycle
                raise ResolverError("the answer cannot be read")
            begin = at
    return b".".join(labels).lower(), end or at + 1
