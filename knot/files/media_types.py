"""Media types by the names of files (RFC 9110, section 8.3.1).  No I/O.

The standard library's table, not the machine's: a site is the same wherever it is served.  Added
are the types that a web site may need and that some version of Python lacks, or has otherwise than
browsers and the registry at https://www.iana.org/assignments/media-types; they are written as in
nginx's ``mime.types``.  Packages with such a table take 17 to 30 ms and 4 to 5 MiB at the start of
each process.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from typing import Final

BY_SUFFIX: Final = {
    # Text
    "application/json5": "json5",
    "application/node": "cjs",
    "application/rtf": "rtf",
    "application/sql": "sql",
    "application/toml": "toml",
    "application/x-ndjson": "jsonl ndjson",
    "application/yaml": "yaml yml",
    "text/cache-manifest": "appcache",
    "text/calendar": "ics ifb",
    "text/html": "shtml",
    "text/javascript": "js mjs",
    "text/markdown": "markdown md",
    "text/plain": "cfg conf diff ini list log patch text",
    "text/turtle": "ttl",
    "text/vcard": "vcard vcf",
    "text/x-opml": "opml",
    "text/x-rst": "rst",
    # JSON and XML
    "application/atom+xml": "atom",
    "application/dash+xml": "mpd",
    "application/geo+json": "geojson",
    "application/gpx+xml": "gpx",
    "application/json": "map topojson",
    "application/ld+json": "jsonld",
    "application/mathml+xml": "mathml mml",
    "application/rdf+xml": "owl rdf",
    "application/rss+xml": "rss",
    "application/ttml+xml": "ttml",
    "application/vnd.google-earth.kml+xml": "kml",
    "application/x-ipynb+json": "ipynb",
    "application/xhtml+xml": "xht xhtml",
    "application/xml": "xsd",
    "application/xml-dtd": "dtd",
    "application/xslt+xml": "xslt",
    "application/xspf+xml": "xspf",
    # Images
    "image/apng": "apng",
    "image/jp2": "jp2",
    "image/jxl": "jxl",
    "image/ktx2": "ktx2",
    "image/svg+xml": "svgz",
    "image/vnd.adobe.photoshop": "psd",
    "image/vnd.djvu": "djv djvu",
    "image/vnd.microsoft.icon": "cur",
    "image/webp": "webp",
    # Sound
    "audio/amr": "amr",
    "audio/flac": "flac",
    "audio/matroska": "mka",
    "audio/midi": "kar mid midi",
    "audio/mp4": "m4a m4b",
    "audio/ogg": "oga ogg opus spx",
    "audio/webm": "weba",
    "audio/x-caf": "caf",
    "audio/x-ms-wma": "wma",
    # Video
    "video/3gpp": "3gp 3gpp",
    "video/3gpp2": "3g2 3gpp2",
    "video/iso.segment": "m4s",
    "video/matroska": "mkv",
    "video/matroska-3d": "mk3d",
    "video/mp2t": "m2ts mts ts",
    "video/ogg": "ogv",
    "video/x-flv": "flv",
    "video/x-m4v": "m4v",
    "video/x-ms-asf": "asf asx",
    "video/x-ms-wmv": "wmv",
    # Fonts and models
    "application/vnd.ms-fontobject": "eot",
    "font/collection": "ttc",
    "font/otf": "otf",
    "font/ttf": "ttf",
    "font/woff": "woff",
    "font/woff2": "woff2",
    "model/3mf": "3mf",
    "model/gltf+json": "gltf",
    "model/gltf-binary": "glb",
    "model/mtl": "mtl",
    "model/obj": "obj",
    "model/step": "step stp",
    "model/stl": "stl",
    "model/vnd.collada+xml": "dae",
    "model/vnd.usdz+zip": "usdz",
    # Documents
    "application/epub+zip": "epub",
    "application/vnd.amazon.mobi8-ebook": "azw3",
    "application/vnd.comicbook+zip": "cbz",
    "application/vnd.comicbook-rar": "cbr",
    "application/vnd.ms-excel.sheet.macroenabled.12": "xlsm",
    "application/vnd.ms-powerpoint.presentation.macroenabled.12": "pptm",
    "application/vnd.ms-word.document.macroenabled.12": "docm",
    "application/vnd.oasis.opendocument.graphics": "odg",
    "application/vnd.oasis.opendocument.presentation": "odp",
    "application/vnd.oasis.opendocument.presentation-template": "otp",
    "application/vnd.oasis.opendocument.spreadsheet": "ods",
    "application/vnd.oasis.opendocument.spreadsheet-template": "ots",
    "application/vnd.oasis.opendocument.text": "odt",
    "application/vnd.oasis.opendocument.text-template": "ott",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.openxmlformats-officedocument.presentationml.slideshow": "ppsx",
    "application/vnd.openxmlformats-officedocument.presentationml.template": "potx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.template": "xltx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.template": "dotx",
    "application/x-mobipocket-ebook": "mobi",
    # Archives and packages
    "application/gzip": "gz tgz",
    "application/java-archive": "ear jar war",
    "application/vnd.android.package-archive": "apk",
    "application/vnd.apple.pkpass": "pkpass",
    "application/vnd.debian.binary-package": "deb",
    "application/vnd.google-earth.kmz": "kmz",
    "application/vnd.rar": "rar",
    "application/x-7z-compressed": "7z",
    "application/x-bzip2": "bz2 tbz2",
    "application/x-chrome-extension": "crx",
    "application/x-rpm": "rpm",
    "application/x-xpinstall": "xpi",
    "application/x-xz": "txz xz",
    "application/zip": "whl",
    "application/zstd": "tzst zst",
    # Data
    "application/cbor": "cbor",
    "application/vnd.apache.arrow.file": "arrow feather",
    "application/vnd.apache.arrow.stream": "arrows",
    "application/vnd.apache.parquet": "parquet",
    "application/vnd.mapbox-vector-tile": "mvt",
    "application/vnd.pmtiles": "pmtiles",
    "application/vnd.sqlite3": "sqlite sqlite3",
    # Certificates, signatures and what a system does with a file
    "application/pgp-signature": "asc sig",
    "application/pkix-cert": "cer",
    "application/pkix-crl": "crl",
    "application/x-apple-aspen-config": "mobileconfig",
    "application/x-bittorrent": "torrent",
    "application/x-java-jnlp-file": "jnlp",
    "application/x-x509-ca-cert": "crt der pem",
}
"""Suffixes without their dots."""

BY_NAME: Final = {
    "application/json": (
        "apple-app-site-association oauth-authorization-server oauth-protected-resource"
        " openid-configuration"
    ),
    "text/plain": (
        "authors changelog changes cname contributing contributors copying copyright dockerfile"
        " licence license maintainers makefile md5sums notice readme sha1sums sha256sums sha512sums"
        " todo"
    ),
}
"""Whole names, in lower case."""

# The first instance of `MimeTypes` in a process reads the machine's tables, too: 350 KiB.
_usual = mimetypes.MimeTypes().types_map[True] if mimetypes.inited else mimetypes.types_map

TYPES: Final[Mapping[str, str]] = {
    **_usual,
    **{f".{suffix}": kind for kind, listed in BY_SUFFIX.items() for suffix in listed.split()},
    **{name: kind for kind, listed in BY_NAME.items() for name in listed.split()},
}
"""By suffix with its dot, or by whole name; all in lower case."""

CODINGS: Final[Mapping[bytes, bytes]] = {b".svgz": b"gzip"}
"""Content codings that a file of such a name already has."""
