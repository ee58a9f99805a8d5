"""Which files are worth compressing, and how: copies made beforehand, and those made here."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Final

SUFFIXES: Final = {b"br": b".br", b"zstd": b".zst", b"gzip": b".gz"}
"""The name of a file that was compressed beforehand, by its coding, the smallest first."""

MIN_SIZE: Final = 256
"""Bytes below which nothing is compressed: such an answer is one packet either way."""

TEXT: Final = re.compile(
    rb"text/|(?:application|model)/(?:.*[+/.-])?"
    rb"(?:json5?|ndjson|xml|javascript|wasm|manifest|toml|yaml|sql|x-sh|rtf)\b"
    rb"|application/(?:node|postscript|n-quads|n-triples|trig|vnd\.apple\.mpegurl"
    rb"|vnd\.ms-fontobject|x-(?:csh|latex|tcl|tex|texinfo|troff)|texinfo)\b"
    rb"|model/(?:gltf-binary|mtl|obj|step|stl)\b"
    rb"|image/(?:svg|bmp|x-icon|vnd\.microsoft)|font/(?:ttf|otf|collection)",
    re.IGNORECASE,
)
"""Media types whose files compress well."""

COMPRESSED: Final = re.compile(
    rb"(?:image|audio|video)/|font/woff|model/3mf|.*\+zip"
    rb"|application/(?:zip|gzip|zstd|pdf|java-archive|.*compressed|x-(?:xz|bzip2?|7z|rar|rpm)"
    rb"|x-(?:chrome-extension|mobipocket-ebook|xpinstall)"
    rb"|vnd\.(?:amazon|android\.package|apache\.parquet|apple\.pkpass|comicbook|debian|pmtiles|rar"
    rb"|google-earth\.kmz|ms-.*\.macroenabled|oasis\.opendocument|openxmlformats-officedocument))",
    re.IGNORECASE,
)
"""Media types, other than `TEXT`, that are never kept compressed."""


@lru_cache(512)
def may_have_copies(kind: bytes) -> bool:
    """Whether to look for compressed copies of a file of the media type `kind`."""
    return TEXT.match(kind) is not None or COMPRESSED.match(kind) is None


def compressible(kind: bytes, size: int) -> bool:
    """Whether a file of that media type and of so many bytes is worth compressing."""
    return size >= MIN_SIZE and TEXT.match(kind) is not None


def compress(content: bytes | bytearray, coding: bytes) -> bytes | None:
    """`content` in that coding; None if the library is missing, or the result is not smaller."""
    compressor = _compressor(coding)
    if compressor is None:
        return None
    compressed = compressor(content)
    return compressed if len(compressed) < len(content) else None


def load_compressors() -> None:
    """Import the libraries now: a user that this process becomes may not be able to read them."""
    for coding in SUFFIXES:
        _compressor(coding)


@cache
def _compressor(coding: bytes) -> Callable[[bytes | bytearray], bytes] | None:
    """At levels that take a few ms for 100 KiB: it is done once for each state of a file."""
    if coding == b"gzip":
        return lambda content: zlib.compress(content, 6, wbits=31)
    try:
        if coding == b"br":
            import brotli

            return lambda content: bytes(brotli.compress(content, quality=5))
        import zstandard

        return lambda content: zstandard.ZstdCompressor(level=9).compress(content)
    except ImportError:
        return None
