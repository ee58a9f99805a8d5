"""Bugs, planted into a copy of Knot one at a time: does the simulation find each?

A bug is a piece of source and what stands there instead.  The piece has to be there exactly once,
so that one that has changed is noticed.
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

LONGEST: Final = 600
"""Seconds for one bug."""

WITHOUT: Final = 100
"""Seeds that have to find nothing where there is no bug."""

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
    """How many it took; None if it was not found."""
    problem: str


CONNECTION: Final = "models/connection.py"
CLOSING: Final = "models/closing.py"
EVENTS: Final = "models/events.py"

BUGS: Final = [
    Bug(
        "an event is dropped that a disk's thread was to trigger",
        EVENTS,
        "server.disk.fork(mkevent(made), response.work)",
        "[server.disk.fork(Event(), response.work), mkevent(made)]",
    ),
    Bug(
        "idle connections have the time of unfinished requests",
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
        "a short write is taken for a whole one",
        CONNECTION,
        "return None if sent == len(data) else deque((memoryview(data)[sent:],))",
        "return None",
    ),
    Bug(
        "a file goes on where it would after a whole write",
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
        "the last answer does not say so",
        "http/responder.py",
        """    (False, False): b"Connection: close\\r\\n",
""",
        """    (False, False): b"",
""",
    ),
    Bug(
        "a connection stays that was to be closed",
        CONNECTION,
        "        if not response.keep_alive:\n",
        "        if not response.keep_alive and last:\n",
    ),
    Bug(
        "a parser in the middle of a request is used for others, too",
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
        "a client that takes its answer counts as silent",
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
        "a client is cut that takes nothing, and its bytes are kept",
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
        "the sending of an answer waits",
        EVENTS,
        """        made: Any
    set_nonblocking(peer)
""",
        """        made: Any
""",
    ),
    Bug(
        "a file that has become shorter is sent for ever",
        CONNECTION,
        """            if not sent:
                raise EOFError
""",
        "",
    ),
    Bug(
        "a file that may change unseen has a strong tag",
        "files/representation.py",
        "    if not settled:\n        return b'W/",
        "    if False:\n        return b'W/",
    ),
    Bug(
        "a date is told while another version may have it, too",
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
        "one connection too many is let in",
        "models/accepting.py",
        "if len(server.peers) >= server.limits.connections:",
        "if len(server.peers) > server.limits.connections:",
    ),
    Bug(
        "out of descriptors, the door is left for good",
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
        "told to finish, an idle client is cut that might ask once more",
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
        "the line of an answer that took a while is missing in the log",
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
                timeout=LONGEST,
            )
        except subprocess.TimeoutExpired:
            return Verdict(bug, None, f"no end after {LONGEST} s")
    if not ran.stdout:
        return Verdict(bug, None, "")
    seed, _, problem = ran.stdout.strip().partition(" ")
    return Verdict(bug, int(seed) + 1, problem)


def plant(bug: Bug, directory: Path) -> None:
    """Put a Knot there that has it.  Raises `ValueError` if it does not fit the source."""
    shutil.copytree(ROOT / "knot", directory / "knot", ignore=shutil.ignore_patterns("__pycache__"))
    file = directory / "knot" / bug.file
    source = file.read_text()
    if source.count(bug.right) != 1:
        raise ValueError(f"{bug.what}: knot/{bug.file} has {source.count(bug.right)} of its places")
    file.write_text(source.replace(bug.right, bug.wrong))


NONE: Final = Bug("no bug", "models/peer.py", "SENDING: Final = 2", "SENDING: Final = 2")
"""To see that what is found is the bug."""


def main(seeds: int) -> int:
    """Look for all of them; 1 if one was not found."""
    verdict = look_for(NONE, min(seeds, WITHOUT))
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
    print(tabulate(rows, ["bug", "seeds", "what was seen"], tablefmt="pipe"))
    return int(any(entry.seeds is None for entry in verdicts))


def shortened(text: str) -> str:
    return text if len(text) <= 100 else text[:99] + "…"
