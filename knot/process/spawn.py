"""What a process of Knot inherits, and how Knot starts another.

A child process of Knot has

=====================  ============================================================================
interpreter            the same, with the same switches (``-I``, ``-E``, ``-s``), and ``-P``
import path            the parent's own: never the current directory, never a served one
environment            the parent's, without what a service manager says to the parent alone
descriptors            those it is given, ``/dev/null`` as standard input, and the parent's standard
                       output and error
signals                the default actions and an empty mask, whatever the parent's are
process group          its own: a Ctrl-C at the terminal is the supervisor's
working directory      the one that the parent was started in, by its path, since options may be
                       relative to it: there may be another directory at that path by now
umask, limits, user    the parent's: a file's mode is given where the file is made, and a worker
                       gives up root by itself
=====================  ============================================================================

``tests/reports/test_inherit.py`` compares a worker with this table.  Nothing here knows what the
other process is started for.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Final

HOME: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
"""The directory that Knot itself is imported from."""

OF_ONE_PROCESS: Final = (
    "NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC",
)  # fmt: skip
"""Variables that a service manager sets for the process that it has started (sd_notify(3),
sd_listen_fds(3), sd_watchdog_enabled(3)): a child that used them would speak for its parent."""

PR_SET_PDEATHSIG: Final = 1


# -- the import path ------------------------------------------------------------------------------


def clean_import_path(*sites: str) -> None:
    """From now on, import nothing from the current directory, nor from `sites`, in this process and
    in those that it starts.

    Such directories come from PYTHONPATH, where an empty or relative entry is below the current
    directory, or are the first entry, which Python adds unless it is started with ``-P``.  The
    directory of Knot itself stays.  Modules that have been imported before this call stay, too.
    """
    refused = {real(path) for path in (os.curdir, *sites)} - {HOME}
    given = os.environ.get("PYTHONPATH", "")
    first = {} if sys.flags.safe_path else {real(entry) for entry in sys.path[:1]}
    dropped = refused.intersection(first)
    kept = []
    for entry in given.split(os.pathsep) if given else ():
        place = real(entry)
        if place != HOME and (place in refused or not os.path.isabs(entry)):
            dropped.add(place)
        else:
            kept.append(entry if os.path.isabs(entry) else HOME)
    sys.path[:] = [entry for entry in sys.path if real(entry) not in dropped]
    if HOME in first and HOME not in kept:
        kept.append(HOME)  # perhaps Knot is not installed, and ``python -m`` has found it here
    if kept:
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)
    else:
        os.environ.pop("PYTHONPATH", None)


def real(path: str) -> str:
    """The path without links; the path itself if the current directory has been removed."""
    try:
        return os.path.realpath(path)
    except OSError:
        return path


def python(*arguments: str) -> list[str]:
    """The command that runs this interpreter without the current directory on its import path."""
    switches = {
        "-I": sys.flags.isolated,
        "-E": sys.flags.ignore_environment,
        "-s": sys.flags.no_user_site,
    }
    return [sys.executable, "-P", *(name for name, on in switches.items() if on), *arguments]


# -- starting -------------------------------------------------------------------------------------


def set_right() -> None:
    """Reset what this process may have inherited, and remember its working directory.

    A blocked signal would never arrive, and if SIGCHLD is ignored, the status of a child is lost.
    (Closed standard streams are `knot.process.diagnostics`'s.)
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with suppress(FileNotFoundError):
        started_in.append(os.getcwd())


started_in: list[str] = []
"""The working directory at the start, as the last entry.  It may have been removed since, for
example by a build that replaces the site."""


def start(
    arguments: Sequence[str], fds: Collection[int], variables: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start another ``knot`` with these arguments, descriptors and variables.  Raises `OSError`."""
    inherited = {name: value for name, value in os.environ.items() if name not in OF_ONE_PROCESS}
    return subprocess.Popen(  # noqa: S603  (it is this program)
        python("-m", "knot.cli", *arguments),
        stdin=subprocess.DEVNULL,
        pass_fds=fds,
        env={**inherited, **variables},
        cwd=started_in[-1] if started_in else None,
        process_group=0,
    )


def end_with_parent(number: int) -> None:
    """Have the kernel send this process a signal when the process that started it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
