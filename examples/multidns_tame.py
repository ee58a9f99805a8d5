"""Serial control flow: one lookup after the other, while the rest of the program can run."""

from __future__ import annotations

from cli import main
from resolver import gethost_ev
from tame import Event, mkevent, tamed, twait


@tamed
def multidns_tame(name: list[str], a: list[str], n: int, done: Event[()]) -> None:
    for i in range(n):
        with twait:
            gethost_ev(name[i], mkevent(a[i]))
    done.trigger()


if __name__ == "__main__":
    main(multidns_tame)
