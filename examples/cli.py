"""The command line of the examples: look up the given names, and print their addresses."""

from __future__ import annotations

import sys
from collections.abc import Callable

from resolver import ResolverError
from tame import Event, run


def main(multidns: Callable[[list[str], list[str], int, Event[()]], None]) -> None:
    name = sys.argv[1:]
    if not name:
        sys.exit(f"usage: {sys.argv[0]} NAME...")
    a = [""] * len(name)
    failures: tuple[Exception, ...] = ()
    try:
        run(multidns, name, a, len(name), Event())
    except* ResolverError as group:
        failures = group.exceptions
    if failures:
        sys.exit("\n".join(str(failure) for failure in failures))
    for i in range(len(name)):
        print(name[i], a[i])
