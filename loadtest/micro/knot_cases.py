"""What `bench_knot` measures, as data: the cases with their goals, and the files that are served.

Nothing here starts or measures anything.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp, log
from pathlib import Path
from statistics import NormalDist, median
from typing import Final

CONNECTIONS: Final = 64
MANY: Final = 10_000
IDLE_CONNECTIONS: Final = 5_000

CHROME: Final = (
    "Connection: keep-alive",
    'sec-ch-ua-platform: "Linux"',
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/138.0.0.0 Safari/537.36",
    'sec-ch-ua: "Not)A;Brand";v="8", "Chromium";v="138", "Google Chrome";v="138"',
    "sec-ch-ua-mobile: ?0",
    "Accept: image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8",
    "Sec-Fetch-Site: same-origin",
    "Sec-Fetch-Mode: no-cors",
    "Sec-Fetch-Dest: image",
    "Referer: http://127.0.0.1/gallery/index.html",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8",
)
"""What Chrome sends for an image, beside Host."""


# -- the cases ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One line of the table.

    In the options of Knot and the settings of nginx, `{run}` is a directory of the server that
    runs and `{tenth}` a tenth of the bytes of the mix.
    """

    name: str
    goal: float
    """What Knot/nginx is to be at most; of IDLE and START, Knot's bytes."""
    file: str = "1k.html"
    mix: bool = False
    """Ask for the files of the mix instead of one file."""
    headers: tuple[str, ...] = ()
    """Beside Host; `{etag}` is that of the file on this server."""
    status: int = 200
    connections: int = CONNECTIONS
    longer: int = 1
    """So many times as long as other cases: where few requests fit in, or connecting takes long."""
    knot: tuple[str, ...] = ()
    nginx: Mapping[str, str] = field(default_factory=dict)
    """What differs from the defaults in `servers`."""
    against: str = ""
    """The case with which each server is compared instead, itself with itself."""
    everyone: bool = False
    """Measure the peers and the other drivers, too."""
    tls: bool = False
    """Over TLS, by the same certificate (ECDSA, P-256)."""


ROOM: Final = {"connections": "12000"}

KEPT_ALIVE: Final = "1 KiB, kept alive"
ONE_EACH: Final = "1 KiB, a connection each"

CASES: Final = (
    Case(KEPT_ALIVE, 0.75, everyone=True),
    Case("8 KiB, kept alive, a browser's 12 headers", 0.9, "8k.png", headers=CHROME),
    Case("100 KiB, kept alive", 0.9, "100k.bin", everyone=True),
    Case("10 MiB, kept alive", 1.0, "10m.bin", longer=3),
    Case(ONE_EACH, 0.9, headers=("Connection: close",), everyone=True),
    Case("304 by If-None-Match", 0.8, headers=("If-None-Match: {etag}",), status=304),
    Case("mix of 2,000 files, all in the cache", 1.0, mix=True),
    Case(
        "the same, a cache for a tenth",
        1.3,
        mix=True,
        knot=("--cache-size", "{tenth}"),
        nginx={"open_files": "200"},
    ),
    Case(
        "1 KiB, kept alive, access log to a file",
        1.0,
        knot=("--log", "common", "--log-file", "{run}/access.log"),
        nginx={"access_log": "{run}/access.log common buffer=64k flush=1s"},
    ),
    Case(
        "1 KiB, kept alive, counted for --admin, beside none",
        1.07,
        knot=("--admin", "127.0.0.1:0"),
        against=KEPT_ALIVE,
    ),
    Case(
        "1 KiB, kept alive, --max-rate, beside none",
        1.15,
        knot=("--max-rate", "1000000"),
        against=KEPT_ALIVE,
    ),
    Case("1 KiB over TLS, kept alive", 1.0, tls=True),
    Case("100 KiB over TLS, kept alive", 1.0, "100k.bin", tls=True),
    Case(
        "1 KiB over TLS, a connection and a handshake each",
        1.0,
        headers=("Connection: close",),
        tls=True,
    ),
    Case(
        "1 KiB, kept alive, two workers on the core, beside one process",
        1.1,
        knot=("--workers", "2"),
        nginx={"workers": "2"},
        against=KEPT_ALIVE,
    ),
    Case(
        "1 KiB, a connection each, two workers on the core, beside one process",
        1.1,
        headers=("Connection: close",),
        knot=("--workers", "2"),
        nginx={"workers": "2"},
        against=ONE_EACH,
    ),
    Case(
        f"1 KiB, {MANY:,} connections, beside itself at {CONNECTIONS}",
        1.25,
        connections=MANY,
        longer=5,
        knot=("--max-connections", ROOM["connections"]),
        nginx=ROOM,
        against=KEPT_ALIVE,
    ),
)

IDLE: Final = Case("private bytes for an idle kept-alive connection", 1024, nginx=ROOM)
IDLE_TLS: Final = Case(
    "private bytes for an idle kept-alive connection over TLS", 32 * 2**10, nginx=ROOM, tls=True
)
START: Final = Case("private memory at start, after one request", 20 * 2**20)


def chosen(only: str) -> list[Case]:
    """The cases that have `only` in their names, and those that they are compared with."""
    found = [case for case in CASES if only.lower() in case.name.lower()]
    needed = {case.name for case in found} | {case.against for case in found}
    return [case for case in CASES if case.name in needed]


# -- the files ----------------------------------------------------------------------------------

FILES: Final = {"1k.html": 2**10, "8k.png": 2**13, "100k.bin": 100 * 2**10, "10m.bin": 10 * 2**20}

MIX_FILES: Final = 2_000
SMALLEST, LARGEST = 100, 2**20
MIDDLE: Final = 4096

ZIPF: Final = """
local requests, below, total = {}, {}, 0
function init()
  math.randomseed(7)
  for rank = 1, COUNT do
    requests[rank] = wrk.format(nil, string.format("PREFIX/mix/%d.bin", rank))
    total = total + 1 / rank
    below[rank] = total
  end
end
function request()
  local drawn, low, high = math.random() * total, 1, COUNT
  while low < high do
    local middle = math.floor((low + high) / 2)
    if below[middle] < drawn then low = middle + 1 else high = middle end
  end
  return requests[low]
end
"""
"""A script of wrk: the name of a file of the mix is its rank, drawn with probability ~ 1/rank."""


def zipf(prefix: str) -> str:
    """The script for a server whose paths begin with `prefix`."""
    return ZIPF.replace("COUNT", str(MIX_FILES)).replace("PREFIX", prefix)


def mix_paths() -> list[str]:
    return [f"mix/{rank}.bin" for rank in range(1, MIX_FILES + 1)]


def mix_sizes() -> list[int]:
    """Bytes of the mix by rank, log-normal as the files of web sites are.

    The quantiles of the distribution, so that no draw decides about the total, in an order that
    has nothing to do with the rank; its width is such that the largest file is 1 MiB.
    """
    last = NormalDist().inv_cdf(1 - 0.5 / MIX_FILES)
    sizes = NormalDist(log(MIDDLE), log(LARGEST / MIDDLE) / last)
    quantiles = [exp(sizes.inv_cdf((i + 0.5) / MIX_FILES)) for i in range(MIX_FILES)]
    bytes_ = [min(max(round(size), SMALLEST), LARGEST) for size in quantiles]
    random.Random(7).shuffle(bytes_)
    return bytes_


def write_files(root: Path) -> None:
    """Every file that a case asks for."""
    (root / "mix").mkdir(parents=True)
    for file, size in (FILES | dict(zip(mix_paths(), mix_sizes(), strict=True))).items():
        (root / file).write_bytes(b"x" * size)


def describe_mix() -> str:
    """The mix in a sentence."""
    sizes = mix_sizes()
    weights = [1 / rank for rank in range(1, MIX_FILES + 1)]
    reply = sum(s * w for s, w in zip(sizes, weights, strict=True)) / sum(weights)
    return (
        f"The mix: {MIX_FILES:,} files of {min(sizes):,} B to {max(sizes) / 2**20:.0f} MiB,"
        f" log-normal with median {median(sizes) / 2**10:.1f} KiB, together"
        f" {sum(sizes) / 2**20:.1f} MiB (Knot's cache has 64 MiB),\nasked for by Zipf's law with"
        f" exponent 1, in the same sequence of all servers; the mean answer has"
        f" {reply / 2**10:.1f} KiB."
    )
