"""How much of the server one client may have: requests in time, and connections.  No I/O.

Everything here has a bound that no number of clients exceeds.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Final

from knot.access.networks import client_at

SAVED: Final = 10.0
"""Seconds of its rate that a client which asks for nothing saves up, and may have at once: a page
with all that belongs to it comes in one burst."""

MAX_CLIENTS: Final = 16_384
"""Clients whose recent requests are remembered, in 3 MiB.  A client that is forgotten because so
many others have asked since may have its burst again: a client with more addresses than this gets
one for each of them, as it would anyway."""


class Rates:
    """Requests of each client in time: a bucket of tokens, kept as the one time when it will be
    full (the generic cell rate algorithm, ITU-T I.371)."""

    def __init__(self, rate: float, max_clients: int = MAX_CLIENTS) -> None:
        """`rate` is how many requests a client may make in a second on average."""
        self.rate = rate
        self._interval = 1 / rate
        self._slack = max(SAVED - self._interval, 0.0)
        self._most = max_clients
        self._full: dict[str, float] = {}  # by client, whoever asked last at the end

    def wait(self, client: str, now: float) -> int:
        """Count a request; 0 if it may be answered, else the seconds to wait before another.

        One that may not be answered takes nothing.  `now` is in seconds, of any clock that never
        goes back.
        """
        full = self._full.pop(client, now)
        ahead = full - now
        if ahead > self._slack:
            self._full[client] = full
            return ceil(ahead - self._slack)
        self._full[client] = (full if ahead > 0 else now) + self._interval
        if len(self._full) > self._most:
            del self._full[next(iter(self._full))]
        return 0


class ConnectionLimit:
    """How many connections each client has.  Those of trusted proxies belong to other clients and
    do not count."""

    def __init__(self, most: int, trusted: Callable[[str], bool] | None = None) -> None:
        self._most = most
        self._trusted = trusted
        self._open: dict[str, int] = {}  # no longer than there are connections

    def enter(self, address: str) -> bool:
        """Count one more connection from there, unless that is one too many; whether it was
        counted."""
        if self._trusted is not None and self._trusted(address):
            return True
        client = client_at(address)
        number = self._open.get(client, 0)
        if number >= self._most:
            return False
        self._open[client] = number + 1
        return True

    def count(self, address: str) -> None:
        """Count a connection that exists already, however many there are."""
        if self._trusted is None or not self._trusted(address):
            client = client_at(address)
            self._open[client] = self._open.get(client, 0) + 1

    def leave(self, address: str) -> None:
        """Count one connection less."""
        if self._trusted is not None and self._trusted(address):
            return
        client = client_at(address)
        self._open[client] -= 1
        if not self._open[client]:
            del self._open[client]
