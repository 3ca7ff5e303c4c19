import numpy as np
import pytest
from helpers.arrays import arrays, dtypes, lay_out, layouts, rows, seeds, sizes, values
from helpers.tolerances import rounding
from helpers.versions import Case
from hypothesis import strategies as st

from npgpt.kernels import KERNELS

VERSIONS = KERNELS["softmax_forward"]


@st.composite
def masked_logits(draw):
    """Logits of up to 1e4 in size, or 1e30, of which a mask hides some, or all but one in each row."""
    dtype, shape = draw(dtypes), draw(rows(sizes))
    x = draw(values(shape, dtype, draw(st.sampled_from([1e4, 1e4, 1e30]))))
    rng = np.random.default_rng(draw(seeds))
    hidden = rng.random(shape) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    if shape[-1]:
        np.put_along_axis(hidden, rng.integers(shape[-1], size=(*shape[:-1], 1)), False, axis=-1)
    return (lay_out(np.where(hidden, dtype(-np.inf), x), draw(layouts)),)


@st.composite
def probabilities_and_gradient(draw):
    dtype, shape = draw(dtypes), draw(rows(sizes))
    y = VERSIONS["numpy"](draw(values(shape, np.float64, largest=30.0))).astype(dtype)
    return draw(arrays(shape, dtype)), lay_out(y, draw(layouts))


def forward_bounds(x):
    """exp(x - m) has x - m rounded, so its relative error grows with the distance from the largest."""
    distance = np.minimum(x.max(axis=-1, keepdims=True, initial=-np.inf) - x, 1e3)  # exp(-1000) is 0
    return [(x.shape[-1], VERSIONS["numpy"](x) * (2 + distance))]


def backward_bounds(dy, y):
    return [(y.shape[-1], y * (np.abs(dy) + (np.abs(dy) * y).sum(axis=-1, keepdims=True)))]


def large_rows(rng, dtype):
    return rng.standard_normal((37, 1001)).astype(dtype)


CASES = {
    "softmax_forward": Case(masked_logits(), lambda rng, dtype: (large_rows(rng, dtype),), forward_bounds),
    "softmax_backward": Case(
        probabilities_and_gradient(),
        lambda rng, dtype: (large_rows(rng, dtype), VERSIONS["numpy"](large_rows(rng, dtype))),
        backward_bounds,
    ),
}

each_version = pytest.mark.parametrize("softmax", VERSIONS.values(), ids=VERSIONS)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@each_version
@each_dtype
def test_by_hand(softmax, dtype):
    x = np.log(np.array([[1, 2, 5], [3, 3, 3]], dtype))
    # numbers of order 1, of which a row adds up three
    np.testing.assert_allclose(softmax(x), [[1 / 8, 2 / 8, 5 / 8], [1 / 3] * 3], rtol=rounding(dtype, 3))


@each_version
@each_dtype
def test_logits_too_large_for_exp(softmax, dtype):
    y = softmax(np.array([[1e4, 1e4 - 1e3, -1e4], [-1e4, -1e4, -1e4]], dtype))
    np.testing.assert_allclose(y, [[1, 0, 0], [1 / 3] * 3], rtol=rounding(dtype, 3))


@each_version
@each_dtype
def test_minus_infinity_hides_and_a_row_without_anything_is_not_a_number(softmax, dtype):
    x = np.array([[-np.inf, 7, -np.inf], [-np.inf, -np.inf, -np.inf], [0, 0, -np.inf]], dtype)
    with np.errstate(invalid="ignore"):
        y = softmax(x)
    np.testing.assert_array_equal(y, [[0, 1, 0], [np.nan] * 3, [0.5, 0.5, 0]])
