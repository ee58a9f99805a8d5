"""Ratios between rounds, and how far they can be trusted.

The unit is a round, never a request: requests of one round share the machine's mood, so a million
of them say no more about the next round than one does.  Only numbers come in here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["lower", "higher", "equal", "unclear"]

RESAMPLES: Final = 10_000
SEED: Final = 2007
"""The same rounds give the same interval each time."""
EQUAL: Final = 0.03
"""An interval that holds 1 and stays within this of it is called equal."""
FEWEST: Final = 3
"""Rounds below which there is no interval: two say how far apart two are, and no more."""


@dataclass(frozen=True)
class Ratio:
    """A median with its bootstrap interval of 95 %; `low` and `high` are None if rounds are few.

    It holds somewhat less often than it says.  Of three to five rounds it is simply their range,
    which holds the true median with 1 - 2^(1-n): 75 % for three, 94 % for five.  From six on it
    holds in about 92 of 100 (simulated, 400 repeats each of 6 to 15 rounds).
    """

    value: float
    low: float | None
    high: float | None
    rounds: int

    @property
    def verdict(self) -> Verdict:
        if self.low is None or self.high is None:
            return "unclear"
        if self.high < 1:
            return "lower"
        if self.low > 1:
            return "higher"
        if self.low >= 1 - EQUAL and self.high <= 1 + EQUAL:
            return "equal"
        return "unclear"


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Ratio | None:
    """The median of ours / theirs over the rounds that both have; None if there are none.

    What slows the machine for the length of a round slows both, and falls out of the ratio.
    """
    rounds = [n for n in sorted(ours) if n in theirs and theirs[n] > 0]
    if not rounds:
        return None
    ratios = np.array([ours[n] / theirs[n] for n in rounds])
    return _ratio(median(ratios.tolist()), len(rounds), lambda: _medians(ratios, _generator()))


def independent(ours: Sequence[float], theirs: Sequence[float]) -> Ratio | None:
    """The ratio of the medians of two sets of rounds that have nothing to do with each other.

    Each side's rounds are resampled on their own.  None if either side has no rounds or theirs is
    nothing.  `Ratio.rounds` is the smaller number of rounds.
    """
    if not ours or not theirs or min(theirs) <= 0:
        return None

    def resampled() -> NDArray[np.float64]:
        generator = _generator()
        return _medians(np.array(ours), generator) / _medians(np.array(theirs), generator)

    return _ratio(median(ours) / median(theirs), min(len(ours), len(theirs)), resampled)


def _ratio(value: float, rounds: int, resampled: Callable[[], NDArray[np.float64]]) -> Ratio:
    if rounds < FEWEST:
        return Ratio(value, None, None, rounds)
    low, high = np.percentile(resampled(), [2.5, 97.5])
    return Ratio(value, float(low), float(high), rounds)


def _generator() -> np.random.Generator:
    return np.random.default_rng(SEED)


def _medians(values: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Of `RESAMPLES` draws, each of as many values as there are."""
    drawn = generator.choice(values, (RESAMPLES, len(values)))
    return np.asarray(np.median(drawn, axis=1))
