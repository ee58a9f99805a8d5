"""Whether a file has changed since it was read: what the file system reports, and when that is
proof."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

UNSETTLED: Final = 2_100_000_000
"""Nanoseconds in which a file can change twice under one stamp: FAT keeps times in steps of two
seconds, ext3 of one, and the kernel's own clock for them ticks every 10 ms at most."""


class Stamp(NamedTuple):
    """One state of a file.  Times are in ns since the epoch."""

    device: int
    inode: int
    size: int
    """In bytes."""
    modified: int
    """As any program may set it: `tar`, `cp -p` and `unzip` give new content an old time."""
    changed: int
    """The time of the inode (``ctime``), which only the kernel sets."""

    def is_settled(self, now: float) -> bool:
        """Whether the stamp proves what was read at the time `now`, in seconds: a later change
        would give another stamp.  (Git calls the opposite "racily clean".)

        Never while the file's time lies in the future: the clock was set back, or is another
        machine's, and will pass that time once more.
        """
        return self.changed + UNSETTLED <= now * 1e9


def stamp_of(status: os.stat_result) -> Stamp:
    return Stamp(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )
