"""Names and passwords: what is right, what it costs, and what is remembered."""

from __future__ import annotations

import logging
import os
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from threading import Semaphore, Thread
from time import time

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knot.access import passwords as module
from knot.access.passwords import LOOK_INTERVAL, NOBODY, Passwords, parse, read_users


def hashed(password: bytes, prefix: bytes = b"2a", cost: int = 4) -> bytes:
    hash = bcrypt.hashpw(password, bcrypt.gensalt(cost))
    return hash.replace(b"$2b$", b"$%b$" % prefix)


ALICE, BOB = hashed(b"wonder", b"2y"), hashed(b"builder")


def basic(name: bytes, password: bytes) -> bytes:
    return b"Basic " + b64encode(name + b":" + password)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "passwords"
    path.write_bytes(b"# who may come\nalice:%b\n\nbob:%b\n" % (ALICE, BOB))
    return path


@pytest.fixture
def passwords(file: Path) -> Passwords:
    return Passwords(str(file), Semaphore(2))


def ask(passwords: Passwords, credentials: bytes) -> bool:
    """Whether they are right, by a check if it takes one."""
    outcome = passwords.known(credentials)
    if outcome is None:
        find = passwords.begin(credentials)
        assert find is not None
        outcome = find()
        passwords.keep(credentials, outcome)
        assert passwords.known(credentials) == outcome
    return outcome.right


# -- the field -----------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40)


@given(TEXT.filter(lambda name: ":" not in name), TEXT, st.sampled_from([b"Basic", b"bAsIc"]))
def test_the_field_has_a_name_and_a_password(name: str, password: str, scheme: bytes) -> None:
    value = scheme + b" " + b64encode(f"{name}:{password}".encode())
    assert parse(value) == (name.encode(), password.encode())


@pytest.mark.parametrize(
    "value",
    [
        b"", b"Basic", b"Basic ", b"Basic =", b"Basic YWxpY2U=", b"Basic YTpi!", b"Basic YTpi YTpi",
        b"Basic YTpi, Basic YTpi", b"Bearer YTpi", b"BasicYTpi", b"YTpi",
        basic(b"a\0", b"b"), basic(b"a", b"b\n"), basic(b"\xff", b"b"), basic(b"a" * 256, b"b"),
        basic(b"a", b"b" * 1000),
    ],
)  # fmt: skip
def test_the_field_has_none(value: bytes, passwords: Passwords) -> None:
    assert parse(value) is None
    assert passwords.known(value) is NOBODY


@given(st.binary(max_size=60))
def test_any_field_is_taken_apart_or_is_not(value: bytes) -> None:
    assert parse(value) is None or len(parse(value) or ()) == 2
    assert parse(b"Basic " + b64encode(value)) is None or b":" in value


# -- the file ------------------------------------------------------------------------------------


def test_the_users_are_those_of_the_file(file: Path) -> None:
    assert read_users(str(file)) == {b"alice": ALICE, b"bob": BOB}


HASHES = [
    "$apr1$GTz8yIFL$aVX1t9Z8tqBNKUc7NPxzc1",  # of MD5
    "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
    "rqXexS6ZhobKA",  # of crypt(3)
    "$5$salt$Gcm6FsVtF/Qa77ZKD.iwsJlCVPY0XSMgLJL0Hnww/c1",
    "plain",
    "",
    "$2y$05$tooshort",
    "$2x$05$" + "a" * 53,
    "$2y$03$" + "a" * 53,
    "$2y$32$" + "a" * 53,
]


@pytest.mark.parametrize("hash", HASHES)
def test_other_hashes_are_refused_with_their_line_and_the_remedy(file: Path, hash: str) -> None:
    file.write_text(f"alice:{ALICE.decode()}\ncarol:{hash}\n")
    with pytest.raises(ValueError, match="is not kept by bcrypt") as caught:
        Passwords(str(file), Semaphore(2))
    said = str(caught.value)
    assert said.startswith(f"{file}, line 2: the password of carol ")
    assert said.endswith(f"set it again with htpasswd -B {file} carol")
    assert hash not in said or not hash


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "has no users; add one with htpasswd -B"),
        (b"# nobody\n", "has no users"),
        (b":" + ALICE, "line 1: it is not of the form name:hash"),
        (b"\n\0:" + ALICE, "line 2: it is not of the form name:hash"),
        (b"a:%b\nb:%b\na:%b" % (ALICE, ALICE, BOB), "line 3: a occurs twice"),
    ],
    ids=["empty", "a comment", "no name", "a control character", "a name twice"],
)
def test_what_is_no_such_file_is_refused(file: Path, text: bytes, said: str) -> None:
    file.write_bytes(text)
    with pytest.raises(ValueError, match=said):
        read_users(str(file))


def test_a_changed_file_is_read_anew(file: Path, passwords: Passwords) -> None:
    passwords.look(1.0)
    assert ask(passwords, basic(b"alice", b"wonder"))
    assert not ask(passwords, basic(b"carol", b"x"))
    assert ask(passwords, basic(b"bob", b"builder"))
    other = file.with_suffix(".new")
    other.write_bytes(b"carol:%b\nbob:%b\nalice:%b" % (hashed(b"x"), BOB, hashed(b"new")))
    other.rename(file)
    passwords.look(1.0 + LOOK_INTERVAL / 2)
    assert ask(passwords, basic(b"alice", b"wonder")), "it was looked at a moment ago"
    passwords.look(1.0 + LOOK_INTERVAL)
    assert passwords.known(basic(b"bob", b"builder")), "who did not change need not be checked"
    for name, password, right in ((b"alice", b"wonder", False), (b"alice", b"new", True)):
        assert passwords.known(basic(name, password)) is None
        assert ask(passwords, basic(name, password)) is right
    assert ask(passwords, basic(b"carol", b"x")), "a name that did not exist may come to be"


def test_a_user_who_is_taken_out_is_out_at_once(file: Path, passwords: Passwords) -> None:
    assert ask(passwords, basic(b"alice", b"wonder"))
    file.write_bytes(b"bob:%b\n" % BOB)
    passwords.look(100.0)
    assert not ask(passwords, basic(b"alice", b"wonder"))


def test_a_clock_that_is_set_back_does_not_stop_the_looking(
    file: Path, passwords: Passwords
) -> None:
    passwords.look(1e9)
    file.write_bytes(b"carol:%b\n" % hashed(b"x"))
    passwords.look(1e3)
    assert ask(passwords, basic(b"carol", b"x"))


def test_a_file_of_equal_size_and_time_is_another(
    file: Path, passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `tar`, `cp -p` and `unzip` leave it: the old password stayed valid."""
    monkeypatch.setattr(module, "time", lambda: time() + 3600)
    passwords = Passwords(str(file), Semaphore(2))
    before = file.stat()
    content = file.read_bytes().replace(ALICE, hashed(b"other", b"2y"))
    for number, way in enumerate((file.write_bytes, beside(file)), 1):
        way(content)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert file.stat().st_size == before.st_size
        passwords.look(100.0 * number)
        assert ask(passwords, basic(b"alice", b"wonder")) is (number == 2)
        content = content.replace(read_users(str(file))[b"alice"], ALICE)


def beside(file: Path) -> Callable[[bytes], object]:
    """A way to write it: a new file takes the place of the old one."""

    def write(content: bytes) -> None:
        new = file.with_name("new")
        new.write_bytes(content)
        new.replace(file)

    return write


def test_a_file_is_read_again_until_an_equal_stamp_proves_that_it_is_the_same(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have changed twice within one tick of the file system's clock."""
    read: list[str] = []

    def noted(path: str) -> dict[bytes, bytes]:
        read.append(path)
        return read_users(path)

    monkeypatch.setattr(module, "read_users", noted)
    ahead = 0.0
    monkeypatch.setattr(module, "time", lambda: time() + ahead)
    passwords = Passwords(str(file), Semaphore(2))
    for ahead, times in ((1.0, 2), (-9.0, 3), (3.0, 4), (4.0, 4), (5.0, 4)):
        passwords.look(1000 + ahead)
        assert len(read) == times


def test_a_disk_that_fails_says_nothing_of_the_file(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "stat", fail)
    passwords.look(1.0)
    assert passwords.are_there
    assert ask(passwords, basic(b"alice", b"wonder"))


def test_a_file_that_has_become_bad_changes_nothing_and_is_told_once(
    file: Path, passwords: Passwords, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_bytes(b"alice:$apr1$x$y\n")
    with caplog.at_level(logging.ERROR, "knot"):
        for now in range(10, 40, 10):
            passwords.look(float(now))
        assert passwords.are_there
        assert ask(passwords, basic(b"alice", b"wonder"))
        os.unlink(file)
        passwords.look(50.0)
        passwords.look(60.0)
        assert not passwords.are_there
        file.write_bytes(b"")
        passwords.look(65.0)
        assert not passwords.are_there, "what cannot be used changes nothing"
    assert len(caplog.messages) == 3
    assert "line 1: the password of alice is not kept by bcrypt" in caplog.messages[0]
    assert caplog.messages[0].endswith("; the old ones stay")
    assert caplog.messages[1].endswith("No such file or directory; nobody is let in")
    file.write_bytes(b"alice:%b\n" % hashed(b"new"))
    passwords.look(70.0)
    assert passwords.are_there
    assert ask(passwords, basic(b"alice", b"new"))
    assert not ask(passwords, basic(b"bob", b"builder"))


# -- a check -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [b"2a", b"2b", b"2y"])
@pytest.mark.parametrize("password", [b"", b"x", "pässwörd ☃".encode(), b"a:b", b"y" * 100])
def test_every_kind_of_bcrypt_is_known(file: Path, prefix: bytes, password: bytes) -> None:
    file.write_bytes(b"carol:" + hashed(password[:72], prefix))
    passwords = Passwords(str(file), Semaphore(2))
    assert ask(passwords, basic(b"carol", password))
    assert not ask(passwords, basic(b"carol", b"?" + password))
    assert not ask(passwords, basic(b"Carol", password))


def test_a_name_that_does_not_exist_costs_what_a_user_costs(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def matches(password: bytes, hash: bytes) -> bool:
        compared.append(hash)
        return True  # as if it were that user's password

    monkeypatch.setattr(module, "matches", matches)
    for number in range(40):
        name = b"nobody %d" % (number % 20)
        outcome = passwords._find(basic(name, b"%d" % number))
        passwords._turns.acquire()
        assert not outcome.right
    assert set(compared) == {ALICE, BOB}, "as the users' costs may differ, so do theirs"
    assert compared[:20] == compared[20:], "the same name has always the same"


def test_two_checks_go_on_at_once_and_no_more(file: Path) -> None:
    turns = Semaphore(2)
    one, other = Passwords(str(file), turns), Passwords(str(file), turns)
    first = one.begin(basic(b"alice", b"1"))
    second = other.begin(basic(b"alice", b"2"))
    assert first
    assert second
    assert one.begin(basic(b"alice", b"3")) is None
    assert other.begin(basic(b"bob", b"builder")) is None
    assert not first().right
    assert one.begin(basic(b"bob", b"builder"))
    second()


def test_who_asks_with_the_same_password_waits_for_the_same_check(passwords: Passwords) -> None:
    credentials = basic(b"alice", b"wonder")
    find = passwords.begin(credentials)
    others = [passwords.begin(credentials) for _ in range(5)]
    assert find
    found: list[bool] = []
    threads = [
        Thread(target=lambda join=join: found.append(join().right)) for join in others if join
    ]
    for thread in threads:
        thread.start()
    assert found == []
    passwords.keep(credentials, find())
    for thread in threads:
        thread.join()
    assert found == [True] * 5
    assert not passwords._under_way


def test_a_check_that_fails_gives_its_turn_back(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(password: bytes, hash: bytes) -> bool:
        raise MemoryError

    monkeypatch.setattr(module, "matches", fail)
    for number in range(5):
        find = passwords.begin(basic(b"alice", b"%d" % number))
        assert find
        with pytest.raises(MemoryError):
            find()


# -- what is remembered --------------------------------------------------------------------------


def test_guesses_are_remembered_up_to_a_bound_and_push_nobody_out(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WRONG", 100)
    assert ask(passwords, basic(b"alice", b"wonder"))
    monkeypatch.setattr(module, "matches", lambda *_: False)
    for number in range(500):
        assert not ask(passwords, basic(b"alice", b"%d" % number))
    assert len(passwords._wrong) == 100
    assert passwords.known(basic(b"alice", b"wonder"))
    assert passwords.known(basic(b"alice", b"499"))
    assert passwords.known(basic(b"alice", b"0")) is None


def test_no_password_is_kept(passwords: Passwords) -> None:
    ask(passwords, basic(b"alice", b"wonder"))
    ask(passwords, basic(b"alice", b"wunder"))
    kept = repr([vars(passwords)[name] for name in ("_right", "_wrong", "_under_way", "_users")])
    for credentials in (basic(b"alice", b"wonder"), basic(b"alice", b"wunder")):
        assert credentials.decode() not in kept
    assert "wonder" not in kept
    assert "wunder" not in kept
    assert all(len(key) == 16 for key in passwords._right | passwords._wrong)


def test_two_servers_keep_the_same_password_under_other_keys(file: Path) -> None:
    one, other = (Passwords(str(file), Semaphore(2)) for _ in range(2))
    for each in (one, other):
        ask(each, basic(b"alice", b"wonder"))
    assert set(one._right) != set(other._right)
