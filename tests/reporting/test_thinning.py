"""Fewer points: ends and peaks stay."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from npgpt.reporting.thinning import smoothed, thinned


@given(st.lists(st.floats(-1e9, 1e9) | st.just(float("nan")), max_size=300), st.integers(4, 50))
def test_ends_and_extremes_stay_and_nothing_is_out_of_order(values, most):
    y = np.array(values, float)
    kept = thinned(y, most)
    known = np.flatnonzero(~np.isnan(y))
    assert len(kept) <= most
    assert not np.isnan(y[kept]).any()
    assert (np.diff(kept) > 0).all()
    if len(known):
        assert {known[0], known[-1]} <= set(kept.tolist())
        assert (y[kept].min(), y[kept].max()) == (np.nanmin(y), np.nanmax(y))


def test_few_points_all_stay():
    assert thinned(np.arange(10.0), 10).tolist() == list(range(10))


def test_every_short_peak_of_a_million_points_stays():
    y = np.zeros(1_000_000)
    peaks = np.arange(500, 1_000_000, 10_007)
    y[peaks] = np.where(peaks % 2, 1.0, -1.0)
    assert set(peaks.tolist()) <= set(thinned(y, 1200).tolist())


def test_smoothing_is_the_mean_around():
    y = np.random.default_rng(0).standard_normal(500)
    found = smoothed(y, 0.04)  # ten on each side
    assert found[100] == np.float64(found[100])
    np.testing.assert_allclose(found[100], y[90:111].mean())
    np.testing.assert_allclose(found[[0, -1]], [y[:11].mean(), y[-11:].mean()])
