"""The directory of a site is replaced while it is served, and so is what its options name."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import bcrypt
import pytest
import trustme
from serving import KNOT, administered, fetch, serving
from ways import Answer, Ask, Way

WITHIN = 2.0
"""Seconds in which a change is to be followed."""

SLACK = 10.0
"""Seconds more, as the machine may be busy."""


def make(directory: Path, version: str) -> Path:
    directory.mkdir(parents=True)
    (directory / "page.txt").write_text(version * 1000)
    (directory / f"{version}.txt").write_text(version)
    return directory


def link(name: Path, target: str) -> None:
    """As ``ln -sfn``, in one step."""
    new = name.with_name(f".{name.name}.new")
    new.symlink_to(target)
    new.rename(name)


def switch_link(work: Path) -> None:
    link(work / "site", "releases/b")


def move(work: Path) -> None:
    (work / "site").rename(work / "old")
    (work / "releases" / "b").rename(work / "site")


def remove_and_build(work: Path) -> None:
    shutil.rmtree(work / "site")
    make(work / "site", "b")


SWITCHES = {"link": switch_link, "moved": move, "built again": remove_and_build}


@pytest.fixture
def work() -> Iterator[Path]:
    """Where every user may search."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        yield Path(place).resolve()


def begin(work: Path, how: str) -> Path:
    """The path of a site in its first version, with the second beside it."""
    make(work / "releases" / "b", "b")
    if how == "link":
        make(work / "releases" / "a", "a")
        link(work / "site", "releases/a")
    else:
        make(work / "site", "a")
    return work / "site"


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = monotonic() + WITHIN + SLACK
    while not holds():
        assert monotonic() < deadline, what


# -- in every way --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", SWITCHES)
def test_a_root_that_is_replaced_is_followed(way: Way, how: str, work: Path) -> None:
    """At once where the old one has nothing: a 404 of the old root would be remembered."""

    def client(ask: Ask) -> None:
        old = ask(b"/page.txt")
        assert (old.status, old.content[:1]) == (200, b"a")
        SWITCHES[how](work)
        assert ask(b"/b.txt").content == b"b"
        new = ask(b"/page.txt")
        assert new.content == b"b" * 1000
        assert new.fields[b"etag"] != old.fields[b"etag"]
        assert ask(b"/a.txt").status == 404

    way.serve(begin(work, how), client)


def test_there_is_no_404_while_there_is_no_root(way: Way, work: Path) -> None:
    site = begin(work, "moved")

    def client(ask: Ask) -> None:
        assert ask(b"/page.txt").status == 200
        site.rename(work / "away")
        for path in (b"/nothing", b"/page.txt", b"/"):
            answer = ask(path)
            assert answer.status == 503
            assert answer.fields[b"retry-after"] == b"5"
        site.write_text("not a directory")
        assert ask(b"/page.txt").status == 503
        site.unlink()
        (work / "away").rename(site)
        assert ask(b"/page.txt").status == 200

    way.serve(site, client, spa=True)


def test_no_answer_mixes_two_roots(way: Way, work: Path) -> None:
    """However fast they are switched, while several clients ask."""
    site = begin(work, "link")
    over = threading.Event()
    answers: list[Answer] = []

    def client(ask: Ask) -> None:
        def visit() -> None:
            while not over.is_set():
                answers.append(ask(b"/page.txt"))

        visitors = [threading.Thread(target=visit) for _ in range(2)]
        for visitor in visitors:
            visitor.start()
        for number in range(20):
            version = "ba"[number % 2]
            link(site, f"releases/{version}")
            # A name that only this root has makes the server look; the other asks at any moment.
            assert ask(f"/{version}.txt".encode()).status == 200
        over.set()
        for visitor in visitors:
            visitor.join()

    way.serve(site, client)
    assert {answer.status for answer in answers} == {200}
    assert {answer.content for answer in answers} == {b"a" * 1000, b"b" * 1000}
    assert len({(answer.fields[b"etag"], answer.content) for answer in answers}) == 2


# -- as users start it ---------------------------------------------------------------------------


class Visitor(threading.Thread):
    """Asks for a page again and again, on one connection."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._over = threading.Event()
        self.wrong: list[str] = []
        self.versions: dict[str, str] = {}
        """By tag."""
        self.last = ""
        self.answers = 0

    def run(self) -> None:
        where = urlsplit(self._url)
        client = HTTPConnection(where.hostname or "", where.port, timeout=20)
        try:
            while not self._over.is_set():
                client.request("GET", "/page.txt")
                answer = client.getresponse()
                content = answer.read().decode()
                self.answers += 1
                version, tag = content[:1], answer.headers.get("ETag", "")
                whole = answer.status == 200 and content == version * 1000
                if not whole or self.versions.setdefault(tag, version) != version:
                    self.wrong.append(f"{answer.status} {tag} {content[:20]}")
                self.last = version
        except OSError as error:
            self.wrong.append(repr(error))
        finally:
            client.close()

    def stop(self) -> None:
        self._over.set()
        self.join()


@contextmanager
def visited(url: str) -> Iterator[Visitor]:
    visitor = Visitor(url)
    visitor.start()
    try:
        yield visitor
    finally:
        visitor.stop()


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "workers"])
def test_a_link_is_followed_under_traffic_and_nothing_is_lost(
    work: Path, workers: tuple[str, ...]
) -> None:
    """In the sandbox; with workers, by all of them."""
    site = begin(work, "link")
    with serving(str(site), *workers) as (process, url), visited(url) as visitor:
        until(lambda: visitor.answers > 10, "no answers")
        link(site, "releases/b")
        until(lambda: visitor.last == "b", "not followed")
        until(lambda: all_say(url, "b"), "not followed by all")
        visitor.stop()
        process.terminate()
        _, said = process.communicate(timeout=20)
    assert visitor.wrong == []
    assert said.splitlines() == [f"{site} is another directory now"] * (2 if workers else 1)


def all_say(url: str, version: str) -> bool:
    """Whether a number of new connections, of which each worker gets some, have that version."""
    return all(fetch(f"{url}/page.txt")[1][:1] == version for _ in range(12))


def test_it_is_not_ready_while_the_root_of_a_host_is_gone(work: Path) -> None:
    """Though nobody asks for it; the site of the others goes on."""
    site, other = make(work / "site", "a"), make(work / "other", "o")
    config = work / "knot.toml"
    config.write_text(f'[hosts."other.example"]\ndirectory = "{other}"\n')
    with administered(site, "--config", str(config), "--workers", "2") as (process, url, admin):
        assert fetch(f"{admin}/ready")[0] == 200
        other.rename(work / "away")
        until(lambda: fetch(f"{admin}/ready") == (503, "not ready\n"), "still ready")
        assert fetch(f"{admin}/health")[0] == 200
        assert fetch(f"{url}/page.txt")[0] == 200
        request = urllib.request.Request(f"{url}/o.txt", headers={"Host": "other.example"})
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(request, timeout=20)
        make(other, "p")
        until(lambda: fetch(f"{admin}/ready")[0] == 200, "not ready again")
        with urllib.request.urlopen(
            urllib.request.Request(f"{url}/p.txt", headers={"Host": "other.example"}), timeout=20
        ) as answer:
            assert answer.read() == b"p"
        process.terminate()
        _, said = process.communicate(timeout=20)
    gone = (
        f"cannot serve {other}: No such file or directory; until that is mended, the answer is 503"
    )
    back = f"there is a directory at {other} again"
    lines = said.splitlines()
    assert lines.count(gone) == lines.count(back) >= 1
    # The other worker may have looked only when there was a directory again.
    missed = f"{other} is another directory now"
    assert lines.count(gone) + lines.count(missed) == 2


@pytest.mark.parametrize("workers", [(), ("--workers", "1")], ids=["alone", "worker"])
def test_the_current_directory_may_be_built_again(work: Path, workers: tuple[str, ...]) -> None:
    """It is the site, and its path is relative: ``rm -rf dist && build``.  A worker that starts
    later starts in the new one."""
    site = begin(work, "built again")
    with serving(".", *workers, cwd=site) as (process, url):
        assert fetch(f"{url}/page.txt")[1][:1] == "a"
        remove_and_build(work)
        assert fetch(f"{url}/b.txt") == (200, "b")
        assert fetch(f"{url}/page.txt")[1][:1] == "b"
        if workers:
            old = children(process.pid)
            process.send_signal(signal.SIGHUP)
            until(lambda: children(process.pid).isdisjoint(old), "not renewed")
            assert fetch(f"{url}/page.txt")[1][:1] == "b"


def children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_a_mount_over_the_root_is_followed(work: Path) -> None:
    unshare = shutil.which("unshare")
    nsenter = shutil.which("nsenter")
    if unshare is None or nsenter is None or os.geteuid() != 0:
        pytest.skip("only root can mount, with unshare and nsenter")
    site = begin(work, "moved")
    alone = [unshare, "--mount", "--propagation", "private", *KNOT]
    with serving(str(site), knot=alone) as (process, url):
        assert fetch(f"{url}/page.txt")[1][:1] == "a"
        inside = [nsenter, f"--mount=/proc/{process.pid}/ns/mnt"]
        subprocess.run([*inside, "mount", "--bind", work / "releases" / "b", site], check=True)
        assert fetch(f"{url}/b.txt") == (200, "b")
        assert fetch(f"{url}/page.txt")[1][:1] == "b"


CONFINED = """
import sys
from pathlib import Path
from knot.process.sandbox import READ, confine
from knot.files.site import Site
work = Path(sys.argv[1])
site = Site(work / "site")
if not confine({str(work / "site"): READ}):
    print("no Landlock"); sys.exit()
print(site.find(b"/page.txt", 1).size)
for step in range(3):
    print(input())
    site.look()
    print(site.find(b"/page.txt", 2 + step))
site.close()
"""


def test_a_root_that_the_sandbox_does_not_cover_is_said_with_the_remedy(work: Path) -> None:
    """As where the site lies in ``/``, which no sandbox can leave readable."""
    site = begin(work, "moved")
    program = [sys.executable, "-c", CONFINED, str(work)]
    pipe = subprocess.PIPE
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        if process.stdout.readline() == "no Landlock\n":
            pytest.skip("the kernel has no Landlock")
        move(work)
        for _ in range(2):
            process.stdin.write("moved\n")
            process.stdin.flush()
            assert process.stdout.readline() == "moved\n"
            assert process.stdout.readline() == "NotServed(status=503)\n"
        site.rename(work / "releases" / "b")
        (work / "old").rename(site)
        process.stdin.write("back\n")
        process.stdin.close()
        assert process.stdout.readline() == "back\n"
        assert process.stdout.readline().startswith("<knot.files.representation.Representation")
        said = process.stderr.read().splitlines()
    assert len(said) == 2, said
    assert said[0].startswith(f"cannot serve {site}: the sandbox does not cover it; restart Knot")
    assert said[1] == f"there is a directory at {site} again"


# -- what options name ---------------------------------------------------------------------------


def test_passwords_and_certificates_behind_a_link_are_followed(work: Path) -> None:
    """In the sandbox; a password that was taken out is out."""
    authority = trustme.CA()
    for version, password in (("a", b"old"), ("b", b"new")):
        release = work / "releases" / version
        release.mkdir(parents=True)
        hash = bcrypt.hashpw(password, bcrypt.gensalt(4))
        (release / "users").write_bytes(b"alice:%b\n" % hash)
        issued = authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_and_cert_chain_pem.write_to_path(str(release / "both.pem"))
    link(work / "current", "releases/a")
    site = make(work / "site", "a")
    given = ("--cert", f"{work}/current/both.pem", "--auth", f"{work}/current/users")
    with serving(str(site), *given) as (_, url):
        before = certificate(url)
        assert (status(url, b"alice:old"), status(url, b"alice:new")) == (200, 401)
        link(work / "current", "releases/b")
        until(lambda: status(url, b"alice:old") == 401, "the old password is still right")
        assert status(url, b"alice:new") == 200
        until(lambda: certificate(url) != before, "the old certificate is still shown")
        (work / "current").unlink()
        until(lambda: status(url, b"alice:new") == 503, "nobody can know whom to let in")


def certificate(url: str) -> str:
    where = urlsplit(url)
    return ssl.get_server_certificate((where.hostname or "", where.port or 0))


def status(url: str, pair: bytes) -> int:
    context = ssl._create_unverified_context()
    request = urllib.request.Request(
        f"{url}/page.txt", headers={"Authorization": f"Basic {b64encode(pair).decode()}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=20, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
