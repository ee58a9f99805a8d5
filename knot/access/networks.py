"""Addresses, the networks that they are in, and which of them are one client.  No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

UNIX: Final = "unix:"
"""The address of clients of a Unix socket."""

MAX_REMEMBERED: Final = 4096
"""Addresses that are remembered; to parse one costs 3 µs."""

ONE_CLIENT: Final = 64
"""Bits of an IPv6 address that identify a client: a household, or a rented machine, has
at least the network of all addresses that begin so (RFC 6177), and uses any of them."""

MAPPED: Final = 96
"""Bits before an address of IPv4 that is written as one of IPv6."""

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def network(text: str) -> str:
    """`text` if it is a network, an address, or ``unix``.  Raises `ValueError` otherwise."""
    if text == "unix":
        return text
    try:
        found = ip_network(text)
    except ValueError:
        try:
            meant = ip_network(text, strict=False)
        except ValueError:
            raise ValueError(
                f"{text!r} is not a valid network; use 10.0.0.0/8, 2001:db8::/32, 203.0.113.7, or"
                " unix for the clients of --unix"
            ) from None
        raise ValueError(f"{text!r} is an address within a network: write {meant}") from None
    plain = getattr(found.network_address, "ipv4_mapped", None)
    if plain is not None and found.prefixlen >= MAPPED:
        raise ValueError(f"{text!r} is of IPv4: write {plain}/{found.prefixlen - MAPPED}")
    return text


class Networks:
    """Some networks, as ``10.0.0.0/8``, and ``unix`` for the clients of a path."""

    def __init__(self, networks: Iterable[str]) -> None:
        """Raises `ValueError` for text that is not a network."""
        names = [network(text) for text in networks]
        self._unix = "unix" in names
        self._all: list[Network] = [ip_network(name) for name in names if name != "unix"]
        self.have = lru_cache(MAX_REMEMBERED)(self._have)
        """Whether an address is in one of them."""

    def _have(self, text: str) -> bool:
        address = parse(text)
        if address is None:
            return self._unix and text == UNIX
        return any(address in network for network in self._all)


def parse(text: str) -> Address | None:
    """An address as the system writes it; None if it is not an IP address.

    An IPv4 client of an IPv6 socket has its IPv4 address (RFC 4291, 2.5.5.2).
    """
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(MAX_REMEMBERED)
def client_at(text: str) -> str:
    """A name for the client at an address, the same for all its addresses."""
    address = parse(text)
    if not isinstance(address, IPv6Address):
        return text if address is None else str(address)
    return str(IPv6Network((int(address), ONE_CLIENT), strict=False).network_address)
