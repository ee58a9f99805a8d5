"""With `--clean-urls` a page has one address, and every other one leads there."""

from __future__ import annotations

from pathlib import Path

from ways import Ask, Way


def test_a_page_wins_over_a_directory_without_an_index(way: Way, tmp_path: Path) -> None:
    (tmp_path / "blog").mkdir()
    (tmp_path / "blog" / "post.html").write_text("post")
    (tmp_path / "blog.html").write_text("blog")

    def client(ask: Ask) -> None:
        assert ask(b"/blog").content == b"blog"
        assert ask(b"/blog/post").content == b"post"
        assert ask(b"/blog/").fields[b"location"] == b"/blog"

    way.serve(tmp_path, client, clean_urls=True, listing=True)


def test_every_other_address_of_a_page_leads_to_it(way: Way, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("about", "a b%", "index", "404", "sub/index"):
        (tmp_path / f"{name}.html").write_text(name)

    def client(ask: Ask) -> None:
        for path, location in (
            (b"/about.html", b"/about"),
            (b"/about/?a=/b&c", b"/about?a=/b&c"),
            (b"/a%20b%25.html?x", b"/a%20b%25?x"),
            (b"/index.html", b"/"),
            (b"/index", b"/"),
            (b"/sub/index.html", b"/sub/"),
            (b"/sub/index/", b"/sub/"),
            (b"/404.html", b"/404"),
        ):
            for method in (b"GET", b"HEAD"):
                moved = ask(path, method=method)
                assert (moved.status, moved.fields[b"location"]) == (308, location)
            assert ask(location).status == 200
        missing = ask(b"/nothing")
        assert (missing.status, missing.content) == (404, b"404")

    way.serve(tmp_path, client, clean_urls=True)
