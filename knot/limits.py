"""What one client may cost, whatever the concurrency model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Times are in seconds; each is exceeded by one at most, because they are looked at then, or by
    less than two if it is no whole number."""

    head: float = 10
    """From the first byte of a request, or from the beginning of the connection, to the end of
    the request's head."""
    keep_alive: float = 75
    """Between two requests."""
    send: float = 60
    """In which the client takes nothing of its answer."""
    linger: float = 2
    """In which a client that was refused may still send, as nginx has it by default."""
    requests: int = 10_000
    """On one connection."""
    connections: int = 10_000
    """At once; one more is told to come later."""
