"""Targets that try to leave the root, made of every way to write the way out; none finds it."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from serving import serving

SECRET = b"SECRET-OUTSIDE"
HIDDEN = b"SECRET-HIDDEN"

DOTS = (
    b"..",
    b"%2e%2e",
    b".%2e",
    b"%2E.",
    b"%252e%252e",
    b"%c0%ae%c0%ae",
    b"%e0%80%ae%e0%80%ae",
    b"%uff0e%uff0e",
    "\uff0e\uff0e".encode(),
    b"...",
    b"....",
    b"..;",
    b"..%00",
    b"..%20",
    b"..%09",
    b"..\\",
)
SLASHES = (
    b"/",
    b"//",
    b"%2f",
    b"%2F",
    b"\\",
    b"%5c",
    b"%252f",
    b"%c0%af",
    b"/./",
    b"/%2e/",
)
STARTS = (b"/", b"//", b"/sub/", b"/sub/../")
OUTSIDE = b"outside.txt"

WAYS_OUT = [
    start + slash.join([dots] * depth) + slash + OUTSIDE
    for start, dots, slash, depth in product(STARTS, DOTS, SLASHES, (1, 3))
]

OTHERS = [
    b"/etc/passwd",
    b"//etc/passwd",
    b"/%2fetc/passwd",
    b"///etc///passwd",
    b"file:///etc/passwd",
    b"http://x/../outside.txt",
    b"http://x//etc/passwd",
    b"/proc/self/environ",
    b"/sub/%00/../../outside.txt",
    b"/index.html/../../outside.txt",
    b"/index.html%00.txt",
    b"/.hidden",
    b"/%2ehidden",
    b"/sub/.hidden",
    b"/sub/.git/config",
    b"/.git/config",
    b"/sub//.git//config",
    b"/./.hidden",
    b"/sub/../.hidden",
    b"/out",
    b"/out/outside.txt",
    b"/absolute/passwd",
    b"/climbs/outside.txt",
    b"/loop/loop/loop",
    b"/link-to-secret",
    b"/con",
    b"/aux.txt",
    b"/outside.txt::$DATA",
    b"/sub/" + b"../" * 2000 + OUTSIDE,
    b"/" + b"a" * 255 + b"/../../" + OUTSIDE,
    b"/" + b"a/" * 3000,
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    place: Path = tmp_path_factory.mktemp("place")
    (place / "outside.txt").write_bytes(SECRET)
    root = place / "root"
    (root / "sub" / ".git").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / "index.html").write_text("home")
    for hidden in (".hidden", "sub/.hidden", ".git/config", "sub/.git/config"):
        (root / hidden).write_bytes(HIDDEN)
    (root / "out").symlink_to(place)
    (root / "absolute").symlink_to("/etc")
    (root / "climbs").symlink_to("..")
    (root / "loop").symlink_to("loop")
    (root / "link-to-secret").symlink_to("../outside.txt")
    with serving(str(root), "--listing") as (_, url):
        where = urlsplit(url)
        assert where.hostname
        assert where.port
        yield where.hostname, where.port


def ask(client: socket.socket, target: bytes) -> tuple[int, bytes]:
    """Status and all else; the connection has ended if that is what the answer says."""
    client.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)
    received = b""
    while b"\r\n\r\n" not in received:
        piece = client.recv(65536)
        assert piece, (target, received)
        received += piece
    head, _, content = received.partition(b"\r\n\r\n")
    length = int(re.search(rb"\r\nContent-Length: (\d+)", head)[1])  # type: ignore[index]
    while len(content) < length:
        content += client.recv(65536)
    return int(head[9:12]), head + content


def test_no_target_leads_out(address: tuple[str, int]) -> None:
    targets = [*WAYS_OUT, *OTHERS]
    assert len(targets) >= 200
    client = socket.create_connection(address, timeout=20)
    try:
        for target in targets:
            status, answer = ask(client, target)
            assert status in {301, 400, 404, 414}, (target, answer)
            assert SECRET not in answer
            assert HIDDEN not in answer
            assert b"root:" not in answer
            if status == 301:  # it leads to a place inside, which is no answer either
                location = re.search(rb"\r\nLocation: ([^\r]*)", answer)
                assert location is not None
                assert location[1].startswith(b"/")
                assert not location[1].startswith(b"//")
            if b"\r\nConnection: close" in answer:
                client.close()
                client = socket.create_connection(address, timeout=20)
    finally:
        client.close()


def test_a_way_that_stays_inside_is_no_attack(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=20) as client:
        assert ask(client, b"/sub/../index.html")[0] in {200, 301, 400, 404}
        status, answer = ask(client, b"/")
        assert status == 200
        assert answer.endswith(b"home")


def test_a_listing_names_nothing_hidden_and_nothing_outside(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=20) as client:
        status, answer = ask(client, b"/sub/")
    assert status == 200
    for name in (b".git", b".hidden", b"outside.txt", b"passwd"):
        assert name not in answer
