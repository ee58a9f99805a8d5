"""docs/features.md is true of Knot: its cells are what the probes find, or name their tests."""

from __future__ import annotations

import gzip
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from serving import connect, until_closed, with_server

PAGE = (Path(__file__).parents[2] / "docs" / "features.md").read_text()
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


# Each row that is a probe: what its cell says.


def one_range(p: Probe) -> str:
    answer = p.get("/thousand", "Range: bytes=0-9")
    assert answer.content == THOUSAND[:10]
    return str(answer.status)


def suffix_range(p: Probe) -> str:
    answer = p.get("/thousand", "Range: bytes=-10")
    assert answer.content == THOUSAND[-10:]
    assert answer.fields["content-range"] == "bytes 990-999/1000"
    return str(answer.status)


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
    for good, stale in ((tag, '"stale"'), (date, "Sun, 06 Nov 1994 08:49:36 GMT")):
        assert p.get("/thousand", "Range: bytes=0-9", f"If-Range: {good}").status == 206
        if p.get("/thousand", "Range: bytes=0-9", f"If-Range: {stale}").status != 200:
            return "**ignored**"
    return "ok"


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


def unknown_type(p: Probe) -> str:
    return p.get("/thousand").fields["content-type"].removeprefix("application/")


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
    "one range": one_range,
    "range `-10` of 1000 B": suffix_range,
    "several ranges": several_ranges,
    "range not satisfiable": no_range,
    "303 overlapping ranges": many_ranges,
    "If-Range": if_range,
    "ETag default": etag,
    "Last-Modified": last_modified,
    "If-None-Match": if_none_match,
    "If-Modified-Since": if_modified_since,
    "If-Match mismatch": if_match,
    "`.gz` beside the file": copies("gzip", "gz"),
    "`.br` beside the file": copies("br", "br"),
    "`.zst` beside the file": copies("zstd", "zst"),
    "`gzip;q=0` honoured": refused_gzip,
    "on-the-fly encoding": on_the_fly,
    "directory without slash": without_slash,
    "dotfile `/.secret`": lambda p: statuses(p.get("/.secret")),
    "link out of the root": lambda p: statuses(p.get("/link")),
    "`..` / `%2e%2e`": lambda p: statuses(p.get("/../outside"), p.get("/%2e%2e/outside")),
    "NUL in path": lambda p: statuses(p.get("/thousand%00")),
    "HEAD": head,
    "OPTIONS": allowed("OPTIONS"),
    "POST": allowed("POST"),
    "Cache-Control default": cache_control,
    "nosniff": nosniff,
    "file without extension": unknown_type,
    "no Host": lambda p: statuses(p.get("/thousand", host="")),
    "two Hosts": lambda p: statuses(p.get("/thousand", "Host: y")),
    "bare LF": lambda p: statuses(p.raw(b"GET /thousand HTTP/1.1\nHost: x\n\n")),
    "space before colon": lambda p: statuses(p.get("/thousand", "a : b")),
    "TE and CL": smuggled,
    "3 pipelined": pipelined,
    "100 KB header": lambda p: statuses(p.get("/thousand", "a: " + "b" * 100_000)),
    "60 KB URL": lambda p: statuses(p.get("/" + "a" * 60_000)),
}


LAST_PROBE = "60 KB URL"
"""The rows after this one are about options: tests that the page names hold them."""


def tables() -> list[dict[str, str]]:
    """Of each table of the page, Knot's cell by feature."""
    found: list[dict[str, str]] = []
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| feature"):
            assert cells[1] == "Knot"
            found.append({})
        elif line.startswith("| ") and not line.startswith("| -"):
            found[-1][cells[0]] = cells[1]
    return found


def test_every_table_says_the_same_of_knot() -> None:
    first, *others = tables()
    assert len(others) == 5
    assert all(table == first for table in others)


def test_every_probe_finds_what_the_table_says(root: Path) -> None:
    found = with_server(root, lambda port: {row: ask(Probe(port)) for row, ask in PROBES.items()})
    stated = tables()[0]
    assert list(found) == list(stated)[: list(stated).index(LAST_PROBE) + 1]
    assert found == {row: stated[row] for row in found}


def test_every_other_row_names_its_tests_or_says_no() -> None:
    tests = {
        name
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    listed = re.findall(r"^- ([^:`*]+): ((?:`test_\w+`[,\s]*)+)", PAGE, re.MULTILINE)
    for feature, named in listed:
        assert set(re.findall(r"`(\w+)`", named)) <= tests, feature
    stated = {row: cell for row, cell in tables()[0].items() if row not in PROBES}
    assert len(stated) > 15
    assert {feature for feature, _ in listed} == {
        row for row, cell in stated.items() if cell != "no"
    }
