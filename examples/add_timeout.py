"""Event ids and composability: `add_timeout` gives any event a time limit.

Code that triggers an event does not know what waits for it, so `gethost_ev` can be given a time
limit here without any change.  Two things differ from the paper.  Python has no reference
parameters, so `_add_timeout` returns its event in a list.  And Python types have no empty value, so
the value after a time-out is None.
"""

from __future__ import annotations

import warnings
from typing import TypeVar

from cli import main
from resolver import gethost_ev
from tame import BlockedWarning, Event, Rendezvous, mkevent, tamed, timer, tvars, twait

T = TypeVar("T")

TIMEOUT = 1.0  # seconds


@tamed
def _add_timeout(e_base: list[Event[T]], e: Event[bool, T | None]) -> None:
    with tvars:
        r = Rendezvous[bool]()
        result: T
    timer(TIMEOUT, mkevent(r, False))
    e_base.append(mkevent(r, True, result))
    try:
        rok = twait(r)
    except Exception as error:  # `fail` instead of `trigger`
        e.fail(error)
    else:
        e.trigger(rok, result if rok else None)
    r.cancel()


def add_timeout(e: Event[bool, T | None]) -> Event[T]:
    """An event that triggers `e` with True and its own value, if it happens within `TIMEOUT`.

    Otherwise `e` is triggered with False and None, and what comes later is ignored.
    """
    e_base: list[Event[T]] = []
    _add_timeout(e_base, e)
    return e_base.pop()


@tamed
def multidns_timeout(name: list[str], a: list[str], n: int, done: Event[()]) -> None:
    """`multidns_par`, with a time limit for each lookup."""
    with tvars:
        ok = [False] * n
        address: list[str | None] = [None] * n
    with twait:
        for i in range(n):
            gethost_ev(name[i], add_timeout(mkevent(ok[i], address[i])))
    for i in range(n):
        a[i] = str(address[i]) if ok[i] else "timed out"
    done.trigger()


if __name__ == "__main__":
    # A lookup that ran out of time still waits for its answer when the program ends.
    warnings.simplefilter("ignore", BlockedWarning)
    main(multidns_timeout)
