"""From the path of a URL to a file, safely."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from knot.site import File, Missing, Moved, Site, file_name, media_type


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
    (root / "others").symlink_to("../site-of-others")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "fifo")
    return root


def find(root: Path, path: bytes) -> bytes | Moved | Missing:
    """The content, if it is a file."""
    site = Site(root)
    try:
        found = site.find(path)
        return os.pread(found.fd, found.size, 0) if isinstance(found, File) else found
    finally:
        site.close()


FOUND = [
    (b"/", b"home"),
    (b"/index.html", b"home"),
    (b"/sub/", b"sub"),
    (b"/sub", Moved("/sub/")),
    (b"//sub", Moved("/sub/")),
    (b"/sub//index.html", b"sub"),
    (b"/sub/../index.html", b"home"),
    (b"/sub/..", b"home"),
    (b"/./sub/.", b"sub"),
    (b"/%69ndex.html", b"home"),
    (b"/a%20b+%C3%BC%25.txt", b"odd"),
    (b"/inside", b"sub"),
    (b"/empty", Moved("/empty/")),
    (b"/empty/", Missing(404)),
    (b"/nothing", Missing(404)),
    (b"/index.html/", Missing(404)),
    (b"/index.html/x", Missing(404)),
    (b"/" + b"x" * 300, Missing(404)),
    (b"/" + b"x/" * 3000, Missing(404)),
    (b"/fifo", Missing(404)),
    (b"/loop", Missing(404)),
    # Nothing outside the root:
    (b"/outside", Missing(404)),
    (b"/absolute", Missing(404)),
    (b"/others", Missing(404)),
    (b"/others/page", Missing(404)),
    (b"/../secret", Missing(400)),
    (b"/..", Missing(400)),
    (b"/sub/../../secret", Missing(400)),
    (b"/%2e%2e/secret", Missing(400)),
    (b"/..%2fsecret", Missing(400)),
    (b"/%2E%2E%2Fsite-of-others/page", Missing(400)),
    # No path at all:
    (b"", Missing(400)),
    (b"*", Missing(400)),
    (b"index.html", Missing(400)),
    (b"/%", Missing(400)),
    (b"/%zz", Missing(400)),
    (b"/index.html%00", Missing(400)),
    # Decoded once and no more, and a backslash is an ordinary character:
    (b"/%252e%252e/secret", Missing(404)),
    (b"/..\\secret", Missing(404)),
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
        monkeypatch.setattr(os, "open", denied)
        assert site.find(b"/private") == Missing(403)
        monkeypatch.undo()
        site.close()
    else:
        assert find(root, b"/private") == Missing(403)


def test_no_descriptor_left_is_no_missing_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> int:
        raise OSError(24, "Too many open files")

    site = Site(root)
    monkeypatch.setattr(os, "open", exhausted)
    assert site.find(b"/") == Missing(503)
    monkeypatch.undo()
    site.close()


def test_a_site_may_be_reached_by_a_symbolic_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert find(tmp_path / "link", b"/") == b"home"


def test_a_site_may_be_the_root_of_everything() -> None:
    found = find(Path("/"), b"/etc/passwd")
    assert isinstance(found, bytes)


def test_a_site_that_is_no_directory_is_an_error(root: Path) -> None:
    for name in ("index.html", "nothing"):
        with pytest.raises(OSError, match=name):
            Site(root / name)


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
def test_the_type_of(name: bytes, expected: bytes) -> None:
    assert media_type(name) == expected
