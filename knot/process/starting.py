"""Signals that come before the process can act on them: it takes half a second to start.

Imported before everything else, so it imports next to nothing.  `knot.process.signals` takes over.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
LATER = (signal.SIGHUP, signal.SIGUSR1)

pending: list[int] = []
"""Signals of `LATER` that `knot.process.signals` has yet to act on."""

cleanup: list[Callable[[], object]] = []
"""Called before the process ends here."""


def handle_signals() -> None:
    """Exit with status 0 when asked to stop, as after serving; keep the others for later."""
    for number in STOP:
        signal.signal(number, stop)
    for number in LATER:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, keep)


class Uninterrupted:
    """A context in which no stop comes between something and its cleanup.

    Not by a mask: the signal could be delivered to another thread.
    """

    active = False
    stopped = False

    def __enter__(self) -> None:
        Uninterrupted.active = True

    def __exit__(self, *_: object) -> None:
        Uninterrupted.active = False
        if Uninterrupted.stopped:
            end()


def stop(number: int, frame: object) -> None:
    """Nothing is served yet, so there is nothing to finish."""
    if Uninterrupted.active:
        Uninterrupted.stopped = True
    else:
        end()


def end() -> None:
    """Exit; `SystemExit` would be dropped in a finalizer, and the signal lost."""
    for action in cleanup:
        action()
    os._exit(0)


def keep(number: int, frame: object) -> None:
    pending.append(number)
