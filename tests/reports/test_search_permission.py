"""Directories of mode 711, which may be searched and not read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from serving import fetch, serving


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_search_permission_is_enough_where_nothing_is_listed() -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "site"
        (root / "sub" / "without").mkdir(parents=True)
        (root / "closed").mkdir()
        for name in ("index.html", "file.txt", "sub/index.html", "closed/index.html"):
            (root / name).write_text(name)
        for directory in (root.parent, root, root / "sub", root / "sub" / "without"):
            directory.chmod(0o711)
        (root / "closed").chmod(0o700)
        with serving(str(root), "--user", "nobody", "--listing") as (_, url):
            for path, name in (
                ("/", "index.html"),
                ("/file.txt", "file.txt"),
                ("/sub/", "sub/index.html"),
                ("/sub", "sub/index.html"),
            ):
                assert fetch(url + path) == (200, name)
            for path in ("/sub/without/", "/closed/", "/closed/index.html"):
                assert fetch(url + path)[0] == 403, path
