"""Window control flow: at most `WINDOWSIZE` lookups at a time; when one ends, the next begins."""

from __future__ import annotations

from cli import main
from resolver import gethost_ev
from tame import Event, Rendezvous, mkevent, tamed, tvars, twait

WINDOWSIZE = 3


@tamed
def multidns_win(name: list[str], a: list[str], n: int, done: Event[()]) -> None:
    with tvars:
        sent = recv = 0
        r = Rendezvous[int]()
    while recv < n:
        if sent < n and sent - recv < WINDOWSIZE:
            gethost_ev(name[sent], mkevent(r, sent, a[sent]))
            sent += 1
        else:
            twait(r)
            recv += 1
    done.trigger()


if __name__ == "__main__":
    main(multidns_win)
