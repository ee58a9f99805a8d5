"""The runtime of translated code; it never imports the translator.

The output of ``tame translate`` uses these names, and generators written by hand may use them::

    @closure
    def multidns_tame(name, a, n, done):
        for i in range(n):
            with block() as b:
                gethost_ev(name[i], b.event(item(a, i)))
                b.finish(b.pending and (yield b))
        done.trigger()
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from tame.closure import plain_call, tamed_call
from tame.event import Attribute, Event, Item, Site, Slot, local
from tame.rendezvous import Block, Rendezvous, block_event, rendezvous_event

__all__ = ["attribute", "block", "choose", "closure", "event", "item", "local"]

GENERATOR = 0x20  # `inspect.CO_GENERATOR`, without the 1 MB of `inspect`

block = Block
item = Item
attribute = Attribute


def closure(body: Callable[..., Any], described: Callable[..., Any] | None = None) -> Any:
    """The tamed function with the translated body `body`, and the name and docstring of
    `described`."""
    start = tamed_call if body.__code__.co_flags & GENERATOR else plain_call
    return functools.update_wrapper(start(body), described or body)


def event(rendezvous: Rendezvous[Any], id: Any = None, *slots: Slot) -> Event[*tuple[Any, ...]]:
    """An event of `rendezvous` with this id and these slots, made at the caller's line."""
    frame = sys._getframe(1)
    return explicit(rendezvous, id, (frame.f_code, frame.f_lasti), slots)


def choose(block: Block, *slots: Slot) -> Event[*tuple[Any, ...]]:
    """The event of a `mkevent` call whose form only the values of its arguments decide."""
    frame = sys._getframe(1)
    return chosen(block, (frame.f_code, frame.f_lasti), slots)


def explicit(
    rendezvous: Any, id: Any, site: Site, slots: tuple[Slot, ...]
) -> Event[*tuple[Any, ...]]:
    if not isinstance(rendezvous, Rendezvous):
        raise TypeError(
            f"mkevent() needs a rendezvous here, but its first argument is {rendezvous!r}: pass a"
            " Rendezvous; if it is meant to be a slot, move the call into a `with twait:`, and"
            " declare a variable of an outer function nonlocal"
        )
    return rendezvous_event(rendezvous, id, site, slots)


def chosen(block: Block, site: Site, slots: tuple[Slot, ...]) -> Event[*tuple[Any, ...]]:
    try:
        first = slots[0].cell_contents
    except Exception:  # not bound, or no such item: so it is a slot
        first = None
    if isinstance(first, Rendezvous):
        id = slots[1].cell_contents if len(slots) > 1 else None
        return rendezvous_event(first, id, site, slots[2:])
    return block_event(block, site, slots)
