import numba
import numpy as np
import pytest
from helpers.arrays import arrays, dtypes, leading, sizes
from helpers.versions import Case
from hypothesis import given
from hypothesis import strategies as st

from npgpt.kernels import KERNELS
from npgpt.kernels.dropout import dropout_threshold, is_kept, keep_mask_numpy

VERSIONS = KERNELS["dropout"]
any_seed = st.integers(0, 2**64 - 1)


@st.composite
def arguments(draw):
    shape, p = (*draw(leading), draw(sizes)), draw(st.sampled_from([0.0, 0.1, 0.5, 0.99]))
    return draw(arrays(shape, draw(dtypes))), p, draw(any_seed)


def bounds(x, p, seed):
    return [(1, np.abs(VERSIONS["numpy"](x, p, seed)))]


def large(rng, dtype):
    return rng.standard_normal((5, 4096)).astype(dtype)[:, :-7], 0.0, 3


CASES = {"dropout": Case(arguments(), large, bounds)}


@pytest.mark.parametrize("dropout", VERSIONS.values(), ids=VERSIONS)
@given(p=st.sampled_from([0.0, 0.1, 0.5, 0.9]), seed=any_seed)
def test_kept_or_zero_as_the_mask_says(dropout, p, seed):
    """Forward and backward pass both rely on it; a version that keeps others would go unnoticed in training."""
    x = np.linspace(1, 2, 5000, dtype=np.float32).reshape(50, 100)
    keep = keep_mask_numpy(x.shape, p, seed)
    y = dropout(x, p, seed)
    np.testing.assert_array_equal(y, np.where(keep, x * np.float32(1 / (1 - p)), 0))


@numba.njit
def _is_kept(seed, i, threshold):
    return is_kept(seed, i, threshold)


def test_the_random_numbers_are_splitmix64():
    """Its first outputs for seeds 0 and 1234567, as they are published; the upper halves are what we use."""
    for seed, outputs in (
        (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]),
        (1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]),
    ):
        for i, output in enumerate(outputs):
            for threshold, kept in ((output >> 32, True), ((output >> 32) + 1, False)):
                assert keep_mask_numpy((len(outputs),), threshold / 2**32, seed)[i] == kept
                assert _is_kept(np.uint64(seed), np.uint64(i), np.uint64(threshold)) == kept


def test_threshold():
    assert [dropout_threshold(p) for p in (0.0, 0.5, 2**-32)] == [0, 2**31, 1]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_as_many_are_dropped_as_p_says_and_neighbours_have_nothing_in_common(p):
    n = 1 << 20
    masks = [keep_mask_numpy((n,), p, seed) for seed in (0, 1, 2**63)]
    # A share of n independent choices has deviation sqrt(p (1 - p) / n); five of them.
    five_deviations = 5 * (p * (1 - p) / n) ** 0.5
    for keep in masks:
        assert abs(keep.mean() - (1 - p)) < five_deviations
        for distance in (1, 2, 64, 4096):  # the next element, the next chunk
            both = (keep[distance:] & keep[:-distance]).mean()
            assert abs(both - (1 - p) ** 2) < five_deviations * 2
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs((masks[one] & masks[other]).mean() - (1 - p) ** 2) < five_deviations * 2
