"""Bugs, planted into a copy of Knot one at a time: does the simulation find each?

A bug is a piece of source and its replacement.  The piece must occur exactly once, so that a bug
whose source has changed is noticed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tabulate import tabulate

from knot.process.spawn import python

ROOT: Final = Path(__file__).parents[3]

BUG_TIMEOUT: Final = 600
"""Seconds for one bug."""

SEEDS_WITHOUT: Final = 100
"""Seeds that must find nothing without a bug."""

PROGRAM: Final = """
import sys
sys.path.insert(0, sys.argv[1])
from loadtest.robust.simulate.server import run_seed
for seed in range(int(sys.argv[2])):
    found = run_seed(seed)
    if found.problems:
        print(seed, found.problems[0])
        break
"""


@dataclass(frozen=True)
class Bug:
    what: str
    file: str
    """Below `knot`."""
    right: str
    wrong: str


@dataclass(frozen=True)
class Verdict:
    bug: Bug
    seeds: int | None
    """Seeds until it was found; None if it was not."""
    problem: str


CONNECTION: Final = "models/connection.py"
CLOSING: Final = "models/closing.py"
EVENTS: Final = "models/events.py"

BUGS: Final = [
    Bug(
        "an event is dropped that a disk thread should trigger",
        EVENTS,
        "server.disk.fork(mkevent(made), response.work)",
        "[server.disk.fork(Event(), response.work), mkevent(made)]",
    ),
    Bug(
        "idle connections get the time-out of unfinished requests",
        CLOSING,
        "IDLE: ceil(limits.keep_alive / SWEEP)",
        "IDLE: ceil(limits.head / SWEEP)",
    ),
    Bug(
        "a time-out comes up to a second early",
        CLOSING,
        "SENDING: ceil(limits.send / SWEEP)",
        "SENDING: ceil(limits.send / SWEEP) - 1",
    ),
    Bug(
        "a short write is mistaken for a whole one",
        CONNECTION,
        "return None if sent == len(data) else deque((memoryview(data)[sent:],))",
        "return None",
    ),
    Bug(
        "after a short write, a file continues as after a whole one",
        CONNECTION,
        "left = piece._replace(start=piece.start + sent)",
        "left = piece._replace(start=piece.start + count)",
    ),
    Bug(
        "a descriptor is not closed",
        EVENTS,
        """    finally:
        close_connection(peer, server)
""",
        """    finally:
        server.peers.discard(peer)
        if not server.peers:
            while server.when_deserted:
                server.when_deserted.pop()()
""",
    ),
    Bug(
        "a range lacks its last byte",
        "http/ranges.py",
        "min(number(last) + 1 if last else size, size)",
        "min(number(last) if last else size, size)",
    ),
    Bug(
        "the last answer does not say that it is the last",
        "http/responder.py",
        """    (False, False): b"Connection: close\\r\\n",
""",
        """    (False, False): b"",
""",
    ),
    Bug(
        "a connection stays open that should be closed",
        CONNECTION,
        "        if not response.keep_alive:\n",
        "        if not response.keep_alive and last:\n",
    ),
    Bug(
        "a parser in the middle of a request is used for others too",
        CONNECTION,
        """            peer.parser = parser
            server.parser = server.new_parser()
""",
        """            peer.parser = parser
""",
    ),
    Bug(
        "a parser that has ended is used for others",
        CONNECTION,
        """    if shared:
        parser.reset()
""",
        "",
    ),
    Bug(
        "a client that reads its answer counts as silent",
        CONNECTION,
        """        return
    peer.age = 0
    if length_of(left):
""",
        """        return
    if length_of(left):
""",
    ),
    Bug(
        "a client that sends its head slowly counts as new with each piece",
        CONNECTION,
        """        if shared or begun:
            peer.age = 0
""",
        """        if shared or True:
            peer.age = 0
""",
    ),
    Bug(
        "a client that reads nothing is cut, and its bytes are kept",
        "models/peer.py",
        "end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)",
        "pass",
    ),
    Bug(
        "pipelined requests are answered in the wrong order",
        CONNECTION,
        "    asked = iter(requests), time(), parser.said, parser.unread, server.front\n",
        "    asked = iter(requests[::-1]), time(), parser.said, parser.unread, server.front\n",
    ),
    Bug(
        "sending an answer blocks",
        EVENTS,
        """        made: Any
    set_nonblocking(peer)
""",
        """        made: Any
""",
    ),
    Bug(
        "a file that has become shorter is sent forever",
        CONNECTION,
        """            if not sent:
                raise EOFError
""",
        "",
    ),
    Bug(
        "a file that may change unnoticed has a strong tag",
        "files/representation.py",
        "    if not settled:\n        return b'W/",
        "    if False:\n        return b'W/",
    ),
    Bug(
        "a date is sent while another version may still get it",
        "http/responder.py",
        "DATED: Final = 2",
        "DATED: Final = 1",
    ),
    Bug(
        "a changed file is noticed two seconds late",
        "files/site.py",
        "if found.second != second:",
        "if found.second + 2 < second:",
    ),
    Bug(
        "one connection too many is accepted",
        "models/accepting.py",
        "if len(server.peers) >= server.limits.connections:",
        "if len(server.peers) > server.limits.connections:",
    ),
    Bug(
        "out of descriptors, the server never accepts again",
        EVENTS,
        """                    timer(PAUSE, mkevent())
    except EventDroppedError:
""",
        """                    timer(PAUSE, mkevent())
                return
    except EventDroppedError:
""",
    ),
    Bug(
        "a stop takes longer than its grace",
        EVENTS,
        "            timer(grace, mkevent(r, True))\n",
        "            timer(grace + 0.5, mkevent(r, True))\n",
    ),
    Bug(
        "in a graceful stop, the server cuts an idle client that might ask again",
        CLOSING,
        """    server.most_requests = 0
    if gently:
        return
""",
        """    server.most_requests = 0
""",
    ),
    Bug(
        "a connection is closed while its client is still sending",
        CONNECTION,
        "        return LINGER  # it may",
        "        return END  # it may",
    ),
    Bug(
        "an answer that took a while is missing in the log",
        CONNECTION,
        "note(server.on_sent, peer, pending.asked, pending.request, response, unsent or NOTHING)",
        "pass",
    ),
    Bug(
        "an answer to If-Modified-Since is a second out",
        "http/conditions.py",
        "return date is None or modified is None or modified > date",
        "return date is None or modified is None or modified >= date",
    ),
]


def look_for(bug: Bug, seeds: int) -> Verdict:
    """Run seed after seed with the bug planted, until one fails."""
    with tempfile.TemporaryDirectory() as directory:
        plant(bug, Path(directory))
        try:
            ran = subprocess.run(
                python("-c", PROGRAM, directory, str(seeds)),
                cwd=ROOT,
                check=True,
                capture_output=True,
                text=True,
                timeout=BUG_TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            return Verdict(bug, None, f"no end after {BUG_TIMEOUT} s")
    if not ran.stdout:
        return Verdict(bug, None, "")
    seed, _, problem = ran.stdout.strip().partition(" ")
    return Verdict(bug, int(seed) + 1, problem)


def plant(bug: Bug, directory: Path) -> None:
    """Copy Knot there, with the bug.  Raises `ValueError` if it does not fit the source."""
    shutil.copytree(ROOT / "knot", directory / "knot", ignore=shutil.ignore_patterns("__pycache__"))
    file = directory / "knot" / bug.file
    source = file.read_text()
    if source.count(bug.right) != 1:
        raise ValueError(
            f"{bug.what}: knot/{bug.file} has its source {source.count(bug.right)} times, not once"
        )
    file.write_text(source.replace(bug.right, bug.wrong))


NONE: Final = Bug("no bug", "models/peer.py", "SENDING: Final = 2", "SENDING: Final = 2")
"""To check that nothing else is found."""


def main(seeds: int) -> int:
    """Look for every bug; 1 if one was not found."""
    verdict = look_for(NONE, min(seeds, SEEDS_WITHOUT))
    if verdict.seeds is not None:
        print(f"seed {verdict.seeds - 1} fails without a bug: {verdict.problem}", file=sys.stderr)
        return 1
    verdicts = []
    for bug in BUGS:
        verdicts.append(look_for(bug, seeds))
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    rows = [
        [entry.bug.what, entry.seeds or f"not in {seeds:,}", shortened(entry.problem)]
        for entry in verdicts
    ]
    print(tabulate(rows, ["bug", "seeds", "found by"], tablefmt="pipe"))
    return int(any(entry.seeds is None for entry in verdicts))


def shortened(text: str) -> str:
    return text if len(text) <= 100 else text[:99] + "…"
