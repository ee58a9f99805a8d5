"""Media types by the names of files."""

from __future__ import annotations

import mimetypes
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from knot.build import media_types
from knot.files.media_types import BY_NAME, BY_SUFFIX, CODINGS, TYPES
from knot.files.representation import Representation
from knot.files.site import Site

CHANGED = {".js", ".markdown", ".md", ".mjs", ".rst", ".rtf", ".webp"}
"""What Python 3.12 and 3.13 have otherwise than 3.11."""


def test_a_site_is_the_same_with_every_python() -> None:
    usual = {f".{name}" for listed in BY_SUFFIX.values() for name in listed.split()}
    assert usual >= CHANGED


def test_a_site_is_the_same_on_every_machine() -> None:
    """Whether or not the machine's own table was read before."""
    program = (
        "import mimetypes; {}import knot.files.media_types as m; print(sorted(m.TYPES.items()))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program.format(first)], check=True, stdout=PIPE
        ).stdout
        for first in ("", "mimetypes.init(); mimetypes.add_type('a/b', '.html'); ")
    }
    assert said == {f"{sorted(TYPES.items())}\n".encode()}


def test_no_type_is_written_twice() -> None:
    for table in (BY_SUFFIX, BY_NAME):
        names = [name for listed in table.values() for name in listed.split()]
        assert sorted(names) == sorted(set(names))
        assert [name for name in names if name != name.lower()] == []
    if sys.version_info < (3, 12):  # the oldest, from which the others differ
        known = mimetypes.MimeTypes(filenames=()).types_map[True]
        usual = {f".{name}": kind for kind, listed in BY_SUFFIX.items() for name in listed.split()}
        assert usual.items() & known.items() == set()


NAMES = {
    # As the registry of IANA has them, or if it has none as browsers know them
    "a.xhtml": "application/xhtml+xml",
    "a.ogg": "audio/ogg",
    "a.oga": "audio/ogg",
    "a.opus": "audio/ogg",
    "a.ogv": "video/ogg",
    "a.m4a": "audio/mp4",
    "a.m4v": "video/x-m4v",
    "a.flac": "audio/flac",
    "a.mkv": "video/matroska",
    "a.ts": "video/mp2t",
    "a.mpd": "application/dash+xml",
    "a.m3u8": "application/vnd.apple.mpegurl",
    "a.m4s": "video/iso.segment",
    "a.3gp": "video/3gpp",
    "a.apng": "image/apng",
    "a.avif": "image/avif",
    "a.heic": "image/heic",
    "a.jxl": "image/jxl",
    "a.webp": "image/webp",
    "a.ico": "image/vnd.microsoft.icon",
    "a.svgz": "image/svg+xml; charset=utf-8",
    "a.rss": "application/rss+xml",
    "a.atom": "application/atom+xml",
    "a.ics": "text/calendar; charset=utf-8",
    "a.vcf": "text/vcard; charset=utf-8",
    "a.yaml": "application/yaml",
    "a.yml": "application/yaml",
    "a.toml": "application/toml",
    "a.geojson": "application/geo+json",
    "a.jsonl": "application/x-ndjson",
    "a.webmanifest": "application/manifest+json; charset=utf-8",
    "a.gltf": "model/gltf+json",
    "a.glb": "model/gltf-binary",
    "a.docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "a.xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "a.pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "a.odt": "application/vnd.oasis.opendocument.text",
    "a.ods": "application/vnd.oasis.opendocument.spreadsheet",
    "a.doc": "application/msword",
    "a.epub": "application/epub+zip",
    "a.7z": "application/x-7z-compressed",
    "a.bz2": "application/x-bzip2",
    "a.rar": "application/vnd.rar",
    "a.zst": "application/zstd",
    "a.tar.gz": "application/gzip",
    "a.apk": "application/vnd.android.package-archive",
    "a.parquet": "application/vnd.apache.parquet",
    "a.wasm": "application/wasm",
    "a.js": "text/javascript; charset=utf-8",
    "a.mjs": "text/javascript; charset=utf-8",
    "a.MJS": "text/javascript; charset=utf-8",
    "a.md": "text/markdown; charset=utf-8",
    "a.eot": "application/vnd.ms-fontobject",
    "a.ttc": "font/collection",
    "robots.txt": "text/plain; charset=utf-8",
    "LICENSE": "text/plain; charset=utf-8",
    "license": "text/plain; charset=utf-8",
    "dir/README": "text/plain; charset=utf-8",
    "CNAME": "text/plain; charset=utf-8",
    ".well-known/apple-app-site-association": "application/json; charset=utf-8",
    ".well-known/openid-configuration": "application/json; charset=utf-8",
    "LICENSE/file": "application/octet-stream",
    "MYLICENSE": "application/octet-stream",
    "LICENSE.unknown": "application/octet-stream",
    "svgz": "application/octet-stream",
    "a.iso": "application/octet-stream",
    "a.": "application/octet-stream",
}


@pytest.mark.parametrize("name", NAMES)
def test_the_type_of(tmp_path: Path, name: str) -> None:
    site = Site(tmp_path)
    assert site.media_type(name.encode()).decode() == NAMES[name]
    site.close()


def test_what_is_given_goes_before_what_is_usual(tmp_path: Path) -> None:
    """A name without a dot in front may be a suffix, or that of a whole file."""
    given = [("LICENSE", "text/x-license"), (".foo", "a/foo"), ("bar", "a/bar"), ("x.txt", "a/x")]
    site = Site(tmp_path, types=media_types(given))
    for name, kind in {
        b"LICENSE": b"text/x-license; charset=utf-8",
        b"dir/license": b"text/x-license; charset=utf-8",
        b"a.license": b"text/x-license; charset=utf-8",
        b"a.foo": b"a/foo",
        b"foo": b"application/octet-stream",
        b"a.bar": b"a/bar",
        b"bar": b"a/bar",
        b"x.txt": b"a/x",
        b"y.txt": b"text/plain; charset=utf-8",
        b"README": b"text/plain; charset=utf-8",
    }.items():
        assert site.media_type(name) == kind
    site.close()


def test_a_coding_of_a_name_is_that_of_its_usual_type(tmp_path: Path) -> None:
    assert {suffix.decode() for suffix in CODINGS} <= set(TYPES)
    (tmp_path / "a.svgz").write_bytes(b"compressed")
    for types, coding in (({}, b"gzip"), ({".svgz": "application/gzip"}, b"")):
        site = Site(tmp_path, types=types)
        found = site.find(b"/a.svgz", 1)
        assert isinstance(found, Representation)
        assert found.coding == coding
        assert not found.varies
        assert site.compressed(found, b"br") is None
        site.close()
