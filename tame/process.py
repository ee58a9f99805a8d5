"""Signals and children: what else a process may wait for."""

from __future__ import annotations

import os
import signal
from typing import Any

from tame.drivers import READ
from tame.event import Event
from tame.language import mkevent, tamed, twait
from tame.loop import Descriptor, wait_on_fd


def at_signal(number: int, event: Event[()]) -> None:
    """Trigger `event` when the process gets this signal; the handler before is there again then.

    The handler only writes to a descriptor, so that no exception comes up in the middle of other
    code.  Only for the main thread.  Raises `ValueError` elsewhere, or for a signal that cannot be
    handled.
    """
    heard = Descriptor(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
    try:
        before = signal.signal(number, lambda *_: os.eventfd_write(heard.fd, 1))
    except (OSError, ValueError) as error:
        heard.close()
        raise ValueError(f"signal {number} cannot be waited for here: {error}") from None
    hear(heard, number, before, event)


@tamed
def hear(heard: Descriptor, number: int, before: Any, event: Event[()]) -> None:
    try:
        with twait:
            wait_on_fd(heard, READ, mkevent())
    finally:
        signal.signal(number, before)
        heard.close()
    if event.live:
        event.trigger()


@tamed
def child_exit(pid: int, done: Event[int]) -> None:
    """Trigger `done` with the exit code of a child, as `subprocess` has it: negative for the signal
    that ended it.  Fails with `OSError` if it is no child of this process, or was waited for.
    """
    try:
        child = Descriptor(os.pidfd_open(pid))
    except OSError as error:
        done.fail(error)
        return
    try:
        with twait:
            wait_on_fd(child, READ, mkevent())
        _, status = os.waitpid(pid, 0)
    except OSError as error:
        done.fail(error)
    else:
        done.trigger(os.waitstatus_to_exitcode(status))
    finally:
        child.close()
