"""How a process knows that it is one of several workers; `knot.supervisor` starts them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

WORKER: Final = "KNOT_WORKER"
"""The environment variable with a worker's two descriptors."""

READY: Final = b"1"


@dataclass(frozen=True)
class Post:
    """Where a worker listens, and where it says that it is ready."""

    listener: int
    ready: int

    def is_ready(self) -> None:
        os.write(self.ready, READY)
        os.close(self.ready)


def post() -> Post | None:
    """This process's own, if it is a worker."""
    said = os.environ.pop(WORKER, "")
    if not said:
        return None
    listener, ready = map(int, said.split(","))
    os.set_inheritable(ready, False)
    return Post(listener, ready)
