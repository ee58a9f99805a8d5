"""The contents of a directory, as a page or as JSON.

Directories go in, bytes come out; nothing here knows of HTTP or of sockets.  Names are the bytes
that they are on the disk: a link has them percent-encoded, so that it leads to the file whatever
its name is, and only what is shown is made readable.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from stat import S_ISDIR, S_ISREG
from time import gmtime, strftime
from typing import Final, NamedTuple
from urllib.parse import quote

from knot.files.open_beneath import real_path
from knot.files.representation import second_of
from knot.files.site import Scope

UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")

DIGITS: Final = re.compile(r"(\d{1,18})")

UNSHOWN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\udc80-\udcff]"
)
"""Control characters, those that turn the direction of text, and bytes that are not UTF-8."""

PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Index of {title}</title>
<style>
:root {{ --line: #0002; --soft: #667; --link: #0a58ca; --row: #0000000a }}
@media (prefers-color-scheme: dark) {{
  :root {{ --line: #fff3; --soft: #99a; --link: #7db4ff; --row: #ffffff0f }}
}}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: auto; padding: 1rem }}
h1 {{ font-size: 1.25rem; font-weight: 600; overflow-wrap: anywhere }}
a {{ color: var(--link); text-decoration: none }}
a:hover {{ text-decoration: underline }}
table {{ border-collapse: collapse; width: 100% }}
th {{ color: var(--soft); font-size: .85rem; font-weight: 500; text-align: left }}
th, td {{ padding: .35rem .5rem; border-bottom: 1px solid var(--line) }}
tbody tr:hover {{ background: var(--row) }}
.name {{ overflow-wrap: anywhere; width: 100% }}
.name::before {{
  background: var(--soft); content: ""; display: inline-block; height: 1em; width: 1em;
  margin-right: .6rem; vertical-align: -.1em;
  clip-path: polygon(12% 0, 62% 0, 88% 26%, 88% 100%, 12% 100%)
}}
.folder::before {{
  background: #d9a03c; clip-path: polygon(0 12%, 40% 12%, 50% 26%, 100% 26%, 100% 92%, 0 92%)
}}
.up::before {{ clip-path: polygon(50% 8%, 92% 55%, 65% 55%, 65% 95%, 35% 95%, 35% 55%, 8% 55%) }}
.size, .date {{ text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }}
.date, footer {{ color: var(--soft) }}
footer {{ font-size: .85rem; padding: .75rem .5rem }}
@media (max-width: 34rem) {{ .date {{ display: none }} }}
</style>
<h1>{path}</h1>
<table>
<thead><tr><th scope="col">Name</th><th scope="col" class="size">Size</th>\
<th scope="col" class="date">Changed (UTC)</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
<footer>{summary}</footer>
</html>
"""

UP: Final = '<tr><td class="name up"><a href="../">..</a><td class="size"><td class="date"></tr>'


class Entry(NamedTuple):
    """A file or a directory."""

    name: str
    """As `os.fsdecode` has it, without a slash."""
    is_directory: bool
    size: int
    """In bytes; 0 for a directory."""
    modified: int
    """In seconds since the epoch."""


def read_directory(fd: int, scope: Scope) -> list[Entry]:
    """The entries of the directory at a place (O_PATH) that a client may ask for: directories
    first, then files.

    Symbolic links to what is not in `scope` are left out.  Raises `OSError` if the directory cannot
    be read.
    """
    entries = []
    here = real_path(fd)
    with opened(fd) as readable, os.scandir(readable) as found:
        for file in found:
            if file.name.startswith(".") and not scope.hidden:
                continue
            try:
                path = os.path.join(here, os.fsencode(file.name))
                if file.is_symlink():
                    path = where(fd, file.name)
                status = file.stat()
            except OSError:  # a link to nothing, or it has just gone
                continue
            if not scope.has(path, (status.st_dev, status.st_ino), S_ISDIR(status.st_mode)):
                continue
            if S_ISDIR(status.st_mode):
                entries.append(Entry(file.name, True, 0, second_of(status.st_mtime_ns)))
            elif S_ISREG(status.st_mode):
                entries.append(
                    Entry(file.name, False, status.st_size, second_of(status.st_mtime_ns))
                )
    return sorted(entries, key=in_order)


@contextmanager
def opened(place: int) -> Iterator[int]:
    fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
    try:
        yield fd
    finally:
        os.close(fd)


def where(directory: int, name: str) -> bytes:
    """The real path of what the symbolic link leads to."""
    place = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=directory)
    try:
        return real_path(place)
    finally:
        os.close(place)


def in_order(entry: Entry) -> tuple[bool, list[tuple[int, str]], str]:
    """Directories first, then by name as people count: ``file2`` before ``file10``."""
    parts = DIGITS.split(entry.name.casefold())
    natural = [(int(part), "") if at % 2 else (-1, part) for at, part in enumerate(parts)]
    return not entry.is_directory, natural, entry.name


# -- as a page -----------------------------------------------------------------------------------


def as_html(path: str, entries: Sequence[Entry]) -> bytes:
    """The page for the directory at `path`, as in a URL but decoded: "/data/"."""
    rows = [] if path == "/" else [UP]
    rows += map(row, entries)
    page = PAGE.format(
        title=shown(path), path=breadcrumbs(path), rows="\n".join(rows), summary=summary(entries)
    )
    return page.encode()


def row(entry: Entry) -> str:
    slash = "/" if entry.is_directory else ""
    kind = "name folder" if entry.is_directory else "name"
    size = "" if entry.is_directory else human(entry.size)
    exact = "" if entry.is_directory else f' title="{entry.size:,} bytes"'
    now = gmtime(entry.modified)
    return (
        f'<tr><td class="{kind}"><a href="{link(entry)}"><bdi>{shown(entry.name)}</bdi>{slash}</a>'
        f'<td class="size"{exact}>{size}<td class="date">'
        f'<time datetime="{strftime("%Y-%m-%dT%H:%M:%SZ", now)}">'
        f"{strftime('%Y-%m-%d %H:%M', now)}</time></tr>"
    )


def link(entry: Entry) -> str:
    """Relative, and never with a scheme, whatever the name looks like."""
    return "./" + quote(os.fsencode(entry.name)) + ("/" if entry.is_directory else "")


def breadcrumbs(path: str) -> str:
    """The path, each directory of it a link."""
    names = path.strip("/").split("/") if path != "/" else []
    crumbs = [f'<a href="{"../" * len(names) or "./"}">/</a>']
    for left, name in zip(range(len(names) - 1, -1, -1), names, strict=True):
        crumbs.append(f'<a href="{"../" * left or "./"}"><bdi>{shown(name)}</bdi></a>/')
    return " ".join(crumbs)


def summary(entries: Sequence[Entry]) -> str:
    """How many there are, and how large the files are together."""
    if not entries:
        return "This directory is empty."
    files = [entry for entry in entries if not entry.is_directory]
    folders = len(entries) - len(files)
    counts = [
        f"{count:,} {word if count == 1 else words}"
        for count, word, words in (
            (folders, "directory", "directories"),
            (len(files), "file", "files"),
        )
        if count
    ]
    total = f", {human(sum(entry.size for entry in files))}" if files else ""
    return " and ".join(counts) + total


def human(size: int) -> str:
    """A size in bytes with three digits or so."""
    if size < 1024:
        return f"{size} B"
    power = min(max(1, (size.bit_length() - 1) // 10), len(UNITS))
    if size >= 1023.95 * 1024**power and power < len(UNITS):  # it would be shown as 1024.0
        power += 1
    return f"{size / 1024**power:.1f} {UNITS[power - 1]}"


def shown(name: str) -> str:
    return escape(UNSHOWN.sub("\ufffd", name))


# -- as JSON -------------------------------------------------------------------------------------


def as_json(path: str, entries: Sequence[Entry]) -> bytes:
    """The same for programs: ``href`` is the name as a link has it, which is always exact."""
    listed = [
        {
            "name": UNSHOWN.sub("\ufffd", entry.name),
            "href": link(entry),
            "type": "directory" if entry.is_directory else "file",
            **({} if entry.is_directory else {"size": entry.size}),
            "modified": strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(entry.modified)),
        }
        for entry in entries
    ]
    text = json.dumps({"path": UNSHOWN.sub("\ufffd", path), "entries": listed}, ensure_ascii=False)
    return text.encode() + b"\n"
