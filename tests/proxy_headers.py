"""PROXY headers, as proxies that keep to the protocol send them."""

from __future__ import annotations

import struct
from ipaddress import ip_address

START = b"\r\n\r\n\0\r\nQUIT\n"
"""Of version 2."""


def version_1(source: str, target: str, port: int = 5, other: int = 80) -> bytes:
    kind = "TCP6" if ":" in source else "TCP4"
    return f"PROXY {kind} {source} {target} {port} {other}\r\n".encode()


def version_2(
    source: str, target: str, port: int = 5, other: int = 80, more: bytes = b"", first: int = 0x21
) -> bytes:
    packed = ip_address(source).packed + ip_address(target).packed
    kind = 0x21 if len(packed) == 32 else 0x11
    content = packed + struct.pack("!HH", port, other) + more
    return START + struct.pack("!BBH", first, kind, len(content)) + content
