"""Knot's column of docs/features.md: what the probes of that table find is what stands there."""

from __future__ import annotations

import gzip
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving import connect, until_closed, with_server

TABLE = Path(__file__).parents[2] / "docs" / "features.md"
TESTS = Path(__file__).parents[1]

THOUSAND = bytes(range(250)) * 4


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    (root / "dir").mkdir(parents=True)
    (root / "thousand").write_bytes(THOUSAND)
    (root / "text.css").write_text("p { color: red }\n" * 100)
    (root / "page.html").write_text("<p>" * 300)
    for suffix in ("gz", "br", "zst"):
        copy = root / f"page.html.{suffix}"
        copy.write_bytes(gzip.compress(b"x") + suffix.encode())
    (root / ".secret").write_text("secret")
    (tmp_path / "outside").write_text("outside")
    (root / "link").symlink_to("../outside")
    os.utime(root / "thousand", (784111777, 784111777))
    return root


class Answer:
    def __init__(self, received: bytes) -> None:
        head, _, self.content = received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(status.split()[1])
        self.fields = dict(line.lower().split(": ", 1) for line in lines)
        self.raw = received


class Probe:
    """Asks the server at `port`."""

    def __init__(self, port: int) -> None:
        self.port = port

    def raw(self, sent: bytes) -> Answer:
        with connect(self.port) as connection:
            try:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it has heard enough
            return Answer(until_closed(connection))

    def get(self, path: str, *fields: str, method: str = "GET", host: str = "Host: x") -> Answer:
        lines = [f"{method} {path} HTTP/1.1", host, "Connection: close", *fields]
        return self.raw(("\r\n".join(line for line in lines if line) + "\r\n\r\n").encode())


def statuses(*answers: Answer) -> str:
    return "/".join(str(answer.status) for answer in answers)


# Each row of the table that is a probe: what the cell says.


def one_range(p: Probe) -> str:
    answer = p.get("/thousand", "Range: bytes=0-9")
    assert answer.content == THOUSAND[:10]
    return str(answer.status)


def suffix_range(p: Probe) -> str:
    answer = p.get("/thousand", "Range: bytes=-10")
    assert answer.content == THOUSAND[-10:]
    return f"{answer.status} {answer.fields['content-range'].removeprefix('bytes ')}"


def several_ranges(p: Probe) -> str:
    answer = p.get("/thousand", "Range: bytes=0-0,500-501")
    kind = answer.fields["content-type"].partition("/")[0]
    return f"{answer.status} {kind}"


def no_range(p: Probe) -> str:
    answer = p.get("/thousand", "Range: bytes=2000-")
    assert answer.fields["content-range"] == "bytes */1000"
    return f"{answer.status} ok"


def many_ranges(p: Probe) -> str:
    value = ",".join(f"{n}-" for n in range(303))
    answer = p.get("/thousand", f"Range: bytes={value}")
    assert len(answer.content) == 1000
    return str(answer.status)


def if_range(p: Probe) -> str:
    tag = p.get("/thousand").fields["etag"]
    date = "Sun, 06 Nov 1994 08:49:37 GMT"
    cells = []
    for name, good, stale in (
        ("etag", tag, '"stale"'),
        ("date", date, "Sun, 06 Nov 1994 08:49:36 GMT"),
    ):
        fresh = p.get("/thousand", "Range: bytes=0-9", f"If-Range: {good}").status
        old = p.get("/thousand", "Range: bytes=0-9", f"If-Range: {stale}").status
        cells.append(f"{name} {'ok' if (fresh, old) == (206, 200) else 'ignored'}")
    return ", ".join(cells)


def etag(p: Probe) -> str:
    return "weak" if p.get("/thousand").fields["etag"].startswith("w/") else "strong"


def last_modified(p: Probe) -> str:
    return "yes" if "last-modified" in p.get("/thousand").fields else "no"


def if_none_match(p: Probe) -> str:
    tag = p.get("/thousand").fields["etag"]
    values = (tag, f'"other", W/{tag}', "*")
    found = {p.get("/thousand", f"If-None-Match: {value}").status for value in values}
    return "ok" if found == {304} else str(found)


def if_modified_since(p: Probe) -> str:
    since = "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"
    return "ok" if p.get("/thousand", since).status == 304 else "no"


def if_match(p: Probe) -> str:
    return str(p.get("/thousand", 'If-Match: "other"').status)


def copies(coding: str, suffix: str) -> Callable[[Probe], str]:
    def probe(p: Probe) -> str:
        answer = p.get("/page.html", f"Accept-Encoding: {coding}")
        assert answer.fields["vary"] == "accept-encoding"
        assert answer.fields["content-encoding"] == coding
        return "yes" if answer.content.endswith(suffix.encode()) else "no"

    return probe


def refused_gzip(p: Probe) -> str:
    answer = p.get("/page.html", "Accept-Encoding: gzip;q=0")
    return "ok" if "content-encoding" not in answer.fields else "**sends gzip**"


def on_the_fly(p: Probe) -> str:
    found = [
        {"gzip": "gz"}.get(coding, coding)
        for coding in ("gzip", "br", "zstd")
        if p.get("/text.css", f"Accept-Encoding: {coding}").fields.get("content-encoding") == coding
    ]
    return "/".join(found)


def without_slash(p: Probe) -> str:
    answer = p.get("/dir")
    assert answer.fields["location"] == "/dir/"
    return str(answer.status)


def allowed(method: str) -> Callable[[Probe], str]:
    def probe(p: Probe) -> str:
        answer = p.get("/", method=method)
        return f"{answer.status} {answer.fields['allow'].upper()}"

    return probe


def head(p: Probe) -> str:
    answer = p.get("/thousand", method="HEAD")
    assert (answer.fields["content-length"], answer.content) == ("1000", b"")
    return f"{answer.status} ok"


def cache_control(p: Probe) -> str:
    return p.get("/thousand").fields.get("cache-control", "-")


def nosniff(p: Probe) -> str:
    return "yes" if p.get("/thousand").fields["x-content-type-options"] == "nosniff" else "no"


def pipelined(p: Probe) -> str:
    one = b"GET /dir HTTP/1.1\r\nHost: x\r\n\r\n"
    return str(p.raw(one * 3).raw.count(b"HTTP/1.1 301"))


def smuggled(p: Probe) -> str:
    answer = p.raw(
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\nGET /thousand HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    return f"{answer.status} x{answer.raw.count(b'HTTP/1.1 ')}"


PROBES: dict[str, Callable[[Probe], str]] = {
    "Range, one": one_range,
    "Range suffix `-10` of 1000": suffix_range,
    "Range, several": several_ranges,
    "416": no_range,
    "303 overlapping ranges on 1000 B": many_ranges,
    "If-Range (stale must give 200)": if_range,
    "ETag default": etag,
    "Last-Modified": last_modified,
    "If-None-Match (exact, list, `*`)": if_none_match,
    "If-Modified-Since": if_modified_since,
    "If-Match mismatch": if_match,
    "pre-made .gz": copies("gzip", "gz"),
    "pre-made .br": copies("br", "br"),
    "pre-made .zst": copies("zstd", "zst"),
    "`gzip;q=0` honoured": refused_gzip,
    "on-the-fly encoding": on_the_fly,
    "dir without slash": without_slash,
    "dotfile `/.secret`": lambda p: statuses(p.get("/.secret")),
    "symlink leaving root": lambda p: statuses(p.get("/link")),
    "`..` / `%2e%2e`": lambda p: statuses(p.get("/../outside"), p.get("/%2e%2e/outside")),
    "NUL in path": lambda p: statuses(p.get("/thousand%00")),
    "HEAD": head,
    "OPTIONS": allowed("OPTIONS"),
    "POST": allowed("POST"),
    "Cache-Control default": cache_control,
    "nosniff": nosniff,
    "file without extension": lambda p: p.get("/thousand").fields["content-type"],
    "no Host (must be 400)": lambda p: statuses(p.get("/thousand", host="")),
    "two Hosts (must be 400)": lambda p: statuses(p.get("/thousand", "Host: y")),
    "bare LF": lambda p: statuses(p.raw(b"GET /thousand HTTP/1.1\nHost: x\n\n")),
    "space before colon": lambda p: statuses(p.get("/thousand", "a : b")),
    "TE+CL (xN = responses)": smuggled,
    "3 pipelined": pipelined,
    "100 KB header": lambda p: statuses(p.get("/thousand", "a: " + "b" * 100_000)),
    "60 KB URL": lambda p: statuses(p.get("/" + "a" * 60_000)),
}


def rows() -> Iterator[tuple[str, str, str]]:
    """Feature, Knot's cell, and what shows it."""
    for line in TABLE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) > 3 and cells[0] != "feature":
            yield cells[0], cells[1], cells[2]


def test_every_probe_finds_what_the_table_says(root: Path) -> None:
    found = with_server(root, lambda port: {row: ask(Probe(port)) for row, ask in PROBES.items()})
    stated = {feature: cell for feature, cell, shown_by in rows() if shown_by == "probe"}
    assert found == stated


def test_every_other_cell_names_a_test_or_says_no() -> None:
    tests = {
        name
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    others = [row for row in rows() if row[2] != "probe"]
    assert len(others) > 15
    for feature, cell, shown_by in others:
        named = re.findall(r"`(test_\w+)`", shown_by)
        assert set(named) <= tests, feature
        assert bool(named) == (cell != "no"), feature
