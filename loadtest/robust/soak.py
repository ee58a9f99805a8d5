"""`make soak`: Knot with workers for as long as you like, while all that can happen to it happens.

Clients ask for files that are replaced under them, on kept connections and new ones, whole files,
parts, compressed ones, and whether they have changed.  Every 20 s the workers are renewed; every
30 s one is killed, and the root, a symbolic link, is switched to another directory.  Each answer
must be one whole version of its file, and the same tag must always mean the same bytes.  In the
end: no wrong byte, no failed request but those of killed workers, and neither memory nor
descriptors have grown.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from knot.process.spawn import python
from loadtest.measure import family
from loadtest.memory import private_bytes

WORKERS: Final = 2
CLIENTS: Final = 8
FILES: Final = 60
SIZES: Final = (500, 8_000, 60_000, 400_000)
REPLACED: Final = 0.02
"""Seconds between two files that are replaced."""
RENEWED: Final = 20.0
KILLED: Final = 30.0
SWITCHED: Final = 30.0
"""Seconds between two switches of the root to a new directory."""
FOLLOWED: Final = 5.0
"""Seconds after a switch until every worker must serve the new directory: the promise is 2, and the
clients take a core."""
BLAMED: Final = 2.0
"""Seconds after a worker was killed in which a broken connection was its."""
WARM: Final = 15.0
"""Seconds before memory is first read: caches fill, allocators settle."""
GROWTH: Final = 1.25
"""Times what memory and descriptors were, at most."""
KEPT: Final = 40
"""Requests on a connection."""


# -- what is served -----------------------------------------------------------------------------


def name_of(number: int) -> str:
    return f"file{number:02}.{'txt' if number % 2 else 'bin'}"


@lru_cache(4096)
def content(name: str, version: int) -> bytes:
    """It says of itself what it is."""
    head = f"{name} {version}\n".encode()
    size = SIZES[int(name[4:6]) % len(SIZES)] + version % 97
    noise = hashlib.shake_128(head).digest(size // 2).hex().encode()
    return head + noise


@dataclass
class Site:
    """The files, one of which has a new version every now and then, in a directory that has one."""

    root: Path
    """A symbolic link to a directory beside it."""
    versions: dict[str, int] = field(default_factory=dict)
    switches: int = 0
    switched: tuple[float, dict[str, int]] = (0.0, {})
    """When the link was switched last, in monotonic seconds, and the versions of then."""

    def replace(self, name: str) -> None:
        version = self.versions.get(name, 0) + 1
        new = self.root / f".{name}.new"
        new.write_bytes(content(name, version))
        new.rename(self.root / name)
        self.versions[name] = version

    def switch(self) -> None:
        """Switch to a copy that has the same times, as a deployment does; the old one goes."""
        old = self.root.resolve()
        new = self.root.with_name(f"release{self.switches + 1}")
        shutil.copytree(old, new)
        link = self.root.with_name("next")
        link.symlink_to(new.name)
        link.rename(self.root)
        shutil.rmtree(old)
        for name in self.versions:
            self.replace(name)
        self.switches += 1
        self.switched = time.monotonic(), dict(self.versions)


# -- who asks -----------------------------------------------------------------------------------


class Wrong(Exception):  # noqa: N818  (what has happened, not what it is)
    """An answer that ought not to be."""


@dataclass
class Seen:
    """What all clients have seen."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    broken: list[tuple[float, str]] = field(default_factory=list)
    """Connections that ended within a request, and when."""
    tags: dict[tuple[str, str], int] = field(default_factory=dict)
    """Which version a tag means, by file and tag."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def meet(self, name: str, tag: str, version: int) -> None:
        with self.lock:
            known = self.tags.setdefault((name, tag), version)
        if known != version:
            raise Wrong(f"{name}: the tag {tag} means version {known}, and now {version}")


def version_in(name: str, body: bytes) -> int:
    head = re.match(rb"(\S+) (\d+)\n", body)
    if head is None or head[1] != name.encode():
        raise Wrong(f"{name}: its first line is {body[:40]!r}")
    return int(head[2])


def ask(
    client: HTTPConnection, numbers: random.Random, seen: Seen, own: dict[str, str], site: Site
) -> None:
    """One request of some kind; `own` has the tags that this client knows."""
    name = name_of(numbers.randrange(FILES))
    switched, versions = site.switched
    lowest = versions.get(name, 0) if time.monotonic() > switched + FOLLOWED else 0
    kind = numbers.choice(("whole", "whole", "changed", "part", "gzip", "head"))
    tag = own.get(name)
    fields = {}
    if kind == "changed" and tag:
        fields["If-None-Match"] = tag
    elif kind == "part" and tag:
        fields |= {"Range": "bytes=10-99", "If-Range": tag}
    elif kind == "gzip":
        fields["Accept-Encoding"] = "gzip"
    client.request("HEAD" if kind == "head" else "GET", f"/{name}", headers=fields)
    response = client.getresponse()
    body = response.read()
    found = response.headers["ETag"]
    if response.status == 304:
        if found != tag:
            raise Wrong(f"{name}: not modified, but {tag} is {found}")
    elif response.status == 206:
        version = seen.tags.get((name, found))
        if found != tag or version is None or body != content(name, version)[10:100]:
            raise Wrong(f"{name}: not the part of {found}")
    elif response.status != 200:
        raise Wrong(f"{name}: status {response.status}")
    elif kind != "head":
        if response.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        version = version_in(name, body)
        if body != content(name, version):
            raise Wrong(f"{name}: not the bytes of version {version}")
        if version < lowest:
            raise Wrong(f"{name}: version {version}, of a directory that was switched away")
        seen.meet(name, found, version)
        if response.headers["Content-Encoding"] is None:
            own[name] = found
    seen.answers[f"{kind} {response.status}"] += 1


def be_client(
    number: int, port: int, seed: int, seen: Seen, site: Site, over: threading.Event
) -> None:
    numbers = random.Random(seed * 1000 + number)
    own: dict[str, str] = {}
    while not over.is_set():
        client = HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            for _ in range(numbers.randrange(1, KEPT)):
                if over.is_set():
                    break
                ask(client, numbers, seen, own, site)
        except Wrong as error:
            seen.wrong.append(str(error))
        except (OSError, HTTPException) as error:
            seen.broken.append((time.monotonic(), repr(error)))
        finally:
            client.close()


# -- what happens to it -------------------------------------------------------------------------


@dataclass(frozen=True)
class Use:
    memory: int
    descriptors: int


def use(pid: int) -> Use:
    members = family(pid)
    return Use(sum(map(private_bytes, members)), sum(map(descriptors, members)))


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@dataclass
class Torment:
    """Replaces files, switches the root, renews workers and kills them, until it is over."""

    process: subprocess.Popen[str]
    site: Site
    numbers: random.Random
    renewals: int = 0
    kills: list[float] = field(default_factory=list)

    def go_on(self, seconds: float) -> None:
        began = time.monotonic()
        renew, kill = began + RENEWED, began + KILLED
        switch = began + SWITCHED / 2
        while (now := time.monotonic()) < began + seconds:
            self.site.replace(name_of(self.numbers.randrange(FILES)))
            if now >= renew:
                self.process.send_signal(signal.SIGHUP)
                self.renewals += 1
                renew += RENEWED
            if now >= kill:
                workers = family(self.process.pid)[1:]
                os.kill(self.numbers.choice(workers), signal.SIGKILL)
                self.kills.append(now)
                kill += KILLED
            if now >= switch:
                self.site.switch()
                switch += SWITCHED
            time.sleep(REPLACED)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(minutes: float, seed: int) -> None:
    """Serve, ask, replace, renew and kill; fail if any answer was wrong or anything has grown."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory, "site")
        Path(directory, "release0").mkdir()
        root.symlink_to("release0")
        site = Site(root)
        site.switch()
        for number in range(FILES):
            site.replace(name_of(number))
        command = python("-m", "knot.cli", "serve", str(root), "--port", "0")
        command += ["--workers", str(WORKERS)]
        with (
            open(Path(directory, "stderr"), "w+") as stderr,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=directory
            ) as process,
        ):
            try:
                sys.exit(soak(process, site, minutes * 60, seed))
            finally:
                process.terminate()
                process.wait()


def soak(process: subprocess.Popen[str], site: Site, seconds: float, seed: int) -> int:
    assert process.stdout is not None
    found = re.search(r":(\d+),", process.stdout.readline())
    if found is None:
        print("knot serve does not start", file=sys.stderr)
        return 1
    port, seen, over = int(found[1]), Seen(), threading.Event()
    threads = [
        threading.Thread(target=be_client, args=(number, port, seed, seen, site, over))
        for number in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    torment = Torment(process, site, random.Random(seed))
    try:
        torment.go_on(min(WARM, seconds / 3))
        before = at_rest(process.pid)
        torment.go_on(seconds - min(WARM, seconds / 3))
    finally:
        over.set()
        for thread in threads:
            thread.join()
    return judge(seen, torment, before, at_rest(process.pid))


def at_rest(pid: int) -> Use:
    """The least of some readings: a worker on its way out is no growth."""
    readings = []
    for _ in range(30):
        if len(family(pid)) == WORKERS + 1:
            readings.append(use(pid))
        time.sleep(0.2)
    if not readings:
        return use(pid)
    return Use(
        min(reading.memory for reading in readings),
        min(reading.descriptors for reading in readings),
    )


def judge(seen: Seen, torment: Torment, before: Use, after: Use) -> int:
    unexplained = [
        error
        for when, error in seen.broken
        if not any(kill <= when + 0.1 and when <= kill + BLAMED for kill in torment.kills)
    ]
    verdicts = {
        "answers that were wrong": (len(seen.wrong), 0),
        "requests that failed, of no killed worker": (len(unexplained), 0),
        "private memory, MB, at most": (after.memory / 1e6, GROWTH * before.memory / 1e6),
        "descriptors, at most": (after.descriptors, GROWTH * before.descriptors),
    }
    table = Table("", "found", "allowed")
    for name, (value, most) in verdicts.items():
        table.add_row(name, f"{value:,.0f}", f"{most:,.0f}")
    for name, number in (
        ("answers", sum(seen.answers.values())),
        ("versions that were served", len(seen.tags)),
        ("files replaced", sum(torment.site.versions.values())),
        ("switches of the root", torment.site.switches),
        ("renewals of all workers", torment.renewals),
        ("workers killed", len(torment.kills)),
        ("requests that killed workers had", len(seen.broken) - len(unexplained)),
    ):
        table.add_row(name, f"{number:,}", "")
    Console().print(table)
    for text in [*seen.wrong[:10], *unexplained[:10]]:
        print(text, file=sys.stderr)
    return int(any(value > most for value, most in verdicts.values()))


if __name__ == "__main__":
    main()
