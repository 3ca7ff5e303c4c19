"""Means and standard errors."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt.scoring.statistics import Estimate, mean

numbers = st.floats(-100, 100)


@given(st.lists(numbers, min_size=2, max_size=20))
def test_of_single_observations_it_is_the_textbook_error_of_a_mean(values):
    found = mean(values)
    assert found.value == pytest.approx(np.mean(values))
    assert found.error == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)), abs=1e-12)


def test_one_group_says_nothing_of_its_spread():
    assert mean([3.0], [2]) == Estimate(1.5, None)


@given(st.lists(numbers, min_size=2, max_size=10), st.integers(2, 5))
def test_repeated_observations_of_a_group_add_nothing(values, times):
    """Each value `times` over in its group: the mean and its error are those of the values once."""
    once, repeated = mean(values), mean(np.array(values) * times, times)
    assert repeated.value == pytest.approx(once.value)
    assert repeated.error == pytest.approx(once.error, abs=1e-9)


def test_the_error_is_how_far_means_of_samples_are_apart():
    """Groups of unequal size, whose observations share a part: a thousand samples, and their own errors."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(1000):
        counts = rng.integers(1, 9, size=50)
        found.append(mean(counts * rng.standard_normal(50) + np.sqrt(counts) * rng.standard_normal(50), counts))
    spread = np.std([estimate.value for estimate in found])
    assert np.mean([estimate.error for estimate in found]) == pytest.approx(spread, rel=0.1)


def test_other_units_and_exp():
    assert Estimate(2.0, 0.5).times(3) == Estimate(6.0, 1.5)
    assert Estimate(2.0, None).times(3) == Estimate(6.0, None)
    assert Estimate(0.0, 0.5).exp() == Estimate(1.0, 0.5)
    assert Estimate(math.log(8), 0.25).exp().error == pytest.approx(2.0)
    assert Estimate(1.0, None).exp().error is None
    assert Estimate(1e4, 1.0).exp().value == math.inf  # a loss that no float has an exponential of
