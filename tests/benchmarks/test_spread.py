"""Rounds are compared with the rounds they were measured beside, and summed up last."""

from __future__ import annotations

import pytest

from credits_fast.benchmarks.spread import Spread


def test_a_ratio_is_taken_within_a_round_before_the_median() -> None:
    ours, theirs = Spread((10.0, 40.0, 90.0)), Spread((10.0, 10.0, 10.0))

    assert (1.0, 4.0, 9.0) == ours.over(theirs).rounds
    assert 4.0 == ours.over(theirs).median


def test_the_median_of_ratios_is_not_the_ratio_of_medians() -> None:
    ours, theirs = Spread((1.0, 8.0, 9.0)), Spread((1.0, 2.0, 9.0))

    assert 1.0 == ours.over(theirs).median
    assert 4.0 == ours.median / theirs.median


def test_what_was_not_measured_together_has_no_ratio() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Spread((1.0, 2.0)).over(Spread((1.0,)))


def test_a_measurement_without_rounds_is_none() -> None:
    with pytest.raises(ValueError, match="at least one round"):
        Spread(())


def test_the_ends_and_the_best_are_of_the_rounds() -> None:
    spread = Spread((3.0, 1.0, 2.0))

    assert (2.0, 1.0, 3.0) == (spread.median, spread.minimum, spread.maximum)
    assert (3.0, 5.0, 2.0) == spread.best(Spread((0.0, 5.0, 1.0))).rounds
