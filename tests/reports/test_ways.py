"""That the corpus asks in every way what it means to ask."""

from __future__ import annotations

from pathlib import Path

from ways import Ask, Way


def test_a_file_is_had_in_every_way(way: Way, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc")

    def client(ask: Ask) -> None:
        whole = ask(b"/a.txt")
        assert (whole.status, whole.content) == (200, b"abc")
        part = ask(b"/a.txt", {b"range": b"bytes=1-1"})
        assert (part.status, part.content) == (206, b"b")
        assert ask(b"/a.txt", method=b"HEAD").fields[b"content-length"] == b"3"
        assert ask(b"/b").status == 404

    way.serve(tmp_path, client)
