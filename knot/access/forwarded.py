"""The address of a client, as reported by a trusted proxy.  No I/O.

Two ways to say so: a field that a proxy for HTTP adds to each request, ``X-Forwarded-For``, and a
header that one for TCP puts before the first byte of a connection (the PROXY protocol, versions 1
and 2, as HAProxy's proxy-protocol.txt has it).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

from knot.access.networks import MAX_REMEMBERED, parse
from knot.http.request import Fields

FORWARDED: Final = b"x-forwarded-for"

# -- a field of each request ---------------------------------------------------------------------

WITH_PORT: Final = re.compile(r"\[(.*)\](?::\d+)?|([\d.]+):\d+")
"""Some proxies add the port."""

MAX_HOPS: Final = 32
"""Addresses that are looked at; a longer chain of trusted proxies must be a loop."""

MAX_REMEMBERED_SIZE: Final = 128
"""Bytes of a field whose meaning is remembered."""


class Forwarded:
    """Finds the client behind proxies that are trusted."""

    def __init__(self, trusted: Callable[[str], bool]) -> None:
        self._trusted = trusted
        self._remembered = lru_cache(MAX_REMEMBERED)(self._find)

    def client(self, address: str, fields: Fields) -> str:
        """The client whose request with these `fields` comes from `address`.

        It is the right-most address in ``X-Forwarded-For`` that is not a trusted proxy's: whatever
        is left of it cannot be trusted.  A member that is not an address ends the search as well,
        at the last trusted proxy.
        """
        if not self._trusted(address):
            return address
        values = [value for name, value in fields if name == FORWARDED]
        if not values:
            return address
        value = b",".join(values)
        found = self._find if len(value) > MAX_REMEMBERED_SIZE else self._remembered
        return found(address, value)

    def _find(self, address: str, value: bytes) -> str:
        for hop in reversed(value.decode("latin-1").rsplit(",", MAX_HOPS)[-MAX_HOPS:]):
            said = hop_address(hop.strip(" \t"))
            if said is None:
                return address
            address = said
            if not self._trusted(address):
                return address
        return address


def hop_address(text: str) -> str | None:
    """The address in one member of the list, as the system would write it; None if it has none."""
    found = WITH_PORT.fullmatch(text)
    if found is not None:
        text = found[1] or found[2] or ""
    address = parse(text)
    return None if address is None or "%" in text else str(address)


# -- a header before all else --------------------------------------------------------------------

MAX_V1: Final = 107
"""Bytes of a header of version 1, with its end."""

MAX_V2: Final = 2048
"""Bytes of one of version 2, whose own bound is 65,551: a client's certificate may be in it, but
no proxy sends that by default."""

MAX_HEADER: Final = max(MAX_V1, MAX_V2)

UNKNOWN_1: Final = b"PROXY UNKNOWN"
STARTS_1: Final = (b"PROXY TCP4 ", b"PROXY TCP6 ", UNKNOWN_1)
START_2: Final = b"\r\n\r\n\0\r\nQUIT\n"
FIXED: Final = len(START_2) + 4
"""Bytes of a header of version 2 before its addresses."""

PORT: Final = re.compile(rb"0|[1-9][0-9]{0,4}")
TEXT_1: Final = re.compile(rb"[0-9A-Fa-f:. ]*\r?")
"""The part after TCP4 or TCP6, as far as it has arrived."""

# By the byte of version 2 that names them: how long the addresses are, with their ports.
LENGTHS: Final = {
    0x11: 12, 0x12: 12,  # TCP and UDP over IPv4
    0x21: 36, 0x22: 36,  # over IPv6
    0x31: 216, 0x32: 216,  # sockets with a path
    0x00: 0,  # unspecified
}  # fmt: skip

# Version 2, and what the proxy does: it speaks for itself, or for a client.
LOCAL: Final = 0x20
PROXIED: Final = 0x21


class Header(NamedTuple):
    """A PROXY header."""

    size: int
    """Bytes, up to the first that is not of the header."""
    client: str
    """Its address; empty if it is the one that the connection has anyway."""


def parse_header(data: bytes) -> Header | None:
    """The header that `data` begins with; None if it is incomplete.

    Raises `ValueError` if it is not a PROXY header.
    """
    if any(data.startswith(start[: len(data)]) for start in STARTS_1):
        return parse_1(data)
    if data.startswith(START_2[: len(data)]):
        return parse_2(data)
    raise ValueError("it is not a PROXY header")


def parse_1(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, MAX_V1)
    line = data if end < 0 else data[:end]
    is_unknown = line.startswith(UNKNOWN_1[: len(line)])
    if not (is_unknown or TEXT_1.fullmatch(line, len(STARTS_1[0]))):
        raise ValueError("a PROXY header has TCP4 or TCP6, two addresses and two ports, or UNKNOWN")
    if end < 0:
        if len(data) >= MAX_V1:
            raise ValueError(f"a PROXY header of version 1 ends within {MAX_V1} bytes")
        return None
    words = line.split(b" ")
    if words[1] == b"UNKNOWN":  # whatever follows is to be skipped
        return Header(end + 2, "")
    if len(words) != 6:
        raise ValueError("a PROXY header has two addresses and two ports")
    kind = IPv4Address if words[1] == b"TCP4" else IPv6Address
    try:
        client, _ = [shown(kind(word.decode())) for word in words[2:4]]
    except ValueError:
        raise ValueError("an address in a PROXY header is not of the announced kind") from None
    for port in words[4:]:
        if not PORT.fullmatch(port) or int(port) > 0xFFFF:
            raise ValueError("a port in a PROXY header is a number up to 65535")
    return Header(end + 2, client)


def parse_2(data: bytes) -> Header | None:
    if len(data) < FIXED:
        if len(data) > len(START_2):
            check_version(data[len(START_2)])
        return None
    check_version(data[len(START_2)])
    size = FIXED + int.from_bytes(data[FIXED - 2 : FIXED], "big")
    if size > MAX_V2:
        raise ValueError(f"a PROXY header longer than {MAX_V2} bytes is not accepted")
    local, kind = data[len(START_2)] == LOCAL, data[len(START_2) + 1]
    if not local:
        if kind not in LENGTHS:
            raise ValueError("the addresses in a PROXY header are of an unknown kind")
        if size < FIXED + LENGTHS[kind]:
            raise ValueError("the addresses in a PROXY header are cut off")
    if len(data) < size:
        return None
    if local or kind not in (0x11, 0x21):
        return Header(size, "")
    packed = data[FIXED : FIXED + (4 if kind == 0x11 else 16)]
    return Header(size, shown(ip_address(packed)))


def check_version(byte: int) -> None:
    """Raises `ValueError` unless it is version 2, and its command LOCAL or PROXY."""
    if byte not in (LOCAL, PROXIED):
        raise ValueError("a PROXY header has a version or a command that is not known")


def shown(address: IPv4Address | IPv6Address) -> str:
    """One of IPv4 is written as such."""
    return str(getattr(address, "ipv4_mapped", None) or address)
