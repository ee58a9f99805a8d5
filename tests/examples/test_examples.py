"""The paper's programs, run against a name server on the loopback.

Each runs in two forms, as it is written and as `tame translate` prints it, and on each driver.
The name server makes concurrency visible: it holds its answers back until as many questions wait
as the program is said to ask at a time, so a program that asks fewer gets no answer at all.
"""

from __future__ import annotations

import importlib
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from tame import BlockedWarning, Event, Rendezvous, mkevent, run, tamed, tvars, twait
from tame.__main__ import main as tame_command

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))

NAMES = [f"host{i}.test" for i in range(7)]
ADDRESSES = [f"192.0.2.{i}" for i in range(7)]

PROGRAMS = [  # with how many questions each has open at a time
    ("multidns", 1),
    ("multidns_tame", 1),
    ("multidns_par", 7),
    ("multidns_win", 3),
    ("add_timeout", 7),
]
TAMED = [
    ("multidns_tame", "multidns_tame", 1),
    ("multidns_par", "multidns_par", 7),
    ("multidns_win", "multidns_win", 3),
    ("add_timeout", "multidns_timeout", 7),
]


# -- a name server -----------------------------------------------------------------------------

ASKED = b"\xc0\x0c"  # the name in the question, as a pointer to it (RFC 1035, 4.1.4)


def record(owner: bytes, kind: int, data: bytes) -> bytes:
    return owner + struct.pack("!2HIH", kind, 1, 60, len(data)) + data


def a(owner: bytes, address: str) -> bytes:
    return record(owner, 1, socket.inet_aton(address))


def reply(query: bytes, *records: bytes, flags: int = 0x8180) -> bytes:
    counts = struct.pack("!5H", flags, 1, len(records), 0, 0)
    return query[:2] + counts + query[12:] + b"".join(records)


def name_asked(query: bytes) -> str:
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    return ".".join(labels)


class NameServer(threading.Thread):
    """Answers the newest question first, whenever `hold` of them wait or no more are to come."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.hold = 1
        self.expected = 1000  # questions, in all
        self.drop = 0  # as many are lost on the way
        self.forge: Callable[[bytes], list[bytes]] = lambda query: []  # sent before the answer
        self.waiting: list[tuple[bytes, Any]] = []
        self.asked: list[str] = []
        self.most = 0  # questions that waited at a time

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.socket.getsockname()[1]}"

    def run(self) -> None:
        answered = 0
        while True:
            query, client = self.socket.recvfrom(512)
            if query == b"stop":
                return
            if query != b"release":
                self.take(query, client)
            while self.waiting and len(self.waiting) >= min(self.hold, self.expected - answered):
                self.answer(*self.waiting.pop())
                answered += 1

    def take(self, query: bytes, client: Any) -> None:
        self.asked.append(name_asked(query))
        if self.drop:
            self.drop -= 1
        elif (query, client) not in self.waiting:
            self.waiting.append((query, client))
            self.most = max(self.most, len(self.waiting))

    def answer(self, query: bytes, client: Any) -> None:
        name = name_asked(query)
        if name in NAMES:
            right = reply(query, a(ASKED, ADDRESSES[NAMES.index(name)]))
        else:
            right = reply(query, flags=0x8183)
        for datagram in [*self.forge(query), right]:
            self.socket.sendto(datagram, client)

    def release(self) -> None:
        """Answer everything, from now on at once."""
        self.hold = 1
        self.socket.sendto(b"release", self.socket.getsockname())

    def stop(self) -> None:
        """Returns when all that was sent before has been seen."""
        if self.is_alive():
            self.socket.sendto(b"stop", self.socket.getsockname())
            self.join()
            self.socket.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    server.start()
    monkeypatch.setenv("NAMESERVER", server.address)
    yield server
    server.stop()


# -- the two forms -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def translated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples as `tame translate` prints them."""
    folder = tmp_path_factory.mktemp("translated")
    for file in FILES:
        arguments = ["translate", str(file), "-o", str(folder / file.name)]
        tame_command(arguments, standalone_mode=False)
    return folder


@pytest.fixture(params=["as written", "translated"])
def folder(request: pytest.FixtureRequest) -> Path:
    if request.param == "translated":
        path: Path = request.getfixturevalue("translated")
        return path
    return EXAMPLES


Load = Callable[[str], Any]


@pytest.fixture
def load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Imports an example.  A translated one cannot import the translator."""
    if folder != EXAMPLES:
        monkeypatch.setitem(sys.modules, "tame.translate", None)
    monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module
    for file in FILES:
        sys.modules.pop(file.stem, None)


@pytest.fixture
def resolver(load: Load, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The resolver, which asks once and does not wait for ever."""
    resolver = load("resolver")
    monkeypatch.setattr(resolver, "ATTEMPTS", 1)
    monkeypatch.setattr(resolver, "RETRY_AFTER", 10.0)
    return resolver


def look_up(resolver: Any, name: str) -> list[str]:
    """What `gethost_ev` answers, in a list."""
    answers: list[str] = []
    run(one_lookup, resolver.gethost_ev, name, answers)
    return answers


@tamed
def one_lookup(gethost_ev: Any, name: str, answers: list[str]) -> None:
    with tvars:
        address = ""
    with twait:
        gethost_ev(name, mkevent(address))
    answers.append(address)


# -- as programs ---------------------------------------------------------------------------------

WITHOUT_TRANSLATOR = """
import os, runpy, sys
sys.modules["tame.translate"] = None
del sys.argv[0]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""

Ended = subprocess.CompletedProcess[str]


def start(folder: Path, program: str, *names: str, translator: bool | None = None) -> Ended:
    """Run an example as a user does; by default a translated one cannot import the translator."""
    if translator is None:
        translator = folder == EXAMPLES
    command = [sys.executable, "-W", "error", *([] if translator else ["-c", WITHOUT_TRANSLATOR])]
    command += [str(folder / f"{program}.py"), *names]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("program", "open_at_a_time"), PROGRAMS)
def test_a_program_prints_the_addresses(
    folder: Path, driver: str, server: NameServer, program: str, open_at_a_time: int
) -> None:
    server.hold, server.expected = open_at_a_time, len(NAMES)
    ended = start(folder, program, *NAMES)
    assert ended.stderr == ""
    lines = [f"{name} {address}" for name, address in zip(NAMES, ADDRESSES, strict=True)]
    assert ended.stdout.splitlines() == lines
    assert ended.returncode == 0
    assert server.most == open_at_a_time


@pytest.mark.parametrize(("program", "_open"), PROGRAMS)
def test_a_program_names_what_it_cannot_find(
    folder: Path, server: NameServer, program: str, _open: int
) -> None:
    ended = start(folder, program, NAMES[0], "no.test")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "no.test: there is no such name (NXDOMAIN)\n"


@pytest.mark.parametrize(("program", "_open"), PROGRAMS)
def test_a_program_without_arguments_says_how_to_use_it(program: str, _open: int) -> None:
    ended = start(EXAMPLES, program)
    assert ended.returncode == 1
    assert ended.stderr == f"usage: {EXAMPLES / program}.py NAME...\n"


def test_without_the_translator_an_example_as_written_cannot_run() -> None:
    ended = start(EXAMPLES, "multidns_par", "127.0.0.1", translator=False)
    assert "import of tame.translate halted" in ended.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_translated_example_has_none_of_the_words(file: Path, translated: Path) -> None:
    code = compile((translated / file.name).read_text(), file.name, "exec")
    words = {"tamed", "twait", "mkevent", "tvars"}
    assert not words & {name for part in codes_of(code) for name in part.co_names}


def codes_of(code: CodeType) -> Iterator[CodeType]:
    """The code in `code`, without the module's own, where the words are still imported."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from codes_of(constant)


# -- control flow --------------------------------------------------------------------------------


@pytest.mark.parametrize(("program", "function", "open_at_a_time"), TAMED)
def test_never_more_lookups_at_a_time_than_said(
    load: Load,
    resolver: Any,
    driver: str,
    server: NameServer,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    function: str,
    open_at_a_time: int,
) -> None:
    server.hold, server.expected = open_at_a_time, len(NAMES)
    module = load(program)
    events: list[Event[str]] = []
    most = 0

    def counted(name: str, e: Event[str]) -> None:
        nonlocal most
        events.append(e)
        most = max(most, sum(event.live for event in events))
        resolver.gethost_ev(name, e)

    monkeypatch.setattr(module, "gethost_ev", counted)
    addresses = [""] * len(NAMES)
    done = Event[()]()
    run(getattr(module, function), NAMES, addresses, len(NAMES), done)
    assert addresses == ADDRESSES
    assert not done.live
    assert most == server.most == open_at_a_time


@pytest.mark.parametrize(("program", "function", "_open"), TAMED)
def test_a_lookup_that_fails_ends_the_whole(
    load: Load,
    resolver: Any,
    driver: str,
    server: NameServer,
    program: str,
    function: str,
    _open: int,
) -> None:
    names = [*NAMES[:3], "no.test"]
    done = Event[()]()
    with pytest.raises(resolver.ResolverError, match=r"^no\.test: .*NXDOMAIN"):
        run(getattr(load(program), function), names, [""] * 4, 4, done)
    assert done.live


def test_several_parallel_lookups_that_fail_arrive_together(
    load: Load, resolver: Any, driver: str, server: NameServer
) -> None:
    names = ["no.test", NAMES[0], "never.test"]
    with pytest.raises(ExceptionGroup) as raised:
        run(load("multidns_par").multidns_par, names, [""] * 3, 3, Event())
    assert {str(error).partition(":")[0] for error in raised.value.exceptions} == {
        "no.test",
        "never.test",
    }


# -- add_timeout ---------------------------------------------------------------------------------


def test_in_time(
    load: Load, resolver: Any, driver: str, server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load("add_timeout")
    monkeypatch.setattr(module, "TIMEOUT", 60.0)
    addresses = [""]
    run(module.multidns_timeout, NAMES[:1], addresses, 1, Event())
    assert addresses == ADDRESSES[:1]


def test_timed_out_beside_one_in_time(
    load: Load, resolver: Any, driver: str, server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.hold = 2
    module = load("add_timeout")
    monkeypatch.setattr(module, "TIMEOUT", 0.0)
    answers = ["", ""]
    with pytest.warns(BlockedWarning, match="1 closure is still blocked:\n.*gethost_ev"):
        run(module.multidns_timeout, ["127.0.0.1", NAMES[0]], answers, 2, Event())
    assert answers == ["127.0.0.1", "timed out"]


@tamed
def lookup_then(gethost_ev: Any, name: str, base: Event[str], done: Event[str]) -> None:
    """Looks up a name for `base`, and then tells when `base` has been triggered."""
    with tvars:
        address = ""
    with twait:
        gethost_ev(name, mkevent(address))
    base.trigger(address)
    done.trigger(address)


@tamed
def answered_late(load: Load, server: NameServer, seen: list[Any]) -> None:
    with tvars:
        r = Rendezvous[str]()
        ok: bool | None = None
        address: str | None = "untouched"
        late = ""
    base = load("add_timeout").add_timeout(mkevent(r, "limit", ok, address))
    lookup_then(load("resolver").gethost_ev, NAMES[0], base, mkevent(r, "answer", late))
    seen.append((twait(r), ok, address, late))
    seen.append(base.live)
    address = "untouched"
    server.release()
    seen.append((twait(r), ok, address, late))


def test_an_answer_after_the_timeout_is_ignored(
    load: Load, resolver: Any, driver: str, server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.hold = 2
    monkeypatch.setattr(load("add_timeout"), "TIMEOUT", 0.0)
    seen: list[Any] = []
    run(answered_late, load, server, seen)
    assert seen == [
        ("limit", False, None, ""),
        False,
        ("answer", False, "untouched", ADDRESSES[0]),
    ]


# -- the resolver --------------------------------------------------------------------------------


def test_a_lost_question_is_asked_again(
    resolver: Any, driver: str, server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "ATTEMPTS", 10_000)
    monkeypatch.setattr(resolver, "RETRY_AFTER", 0.002)
    server.drop = 3
    assert look_up(resolver, NAMES[1]) == [ADDRESSES[1]]
    assert len(server.asked) > 3


def test_a_name_server_that_never_answers_is_given_up(
    resolver: Any, driver: str, server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "ATTEMPTS", 3)
    monkeypatch.setattr(resolver, "RETRY_AFTER", 0.0)
    server.drop = 1000
    with pytest.raises(resolver.ResolverError, match=r"^host0\.test: .*does not answer"):
        look_up(resolver, NAMES[0])
    server.stop()
    assert server.asked == [NAMES[0]] * 3


def test_the_blocking_lookup_asks_again_and_gives_up_as_well(
    resolver: Any, server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "ATTEMPTS", 3)
    monkeypatch.setattr(resolver, "RETRY_AFTER", 0.002)
    server.drop = 1000
    with pytest.raises(resolver.ResolverError, match=r"^host0\.test: .*does not answer"):
        resolver.gethostbyname(NAMES[0])
    server.stop()
    assert server.asked == [NAMES[0]] * 3


def forgeries(query: bytes) -> list[bytes]:
    other_id = bytes([query[0] ^ 1, query[1]])
    wrong = a(ASKED, "203.0.113.66")
    return [
        b"",
        query,
        reply(query)[:11],
        other_id + reply(query, wrong)[2:],
        reply(query.replace(b"host", b"hose"), wrong),
        reply(query[:-3] + b"\x1c\0\1", wrong),  # the question for an IPv6 address
    ]


def test_datagrams_that_do_not_answer_the_question_are_ignored(
    resolver: Any, driver: str, server: NameServer
) -> None:
    server.forge = forgeries
    assert look_up(resolver, NAMES[2]) == [ADDRESSES[2]]
    assert resolver.gethostbyname(NAMES[2]) == ADDRESSES[2]


@pytest.mark.parametrize("address", ["192.0.2.7", "::1"])
def test_an_address_needs_no_name_server(
    resolver: Any, driver: str, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("NAMESERVER", "nobody")
    assert look_up(resolver, address) == [address]
    assert resolver.gethostbyname(address) == address


@pytest.mark.parametrize("name", ["", ".", "a..b", "a" * 64, ".".join(["a" * 49] * 5) + ".abcd"])
def test_what_is_no_host_name_is_refused(resolver: Any, server: NameServer, name: str) -> None:
    with pytest.raises(resolver.ResolverError, match="not a host name"):
        look_up(resolver, name)
    with pytest.raises(resolver.ResolverError, match="not a host name"):
        resolver.gethostbyname(name)
    server.stop()
    assert not server.asked


def test_a_closed_port_is_an_error_at_once(resolver: Any, driver: str, server: NameServer) -> None:
    server.stop()
    with pytest.raises(resolver.ResolverError, match=r"^host0\.test: .*refused"):
        look_up(resolver, NAMES[0])


def test_every_lookup_has_an_id_of_its_own(resolver: Any, server: NameServer) -> None:
    seen: list[bytes] = []

    def see(query: bytes) -> list[bytes]:
        seen.append(query[:2])
        return []

    server.forge = see
    for _ in range(20):
        look_up(resolver, NAMES[0])
    assert len(set(seen)) > 10


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ("127.0.0.1", "53")),
        ("# nameserver 192.0.2.1\nnameserver\nnameserver\t192.0.2.2\n", ("192.0.2.2", "53")),
        ("search test\nnameserver ::1 \nnameserver 192.0.2.2\n", ("::1", "53")),
    ],
)
def test_the_first_name_server_of_resolv_conf_is_asked(
    resolver: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str,
    found: tuple[str, str],
) -> None:
    monkeypatch.delenv("NAMESERVER", raising=False)
    file = tmp_path / "resolv.conf"
    file.write_text(text)
    assert resolver.name_server(str(file)) == found


def test_the_name_server_of_the_environment_comes_first(
    resolver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAMESERVER", "[::1]:5353")
    assert resolver.name_server("/nowhere") == ("::1", "5353")


# -- datagrams -----------------------------------------------------------------------------------

ALIAS = b"\5alias\4test\0"
OTHER = b"\5other\xc0\x11"  # with the `test` of the question
RIGHT = a(ASKED, "192.0.2.1")

ANSWERS = [
    ("one record", [RIGHT], "192.0.2.1"),
    ("the first of two", [RIGHT, a(ASKED, "192.0.2.2")], "192.0.2.1"),
    ("records of other kinds", [record(ASKED, 28, b"x" * 16), RIGHT], "192.0.2.1"),
    ("an address of another name", [a(ALIAS, "192.0.2.9"), RIGHT], "192.0.2.1"),
    ("an alias", [record(ASKED, 5, ALIAS), a(ALIAS, "192.0.2.1")], "192.0.2.1"),
    (
        "an alias of an alias, in the wrong order and letters",
        [a(OTHER.upper(), "192.0.2.1"), record(ALIAS, 5, OTHER), record(ASKED, 5, ALIAS)],
        "192.0.2.1",
    ),
    ("nothing", [], "no IPv4 address"),
    ("an alias alone", [record(ASKED, 5, ALIAS)], "no IPv4 address"),
    ("a circle", [record(ASKED, 5, ALIAS), record(ALIAS, 5, ASKED)], "no IPv4 address"),
    ("an address of three bytes", [record(ASKED, 1, b"abc")], "no IPv4 address"),
    ("a record cut short", [RIGHT[:-5]], "cannot be read"),
    ("an address cut short", [RIGHT[:-1]], "cannot be read"),
    ("a name that points to itself", [b"\xc0\x1b" + RIGHT[2:]], "cannot be read"),
    ("a name in a circle", [b"\1a\xc0\x1b" + RIGHT[2:]], "cannot be read"),
    ("a name that points ahead", [b"\xc0\x1d" + RIGHT[2:]], "cannot be read"),
]

REFUSED = [
    (0x8183, "NXDOMAIN"),
    (0x8182, "SERVFAIL"),
    (0x8185, "code 5"),
    (0x8380, "too long"),
]


@pytest.mark.parametrize(
    ("records", "found"), [case[1:] for case in ANSWERS], ids=[case[0] for case in ANSWERS]
)
def test_answers(resolver: Any, records: list[bytes], found: str) -> None:
    query = resolver.make_query(b"id", "host.test")
    assert len(query) == 0x1B  # where the records begin, as the pointers above have it
    answer = reply(query, *records)
    if found[0].isdigit():
        assert resolver.read_answer(answer, query) == found
        assert resolver.read_answer(answer.replace(b"host", b"HOST"), query) == found
    else:
        with pytest.raises(resolver.ResolverError, match=found):
            resolver.read_answer(answer, query)


@pytest.mark.parametrize(("flags", "message"), REFUSED)
def test_refusals(resolver: Any, flags: int, message: str) -> None:
    query = resolver.make_query(b"id", "host.test")
    with pytest.raises(resolver.ResolverError, match=message):
        resolver.read_answer(reply(query, RIGHT, flags=flags), query)


def test_questions(resolver: Any) -> None:
    query = b"id\1\0\0\1\0\0\0\0\0\0\4host\4test\0\0\1\0\1"
    assert resolver.make_query(b"id", "host.test") == query
    assert resolver.make_query(b"id", "host.test.") == query
    assert b"\x0dxn--bcher-kva\4test" in resolver.make_query(b"id", "b\xfccher.test")


def test_no_answer_can_do_worse_than_be_refused(resolver: Any) -> None:
    """Every answer that differs from a right one in one byte, or in its end."""
    query = resolver.make_query(b"id", "host.test")
    right = reply(query, record(ASKED, 5, OTHER), a(OTHER, "192.0.2.1"))
    assert resolver.read_answer(right, query) == "192.0.2.1"
    broken = [right[:end] for end in range(len(right))]
    for at in range(len(right)):
        broken += [right[:at] + bytes([byte]) + right[at + 1 :] for byte in range(256)]
    refused = 0
    for answer in broken:
        try:
            address = resolver.read_answer(answer, query)
        except resolver.ResolverError:
            refused += 1
        else:
            assert address is None or address.count(".") == 3
    assert refused > 1000
