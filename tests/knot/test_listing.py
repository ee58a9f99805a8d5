"""What lies in a directory, as a page and as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes, urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from knot.listing import Entry, as_html, as_json, human, read_directory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "site"
    (root / "Sub").mkdir(parents=True)
    (root / "another").mkdir()
    for name in ("file10", "file2", "File1", ".hidden", "b"):
        (root / name).write_text(name)
    (root / "inside").symlink_to("b")
    (root / "out").symlink_to("../secret")
    (root / "broken").symlink_to("nothing")
    os.mkfifo(root / "fifo")
    return root


@pytest.fixture
def directory(root: Path) -> Iterator[int]:
    fd = os.open(root, os.O_RDONLY)
    yield fd
    os.close(fd)


def names(fd: int, root: Path, hidden: bool = False, follow: bool = False) -> list[str]:
    found = read_directory(fd, hidden, follow, os.fsencode(root.resolve()))
    return [entry.name for entry in found]


def test_directories_come_first_and_numbers_count(root: Path, directory: int) -> None:
    expected = ["another", "Sub", "b", "File1", "file2", "file10", "inside"]
    assert names(directory, root) == expected
    assert names(directory, root) == expected  # it may be read again


def test_what_may_not_be_served_is_not_listed(root: Path, directory: int) -> None:
    assert ".hidden" in names(directory, root, hidden=True)
    assert "out" in names(directory, root, follow=True)
    for name in ("broken", "fifo"):
        assert name not in names(directory, root, hidden=True, follow=True)


def test_an_entry_says_what_it_is(root: Path, directory: int) -> None:
    os.utime(root / "b", (5, 5))
    found = {e.name: e for e in read_directory(directory, False, False, os.fsencode(root))}
    assert found["b"] == Entry("b", False, 1, 5)
    assert found["Sub"].is_directory
    assert found["Sub"].size == 0


def test_what_vanishes_meanwhile_is_left_out(
    root: Path, directory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    class Vanishing:
        def __init__(self, fd: int) -> None:
            self.found = scandir(fd)

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            entries = list(self.found)
            (root / "b").unlink()
            return iter(entries)

        def __exit__(self, *_: object) -> None:
            self.found.close()

    monkeypatch.setattr(os, "scandir", Vanishing)
    assert "b" not in names(directory, root)


# -- what is shown -------------------------------------------------------------------------------


class Page(HTMLParser):
    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attributes if name == "href"]

    def handle_data(self, data: str) -> None:
        self.text += data


file_name = (
    st.binary(min_size=1, max_size=20)
    .map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda name: name not in (b".", b".."))
)
TAGS = set(Page(as_html("/a/", [Entry("a", False, 1, 0), Entry("b", True, 0, 0)])).tags)


@given(st.lists(file_name, max_size=5), file_name, st.booleans())
@example([b"javascript:alert(1)", b"<script>", b'"x"', b"a&b;%41?#"], b"\xff<b>", True)
@example(["\u202etxt.exe".encode(), b"\x1b[31m", b"\xff\xfe"], b"a", False)
def test_whatever_its_name_is_a_link_leads_to_the_file(
    listed: list[bytes], folder: bytes, is_directory: bool
) -> None:
    path = f"/{os.fsdecode(folder)}/"
    entries = [Entry(os.fsdecode(name), is_directory, 1, 0) for name in listed]
    base = "http://x/" + quote(folder) + "/"
    slash = b"/" if is_directory else b""
    expected = [b"/" + folder + b"/" + name + slash for name in listed]

    def leads_to(link: str) -> bytes:
        parts = urlsplit(urljoin(base, link))
        assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("http", "x", "", "")
        return unquote_to_bytes(parts.path)

    page = Page(as_html(path, entries))
    root, here, up, *links = page.links
    assert [leads_to(link) for link in (root, here, up)] == [b"/", b"/" + folder + b"/", b"/"]
    assert [leads_to(link) for link in links] == expected
    assert page.tags <= TAGS
    assert not set(page.text) & set("\x00\x07\x1b\x7f\u202e\u2066")

    found = json.loads(as_json(path, entries))
    assert [leads_to(entry["href"]) for entry in found["entries"]] == expected


def test_each_directory_of_the_path_is_a_link() -> None:
    links = Page(as_html("/a/b/c/", [])).links
    found = [urljoin("http://x/a/b/c/", link) for link in links]
    assert found == [f"http://x/{path}" for path in ("", "a/", "a/b/", "a/b/c/", "a/b/")]
    assert Page(as_html("/", [])).links == ["./"]


def test_the_foot_counts() -> None:
    files = [Entry("a", False, 1024, 0), Entry("b", False, 512, 0), Entry("c", True, 0, 0)]
    assert "1 directory and 2 files, 1.5 KiB" in Page(as_html("/", files)).text
    assert "1 file, 1.0 KiB" in Page(as_html("/", files[:1])).text
    assert "This directory is empty." in Page(as_html("/", [])).text


def test_json_has_what_a_program_needs() -> None:
    entries = [Entry("d", True, 0, 0), Entry("ü", False, 5, 1714978862)]
    assert json.loads(as_json("/x/", entries)) == {
        "path": "/x/",
        "entries": [
            {"name": "d", "href": "./d/", "type": "directory", "modified": "1970-01-01T00:00:00Z"},
            {
                "name": "ü",
                "href": "./%C3%BC",
                "type": "file",
                "size": 5,
                "modified": "2024-05-06T07:01:02Z",
            },
        ],
    }


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1024.0 KiB"),
        (1024**2, "1.0 MiB"),
        (5 * 1024**3, "5.0 GiB"),
        (2**80, "1048576.0 EiB"),
    ],
)
def test_a_size_is_readable(size: int, expected: str) -> None:
    assert human(size) == expected
