"""Signals and the exit of child processes as events."""

from __future__ import annotations

import os
import signal
from typing import Any

from tame.drivers import READ
from tame.event import Event
from tame.language import mkevent, tamed, twait
from tame.loop import Descriptor, wait_on_fd


def at_signal(number: int, event: Event[()]) -> None:
    """Trigger `event` when the process gets the signal, and restore the previous handler.

    The handler only writes to a descriptor, so no exception interrupts other code.  Raises
    `ValueError` outside the main thread, or for a signal that cannot be handled.
    """
    received = Descriptor(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
    try:
        before = signal.signal(number, lambda *_: os.eventfd_write(received.fd, 1))
    except (OSError, ValueError) as error:
        received.close()
        raise ValueError(f"signal {number} cannot be waited for here: {error}") from None
    wait_for_signal(received, number, before, event)


@tamed
def wait_for_signal(received: Descriptor, number: int, before: Any, event: Event[()]) -> None:
    try:
        with twait:
            wait_on_fd(received, READ, mkevent())
    finally:
        signal.signal(number, before)
        received.close()
    if event.live:
        event.trigger()


@tamed
def child_exit(pid: int, done: Event[int]) -> None:
    """Trigger `done` with the exit code of a child process; as in `subprocess`, it is negative if a
    signal ended the child.

    Fails with `OSError` if `pid` is not a child of this process, or has already been waited for.
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
