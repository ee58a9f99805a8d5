"""What a report consists of, before it becomes HTML or Markdown.

Every cell is text.  What could not be measured is a gap with a number, and the reasons with these
numbers follow the table.
"""

from __future__ import annotations

from dataclasses import dataclass, field

GAP = "—"


@dataclass(frozen=True)
class Table:
    caption: str
    head: tuple[str, ...]
    """The first column names the row."""
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    words: bool = False
    """True if its cells are text, not numbers."""


@dataclass(frozen=True)
class Section:
    name: str
    """Its anchor in the page."""
    title: str
    text: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    """Names of plots, which come before the tables."""
    tables: tuple[Table, ...] = ()
    code: str = ""
    folded: bool = False
    """True if its tables are hidden until a reader opens them."""


@dataclass(frozen=True)
class Page:
    title: str
    made: str
    warning: str
    """Why the whole result needs caution; empty if it does not."""
    headlines: tuple[str, ...]
    sections: tuple[Section, ...]


@dataclass
class Gaps:
    """The reasons for the gaps of one table, numbered in order."""

    reasons: list[str] = field(default_factory=list)

    def because(self, reason: str) -> str:
        if reason not in self.reasons:
            self.reasons.append(reason)
        return f"{GAP} [{self.reasons.index(reason) + 1}]"

    def notes(self) -> tuple[str, ...]:
        return tuple(f"[{number}] {reason}" for number, reason in enumerate(self.reasons, 1))
