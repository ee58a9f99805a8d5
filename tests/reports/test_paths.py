"""No path in a directory of somebody else is followed with root's rights."""

from __future__ import annotations

import os
import pwd
import select
import signal
import socket
import stat
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest
from serving import KNOT, plain_environment, serving

from knot import self_signed
from knot.process import listeners as sockets
from knot.process.listeners import listen_at
from knot.process.safe_paths import (
    acting_as,
    follow,
    open_to_append,
    place_to_append,
    refuse_strangers,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to lend")

NOBODY = pwd.getpwnam("nobody")

PATIENCE = 20


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of root's that everybody can look into."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def theirs(place: Path) -> Path:
    """A directory of another user's."""
    directory = place / "theirs"
    directory.mkdir()
    os.chown(directory, NOBODY.pw_uid, NOBODY.pw_gid)
    return directory


@pytest.fixture
def site(place: Path) -> Path:
    directory = place / "site"
    directory.mkdir()
    (directory / "index.html").write_text("home")
    return directory


@pytest.fixture
def target(place: Path) -> Iterator[Path]:
    """A file of root's that is as it was in the end."""
    directory = place / "etc"
    directory.mkdir()
    file = directory / "shadow"
    file.write_text("secret")
    file.chmod(0o600)
    yield file
    assert file.read_text() == "secret"
    assert sorted(directory.iterdir()) == [file]
    status = file.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, 0o600)


def link(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def hard_link(path: Path, target: Path) -> Path:
    path.hardlink_to(target)
    return path


def dangling(path: Path, target: Path) -> Path:
    path.symlink_to(target.with_name("new"))
    return path


def directory_link(path: Path, target: Path) -> Path:
    path.symlink_to(target.parent)
    return path / target.name


def directory_link_to_none(path: Path, target: Path) -> Path:
    path.symlink_to(target.parent)
    return path / "new"


PLANTED = [link, hard_link, dangling, directory_link, directory_link_to_none]


def until(holds: Callable[[], object]) -> None:
    deadline = monotonic() + PATIENCE
    while not holds():
        assert monotonic() < deadline


# -- the log ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", [NOBODY, None], ids=["for a user", "for root"])
@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_planted_for_the_log_is_not_opened(
    theirs: Path, target: Path, plant: Callable[[Path, Path], Path], user: pwd.struct_passwd | None
) -> None:
    path = plant(theirs / "access.log", target)
    with pytest.raises(OSError, match=r"others than root can change|another name"):
        open_to_append(str(path), user)
    assert os.geteuid() == 0


def test_a_fifo_in_place_of_the_log_does_not_hold_up_the_start(theirs: Path) -> None:
    path = theirs / "access.log"
    os.mkfifo(path)
    os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    os.close(open_to_append(str(path), NOBODY))
    with pytest.raises(OSError, match="not a regular file"):
        open_to_append(str(path))


@pytest.mark.parametrize("user", [NOBODY, None], ids=["for a user", "for root"])
def test_a_log_in_the_directory_of_its_user(theirs: Path, user: pwd.struct_passwd | None) -> None:
    path = theirs / "access.log"
    for _ in range(2):  # it is made, and it is there
        fd = open_to_append(str(path), user)
        assert os.get_blocking(fd)
        assert not os.get_inheritable(fd)
        os.write(fd, b"line\n")
        os.close(fd)
    assert path.read_text() == "line\nline\n"
    assert path.stat().st_uid == (0 if user is None else user.pw_uid)


def test_a_log_where_only_root_can_write_is_given_to_the_user(tmp_path: Path) -> None:
    """Also through links that only root can have made."""
    (tmp_path / "data").mkdir()
    (tmp_path / "var").symlink_to("data")
    (tmp_path / "data" / "access.log").symlink_to(tmp_path / "data" / "of-today")
    os.close(open_to_append(str(tmp_path / "var" / ".." / "var" / "access.log"), NOBODY))
    status = (tmp_path / "data" / "of-today").stat()
    assert (status.st_uid, status.st_gid) == (NOBODY.pw_uid, NOBODY.pw_gid)
    assert stat.S_IMODE(status.st_mode) == 0o640
    (tmp_path / "second").hardlink_to(tmp_path / "data" / "of-today")
    os.chown(tmp_path / "second", 0, 0)
    with pytest.raises(OSError, match="another name"):
        open_to_append(str(tmp_path / "second"), NOBODY)


def test_what_root_names_deliberately_stays_usable(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = [os.stat(path) for path in ("/dev/null", "/dev/fd/1")]
    for path in ("/dev/null", "/dev/full", "/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"):
        for user in (NOBODY, None):
            os.close(open_to_append(path, user))
    for user in (NOBODY, None):
        fd = open_to_append("/dev/stdout", user)
        os.write(fd, b"line\n")
        os.close(fd)
    assert capfd.readouterr().out == "line\nline\n"
    for path, status in zip(("/dev/null", "/dev/fd/1"), before, strict=True):
        assert (os.stat(path).st_uid, os.stat(path).st_mode) == (status.st_uid, status.st_mode)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for user in (NOBODY, None):
        fd = open_to_append(str(fifo), user)
        reader = os.open(fifo, os.O_RDONLY)
        os.write(fd, b"line\n")
        assert os.read(reader, 10) == b"line\n"
        os.close(reader)
        os.close(fd)


def test_only_the_log_itself_stays_writable_where_it_is_a_device(tmp_path: Path) -> None:
    assert place_to_append("/dev/stdout") is None
    assert place_to_append("/dev/null") == "/dev/null"
    assert place_to_append(str(tmp_path / "access.log")) == str(tmp_path)


def test_a_link_in_a_directory_for_all_is_followed_if_it_is_roots(place: Path) -> None:
    """As /tmp is, and as the kernel itself does (protected_symlinks)."""
    shared = place / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    (place / "real").mkdir()
    (shared / "link").symlink_to(place / "real")
    found = follow(str(shared / "link" / "file"))
    os.close(found.directory)
    assert (found.name, found.stranger, found.shared) == ("file", "", "")
    os.lchown(shared / "link", NOBODY.pw_uid, NOBODY.pw_gid)
    with pytest.raises(PermissionError, match="others than root can change"):
        follow(str(shared / "link" / "file"))
    shared.chmod(0o777)
    os.lchown(shared / "link", 0, 0)
    with pytest.raises(PermissionError, match="others than root can change"):
        refuse_strangers(str(shared / "link" / "file"))
    shared.chmod(0o755)
    (shared / "round").symlink_to("round")
    for path in ("round", "round/file"):
        with pytest.raises(OSError, match="Too many levels"):
            follow(str(shared / path))


def knot(site: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """One that does not start."""
    return subprocess.run(
        [*KNOT, "serve", str(site), *options],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=plain_environment(),
    )


def test_a_log_that_cannot_be_trusted_is_one_sentence(
    site: Path, theirs: Path, target: Path
) -> None:
    path = link(theirs / "access.log", target)
    done = knot(site, "--port", "0", "--user", "nobody", "--log-file", str(path))
    assert done.returncode == 1
    assert done.stderr == (
        f"knot: cannot write the log to {path}: others than root can change {theirs};"
        " choose another --log-file\n"
    )


def said(process: subprocess.Popen[str], text: str) -> str:
    """What stands on standard error until a line has this text."""
    assert process.stderr is not None
    lines = ""
    while text not in lines:
        assert select.select([process.stderr], [], [], PATIENCE)[0], lines
        line = process.stderr.readline()
        assert line, lines
        lines += line
    return lines


def test_the_log_of_new_workers_is_not_opened_through_a_link(
    site: Path, theirs: Path, target: Path
) -> None:
    path = theirs / "access.log"
    options = ("--workers", "1", "--user", "nobody", "--log-file", str(path))
    with serving(str(site), *options) as (process, url):
        assert path.stat().st_uid == NOBODY.pw_uid
        path.unlink()
        link(path, target)
        process.send_signal(signal.SIGHUP)
        said(process, "cannot write the log")
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:  # of the old worker
            assert answer.status == 200


def test_a_new_log_is_not_opened_through_a_link(site: Path, theirs: Path, target: Path) -> None:
    path = theirs / "access.log"
    with serving(str(site), "--no-sandbox", "--log-file", str(path)) as (process, url):
        path.unlink()
        link(path, target)
        process.send_signal(signal.SIGUSR1)
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            assert answer.status == 200
        said(process, "cannot reopen the access log")


# -- the socket ------------------------------------------------------------------------------------


def test_a_socket_in_the_directory_of_its_user_is_that_users(theirs: Path) -> None:
    path = theirs / "socket"
    umask = os.umask(0o077)
    try:
        for _ in range(2):
            with listen_at(str(path), NOBODY):
                status = path.stat()
                assert status.st_uid == NOBODY.pw_uid
                assert stat.S_IMODE(status.st_mode) == 0o666
            with acting_as(NOBODY):
                leave_behind(path)
    finally:
        os.umask(umask)


def leave_behind(path: Path) -> None:
    """As a server does that is killed."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def test_a_socket_where_only_root_can_write_is_roots(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listen_at(str(path), NOBODY):
        assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (0, 0o666)


def test_root_listens_in_no_directory_of_somebody_else(site: Path, theirs: Path) -> None:
    done = knot(site, "--unix", str(theirs / "socket"))
    assert done.returncode == 1
    assert done.stderr == (
        f"knot: cannot listen on {theirs / 'socket'}: others than root can change {theirs}\n"
    )
    assert not list(theirs.iterdir())


@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_planted_for_the_socket_is_neither_opened_nor_removed(
    theirs: Path, target: Path, plant: Callable[[Path, Path], Path]
) -> None:
    path = plant(theirs / "socket", target)
    for user in (NOBODY, None):
        with pytest.raises(OSError, match=r"in use|others than root can change"):
            listen_at(str(path), user)
    assert os.path.lexists(theirs / "socket")


def test_a_socket_that_was_left_by_another_user_is_not_removed(place: Path) -> None:
    """In a directory for all, as /tmp is."""
    place.chmod(0o1777)
    path = place / "socket"
    with acting_as(NOBODY), socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
    with pytest.raises(OSError, match="in use"):
        listen_at(str(path))
    assert path.stat().st_uid == NOBODY.pw_uid


def test_a_successor_that_took_the_name_of_a_dead_socket_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "socket"
    leave_behind(path)
    probe = sockets.left_behind
    with socket.socket(socket.AF_UNIX) as successor:

        def left_behind(path: str) -> os.stat_result | None:
            found = probe(path)
            os.unlink(path)
            successor.bind(path)
            successor.listen()
            return found

        monkeypatch.setattr(sockets, "left_behind", left_behind)
        with pytest.raises(OSError, match="in use"):
            listen_at(str(path))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert list(tmp_path.iterdir()) == [path]


# -- the certificate -------------------------------------------------------------------------------


def test_no_certificate_is_kept_where_others_can_change_it(
    theirs: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trustme", reason="trustme is not installed")
    for cache in (theirs, theirs / "link", theirs / "new" / "cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        with pytest.raises(PermissionError, match="others than root can change"):
            self_signed.certificate("localhost")
        if cache == theirs:
            (theirs / "link").symlink_to(target.parent)


def test_a_certificate_is_not_written_through_a_link(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trustme", reason="trustme is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "knot").mkdir()
    for name in ("localhost.pem", "localhost-authority.pem"):
        link(tmp_path / "knot" / f".{name}.{os.getpid()}", target)
    path = Path(self_signed.certificate("localhost"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
