"""The words of the language: `tamed`, `twait`, `tvars`, `mkevent` (paper, Figure 2).

In a tamed function the translator replaces the last three.  The definitions here are used outside
tamed functions, and by type checkers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeVar, overload

from tame.errors import OutsideTamedError
from tame.event import Event, Ts
from tame.rendezvous import I, Rendezvous, rendezvous_event
from tame.runtime import closure

F = TypeVar("F", bound=Callable[..., None])


def tamed(f: F) -> F:
    """Make `f` a function that may wait.

    A call runs its body at once, in the caller's stack, up to the first wait that must block;
    then control returns to the caller.  It returns None and passes results to events.
    Raises `TranslationError` for code that cannot be translated.
    """
    from tame.translate import translate_function  # not needed by programs translated ahead

    tamed_function: F = closure(translate_function(f), f)
    return tamed_function


def _outside(word: str) -> NoReturn:
    raise OutsideTamedError(
        f"{word} is only possible directly in a tamed function, not in one nested in it: put"
        " @tamed above the `def`, below all other decorators"
    )


class Twait:
    """``with twait:`` waits for the events made in the block, ``twait(r)`` for the next of `r`."""

    def __enter__(self) -> None:
        _outside("`with twait:`")

    def __exit__(self, *error: object) -> None: ...

    def __call__(self, rendezvous: Rendezvous[I]) -> I:
        """Wait for the next event of `rendezvous` that triggers, and return its id."""
        _outside("`twait(r)`")


class Tvars:
    """``with tvars:`` declares variables; like all locals, they keep their values across waits."""

    def __enter__(self) -> None:
        """Outside a tamed function the block has no effect."""

    def __exit__(self, *error: object) -> None: ...


twait: Final = Twait()
tvars: Final = Tvars()


@overload
def mkevent(rendezvous: Rendezvous[None], /) -> Event[()]: ...
@overload
def mkevent(rendezvous: Rendezvous[I], id: I, /, *slots: *Ts) -> Event[*Ts]: ...
@overload
def mkevent(*slots: *Ts) -> Event[*Ts]: ...
def mkevent(*arguments: Any) -> Any:  # type: ignore[misc]  # mypy does not match *Any with *Ts
    """Make an event: ``mkevent(slot…)`` of the enclosing ``with twait:``, or
    ``mkevent(rendezvous, id, slot…)``.

    Slots are variables, items or attributes; the trigger values are stored there.  Outside a
    tamed function only ``mkevent(rendezvous, id)`` is possible, because slots need translation.
    """
    if 1 <= len(arguments) <= 2 and isinstance(arguments[0], Rendezvous):
        id = arguments[1] if len(arguments) > 1 else None
        caller = sys._getframe(1)
        return rendezvous_event(arguments[0], id, (caller.f_code, caller.f_lasti), ())
    _outside("a slot of mkevent()")
