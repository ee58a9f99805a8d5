"""What a report consists of, before it is HTML, Markdown or a terminal's.

Every cell is text.  What could not be measured is a gap with the number of its reason, and the
reasons stand below the table.
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
    """Its cells are text, not numbers."""


@dataclass(frozen=True)
class Section:
    name: str
    """In addresses within the page."""
    title: str
    text: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    """Names of plots, shown before the tables."""
    tables: tuple[Table, ...] = ()
    code: str = ""
    folded: bool = False
    """Long tables, of interest to few readers."""


@dataclass(frozen=True)
class Page:
    title: str
    made: str
    warning: str
    """Why the whole result is to be taken with care; empty if it need not be."""
    headlines: tuple[str, ...]
    sections: tuple[Section, ...]


@dataclass
class Gaps:
    """The reasons of one table's gaps, numbered as they come."""

    reasons: list[str] = field(default_factory=list)

    def because(self, reason: str) -> str:
        if reason not in self.reasons:
            self.reasons.append(reason)
        return f"{GAP} [{self.reasons.index(reason) + 1}]"

    def notes(self) -> tuple[str, ...]:
        return tuple(f"[{number}] {reason}" for number, reason in enumerate(self.reasons, 1))
