"""What translated code stands on.

The output of ``tame translate`` uses these names, and a generator written by hand may, too::

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
    """The tamed function whose translated body is `body`; it looks like `described`."""
    start = tamed_call if body.__code__.co_flags & GENERATOR else plain_call
    return functools.update_wrapper(start(body), described or body)


def event(rendezvous: Rendezvous[Any], id: Any = None, *slots: Slot) -> Event[*tuple[Any, ...]]:
    """An event of `rendezvous` with that id and those slots, made where the caller stands."""
    frame = sys._getframe(1)
    return explicit(rendezvous, id, (frame.f_code, frame.f_lasti), slots)


def choose(block: Block, *slots: Slot) -> Event[*tuple[Any, ...]]:
    """`mkevent` of arguments of which only the run can say what they are."""
    frame = sys._getframe(1)
    return chosen(block, (frame.f_code, frame.f_lasti), slots)


def explicit(
    rendezvous: Any, id: Any, site: Site, slots: tuple[Slot, ...]
) -> Event[*tuple[Any, ...]]:
    if not isinstance(rendezvous, Rendezvous):
        raise TypeError(
            f"mkevent() was to make an event of a rendezvous, but its first argument is"
            f" {rendezvous!r}: pass a Rendezvous; or if it is a slot, put it into a `with twait:`,"
            " and declare a variable of an outer function nonlocal"
        )
    return rendezvous_event(rendezvous, id, site, slots)


def chosen(block: Block, site: Site, slots: tuple[Slot, ...]) -> Event[*tuple[Any, ...]]:
    try:
        first = slots[0].cell_contents
    except Exception:  # not bound yet, or not there yet: so it is a slot
        first = None
    if isinstance(first, Rendezvous):
        id = slots[1].cell_contents if len(slots) > 1 else None
        return rendezvous_event(first, id, site, slots[2:])
    return block_event(block, site, slots)
