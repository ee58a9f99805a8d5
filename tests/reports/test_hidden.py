"""What is served is decided by where a file really is, not by the name that leads to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ways import Ask, Way

from knot import FieldRules, Site
from knot.files.representation import Representation
from knot.files.site import DirectoryListing, NotServed, Redirect

EVERYTHING = {"listing": True, "clean_urls": True}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Every link is seen by name only; the answer depends on what is behind it."""
    root = tmp_path / "site"
    for folder in (".git", ".well-known", "sub", "..2026_01", "..2026_01/.hidden"):
        (root / folder).mkdir(parents=True)
    for name in (".env", ".git/config", ".git/index.html", "..2026_01/.hidden/file"):
        (root / name).write_text("secret")
    for name in ("page.html", "sub/page.html", ".well-known/page.html", "..2026_01/page.html"):
        (root / name).write_text("page " * 100)
    (root / "..data").symlink_to("..2026_01")
    return root


SECRETS = {
    "env.txt": ".env",
    "env.html": "../site/.env",
    "sub/env": "../.env",
    "git": ".git",
    "config": ".git/config",
    "chain": "env.txt",
    "page.html.gz": ".env",
    "data": "..data/.hidden/file",
}
OPEN = {
    "a-page": "page.html",
    "known": ".well-known/page.html",
    "known-folder": ".well-known",
    "volume": "..data/page.html",
}


def plant(root: Path, links: dict[str, str]) -> None:
    for name, leads_to in links.items():
        (root / name).symlink_to(leads_to)


def test_a_link_shows_nothing_hidden(way: Way, root: Path) -> None:
    plant(root, SECRETS | OPEN)

    def client(ask: Ask) -> None:
        for name in [*SECRETS, "env", "git/", "git/config", "..data/page.html", "..2026_01/"]:
            answer = ask(b"/" + name.encode(), {b"accept-encoding": b"gzip"})
            assert answer.status == 404, name
            assert b"secret" not in answer.content
        assert ask(b"/page", {b"accept-encoding": b"gzip"}).status == 200
        for name in OPEN:
            assert ask(b"/" + name.encode()).status in (200, 301, 308), name
        listed = ask(b"/").content + ask(b"/sub/").content
        for name in SECRETS:
            assert f'"./{name.rpartition("/")[2]}"'.encode() not in listed, name
        for name in OPEN:
            assert f'"./{name}'.encode() in listed, name

    way.serve(root, client, **EVERYTHING)


def test_what_is_withheld_has_no_other_name(way: Way, root: Path, tmp_path: Path) -> None:
    (root / "knot.toml").write_text("secret")
    (root / "knot.toml.gz").write_text("secret")
    (tmp_path / "key-1").write_text("secret")
    (tmp_path / "current").symlink_to("key-1")
    os.link(root / "knot.toml", root / "same")
    os.link(tmp_path / "key-1", root / "key")
    (root / "link").symlink_to("knot.toml")
    (root / "link.html").symlink_to("knot.toml")
    names = ["knot.toml", "knot.toml.gz", "same", "key", "link", "link.html"]

    def client(ask: Ask) -> None:
        for name in names:
            assert ask(b"/" + name.encode()).status == 404, name
        listed = ask(b"/").content
        assert not [name for name in names if f'"./{name}"'.encode() in listed]

    way.serve(root, client, withheld=[root / "knot.toml", tmp_path / "current"], **EVERYTHING)


def test_a_rule_for_a_path_holds_however_the_path_is_written(way: Way, root: Path) -> None:
    (root / "page.html.gz").write_text("compressed")

    def client(ask: Ask) -> None:
        for path in (
            b"/page.html",
            b"//page.html",
            b"/sub/../p%61ge.html",
            b"/sub%2f../page.html?a",
        ):
            for coding in (b"", b"gzip"):
                answer = ask(path, {b"accept-encoding": coding})
                assert answer.fields[b"cache-control"] == b"no-store"
        assert b"cache-control" not in ask(b"/sub/page.html").fields

    way.serve(root, client, rules=FieldRules([("page.*", "no-store")]))


def found_in(root: Path, path: bytes, **options: bool) -> object:
    site = Site(root, **options)  # type: ignore[arg-type]
    try:
        return site.find(path, 1)
    finally:
        site.close()


def test_what_a_link_leads_to_after_the_start_is_withheld_too(tmp_path: Path) -> None:
    """As a certificate that was renewed."""
    root = tmp_path / "site"
    (root / "archive").mkdir(parents=True)
    (root / "archive" / "key-1").write_text("secret")
    (tmp_path / "key").symlink_to("site/archive/key-1")
    site = Site(root, withheld=[tmp_path / "key"])
    assert site.find(b"/archive/key-1", 1) == NotServed(404)
    (root / "archive" / "key-2").write_text("secret")
    (tmp_path / "new").symlink_to("site/archive/key-2")
    (tmp_path / "new").rename(tmp_path / "key")
    for name in (b"/archive/key-1", b"/archive/key-2"):
        assert site.find(name, 2) == NotServed(404)
    site.close()


def test_hidden_files_that_may_be_served_may_have_links(root: Path) -> None:
    plant(root, SECRETS)
    assert isinstance(found_in(root, b"/env.txt", hidden=True), Representation)
    assert found_in(root, b"/git", hidden=True) == Redirect("/git/")
    assert found_in(root, b"/git") == NotServed(404)


def test_a_link_that_leads_out_shows_no_file_with_a_hidden_name(root: Path, tmp_path: Path) -> None:
    """The directories above it have names of their own, which are not the site's."""
    (tmp_path / ".local").mkdir()
    (tmp_path / ".local" / "file").write_text("page")
    (tmp_path / ".netrc").write_text("secret")
    plant(root, {"file": "../.local/file", "netrc": "../.netrc", "local": "../.local"})
    out = {"follow_symlinks": True}
    assert isinstance(found_in(root, b"/file", **out), Representation)
    assert found_in(root, b"/netrc", **out) == NotServed(404)
    assert isinstance(found_in(root, b"/netrc", hidden=True, **out), Representation)
    assert isinstance(found_in(root, b"/local/", listing=True, **out), DirectoryListing)
    assert isinstance(found_in(root, b"/local/file", **out), Representation)
