"""Signals that arrive before the process can act on them: it takes half a second to start.

This is imported before everything else, so it imports next to nothing.  `knot.process.signals`
takes over.
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
"""Functions to call before the process exits here."""


def handle_signals() -> None:
    """Exit with status 0 on a signal to stop, as after serving; keep the others for later."""
    for number in STOP:
        signal.signal(number, stop)
    for number in LATER:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, keep)


class Uninterrupted:
    """A context in which no signal separates an action from its cleanup.

    A signal mask would not do: the signal could be delivered to another thread.
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
    """Exit at once: nothing is served yet, so there is nothing to finish."""
    if Uninterrupted.active:
        Uninterrupted.stopped = True
    else:
        end()


def end() -> None:
    """Exit.  `SystemExit` would be dropped in a finalizer, and the signal lost."""
    for action in cleanup:
        action()
    os._exit(0)


def keep(number: int, frame: object) -> None:
    pending.append(number)
