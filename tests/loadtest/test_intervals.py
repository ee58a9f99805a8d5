"""What may be said of a few rounds, and what may not."""

from __future__ import annotations

import random

import pytest

from loadtest.experiment.intervals import Ratio, independent, paired


def rounds(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.5, 0.9, "lower"),
        (0.98, 0.999, "lower"),
        (1.001, 1.2, "higher"),
        (0.98, 1.02, "equal"),
        (0.97, 1.03, "equal"),
        (0.96, 1.02, "unclear"),
        (0.99, 1.3, "unclear"),
        (None, None, "unclear"),
    ],
)
def test_a_verdict_follows_from_where_the_interval_lies(
    low: float | None, high: float | None, verdict: str
) -> None:
    assert Ratio(1.0, low, high, 5).verdict == verdict


def test_a_machine_that_slows_down_for_a_round_falls_out_of_the_ratio() -> None:
    ratio = paired(rounds(300, 150, 301, 90, 299), rounds(100, 50, 100, 30, 100))
    assert ratio is not None
    assert ratio.value == pytest.approx(3.0)
    assert ratio.low is not None
    assert ratio.high is not None
    assert 2.98 < ratio.low <= 3.0 <= ratio.high < 3.02
    assert ratio.verdict == "higher"


def test_only_rounds_that_both_have_are_paired() -> None:
    ratio = paired({0: 2.0, 1: 9.0, 3: 2.0, 4: 2.0}, {0: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 7.0})
    assert ratio == Ratio(2.0, 2.0, 2.0, 3)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_rounds_have_a_value_and_no_interval(count: int) -> None:
    ratio = paired(rounds(*[2.0] * count), rounds(*[1.0] * count))
    assert ratio == Ratio(2.0, None, None, count)
    assert ratio.verdict == "unclear"


def test_nothing_in_common_has_no_ratio() -> None:
    assert paired({0: 1.0}, {1: 1.0}) is None
    assert paired({0: 1.0}, {0: 0.0}) is None
    assert independent([], [1.0]) is None
    assert independent([1.0], [0.0]) is None


def test_an_interval_over_independent_rounds_takes_both_sides_spread() -> None:
    quiet = independent([2.0, 2.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0])
    noisy = independent([2.0, 1.0, 3.0, 2.0], [1.0, 0.5, 1.5, 1.0])
    assert quiet == Ratio(2.0, 2.0, 2.0, 4)
    assert noisy is not None
    assert noisy.low is not None
    assert noisy.high is not None
    assert noisy.low < 1.5
    assert noisy.high > 2.5


def test_the_same_rounds_have_the_same_interval() -> None:
    values = rounds(1.2, 0.9, 1.1, 1.05, 1.3)
    ones = rounds(1, 1, 1, 1, 1)
    assert paired(values, ones) == paired(values, ones)


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says() -> None:
    source = random.Random(1)
    repeats, held = 100, 0
    for _ in range(repeats):
        ours = [source.lognormvariate(0, 0.1) * 2 for _ in range(8)]
        ratio = paired(rounds(*ours), rounds(*[1.0] * 8))
        assert ratio is not None
        assert ratio.low is not None
        assert ratio.high is not None
        held += ratio.low <= 2 <= ratio.high
    assert held >= 88
