"""The concurrency models: the only places where Knot waits for its clients."""

from typing import Final

MODELS: Final = ("events", "threads", "asyncio", "greenlets")
"""Modules of this package.  Each has a `Server`, and `run(listeners, server, signals, grace)`,
which serves until a signal and then stops."""
