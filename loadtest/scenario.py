"""What clients do, as data.  Each generator has clients of its own for a scenario."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ANSWER_TIMEOUT: Final = 10.0
"""Seconds without a byte of an answer until a request has failed."""
RESPITE: Final = 0.1
"""Seconds until a client tries again a server that has refused it."""
TICK: Final = 0.125
"""Seconds between two reads of a slow reader."""


@dataclass(frozen=True)
class Scenario:
    """One kind of client.

    A client opens a connection, sends `requests` requests on it, closes it and opens the next.
    """

    name: str
    about: str
    requests: int | None = None
    """On one connection; None keeps it open until the server closes it."""
    pause: float = 0.0
    """Seconds between an answer and the next request."""
    assets: int = 0
    """Files requested after each page, over `parallel` connections, as browsers do."""
    parallel: int = 1
    think: float = 0.0
    """Seconds between a page with all its assets and the next page: the mean of an exponential
    distribution."""
    slow: int | None = None
    """Bytes a second that a client reads; None reads them as they come."""
    asks: bool = True
    """False for clients that send one request and then only keep their connection."""

    @property
    def has_pace(self) -> bool:
        """Whether clients wait on their own, whatever the server does."""
        return bool(self.pause or self.think or self.slow or not self.asks)


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario("one", "one request per connection", requests=1),
        Scenario("five", "five requests per connection, at once", requests=5),
        Scenario(
            "five-paused",
            "five requests per connection, 20 ms between them (SEDA's and Capriccio's)",
            requests=5,
            pause=0.02,
        ),
        Scenario("kept", "kept-alive connections"),
        Scenario(
            "browsers",
            "a page and eight assets over four connections, two seconds to read it",
            assets=8,
            parallel=4,
            think=2.0,
        ),
        Scenario("slow", "readers that take 16 KiB a second", requests=1, slow=16 * 1024),
        Scenario("idle", "one request, then a silent open connection", asks=False),
    )
}
