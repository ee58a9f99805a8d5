"""The access log: a line for each answer, made after the answer has left.

The owner adds a record for each answer, and flushes them now and then; a thread formats the lines
and writes them, so that neither a slow disk nor a stalled reader delays the loop.  Nothing here
knows the loop or HTTP.

Records that do not get into the log are counted, and a line in their place says how many were lost:
in `json` an object with `lost`, in the other formats a line that begins with ``#``, which log tools
skip.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from collections.abc import Callable
from functools import lru_cache, partial
from queue import SimpleQueue
from time import gmtime, localtime, sleep, strftime, time
from typing import TYPE_CHECKING, Final, NamedTuple

from knot.process.diagnostics import LineWriter, block_sigttou
from knot.process.safe_paths import open_to_append

if TYPE_CHECKING:
    from knot.models.server import Sent

MAX_RECORDS: Final = 100_000
"""Records that may wait for the thread, usually 55 MiB; more are dropped and counted."""

CHUNK: Final = 256
"""Lines that are formatted and written at once."""

PAUSE: Final = 0.0001
"""Seconds after a chunk in which the loop's thread gets the interpreter.  Without this pause, the
loop stood still for 4.8 ms while 10,000 lines were written; with it, for 0.2 ms.  A write alone may
be too short."""

log = logging.getLogger("knot")


class Record(NamedTuple):
    """One answered request."""

    when: float  # seconds since the epoch, when the answer was given
    client: str  # an address from the system, not from the client: it is not escaped
    method: bytes  # b"" if what was sent is not a valid request
    target: bytes  # as sent
    version: bytes
    status: int
    size: int  # bytes of content sent
    referer: bytes
    agent: bytes
    seconds: float  # from reading the request to sending the last byte of the answer
    user: bytes = b""  # the user as which the client has authenticated


# -- lines ---------------------------------------------------------------------------------------

ESCAPES: Final = {
    byte: f"\\x{byte:02X}" for byte in range(256) if not 0x20 <= byte < 0x7F or byte in b'"\\'
}
PLAIN: Final = bytes(byte for byte in range(256) if byte not in ESCAPES)

MONTHS: Final = "JanFebMarAprMayJunJulAugSepOctNovDec"  # strftime() would use the locale

COLOURS: Final = {2: 32, 3: 36, 4: 33, 5: 31}  # green, cyan, yellow, red


def common(record: Record) -> str:
    """Apache's Common Log Format."""
    when, client, method, target, version, status, size, _, _, _, user = record
    request = text(b" ".join((method, target, version)) if method else b"")
    date = local_date(int(when))
    return f'{client} - {name(user)} [{date}] "{request}" {status} {size}\n'


def combined(record: Record) -> str:
    """The format that Apache and nginx call combined."""
    when, client, method, target, version, status, size, referer, agent, _, user = record
    request = text(b" ".join((method, target, version)) if method else b"")
    return (
        f'{client} - {name(user)} [{local_date(int(when))}] "{request}" {status} {size} '
        f'"{text(referer)}" "{text(agent)}"\n'
    )


def as_json(record: Record) -> str:
    """A JSON object.  What the client sent is decoded as Latin-1, which keeps its bytes apart."""
    values: dict[str, object] = {"time": utc_date(record.when)}
    for name, value in zip(Record._fields[1:], record[1:], strict=True):
        values[name] = value.decode("latin-1") if isinstance(value, bytes) else value
    values["seconds"] = round(record.seconds, 6)
    return json_line(values)


def short(record: Record, colour: bool = False) -> str:
    """For a terminal of 80 columns."""
    clock = local_date(int(record.when))[12:20]
    status = str(record.status)
    if colour:
        status = f"\x1b[{COLOURS.get(record.status // 100, 0)}m{status}\x1b[0m"
    return (
        f"{clock} {status} {text(record.method):7} {text(record.target):32} "
        f"{record.size:11,} B {record.seconds * 1000:9.2f} ms\n"
    )


FORMATS: Final[dict[str, Callable[[Record], str]]] = {
    "short": short,
    "common": common,
    "combined": combined,
    "json": as_json,
}


def lost_line(format: str, count: int) -> str:
    if format == "json":
        return json_line({"time": utc_date(time()), "lost": count})
    return f"# {local_date(int(time()))} lines lost: {count}\n"


def text(sent: bytes) -> str:
    """What a client sent, escaped as nginx does, so that it can end neither its field nor the
    line."""
    if sent.translate(None, PLAIN):  # takes half as long as a search for what is not plain
        return sent.decode("latin-1").translate(ESCAPES)
    return sent.decode() or "-"


def name(user: bytes) -> str:
    """A user's name, for a field without quotes, which a space would end."""
    return text(user).replace(" ", "\\x20")


def json_line(values: dict[str, object]) -> str:
    # JSON escapes every control character except DEL.
    return json.dumps(values).replace("\x7f", "\\u007f") + "\n"


@lru_cache(8)
def local_date(second: int) -> str:
    now = localtime(second)
    month = MONTHS[3 * now.tm_mon - 3 : 3 * now.tm_mon]
    return strftime(f"%d/{month}/%Y:%H:%M:%S %z", now)


def utc_date(when: float) -> str:
    second, millisecond = divmod(round(when * 1000), 1000)
    return f"{utc_second(second)}.{millisecond:03}Z"


@lru_cache(8)
def utc_second(second: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))


# -- writing -------------------------------------------------------------------------------------


Batch = tuple[int, list[Record]]
"""The number of records that were dropped, and the records that follow them."""


class AccessLog:
    """Writes records to a descriptor, which its owner closes.

    The first flush starts the thread; a process that forks must do so before that.
    """

    def __init__(self, format: str, fd: int, colour: bool = False) -> None:
        self.wants_more = format in ("combined", "json")
        """Whether its lines include the fields Referer and User-Agent."""
        self.pending: list[Record] = []  # always this list: a caller may keep its `append`
        self._lines = LineWriter(fd)
        self._line = partial(short, colour=colour) if format == "short" else FORMATS[format]
        self._lost_line = partial(lost_line, format)
        self._work: SimpleQueue[Batch | str | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        # Written by the owner, at most read by the thread:
        self._handed = 0
        self._dropped = 0  # since the last batch
        self._closes = False  # whether to close the descriptor at the end
        # Written by the thread, at most read by the owner:
        self._taken = 0
        self._lost = 0  # since the last line that was written
        self._failing = False  # and that has been reported
        self._broken = False  # whether no process can read it any more

    def note(self, sent: Sent, client: str, user: bytes) -> None:
        """Add a record of a response, for that client and user."""
        now = time()
        _, request, response, when, (referer, agent), unsent, version = sent
        self.add(
            Record(
                now, client, request.method, request.target,
                b"HTTP/1.0" if request.http_1_0 else version, response.status,
                sent.size if unsent else response.length, referer, agent,
                max(0.0, now - when), user,  # the clock may have been set back
            )
        )  # fmt: skip

    def add(self, record: Record) -> None:
        self.pending.append(record)

    def flush(self) -> None:
        """Pass pending records to the thread.  Never blocks."""
        if not (self.pending or self._dropped):
            return
        room = max(MAX_RECORDS - (self._handed - self._taken), 0)
        if room:
            records = self.pending[:room]
            self._handed += len(records)
            self._give((self._dropped, records))
            self._dropped = 0
        self._dropped += len(self.pending[room:])
        self.pending.clear()

    def reopen(self, path: str) -> None:
        """Continue in the file of that name; pending records still go to the old one."""
        self.flush()
        self._give(path)

    def close(self, timeout: float = 2.0) -> None:
        """Write pending records, but give up after `timeout` seconds."""
        self.flush()
        if self._thread is None and self._work.empty():
            return
        self._give(None)
        if self._thread is None:
            log.error("the access log has no thread: its last lines are lost")
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._lines.given_up = True
            log.error("nothing reads the access log: its last lines are lost")

    def leave(self, *, closes: bool) -> None:
        """Write pending records and end, without waiting for either; `closes` also closes the
        descriptor then."""
        self._closes = closes
        self.flush()
        self._give(None)

    def _give(self, work: Batch | str | None) -> None:
        self._work.put(work)
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="access log", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # too many threads on this machine
                if not self._failing:
                    self._failing = True
                    log.error("the access log is delayed: %s", error)
            else:
                self._thread = thread

    # -- in the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        block_sigttou()
        while (work := self._work.get()) is not None and not self._lines.given_up:
            try:
                if isinstance(work, str):
                    self._swap(work)
                else:
                    self._write(*work)
            except Exception:
                log.exception("internal error in the access log")
        self._write(0, [])  # reports what was lost last
        if self._closes:
            os.close(self._lines.fd)

    def _swap(self, path: str) -> None:
        try:
            new = open_to_append(path)
        except OSError as error:
            log.error("cannot reopen the access log %s: %s", path, error.strerror)
            return
        if not self._lines.given_up:
            os.dup2(new, self._lines.fd, inheritable=False)
        os.close(new)
        self._lines.torn = self._failing = self._broken = False

    def _write(self, dropped: int, records: list[Record]) -> None:
        self._lost += dropped
        try:
            for start in range(0, len(records) or 1, CHUNK):
                self._write_chunk(records[start : start + CHUNK])
                sleep(PAUSE)
        finally:
            self._taken += len(records)

    def _write_chunk(self, records: list[Record]) -> None:
        if self._broken:
            self._lost += len(records)
            return
        lines = [self._line(record) for record in records]
        announced = self._lost > 0
        if announced:
            lines.insert(0, self._lost_line(self._lost))
        data = "".join(lines).encode("ascii", "backslashreplace")
        written, error = self._lines.write(data)
        if error is None:
            self._failing = False
        else:
            self._report(error)
        if written:
            self._lost = 0
        self._lost += len(records) - max(written - announced, 0)

    def _report(self, error: OSError) -> None:
        if error.errno == errno.EPIPE:
            self._broken = True
            log.error("the access log ends: its reader has closed the pipe")
        elif not self._failing:
            self._failing = True
            log.error("cannot write the access log: %s; lines are lost", error.strerror)
