"""`make soak`: run Knot with workers for a long time, under everything that can happen to it.

Clients request files while these are replaced: on kept and new connections, whole, in part,
compressed, and conditionally.  Every 20 s the workers are replaced; every 30 s one is killed, and
the root, a symbolic link, is switched to another directory.  Each answer must be one whole version
of its file, and a tag must always mean the same bytes.  At the end there must be no wrong byte, no
failed request except those of killed workers, and no growth of memory or descriptors.
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
from http.client import HTTPConnection, HTTPException, HTTPResponse
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
REPLACE_EVERY: Final = 0.02
"""Seconds between replacements of a file."""
RENEW_EVERY: Final = 20.0
"""Seconds between replacements of all workers."""
KILL_EVERY: Final = 30.0
SWITCH_EVERY: Final = 30.0
"""Seconds between switches of the root to a new directory."""
SWITCH_TIMEOUT: Final = 5.0
"""Seconds after a switch until every worker must serve the new directory: the promise is 2, and the
clients need a core."""
KILL_AFTERMATH: Final = 2.0
"""Seconds after a worker was killed in which connections may break."""
WARM_UP: Final = 15.0
"""Seconds before memory is first read: caches fill, allocators settle."""
MAX_GROWTH: Final = 1.25
"""Memory and descriptors at the end, as a multiple of what they were after the warm-up."""
MAX_REQUESTS: Final = 40
"""Requests on a connection."""


# -- what is served -----------------------------------------------------------------------------


def name_of(number: int) -> str:
    return f"file{number:02}.{'txt' if number % 2 else 'bin'}"


@lru_cache(4096)
def content(name: str, version: int) -> bytes:
    """The bytes of a version; the first line has its name and number."""
    head = f"{name} {version}\n".encode()
    size = SIZES[int(name[4:6]) % len(SIZES)] + version % 97
    noise = hashlib.shake_128(head).digest(size // 2).hex().encode()
    return head + noise


@dataclass
class Site:
    """The files, which get new versions, in a directory that is replaced too."""

    root: Path
    """A symbolic link to a directory beside it."""
    versions: dict[str, int] = field(default_factory=dict)
    switches: int = 0
    switched: tuple[float, dict[str, int]] = (0.0, {})
    """When the link was last switched, in monotonic seconds, and the versions at that time."""

    def replace(self, name: str) -> None:
        version = self.versions.get(name, 0) + 1
        new = self.root / f".{name}.new"
        new.write_bytes(content(name, version))
        new.rename(self.root / name)
        self.versions[name] = version

    def switch(self) -> None:
        """Switch to a copy with the same times, as a deployment does; remove the old one."""
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

    def oldest_version(self, name: str) -> int:
        """The oldest version that may be served now."""
        switched, versions = self.switched
        return versions.get(name, 0) if time.monotonic() > switched + SWITCH_TIMEOUT else 0


# -- clients ------------------------------------------------------------------------------------


class Wrong(Exception):  # noqa: N818  (a finding, not an error of this program)
    """A wrong answer."""


@dataclass
class Seen:
    """The findings of all clients."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    broken: list[tuple[float, str]] = field(default_factory=list)
    """When a connection broke during a request, and how."""
    tags: dict[tuple[str, str], int] = field(default_factory=dict)
    """The version that a tag means, by file and tag."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note_tag(self, name: str, tag: str, version: int) -> None:
        with self.lock:
            known = self.tags.setdefault((name, tag), version)
        if known != version:
            raise Wrong(f"{name}: the tag {tag} meant version {known}, and now means {version}")


def version_in(name: str, body: bytes) -> int:
    head = re.match(rb"(\S+) (\d+)\n", body)
    if head is None or head[1] != name.encode():
        raise Wrong(f"{name}: its first line is {body[:40]!r}")
    return int(head[2])


KINDS: Final = ("whole", "whole", "changed", "part", "gzip", "head")


def fields_of(kind: str, tag: str | None) -> dict[str, str]:
    """The request fields of this kind of request; without a tag, some kinds are plain ones."""
    if kind == "gzip":
        return {"Accept-Encoding": "gzip"}
    if kind == "changed" and tag:
        return {"If-None-Match": tag}
    if kind == "part" and tag:
        return {"Range": "bytes=10-99", "If-Range": tag}
    return {}


@dataclass
class Client:
    """Sends requests of all kinds and checks every answer."""

    numbers: random.Random
    seen: Seen
    site: Site
    tags: dict[str, str] = field(default_factory=dict)
    """The last tag of each file."""

    def ask(self, connection: HTTPConnection) -> None:
        """Send one request and check its answer.  Raises `Wrong`."""
        name = name_of(self.numbers.randrange(FILES))
        oldest = self.site.oldest_version(name)
        kind = self.numbers.choice(KINDS)
        tag = self.tags.get(name)
        method = "HEAD" if kind == "head" else "GET"
        connection.request(method, f"/{name}", headers=fields_of(kind, tag))
        response = connection.getresponse()
        body = response.read()
        if response.status == 304:
            if response.headers["ETag"] != tag:
                raise Wrong(f"{name}: not modified, but {tag} is {response.headers['ETag']}")
        elif response.status == 206:
            self.check_part(name, response.headers["ETag"], body)
        elif response.status != 200:
            raise Wrong(f"{name}: status {response.status}")
        elif kind != "head":
            self.check_whole(name, response, body, oldest)
        self.seen.answers[f"{kind} {response.status}"] += 1

    def check_part(self, name: str, tag: str, body: bytes) -> None:
        version = self.seen.tags.get((name, tag))
        known = version is not None and tag == self.tags.get(name)
        if not known or body != content(name, version or 0)[10:100]:
            raise Wrong(f"{name}: not the part of {tag}")

    def check_whole(self, name: str, response: HTTPResponse, body: bytes, oldest: int) -> None:
        tag, coding = response.headers["ETag"], response.headers["Content-Encoding"]
        if coding == "gzip":
            body = gzip.decompress(body)
        version = version_in(name, body)
        if body != content(name, version):
            raise Wrong(f"{name}: not the bytes of version {version}")
        if version < oldest:
            raise Wrong(f"{name}: version {version}, from a directory that has been replaced")
        self.seen.note_tag(name, tag, version)
        if coding is None:
            self.tags[name] = tag


def run_client(client: Client, port: int, over: threading.Event) -> None:
    """Ask on one connection after the other until it is over."""
    while not over.is_set():
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            for _ in range(client.numbers.randrange(1, MAX_REQUESTS)):
                if over.is_set():
                    break
                client.ask(connection)
        except Wrong as error:
            client.seen.wrong.append(str(error))
        except (OSError, HTTPException) as error:
            client.seen.broken.append((time.monotonic(), repr(error)))
        finally:
            connection.close()


# -- what happens to the server -----------------------------------------------------------------


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
    """Replaces files, switches the root, renews the workers and kills them."""

    process: subprocess.Popen[str]
    site: Site
    numbers: random.Random
    renewals: int = 0
    kills: list[float] = field(default_factory=list)

    def last(self, seconds: float) -> None:
        began = time.monotonic()
        renew, kill = began + RENEW_EVERY, began + KILL_EVERY
        switch = began + SWITCH_EVERY / 2
        while (now := time.monotonic()) < began + seconds:
            self.site.replace(name_of(self.numbers.randrange(FILES)))
            if now >= renew:
                self.process.send_signal(signal.SIGHUP)
                self.renewals += 1
                renew += RENEW_EVERY
            if now >= kill:
                workers = family(self.process.pid)[1:]
                os.kill(self.numbers.choice(workers), signal.SIGKILL)
                self.kills.append(now)
                kill += KILL_EVERY
            if now >= switch:
                self.site.switch()
                switch += SWITCH_EVERY
            time.sleep(REPLACE_EVERY)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(minutes: float, seed: int) -> None:
    """Serve files while everything changes; fail if an answer is wrong or memory grows."""
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
    clients = [Client(random.Random(seed * 1000 + number), seen, site) for number in range(CLIENTS)]
    threads = [threading.Thread(target=run_client, args=(client, port, over)) for client in clients]
    for thread in threads:
        thread.start()
    torment = Torment(process, site, random.Random(seed))
    try:
        torment.last(min(WARM_UP, seconds / 3))
        before = at_rest(process.pid)
        torment.last(seconds - min(WARM_UP, seconds / 3))
    finally:
        over.set()
        for thread in threads:
            thread.join()
    return judge(seen, torment, before, at_rest(process.pid))


def at_rest(pid: int) -> Use:
    """The lowest of several readings, without workers that are about to end."""
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
        if not any(kill <= when + 0.1 and when <= kill + KILL_AFTERMATH for kill in torment.kills)
    ]
    verdicts = {
        "wrong answers": (len(seen.wrong), 0),
        "requests failed without a killed worker": (len(unexplained), 0),
        "private memory, MB": (after.memory / 1e6, MAX_GROWTH * before.memory / 1e6),
        "descriptors": (after.descriptors, MAX_GROWTH * before.descriptors),
    }
    table = Table("", "found", "at most")
    for name, (value, most) in verdicts.items():
        table.add_row(name, f"{value:,.0f}", f"{most:,.0f}")
    for name, number in (
        ("answers", sum(seen.answers.values())),
        ("versions served", len(seen.tags)),
        ("files replaced", sum(torment.site.versions.values())),
        ("switches of the root", torment.site.switches),
        ("renewals of all workers", torment.renewals),
        ("workers killed", len(torment.kills)),
        ("requests failed with a killed worker", len(seen.broken) - len(unexplained)),
    ):
        table.add_row(name, f"{number:,}", "")
    Console().print(table)
    for text in [*seen.wrong[:10], *unexplained[:10]]:
        print(text, file=sys.stderr)
    return int(any(value > most for value, most in verdicts.values()))


if __name__ == "__main__":
    main()
