"""Tame: events that read like threads (Krohn, Kohler, Kaashoek, USENIX ATC 2007).

from tame import Event, mkevent, run, tamed, timer, tvars, twait

@tamed
def hello(done: Event[str]) -> None:
    with twait:                     # waits for every event made in the block
        timer(0.1, mkevent())
        timer(0.2, mkevent())
    done.trigger("hello, world")    # wakes the waiter of `done`

@tamed
def main() -> None:
    with tvars:
        word: str
    with twait:
        hello(mkevent(word))        # the trigger value goes to the slot `word`
    print(word)

run(main)
"""

from tame.closure import Blocked, blocked, on_error
from tame.drivers import READ, WRITE
from tame.errors import (
    BlockedWarning,
    DeadlockError,
    DescriptorBusyError,
    EventDroppedError,
    EventSpentError,
    LoopError,
    OutsideTamedError,
    RendezvousBusyError,
    RendezvousCancelledError,
    TameError,
    TranslationError,
)
from tame.event import Event
from tame.language import mkevent, tamed, tvars, twait
from tame.loop import Descriptor, now, run, timer, wait_on_fd
from tame.rendezvous import Rendezvous

__all__ = [
    "READ",
    "WRITE",
    "Blocked",
    "BlockedWarning",
    "DeadlockError",
    "Descriptor",
    "DescriptorBusyError",
    "Event",
    "EventDroppedError",
    "EventSpentError",
    "LoopError",
    "OutsideTamedError",
    "Rendezvous",
    "RendezvousBusyError",
    "RendezvousCancelledError",
    "TameError",
    "TranslationError",
    "blocked",
    "mkevent",
    "now",
    "on_error",
    "run",
    "tamed",
    "timer",
    "tvars",
    "twait",
    "wait_on_fd",
]
