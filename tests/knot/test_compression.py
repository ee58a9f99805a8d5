"""Content codings (RFC 9110, sections 8.4 and 12.5.3), and files in them through a whole site."""

from __future__ import annotations

import gzip
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import brotli
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from knot.files import compression
from knot.files import site as sites
from knot.files.compression import (
    MIN_SIZE,
    SUFFIXES,
    compress,
    compressible,
    may_have_copies,
)
from knot.files.representation import (
    ENTRY,
    IN_MEMORY,
    Representation,
    Slice,
)
from knot.files.site import Site
from knot.http.content_coding import acceptable, refuses_identity
from knot.http.request import Request
from knot.http.responder import FieldRules, Responder, Response

BR, ZSTD, GZIP = b"br", b"zstd", b"gzip"
ALL = (BR, ZSTD, GZIP)

# -- what a client takes -------------------------------------------------------------------------

ACCEPTABLE: list[tuple[bytes, tuple[bytes, ...]]] = [
    # The examples of section 12.5.3
    (b"compress, gzip", (GZIP,)),
    (b"", ()),
    (b"*", ALL),
    (b"compress;q=0.5, gzip;q=1.0", (GZIP,)),
    (b"gzip;q=1.0, identity; q=0.5, *;q=0", (GZIP,)),
    # What browsers and tools send
    (b"gzip", (GZIP,)),
    (b"gzip, deflate", (GZIP,)),
    (b"gzip, deflate, br", (BR, GZIP)),
    (b"gzip, deflate, br, zstd", ALL),
    (b"deflate, gzip, br, zstd", ALL),
    (b"identity", ()),
    (b"deflate", ()),
    # Weights
    (b"gzip;q=0.5, br;q=0.4, zstd;q=0.6", (ZSTD, GZIP, BR)),
    (b"gzip;q=0.9, br;q=0.9, zstd", (ZSTD, BR, GZIP)),
    (b"gzip;q=0.001", (GZIP,)),
    (b"gzip;q=1.000, br;q=0.999", (GZIP, BR)),
    (b"gzip;q=1., br;q=0.", (GZIP,)),
    (b"gzip;q=1", (GZIP,)),
    (b"gzip;q=0", ()),
    (b"gzip;q=0.0", ()),
    (b"gzip;q=0.000", ()),
    (b"gzip;q=0, br", (BR,)),
    # The rest
    (b"*;q=0", ()),
    (b"*;q=0.5", ALL),
    (b"*, gzip;q=0", (BR, ZSTD)),
    (b"gzip;q=0.5, *;q=0.8", (BR, ZSTD, GZIP)),
    (b"gzip, *;q=0.5", (GZIP, BR, ZSTD)),
    (b"gzip, *;q=0", (GZIP,)),
    (b"br;q=0, zstd;q=0, *", (GZIP,)),
    # None is a coding, too
    (b"identity, gzip;q=0.5", ()),
    (b"identity;q=0.5, gzip", (GZIP,)),
    (b"identity;q=0.5, gzip;q=0.5", (GZIP,)),
    (b"identity;q=0.7, gzip;q=0.5, br;q=0.8", (BR,)),
    (b"identity;q=0.5, *;q=0.3", ()),
    (b"identity;q=0", ()),
    (b"identity;q=0, gzip;q=0.1", (GZIP,)),
    # Other spellings (section 8.4.1.3; names and the q are of any case)
    (b"x-gzip", (GZIP,)),
    (b"x-gzip;q=0.5, br;q=0.4", (GZIP, BR)),
    (b"X-GZip", (GZIP,)),
    (b"GZIP, Br;Q=0.5", (GZIP, BR)),
    (b"gzip;Q=0", ()),
    (b"IDENTITY, gzip;q=0.1", ()),
    # Space, and empty members (section 5.6.1.2)
    (b"  gzip\t;\t q=0.5 ,br ", (BR, GZIP)),
    (b"gzip,br", (BR, GZIP)),
    (b",, gzip ,,\t,", (GZIP,)),
    (b" ", ()),
    (b",", ()),
    # Said twice
    (b"gzip, gzip", (GZIP,)),
    (b"gzip, x-gzip, GZIP;q=0.5", (GZIP,)),
    (b"gzip;q=0.2, br;q=0.3, gzip;q=0.4", (GZIP, BR)),
    (b"gzip;q=0.4, br;q=0.3, gzip;q=0.2", (GZIP, BR)),
    # Nonsense is no member, and the others count
    (b"gzip;q=1.001", ()),
    (b"gzip;q=2", ()),
    (b"gzip;q=-1", ()),
    (b"gzip;q=0.0001", ()),
    (b"gzip;q=.5", ()),
    (b"gzip;q=1e0", ()),
    (b"gzip;q=", ()),
    (b"gzip;q", ()),
    (b"gzip;", ()),
    (b"gzip;q = 1", ()),
    (b"gzip;level=9", ()),
    (b"gzip;q=1;q=0", ()),
    (b"gzip q=1", ()),
    (b"gzip br", ()),
    (b'"gzip"', ()),
    (b"gzi", ()),
    (b"gzipp", ()),
    (b"\xff, br", (BR,)),
    (b"gzip\x00, br", (BR,)),
    (b"gzip\r\n, br", (BR,)),
    ("gzip;q=\u0661".encode(), ()),
    (b";q=1, =, gzip", (GZIP,)),
]


@pytest.mark.parametrize(("value", "expected"), ACCEPTABLE)
def test_a_client_takes(value: bytes, expected: tuple[bytes, ...]) -> None:
    assert acceptable(value) == expected


PIECES = [
    b"gzip", b"x-gzip", b"br", b"zstd", b"identity", b"*", b"deflate", b"x-", b"BR", b"=",
    b";q=", b";", b"0", b"1", b"0.5", b"1.000", b",", b" ", b"\t", b"\xff",
]  # fmt: skip


@given(st.binary(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=20).map(b"".join))
def test_any_value_is_a_list_of_what_is_known_here(value: bytes) -> None:
    taken = acceptable(value)
    assert set(taken) <= set(SUFFIXES)
    assert len(set(taken)) == len(taken)


@given(
    st.dictionaries(
        st.sampled_from([BR, ZSTD, GZIP, b"identity", b"*", b"deflate"]), st.integers(0, 1000)
    )
)
def test_the_best_goes_first_and_none_is_worse_than_none(weights: dict[bytes, int]) -> None:
    value = b", ".join(
        b"%b;q=%d.%03d" % (name, *divmod(weight, 1000)) for name, weight in weights.items()
    )
    wanted = {coding: weights.get(coding, weights.get(b"*", 0)) for coding in ALL}
    taken = acceptable(value)
    assert set(taken) == {
        coding
        for coding, weight in wanted.items()
        if weight and weight >= weights.get(b"identity", 0)
    }
    order = [(-wanted[coding], ALL.index(coding)) for coding in taken]
    assert order == sorted(order)


# -- how it is made ------------------------------------------------------------------------------


def unzstd(data: bytes) -> bytes:
    return bytes(zstandard.ZstdDecompressor().decompress(data))


DECOMPRESS: dict[bytes, Callable[[bytes], bytes]] = {
    BR: brotli.decompress,
    ZSTD: unzstd,
    GZIP: gzip.decompress,
}


@pytest.fixture
def forgetful() -> Iterator[None]:
    """Which libraries there are is asked once; here it is asked anew, before and after."""
    compression._compressor.cache_clear()
    yield
    compression._compressor.cache_clear()


@pytest.mark.parametrize("coding", ALL)
@given(st.binary(max_size=3000) | st.binary(min_size=1, max_size=30).map(lambda piece: piece * 99))
@example(b"")
@example(b"x" * IN_MEMORY)
def test_what_is_compressed_is_smaller_and_the_same(coding: bytes, content: bytes) -> None:
    compressed = compress(content, coding)
    if compressed is not None:
        assert len(compressed) < len(content)
        assert DECOMPRESS[coding](compressed) == content


@pytest.mark.parametrize("coding", ALL)
def test_what_gets_no_smaller_is_left_alone(coding: bytes) -> None:
    assert compress(b"", coding) is None
    assert compress(b"x", coding) is None
    assert compress(os.urandom(10_000), coding) is None
    assert compress(b"x" * 1000, coding) is not None


@pytest.mark.parametrize("coding", ALL)
def test_the_same_content_gives_the_same_bytes(
    coding: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"".join(b"<p>%d</p>\n" % number for number in range(5000))
    first = compress(content, coding)
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert compress(content, coding) == first


def test_a_gzip_file_has_no_date_and_no_name() -> None:
    compressed = compress(b"x" * 1000, GZIP)
    assert compressed is not None
    assert compressed[:8] == b"\x1f\x8b\x08\0\0\0\0\0"  # RFC 1952, section 2.3
    assert zlib.decompress(compressed, wbits=31) == b"x" * 1000


@pytest.mark.parametrize(("coding", "library"), [(BR, "brotli"), (ZSTD, "zstandard")])
def test_without_its_library_a_coding_cannot_be_made(
    forgetful: None, monkeypatch: pytest.MonkeyPatch, coding: bytes, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    assert compress(b"x" * 1000, coding) is None
    assert compress(b"x" * 1000, GZIP) is not None


TYPES = [
    # (media type, whether it is compressed here, whether copies of it are looked for)
    (b"text/html; charset=utf-8", True, True),
    (b"text/plain", True, True),
    (b"text/css; charset=utf-8", True, True),
    (b"text/javascript; charset=utf-8", True, True),
    (b"text/markdown", True, True),
    (b"text/x-anything", True, True),
    (b"application/json; charset=utf-8", True, True),
    (b"application/ld+json", True, True),
    (b"application/vnd.api+json", True, True),
    (b"application/manifest+json", True, True),
    (b"application/javascript", True, True),
    (b"application/x-javascript", True, True),
    (b"application/xml", True, True),
    (b"application/xhtml+xml; charset=utf-8", True, True),
    (b"application/rss+xml", True, True),
    (b"application/wasm", True, True),
    (b"image/svg+xml; charset=utf-8", True, True),
    (b"image/bmp", True, True),
    (b"image/x-icon", True, True),
    (b"image/vnd.microsoft.icon", True, True),
    (b"font/ttf", True, True),
    (b"font/otf", True, True),
    # Whoever serves them may know better
    (b"application/octet-stream", False, True),
    (b"application/x-tar", False, True),
    (b"application/jsonish", False, True),
    (b"application/x-shockwave-flash", False, True),
    # Small already
    (b"image/png", False, False),
    (b"image/jpeg", False, False),
    (b"image/webp", False, False),
    (b"image/avif", False, False),
    (b"audio/mpeg", False, False),
    (b"audio/ogg", False, False),
    (b"video/mp4", False, False),
    (b"video/webm", False, False),
    (b"font/woff", False, False),
    (b"font/woff2", False, False),
    (b"application/zip", False, False),
    (b"application/gzip", False, False),
    (b"application/zstd", False, False),
    (b"application/pdf", False, False),
    (b"application/x-xz", False, False),
    (b"application/x-bzip2", False, False),
    (b"application/x-7z-compressed", False, False),
]


@pytest.mark.parametrize(("kind", "here", "copies"), TYPES)
def test_of_a_type_there_is(kind: bytes, here: bool, copies: bool) -> None:
    assert compressible(kind, 1 << 16) == here
    assert may_have_copies(kind) == copies


def test_what_is_one_packet_anyway_is_not_compressed() -> None:
    assert not compressible(b"text/html", MIN_SIZE - 1)
    assert compressible(b"text/html", MIN_SIZE)


COMPRESSED_HERE = [
    "html", "css", "js", "mjs", "json", "map", "svg", "xml", "wasm", "ttf", "otf", "ico", "md",
    "txt", "csv", "webmanifest", "xhtml", "rss", "atom", "ics", "yaml", "toml", "geojson", "gltf",
    "glb", "mpd", "m3u8", "jsonl", "json5", "sql", "rtf", "vcf", "eot", "ttc", "dae", "stl", "nt",
    "tex", "ps", "ipynb",
]  # fmt: skip
LEFT_ALONE = [
    "png", "jpg", "gif", "webp", "avif", "mp4", "webm", "mp3", "opus", "woff", "woff2", "zip", "gz",
    "zst", "xz", "bz2", "7z", "rar", "tgz", "whl", "pdf", "bin", "unknown", "docx", "xlsx", "pptx",
    "odt", "epub", "apk", "jar", "parquet", "arrow", "flac", "mkv", "ts", "m4s", "apng", "jxl",
    "psd", "usdz", "3mf", "pmtiles", "xpi", "kmz", "deb", "rpm", "pkpass", "docm", "cbz",
]  # fmt: skip


@pytest.mark.parametrize("suffix", [*COMPRESSED_HERE, *LEFT_ALONE])
def test_it_goes_by_how_a_file_ends(tmp_path: Path, suffix: str) -> None:
    site = Site(tmp_path)
    kind = site.media_type(b"a." + suffix.encode())
    assert compressible(kind, 1 << 16) == (suffix in COMPRESSED_HERE)
    if suffix not in ("bin", "unknown", "arrow"):
        assert may_have_copies(kind) == (suffix in COMPRESSED_HERE)
    site.close()


# -- through a site ------------------------------------------------------------------------------

MTIME = 784111777
LATER = MTIME + 60


class Answered(NamedTuple):
    status: int
    fields: dict[str, str]
    content: bytes

    @property
    def coding(self) -> str:
        return self.fields.get("content-encoding", "")


class Client:
    """Asks one site, each time in a second of its own unless told otherwise."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.root = root
        self.site = Site(root, **options)
        self.responder = Responder(self.site, FieldRules(), options.get("cache_size", 1 << 20))
        self.second = LATER + 1000

    def get(
        self,
        path: str,
        accept: bytes | None = None,
        *fields: tuple[bytes, bytes],
        method: bytes = b"GET",
    ) -> Answered:
        said = () if accept is None else ((b"accept-encoding", accept),)
        request = Request(method, path.encode(), fields=(*said, *fields))
        response = self.responder.respond(request, self.second)
        assert isinstance(response, Response)
        return answered(response)

    def later(self) -> Client:
        self.second += 1
        return self

    def close(self) -> None:
        self.site.close()
        del self.responder  # the answers that it keeps may hold files open


def answered(response: Response) -> Answered:
    head, _, content = response.data.partition(b"\r\n\r\n")
    for piece in response.rest:
        if isinstance(piece, Slice):
            piece = os.pread(piece.file.fd, piece.stop - piece.start, piece.start)
        content += piece
    status, *lines = head.decode().split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines)
    assert len(fields) == len(lines)
    return Answered(int(status.split()[1]), fields, content)


def put(path: Path, content: bytes, modified: int = MTIME) -> bytes:
    path.write_bytes(content)
    os.utime(path, (modified, modified))
    return content


PAGE = b"<p>A paragraph of it.</p>\n" * 200
COPIES = {
    BR: bytes(brotli.compress(PAGE)),
    ZSTD: zstandard.ZstdCompressor().compress(PAGE),
    GZIP: gzip.compress(PAGE, mtime=1),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A page with three copies, and the same text without."""
    put(tmp_path / "page.html", PAGE)
    for coding, copy in COPIES.items():
        put(tmp_path / f"page.html{SUFFIXES[coding].decode()}", copy, LATER)
    put(tmp_path / "alone.html", PAGE)
    return tmp_path


@pytest.fixture
def clients() -> Iterator[Callable[..., Client]]:
    made: list[Client] = []

    def new(root: Path, **options: Any) -> Client:
        made.append(Client(root, **options))
        return made[-1]

    yield new
    for client in made:
        client.close()


@pytest.fixture
def client(root: Path, clients: Callable[..., Client]) -> Client:
    return clients(root)


@pytest.fixture
def compressions(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The coding of each compression that was done."""
    done: list[bytes] = []

    def counted(content: bytes, coding: bytes) -> bytes | None:
        done.append(coding)
        return compress(content, coding)

    monkeypatch.setattr(sites, "compress", counted)
    return done


CHOSEN: list[tuple[bytes | None, bytes]] = [
    (None, b""),
    (b"", b""),
    (b"identity", b""),
    (b"gzip", GZIP),
    (b"gzip, deflate, br, zstd", BR),
    (b"gzip, zstd", ZSTD),
    (b"br;q=0.1, zstd;q=0.3, gzip;q=0.2", ZSTD),
    (b"br;q=0.1, zstd;q=0.1, gzip;q=0.2", GZIP),
    (b"br;q=0, *", ZSTD),
    (b"gzip;q=0", b""),
    (b"*;q=0", b""),
    (b"identity, gzip;q=0.9", b""),
    (b"deflate", b""),
]


@pytest.mark.parametrize("page", ["/page.html", "/alone.html"])
@pytest.mark.parametrize(("accept", "coding"), CHOSEN)
def test_a_client_gets_what_it_likes_best(
    client: Client, page: str, accept: bytes | None, coding: bytes
) -> None:
    answer = client.get(page, accept)
    assert answer.status == 200
    assert answer.coding == coding.decode()
    assert answer.fields["vary"] == "accept-encoding"
    assert answer.fields["content-type"] == "text/html; charset=utf-8"
    assert int(answer.fields["content-length"]) == len(answer.content)
    assert DECOMPRESS.get(coding, bytes)(answer.content) == PAGE
    if page == "/page.html" and coding:
        assert answer.content == COPIES[coding]


def test_a_copy_beside_the_file_spares_the_work(client: Client, compressions: list[bytes]) -> None:
    for accept in (b"gzip", b"br", b"zstd", b"*"):
        client.get("/page.html", accept)
    assert compressions == []


def test_a_copy_of_a_worse_coding_goes_before_one_to_be_made(
    root: Path, client: Client, compressions: list[bytes]
) -> None:
    (root / "page.html.br").unlink()
    (root / "page.html.zst").unlink()
    assert client.get("/page.html", b"br, gzip, zstd").coding == "gzip"
    assert compressions == []
    assert client.get("/page.html", b"br").coding == "br"


def test_each_representation_has_validators_of_its_own(client: Client) -> None:
    for page in ("/page.html", "/alone.html"):
        answers = [client.get(page, accept) for accept in (None, b"gzip", b"br", b"zstd")]
        tags = [answer.fields["etag"] for answer in answers]
        assert len(set(tags)) == 4
        assert not any(tag.startswith("w/") for tag in tags)
        assert all("last-modified" in answer.fields for answer in answers)
    assert client.get("/page.html").fields["last-modified"].endswith("08:49:37 gmt")
    assert client.get("/page.html", b"br").fields["last-modified"].endswith("08:50:37 gmt")
    assert client.get("/alone.html", b"br").fields["last-modified"].endswith("08:49:37 gmt")


@pytest.mark.parametrize("page", ["/page.html", "/alone.html"])
@pytest.mark.parametrize("coding", ALL)
def test_what_a_client_has_is_what_it_would_get(client: Client, page: str, coding: bytes) -> None:
    tag = client.get(page, coding).fields["etag"].encode()
    plain = client.get(page).fields["etag"].encode()
    cases = [
        (coding, tag, 304),
        (coding, b"W/" + tag, 304),
        (coding, plain + b", " + tag, 304),
        (coding, plain, 200),
        (b"identity", tag, 200),
        (None, tag, 200),
        (None, plain, 304),
    ]
    for accept, known, status in cases:
        for method in (b"GET", b"HEAD"):
            answer = client.get(page, accept, (b"if-none-match", known), method=method)
            assert answer.status == status, (accept, known)
            assert answer.fields["vary"] == "accept-encoding"
            wanted = tag if accept == coding else plain
            assert answer.fields["etag"].encode() == wanted
            if status == 304:
                assert answer.content == b""
                assert "content-length" not in answer.fields
                assert not answer.coding


def test_a_condition_on_another_representation_fails(client: Client) -> None:
    tag = client.get("/page.html", b"gzip").fields["etag"].encode()
    assert client.get("/page.html", b"gzip", (b"if-match", tag)).status == 200
    assert client.get("/page.html", None, (b"if-match", tag)).status == 412


@pytest.mark.parametrize("page", ["/page.html", "/alone.html"])
@pytest.mark.parametrize("coding", ALL)
def test_ranges_are_of_the_encoded_bytes_that_are_named(
    client: Client, page: str, coding: bytes
) -> None:
    whole = client.get(page, coding)
    named = (b"if-range", whole.fields["etag"].encode())
    size = len(whole.content)
    cases = [
        (b"bytes=0-9", whole.content[:10], f"0-9/{size}"),
        (b"bytes=-5", whole.content[-5:], f"{size - 5}-{size - 1}/{size}"),
        (b"bytes=10-", whole.content[10:], f"10-{size - 1}/{size}"),
    ]
    for wanted, content, shown in cases:
        part = client.get(page, coding, (b"range", wanted), named)
        assert (part.status, part.content) == (206, content)
        assert part.fields["content-range"] == f"bytes {shown}"
        assert part.coding == coding.decode()
        assert part.fields["etag"] == whole.fields["etag"]
        assert part.fields["vary"] == "accept-encoding"
    # Between the end of the copy and that of the page there is nothing.
    assert size < len(PAGE) - 1
    beyond = client.get(page, coding, (b"range", b"bytes=%d-" % (len(PAGE) - 1)), named)
    assert beyond.status == 416
    assert beyond.fields["content-range"] == f"bytes */{size}"
    plain = client.get(page, None, (b"range", b"bytes=%d-" % (len(PAGE) - 1)))
    assert (plain.status, plain.content) == (206, b"\n")


def test_a_download_goes_on_only_in_the_coding_in_which_it_began(client: Client) -> None:
    tag = client.get("/page.html", b"gzip").fields["etag"].encode()
    resumed = (b"range", b"bytes=10-"), (b"if-range", tag)
    assert client.get("/page.html", b"gzip", *resumed).status == 206
    for other in (None, b"br"):
        assert client.get("/page.html", other, *resumed).status == 200


def test_a_range_that_names_no_coding_makes_none(client: Client, compressions: list[bytes]) -> None:
    part = client.get("/alone.html", b"gzip, br", (b"range", b"bytes=0-9"))
    assert (part.status, part.content, part.coding) == (206, PAGE[:10], "")
    assert compressions == []


def test_of_several_codings_a_range_is_of_the_one_that_is_named(client: Client) -> None:
    for page in ("/page.html", "/alone.html"):
        for coding in ALL:
            whole = client.get(page, coding)
            named = (b"if-range", whole.fields["etag"].encode())
            part = client.get(page, b"gzip, br, zstd", (b"range", b"bytes=0-9"), named)
            assert (part.status, part.content) == (206, whole.content[:10])
            assert part.coding == coding.decode()


REFUSES_IDENTITY = [
    (b"identity;q=0", True),
    (b"gzip, identity;q=0.000", True),
    (b"gzip, *;q=0", True),
    (b"*;q=0, identity", False),
    (b"*;q=0, identity;q=0.1", False),
    (b"identity;q=0, *", True),
    (b"gzip", False),
    (b"*", False),
    (b"identity;q=0.0000", False),
    (b"", False),
]


@pytest.mark.parametrize(("value", "expected"), REFUSES_IDENTITY)
def test_no_coding_at_all_is_ruled_out_by(value: bytes, expected: bool) -> None:
    assert refuses_identity(value) == expected


def test_head_says_what_get_sends(client: Client) -> None:
    for page in ("/page.html", "/alone.html"):
        for accept in (None, b"gzip", b"br"):
            head = client.get(page, accept, method=b"HEAD")
            assert head.content == b""
            assert head.fields == client.later().get(page, accept).fields | {
                "date": head.fields["date"]
            }


# Static Web Server once cut a copy to the length of the file (its issue 722).
LENGTHS = [
    (100, 5000),
    (5000, 100),
    (100, IN_MEMORY + 1),
    (IN_MEMORY + 1, 100),
    (IN_MEMORY + 1, IN_MEMORY + 2),
    (IN_MEMORY + 2, IN_MEMORY + 1),
    (300, 300),
    (0, 300),
]


@pytest.mark.parametrize(("length", "of_copy"), LENGTHS)
def test_a_copy_has_a_length_of_its_own(
    tmp_path: Path, clients: Callable[..., Client], length: int, of_copy: int
) -> None:
    page = put(tmp_path / "a.html", b"x" * length)
    copy = put(tmp_path / "a.html.gz", b"y" * of_copy, LATER)
    client = clients(tmp_path)
    for _ in range(2):
        for accept, content in ((None, page), (b"gzip", copy), (None, page)):
            answer = client.get("/a.html", accept)
            assert int(answer.fields["content-length"]) == len(content)
            assert answer.content == content
        client.later()


def test_a_copy_that_is_older_than_its_file_is_forgotten_work(root: Path, client: Client) -> None:
    put(root / "page.html.br", b"stale", MTIME - 1)
    put(root / "page.html.zst", b"as old", MTIME)
    assert client.get("/page.html", b"zstd").content == b"as old"
    answer = client.get("/page.html", b"br")
    assert brotli.decompress(answer.content) == PAGE
    assert client.get("/page.html", b"br, gzip").content == COPIES[GZIP]


def test_a_copy_without_its_file_is_a_file_of_its_own(
    tmp_path: Path, clients: Callable[..., Client]
) -> None:
    copy = put(tmp_path / "a.html.gz", b"bytes")
    client = clients(tmp_path)
    assert client.get("/a.html", b"gzip").status == 404
    answer = client.get("/a.html.gz", b"gzip")
    assert (answer.status, answer.content, answer.coding) == (200, copy, "")
    assert answer.fields["content-type"] == "application/gzip"
    assert "vary" not in answer.fields


def test_a_copy_may_be_asked_for_by_its_own_name(root: Path, client: Client) -> None:
    assert client.get("/page.html", b"gzip").content == COPIES[GZIP]
    answer = client.get("/page.html.gz", b"gzip, br")
    assert (answer.content, answer.coding) == (COPIES[GZIP], "")
    assert answer.fields["content-type"] == "application/gzip"


def test_what_is_no_file_of_the_site_is_no_copy(
    tmp_path: Path, clients: Callable[..., Client]
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    put(site / "a.html", PAGE)
    put(tmp_path / "secret", b"secret", LATER)
    (site / "a.html.br").mkdir()
    (site / "a.html.br" / "index.html").write_text("index")
    (site / "a.html.zst").symlink_to("../secret")
    os.mkfifo(site / "a.html.gz")
    client = clients(site)
    for coding in ALL:
        assert DECOMPRESS[coding](client.get("/a.html", coding).content) == PAGE


def test_a_link_inside_may_be_a_copy(root: Path, client: Client) -> None:
    (root / "alone.html.gz").symlink_to("page.html.gz")
    assert client.get("/alone.html", b"gzip").content == COPIES[GZIP]


def test_every_name_of_a_page_has_its_copies(
    tmp_path: Path, clients: Callable[..., Client]
) -> None:
    (tmp_path / "a b%").mkdir()
    put(tmp_path / "index.html", PAGE)
    put(tmp_path / "index.html.gz", b"root", LATER)
    put(tmp_path / "a b%" / "index.html", PAGE)
    put(tmp_path / "a b%" / "index.html.gz", b"odd", LATER)
    put(tmp_path / "about.html", PAGE)
    put(tmp_path / "about.html.gz", b"about", LATER)
    client = clients(tmp_path, clean_urls=True, spa=True)
    cases = [
        ("/", b"root"),
        ("/users/1", b"root"),
        ("/a%20b%25/", b"odd"),
        ("//a%20b%25/./", b"odd"),
        ("/about", b"about"),
    ]
    for path, content in cases:
        assert client.get(path, b"gzip").content == content
        assert client.get(path).content == PAGE


def test_a_copy_that_comes_changes_or_goes_is_seen_in_the_next_second(
    root: Path, client: Client, compressions: list[bytes]
) -> None:
    made = client.get("/alone.html", b"gzip").content
    put(root / "alone.html.gz", b"one", LATER)
    assert client.get("/alone.html", b"gzip").content == made
    assert client.later().get("/alone.html", b"gzip").content == b"one"
    put(root / "alone.html.gz", b"two", LATER + 1)
    assert client.get("/alone.html", b"gzip").content == b"one"
    assert client.later().get("/alone.html", b"gzip").content == b"two"
    (root / "alone.html.gz").unlink()
    assert client.later().get("/alone.html", b"gzip").content == made
    assert compressions == [GZIP]  # what was made once is still there


def test_a_file_that_goes_takes_its_copies_along(root: Path, client: Client) -> None:
    assert client.get("/page.html", b"gzip").status == 200
    (root / "page.html").unlink()
    assert client.later().get("/page.html", b"gzip").status == 404


def test_an_image_is_one_representation(tmp_path: Path, clients: Callable[..., Client]) -> None:
    image = put(tmp_path / "a.png", b"x" * 1000)
    put(tmp_path / "a.png.gz", b"copy", LATER)
    answer = clients(tmp_path).get("/a.png", b"gzip, br")
    assert (answer.content, answer.coding) == (image, "")
    assert "vary" not in answer.fields


def test_other_files_are_not_compressed_here_and_may_have_copies(
    tmp_path: Path, clients: Callable[..., Client], compressions: list[bytes]
) -> None:
    data = put(tmp_path / "data.bin", b"x" * 1000)
    client = clients(tmp_path)
    answer = client.get("/data.bin", b"gzip")
    assert (answer.content, answer.coding) == (data, "")
    assert answer.fields["vary"] == "accept-encoding"
    put(tmp_path / "data.bin.gz", b"copy", LATER)
    answer = client.later().get("/data.bin", b"gzip")
    assert (answer.content, answer.coding) == (b"copy", "gzip")
    assert answer.fields["content-type"] == "application/octet-stream"
    assert compressions == []


# -- what is compressed here ---------------------------------------------------------------------


def test_a_text_is_compressed_once_for_each_of_its_states(
    root: Path, client: Client, compressions: list[bytes]
) -> None:
    for _ in range(3):
        for accept in (b"gzip", b"gzip;q=0.5", b"br", b"gzip, br"):
            client.get("/alone.html", accept)
        client.later()
    assert sorted(compressions) == [BR, GZIP]
    old = client.get("/alone.html", b"gzip").fields["etag"]
    changed = put(root / "alone.html", PAGE.upper(), LATER)
    answer = client.later().get("/alone.html", b"gzip")
    assert gzip.decompress(answer.content) == changed
    assert answer.fields["etag"] != old
    assert sorted(compressions) == [BR, GZIP, GZIP]


def test_that_it_gets_no_smaller_is_found_out_once(
    tmp_path: Path, clients: Callable[..., Client], compressions: list[bytes]
) -> None:
    noise = put(tmp_path / "noise.txt", os.urandom(2000))
    client = clients(tmp_path)
    for _ in range(3):
        answer = client.later().get("/noise.txt", b"gzip")
        assert (answer.content, answer.coding) == (noise, "")
        assert answer.fields["vary"] == "accept-encoding"
    assert compressions == [GZIP]


SIZES = [(MIN_SIZE - 1, ""), (MIN_SIZE, "gzip"), (IN_MEMORY, "gzip"), (IN_MEMORY + 1, ""), (0, "")]


@pytest.mark.parametrize(("size", "coding"), SIZES)
def test_of_text_of_so_many_bytes(
    tmp_path: Path, clients: Callable[..., Client], size: int, coding: str
) -> None:
    content = put(tmp_path / "a.txt", b"x" * size)
    answer = clients(tmp_path).get("/a.txt", b"gzip")
    assert answer.coding == coding
    assert (gzip.decompress(answer.content) if coding else answer.content) == content
    assert answer.fields["vary"] == "accept-encoding"


def test_a_coding_whose_library_is_missing_is_passed_over(
    client: Client, forgetful: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "brotli", None)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert client.get("/alone.html", b"br, zstd, gzip;q=0.1").coding == "gzip"
    assert client.get("/alone.html", b"br, zstd").coding == ""
    assert client.get("/page.html", b"br").coding == "br"  # that was compressed beforehand


# -- the cache -----------------------------------------------------------------------------------


def held(site: Site) -> int:
    """Bytes of memory, and what there is beside them, that the cache knows of."""
    total = 0
    for found in site._cache.values():
        total += ENTRY + len(found.content or b"")
        for copy in found.compressed.values():
            total += 0 if copy is None else ENTRY + len(copy.content or b"")
    return total


def test_what_is_compressed_counts(
    root: Path, clients: Callable[..., Client], forgetful: None
) -> None:
    size = 1 << 20
    client = clients(root, cache_size=size)
    client.get("/alone.html")
    assert client.site._free == size - ENTRY - len(PAGE)
    total = len(PAGE)
    for count, coding in enumerate(ALL, 2):
        total += len(client.get("/alone.html", coding).content)
        assert client.site._free == size - count * ENTRY - total == size - held(client.site)
    (root / "alone.html").unlink()
    assert client.later().get("/alone.html", b"gzip").status == 404
    assert client.site._cache == {}
    assert client.site._free == size


@pytest.mark.parametrize("size", [0, 1, ENTRY, ENTRY + 5200, 2 * ENTRY + 5300, 10_000, 20_000])
def test_a_small_cache_gives_the_same_answers(
    root: Path, clients: Callable[..., Client], size: int
) -> None:
    client = clients(root, cache_size=size)
    for number in range(5):
        put(root / f"{number}.html", PAGE + b"%d" % number)
    pages = ["page", "alone", *map(str, range(5))] * 2
    for page in pages:
        for accept in (None, b"gzip", b"br", b"zstd", b"gzip"):
            answer = client.get(f"/{page}.html", accept)
            plain = DECOMPRESS.get(accept or b"", bytes)(answer.content)
            assert answer.status == 200
            assert answer.coding == (accept or b"").decode()
            assert plain == PAGE + (page.encode() if page.isdigit() else b"")
            assert client.site._free == size - held(client.site) >= 0
        client.later()


def test_what_was_not_used_for_longest_makes_room_for_what_is_compressed(
    root: Path, clients: Callable[..., Client]
) -> None:
    for number in range(3):
        put(root / f"{number}.html", os.urandom(2000).hex().encode())
    client = clients(root, cache_size=3 * (ENTRY + 4000))
    for number in range(3):
        client.get(f"/{number}.html")
    assert client.site._free == 0
    client.get("/0.html", b"gzip")
    assert set(client.site._cache) == {b"/2.html", b"/0.html"}
    assert client.site._free == 3 * (ENTRY + 4000) - held(client.site)


def test_a_file_that_is_not_in_the_cache_is_compressed_all_the_same(root: Path) -> None:
    site = Site(root, cache_size=0)
    found = site.find(b"/alone.html", 1)
    assert isinstance(found, Representation)
    copy = site.compressed(found, GZIP)
    assert copy is not None
    assert copy.content is not None
    assert gzip.decompress(copy.content) == PAGE
    assert site.compressed(found, GZIP) is copy
    assert site._free == 0
    site.close()


def test_a_long_value_costs_nothing() -> None:
    """It would stop the loop for all others (a value of spaces once took 1.6 s)."""
    assert acceptable(b"gzip" + b" " * 200) == (GZIP,)
    assert acceptable(b"gzip" + b" " * 30_000) == ()
