"""Addresses to listen at: how users write them, and what the system makes of them.

This module looks names up and opens no socket to listen; `knot.process.listeners` does.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterable, Iterator
from typing import Any, Final

EVERY_4: Final = "0.0.0.0"  # noqa: S104
EVERY_6: Final = "::"
"""The addresses of all interfaces; the second accepts clients of both families."""

MAPPED: Final = "::ffff:"
"""The prefix of an IPv4 address that is written as an IPv6 one (RFC 4291, section 2.5.5.2)."""

NUMBER: Final = re.compile("[0-9]{1,7}")
NOT_IN_A_NAME: Final = re.compile(r"[\s/\[\]@?#%,\0]")

Endpoint = tuple[socket.AddressFamily, tuple[Any, ...]]
"""A family and an address, in the form that `socket.bind` takes."""


# -- as users write them ---------------------------------------------------------------------------


def parse_host(text: str) -> str:
    """An address or a name, as `resolve` takes it.  Raises `ValueError`."""
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" in inner:
        address, percent, zone = inner.partition("%")
        try:
            found = socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, address))
        except (OSError, ValueError):
            host, _, port = inner.rpartition(":")
            hint = f"; use --port for the port of {host}" if port and ":" not in host else ""
            raise ValueError(f"{text!r} is not an address{hint}") from None
        if found.startswith(MAPPED) and "." in found:
            return found.removeprefix(MAPPED)
        return found + percent + zone
    if not text or NOT_IN_A_NAME.search(text):
        raise ValueError(f"{text!r} is not an address or a name: use 127.0.0.1, ::1 or localhost")
    return text


def parse_address(text: str) -> tuple[str, int]:
    """A host and a port; an empty host means every address.  Raises `ValueError`."""
    host, colon, port = text.rpartition(":")
    bare = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if bare or not (colon and NUMBER.fullmatch(port) and int(port) < 65536):
        raise ValueError(
            f"{text!r} is not an address with a port: use 127.0.0.1:9090, [::1]:9090 or :9090"
        )
    return parse_host(host) if host else EVERY_6, int(port)


def format_address(host: str, port: int) -> str:
    """The inverse of `parse_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# -- as the system has them ------------------------------------------------------------------------


def resolve(host: str, port: int) -> Iterator[Endpoint]:
    """All addresses of a host, IPv4 first.  Raises `OSError`."""
    if host == EVERY_6 and not has_ipv6():
        host = EVERY_4
    if host.lower().rstrip(".") == "localhost":  # both, whatever /etc/hosts has (RFC 6761, 6.3)
        yield socket.AF_INET, ("127.0.0.1", port)
        yield socket.AF_INET6, ("::1", port, 0, 0)
        return
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:  # a label is empty or too long
        raise OSError(errno.EINVAL, "not a valid name", format_address(host, port)) from None
    except OSError as error:
        error.filename = format_address(host, port)
        raise
    for family, _, _, _, address in sorted(found, key=lambda each: each[0] != socket.AF_INET):
        if family in (socket.AF_INET, socket.AF_INET6):
            yield family, address


def has_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6).close()
    except OSError:
        return False
    return True


def without_covered(hosts: Iterable[Iterable[Endpoint]]) -> list[list[Endpoint]]:
    """The endpoints of each host, except those that another endpoint includes: the system would not
    bind both."""
    given = [list(endpoints) for endpoints in hosts]
    everywhere = {address[0] for endpoints in given for _, address in endpoints}
    seen: set[Endpoint] = set()

    def is_new(endpoint: Endpoint) -> bool:
        host = endpoint[1][0]
        covered = host != EVERY_6 and (
            EVERY_6 in everywhere
            or (endpoint[0] == socket.AF_INET and host != EVERY_4 and EVERY_4 in everywhere)
        )
        if covered or endpoint in seen:
            return False
        seen.add(endpoint)
        return True

    return [[endpoint for endpoint in endpoints if is_new(endpoint)] for endpoints in given]
