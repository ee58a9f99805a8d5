"""`make fuzz`: check what must hold for any bytes that a client or an operator gives to Knot.

Each target is a function of bytes that raises for a mistake of Knot.  atheris (libFuzzer) looks for
such bytes, guided by the branches that they reach, and keeps what it has learned in `.fuzz/TARGET`;
the tests try the same functions on their seeds and on similar bytes.

    python -m loadtest.robust.fuzz                        # every target in turn, a minute together
    python -m loadtest.robust.fuzz requests --seconds 600
    python -m loadtest.robust.fuzz requests .fuzz/requests-crash-…     # repeat a crash
"""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import click

from knot.files.compression import SUFFIXES
from knot.files.site import file_name
from knot.http.accept import prefers_json
from knot.http.conditions import evaluate, range_applies
from knot.http.content_coding import acceptable
from knot.http.ranges import parse_range
from knot.http.request import (
    BadRequest,
    LoggingParser,
    Request,
    RequestParser,
    can_be_authority,
    can_be_target,
)
from knot.http.responder import authority_of, field_line, split_target
from knot.options import Address, Pair, Seconds, Size, Workers
from knot.process.spawn import python
from knot.tls import Certificates, Channel

CORPUS: Final = Path(".fuzz")

SECONDS: Final = 60
"""For all targets together."""

MAX_INPUT: Final = 4096
"""Bytes of an input: below all limits of a head, which may apply earlier or later by its pieces."""


# -- what must hold --------------------------------------------------------------------------------


def requests(data: bytes) -> None:
    """A client's bytes are the same requests in any pieces, and none follows the last one."""
    cuts, data = sorted(data[:3]), data[3:]
    whole = found([data])
    pieces = found([data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)])
    assert whole == pieces, f"{whole} in one piece, {pieces} in pieces"


def found(pieces: Sequence[bytes]) -> list[Request | str]:
    parser: RequestParser = LoggingParser(frozenset({b"host"}))
    results: list[Request | str] = []
    for piece in pieces:
        if not piece:
            continue
        ended = parser.ended
        requests = parser.feed(piece)
        assert not (ended and requests), "a request after the last"
        assert len(parser.said) >= len(requests)  # in order
        for request in requests:
            # Which refusal it is may depend on how much has come.
            results.append(request if isinstance(request, Request) else "refused")
            assert parser.ended or not isinstance(request, BadRequest)
    return results


def ranges(data: bytes) -> None:
    size = int.from_bytes(data[:2], "big")
    chosen = parse_range(data[2:], size)
    if chosen:
        last = 0
        for start, stop in sorted(chosen):
            assert last <= start < stop <= size
            last = stop


def conditions(data: bytes) -> None:
    names = (b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since")
    values = data.split(b"\n")
    fields = dict(zip((*names, b"if-range"), values, strict=False))
    assert evaluate(fields, b'"tag"', 1_000_000_000) in (None, 304, 412)
    range_applies(fields, b'"tag"', 1_000_000_000)


def codings(data: bytes) -> None:
    chosen = acceptable(data)
    assert set(chosen) <= set(SUFFIXES)
    assert len(set(chosen)) == len(chosen)
    assert not prefers_json(data) or not prefers_json(data + b", text/html")


def targets(data: bytes) -> None:
    """No target names anything outside of the root."""
    path, query = split_target(data)
    assert not query or query.startswith(b"?")
    authority = authority_of(data)
    if can_be_target(data, b"GET"):
        assert path.startswith(b"/")
        assert not authority or can_be_authority(authority)
    name = file_name(path)
    if name is not None:
        segments = name.split(b"/")
        assert b"\0" not in name
        assert b".." not in segments
        assert b"." not in segments
        assert b"" not in segments[:-1] or name == b""


def options(data: bytes) -> None:
    """What an operator writes is accepted, or refused with a message."""
    text = data.decode("utf-8", "surrogateescape")
    for kind in (Size(), Seconds(), Workers(), Address(), Pair("KEY", "VALUE")):
        with suppress(click.BadParameter):
            kind.convert(text, None, None)
    with suppress(ValueError):
        line = field_line(text)
        assert line.count(b"\n") == 1
        assert line.endswith(b"\r\n")


def tls(data: bytes) -> None:
    """Junk is an error of the client, or an incomplete handshake."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        channel = Channel(ours.fileno(), certificates().context)
        with suppress(ConnectionError):
            for _ in range(len(data) + 10):
                assert not channel.handshake()
        channel.end()


@cache
def certificates() -> Certificates:
    import trustme

    with tempfile.TemporaryDirectory() as place:
        file = str(Path(place, "localhost.pem"))
        issued = trustme.CA().issue_cert("localhost")
        issued.private_key_and_cert_chain_pem.write_to_path(file)
        return Certificates([(file, None)])


class Target(NamedTuple):
    check: Callable[[bytes], None]
    seeds: Sequence[bytes]


GET: Final = b"GET /a?b HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\nUser-Agent: y\r\n\r\n"

TARGETS: Final = {
    "requests": Target(
        requests,
        [
            b"\x01\x20\x40" + GET,
            b"\x01\x20\x60" + GET + GET,
            b"\0\0\0GET http://x/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + GET,
            b"\0\0\0POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" + GET,
            b"\0\0\0POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"\0\0\0GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n" + GET,
            b"\0\0\0PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\0\0\0\r\n\r\n" + GET,
            b"\x08\x0e\x20GET /a HTTP/1.2\r\nHost: x\r\nAccept: a/b\r\n\r\nGET / HTTP/3.7\r\n\r\n",
        ],
    ),
    "ranges": Target(
        ranges, [b"\x04\0bytes=0-1", b"\x04\0bytes=-5", b"\x04\0bytes=5-, 1-2,,900-1100,0-0"]
    ),
    "conditions": Target(
        conditions,
        [b'"tag"\n*\n\n\n"tag"', b'W/"tag", "x"\n"tag"\nSun, 06 Nov 1994 08:49:37 GMT\n\n'],
    ),
    "codings": Target(
        codings, [b"gzip, br;q=0.5, *;q=0", b"identity;q=0, x-gzip", b"zstd;q=1.000"]
    ),
    "targets": Target(
        targets,
        [
            b"http://[::1]:80/",
            b"h:80",
            b"/a/../b/./c//d?e=/../f",
            b"/%2e%2e/%2fa",
            b"http://x/a?b",
            b"//x",
            b"*",
            b"/",
        ],
    ),
    "options": Target(options, [b"64M", b"1.5 GiB", b"auto", b"[::1]:80", b"A-B: c", b"k=v"]),
    "tls": Target(
        tls, [bytes.fromhex("160301000501000001ff"), b"GET / HTTP/1.1\r\n\r\n", b"\x15\3\3"]
    ),
}


# -- the search ------------------------------------------------------------------------------------


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", required=False, type=click.Choice([*TARGETS]))
@click.argument("file", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--seconds", default=SECONDS, show_default=True, type=click.IntRange(1))
@click.option("--inside", is_flag=True, hidden=True)
def main(name: str | None, file: Path | None, seconds: int, inside: bool) -> None:
    """Look for bytes that break a target, or try those in FILE."""
    if name is not None and file is not None:
        TARGETS[name].check(file.read_bytes())
        click.echo(f"{name} accepts {file}")
        return
    if importlib.util.find_spec("atheris") is None:
        sys.exit("make fuzz needs atheris: pip install '.[fuzz]'")
    if inside:
        assert name is not None
        search(name, seconds)
    names = [name] if name is not None else [*TARGETS]
    broken = [each for each in names if not searched(each, max(1, seconds // len(names)))]
    if broken:
        sys.exit(f"broken: {', '.join(broken)}")


def searched(name: str, seconds: int) -> bool:
    """Search in a separate process, since a crash ends it; true if nothing was found."""
    place = CORPUS / name
    place.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds):
        (place / f"seed-{number}").write_bytes(seed)
    before = set(CORPUS.glob(f"{name}-crash-*"))
    command = python("-m", "loadtest.robust.fuzz", name, "--inside", "--seconds", str(seconds))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    executed = done.stderr.rpartition("Done ")[2].partition(" runs")[0]
    if done.returncode == 0:
        click.echo(f"{name}: {int(executed):,} inputs in {seconds} s, none of which breaks it")
        return True
    click.echo(done.stdout + done.stderr)
    for crash in set(CORPUS.glob(f"{name}-crash-*")) - before:
        click.echo(f"to repeat: python -m loadtest.robust.fuzz {name} {crash}")
    return False


def search(name: str, seconds: int) -> None:
    """Never returns."""
    import atheris

    check = TARGETS[name].check
    atheris.instrument_all()
    atheris.Setup(
        [
            "fuzz",
            f"-max_total_time={seconds}",
            f"-max_len={MAX_INPUT}",
            f"-artifact_prefix={CORPUS / name}-",
            str(CORPUS / name),
        ],
        check,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
