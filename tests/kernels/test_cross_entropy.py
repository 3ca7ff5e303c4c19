import numpy as np
import pytest
from helpers.arrays import arrays, dtypes, lay_out, layouts, seeds, sizes, values
from helpers.tolerances import rounding
from helpers.versions import Case
from hypothesis import strategies as st

from npgpt.kernels import KERNELS

FORWARD, BACKWARD = KERNELS["cross_entropy_forward"], KERNELS["cross_entropy_backward"]


@st.composite
def forward_arguments(draw):
    """Logits of up to 1e4 in size, or 1e30, some rows partly hidden by -inf; none, some or all targets ignored.

    Also no rows, and no vocabulary, in which nothing can be a target.
    """
    dtype, largest = draw(dtypes), draw(st.sampled_from([1e4, 1e4, 1e30]))
    N, V = (draw(st.integers(1, 3)), 5000) if draw(st.integers(0, 15)) == 15 else (draw(sizes), draw(sizes))
    rng = np.random.default_rng(draw(seeds))
    ignore_index = draw(st.sampled_from([-100, -1, 0]))
    targets = rng.integers(max(V, 1), size=N)
    targets[rng.random(N) < (draw(st.sampled_from([0.0, 0.5, 1.0])) if V else 1)] = ignore_index
    logits = draw(values((N, V), dtype, largest))
    hidden = rng.random((N, V)) < draw(st.sampled_from([0.0, 0.3]))
    hidden[:, :1] = False
    return lay_out(np.where(hidden, dtype(-np.inf), logits), draw(layouts)), targets, ignore_index


@st.composite
def backward_arguments(draw):
    logits, targets, ignore_index = draw(forward_arguments())
    _, *statistics = FORWARD["numpy"](logits, targets, ignore_index)
    return draw(arrays(targets.shape, logits.dtype, largest=10.0)), logits, targets, *statistics, ignore_index


def forward_bounds(logits, targets, ignore_index):
    """exp(x - m) has x - m rounded, so its relative error grows with the distance. A loss is a distance plus log z."""
    losses, m, z = FORWARD["numpy"](logits, targets, ignore_index)
    V, losses = logits.shape[1], np.where(np.isfinite(losses), losses, 0)
    distance = np.minimum(m[:, None] - logits, 1e3)  # exp(-1000) is 0
    dz = (np.exp(logits - m[:, None]) * (2 + distance)).sum(axis=-1)
    return [(V, losses + dz / np.maximum(z, 1)), (V, np.zeros_like(m)), (V, dz)]  # z >= 1 unless V = 0


def backward_bounds(dlosses, logits, targets, row_max, row_sum, ignore_index):
    m, z = row_max[:, None], row_sum[:, None]
    distance = np.minimum(m - logits, 1e3)
    onehot = targets[:, None] == np.arange(logits.shape[1])
    return [(1, np.abs(dlosses)[:, None] * (np.exp(logits - m) / z * (2 + distance) + onehot))]


def large_forward(rng, dtype):
    targets = rng.integers(1001, size=37)
    targets[1::5] = -100
    return rng.standard_normal((37, 1001)).astype(dtype), targets, -100


def large_backward(rng, dtype):
    logits, targets, ignore_index = large_forward(rng, dtype)
    _, *statistics = FORWARD["numpy"](logits, targets, ignore_index)
    return rng.standard_normal(37).astype(dtype), logits, targets, *statistics, ignore_index


CASES = {
    "cross_entropy_forward": Case(forward_arguments(), large_forward, forward_bounds, nan_somewhere=(1,)),
    "cross_entropy_backward": Case(backward_arguments(), large_backward, backward_bounds),
}

# nan_somewhere: m of a row with NaN in it may be NaN or the largest of the others, since z is NaN in any case.

each_version = pytest.mark.parametrize("version", ["numpy", "numba"])
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@each_version
@each_dtype
def test_by_hand(version, dtype):
    logits = np.log(np.array([[1, 2, 5], [3, 3, 3], [1, 1, 1]], dtype))
    targets = np.array([1, 0, -100])
    losses, *statistics = FORWARD[version](logits, targets, -100)
    np.testing.assert_allclose(losses, [np.log(4), np.log(3), 0], rtol=rounding(dtype, 3))
    np.testing.assert_allclose(statistics, [np.log([5, 3, 1]), [8 / 5, 3, 3]], rtol=rounding(dtype, 3))
    dlogits = BACKWARD[version](np.array([1, 2, 4], dtype), logits, targets, *statistics, -100)
    right = [[1 / 8, 2 / 8 - 1, 5 / 8], [2 / 3 - 2, 2 / 3, 2 / 3], [0, 0, 0]]
    np.testing.assert_allclose(dlogits, right, rtol=rounding(dtype, 3))


@each_version
@each_dtype
def test_logits_too_large_for_exp(version, dtype):
    """The right class is certain, or has no chance at all: then the loss is the distance."""
    logits = np.array([[1e4, -1e4], [1e4, -1e4], [0, -np.inf], [0, -np.inf]], dtype)
    targets = np.array([0, 1, 0, 1])
    losses, *statistics = FORWARD[version](logits, targets, -100)
    np.testing.assert_array_equal(losses, [0, 2e4, 0, np.inf])
    dlogits = BACKWARD[version](np.ones(4, dtype), logits, targets, *statistics, -100)
    np.testing.assert_array_equal(dlogits, [[0, 0], [1, -1], [0, 0], [1, -1]])


@each_version
@each_dtype
def test_adding_to_all_logits_changes_nothing(version, dtype):
    """Not even a rounding error, which m + log z instead of m and z would bring in."""
    logits = np.random.default_rng(0).integers(-9, 9, (5, 20)).astype(dtype)
    targets = np.arange(5)
    results = []
    for shift in (0, 2**17):
        losses, *statistics = FORWARD[version](logits + dtype(shift), targets, -100)
        results.append(
            (losses, BACKWARD[version](np.ones(5, dtype), logits + dtype(shift), targets, *statistics, -100))
        )
    for before, after in zip(*results, strict=True):
        np.testing.assert_array_equal(after, before)


@each_version
@each_dtype
def test_the_gradient_may_be_written_over_the_logits(version, dtype):
    arguments = large_backward(np.random.default_rng(0), dtype)
    logits = arguments[1]
    apart = BACKWARD[version](*arguments)
    assert not np.shares_memory(apart, logits)
    assert BACKWARD[version](*arguments, out=logits) is logits
    np.testing.assert_array_equal(logits, apart)


@each_version
@each_dtype
@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_not_a_number_comes_out(version, dtype, special):
    logits = np.zeros((3, 5), dtype)
    targets = np.array([1, 2, 3])
    for place in (2, 4):
        logits[1, place] = special
        with np.errstate(invalid="ignore"):
            losses, *statistics = FORWARD[version](logits, targets, -100)
            dlogits = BACKWARD[version](np.ones(3, dtype), logits, targets, *statistics, -100)
        np.testing.assert_array_equal(np.isnan(losses), [False, True, False])
        np.testing.assert_array_equal(np.isnan(dlogits).any(axis=-1), [False, True, False])


@each_version
def test_what_is_ignored_may_be_anything(version):
    logits = np.full((3, 5), np.nan)
    targets = np.full(3, -100)
    losses, *statistics = FORWARD[version](logits, targets, -100)
    np.testing.assert_array_equal(losses, 0)
    np.testing.assert_array_equal(BACKWARD[version](np.ones(3), logits, targets, *statistics, -100), 0)
