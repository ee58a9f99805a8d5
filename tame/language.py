"""The words of the language: `tamed`, `twait`, `tvars`, `mkevent` (paper, Figure 2).

In a tamed function the translator replaces the last three; what stands here is what they are
elsewhere, and what a type checker sees.
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
    then control goes back to the caller.  It returns None: results travel through events.
    Raises `TranslationError` for what has no meaning in Tame.
    """
    from tame.translate import translate_function  # programs translated ahead do without

    tamed_function: F = closure(translate_function(f), f)
    return tamed_function


def _outside(word: str) -> NoReturn:
    raise OutsideTamedError(
        f"{word} is only possible in a tamed function, itself and not one nested in it: put"
        " @tamed above the `def`, below all other decorators"
    )


class Twait:
    """``with twait:`` waits for the events made in the block, ``twait(r)`` for the next of `r`."""

    def __enter__(self) -> None:
        _outside("`with twait:`")

    def __exit__(self, *error: object) -> None: ...

    def __call__(self, rendezvous: Rendezvous[I]) -> I:
        """The id of the next event of `rendezvous` that triggers."""
        _outside("`twait(r)`")


class Tvars:
    """``with tvars:`` declares variables that live across waits; Python's locals all do."""

    def __enter__(self) -> None:
        """Outside a tamed function the block is an ordinary one."""

    def __exit__(self, *error: object) -> None: ...


twait: Final = Twait()
tvars: Final = Tvars()


@overload
def mkevent(rendezvous: Rendezvous[None], /) -> Event[()]: ...
@overload
def mkevent(rendezvous: Rendezvous[I], id: I, /, *slots: *Ts) -> Event[*Ts]: ...
@overload
def mkevent(*slots: *Ts) -> Event[*Ts]: ...
def mkevent(*arguments: Any) -> Any:  # type: ignore[misc]  # mypy takes *Any not for *Ts
    """A new event: ``mkevent(slot…)`` of the ``with twait:`` around it, or
    ``mkevent(rendezvous, id, slot…)``.

    Slots are variables, items or attributes; the trigger values are stored there.  Outside a
    tamed function only ``mkevent(rendezvous, id)`` is possible, because a slot needs translation.
    """
    if 1 <= len(arguments) <= 2 and isinstance(arguments[0], Rendezvous):
        id = arguments[1] if len(arguments) > 1 else None
        caller = sys._getframe(1)
        return rendezvous_event(arguments[0], id, (caller.f_code, caller.f_lasti), ())
    _outside("a slot of mkevent()")
