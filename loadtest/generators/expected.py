"""The bytes that a server should answer with, read from the files that it serves."""

from __future__ import annotations

from pathlib import Path
from typing import Final

CACHE: Final = 64 * 2**20
"""Bytes of files that are kept in memory."""


class Expected:
    """The contents of the files below `root`, up to `CACHE` bytes of them in memory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.known: dict[str, bytes] = {}
        self.size = 0

    def content(self, name: str) -> bytes:
        """Raises `OSError` if there is no such file."""
        data = self.known.get(name)
        if data is None:
            data = (self.root / name).read_bytes()
            self.known[name] = data
            self.size += len(data)
            while self.size > CACHE:
                oldest = next(iter(self.known))
                self.size -= len(self.known.pop(oldest))
        return data
