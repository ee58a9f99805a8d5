"""From the path of a URL to a file, safely."""

from __future__ import annotations

import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from knot.files import open_beneath, representation
from knot.files import site as sites
from knot.files.open_beneath import RootDirectory
from knot.files.representation import (
    IN_MEMORY,
    Representation,
    Slice,
    second_of,
)
from knot.files.site import (
    OPEN_FILES,
    DirectoryListing,
    NotServed,
    Redirect,
    Site,
    file_name,
)


@pytest.fixture(params=["openat2", "without"], autouse=True)
def resolver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Names are resolved by the kernel's `openat2`, or on a kernel that has none."""

    def old_kernel(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    if request.param == "without":
        monkeypatch.setattr(open_beneath, "_openat2", lambda: old_kernel)
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A site with something to find, beside something that must not be found."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "site-of-others").mkdir()
    (tmp_path / "site-of-others" / "page").write_text("not yours")
    root = tmp_path / "site"
    (root / "sub").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "index.html").write_text("home")
    (root / "sub" / "index.html").write_text("sub")
    (root / "a b+ü%.txt").write_text("odd")
    (root / "inside").symlink_to("sub/index.html")
    (root / "outside").symlink_to("../secret")
    (root / "absolute").symlink_to(tmp_path / "secret")
    (root / "absolute-inside").symlink_to(root / "sub" / "index.html")
    (root / "a%20b+%C3%BC%25.txt").write_text("odder")
    (root / "others").symlink_to("../site-of-others")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "fifo")
    return root


def find(root: Path, path: bytes) -> bytes | Redirect | NotServed:
    """The content, if it is a file."""
    site = Site(root)
    try:
        found = site.find(path, 0)
        if not isinstance(found, Representation):
            return found
        assert found.content is not None
        assert len(found.content) == found.size
        return found.content
    finally:
        site.close()


FOUND = [
    (b"/", b"home"),
    (b"/index.html", b"home"),
    (b"/sub/", b"sub"),
    (b"/sub", Redirect("/sub/")),
    (b"//sub", Redirect("/sub/")),
    (b"/sub//index.html", b"sub"),
    (b"/sub/../index.html", b"home"),
    (b"/sub/..", b"home"),
    (b"/./sub/.", b"sub"),
    (b"/%69ndex.html", b"home"),
    (b"/a%20b+%C3%BC%25.txt", b"odd"),
    (b"/a%2520b+%25C3%25BC%2525.txt", b"odder"),
    (b"/inside", b"sub"),
    (b"/absolute-inside", b"sub"),
    (b"/empty", Redirect("/empty/")),
    (b"/empty/", NotServed(404)),
    (b"/nothing", NotServed(404)),
    (b"/index.html/", NotServed(404)),
    (b"/index.html/x", NotServed(404)),
    (b"/" + b"x" * 300, NotServed(404)),
    (b"/" + b"x/" * 3000, NotServed(404)),
    (b"/fifo", NotServed(404)),
    (b"/loop", NotServed(404)),
    # Nothing outside the root:
    (b"/outside", NotServed(404)),
    (b"/absolute", NotServed(404)),
    (b"/others", NotServed(404)),
    (b"/others/page", NotServed(404)),
    (b"/../secret", NotServed(400)),
    (b"/..", NotServed(400)),
    (b"/sub/../../secret", NotServed(400)),
    (b"/%2e%2e/secret", NotServed(400)),
    (b"/..%2fsecret", NotServed(400)),
    (b"/%2E%2E%2Fsite-of-others/page", NotServed(400)),
    # No path at all:
    (b"", NotServed(400)),
    (b"*", NotServed(400)),
    (b"index.html", NotServed(400)),
    (b"/%", NotServed(400)),
    (b"/%zz", NotServed(400)),
    (b"/index.html%00", NotServed(400)),
    # Decoded once and no more, and a backslash is an ordinary character:
    (b"/%252e%252e/secret", NotServed(404)),
    (b"/..\\secret", NotServed(404)),
]


@pytest.mark.parametrize(("path", "expected"), FOUND)
def test_a_path_leads_to(root: Path, path: bytes, expected: object) -> None:
    assert find(root, path) == expected


def test_a_file_without_permission_is_forbidden(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "private").write_text("x")
    (root / "private").chmod(0)
    if os.access(root / "private", os.R_OK):  # root may read it: let the call fail instead

        def denied(*_: object, **__: object) -> int:
            raise PermissionError(13, "Permission denied")

        site = Site(root)
        monkeypatch.setattr(RootDirectory, "open", denied)
        assert site.find(b"/private", 0) == NotServed(403)
        monkeypatch.undo()
        site.close()
    else:
        assert find(root, b"/private") == NotServed(403)


def test_no_descriptor_left_is_no_missing_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> int:
        raise OSError(24, "Too many open files")

    site = Site(root)
    monkeypatch.setattr(RootDirectory, "open", exhausted)
    assert site.find(b"/", 0) == NotServed(503)
    monkeypatch.undo()
    site.close()


def test_a_site_may_be_reached_by_a_symbolic_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert find(tmp_path / "link", b"/") == b"home"


def test_a_site_may_be_the_root_of_everything() -> None:
    found = find(Path("/"), b"/etc/passwd")
    assert isinstance(found, bytearray)


def test_a_site_that_is_no_directory_is_an_error(root: Path) -> None:
    for name in ("index.html", "nothing"):
        with pytest.raises(OSError, match=name):
            Site(root / name)
    with pytest.raises(FileNotFoundError):
        Site("")


# -- options -------------------------------------------------------------------------------------


def found_with(root: Path, path: bytes, **options: Any) -> object:
    """The content, if it is a file that a site with these options has."""
    site = Site(root, **options)
    try:
        found = site.find(path, 0)
        return found.content if isinstance(found, Representation) else found
    finally:
        site.close()


def test_hidden_names_are_served_if_that_is_wanted(root: Path) -> None:
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("hidden")
    (root / "sub" / ".env").write_text("hidden")
    (root / ".well-known").mkdir()
    (root / ".well-known" / "a").write_text("known")
    (root / ".well-known" / ".b").write_text("hidden")
    for path in (b"/.git/config", b"/sub/.env", b"/%2egit/config", b"/.well-known/.b"):
        assert found_with(root, path) == NotServed(404)
        assert found_with(root, path, hidden=True) == b"hidden"
    assert found_with(root, b"/.well-known/a") == b"known"


def test_links_lead_out_if_that_is_wanted(root: Path) -> None:
    assert found_with(root, b"/outside", follow_symlinks=True) == b"secret"
    assert found_with(root, b"/others/page", follow_symlinks=True) == b"not yours"
    assert found_with(root, b"/fifo", follow_symlinks=True) == NotServed(404)
    (root / "device").symlink_to("/dev/zero")
    assert found_with(root, b"/device", follow_symlinks=True) == NotServed(404)


def test_clean_urls_lack_their_suffix(root: Path) -> None:
    (root / "about.html").write_text("about")
    (root / "sub.html").write_text("not this one")
    assert found_with(root, b"/about") == NotServed(404)
    assert found_with(root, b"/about", clean_urls=True) == b"about"
    assert found_with(root, b"/about.html", clean_urls=True) == Redirect("/about", 308)
    assert found_with(root, b"/about/", clean_urls=True) == Redirect("/about", 308)
    assert found_with(root, b"/sub", clean_urls=True) == Redirect("/sub/")
    site = Site(root, clean_urls=True)
    assert content(site, b"/about", 1) == b"about"
    (root / "about").write_text("the file itself")
    assert content(site, b"/about", 2) == b"the file itself"
    site.close()


CLEAN: list[tuple[list[str], bytes, object]] = [
    (["a.html", "a/x"], b"/a", b"a.html"),
    (["a.html", "a/x"], b"/a/", Redirect("/a", 308)),
    (["a.html", "a/x"], b"/a/x/", NotServed(404)),
    # A directory with an index, or a file, has the path; the page keeps its own.
    (["a.html", "a/index.html"], b"/a", Redirect("/a/")),
    (["a.html", "a/index.html"], b"/a.html", b"a.html"),
    (["a.html", "a"], b"/a", b"a"),
    (["a.html", "a"], b"/a/", NotServed(404)),
    (["a.html", "a"], b"/a.html", b"a.html"),
    (["a/index.html"], b"/a/index", Redirect("/a/", 308)),
    (["a/index.html", "a/index"], b"/a/index", b"a/index"),
    (["a/index.html", "a/index"], b"/a/index.html", Redirect("/a/", 308)),
    # Names that no path could be clean for
    ([".html"], b"/", NotServed(404)),
    ([".html"], b"/.html", b".html"),
    (["...html", "a/...html"], b"/...html", b"...html"),
    (["a/.html"], b"/a/", NotServed(404)),
    (["a.html/x"], b"/a", NotServed(404)),
    (["a.html/x"], b"/a.html", Redirect("/a.html/")),
    (["a.html.html"], b"/a.html", b"a.html.html"),
    (["a.html.html", "a.html"], b"/a.html.html", b"a.html.html"),
    (["a.html.html", "a.html"], b"/a.html", Redirect("/a", 308)),
    (["a.html"], b"/a.html/", NotServed(404)),
    (["a.html"], b"/a%2F", Redirect("/a/")),
    (["a/b/index.html"], b"/a/b%2findex.html", Redirect("/a/b/", 308)),
]


@pytest.mark.parametrize(("names", "path", "expected"), CLEAN)
def test_a_clean_path_leads_to(
    tmp_path: Path, names: list[str], path: bytes, expected: object
) -> None:
    grow(tmp_path, names)
    assert found_with(tmp_path, path, clean_urls=True, hidden=True) == expected


def grow(root: Path, names: Iterable[str]) -> None:
    """Files that have their names in them; one that cannot be beside another is left out."""
    for name in names:
        with suppress(OSError):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(name)


def test_a_page_that_is_hidden_has_no_clean_url(root: Path) -> None:
    (root / ".well-known").mkdir()
    (root / ".well-known.html").write_text("hidden")
    for path in (b"/.well-known/", b"/.well-known", b"/.well-known.html"):
        assert found_with(root, path, clean_urls=True) == NotServed(404)


def test_the_address_of_a_page_changes_with_what_is_beside_it(tmp_path: Path) -> None:
    grow(tmp_path, ["a.html"])
    site = Site(tmp_path, clean_urls=True)
    assert content(site, b"/a", 1) == b"a.html"
    grow(tmp_path, ["a/x"])
    assert content(site, b"/a", 2) == b"a.html"
    grow(tmp_path, ["a/index.html"])
    assert site.find(b"/a", 3) == Redirect("/a/")
    assert content(site, b"/a.html", 3) == b"a.html"
    (tmp_path / "a" / "index.html").unlink()
    assert content(site, b"/a", 4) == b"a.html"
    assert site.find(b"/a.html", 4) == Redirect("/a", 308)
    page = site.find_file(b"a.html", 4)
    assert page is not None
    assert page.content == b"a.html"
    assert site.find(b"/a.html", 4) == Redirect("/a", 308)
    site.close()


SEGMENTS = ["a", "b.html", "a.html", "index.html", "index", ".html", "..html", "a.html.html"]
NAMES = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=3).map("/".join)


@given(st.lists(NAMES, max_size=8), st.booleans(), st.booleans())
@settings(max_examples=60)
def test_every_path_ends_soon_and_every_file_has_one(
    names: list[str], listing: bool, hidden: bool
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        grow(root, names)
        files = {os.path.relpath(path, root) for path in root.rglob("*") if path.is_file()}
        stems = {path.removesuffix(".html") for name in names for path in (name, name[:-6])}
        paths = {f"/{name}{end}" for name in {*names, *stems} for end in ("", "/", "%2F", ".html")}
        site = Site(root, clean_urls=True, listing=listing, hidden=hidden)
        at: dict[bytes, set[str]] = {}
        for path in {*paths, "/"}:
            found, last = site.find(path.encode(), 1), path
            for _ in range(2):
                if isinstance(found, Redirect):
                    last = found.path
                    found = site.find(last.encode(), 1)
            assert not isinstance(found, Redirect), (path, found)
            if isinstance(found, Representation):
                at.setdefault(found.name, set()).add(file_name(last.encode()).decode())  # type: ignore[union-attr]
            if path[1:] in files and (hidden or "/." not in path):
                assert isinstance(found, Representation)
                assert found.name == path[1:].encode()
        assert all(len(paths) == 1 for paths in at.values()), at
        site.close()


def test_to_ask_for_a_fifo_does_not_open_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writer would go on, and die as soon as it is closed again."""
    opened: list[int] = []
    original = os.open

    def noted(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        opened.append(flags)
        return original(path, flags, *arguments, **named)

    site = Site(root)
    monkeypatch.setattr(os, "open", noted)
    assert site.find(b"/fifo", 1) == NotServed(404)
    assert all(flags & os.O_PATH for flags in opened)
    monkeypatch.undo()
    site.close()


def test_a_single_page_answers_for_every_path_that_is_no_file(root: Path) -> None:
    for path in (b"/users/1", b"/nothing", b"/a/b/"):
        assert found_with(root, path) == NotServed(404)
        assert found_with(root, path, spa=True) == b"home"
    # A script that is missing is missing: a page in its place is an error that nobody finds.
    assert found_with(root, b"/assets/old.js", spa=True) == NotServed(404)
    assert found_with(root, b"/outside", spa=True) == b"home"


def test_a_directory_is_listed_if_that_is_wanted(root: Path) -> None:
    assert found_with(root, b"/empty/") == NotServed(404)
    folder = found_with(root, b"/empty/", listing=True)
    assert isinstance(folder, DirectoryListing)
    assert folder.path == "/empty/"
    assert found_with(root, b"/sub/", listing=True) == b"sub"


def test_files_of_the_server_itself_are_withheld(root: Path) -> None:
    (root / "knot.toml").write_text("port = 1")
    assert found_with(root, b"/knot.toml") == b"port = 1"
    (root / "link-to-it").symlink_to("knot.toml")
    for path in (b"/knot.toml", b"/link-to-it"):
        assert found_with(root, path, withheld=[root / "knot.toml"]) == NotServed(404)


def test_they_are_withheld_wherever_a_link_leads_later(root: Path, tmp_path: Path) -> None:
    for version in "ab":
        (root / version).mkdir()
        (root / version / "users").write_text(version)
    (tmp_path / "current").symlink_to(root / "a")
    site = Site(root, withheld=[tmp_path / "current" / "users"])
    assert site.find(b"/a/users", 1) == NotServed(404)
    assert content(site, b"/b/users", 1) == b"b"
    (tmp_path / "new").symlink_to(root / "b")
    (tmp_path / "new").rename(tmp_path / "current")
    site.withheld.look(now=True)
    assert site.find(b"/b/users", 1) == NotServed(404)
    site.close()


def test_a_type_may_be_given(root: Path) -> None:
    site = Site(root, types={".foo": "text/x-foo", ".html": "application/xhtml+xml"})
    assert site.media_type(b"a.foo") == b"text/x-foo; charset=utf-8"
    assert site.media_type(b"a.html") == b"application/xhtml+xml"
    site.close()
    for kind in ("text", "text/plain\r\nX: y", "text/ü", ""):
        with pytest.raises(ValueError, match="not a valid media type"):
            Site(root, types={".foo": kind})


def test_a_time_that_no_date_can_have_is_the_nearest_that_one_can(tmp_path: Path) -> None:
    for modified, second in ((2**40, 253402300799), (-(2**40), 0), (2**60, 253402300799)):
        assert second_of(modified * 10**9) == second


def test_a_directory_has_one_path_that_ends_in_a_slash(root: Path) -> None:
    """What is relative to its page would lead elsewhere."""
    assert found_with(root, b"/sub%2F") == Redirect("/sub/")
    assert found_with(root, b"/sub%2findex.html") == b"sub"


# -- the cache -----------------------------------------------------------------------------------


@pytest.fixture
def site(root: Path) -> Iterator[Site]:
    site = Site(root, cache_size=IN_MEMORY * 3)
    yield site
    site.close()


@pytest.fixture
def old_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is written is an hour old, so that an equal stamp proves an equal file."""
    monkeypatch.setattr(sites, "time", lambda: time() + 3600)


def content(site: Site, path: bytes, second: int) -> bytes | None:
    found = site.find(path, second)
    return found.content if isinstance(found, Representation) else None


def test_a_file_is_opened_once_and_looked_at_once_a_second(
    site: Site, old_files: None, monkeypatch: pytest.MonkeyPatch, resolver: str
) -> None:
    calls: list[str] = []

    def counted(name: str) -> None:
        original = getattr(os, name)

        def call(*arguments: Any, **named: Any) -> Any:
            calls.append(name)
            return original(*arguments, **named)

        monkeypatch.setattr(os, name, call)

    for name in ("open", "stat", "fstat", "preadv", "readlink"):
        counted(name)
    first = site.find(b"/sub/index.html", 1)
    # openat2 is asked once, and not there
    without = ["stat", "open", "readlink", "readlink", "fstat", "open"]
    resolving = {"openat2": ["stat", "fstat"], "without": [*without, "fstat", *["readlink"] * 2]}[
        resolver
    ]
    assert calls == [*resolving, "preadv", "fstat"]
    calls.clear()
    for spelling in (b"/sub/index.html", b"/sub/%69ndex.html", b"//sub/./index.html"):
        assert site.find(spelling, 1) is first
    assert calls == []
    for _ in range(3):
        assert site.find(b"/sub/index.html", 2) is first
    assert calls == ["stat"]


def test_a_file_that_changes_is_seen_in_the_next_second(root: Path, site: Site) -> None:
    assert content(site, b"/", 1) == b"home"
    (root / "index.html").write_text("changed")
    assert content(site, b"/", 1) == b"home"
    assert content(site, b"/", 2) == b"changed"
    (root / "new").write_text("replaced")
    (root / "new").rename(root / "index.html")
    assert content(site, b"/", 3) == b"replaced"
    (root / "index.html").unlink()
    assert site.find(b"/", 4) == NotServed(404)
    (root / "index.html").symlink_to("../secret")
    assert site.find(b"/", 5) == NotServed(404)


@pytest.mark.parametrize("changes", [1, 2, 100])
def test_a_file_that_changes_while_it_is_read_is_read_again(
    root: Path, site: Site, old_files: None, monkeypatch: pytest.MonkeyPatch, changes: int
) -> None:
    """One that changes all the time is taken as it is, and looked at again a second later."""
    read, reads = os.preadv, []

    def torn(fd: int, buffers: list[bytearray], offset: int, flags: int) -> int:
        count = read(fd, buffers, offset, flags)
        reads.append(bytes(buffers[0]))
        if len(reads) <= changes:
            (root / "index.html").write_text(f"changed {len(reads):03}")
        return count

    monkeypatch.setattr(os, "preadv", torn)
    assert content(site, b"/", 1) == reads[-1]
    assert len(reads) == min(changes + 1, 3)
    assert content(site, b"/", 2) == (root / "index.html").read_bytes() or changes == 100
    changes = 0
    assert content(site, b"/", 3) == (root / "index.html").read_bytes()
    monkeypatch.undo()


def test_the_cache_keeps_to_its_budget_and_what_was_used_last(root: Path, site: Site) -> None:
    for number in range(6):
        (root / f"{number}").write_bytes(b"x" * (IN_MEMORY - 2048))
    first = site.find(b"/0", 1)
    site.find(b"/1", 2)
    assert site.find(b"/0", 3) is first
    site.find(b"/2", 4)
    site.find(b"/3", 5)
    assert site.find(b"/0", 6) is first
    assert set(site._cache) == {b"/0", b"/2", b"/3"}
    assert site._free >= 0


def test_a_file_larger_than_the_whole_cache_is_served_all_the_same(root: Path) -> None:
    site = Site(root, cache_size=0)
    assert content(site, b"/", 1) == b"home"
    assert site._cache == {}
    assert site._free == 0
    site.close()


def test_a_large_file_is_kept_open_and_not_in_memory(
    root: Path, site: Site, old_files: None
) -> None:
    (root / "large").write_bytes(b"x" * (IN_MEMORY + 1))
    found = site.find(b"/large", 1)
    assert isinstance(found, Representation)
    assert found.content is None
    assert site.find(b"/large", 2) is found


def test_so_many_files_are_kept_open_and_no_more(root: Path, site: Site) -> None:
    (root / "large").write_bytes(b"x" * (IN_MEMORY + 1))
    for number in range(OPEN_FILES + 10):
        (root / f"{number}.bin").hardlink_to(root / "large")
        site.find(b"/%d.bin" % number, 1)
    assert len(site._open_files) == OPEN_FILES
    assert b"/0.bin" not in site._cache
    assert site._free == IN_MEMORY * 3 - sum(found.cost for found in site._cache.values())


def test_what_is_not_in_memory_yet_is_taken_there_later(
    root: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(representation, "read_now", lambda *_: b"")
    found = site.find(b"/", 1)
    assert isinstance(found, Representation)
    assert found.is_cold
    assert isinstance(found.slice(0, 4), Slice)
    assert found.etag == b""
    read = site.read(found)
    assert isinstance(read, Representation)
    assert read.content == b"home"
    site.replace(found, found, read)
    assert site.find(b"/", 1) is read
    assert site._free == IN_MEMORY * 3 - read.cost
    assert len(site._open_files) == 0


def test_what_is_in_memory_meanwhile_is_taken_from_there(
    root: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(representation, "read_now", lambda *_: b"")
    assert isinstance(found := site.find(b"/", 1), Representation)
    assert found.is_cold
    monkeypatch.undo()
    assert content(site, b"/", 1) == b"home"


def test_a_disk_that_fails_later_is_told_as_one_that_fails_at_once(
    root: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by `make simulate`: the error came out of `find`, and ended the connection."""
    errors = [11, 5, 5]

    def failing(*_: object) -> int:
        number = errors.pop(0)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "preadv", failing)
    assert isinstance(site.find(b"/", 1), Representation)
    assert site.find(b"/", 1) == NotServed(503)
    monkeypatch.undo()
    assert content(site, b"/", 1) == b"home"


def test_a_file_system_that_can_only_be_waited_for_is_read_all_the_same(
    root: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    preadv = os.preadv

    def without_nowait(fd: int, buffers: list[bytearray], offset: int, flags: int = 0) -> int:
        if flags:
            raise OSError(95, "Operation not supported")
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", without_nowait)
    assert content(site, b"/", 1) == b"home"


# -- the directory itself ------------------------------------------------------------------------


def test_a_directory_that_is_replaced_is_followed(root: Path, tmp_path: Path) -> None:
    site = Site(root)
    changes: list[str] = []
    site.changed.append(lambda: changes.append(site._lost))
    assert content(site, b"/", 1) == b"home"
    root.rename(tmp_path / "old")
    assert content(site, b"/", 1) == b"home", "it is not looked at each time"
    site.look()
    assert not site.is_there
    assert site.find(b"/", 1) == NotServed(503)
    assert site.find_file(b"index.html", 1) is None
    root.mkdir()
    (root / "index.html").write_text("new home")
    assert content(site, b"/", 1) == b"new home"
    assert site.is_there
    assert site.find(b"/sub/", 1) == NotServed(404)
    shutil.rmtree(root)
    assert site.find(b"/sub/", 1) == NotServed(503)
    (tmp_path / "old").rename(root)
    assert content(site, b"/sub/", 1) == b"sub"
    site.look()
    assert changes == ["No such file or directory", ""] * 2
    site.close()


def test_a_directory_that_is_moved_is_the_same_where_a_link_leads_to_it(
    root: Path, tmp_path: Path
) -> None:
    """What lies in it is compared with where it is now, not with where it was."""
    (tmp_path / "current").symlink_to("site")
    site = Site(tmp_path / "current")
    root.rename(tmp_path / "moved")
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("moved")
    assert content(site, b"/inside", 1) == b"sub"
    site.close()


def test_no_descriptor_left_says_nothing_of_the_directory(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    site = Site(root)
    root.rename(tmp_path / "old")
    shutil.copytree(tmp_path / "old", root, symlinks=True, ignore=lambda *_: {"fifo"})
    monkeypatch.setattr(RootDirectory, "__init__", exhausted)
    site.look()
    assert site.is_there
    assert content(site, b"/", 1) == b"home"
    monkeypatch.undo()
    site.close()


def test_a_directory_that_may_not_be_searched_is_an_error(root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    root.chmod(0o744)
    root.parent.chmod(0o711)
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            Site(root)
    finally:
        os.seteuid(0)


# -- properties ----------------------------------------------------------------------------------

segment = st.sampled_from([b"", b".", b"..", b"a", b"%2e", b"%2E%2e", b"%2f", b"..%2F", b"b%00"])


@given(st.lists(segment, max_size=8), st.binary(max_size=4))
@example([b"..", b"a"], b"")
def test_no_name_leads_above_the_directory(segments: list[bytes], tail: bytes) -> None:
    name = file_name(b"/" + b"/".join(segments) + tail)
    if name is not None:
        assert not name.startswith(b"/")
        assert b"\0" not in name
        assert b".." not in name.split(b"/")
        assert posixpath.normpath(b"/root/" + name).startswith(b"/root")


@given(st.binary(min_size=1, max_size=20).filter(lambda name: not set(name) & set(b"\0/")))
def test_every_file_name_has_a_path(name: bytes) -> None:
    if name not in (b".", b".."):
        assert file_name(b"/" + quote_from_bytes(name).encode()) == name


TYPES = [
    (b"index.html", b"text/html; charset=utf-8"),
    (b"INDEX.HTML", b"text/html; charset=utf-8"),
    (b"a.js", b"text/javascript; charset=utf-8"),
    (b"a.json", b"application/json; charset=utf-8"),
    (b"a.svg", b"image/svg+xml; charset=utf-8"),
    (b"a.woff2", b"font/woff2"),
    (b"a.wasm", b"application/wasm"),
    (b"a.tar.gz", b"application/gzip"),
    (b"a.tgz", b"application/gzip"),
    (b"dir.html/file", b"application/octet-stream"),
    (b"noext", b"application/octet-stream"),
    (b"\xff.png", b"image/png"),
]


@pytest.mark.parametrize(("name", "expected"), TYPES)
def test_the_type_of(site: Site, name: bytes, expected: bytes) -> None:
    assert site.media_type(name) == expected
