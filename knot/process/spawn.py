"""What a process of Knot inherits, and how one that Knot starts is started.

A child of Knot has

=====================  ============================================================================
interpreter            the same, with the same switches (``-I``, ``-E``, ``-s``), and ``-P``
import path            the parent's own: never the current directory, never a served one
environment            the parent's, without what a service manager says to the parent alone
descriptors            those it is given, ``/dev/null`` as standard input, and the parent's standard
                       output and error
signals                the default actions and an empty mask, whatever the parent's are
process group          its own: a Ctrl-C at the terminal is the supervisor's
working directory      that of the parent's start, by its path, which relative paths in the options
                       are relative to: another directory may be there by now
umask, limits, user    the parent's: a file's mode is given where the file is made, and a worker
                       gives up root by itself
=====================  ============================================================================

``tests/reports/test_inherit.py`` compares a worker with this table.
"""

from __future__ import annotations

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
"""What a service manager says to the process that it has started (sd_notify(3), sd_listen_fds(3),
sd_watchdog_enabled(3)): a child that took it for its own would speak for its parent."""


# -- the import path ------------------------------------------------------------------------------


def clean_import_path(*sites: str) -> None:
    """From now on, import nothing from the current directory, nor from these: neither this process
    nor one that it starts.

    They come by PYTHONPATH, where an empty or relative entry is below the current directory, or as
    the first entry, which Python adds unless it is started with ``-P``.  The place of Knot itself
    stays.  What is imported before this is called cannot be helped.
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
        kept.append(HOME)  # not installed, perhaps: ``python -m`` has found it where it was
    if kept:
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)
    else:
        os.environ.pop("PYTHONPATH", None)


def real(path: str) -> str:
    """Free of links; the path itself below a current directory that was removed."""
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
    """Have this process as the others are, whatever it was started with.

    A blocked signal would never be heard, and where SIGCHLD is ignored, nobody learns how a child
    has ended.  (Closed standard streams are `knot.process.diagnostics`'s.)
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with suppress(FileNotFoundError):
        started_in.append(os.getcwd())


started_in: list[str] = []
"""The working directory of the start, as the last entry: it may have been removed since, as by a
build that replaces the site."""


def start(
    arguments: Sequence[str], fds: Collection[int], variables: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Another ``knot`` with these arguments and descriptors.  Raises `OSError`."""
    inherited = {name: value for name, value in os.environ.items() if name not in OF_ONE_PROCESS}
    return subprocess.Popen(  # noqa: S603  (it is this program)
        python("-m", "knot.cli", *arguments),
        stdin=subprocess.DEVNULL,
        pass_fds=fds,
        env={**inherited, **variables},
        cwd=started_in[-1] if started_in else None,
        process_group=0,
    )
