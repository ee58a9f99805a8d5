"""What lies in a directory, as a page or as JSON."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes, urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from knot.files.listing import Entry, as_html, as_json, human, in_order, read_directory
from knot.files.site import Scope, Site
from knot.http.request import Request
from knot.http.responder import Deferred, Responder, Response

# -- reading -------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with one of everything, beside something that must not be told of."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "site-of-others").mkdir()
    root = tmp_path / "site"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / ".env").write_text("hidden")
    (root / "page").write_text("12345")
    os.utime(root / "page", ns=(0, 784111777_900000000))
    os.mkfifo(root / "fifo")
    (root / "broken").symlink_to("nothing")
    (root / "loop").symlink_to("loop")
    (root / "out").symlink_to("../secret")
    (root / "out-absolute").symlink_to(tmp_path / "secret")
    (root / "out-folder").symlink_to("../site-of-others")
    (root / "above").symlink_to("..")
    (root / "in").symlink_to("page")
    (root / "in-absolute").symlink_to(root / "page")
    (root / "in-folder").symlink_to("sub")
    (root / "itself").symlink_to(".")
    return root


def read(
    directory: Path, hidden: bool = False, follow: bool = False, root: Path | None = None
) -> list[Entry]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return read_directory(fd, Scope(os.fsencode((root or directory).resolve()), hidden, follow))
    finally:
        os.close(fd)


def names(entries: list[Entry]) -> set[str]:
    return {entry.name for entry in entries}


SEEN = {"sub", "in-folder", "itself", "page", "in", "in-absolute"}
OUTSIDE = {"out", "out-absolute", "out-folder", "above"}
HIDDEN = {".git", ".env"}

WHO_SEES_WHAT = [
    # (hidden, follow_symlinks, what is there)
    (False, False, SEEN),
    (True, False, SEEN | HIDDEN),
    (False, True, SEEN | OUTSIDE),
    (True, True, SEEN | OUTSIDE | HIDDEN),
]


@pytest.mark.parametrize(("hidden", "follow", "expected"), WHO_SEES_WHAT)
def test_a_list_has_what_a_client_may_ask_for(
    root: Path, hidden: bool, follow: bool, expected: set[str]
) -> None:
    assert names(read(root, hidden, follow)) == expected


def test_an_entry_is_what_its_link_leads_to(root: Path) -> None:
    found = {entry.name: entry for entry in read(root)}
    for name in ("page", "in", "in-absolute"):
        assert found[name] == Entry(name, False, 5, 784111777)
    for name in ("sub", "in-folder", "itself"):
        assert found[name].is_directory
        assert found[name].size == 0


def test_the_root_counts_for_links_and_not_the_directory_that_is_listed(root: Path) -> None:
    (root / "sub" / "up").symlink_to("../page")
    (root / "sub" / "higher").symlink_to("../../secret")
    assert names(read(root / "sub", root=root)) == {"deep", "up"}
    assert names(read(root / "sub")) == {"deep"}


def test_a_directory_with_a_longer_name_is_not_inside(root: Path, tmp_path: Path) -> None:
    """`/srv/site-of-others` begins as `/srv/site` does."""
    (tmp_path / "site-of-others" / "page").write_text("not yours")
    (root / "others").symlink_to("../site-of-others/page")
    assert "others" not in names(read(root))


def test_links_are_inside_if_everything_is(root: Path) -> None:
    assert names(read(root, root=Path("/"))) == SEEN | OUTSIDE


@pytest.mark.parametrize("gone", ["page", "in", "sub"])
def test_what_vanishes_while_it_is_read_is_left_out(
    root: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    scandir: Callable[[int], Any] = os.scandir

    @contextmanager
    def slow(fd: int) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(fd) as found:
            entries = list(found)
        (root / gone).rename(root.parent / "gone")
        yield entries

    monkeypatch.setattr(os, "scandir", slow)
    left = {"page": {"in", "in-absolute"}, "sub": {"in-folder"}}.get(gone, set()) | {gone}
    assert names(read(root)) == SEEN - left


def test_a_directory_can_be_listed_again_and_again(root: Path) -> None:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        first = read_directory(fd, Scope(os.fsencode(root)))
        assert first == read_directory(fd, Scope(os.fsencode(root)))
        assert first
    finally:
        os.close(fd)


def test_what_is_no_directory_cannot_be_listed(root: Path) -> None:
    fd = os.open(root / "page", os.O_RDONLY)
    try:
        with pytest.raises(NotADirectoryError):
            read_directory(fd, Scope(os.fsencode(root)))
    finally:
        os.close(fd)


# -- the order -----------------------------------------------------------------------------------

IN_ORDER = [
    ["file1", "file2", "file10", "file100"],
    ["a", "B", "c", "D"],
    ["Readme", "readme", "README2", "readme10"],
    ["1", "02", "2", "3", "10"],
    ["v1.2.9", "v1.2.10", "v1.10.0"],
    ["2024-01-09", "2024-01-10", "2024-10-01"],
    ["10a", "a", "a1", "a1b", "aa"],
    ["straße1", "STRASSE2", "straße10"],
    ["x" + "9" * 30, "y"],
]


@pytest.mark.parametrize("expected", IN_ORDER)
def test_names_are_ordered_as_people_count(tmp_path: Path, expected: list[str]) -> None:
    for name in reversed(expected):
        (tmp_path / name).write_text("")
    assert [entry.name for entry in read(tmp_path)] == expected


def test_directories_go_first(tmp_path: Path) -> None:
    for name in ("b", "z10", "Z9"):
        (tmp_path / name).mkdir()
    for name in ("a", "c", "Y"):
        (tmp_path / name).write_text("")
    assert [entry.name for entry in read(tmp_path)] == ["b", "Z9", "z10", "a", "c", "Y"]


# -- names of all kinds --------------------------------------------------------------------------

PLAIN = [
    b"a", b"a b", b"index.html", b"<script>alert(1)</script>",
    b"</bdi></a><img src=x onerror=alert(1)>", b'" onclick="alert(1)', b"' onclick='alert(1)",
    b"&lt;b&gt;&amp;", b"<!--", b"]]>", b"</title><b>", b"</style>", b"{0}{path}%s",
    b"javascript:alert(1)", b"http:", b"C:\\x", b"..\\x", b"...", b"%2e%2e", b"%2F", b"%",
    b"?query", b"#fragment", b"a;b=c", b"~user", b" leading", b"trailing ", b"\ttab\n",
    b"\r\n\r\n", b"\x1b[31m", b"\x7f", b"\xff\xfe", b"caf\xc3", b"\xc2\x85", "ünï".encode(),
    "e\u0301".encode(), "exe.\u202egpj.txt".encode(), "\u2066\u2069\u200f".encode(),
    "日本語".encode(), "👍🏽".encode(), b"x" * 255,
]  # fmt: skip


def is_name(name: bytes) -> bool:
    return name not in (b"", b".", b"..") and not set(name) & set(b"\0/")


name_bytes = (
    st.sampled_from(PLAIN)
    | st.binary(min_size=1, max_size=20).filter(is_name)
    | st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")).filter(is_name)
)

entry = st.builds(
    lambda name, is_directory, size, modified: Entry(
        os.fsdecode(name), is_directory, 0 if is_directory else size, modified
    ),
    name_bytes,
    st.booleans(),
    st.integers(0, 2**63 - 1),
    st.integers(-(2**35), 2**35),
)
entries_ = st.lists(entry, max_size=6)

path_bytes = st.lists(name_bytes, max_size=4).map(
    lambda segments: b"/" + b"".join(segment + b"/" for segment in segments)
)


def url_of(path: bytes) -> str:
    return "http://x" + quote_from_bytes(path)


def followed(url: str, link: str) -> bytes:
    """The path that a browser asks for when the link on the page at `url` is followed."""
    found = urlsplit(urljoin(url, link))
    assert (found.scheme, found.netloc, found.query, found.fragment) == ("http", "x", "", "")
    return unquote_to_bytes(found.path)


class Page(HTMLParser):
    """The tags of a page, what its links lead to, and what is read on it."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.links: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.others: list[str] = []
        self._open = ""
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self._open = tag if tag in ("style", "a") else self._open
        if tag == "a":
            self.links.append((dict(attrs)["href"] or "", ""))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(("/" + tag, ()))
        self._open = "" if tag == self._open else self._open

    def handle_data(self, data: str) -> None:
        if self._open == "a":
            href, text = self.links[-1]
            self.links[-1] = href, text + data
        if self._open != "style":
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.others.append(data)

    def unknown_decl(self, data: str) -> None:
        self.others.append(data)

    def handle_pi(self, data: str) -> None:
        self.others.append(data)


def plain(entries: list[Entry]) -> list[Entry]:
    """The same with names that nobody can object to."""
    return [entry._replace(name="a") for entry in entries]


@given(path_bytes, entries_)
def test_every_link_of_a_page_leads_to_its_file(path: bytes, entries: list[Entry]) -> None:
    links = Page(as_html(os.fsdecode(path), entries)).links
    parents = 0 if path == b"/" else 1
    crumbs = len(path.strip(b"/").split(b"/")) + 1 if parents else 1
    assert len(links) == crumbs + parents + len(entries)
    for (href, text), entry in zip(links[crumbs + parents :], entries, strict=True):
        slash = "/" if entry.is_directory else ""
        assert followed(url_of(path), href) == path + os.fsencode(entry.name + slash)
        assert text.endswith(slash)


@given(path_bytes, entries_)
@example(b"/data/2024/", [])
def test_the_path_of_a_page_leads_to_the_directories_above(
    path: bytes, entries: list[Entry]
) -> None:
    links = Page(as_html(os.fsdecode(path), entries)).links
    segments = [segment + b"/" for segment in path.split(b"/")[:-1]]
    above = [b"".join(segments[: at + 1]) for at in range(len(segments))]
    assert [followed(url_of(path), href) for href, _ in links[: len(above)]] == above
    assert above[-1] == path
    if len(above) > 1:
        assert links[len(above)] == ("../", "..")
        assert followed(url_of(path), "../") == above[-2]


@given(path_bytes, entries_)
def test_no_name_is_markup(path: bytes, entries: list[Entry]) -> None:
    page = Page(as_html(os.fsdecode(path), entries))
    depth = path.count(b"/") - 1
    same = Page(as_html("/" + "a/" * depth, plain(entries)))
    assert page.tags == same.tags
    assert page.others == []
    names = [text.removesuffix("/") for _, text in page.links[len(page.links) - len(entries) :]]
    for name, entry in zip(names, entries, strict=True):
        if entry.name.isascii() and entry.name.isprintable():
            assert name == entry.name


TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def unreadable(text: str) -> list[str]:
    return [
        char
        for char in text
        if unicodedata.category(char) in ("Cc", "Cs")
        or unicodedata.bidirectional(char) in TURNING
        or char in "\u200e\u200f"
    ]


DECEIVING = "".join(
    char for char in map(chr, (*range(1, 0x2F), *range(0x30, 0x2100))) if unreadable(char)
)


@given(path_bytes, entries_)
@example(b"/", [Entry(DECEIVING, False, 0, 0)])
@example(f"/{DECEIVING}/".encode(), [])
def test_no_name_deceives_the_reader(path: bytes, entries: list[Entry]) -> None:
    """``exe.\\u202egpj.txt`` looks like a picture's name where the direction turns."""
    page = as_html(os.fsdecode(path), entries).decode()
    assert set(unreadable(page)) <= {"\n"}
    lines = as_html("/" + "a/" * (path.count(b"/") - 1), plain(entries)).count(b"\n")
    assert page.count("\n") == lines  # none of them is a name's
    listed = json.loads(as_json(os.fsdecode(path), entries))
    shown = [listed["path"], *(entry["name"] for entry in listed["entries"])]
    assert unreadable("".join(shown)) == []


@given(path_bytes, entries_)
def test_json_has_the_same_and_loads_again(path: bytes, entries: list[Entry]) -> None:
    data = as_json(os.fsdecode(path), entries)
    assert data.endswith(b"}\n")
    listed = json.loads(data.decode())
    links = Page(as_html(os.fsdecode(path), entries)).links
    hrefs = [href for href, _ in links[len(links) - len(entries) :]]
    assert [entry["href"] for entry in listed["entries"]] == hrefs
    for got, entry in zip(listed["entries"], entries, strict=True):
        assert got["type"] == ("directory" if entry.is_directory else "file")
        assert got.get("size") == (None if entry.is_directory else entry.size)
        slash = b"/" if entry.is_directory else b""
        target = followed(url_of(path), got["href"])
        assert target == path + os.fsencode(entry.name) + slash


different = st.lists(entry, max_size=8, unique_by=lambda entry: (entry.name, entry.is_directory))


@given(different.flatmap(lambda entries: st.tuples(st.just(entries), st.permutations(entries))))
def test_the_order_does_not_depend_on_the_disk(both: tuple[list[Entry], list[Entry]]) -> None:
    entries, shuffled = (sorted(entries, key=in_order) for entries in both)
    assert entries == shuffled
    kinds = [entry.is_directory for entry in entries]
    assert kinds == sorted(kinds, reverse=True)


# -- what is read on the page --------------------------------------------------------------------

HUMAN = [
    (0, "0 B"),
    (1, "1 B"),
    (999, "999 B"),
    (1000, "1000 B"),
    (1023, "1023 B"),
    (1024, "1.0 KiB"),
    (1536, "1.5 KiB"),
    (10 * 1024, "10.0 KiB"),
    (1023 * 1024, "1023.0 KiB"),
    (1024**2, "1.0 MiB"),
    (64 * 1024**2, "64.0 MiB"),
    (1024**3, "1.0 GiB"),
    (5 * 1024**4 // 2, "2.5 TiB"),
    (1024**5, "1.0 PiB"),
    (1024**6, "1.0 EiB"),
    (2**63 - 1, "8.0 EiB"),
    (1024**7, "1024.0 EiB"),
]


@pytest.mark.parametrize(("size", "expected"), HUMAN)
def test_a_size_is_read_at_a_glance(size: int, expected: str) -> None:
    assert human(size) == expected


FILE = Entry("a", False, 1536, 784111777)
FOLDER = Entry("b", True, 0, -1)

SUMMARIES = [
    ([], "This directory is empty."),
    ([FILE], "1 file, 1.5 KiB"),
    ([FILE] * 2, "2 files, 3.0 KiB"),
    ([FILE] * 1000, "1,000 files, 1.5 MiB"),
    ([FOLDER], "1 directory"),
    ([FOLDER] * 2, "2 directories"),
    ([FOLDER, FILE], "1 directory and 1 file, 1.5 KiB"),
    ([FOLDER] * 3 + [FILE._replace(size=0)] * 2, "3 directories and 2 files, 0 B"),
]


@pytest.mark.parametrize(("entries", "expected"), SUMMARIES)
def test_a_page_says_how_much_there_is(entries: list[Entry], expected: str) -> None:
    texts = Page(as_html("/data/", entries)).texts
    assert [text for text in texts if text.strip()][-1] == expected


def test_a_row_has_the_size_and_the_date() -> None:
    page = as_html("/", [FOLDER, FILE]).decode()
    assert 'title="1,536 bytes">1.5 KiB<' in page
    assert '<time datetime="1994-11-06T08:49:37Z">1994-11-06 08:49</time>' in page
    assert '<time datetime="1969-12-31T23:59:59Z">' in page
    assert page.count("bytes") == 1  # a directory has no size
    assert Page(page.encode()).texts.count("Index of /") == 1


def test_json_is_plain() -> None:
    assert json.loads(as_json("/data/", [FOLDER, FILE])) == {
        "path": "/data/",
        "entries": [
            {
                "name": "b",
                "href": "./b/",
                "type": "directory",
                "modified": "1969-12-31T23:59:59Z",
            },
            {
                "name": "a",
                "href": "./a",
                "type": "file",
                "size": 1536,
                "modified": "1994-11-06T08:49:37Z",
            },
        ],
    }
    assert json.loads(as_json("/", [])) == {"path": "/", "entries": []}


# -- as an answer --------------------------------------------------------------------------------


def answer(responder: Responder, path: bytes, *fields: tuple[bytes, bytes]) -> Response:
    found = responder.respond(Request(b"GET", path, fields=fields), 1)
    return found.work() if isinstance(found, Deferred) else found


ODD = [b"<b>&amp;", b"a b", b"%2e%2e", b"?q", b"#f", b"\xff", b"new\nline", "ü\u202e".encode()]


def test_everything_on_a_page_can_be_had(root: Path) -> None:
    for name in ODD:
        (root / os.fsdecode(name)).write_bytes(name)
        (root / "sub" / os.fsdecode(name)).mkdir()
    site = Site(root, listing=True)
    responder = Responder(site)
    for path in (b"/", b"/sub/"):
        page = answer(responder, path)
        assert page.status == 200
        links = Page(page.data.partition(b"\r\n\r\n")[2]).links
        assert len(links) > len(ODD)
        for href, _ in links:
            target = urlsplit(urljoin("http://x" + path.decode(), href)).path.encode()
            assert answer(responder, target).status == 200, target
    assert answer(responder, b"/%FF").data.endswith(b"\r\n\r\n\xff")
    site.close()


@pytest.mark.parametrize("hidden", [False, True])
def test_a_site_tells_only_of_what_it_serves(root: Path, hidden: bool) -> None:
    site = Site(root, listing=True, hidden=hidden)
    responder = Responder(site)
    page = answer(responder, b"/", (b"accept", b"application/json"))
    listed = json.loads(page.data.partition(b"\r\n\r\n")[2])
    shown = {entry["name"] for entry in listed["entries"]}
    served = {
        name for name in os.listdir(root) if answer(responder, b"/" + name.encode()).status < 400
    }
    assert shown == served - (set() if hidden else HIDDEN)
    site.close()


def test_an_empty_directory_says_so(tmp_path: Path) -> None:
    site = Site(tmp_path, listing=True)
    page = answer(Responder(site), b"/")
    assert b"This directory is empty." in page.data
    assert page.status == 200
    site.close()


def test_what_is_withheld_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "knot.toml").write_text("")
    (tmp_path / "other").write_text("")
    fd = os.open(tmp_path, os.O_RDONLY)
    root = os.fsencode(tmp_path.resolve())
    found = read_directory(fd, Scope(root, withheld={root + b"/knot.toml"}))
    os.close(fd)
    assert [entry.name for entry in found] == ["other"]
