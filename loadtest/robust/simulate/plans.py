"""What a client is going to do: which requests it sends, how, and how its visit ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from loadtest.robust.simulate.truth import IN_PLACE, SIZES, Ask, Files

BAD: Final = [
    # What is sent, the statuses that are right, and whether the connection may go on.
    (b"GET / HTTP/1.1\r\n\r\n", (400,), False),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", (400,), False),
    (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", (501, 400), False),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", (400, 501), False),
    (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", (505, 400), False),
    (b"GET / HTTP/1.1\r\nHost: a\r\nContent Length: 1\r\n\r\n", (400,), False),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 700\r\n\r\n" + b"x" * 700, (405,), False),
    (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: lzma\r\n\r\n", (501, 400), False),
    (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", (414,), False),
    (b"DELETE /small.txt HTTP/1.1\r\nHost: a\r\n\r\n", (405,), True),
    (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", (204, 200), True),
    (b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", (400,), True),
    (b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", (400, 404), True),
    (b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", (400, 404), True),
    (b"GET /.new HTTP/1.1\r\nHost: a\r\n\r\n", (404,), True),
]

ENDINGS: Final = (
    "leave", "leave", "close", "close", "close", "half-close", "half-close", "idle", "idle",
    "silent", "dribble", "stuck", "deaf", "deaf", "abort", "bad", "bad",
)  # fmt: skip
"""How visits end: the client goes, asks for the end, says that it will ask no more, says nothing
more, has never said anything, never comes to the end of a head or stops within one, takes nothing
of its answer, resets the connection, sends what is no request."""


@dataclass
class Plan:
    """What a client is going to do."""

    asks: list[Ask]
    ending: str
    pipelined: bool
    piece: int
    """Bytes that it sends at once, at most."""
    pause: float
    """Seconds between two pieces."""
    takes: int
    """Bytes that it reads at once, at most."""
    rests: float
    """Seconds between two reads."""


def new_plan(random: Random, files: Files) -> Plan:
    ending = random.choice(ENDINGS)
    asks = [new_ask(random, files) for _ in range(random.choice((1, 2, 3, 3, 5, 8)))]
    if ending == "silent":
        asks = []
    elif ending == "close":
        asks[-1].keep = False
    elif ending == "bad":
        raw, statuses, keep = random.choice(BAD)
        asks.append(Ask(raw=raw, statuses=statuses, keep=keep))
        if keep:
            asks.append(Ask(target="/missing", statuses=(404,), keep=False))
    elif ending == "deaf":
        asks = [Ask(target="/huge.bin", name="huge.bin") for _ in range(3)]
    return Plan(
        asks,
        ending,
        pipelined=random.random() < 0.5,
        piece=random.choice((1_000_000, 1_000_000, 200, 37)),
        pause=random.choice((0.0, 0.0, 0.05, 0.3)),
        takes=random.choice((1_000_000, 1_000_000, 3_000, 700)),
        rests=random.choice((0.0, 0.0, 0.0, 0.01, 0.2)),
    )


def new_ask(random: Random, files: Files) -> Ask:
    kind = random.choice(KINDS)
    return kind(random, files, random.choice(NAMES))


def whole(random: Random, files: Files, name: str) -> Ask:
    target = "/" + (name.removesuffix("index.html") if random.random() < 0.5 else name)
    return Ask(target=target + random.choice(("", "", "?v=1")), name=name)


def head(random: Random, files: Files, name: str) -> Ask:
    return Ask("HEAD", f"/{name}", name)


def packed(random: Random, files: Files, name: str) -> Ask:
    return Ask(target=f"/{name}", name=name, fields={"Accept-Encoding": "gzip"})


def known(random: Random, files: Files, name: str) -> tuple[str, str]:
    """A tag and a date that a client may have from before."""
    versions = files.versions[name][-3:]
    if not versions:
        return '"none"', "Tue, 14 Nov 2023 22:00:00 GMT"
    version = random.choice(versions)
    return version.tag(), version.date


def conditional(random: Random, files: Files, name: str) -> Ask:
    tag, date = known(random, files, name)
    fields = random.choice(
        [
            {"If-None-Match": tag},
            {"If-None-Match": f'"other", {tag}'},
            {"If-None-Match": "*"},
            {"If-Match": tag},
            {"If-Modified-Since": date},
            {"If-Unmodified-Since": date},
        ]
    )
    return Ask(random.choice(("GET", "GET", "HEAD")), f"/{name}", name, fields)


def part(random: Random, files: Files, name: str) -> Ask:
    size = SIZES[name]
    first = random.randrange(size + 1)
    last = 20 if size > 200 else None  # or the two parts would be near enough to be one
    ranges: list[tuple[int | None, int | None]] = random.choice(
        [
            [(first, None)],
            [(first, first + random.randrange(500))],
            [(first, size + 1000)],
            [(None, random.randrange(1, 900))],
            [(size + 1000, None)],
            [(0, 9), (400, 450)],
            [(0, 9), (None, last)] if last else [(0, None)],
        ]
    )
    fields = {}
    if random.random() < 0.3:
        fields["If-Range"] = random.choice(known(random, files, name))
    return Ask(target=f"/{name}", name=name, ranges=ranges, fields=fields)


def old(random: Random, files: Files, name: str) -> Ask:
    return Ask(target=f"/{name}", name=name, old=True)


def missing(random: Random, files: Files, name: str) -> Ask:
    return Ask(target=f"/missing/{name}", statuses=(404,))


def moved(random: Random, files: Files, name: str) -> Ask:
    return Ask(target="/folder", statuses=(301,))


def listed(random: Random, files: Files, name: str) -> Ask:
    return Ask(target="/listed/", statuses=(200,))


def unstable(random: Random, files: Files, name: str) -> Ask:
    return Ask(target=f"/{IN_PLACE}", name=IN_PLACE)


NAMES: Final = [*SIZES, "page.html", "style.css", "huge.bin"]
KINDS: Final[list[Callable[[Random, Files, str], Ask]]] = [
    whole, whole, whole, whole, head, packed, packed, conditional, conditional, part, part, part,
    old, missing, moved, listed, unstable,
]  # fmt: skip
