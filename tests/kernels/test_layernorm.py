import numpy as np
import pytest
from helpers.arrays import arrays, dtypes, lay_out, rows, sizes
from helpers.tolerances import rounding
from helpers.versions import Case, versions_agree
from hypothesis import strategies as st

from npgpt.kernels import KERNELS

VERSIONS = KERNELS["layernorm_forward"]


@st.composite
def forward_arguments(draw):
    """Also numbers whose squares float32 can't hold."""
    dtype, shape = draw(dtypes), draw(rows(sizes))
    C = shape[-1]
    x = draw(arrays(shape, dtype, draw(st.sampled_from([1e4, 1e4, 1e30]))))
    weight = draw(arrays((C,), dtype, largest=10.0))
    bias = draw(st.none() | arrays((C,), dtype, largest=10.0))
    return x, weight, bias, draw(st.sampled_from([1e-5, 1e-3]))


@st.composite
def backward_arguments(draw):
    x, weight, bias, eps = draw(forward_arguments())
    _, mean, rstd = VERSIONS["numpy"](x, weight, bias, eps)
    return draw(arrays(x.shape, x.dtype)), x, weight, mean, rstd


def forward_bounds(x, weight, bias, eps):
    """The mean is off by u max|x|, so x - mean is, and so is the deviation (relatively by rstd times as much)."""
    C = x.shape[-1]
    _, mean, rstd = VERSIONS["numpy"](x, weight, bias, eps)
    largest = np.abs(x).max(axis=-1, initial=0)
    growth = 1 + rstd * largest
    xhat = (x - mean[..., None]) * rstd[..., None]
    shift = 0 if bias is None else np.abs(bias)
    return [(C, (1 + np.abs(xhat)) * growth[..., None] * np.abs(weight) + shift), (C, largest), (C, rstd * growth)]


def backward_bounds(dy, x, weight, mean, rstd):
    C = x.shape[-1]
    rows = mean.size
    xhat = np.abs(x - mean[..., None]) * rstd[..., None]
    g = np.abs(dy * weight)
    dx = rstd[..., None] * (
        g + (g.sum(axis=-1, keepdims=True) + xhat * (g * xhat).sum(axis=-1, keepdims=True)) / max(C, 1)
    )
    dweight, dbias = ((np.abs(dy) * z).reshape(rows, C).sum(axis=0) for z in (xhat, 1))
    return [(C, dx), (rows, dweight), (rows, dbias)]


def large_forward(rng, dtype):
    x, weight, bias = (rng.standard_normal(s).astype(dtype) for s in ((7, 19, 150), (150,), (150,)))
    return x, weight, bias, 1e-5


def large_backward(rng, dtype):
    arguments = large_forward(rng, dtype)
    _, mean, rstd = VERSIONS["numpy"](*arguments)
    return rng.standard_normal((7, 19, 150)).astype(dtype), *arguments[:2], mean, rstd


CASES = {
    "layernorm_forward": Case(forward_arguments(), large_forward, forward_bounds),
    "layernorm_backward": Case(backward_arguments(), large_backward, backward_bounds),
}


@pytest.mark.parametrize("layernorm", VERSIONS.values(), ids=VERSIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_have_mean_zero_and_variance_one(layernorm, dtype):
    x = (np.random.default_rng(1).standard_normal((5, 300)) * 3 + 2).astype(dtype)
    y, mean, rstd = layernorm(x, np.ones(300, dtype), None, 0.0)
    # sums of 300 numbers of order 1 to 10
    tolerance = 10 * rounding(dtype, 300)
    np.testing.assert_allclose(y.mean(axis=-1), 0, atol=tolerance)
    np.testing.assert_allclose(y.var(axis=-1), 1, atol=tolerance)
    np.testing.assert_allclose(mean, x.mean(axis=-1), atol=tolerance)
    np.testing.assert_allclose(1 / rstd, x.std(axis=-1), atol=tolerance)


@pytest.mark.parametrize("layernorm", VERSIONS.values(), ids=VERSIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_eps_is_added_to_the_variance_inside_the_root(layernorm, dtype):
    x = np.array([[-2, 2]], dtype)  # variance 4
    y, mean, rstd = layernorm(x, np.array([1, 3], dtype), np.array([0, 1], dtype), 5.0)
    np.testing.assert_allclose(y, [[-2 / 3, 3]], rtol=rounding(dtype, 2))
    np.testing.assert_allclose(rstd, [1 / 3], rtol=rounding(dtype, 2))
    np.testing.assert_array_equal(mean, [0])


@pytest.mark.parametrize("layernorm", VERSIONS.values(), ids=VERSIONS)
def test_a_constant_row_becomes_the_bias(layernorm):
    x = np.full((3, 8), 0.5, np.float32)  # whose mean has no rounding error
    y, _, rstd = layernorm(x, np.ones(8, np.float32), np.arange(8, dtype=np.float32), 1e-5)
    np.testing.assert_array_equal(y, np.broadcast_to(np.arange(8), (3, 8)))
    np.testing.assert_allclose(rstd, 1e-5**-0.5, rtol=rounding(np.float32))


def test_equal_numbers_add_up_without_drifting():
    """5,000 of them, one after the other in memory or not. What the mean is off by, y is off by 316 times as much."""
    rng = np.random.default_rng(0)
    weight = np.ones(5000, np.float32)
    for layout in ("contiguous", "transposed"):
        for number in rng.standard_normal(50):
            x = lay_out(np.full((2, 5000), number, np.float32), layout)
            versions_agree("layernorm_forward", CASES["layernorm_forward"], (x, weight, None, 1e-5))


@pytest.mark.parametrize("forward", KERNELS["layernorm_forward"].values(), ids=KERNELS["layernorm_forward"])
@pytest.mark.parametrize("constant", [0.1, 1000.1, 12345.678])
def test_rows_of_equal_elements_become_zero(forward, constant):
    """rstd multiplies an error of the mean by up to 1 / sqrt(eps)."""
    x = np.full((2, 768), constant, np.float32)
    y, mean, _ = forward(x, np.ones(768, np.float32), None, 1e-5)
    np.testing.assert_array_equal(y, np.zeros_like(x))
    np.testing.assert_array_equal(mean, x[:, 0])


@pytest.mark.parametrize("forward", KERNELS["layernorm_forward"].values(), ids=KERNELS["layernorm_forward"])
def test_a_sum_that_float32_can_not_hold(forward):
    x = np.full((1, 8), 2e38, np.float32)
    x[0, 0] = 1e38
    y, mean, _ = forward(x, np.ones(8, np.float32), None, 1e-5)
    np.testing.assert_allclose(mean, 1.875e38, rtol=1e-6)
    np.testing.assert_allclose(y[0, :2], [-(7**0.5), 7**-0.5], rtol=1e-5)
