"""The blocking version: one lookup after the other, and nothing else can run meanwhile."""

from __future__ import annotations

from cli import main
from resolver import gethostbyname


def multidns(name: list[str], a: list[str], n: int) -> None:
    for i in range(n):
        a[i] = gethostbyname(name[i])


if __name__ == "__main__":
    main(lambda name, a, n, done: multidns(name, a, n))
