"""What a sandbox leaves readable, so that paths can be followed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from knot.files.paths import absolute, grants


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for directory in ("releases/1", "shared", "app", "live"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "app" / "current").symlink_to("../releases/1")
    (tmp_path / "app" / "again").symlink_to("current")
    (tmp_path / "releases" / "1" / "users").symlink_to(tmp_path / "shared" / "users")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


GRANTS = [
    # The directory, with what it may be replaced by
    ("releases/1", {"releases", "releases/1"}),
    ("releases/1/", {"releases", "releases/1"}),
    ("app/../releases/./1", {"releases", "releases/1"}),
    # A link, which may lead to another release, or be replaced by a directory
    ("app/current", {"app", "releases", "releases/1"}),
    ("app/again", {"app", "releases", "releases/1"}),
    # A link on the way
    ("app/current/public", {"releases", "releases/1", "releases/1/public"}),
    ("app/current/..", {"", "releases"}),
    ("app/current/users", {"releases", "releases/1", "shared", "shared/users"}),
    ("nothing/at/all", {"nothing/at", "nothing/at/all"}),
]


@pytest.mark.parametrize(("path", "expected"), GRANTS)
def test_to_follow_a_path_a_sandbox_leaves_readable(
    place: Path, path: str, expected: set[str]
) -> None:
    # Joined as text, because `Path` would drop dots and slashes.
    assert grants(f"{place}/{path}") == {os.fsencode(place / name) for name in expected}


def test_the_root_of_the_file_system_is_never_left_readable(place: Path) -> None:
    assert grants("/nothing") == {b"/nothing"}
    (place / "top").symlink_to("/nothing/below")
    assert b"/" not in grants(place / "top")
    assert b"/" not in grants(place / "loop")
    assert grants("/") == {b"/"}, "unless it is what is served"


def test_a_relative_path_is_one_of_the_directory_at_the_start(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    assert absolute("a/../b") == os.fsencode(place) + b"/a/../b"
    assert absolute(b"/a") == b"/a"
    with pytest.raises(FileNotFoundError):
        absolute("")
