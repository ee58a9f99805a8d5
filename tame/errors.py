"""The errors of Tame: one small hierarchy under `TameError`.

Each message says what happened, to what, and what to do about it.
"""


class TameError(Exception):
    """The base class of the errors that Tame raises itself."""


class TranslationError(TameError, SyntaxError):
    """Code in a tamed function cannot be translated; the error has the file and the line."""


class OutsideTamedError(TameError, RuntimeError):
    """`twait` or a slot of `mkevent` was used in a function that is not `@tamed`."""


class EventSpentError(TameError):
    """An event was triggered a second time under ``TAME_STRICT=1``."""


class EventDroppedError(TameError):
    """The last handle of an awaited event is gone, so nothing can trigger it any more."""


class RendezvousBusyError(TameError):
    """A second closure tried to wait on a rendezvous that has a waiter."""


class RendezvousCancelledError(TameError):
    """The rendezvous was cancelled while this closure waited on it."""


class DescriptorBusyError(TameError):
    """Another event already waits for the same direction of the descriptor."""


class LoopError(TameError, RuntimeError):
    """A function that needs the event loop was called outside `run`, or `run` inside `run`."""


class DeadlockError(TameError):
    """`run` cannot end: its closure is blocked and nothing is left that could trigger an event."""


class BlockedWarning(RuntimeWarning):
    """`run` ended while closures were still blocked; the message lists them."""
