"""Parallel control flow: all lookups at once.

The only difference from `multidns_tame` is that the loop is inside the block.
"""

from __future__ import annotations

from cli import main
from resolver import gethost_ev
from tame import Event, mkevent, tamed, twait


@tamed
def multidns_par(name: list[str], a: list[str], n: int, done: Event[()]) -> None:
    with twait:
        for i in range(n):
            gethost_ev(name[i], mkevent(a[i]))
    done.trigger()


if __name__ == "__main__":
    main(multidns_par)
