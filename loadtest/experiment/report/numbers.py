"""Numbers as people read them.  Units stand in the head of a column or the name of a row."""

from __future__ import annotations

from collections.abc import Mapping

from loadtest.experiment.intervals import Ratio


def whole_number(value: float) -> str:
    return f"{value:,.0f}"


def short(value: float) -> str:
    """Three figures: 0.0120, 1.23, 12.3, 123, 1,230."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    if abs(value) >= 1:
        return f"{value:.2f}"
    return f"{value:#.3g}" if abs(value) >= 0.0001 else f"{value:.1e}"


def kilobytes(size: float) -> str:
    """Of 1,000 bytes, as the paper's column is taken."""
    return whole_number(size / 1000) if abs(size) >= 10_000 else short(size / 1000)


def kilobytes_each(size: float) -> str:
    """Of one connection, where a tenth of a kB counts."""
    return short(size / 1000)


def microseconds(seconds: float) -> str:
    return short(seconds * 1e6)


def percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def interval(ratio: Ratio) -> str:
    if ratio.low is None or ratio.high is None:
        return "no interval from so few rounds"
    return f"{short(ratio.low)} to {short(ratio.high)}"


def spread(ratio: Ratio) -> str:
    """A ratio in a cell."""
    return f"{short(ratio.value)} ({interval(ratio)})"


def counted(counts: Mapping[str, int], runs: int) -> str:
    """Marks, with how many of the runs have them unless all do."""
    return ", ".join(
        what if count == runs else f"{what} ({count} of {runs})" for what, count in counts.items()
    )
