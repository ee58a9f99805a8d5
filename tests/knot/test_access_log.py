"""The access log: its lines, and that nobody waits for them."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import resource
import select
import stat
import threading
import time
from collections.abc import Iterator
from logging.handlers import QueueHandler
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from knot.monitor import access_log as module
from knot.monitor.access_log import FORMATS, AccessLog, Record, local_date, short
from knot.process.safe_paths import open_to_append

PATIENCE = 20.0
"""Seconds after which a test that waits has failed."""

RECORD = Record(
    when=971186136.25,
    client="127.0.0.1",
    method=b"GET",
    target=b"/x",
    version=b"HTTP/1.1",
    status=200,
    size=2326,
    referer=b"http://a.example/",
    agent=b"curl/8.5.0",
    seconds=0.0012344,
)
ODD = RECORD._replace(
    method=b"G\x1bT",
    target=b'/"\\\r\n\x00\x7f\xc3\xa9',
    referer=b'"',
    agent=b"\x1b]0;owned\x07",
)
NO_REQUEST = RECORD._replace(
    method=b"", target=b"", version=b"", status=400, size=0, referer=b"", agent=b""
)
IPV6 = RECORD._replace(client="2001:db8::1")


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A time zone with a summer time, whatever the machine has."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        local_date.cache_clear()
        yield
    time.tzset()
    local_date.cache_clear()


# -- lines ---------------------------------------------------------------------------------------

LINES: list[tuple[str, Record, str]] = [
    ("common", RECORD, '127.0.0.1 - - [10/Oct/2000:15:55:36 +0200] "GET /x HTTP/1.1" 200 2326\n'),
    ("common", IPV6, '2001:db8::1 - - [10/Oct/2000:15:55:36 +0200] "GET /x HTTP/1.1" 200 2326\n'),
    ("common", NO_REQUEST, '127.0.0.1 - - [10/Oct/2000:15:55:36 +0200] "-" 400 0\n'),
    (
        "common",
        RECORD._replace(when=980000000.0),
        '127.0.0.1 - - [20/Jan/2001:15:13:20 +0100] "GET /x HTTP/1.1" 200 2326\n',
    ),
    (
        "combined",
        RECORD,
        '127.0.0.1 - - [10/Oct/2000:15:55:36 +0200] "GET /x HTTP/1.1" 200 2326 '
        '"http://a.example/" "curl/8.5.0"\n',
    ),
    ("combined", NO_REQUEST, '127.0.0.1 - - [10/Oct/2000:15:55:36 +0200] "-" 400 0 "-" "-"\n'),
    (
        "combined",
        ODD,
        r"127.0.0.1 - - [10/Oct/2000:15:55:36 +0200] "
        r'"G\x1BT /\x22\x5C\x0D\x0A\x00\x7F\xC3\xA9 HTTP/1.1" 200 2326 '
        r'"\x22" "\x1B]0;owned\x07"' + "\n",
    ),
    (
        "json",
        RECORD,
        '{"time": "2000-10-10T13:55:36.250Z", "client": "127.0.0.1", "method": "GET", '
        '"target": "/x", "version": "HTTP/1.1", "status": 200, "size": 2326, '
        '"referer": "http://a.example/", "agent": "curl/8.5.0", "seconds": 0.001234, "user": ""}\n',
    ),
    (
        "json",
        ODD,
        '{"time": "2000-10-10T13:55:36.250Z", "client": "127.0.0.1", '
        r'"method": "G\u001bT", "target": "/\"\\\r\n\u0000\u007f\u00c3\u00a9", '
        '"version": "HTTP/1.1", "status": 200, "size": 2326, '
        r'"referer": "\"", "agent": "\u001b]0;owned\u0007", "seconds": 0.001234, "user": ""}'
        "\n",
    ),
    (
        "common",
        RECORD._replace(user=b'Jo Do"\xc3\xa9'),
        r"127.0.0.1 - Jo\x20Do\x22\xC3\xA9 [10/Oct/2000:15:55:36 +0200] "
        '"GET /x HTTP/1.1" 200 2326\n',
    ),
    (
        "short",
        RECORD,
        "15:55:36 200 GET     /x                                     2,326 B      1.23 ms\n",
    ),
    (
        "short",
        RECORD._replace(method=b"OPTIONS", target=b"/" + b"a" * 40, seconds=12.5),
        f"15:55:36 200 OPTIONS /{'a' * 40}       2,326 B  12500.00 ms\n",
    ),
    (
        "short",
        ODD,
        r"15:55:36 200 G\x1BT  /\x22\x5C\x0D\x0A\x00\x7F\xC3\xA9       2,326 B"
        "      1.23 ms\n",
    ),
    (
        "short",
        NO_REQUEST,
        "15:55:36 400 -       -                                          0 B      1.23 ms\n",
    ),
]


@pytest.mark.parametrize(("format", "record", "line"), LINES)
def test_a_record_makes_a_line(format: str, record: Record, line: str) -> None:
    assert FORMATS[format](record) == line


@pytest.mark.parametrize(
    ("status", "colour"), [(200, 32), (206, 32), (304, 36), (404, 33), (500, 31), (100, 0)]
)
def test_the_status_has_a_colour_at_a_terminal(status: int, colour: int) -> None:
    record = RECORD._replace(status=status)
    coloured = short(record, colour=True)
    assert f" \x1b[{colour}m{status}\x1b[0m " in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == short(record)


@pytest.mark.parametrize(
    ("when", "date"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1.001, "1970-01-01T00:00:01.001Z"),
        (1.9996, "1970-01-01T00:00:02.000Z"),
    ],
)
def test_milliseconds_are_rounded(when: float, date: str) -> None:
    assert json.loads(FORMATS["json"](RECORD._replace(when=when)))["time"] == date


FIELD = r'"((?:[^"\\]|\\x[0-9A-F]{2})*)"'
COMMON = re.compile(rf"(\S+) - - \[([^]\s]+ [+-]\d{{4}})\] {FIELD} (\d{{3}}) (\d+)\n")
COMBINED = re.compile(COMMON.pattern.removesuffix(r"\n") + rf" {FIELD} {FIELD}\n")

SENT = st.one_of(st.binary(max_size=60), st.text(max_size=30).map(str.encode))


def read_back(field: str) -> bytes:
    escape = re.compile(r"\\x([0-9A-F]{2})")
    return escape.sub(lambda found: chr(int(found[1], 16)), field).encode("latin-1")


@given(SENT, SENT, SENT, SENT)
@example(b"", b"", b"", b"")
@example(b"GET", bytes(range(256)), bytes(range(256)), bytes(range(256)))
def test_whatever_a_client_sends_is_one_line_that_can_be_read_back(
    method: bytes, target: bytes, referer: bytes, agent: bytes
) -> None:
    record = RECORD._replace(method=method, target=target, referer=referer, agent=agent)
    lines = {format: FORMATS[format](record) for format in FORMATS}
    coloured = short(record, colour=True)
    assert coloured.count("\x1b") == 2
    for line in (*lines.values(), coloured.replace("\x1b[32m", "", 1).replace("\x1b[0m", "", 1)):
        assert re.fullmatch(r"[\x20-\x7e]+\n", line)
    request = b" ".join((method, target, b"HTTP/1.1")) if method else b"-"

    found = COMMON.fullmatch(lines["common"])
    assert found
    assert read_back(found[3]) == request

    found = COMBINED.fullmatch(lines["combined"])
    assert found
    assert found.group(1, 2, 4, 5) == ("127.0.0.1", "10/Oct/2000:15:55:36 +0200", "200", "2326")
    assert [read_back(found[n]) for n in (3, 6, 7)] == [request, referer or b"-", agent or b"-"]

    values = json.loads(lines["json"])
    for name, sent in (("method", method), ("target", target), ("referer", referer)):
        assert values[name].encode("latin-1") == sent
    assert values["agent"].encode("latin-1") == agent


# -- writing -------------------------------------------------------------------------------------


class Pipe:
    """The smallest pipe there is: 4 KiB."""

    def __init__(self, blocking: bool = True) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(self.writer, blocking)
        self.rest = b""

    def readable(self, seconds: float) -> bool:
        return bool(select.select([self.reader], [], [], seconds)[0])

    def lines(self, count: int) -> list[bytes]:
        """The next lines, when they are there."""
        while self.rest.count(b"\n") < count:
            assert self.readable(PATIENCE)
            data = os.read(self.reader, 1000)
            assert data
            self.rest += data
        *lines, self.rest = self.rest.split(b"\n", count)
        return lines

    def close(self) -> None:
        os.close(self.writer)
        os.close(self.reader)


@pytest.fixture(params=[True, False], ids=["blocking", "non-blocking"])
def pipe(request: pytest.FixtureRequest) -> Iterator[Pipe]:
    pipe = Pipe(request.param)
    yield pipe
    pipe.close()


@pytest.fixture
def messages() -> Iterator[SimpleQueue[logging.LogRecord]]:
    """What the operator is told."""
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler = QueueHandler(queue)
    logging.getLogger("knot").addHandler(handler)
    yield queue
    logging.getLogger("knot").removeHandler(handler)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert "access log" not in [thread.name for thread in threading.enumerate()]


def numbered(*numbers: int) -> list[Record]:
    return [RECORD._replace(target=b"/%d" % number) for number in numbers]


def targets(lines: list[bytes]) -> list[int]:
    """The numbers of those records."""
    return [int(re.findall(rb'[ "]/(\d+)[ "]', line)[0]) for line in lines]


def lost(lines: list[bytes]) -> list[int]:
    """How many those lines say are lost."""
    form = rb'\{"time": "[-0-9]+T[.:0-9]+Z", "lost": (\d+)}|# \S+ \+0\d00 lines lost: (\d+)'
    found = [re.fullmatch(form, line) for line in lines]
    return [int(one[1] or one[2]) for one in found if one]


def ended(log: AccessLog) -> None:
    log.close(PATIENCE)


def test_records_get_into_a_file_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(b"before\n")
    fd = open_to_append(str(path))
    log = AccessLog("combined", fd)
    for record in numbered(*range(1000)):
        log.add(record)
        if len(log.pending) == 300:
            log.flush()
            assert not log.pending
    ended(log)
    os.close(fd)
    first, *lines = path.read_bytes().splitlines()
    assert first == b"before"
    assert targets(lines) == list(range(1000))


def test_a_new_log_is_not_for_everyone_to_read(tmp_path: Path) -> None:
    fd = open_to_append(str(tmp_path / "access.log"))
    assert stat.S_IMODE(os.fstat(fd).st_mode) & ~0o640 == 0
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_a_log_without_records_has_no_thread_and_closes() -> None:
    log = AccessLog("short", 1)
    log.flush()
    assert "access log" not in [thread.name for thread in threading.enumerate()]
    log.close()
    log.close()


def test_a_log_closes_twice_and_leaves_its_descriptor_open(pipe: Pipe) -> None:
    log = AccessLog("common", pipe.writer)
    log.add(RECORD)
    ended(log)
    ended(log)
    assert os.write(pipe.writer, b"mine\n") == 5
    assert pipe.lines(2)[1] == b"mine"


def test_colours_are_for_the_short_format(pipe: Pipe) -> None:
    for format in FORMATS:
        log = AccessLog(format, pipe.writer, colour=True)
        log.add(RECORD)
        ended(log)
        assert (b"\x1b[32m" in pipe.lines(1)[0]) == (format == "short")


def test_a_reader_that_is_slow_gets_every_line(pipe: Pipe) -> None:
    log = AccessLog("common", pipe.writer)
    log.pending.extend(numbered(*range(2000)))
    log.flush()
    assert targets(pipe.lines(2000)) == list(range(2000))
    ended(log)


@pytest.mark.parametrize("format", FORMATS)
def test_a_reader_that_has_stopped_holds_up_nobody_and_is_told_what_it_missed(
    format: str, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_RECORDS", 1000)
    log = AccessLog(format, pipe.writer)
    for count in (600, 600, 50):
        log.pending.extend(numbered(*range(count)))
        log.flush()  # would never return, nobody reads
        assert not log.pending
    first = pipe.lines(1000)
    while not pipe.readable(0.001):
        log.flush()  # as a timer does
    gap = pipe.lines(1)
    log.add(*numbered(7))
    log.flush()
    last = pipe.lines(1)
    ended(log)
    assert targets(first) == [*range(600), *range(400)]
    assert lost(gap) == [250]
    assert targets(last) == [7]


def test_a_reader_that_has_gone_ends_the_log_with_one_message_until_it_is_reopened(
    tmp_path: Path,
    messages: SimpleQueue[logging.LogRecord],
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    log = AccessLog("common", writer)
    for record in numbered(*range(10)):
        log.add(record)
        log.flush()
    log.reopen(str(tmp_path / "access.log"))
    log.add(*numbered(10))
    ended(log)
    os.close(writer)
    gap, line = (tmp_path / "access.log").read_bytes().splitlines()
    assert lost([gap]) == [10]
    assert targets([line]) == [10]
    assert "its reader has closed the pipe" in messages.get_nowait().getMessage()
    with pytest.raises(Empty):
        messages.get_nowait()


@pytest.mark.parametrize("format", ["common", "json"])
def test_a_full_disk_is_reported_once_and_its_losses_when_there_is_room(
    format: str, tmp_path: Path, messages: SimpleQueue[logging.LogRecord]
) -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    log = AccessLog(format, fd)
    for record in numbered(*range(10)):
        log.add(record)
        log.flush()
    log.reopen(str(tmp_path / "roomy"))
    log.add(*numbered(10))
    ended(log)
    os.close(fd)
    assert "No space left on device" in messages.get_nowait().getMessage()
    with pytest.raises(Empty):
        messages.get_nowait()
    gap, line = (tmp_path / "roomy").read_bytes().splitlines()
    assert lost([gap]) == [10]
    assert targets([line]) == [10]


def test_without_a_thread_lines_wait_for_one(
    tmp_path: Path, messages: SimpleQueue[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine had too many when the first line came."""
    path = tmp_path / "access.log"
    fd = open_to_append(str(path))
    log = AccessLog("common", fd)
    with monkeypatch.context() as crowded:
        crowded.setattr(threading.Thread, "start", no_thread)
        for record in numbered(1, 2, 3):
            log.add(record)
            log.flush()
    log.add(*numbered(4))
    log.flush()
    ended(log)
    os.close(fd)
    assert targets(path.read_bytes().splitlines()) == [1, 2, 3, 4]
    assert "the access log is delayed" in messages.get_nowait().getMessage()
    with pytest.raises(Empty):
        messages.get_nowait()


def test_without_a_thread_the_end_says_that_lines_are_lost(
    tmp_path: Path, messages: SimpleQueue[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = open_to_append(str(tmp_path / "access.log"))
    log = AccessLog("common", fd)
    with monkeypatch.context() as crowded:
        crowded.setattr(threading.Thread, "start", no_thread)
        log.add(RECORD)
        ended(log)
    os.close(fd)
    assert "the access log is delayed" in messages.get_nowait().getMessage()
    assert "its last lines are lost" in messages.get_nowait().getMessage()


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_what_is_lost_at_the_end_is_announced_at_the_end(
    tmp_path: Path, messages: SimpleQueue[logging.LogRecord]
) -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    log = AccessLog("common", fd)
    log.add(RECORD)
    log.reopen(str(tmp_path / "roomy"))
    ended(log)
    os.close(fd)
    assert lost((tmp_path / "roomy").read_bytes().splitlines()) == [1]
    messages.get_nowait()


def test_a_line_that_was_cut_does_not_run_into_the_next(
    tmp_path: Path, messages: SimpleQueue[logging.LogRecord]
) -> None:
    path = tmp_path / "access.log"
    fd = open_to_append(str(path))
    log = AccessLog("common", fd)
    length = len(FORMATS["common"](*numbered(1)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * length + 10, hard))
    try:
        log.pending.extend(numbered(1, 2, 3, 4))
        log.flush()
        assert "File too large" in messages.get(timeout=PATIENCE).getMessage()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.pending.extend(numbered(5, 6))
    ended(log)
    os.close(fd)
    one, two, cut, gap, five, six = path.read_bytes().splitlines()
    assert targets([one, two, five, six]) == [1, 2, 5, 6]
    assert cut == b"127.0.0.1 "
    assert lost([gap]) == [2]


def test_a_rotated_log_goes_on_in_a_new_file(tmp_path: Path) -> None:
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    fd = open_to_append(str(path))
    log = AccessLog("common", fd)
    log.add(*numbered(1))
    path.rename(old)
    log.reopen(str(path))
    log.add(*numbered(2))
    ended(log)
    assert not os.get_inheritable(fd)
    os.close(fd)
    assert targets(old.read_bytes().splitlines()) == [1]
    assert targets(path.read_bytes().splitlines()) == [2]


def test_a_file_that_cannot_be_opened_leaves_the_log_where_it_is(
    tmp_path: Path, messages: SimpleQueue[logging.LogRecord]
) -> None:
    path = tmp_path / "access.log"
    fd = open_to_append(str(path))
    log = AccessLog("common", fd)
    log.reopen(str(tmp_path / "missing" / "access.log"))
    log.add(*numbered(2))
    ended(log)
    os.close(fd)
    assert "No such file or directory" in messages.get_nowait().getMessage()
    assert targets(path.read_bytes().splitlines()) == [2]


def test_an_error_of_our_own_does_not_end_the_log(
    tmp_path: Path, messages: SimpleQueue[logging.LogRecord]
) -> None:
    path = tmp_path / "access.log"
    fd = open_to_append(str(path))
    log = AccessLog("common", fd)
    log.add(RECORD._replace(when=float("inf")))
    log.flush()
    log.add(*numbered(2))
    ended(log)
    os.close(fd)
    assert "internal error in the access log" in messages.get_nowait().getMessage()
    assert targets(path.read_bytes().splitlines()) == [2]


def test_closing_gives_up_on_a_reader_that_has_stopped_and_writes_no_more(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, messages: SimpleQueue[logging.LogRecord]
) -> None:
    monkeypatch.setattr(module, "CHUNK", 1)
    before = set(threading.enumerate())
    log = AccessLog("common", pipe.writer)
    log.add(RECORD._replace(target=b"/" + b"a" * 5000))
    log.add(*numbered(2))
    log.close(0.01)
    assert "nothing reads the access log" in messages.get_nowait().getMessage()
    (thread,) = set(threading.enumerate()) - before
    os.set_blocking(pipe.reader, False)
    data = b""
    while thread.is_alive():
        if pipe.readable(0.001):
            data += os.read(pipe.reader, 1000)
    while pipe.readable(0):
        data += os.read(pipe.reader, 1000)
    assert b"GET /aaa" in data
    assert b"GET /2" not in data
