"""What one client may cost, whatever the concurrency model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Times are in seconds.  They are checked once a second, so each may be exceeded by up to one
    second, and a fraction by up to two."""

    head: float = 10
    """For a request's head, from its first byte or from the start of the connection."""
    keep_alive: float = 75
    """Between two requests."""
    send: float = 60
    """Without any progress while the client is sent a response."""
    linger: float = 2
    """For a refused client to finish sending, as in nginx."""
    requests: int = 10_000
    """On one connection."""
    connections: int = 10_000
    """At once; a client beyond that is asked to come back later."""
